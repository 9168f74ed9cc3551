"""The statistics of rows: lanes of a few entries each, in steps over the classes, and what the lanes say of the row.

A lane is what one thread has of a step: GROUP entries. It keeps its own maximum and sum, so that no step waits for
other threads. The sum is counted from the lane's entries near its maximum (``vector_math.unit``), the maximum itself
among them: wherever the maximum of the row is not in the lane, that is the sum of others. Only the lane which has it
(the first, where there are more) is read again, entry by entry: a hundred entries of 100,000, in which the equal ones
are counted and the others summed, by an exponential that is exact to an ulp. So a small loss keeps its accuracy, and
the usual entry costs one 2^x of the device.
"""

import triton
import triton.language as tl

from crossentropy.kernels.triton.logits import read, read_dense, read_entry
from crossentropy.kernels.triton.row_terms import moved
from crossentropy.kernels.triton.vector_math import (
    INFINITY,
    drift,
    exp_of_difference,
    in_units,
    ratio,
    times,
    unit,
    unit_over_top,
)


@triton.jit
def in_lanes(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, VECTOR: tl.constexpr):
    """(rows, columns) as (rows, vectors of a lane, lanes, VECTOR): a thread reads vectors that lie side by side."""
    return tl.reshape(values, (ROWS, GROUP // VECTOR, COLUMNS // GROUP, VECTOR))


@triton.jit
def over_lanes(values):
    return values[:, None, :, None]


@triton.jit
def lane_sums(values):
    return tl.sum(tl.sum(values, axis=3), axis=1)


@triton.jit
def both_sums(a, b, more_of_a, more_of_b):
    return a + more_of_a, b + more_of_b


@triton.jit
def scan(
    logits,
    dense_target,
    sparse_target,
    focal_gamma,
    row,
    start_of_row,
    live,
    first,
    last,
    WORK: tl.constexpr,
    TRANSFORM: tl.constexpr,
    PROFILE: tl.constexpr,
    DENSE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Statistics of the classes from ``first`` to ``last``: one read of the logits."""
    LANES: tl.constexpr = COLUMNS // GROUP
    m = tl.full((ROWS, LANES), -INFINITY, WORK)
    origin, total = tl.zeros((ROWS, LANES), WORK), tl.zeros((ROWS, LANES), WORK)
    nothing = tl.zeros((ROWS, LANES), tl.float64)
    profile, profile_mass, allowed_count = nothing, nothing, nothing
    dense, dense_mass, target_sum = nothing, nothing, nothing
    # Ignored rows alone: nothing is read.
    end = tl.where(tl.max(live.to(tl.int32), axis=0) > 0, last, first)
    # Two steps in a turn, where registers allow it, so that the second is on its way while the first is computed.
    IS_WIDE: tl.constexpr = WORK == tl.float64  # noqa: SIM300 (a dtype does not compare with a constexpr, but this does)
    UNROLLED: tl.constexpr = 1 if IS_WIDE or TRANSFORM or PROFILE or DENSE or ROWS > 1 else 2
    for start in tl.range(first, end, COLUMNS, loop_unroll_factor=UNROLLED):
        columns = (start + tl.arange(0, COLUMNS))[None, :]
        inside = live[:, None] & (columns < last)
        z, _, allowed = read(logits, row[:, None], start_of_row[:, None], columns, inside, WORK, TRANSFORM, "")
        z = in_lanes(z, ROWS, COLUMNS, GROUP, VECTOR)
        highest = tl.max(tl.max(z, axis=3), axis=1)
        rate, here = unit(highest)
        power = lane_sums(in_units(z, over_lanes(rate), over_lanes(here)))
        kept = tl.where(highest > m, here, origin)
        total = total * ratio(origin, kept) + power * ratio(here, kept)
        origin = kept
        top = tl.maximum(m, highest)
        if PROFILE or DENSE:
            # Lanes that are all -inf so far, or undefined: relative to 0.
            base = tl.where(tl.abs(top) < INFINITY, top, 0.0)
            shift, _ = moved(m.to(tl.float64), tl.where(top > m, base, m).to(tl.float64))
            distance = z - over_lanes(base)
            weight, t = read_dense(dense_target, row[:, None], columns, inside, WORK, DENSE)
            if PROFILE:
                u = in_lanes(tl.where(allowed, weight, 0.0), ROWS, COLUMNS, GROUP, VECTOR)
                profile += times(profile_mass, shift) + lane_sums(times(u, distance)).to(tl.float64)
                profile_mass += lane_sums(u).to(tl.float64)
                count = in_lanes(allowed.to(WORK), ROWS, COLUMNS, GROUP, VECTOR)
                allowed_count += lane_sums(count).to(tl.float64)
            if DENSE:
                target_sum += lane_sums(in_lanes(t, ROWS, COLUMNS, GROUP, VECTOR)).to(tl.float64)
                t = in_lanes(weight * t, ROWS, COLUMNS, GROUP, VECTOR)
                dense += times(dense_mass, shift) + lane_sums(times(t, distance)).to(tl.float64)
                dense_mass += lane_sums(t).to(tl.float64)
        m = top
    top, best = tl.max(m, axis=1, return_indices=True)
    lane = tl.arange(0, LANES)[None, :]
    base = tl.where(tl.abs(top) < INFINITY, top, 0.0)
    rate, row_origin = unit(top)
    share = total * ratio(origin, row_origin[:, None]) * drift(m - base[:, None])
    share = tl.where(lane == best[:, None], 0.0, share).to(tl.float64)
    others = tl.sum(share, axis=1) * unit_over_top(top, rate, row_origin).to(tl.float64)
    n, in_lane = scan_lane(
        logits, top, best, row, start_of_row, live, first, last, WORK, TRANSFORM, COLUMNS, GROUP, VECTOR
    )
    others += in_lane
    if PROFILE or DENSE:
        shift, _ = moved(m.to(tl.float64), base.to(tl.float64)[:, None])
        profile += times(profile_mass, shift)
        dense += times(dense_mass, shift)
    target, index_mass, found = scan_entries(
        logits, sparse_target, focal_gamma, base, row, start_of_row, live, first, last, WORK, TRANSFORM
    )
    return (
        top.to(tl.float64),
        n,
        others,
        target,
        index_mass,
        found,
        tl.sum(profile, axis=1),
        tl.sum(profile_mass, axis=1),
        tl.sum(allowed_count, axis=1),
        tl.sum(dense, axis=1),
        tl.sum(dense_mass, axis=1),
        tl.sum(target_sum, axis=1),
    )


@triton.jit
def scan_lane(
    logits,
    top,
    lane,
    row,
    start_of_row,
    live,
    first,
    last,
    WORK: tl.constexpr,
    TRANSFORM: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """In one lane of each row: how many entries equal the maximum ``top``, and the sum of e^(z - top) of the others."""
    # Of short rows a program has many, and one step.
    STEPS: tl.constexpr = 8 if lane.shape[0] == 1 else 1
    n = tl.where(live, 0.0, 0.0).to(tl.float64)
    others = n
    base = tl.where(tl.abs(top) < INFINITY, top, 0.0)[:, None]
    end = tl.where(tl.max(live.to(tl.int32), axis=0) > 0, last, first)
    for start in range(first, end, STEPS * COLUMNS):
        entry = tl.arange(0, STEPS * GROUP)[None, :]
        vector = (entry % GROUP) // VECTOR * (COLUMNS // GROUP) + lane[:, None]
        columns = start + entry // GROUP * COLUMNS + vector * VECTOR + entry % VECTOR
        inside = live[:, None] & (columns < last)
        z, _, _ = read(logits, row[:, None], start_of_row[:, None], columns, inside, WORK, TRANSFORM, "")
        power = exp_of_difference(z, base)
        is_largest = (z == top[:, None]) & (z > -INFINITY)
        equal, rest = tl.reduce((is_largest.to(WORK), tl.where(is_largest, 0.0, power)), 1, both_sums)
        n += equal.to(tl.float64)
        others += rest.to(tl.float64)
    return n, others


@triton.jit
def scan_entries(
    logits,
    sparse_target,
    focal_gamma,
    base,
    row,
    start_of_row,
    live,
    first,
    last,
    WORK: tl.constexpr,
    TRANSFORM: tl.constexpr,
):
    """Of sparse targets: sum_k b_k r_k (for focal loss r), sum_k b_k, and how many entries are among these classes."""
    zero = tl.where(live, 0.0, 0.0).to(tl.float64)
    target, index_mass, found = zero, zero, zero
    base = base.to(tl.float64)
    if sparse_target[0] is not None:
        for k in range(sparse_target[2]):
            index, b = read_entry(sparse_target, row, k, live)
            here = live & (index >= first) & (index < last)
            z, _, _ = read(logits, row, start_of_row, index, here, WORK, TRANSFORM, "")
            b = tl.where(here, b, 0.0)
            r = tl.where(here, z.to(tl.float64) - base, 0.0)
            if focal_gamma != 0.0:
                target += r
            else:
                target += times(b, r)
            index_mass += b
            found += here.to(tl.float64)
    return target, index_mass, found
