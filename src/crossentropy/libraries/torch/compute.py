"""Losses, gradients and Hessian-vector products of tensors with values: by kernels, or by plain tensor code.

The C++ core takes tensors of the CPU, the Triton kernels rows on a CUDA device. The plain code works in blocks of rows,
and serves other devices, whatever the kernels leave to it, and installations without them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from crossentropy.kernels import generic, native
from crossentropy.libraries.torch import core
from crossentropy.libraries.torch.conversion import WORK, result_dtype
from crossentropy.libraries.torch.forms import ROWS, Form, view
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.libraries.torch.tensors import IS_DEVICE_EMULATED, on_host
from crossentropy.reduction import value_of
from crossentropy.row_loss import row_loss

# Elements per block on the CPU: the float64 temporaries of one block (256 kB each) stay in a core's cache.
BLOCK = 1 << 15


def loss(form: Form, x: Any, upstream: Any, rest: Any, gradient: Any = None) -> Any:
    """upstream_i loss_i, or their sum, in the result's dtype; the gradient is written where one is given."""
    *flat, axis, num_threads, total = rest
    dtype = result_dtype(x)
    if on_host(x):
        found = core.value(form, x, axis, form.as_arrays(flat), view(upstream), gradient, num_threads, total)
        if found is not None:
            return core.as_result(found, dtype)
    c, upstream = form.as_tensors(flat), Namespace(x.device).asarray(upstream, dtype=WORK)
    kernels = device_kernels(form, x, axis, c)
    if kernels is None:
        losses = blockwise(form, x, axis, c, upstream, gradient)
    else:
        losses = kernels.Rows(x, axis, c).losses(upstream, gradient)
    return value_of(Namespace(x.device), losses, c.valid, upstream, total).to(dtype)


def device_kernels(form: Form, x: Any, axis: int | None, c: Any) -> Any:
    """The Triton kernels, where they compute this; None where plain tensor code does."""
    kernels = kernels_for(x) if form is ROWS else None
    return None if kernels is None or kernels.refusal(x, axis, c) else kernels


def kernels_for(x: Any) -> Any:
    """The Triton kernels, where they may compute with this tensor."""
    is_device = (x.is_cuda and torch.version.hip is None) or IS_DEVICE_EMULATED  # AMD's devices are called cuda too
    return triton_kernels() if is_device and native.forced() != "generic" else None


def scaled_in_place(x: Any, factor: Any) -> bool:
    """x *= factor, a tensor of no dimensions on a device; False, with nothing done, where the kernels do not take it.

    Whether the factor is 1, as it mostly is, the device reads, and then x is not touched: an ordinary product would
    read and write once more what has just been written.
    """
    kernels = kernels_for(x)
    if kernels is None or factor.ndim or not x.numel() or not x.is_contiguous():
        return False
    kernels.scale(x, factor)
    return True


@functools.cache
def triton_kernels() -> Any:
    """Loaded by the first tensor on a device; None in an installation without Triton."""
    try:
        from crossentropy.kernels import triton
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return None
    return triton


def hessian_vector(form: Form, x: Any, upstream: Any, vector: Any, rest: Any) -> Any:
    """upstream_i H_i v_i, of the shape of x."""
    *flat, axis, _, _ = rest
    c, upstream = form.as_tensors(flat), Namespace(x.device).asarray(upstream, dtype=WORK)
    xp, rows, vector_rows = Namespace(x.device), form.as_rows(x, axis), form.as_rows(vector, axis)
    result = torch.empty_like(x)
    product = writable_rows(form, result, axis)
    for block in blocks(rows):
        share = upstream[block] if upstream.ndim else upstream
        part, piece, v = rows[block], form.cut(c, block), vector_rows[block]
        if form is ROWS:
            statistics = generic.row_statistics(xp, part, piece, WORK)
            product[block] = generic.row_hessian_vector(xp, part, piece, statistics, v, share, WORK)
        else:
            product[block] = generic.binary_hessian_vector(xp, part, piece, v, share, WORK)
    return delivered(form, product, result, axis)


def blockwise(form: Form, x: Any, axis: int | None, c: Any, upstream: Any, gradient: Any) -> Any:
    """(rows,) losses in the working precision."""
    xp, rows = Namespace(x.device), form.as_rows(x, axis)
    losses = torch.empty(rows.shape[0], dtype=WORK, device=x.device)
    slopes = None if gradient is None else writable_rows(form, gradient, axis)
    for block in blocks(rows):
        part, piece = rows[block], form.cut(c, block)
        share = upstream[block] if upstream.ndim else upstream
        if form is ROWS:
            statistics = generic.row_statistics(xp, part, piece, WORK)
            losses[block] = row_loss(xp, statistics, piece)
            if slopes is not None:
                slopes[block] = generic.row_gradient(xp, part, piece, statistics, share, WORK)
        else:
            losses[block] = generic.binary_loss(xp, part, piece, WORK)
            if slopes is not None:
                slopes[block] = generic.binary_gradient(xp, part, piece, share, WORK)
    if slopes is not None:
        delivered(form, slopes, gradient, axis)
    return losses


def blocks(rows: Any) -> Iterator[slice]:
    """Blocks of rows that fit a core's cache; one block on a device, where a launch costs more than memory."""
    count, width = rows.shape[0], rows[:1].numel()
    step = max(1, BLOCK // max(1, width)) if rows.is_cpu else max(1, count)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def writable_rows(form: Form, array: Any, axis: int | None) -> Any:
    """The array's rows, or a buffer for them where they are no view of it."""
    rows = form.as_rows(array, axis)
    return rows if shares_memory(rows, array) else torch.empty_like(rows)


def delivered(form: Form, rows: Any, array: Any, axis: int | None) -> Any:
    return array if shares_memory(rows, array) else array.copy_(form.from_rows(rows, array, axis))


def shares_memory(a: Any, b: Any) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
