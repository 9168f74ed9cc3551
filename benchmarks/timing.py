"""Interleaved medians, and what the machine's memory can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

Call = Callable[[], object]


def timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Median seconds per call of each, taken in turns, so that a busy minute of the machine falls on all of them alike.

    Calls faster than the clock's noise are repeated within one turn.
    """
    repeats = {}
    for name, call in calls.items():
        repeats[name] = 1
        if timed(call) < 0.1:  # first use: compile, load, touch memory
            repeats[name] = max(1, int(2e-4 / max(timed(call), 1e-7)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, taken.values())) < 3:
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            taken[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in taken.items()}


def bandwidth_calls(size: int) -> dict[str, Call]:
    """One read of ``size`` bytes (a maximum, with NumPy's vector loop), and one copy of them between warm arrays."""
    source = np.ones(size // 4, np.float32)
    target = np.empty_like(source)
    return {"read": lambda: source.max(), "copy": lambda: np.copyto(target, source)}
