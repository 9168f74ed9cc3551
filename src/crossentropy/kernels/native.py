"""The primitives in C++ (``native/``) for NumPy arrays: the statistics, losses and gradient of ``row_loss`` in one read.

Same inputs and results as ``generic``, which serves whatever this module cannot take (``takes``). The environment variable
``CROSSENTROPY_KERNEL`` forces ``generic``, or one instruction set of the core (``instruction_sets()`` lists those here).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from crossentropy.arrays import Layout, dtype_name
from crossentropy.row_loss import RowCoefficients, RowStatistics

try:
    from crossentropy.kernels import _native
except ImportError:  # a build without the core
    _native = None

BFLOAT16 = "bfloat16"
TARGET_KINDS = "fiub"


def instruction_sets() -> list[str]:
    """What the core can compute with here, best first; empty without the core."""
    return [] if _native is None else _native.instruction_sets()


def forced() -> str:
    """The instruction set (or "generic") that the environment asks for, "" for none."""
    name = os.environ.get("CROSSENTROPY_KERNEL", "")
    if name and name != "generic" and name not in instruction_sets():
        raise ValueError(f"CROSSENTROPY_KERNEL={name!r}: expected one of {', '.join(['generic', *instruction_sets()])}")
    return name


def kernel_name() -> str:
    """Who computes NumPy arrays in this process: "generic", or the instruction set of the native core."""
    name = forced()
    return name or next(iter(instruction_sets()), "generic")


def cube(array: np.ndarray, layout: Layout) -> np.ndarray | None:
    """A view (outer, classes, inner) of an array of the logits' shape, or None where the strides allow none."""
    outer = int(np.prod(layout.shape[: layout.axis], dtype=np.int64))
    inner = int(np.prod(layout.shape[layout.axis + 1 :], dtype=np.int64))
    if array.ndim == 3 and layout.axis == 1:
        return array
    if array.ndim == 2:
        return array[:, :, None] if layout.axis == 1 else array[None]
    view = array.reshape(outer, layout.classes, inner)
    return view if array.size == 0 or np.may_share_memory(view, array) else None


def bits(array: np.ndarray) -> np.ndarray:
    """bfloat16 as the uint16 that holds it: it has no place in NumPy's buffers."""
    return array.view(np.uint16) if dtype_name(array) == BFLOAT16 else array


def takes(logits: np.ndarray, layout: Layout, c: RowCoefficients) -> bool:
    """Can the core compute this? It is here, not switched off, and can read the arrays where they stand."""
    if kernel_name() == "generic" or layout.count == 0:
        return False
    arrays = (logits, c.dense, c.class_mask, c.indices)
    return all(a is None or a.flags.aligned for a in arrays) and writes(logits, layout)


def writes(gradient: np.ndarray, layout: Layout) -> bool:
    """Do the strides allow a view of (outer, classes, inner)?"""
    return gradient.flags.aligned and cube(gradient, layout) is not None


def rows_cube(rows: np.ndarray | None, layout: Layout) -> np.ndarray | None:
    """(rows, classes) or (classes,) as (outer, classes, inner)."""
    if rows is None:
        return None
    if rows.ndim == 1:
        return rows[None, :, None]
    outer = int(np.prod(layout.shape[: layout.axis], dtype=np.int64))
    return rows.reshape(outer, -1, layout.classes).transpose(0, 2, 1)


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def float64(array: Any) -> np.ndarray | None:
    return None if array is None else np.ascontiguousarray(array, dtype=np.float64)


def compute(
    logits: np.ndarray,
    layout: Layout,
    c: RowCoefficients,
    results: dict[str, np.ndarray],
    *,
    upstream: Any = None,
    gradient: np.ndarray | None = None,
    given: bool = False,
    num_threads: int | None = None,
) -> None:
    """Fill ``results`` (float64 arrays by their name in ``RowStatistics``, and "loss") and ``gradient`` (like logits)."""
    sparse = c.indices is not None
    target_sum = c.target_sum if sparse and c.label_smoothing and np.ndim(c.target_sum) else None
    factor = None if upstream is None else np.atleast_1d(float64(upstream))
    _native.rows(
        bits(cube(logits, layout)),
        dtype_name(logits) == BFLOAT16,
        c.inputs == "logits",
        c.inputs == "probs",
        c.temperature,
        c.softcap or 0.0,
        float64(c.class_bias),
        rows_cube(c.class_mask, layout),
        c.indices,
        None,
        None if c.index_weight is None else float64(np.atleast_2d(c.index_weight)),
        False,
        None if c.dense is None else bits(rows_cube(c.dense, layout)),
        c.dense is not None and dtype_name(c.dense) == BFLOAT16,
        c.dense_scale,
        float64(c.class_weight),
        c.label_smoothing,
        float64(target_sum),
        c.z_loss,
        c.focal_gamma,
        c.valid,
        factor,
        given,
        results,
        None if gradient is None else bits(cube(gradient, layout)),
        num_threads or cores(),
        forced(),
    )


def losses(
    logits: np.ndarray,
    layout: Layout,
    c: RowCoefficients,
    losses: np.ndarray,
    *,
    upstream: Any = None,
    gradient: np.ndarray | None = None,
    num_threads: int | None = None,
) -> None:
    """Fill ``losses`` (rows,) and, where one is given, ``gradient`` = upstream x derivative."""
    compute(logits, layout, c, {"loss": losses}, upstream=upstream, gradient=gradient, num_threads=num_threads)


def row_statistics(
    logits: np.ndarray, layout: Layout, c: RowCoefficients, *, summary: bool = False, num_threads: int | None = None
) -> RowStatistics:
    """One read of the logits -> ``RowStatistics``; ``summary`` adds what entropy and prediction need."""
    names = ["maximum", "ties", "others"]
    if c.label_smoothing:
        names += ["profile", "profile_mass", "allowed"]
    if c.dense is not None:
        names += ["dense", "dense_mass", "target_sum"]
    results = {name: np.empty(layout.count) for name in names}
    if c.indices is not None:
        results["target_logit"] = np.empty(c.indices.shape)
    if summary:
        results |= {"entropy_sum": np.empty(layout.count), "prediction": np.empty(layout.count, np.int64)}
    compute(logits, layout, c, results, num_threads=num_threads)
    found = None if c.indices is None else (c.indices >= 0) & (c.indices < layout.classes)
    return RowStatistics(**results, found=found)
