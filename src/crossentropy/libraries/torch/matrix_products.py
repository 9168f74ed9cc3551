"""The matrix products of the linear form: out = a @ b or out += a @ b, on tensors with values.

On a CPU PyTorch multiplies float32 matrices with MKL, which leaves AVX-512 unused on processors that are not Intel's.
oneDNN, which is part of PyTorch too, uses whatever there is, but returns fresh results. It therefore gets ``out`` in
parts, rows or columns, whose result fits in a core's cache, with the copies that it takes of strides it does not know.
The three products of 512 rows, D = 1,024 and 128,256 classes, two cores of an EPYC, s:

    ================  ====  ======
    .                 MKL   oneDNN
    ================  ====  ======
    AVX-512           2.23  1.15    (logits 0.79 -> 0.36, to features 0.72 -> 0.41, to weight 0.72 -> 0.38)
    AVX2 alone        2.30  2.05
    ================  ====  ======
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from crossentropy.linear_chunks import within

# Products of 16-bit matrices that are added up and kept in float32 (PyTorch 2.8).
HAS_MIXED_PRODUCTS = hasattr(torch.ops.aten.addmm, "dtype_out")
# What the compiler of PyTorch, too, calls for a linear layer; it has no public name.
ONEDNN: Any = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "default", None)
# Bytes: twice those of a part's result and copies, since freed memory may not be what the next part is given.
SCRATCH = 8_000_000
# oneDNN compiles a product for every new shape, in about 1 ms: 2^28 multiplications take MKL 3 ms on two cores.
MULTIPLICATIONS_AT_LEAST = 1 << 28
# Of ``out``, in a part.
LINES_AT_LEAST = 64


def product(a: Any, b: Any, out: Any, *, add: bool = False, scratch: int = SCRATCH) -> None:
    """Factors of the dtype of ``out``, or of 16 bits."""
    if a.dtype != out.dtype:
        mixed_product(a, b, out, add=add)
    elif is_for_onednn(a, b, out) and (parts := Parts.of(a, b, scratch)) is not None:
        parts.multiply(a, b, out, add=add)
    elif add:
        out.addmm_(a, b)
    else:
        torch.mm(a, b, out=out)


def is_for_onednn(a: Any, b: Any, out: Any) -> bool:
    return bool(
        ONEDNN
        and out.dtype == torch.float32
        and out.is_cpu
        and math.prod(out.shape) * a.shape[1] >= MULTIPLICATIONS_AT_LEAST
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
    )


@dataclasses.dataclass(frozen=True)
class Parts:
    """``out`` in parts of so many lines: rows, or columns."""

    of_rows: bool
    lines: int

    @classmethod
    def of(cls, a: Any, b: Any, scratch: int) -> Parts | None:
        """None where a factor would have to be copied as a whole, or the parts are too small.

        oneDNN's linear layer copies a first factor that is not contiguous; for a second one with gaps between its lines
        it has a plain loop, 2,000 times slower.
        """
        (rows, inner), columns = a.shape, b.shape[1]
        of_rows = rows >= columns or inner >= columns
        if of_rows:
            per_line = columns + (0 if a.is_contiguous() else inner)
            fits = b.is_contiguous() or b.T.is_contiguous()
        else:
            per_line = rows + (0 if b.T.is_contiguous() else inner)
            fits = a.is_contiguous()
        lines = scratch // 2 // (per_line * a.element_size())
        return cls(of_rows, lines) if fits and lines >= LINES_AT_LEAST else None

    def multiply(self, a: Any, b: Any, out: Any, *, add: bool) -> None:
        for part in within(len(out) if self.of_rows else out.shape[1], self.lines):
            if self.of_rows:
                put(out[part], linear(a[part], b.T), add=add)
            else:
                put(out[:, part], linear(a, b.T[part].contiguous()), add=add)


def linear(a: Any, weight: Any) -> Any:
    """a @ weight.T"""
    return ONEDNN(a, weight, None, "none", [], "")


def put(out: Any, result: Any, *, add: bool) -> None:
    out.add_(result) if add else out.copy_(result)


def mixed_product(a: Any, b: Any, out: Any, *, add: bool) -> None:
    """Factors of 16 bits, sums and result in float32."""
    if out.is_cpu:  # only CUDA has it; here a device is emulated
        a, b = a.to(out.dtype), b.to(out.dtype)
        torch.addmm(out, a, b, out=out) if add else torch.mm(a, b, out=out)
    elif add:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:
        torch.mm(a, b, out_dtype=out.dtype, out=out)
