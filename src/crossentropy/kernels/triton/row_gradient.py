"""The gradient of rows from their statistics, step by step over their classes."""

import triton
import triton.language as tl

from crossentropy.kernels.triton.logits import read, read_dense, read_entry
from crossentropy.kernels.triton.row_terms import gradient_terms
from crossentropy.kernels.triton.vector_math import INFINITY, drift, in_units, unit, unit_over_top


@triton.jit
def write_gradient(
    state,
    logits,
    dense_target,
    sparse_target,
    options,
    gradient,
    gradient_class_stride,
    factor,
    spread,
    row,
    inside_rows,
    start_of_row,
    start_of_gradient,
    live,
    first,
    last,
    WORK: tl.constexpr,
    SHORT: tl.constexpr,
    TRANSFORM: tl.constexpr,
    PROFILE: tl.constexpr,
    DENSE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """upstream T' (a p - q) of the classes from ``first`` to ``last``; ignored rows are 0 and undefined ones NaN."""
    entries = sparse_target[2]
    s, g, slope_of_focal, pull, is_defined = gradient_terms(state, spread, options, entries, PROFILE, DENSE)
    dense_scale = options[3]
    # An ignored row, of which nothing was read, is 0 times numbers.
    usable = live & is_defined
    s, g, pull = tl.where(usable, s, 0.0), tl.where(usable, g, 0.0), tl.where(usable, pull, 0.0)
    inverse = 1.0 / tl.where(usable, state[1] + state[2], 1.0)
    factor = tl.where(live & ~is_defined, float("nan"), factor)
    rest = tl.where(usable, s * (state[2] * inverse), 0.0).to(WORK)[:, None]
    is_certain = ((state[1] == 1.0) & (state[2] < 1.0))[:, None]
    m = state[0].to(WORK)
    base = tl.where(tl.abs(m) < INFINITY, m, 0.0)[:, None]
    # Where nothing is taken from a p, a row is one product.
    plain = factor * (s + pull) * inverse
    rate, origin = unit(m)
    over_top = unit_over_top(m, rate, origin).to(tl.float64)
    if SHORT:
        # 2^x of the device is 0 below 2^-126, where bfloat16 still has numbers: p in smaller units, whose exponent is
        # rounded sooner, which 16 bits do not show.
        is_exact = tl.abs(origin) < 1048576.0
        scale = tl.where((tl.abs(plain) > 8.6736174e-19) & is_exact, 24.0, 0.0)
        origin = origin - scale.to(tl.float32)
        over_top = over_top * tl.where(scale > 0.0, 5.9604644775390625e-8, 1.0)
    plain = (plain * over_top).to(WORK)[:, None]
    inverse = (inverse * over_top).to(WORK)[:, None]
    rate, origin = rate[:, None], origin[:, None]
    m = m[:, None]
    factor, s, g, pull = factor.to(WORK)[:, None], s.to(WORK)[:, None], g.to(WORK)[:, None], pull.to(WORK)[:, None]
    steps = tl.cdiv(last - first, COLUMNS)
    for step in range(steps):
        # The last step first: it was read last, and is the surest to be in the cache.
        start = first + (steps - 1 - step) * COLUMNS
        columns = (start + tl.arange(0, COLUMNS))[None, :]
        within = inside_rows[:, None] & (columns < last)
        inside = live[:, None] & within
        z, slope, allowed = read(
            logits, row[:, None], start_of_row[:, None], columns, inside, WORK, TRANSFORM, "evict_first"
        )
        p = in_units(z, rate, origin)
        if not SHORT:  # whose 16 bits do not show it
            p = p * drift(z - base)
        result = p * plain
        count = 0
        if PROFILE or DENSE:
            count = 1
        if sparse_target[0] is not None:
            for k in range(entries):
                index, _ = read_entry(sparse_target, row, k, live)
                count += tl.sum(((index >= start) & (index < start + COLUMNS)).to(tl.int32), axis=0)
        if count > 0:
            q = tl.where(inside, 0.0, 0.0).to(WORK)
            if sparse_target[0] is not None:
                for k in range(entries):
                    index, b = read_entry(sparse_target, row, k, live)
                    q += tl.where(columns == index[:, None], (b * slope_of_focal).to(WORK)[:, None], 0.0)
            if PROFILE or DENSE:
                weight, t = read_dense(dense_target, row[:, None], columns, inside, WORK, DENSE)
                if PROFILE:
                    q += tl.where(allowed, g * weight, 0.0)
                if DENSE:
                    q += dense_scale.to(WORK) * (weight * t)
            p = p * inverse
            # Where p > 1/2, p - 1 = -S / (n + S) does not cancel; elsewhere that form would.
            result = tl.where((z == m) & is_certain, (s - q) - rest, s * p - q)
            result = factor * (result + pull * p)
        if TRANSFORM:
            result = result * slope
        place = start_of_gradient[:, None] + columns.to(tl.int64) * gradient_class_stride
        # Neither the logits nor the gradient should drive the rows that are still to be read again from the cache.
        tl.store(gradient + place, result.to(gradient.dtype.element_ty), mask=within, eviction_policy="evict_first")
