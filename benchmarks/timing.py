"""Interleaved medians, and what the machine's memory can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

Call = Callable[[], object]


# Seconds that a turn lasts at least: a loop that trains finds its code in the caches.
TURN = 2e-1
# Of calls in one turn, each of which is timed: a loop finds the memory that it freed a moment ago. After two seconds a
# virtual machine has given it back to its host: to get NumPy's huge pages again cost 2.1 s, and 0.06 s at once (525 MB;
# PyTorch's small pages 0.3 s both times).
RUNS = 3


def timed(call: Call, repeats: int = 1) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleaved(calls: dict[str, Call], seconds: float, runs: int = RUNS) -> dict[str, float]:
    """Median seconds per call of each, in turns: a busy minute of the machine falls on all of them alike."""
    repeats = {}
    for name, call in calls.items():
        repeats[name] = 1
        if timed(call) < 0.1:  # first use: compile, load, touch memory
            repeats[name] = max(1, int(TURN / runs / max(timed(call), 1e-7)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, taken.values())) < max(3, 2 * runs):
        for name, call in calls.items():
            taken[name].extend(timed(call, repeats[name]) for _ in range(runs))
    return {name: statistics.median(values) for name, values in taken.items()}


def bandwidth_calls(size: int) -> dict[str, Call]:
    """One read of ``size`` bytes (a maximum, with NumPy's vector loop), and one copy of them between warm arrays."""
    source = np.ones(size // 4, np.float32)
    target = np.empty_like(source)
    return {"read": lambda: source.max(), "copy": lambda: np.copyto(target, source)}
