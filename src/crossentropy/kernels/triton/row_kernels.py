"""The row kernels: statistics, loss and gradient of (rows, classes) logits, and the fusion of the first and the last.

A program takes ROWS rows (few classes: many rows) and, in steps of COLUMNS, the classes from ``first`` to ``last``. The
only variants are WORK (the dtype that is computed in), SHORT (are the logits of 16 bits?), TRANSFORM (temperature,
class bias, soft-cap or mask), PROFILE (label smoothing), DENSE (a dense target) and IGNORE (rows that are not read); an
option's value is data. The formulas are derived in ``row_loss``.

Arguments: ``x`` and ``gradient`` as (outer, classes, inner) with strides in entries, a row being outer x inner + inner;
``mask`` and ``dense`` as (rows, classes) with strides; ``indices`` (rows, entries) and their weights; ``upstream``,
``spread_mass`` and ``valid``, one number per row or one for all (stride 0); ``statistics``: see ``row_terms.load``.
"""

import triton
import triton.language as tl

from crossentropy.kernels.triton.row_terms import gradient_terms, load, merged, moved, row_loss
from crossentropy.kernels.triton.vector_math import INFINITY, LOG2_E, above, difference_error, exp, tanh, times


@triton.jit
def row_offsets(row, inner, outer_stride, inner_stride):
    """Where rows start: 64 bits, since rows x classes exceed 2^31."""
    return (row // inner) * outer_stride + (row % inner) * inner_stride


@triton.jit
def live_rows(row, rows, valid, IGNORE: tl.constexpr):
    live = row < rows
    if IGNORE:
        live = live & (tl.load(valid + row, mask=live, other=0) != 0)
    return live


@triton.jit
def read(
    x,
    bias,
    mask,
    offsets,
    columns,
    mask_offsets,
    inside,
    rate,
    softcap,
    WORK: tl.constexpr,
    TRANSFORM: tl.constexpr,
):
    """z, its slope to the logit, and which classes are allowed: temperature, bias, cap, and after the cap the mask."""
    z = tl.load(x + offsets, mask=inside, other=-INFINITY).to(WORK)
    slope, allowed = z, inside
    if TRANSFORM:
        z = z * rate
        if bias is not None:
            z = z + tl.load(bias + columns, mask=inside, other=0.0).to(WORK)
        slope = tl.where(inside, rate, 0.0)
        if softcap != 0.0:
            angle = z / softcap
            # An infinite logit stays infinite. sech^2 from the exponential: 1 - tanh^2 cancels.
            z = tl.where(tl.abs(z) == INFINITY, z, softcap * tanh(angle))
            decay = exp(-2.0 * tl.abs(angle), 0.0)
            slope = slope * (4.0 * decay / ((1.0 + decay) * (1.0 + decay)))
        if mask is not None:
            allowed = inside & (tl.load(mask + mask_offsets, mask=inside, other=0) != 0)
            z = tl.where(allowed, z, -INFINITY)
            slope = tl.where(allowed, slope, 0.0)
    return z, slope, allowed


@triton.jit
def scan(
    x,
    bias,
    mask,
    class_weight,
    dense,
    indices,
    index_weight,
    row,
    start_of_row,
    live,
    first,
    last,
    class_stride,
    mask_row_stride,
    mask_class_stride,
    dense_row_stride,
    dense_class_stride,
    entries,
    weight_stride,
    rate,
    softcap,
    focal_gamma,
    WORK: tl.constexpr,
    SHORT: tl.constexpr,
    TRANSFORM: tl.constexpr,
    PROFILE: tl.constexpr,
    DENSE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Statistics of the classes from ``first`` to ``last``: one read of the logits."""
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


@triton.jit
def write_gradient(
    state,
    x,
    gradient,
    bias,
    mask,
    class_weight,
    dense,
    indices,
    index_weight,
    upstream,
    spread_mass,
    row,
    rows,
    start_of_row,
    start_of_gradient,
    live,
    first,
    last,
    class_stride,
    gradient_class_stride,
    mask_row_stride,
    mask_class_stride,
    dense_row_stride,
    dense_class_stride,
    entries,
    weight_stride,
    upstream_stride,
    spread_stride,
    rate,
    softcap,
    label_smoothing,
    focal_gamma,
    z_loss,
    dense_scale,
    WORK: tl.constexpr,
    SHORT: tl.constexpr,
    TRANSFORM: tl.constexpr,
    PROFILE: tl.constexpr,
    DENSE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """upstream T' (a p - q) of the classes from ``first`` to ``last``; ignored rows are 0 and undefined ones NaN."""
    spread = 0.0
    if PROFILE and not DENSE:
        spread = tl.load(spread_mass + row * spread_stride, mask=live, other=0.0)
    s, g, slope_of_focal, pull, is_defined = gradient_terms(
        state, spread, label_smoothing, focal_gamma, z_loss, dense_scale, entries, PROFILE, DENSE
    )
    # An ignored row, of which nothing was read, is 0 times numbers.
    usable = live & is_defined
    s, g, pull = tl.where(usable, s, 0.0), tl.where(usable, g, 0.0), tl.where(usable, pull, 0.0)
    inverse = 1.0 / tl.where(usable, state[1] + state[2], 1.0)
    factor = tl.load(upstream + row * upstream_stride, mask=live, other=0.0)
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
        within = (row < rows)[:, None] & (columns < last)
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


@triton.jit(do_not_specialize=["rows", "splits"])
def row_kernel(
    x,
    gradient,
    statistics,
    bias,
    mask,
    class_weight,
    dense,
    indices,
    index_weight,
    valid,
    upstream,
    spread_mass,
    rows,
    classes,
    inner,
    outer_stride,
    class_stride,
    inner_stride,
    gradient_outer_stride,
    gradient_class_stride,
    gradient_inner_stride,
    mask_row_stride,
    mask_class_stride,
    dense_row_stride,
    dense_class_stride,
    entries,
    weight_stride,
    upstream_stride,
    spread_stride,
    classes_per_part,
    splits,
    rate: tl.float64,
    softcap: tl.float64,
    label_smoothing: tl.float64,
    focal_gamma: tl.float64,
    z_loss: tl.float64,
    dense_scale: tl.float64,
    WORK: tl.constexpr,
    SHORT: tl.constexpr,
    TRANSFORM: tl.constexpr,
    PROFILE: tl.constexpr,
    DENSE: tl.constexpr,
    IGNORE: tl.constexpr,
    STATISTICS: tl.constexpr,
    GRADIENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """STATISTICS: of this program's part of the classes of its rows. GRADIENT: the same part, from all statistics.

    Both: one program has all classes of its rows, whose logits it finds in the cache when it reads them again.
    ``gradient`` may be ``x``: what the statistics need has been read by all when the first entry is written.
    """
    # Numbers of Python in the interpreter, scalars elsewhere.
    rate, softcap = tl.full((), rate, WORK), tl.full((), softcap, WORK)
    label_smoothing, focal_gamma = tl.full((), label_smoothing, tl.float64), tl.full((), focal_gamma, tl.float64)
    z_loss, dense_scale = tl.full((), z_loss, tl.float64), tl.full((), dense_scale, tl.float64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    first = part * classes_per_part
    last = tl.minimum(first + classes_per_part, classes)
    live = live_rows(row, rows, valid, IGNORE)
    start_of_row = row_offsets(row, inner, outer_stride, inner_stride)
    if STATISTICS:
        state = scan(
            x,
            bias,
            mask,
            class_weight,
            dense,
            indices,
            index_weight,
            row,
            start_of_row,
            live,
            first,
            last,
            class_stride,
            mask_row_stride,
            mask_class_stride,
            dense_row_stride,
            dense_class_stride,
            entries,
            weight_stride,
            rate,
            softcap,
            focal_gamma,
            WORK,
            SHORT,
            TRANSFORM,
            PROFILE,
            DENSE,
            COLUMNS,
        )
        for number in tl.static_range(12):
            tl.store(statistics + (number * splits + part) * rows + row, state[number], mask=row < rows)
    else:
        state = merged(statistics, row, rows, splits, row < rows, focal_gamma)
    if GRADIENT:
        if STATISTICS:
            tl.debug_barrier()
        write_gradient(
            state,
            x,
            gradient,
            bias,
            mask,
            class_weight,
            dense,
            indices,
            index_weight,
            upstream,
            spread_mass,
            row,
            rows,
            start_of_row,
            row_offsets(row, inner, gradient_outer_stride, gradient_inner_stride),
            live,
            first,
            last,
            class_stride,
            gradient_class_stride,
            mask_row_stride,
            mask_class_stride,
            dense_row_stride,
            dense_class_stride,
            entries,
            weight_stride,
            upstream_stride,
            spread_stride,
            rate,
            softcap,
            label_smoothing,
            focal_gamma,
            z_loss,
            dense_scale,
            WORK,
            SHORT,
            TRANSFORM,
            PROFILE,
            DENSE,
            COLUMNS,
        )


@triton.jit(do_not_specialize=["rows", "splits"])
def loss_kernel(
    losses,
    statistics,
    valid,
    spread_mass,
    rows,
    splits,
    entries,
    spread_stride,
    label_smoothing: tl.float64,
    focal_gamma: tl.float64,
    z_loss: tl.float64,
    dense_scale: tl.float64,
    PROFILE: tl.constexpr,
    DENSE: tl.constexpr,
    IGNORE: tl.constexpr,
    IN_PARTS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The losses of ROWS rows from their statistics, 0 where a row is ignored: one thread takes a row's logarithms."""
    label_smoothing, focal_gamma = tl.full((), label_smoothing, tl.float64), tl.full((), focal_gamma, tl.float64)
    z_loss, dense_scale = tl.full((), z_loss, tl.float64), tl.full((), dense_scale, tl.float64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    live = live_rows(row, rows, valid, IGNORE)
    if IN_PARTS:
        state = merged(statistics, row, rows, splits, inside, focal_gamma)
    else:
        state = load(statistics, row, rows, 1, 0, inside)
    spread = 0.0
    if PROFILE and not DENSE:
        spread = tl.load(spread_mass + row * spread_stride, mask=inside, other=0.0)
    loss = row_loss(state, spread, label_smoothing, focal_gamma, z_loss, dense_scale, entries, PROFILE, DENSE)
    tl.store(losses + row, tl.where(live, loss, 0.0), mask=inside)
