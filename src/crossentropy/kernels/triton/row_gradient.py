"""The gradient of rows from their statistics, step by step over their classes."""

import triton
import triton.language as tl

from crossentropy.kernels.triton.logits import read
from crossentropy.kernels.triton.row_terms import gradient_terms
from crossentropy.kernels.triton.vector_math import INFINITY, LOG2_E, above, difference_error, exp


@triton.jit
def write_gradient(
    state,
    x,
    gradient,
    gradient_class_stride,
    data,
    strides,
    numbers,
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
    bias, mask, class_weight, dense, indices, index_weight, entries, weight_stride = data
    class_stride, mask_row_stride, mask_class_stride, dense_row_stride, dense_class_stride = strides
    rate, softcap, label_smoothing, focal_gamma, z_loss, dense_scale = numbers
    s, g, slope_of_focal, pull, is_defined = gradient_terms(
        state, spread, label_smoothing, focal_gamma, z_loss, dense_scale, entries, PROFILE, DENSE
    )
    # An ignored row, of which nothing was read, is 0 times numbers.
    usable = live & is_defined
    s, g, pull = tl.where(usable, s, 0.0), tl.where(usable, g, 0.0), tl.where(usable, pull, 0.0)
    inverse = 1.0 / tl.where(usable, state[1] + state[2], 1.0)
    factor = tl.where(live & ~is_defined, float("nan"), factor)
    # Where nothing is taken from a p, a row is one product.
    plain = (factor * (s + pull) * inverse).to(WORK)[:, None]
    rest = tl.where(usable, s * (state[2] * inverse), 0.0).to(WORK)[:, None]
    is_certain = ((state[1] == 1.0) & (state[2] < 1.0))[:, None]
    m = state[0].to(WORK)
    base = tl.where(tl.abs(m) < INFINITY, m, 0.0)[:, None]
    m = m[:, None]
    inverse, factor, s, g = inverse.to(WORK)[:, None], factor.to(WORK)[:, None], s.to(WORK)[:, None], g.to(WORK)
    pull = pull.to(WORK)[:, None]
    steps = tl.cdiv(last - first, COLUMNS)
    for step in range(steps):
        # The last step first: it was read last, and is the surest to be in the cache.
        start = first + (steps - 1 - step) * COLUMNS
        columns = (start + tl.arange(0, COLUMNS))[None, :]
        within = inside_rows[:, None] & (columns < last)
        inside = live[:, None] & within
        offsets = start_of_row[:, None] + columns.to(tl.int64) * class_stride
        mask_offsets = row[:, None] * mask_row_stride + columns * mask_class_stride
        z, slope, allowed = read(x, bias, mask, offsets, columns, mask_offsets, inside, rate, softcap, WORK, TRANSFORM)
        if SHORT:
            # Off by |z - m| ulp of float32 at most, which 16 bits do not show.
            p = tl.exp2((z - base) * LOG2_E)
        else:
            finite = above(z, base)
            d = finite - base
            p = exp(d, difference_error(finite, base, d, SHORT))
        result = p * plain
        count = 0
        if PROFILE or DENSE:
            count = 1
        if indices is not None:
            for k in range(entries):
                index = tl.load(indices + row * entries + k, mask=live, other=-1)
                count += tl.sum(((index >= start) & (index < start + COLUMNS)).to(tl.int32), axis=0)
        if count > 0:
            q = tl.where(inside, 0.0, 0.0).to(WORK)
            if indices is not None:
                for k in range(entries):
                    index = tl.load(indices + row * entries + k, mask=live, other=-1)
                    b = tl.load(index_weight + row * weight_stride + k, mask=live, other=0.0) * slope_of_focal
                    q += tl.where(columns == index[:, None], b.to(WORK)[:, None], 0.0)
            if PROFILE or DENSE:
                weight = tl.where(inside, 1.0, 0.0).to(WORK)
                if class_weight is not None:
                    weight = tl.load(class_weight + columns, mask=inside, other=0.0).to(WORK)
                if PROFILE:
                    q += tl.where(allowed, g[:, None] * weight, 0.0)
                if DENSE:
                    where = row[:, None] * dense_row_stride + columns.to(tl.int64) * dense_class_stride
                    t = tl.load(dense + where, mask=inside, other=0).to(WORK)
                    q += dense_scale.to(WORK) * (weight * t)
            p = p * inverse
            # Where p > 1/2, p - 1 = -S / (n + S) does not cancel; elsewhere that form would.
            result = tl.where((z == m) & is_certain, (s - q) - rest, s * p - q)
            result = factor * (result + pull * p)
        if TRANSFORM:
            result = result * slope
        place = start_of_gradient[:, None] + columns.to(tl.int64) * gradient_class_stride
        tl.store(gradient + place, result.to(gradient.dtype.element_ty), mask=within)
