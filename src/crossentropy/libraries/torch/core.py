"""Tensors in the CPU's memory through the C++ core, which reads and writes them where they are: no copy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from crossentropy.arrays import layout_of
from crossentropy.kernels import native
from crossentropy.libraries.torch.forms import Form, view
from crossentropy.libraries.torch.tensors import is_plain, is_traced, on_host
from crossentropy.reduction import near_one, value_of
from crossentropy.row_coefficients import explicit
from crossentropy.row_loss import RowStatistics

NUMPY_DTYPES = {torch.float64: np.float64, torch.float32: np.float32}


def values(tensor: Any) -> Any:
    """The tensor's numbers as a NumPy array; bfloat16, for which NumPy has no dtype, as float32."""
    return view(tensor.float() if tensor.dtype is torch.bfloat16 else tensor)


def within(tensor: Any, low: float, high: float, ignored: Any = None, **how: bool) -> int | None:
    """The core's one look at the numbers of a plain tensor: ``native.within``."""
    return native.within(view(tensor), low, high, ignored, **how)


def dense_mass(logits: Any, axis: int, c: Any) -> Any:
    """m_i of a dense target, which is NaN where an entry is negative or NaN; None where the core cannot read it."""
    parts = {name: getattr(c, name) for name in ("dense", "class_weight", "valid")}
    # Of the logits shape and dtype alone are asked: whether they want a gradient does not matter.
    is_here = on_host(logits) and not is_traced(logits) and torch.autograd.forward_ad._current_level < 0
    if not is_here or not all(part is None or is_plain(part) for part in parts.values()):
        return None
    target = dataclasses.replace(c, class_bias=None, class_mask=None, **{k: view(part) for k, part in parts.items()})
    core = native.core(view(logits), layout_of(logits.shape, axis), target, torch.get_num_threads())
    if core is None:
        return None
    core.dense_mass(mass := np.empty(core.layout.count))
    return torch.from_numpy(mass)


def value(
    form: Form, x: Any, axis: int | None, c: Any, upstream: Any, gradient: Any, num_threads: int | None, total: bool
) -> Any:
    """upstream_i loss_i, or their sum; NumPy's array or a number.

    ``c`` and ``upstream`` hold NumPy arrays. The gradient is written where one is given. None, with nothing written,
    where the core cannot take it.
    """
    slope = None if gradient is None else view(gradient)
    threads = num_threads or torch.get_num_threads()
    if axis is None:
        return element_value(view(x), c, upstream, slope, threads, total)
    core = native.core(view(x), layout_of(x.shape, axis), c, threads)
    if core is None:
        return None
    if total and isinstance(upstream, float):
        return of_total(core.total(None, upstream, slope), upstream)
    result = np.empty(core.layout.count)
    core.losses(result, upstream, slope)
    with np.errstate(all="ignore"):  # infinities
        return value_of(np, result, explicit_arrays(c).valid, np.asarray(upstream), total)


def element_value(x: Any, c: Any, upstream: Any, gradient: Any, num_threads: int, total: bool) -> Any:
    """``value`` of the sigmoid loss."""
    factor, scale = upstream, 1.0
    if np.ndim(upstream):
        own, factor = np.reshape(upstream, np.shape(c.target)), 1.0
        with np.errstate(all="ignore"):
            weight = own if c.weight is None else np.asarray(own, np.float64) * c.weight
        c = dataclasses.replace(c, weight=weight)
    elif c.weight is not None:
        scale = 1.0 / near_one(abs(float(upstream)))
        factor = float(upstream) / scale
    losses = None if total else np.empty(x.size, np.float64 if x.dtype == np.float64 else np.float32)
    found = native.binary_losses(
        x, c, float(factor), scale=scale, losses=losses, gradient=gradient, num_threads=num_threads
    )
    if found is None:
        return None
    return of_total(found, factor) if total else losses


def of_total(losses: float, factor: float) -> float:
    return factor * losses if factor else 0.0


def row_statistics(x: Any, c: Any, num_threads: int | None) -> RowStatistics | None:
    """Tensors of the statistics of logits (rows, classes), of every row, with what entropy and prediction need.

    ``c`` holds NumPy arrays. None where the core cannot take it.
    """
    found = native.core(view(x), layout_of(x.shape, 1), c, num_threads or torch.get_num_threads())
    statistics = None if found is None else found.row_statistics()
    if statistics is None:
        return None
    arrays = vars(statistics)
    return RowStatistics(**{name: None if a is None else torch.from_numpy(a) for name, a in arrays.items()})


def explicit_arrays(c: Any) -> Any:
    """The coefficients of labels as given, of NumPy arrays, as those of any other target."""
    if getattr(c, "totals", None) is None:
        return c
    return explicit(np, c, np.float64)


def as_result(value: Any, dtype: torch.dtype) -> Any:
    """A tensor of the dtype, of a NumPy array or number."""
    return torch.from_numpy(np.asarray(value, NUMPY_DTYPES[dtype]))
