"""The statistics of rows, step by step over their classes."""

import triton
import triton.language as tl

from crossentropy.kernels.triton.logits import read
from crossentropy.kernels.triton.row_terms import moved
from crossentropy.kernels.triton.vector_math import INFINITY, above, difference_error, exp, times


@triton.jit
def scan(
    x,
    data,
    strides,
    numbers,
    row,
    start_of_row,
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
    """Statistics of the classes from ``first`` to ``last``: one read of the logits."""
    bias, mask, class_weight, dense, indices, index_weight, entries, weight_stride = data
    class_stride, mask_row_stride, mask_class_stride, dense_row_stride, dense_class_stride = strides
    rate, softcap, focal_gamma = numbers[0], numbers[1], numbers[3]
    zero = tl.where(live, 0.0, 0.0).to(tl.float64)
    m = tl.where(live, -INFINITY, -INFINITY).to(WORK)
    n, others, target, index_mass, found = zero, zero, zero, zero, zero
    profile, profile_mass, allowed_count, dense_sum, dense_mass, target_sum = zero, zero, zero, zero, zero, zero
    # Ignored rows alone: nothing is read.
    end = tl.where(tl.max(live.to(tl.int32), axis=0) > 0, last, first)
    for start in range(first, end, COLUMNS):
        columns = (start + tl.arange(0, COLUMNS))[None, :]
        inside = live[:, None] & (columns < last)
        offsets = start_of_row[:, None] + columns.to(tl.int64) * class_stride
        mask_offsets = row[:, None] * mask_row_stride + columns * mask_class_stride
        z, _, allowed = read(x, bias, mask, offsets, columns, mask_offsets, inside, rate, softcap, WORK, TRANSFORM)
        highest = tl.max(z, axis=1)
        top = tl.maximum(m, highest)
        # Rows that are all -inf so far, or undefined: relative to 0.
        base = tl.where(tl.abs(top) < INFINITY, top, 0.0)
        if tl.max((top > m).to(tl.int32), axis=0) > 0:
            shift, scale = moved(m.to(tl.float64), tl.where(top > m, base, m).to(tl.float64))
            others = tl.where(top > m, (others + n) * scale, others)
            n = tl.where(top > m, 0.0, n)
            if PROFILE:
                profile += times(profile_mass, shift)
            if DENSE:
                dense_sum += times(dense_mass, shift)
        m = top
        centre, correction = base, zero + 1.0
        if SHORT:
            # difference_error needs that no |z| that counts is 2^15 |centre|: a maximum near 0 is taken for 0, and
            # e^(0 - maximum) is added to the sum as its series.
            near = tl.abs(base) < 0.00390625
            centre = tl.where(near, 0.0, base)
            y = tl.where(near, -base, 0.0).to(tl.float64)
            correction = 1.0 + y * (1.0 + y * (0.5 + y * (0.16666666666666666 + y * 0.041666666666666664)))
        finite = above(z, centre[:, None])
        d = finite - centre[:, None]
        power = exp(d, difference_error(finite, centre[:, None], d, SHORT))
        if tl.max((highest == top).to(tl.int32), axis=0) > 0:
            largest = z == top[:, None]
            ties = tl.sum(largest.to(WORK), axis=1).to(tl.float64)
            n += tl.where(top > -INFINITY, ties, 0.0)
            others += tl.sum(tl.where(largest, 0.0, power), axis=1).to(tl.float64) * correction
        else:
            others += tl.sum(power, axis=1).to(tl.float64) * correction
        if PROFILE or DENSE:
            weight = tl.where(inside, 1.0, 0.0).to(WORK)
            if class_weight is not None:
                weight = tl.load(class_weight + columns, mask=inside, other=0.0).to(WORK)
            distance = z - base[:, None]
            if PROFILE:
                u = tl.where(allowed, weight, 0.0)
                profile += tl.sum(times(u, distance), axis=1).to(tl.float64)
                profile_mass += tl.sum(u, axis=1).to(tl.float64)
                allowed_count += tl.sum(allowed.to(WORK), axis=1).to(tl.float64)
            if DENSE:
                where = row[:, None] * dense_row_stride + columns.to(tl.int64) * dense_class_stride
                t = tl.load(dense + where, mask=inside, other=0).to(WORK)
                target_sum += tl.sum(t, axis=1).to(tl.float64)
                dense_mass += tl.sum(weight * t, axis=1).to(tl.float64)
                dense_sum += tl.sum(times(weight * t, distance), axis=1).to(tl.float64)
    if indices is not None:
        base = tl.where(tl.abs(m) < INFINITY, m, 0.0).to(tl.float64)
        for k in range(entries):
            index = tl.load(indices + row * entries + k, mask=live, other=-1)
            here = live & (index >= first) & (index < last)
            z, _, _ = read(
                x,
                bias,
                mask,
                start_of_row + index * class_stride,
                index,
                row * mask_row_stride + index * mask_class_stride,
                here,
                rate,
                softcap,
                WORK,
                TRANSFORM,
            )
            b = tl.load(index_weight + row * weight_stride + k, mask=here, other=0.0)
            r = tl.where(here, z.to(tl.float64) - base, 0.0)
            if focal_gamma != 0.0:
                target += r
            else:
                target += times(b, r)
            index_mass += b
            found += here.to(tl.float64)
    return (
        m.to(tl.float64),
        n,
        others,
        target,
        index_mass,
        found,
        profile,
        profile_mass,
        allowed_count,
        dense_sum,
        dense_mass,
        target_sum,
    )
