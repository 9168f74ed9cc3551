"""Where the logits of rows lie, which rows are read, and what temperature, bias, cap and mask make of a logit."""

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
