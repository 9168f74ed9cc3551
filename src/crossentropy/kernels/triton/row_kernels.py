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

from crossentropy.kernels.triton.logits import live_rows, row_offsets
from crossentropy.kernels.triton.row_gradient import write_gradient
from crossentropy.kernels.triton.row_statistics import scan
from crossentropy.kernels.triton.row_terms import load, merged, row_loss


@triton.jit
def as_scalars(label_smoothing, focal_gamma, z_loss, dense_scale):
    return (
        tl.full((), label_smoothing, tl.float64),
        tl.full((), focal_gamma, tl.float64),
        tl.full((), z_loss, tl.float64),
        tl.full((), dense_scale, tl.float64),
    )


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
    GROUP: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """STATISTICS: of this program's part of the classes of its rows. GRADIENT: the same part, from all statistics.

    Both: one program has all classes of its rows, whose logits it finds in the cache when it reads them again.
    ``gradient`` may be ``x``: what the statistics need has been read by all when the first entry is written.
    """
    # Numbers of Python in the interpreter, scalars elsewhere.
    rate, softcap = tl.full((), rate, WORK), tl.full((), softcap, WORK)
    options = as_scalars(label_smoothing, focal_gamma, z_loss, dense_scale)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    first = part * classes_per_part
    last = tl.minimum(first + classes_per_part, classes)
    live = live_rows(row, rows, valid, IGNORE)
    start_of_row = row_offsets(row, inner, outer_stride, inner_stride)
    logits = (x, class_stride, bias, mask, mask_row_stride, mask_class_stride, rate, softcap)
    dense_target = (class_weight, dense, dense_row_stride, dense_class_stride)
    sparse_target = (indices, index_weight, entries, weight_stride)
    if STATISTICS:
        state = scan(
            logits,
            dense_target,
            sparse_target,
            options[1],
            row,
            start_of_row,
            live,
            first,
            last,
            WORK,
            TRANSFORM,
            PROFILE,
            DENSE,
            ROWS,
            COLUMNS,
            GROUP,
            VECTOR,
        )
        for number in tl.static_range(12 if PROFILE or DENSE else 6):
            tl.store(statistics + (number * splits + part).to(tl.int64) * rows + row, state[number], mask=row < rows)
    else:
        state = merged(statistics, row, rows, splits, row < rows, options[1], PROFILE or DENSE)
    if GRADIENT:
        if STATISTICS:
            tl.debug_barrier()
        spread = 0.0
        if PROFILE and not DENSE:
            spread = tl.load(spread_mass + row * spread_stride, mask=live, other=0.0)
        write_gradient(
            state,
            logits,
            dense_target,
            sparse_target,
            options,
            gradient,
            gradient_class_stride,
            tl.load(upstream + row * upstream_stride, mask=live, other=0.0),
            spread,
            row,
            row < rows,
            start_of_row,
            row_offsets(row, inner, gradient_outer_stride, gradient_inner_stride),
            live,
            first,
            last,
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
    options = as_scalars(label_smoothing, focal_gamma, z_loss, dense_scale)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    live = live_rows(row, rows, valid, IGNORE)
    if IN_PARTS:
        state = merged(statistics, row, rows, splits, inside, options[1], PROFILE or DENSE)
    else:
        state = load(statistics, row, rows, 1, 0, inside, PROFILE or DENSE)
    spread = 0.0
    if PROFILE and not DENSE:
        spread = tl.load(spread_mass + row * spread_stride, mask=inside, other=0.0)
    loss = row_loss(state, spread, options, entries, PROFILE, DENSE)
    tl.store(losses + row, tl.where(live, loss, 0.0), mask=inside)
