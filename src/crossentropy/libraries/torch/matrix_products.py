"""The matrix products of the linear form: out = a @ b or out += a @ b, on tensors with values.

On a CPU PyTorch multiplies float32 matrices with MKL, which leaves AVX-512 unused on processors that are not Intel's.
oneDNN, which is part of PyTorch too, uses whatever there is, but returns fresh results: the longest of the three
extents is cut into parts whose result fits in a core's cache. And it compiles a product for every new shape, and keeps
a thousand of them, 0.5 MB each: parts are filled up with zeros to one of eight sizes between powers of two.

The three products of 512 rows, D = 1,024 and 128,256 classes, two cores of an EPYC, s:

    ================  ====  ======
    .                 MKL   oneDNN
    ================  ====  ======
    AVX-512           2.06  1.03    (logits 0.73 -> 0.33, to features 0.68 -> 0.34, to weight 0.64 -> 0.35)
    AVX2 alone        2.04  1.85
    ================  ====  ======
"""

from __future__ import annotations

import math
from typing import Any

import torch

from crossentropy.linear_chunks import within

# Products of 16-bit matrices that are added up and kept in float32 (PyTorch 2.8).
HAS_MIXED_PRODUCTS = hasattr(torch.ops.aten.addmm, "dtype_out")
# What the compiler of PyTorch, too, calls for a linear layer; it has no public name.
ONEDNN: Any = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "default", None)
# Bytes: twice those of a part's result and copies, since freed memory may not be what the next part is given.
SCRATCH = 32_000_000
# oneDNN compiles in about 1 ms: 2^28 multiplications take MKL 3 ms on two cores.
MULTIPLICATIONS_AT_LEAST = 1 << 28
# Of the extent that is cut, in a part. More leave the caches.
LINES_AT_LEAST, LINES_AT_MOST = 64, 2048


def product(a: Any, b: Any, out: Any, *, add: bool = False, scratch: int = SCRATCH) -> None:
    """Factors of the dtype of ``out``, or of 16 bits."""
    if a.dtype != out.dtype:
        mixed_product(a, b, out, add=add)
    elif is_for_onednn(a, out) and (cut := cut_of(a, b, scratch // 2 // out.element_size())) is not None:
        axis, lines = cut
        BY_PARTS[axis](a, b, out, lines, add)
    elif add:
        out.addmm_(a, b)
    else:
        torch.mm(a, b, out=out)


def scratch_of(budget: int, dtype: torch.dtype, rows: int, width: int, classes: int) -> int:
    """Of so many bytes for all that a call takes on the CPU, those for the parts of its products.

    0 where no product is large enough, or where a few rows of logits would no longer fit beside them.
    """
    scratch, row = min(SCRATCH, budget // 8), classes * dtype.itemsize
    most = min(rows * classes, budget // dtype.itemsize) * width
    is_used = has_onednn(dtype) and most >= MULTIPLICATIONS_AT_LEAST and budget - scratch >= 8 * row
    return scratch if is_used else 0


def has_onednn(dtype: torch.dtype) -> bool:
    backend = torch.backends.mkldnn
    return bool(ONEDNN and dtype == torch.float32 and backend.enabled and backend.is_available())


def is_for_onednn(a: Any, out: Any) -> bool:
    return out.is_cpu and math.prod(out.shape) * a.shape[1] >= MULTIPLICATIONS_AT_LEAST and has_onednn(out.dtype)


def cut_of(a: Any, b: Any, entries: int) -> tuple[str, int] | None:
    """Which extent is cut, and into how many lines a part, whose result and copies are so many entries at most.

    None where they do not fit.
    """
    (rows, inner), columns = a.shape, b.shape[1]
    axis = max(("rows", rows), ("columns", columns), ("inner", inner), key=lambda extent: extent[1])[0]
    if axis == "rows":
        is_copied = not is_dense(b) or (inner != rounded(inner) and not a.is_contiguous())
        fixed, per_line = rounded(inner) * columns * is_copied, columns + rounded(inner)
    elif axis == "columns":
        is_copied = not a.is_contiguous() or rows != rounded(rows)
        fixed, per_line = rounded(rows) * inner * is_copied, rounded(rows) + inner * (not b.T.is_contiguous())
    else:
        fixed, per_line = rounded(rows) * columns, rounded(rows) + columns
    lines = min((entries - fixed) // per_line, LINES_AT_MOST)
    return (axis, lines - lines % step_of(lines)) if lines >= LINES_AT_LEAST else None


def by_rows(a: Any, b: Any, out: Any, lines: int, add: bool) -> None:
    inner = a.shape[1] if a.is_contiguous() else rounded(a.shape[1])  # what is copied may as well be filled up
    b = b if is_dense(b) and len(b) == inner else filled(b, inner, b.shape[1])
    for part in within(len(out), lines):
        rows = part.stop - part.start
        put(out[part], linear(filled(a[part], rounded(rows), inner), b), add=add)


def by_columns(a: Any, b: Any, out: Any, lines: int, add: bool) -> None:
    a = filled(a, rounded(len(a)), a.shape[1])
    for part in within(out.shape[1], lines):
        put(out[:, part], linear(a, b.T[part].contiguous().T), add=add)


def by_inner(a: Any, b: Any, out: Any, lines: int, add: bool) -> None:
    rows, columns = out.shape
    for part in within(len(b), lines):
        inner = rounded(part.stop - part.start)
        result = linear(filled(a[:, part], rounded(rows), inner), filled(b[part], inner, columns))
        put(out, result, add=add or part.start > 0)


BY_PARTS = {"rows": by_rows, "columns": by_columns, "inner": by_inner}


def is_dense(x: Any) -> bool:
    """Of a second factor that is not, oneDNN's linear layer would make a plain loop, 2,000 times slower."""
    return x.is_contiguous() or x.T.is_contiguous()


def step_of(extent: int) -> int:
    return max(16, 1 << max(0, extent.bit_length() - 4))


def rounded(extent: int) -> int:
    """The next of eight sizes between powers of two: at most an eighth more, or 15."""
    return -(-extent // step_of(extent)) * step_of(extent)


def filled(x: Any, rows: int, columns: int) -> Any:
    """Contiguous, with zeros beyond its own rows and columns; x itself where that is what it is."""
    if x.shape == (rows, columns) and x.is_contiguous():
        return x
    result = x.new_empty(rows, columns)
    result[: len(x), : x.shape[1]] = x
    result[len(x) :] = 0
    result[: len(x), x.shape[1] :] = 0
    return result


def linear(a: Any, b: Any) -> Any:
    """a @ b, both without gaps."""
    return ONEDNN(a, b.T, None, "none", [], "")


def put(out: Any, result: Any, *, add: bool) -> None:
    """The rows of ``out``, of a result that may have more."""
    result = result[: len(out)]
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
