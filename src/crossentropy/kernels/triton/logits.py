"""Where rows lie, which are read, what temperature, bias, cap and mask make of a logit, and what the targets are."""

import triton
import triton.language as tl

from crossentropy.kernels.triton.vector_math import INFINITY, exp, tanh


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
def read(logits, row, start_of_row, columns, inside, WORK: tl.constexpr, TRANSFORM: tl.constexpr, KEEP: tl.constexpr):
    """z, its slope to the logit, and which classes are allowed: temperature, bias, cap, and after the cap the mask.

    KEEP: what the cache should do with the logits, "" or "evict_first" where nobody reads them again.
    """
    x, class_stride, bias, mask, mask_row_stride, mask_class_stride, rate, softcap = logits
    offsets = start_of_row + columns.to(tl.int64) * class_stride
    z = tl.load(x + offsets, mask=inside, other=-INFINITY, eviction_policy=KEEP).to(WORK)
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
            place = row * mask_row_stride + columns.to(tl.int64) * mask_class_stride
            allowed = inside & (tl.load(mask + place, mask=inside, other=0) != 0)
            z = tl.where(allowed, z, -INFINITY)
            slope = tl.where(allowed, slope, 0.0)
    return z, slope, allowed


@triton.jit
def read_dense(dense_target, row, columns, inside, WORK: tl.constexpr, DENSE: tl.constexpr):
    """Class weights (1 without) and the dense target (0 without) of the classes."""
    class_weight, dense, row_stride, class_stride = dense_target
    weight = tl.where(inside, 1.0, 0.0).to(WORK)
    if class_weight is not None:
        weight = tl.load(class_weight + columns, mask=inside, other=0.0).to(WORK)
    t = weight
    if DENSE:
        place = row * row_stride + columns.to(tl.int64) * class_stride
        t = tl.load(dense + place, mask=inside, other=0).to(WORK)
    return weight, t


@triton.jit
def read_entry(sparse_target, row, k, live):
    """Class and coefficient of entry k of sparse targets; class -1 where a row is not read."""
    indices, index_weight, entries, weight_stride = sparse_target
    index = tl.load(indices + row * entries + k, mask=live, other=-1)
    return index, tl.load(index_weight + row * weight_stride + k, mask=live, other=0.0)
