"""Cross-entropy of logits = features @ weight.T + bias that never exist all at once.

The logits of one chunk of rows are multiplied into a buffer, become losses there, and, in place, their own gradient G;
that is multiplied on into the gradients

    d features = G weight,   d weight = sum over chunks of G^T features,   d bias = sum over rows of G

and the buffer serves the next chunk. Rows that do not count are left out before the product, so that nothing in them is
read. What a target and options mean is decided before, for all rows at once: a chunk gets its part of the coefficients.

Where the budget does not hold a single row, its classes come in blocks, whose statistics merge (``row_loss``); the
blocks' logits are multiplied a second time for the gradient.

A subclass of ``LinearRows`` multiplies with its library and asks that library's kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from crossentropy.arrays import Layout
from crossentropy.kernels import generic
from crossentropy.row_coefficients import explicit
from crossentropy.row_loss import RowCoefficients, RowStatistics, merge, row_loss

# With 256 MB the three products took 1.0 times what they take on whole arrays, with 64 MB 1.19 times: the fewer rows,
# the more often the weight is read.
MEMORY_BUDGET = 256_000_000
# Not more is taken than is of use: with so many rows the weight is read seldom enough, and memory never written before
# costs time. Forward + backward over the bare products, all by torch.mm, medians of 5 and 2, 2 threads: 1,024 rows of
# 50,257 classes 1.20 in chunks of 256 rows, 1.07 of 512, 1.11 of 1,024; 2,048 of 128,256 classes 1.27, 1.16, 1.13 (into
# results as fresh as ours the bare products themselves took 1.06 and 1.20). Small rows still fill this many bytes, so
# that chunks are few.
ENOUGH_ROWS = 512
ENOUGH_MEMORY = 64_000_000
# Rows do not come in smaller pieces: each piece costs a round of small operations.
CLASSES_AT_LEAST = 256
# Larger pieces of a row bring nothing: their temporaries leave the caches.
CLASSES_AT_MOST = 1 << 15
# The plain form works on a piece in about this many float64 arrays.
TEMPORARIES = 12


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The extent of what is computed at a time: rows, and classes (all of them, or a block)."""

    rows: int
    classes: int


def chunk_within(budget: int, count: int, classes: int, entry: int, per_row: int, fixed: int) -> Chunk:
    """The largest chunk of ``count`` rows whose working memory the budget holds, in bytes.

    ``entry``: of a logit; ``per_row``: of what else belongs to a row; ``fixed``: of what every chunk needs. ValueError
    where not even the smallest chunk fits.
    """
    most = (budget - fixed) // (classes * entry + per_row)
    if most >= 1 or not count:
        # Chunks of one size: the last one is not left with a few rows.
        chunks = max(1, -(-count // most)) if count else 1
        return Chunk(max(1, -(-count // chunks)), classes)
    piece = entry + 8 * TEMPORARIES
    at_most = (budget - fixed - per_row) // piece
    at_least = min(classes, CLASSES_AT_LEAST)
    if at_most < at_least:
        least = min(classes * entry, at_least * piece) + per_row + fixed
        raise ValueError(
            f"memory_budget={budget:,} is too small: {at_least} of {classes} classes of one row take {least:,} bytes"
        )
    block = min(classes, at_most, max(at_least, CLASSES_AT_MOST))
    return Chunk(max(1, min(count, (budget - fixed) // (block * piece + per_row))), block)


def linear_layout(features: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...] | None) -> Layout:
    """The layout of features @ weight.T + bias, from the three shapes."""
    if len(weight) != 2:
        raise ValueError(f"weight must have shape (classes, D), got {weight}")
    if not features:
        raise ValueError("features must have shape (..., D), got a single number")
    classes, width = weight
    if features[-1] != width:
        hint = "; is weight transposed?" if features[-1] == classes else ""
        raise ValueError(
            f"features of shape {features} have D = {features[-1]} and weight of shape {weight} has D = {width}: "
            f"the last axis of both is D{hint}"
        )
    if bias is not None and bias != (classes,):
        raise ValueError(f"bias must have shape ({classes},), one entry per row of weight, got {bias}")
    return Layout.of((*features[:-1], classes), len(features) - 1, "features @ weight.T")


def with_bias(c: RowCoefficients, bias: Any) -> RowCoefficients:
    """Coefficients for the products alone: (x + bias) / temperature + class_bias is x / temperature + another bias.

    In the working precision, where a bias that is added to the products would be rounded with them.
    """
    bias = bias / c.temperature
    return dataclasses.replace(c, class_bias=bias if c.class_bias is None else c.class_bias + bias)


class ChosenRows(Layout):
    """The layout of a chunk, which knows where its rows lie in the caller's array."""

    def __init__(self, whole: Layout, rows: Any, count: int) -> None:
        super().__init__((count, whole.classes), 1)
        self.whole, self.rows = whole, rows

    def position(self, row: int, entry: int | None = None) -> str:
        row = self.rows.start + row if isinstance(self.rows, slice) else int(self.rows[row])
        return self.whole.position(row, entry)


@dataclasses.dataclass
class Gradients:
    """What the chunks fill or add to; None where nobody wants it.

    ``features`` (rows, D) is 0 where rows do not count; ``weight`` (classes, D), of the dtype of the products, is not
    read before it is written, unless there are no rows; ``bias`` (classes,) is 0.
    """

    features: Any = None
    weight: Any = None
    bias: Any = None


class LinearRows:
    """The rows of one call: features (rows, D), weight (classes, D), bias (classes,), the coefficients of their losses.

    ``counted``: the indices of the rows that count, None for all. ``work`` is the dtype of the products.
    """

    xp: Any  # the library's namespace
    work: Any
    work_float64: Any
    # Bytes of memory that the products need besides the chunk.
    scratch = 0
    # Rows of a chunk beyond which more bring nothing; None: take all that the budget holds.
    enough_rows: int | None = ENOUGH_ROWS

    def __init__(
        self,
        features: Any,
        weight: Any,
        bias: Any,
        coefficients: RowCoefficients,
        layout: Layout,
        counted: Any,
        budget: int,
    ) -> None:
        self.features, self.weight, self.layout, self.counted = features, weight, layout, counted
        self.added = None  # to the products: log-probabilities have no transform that a bias could be part of
        if bias is not None and coefficients.inputs == "logits":
            coefficients = with_bias(coefficients, self.coefficient(bias))
        elif bias is not None:
            self.added = self.wide(bias)
        self.count = layout.count if counted is None else counted.shape[0]
        width, entry = features.shape[1], self.entry_bytes()
        # Features and their gradient are copied where rows are picked or widened; so are what else has rows x classes.
        copied = counted is not None or features.dtype != self.work
        per_row = 2 * width * entry if copied else 0
        if counted is not None:
            for array in (coefficients.dense, coefficients.class_mask):
                if array is not None and array.ndim == 2 and array.shape[0] > 1:
                    per_row += layout.classes * array.dtype.itemsize
        # A weight of another dtype is widened block by block.
        fixed = self.scratch
        self.block = layout.classes
        if weight.dtype != self.work:
            self.block = max(1, min(layout.classes, budget // 8 // max(1, width * entry)))
            fixed += self.block * width * entry
        if self.enough_rows is not None:
            enough = max(ENOUGH_MEMORY, self.enough_rows * (layout.classes * entry + per_row))
            budget = min(budget, fixed + enough)
        self.chunk = chunk_within(budget, self.count, layout.classes, entry, per_row, fixed)
        if not self.holds_whole_rows:
            if coefficients.inputs != "logits":
                raise ValueError(
                    f"memory_budget={budget:,} bytes is too small: inputs={coefficients.inputs!r} takes whole rows, of "
                    f"{layout.classes * entry + per_row + fixed:,}"
                )
            coefficients = self.explicit(coefficients)
        self.coefficients = coefficients

    # -- what a library does ---------------------------------------------------------------------------------------

    def entry_bytes(self) -> int:
        """Of one number of the products."""
        raise NotImplementedError

    def empty(self, rows: int, columns: int) -> Any:
        raise NotImplementedError

    def ones(self, rows: int, columns: int) -> Any:
        raise NotImplementedError

    def wide(self, array: Any) -> Any:
        """In the dtype of the products; the array itself where it has it."""
        raise NotImplementedError

    def product(self, a: Any, b: Any, out: Any, *, add: bool = False) -> None:
        """out = a @ b, or out += a @ b."""
        raise NotImplementedError

    def coefficient(self, array: Any) -> Any:
        """As the coefficients are held, in float64."""
        return self.xp.astype(array, self.work_float64)

    def explicit(self, c: RowCoefficients) -> RowCoefficients:
        """The coefficients as arrays of the namespace, in the canonical form."""
        return explicit(self.xp, c, self.work_float64)

    def kernel(self, logits: Any, c: RowCoefficients, rows: Any, upstream: Any, gradient: Any) -> Any:
        """(rows,) losses, as the subclass adds them up; their gradient times ``upstream`` goes to ``gradient``.

        That may be the logits.
        """
        raise NotImplementedError

    def slopes(self, logits: Any) -> Any:
        """Where the gradient to these logits goes: in their place."""
        return logits

    def finished(self, losses: Any, upstream: Any) -> Any:
        """Losses of the plain form as ``kernel`` returns them."""
        return losses

    # -- the chunks ------------------------------------------------------------------------------------------------

    @property
    def holds_whole_rows(self) -> bool:
        return self.chunk.classes == self.layout.classes

    def chunks(self) -> Iterator[tuple[Any, RowCoefficients, Any]]:
        """The rows of each chunk (a slice or indices), their coefficients and their features."""
        for start in range(0, self.count, self.chunk.rows):
            rows: Any = slice(start, min(start + self.chunk.rows, self.count))
            if self.counted is not None:
                rows = self.counted[rows]
            c = self.coefficients.rows(rows)
            if self.counted is not None:
                c = dataclasses.replace(c, valid=None)
            yield rows, c, self.wide(self.features[rows])

    def multiply(self, features: Any, weight: Any, out: Any, *, add: bool = False) -> Any:
        """features @ weight.T."""
        if weight.dtype == self.work:
            self.product(features, weight.T, out, add=add)
            return out
        for block in within(out.shape[1], self.block):
            self.product(features, self.wide(weight[block]).T, out[:, block], add=add)
        return out

    def logits(self, features: Any, buffer: Any) -> Any:
        """Of whole rows, in the buffer."""
        logits = self.multiply(features, self.weight, buffer[: len(features)])
        if self.added is not None:
            logits += self.added
        return logits

    def multiply_back(self, slopes: Any, weight: Any, out: Any, *, add: bool = False) -> None:
        """slopes @ weight."""
        if weight.dtype == self.work:
            self.product(slopes, weight, out, add=add)
            return
        for block in within(slopes.shape[1], self.block):
            self.product(slopes[:, block], self.wide(weight[block]), out, add=add or block.start > 0)

    def losses(self, upstream: Any = None, gradients: Gradients | None = None) -> Iterator[tuple[Any, Any]]:
        """The rows of each chunk and their losses, once its gradients are added to ``gradients``.

        ``upstream``: the factor of each row in the gradients, a number or (rows,).
        """
        buffer = self.empty(min(self.chunk.rows, self.count), self.chunk.classes)
        every = slice(0, self.layout.classes)
        for number, (rows, c, features) in enumerate(self.chunks()):
            share = upstream if getattr(upstream, "ndim", 0) == 0 else upstream[rows]
            into = None if gradients is None else Sums(self, gradients, features, rows, is_first=number == 0)
            if not self.holds_whole_rows:
                losses = self.losses_of_blocks(c, features, share, buffer, into)
            else:
                logits = self.logits(features, buffer)
                slopes = None if into is None else self.slopes(logits)
                losses = self.kernel(logits, c, rows, share, slopes)
                if into is not None:
                    into.add(slopes, every)
            if into is not None:
                into.store()
            yield rows, losses

    # -- rows that the budget does not hold ------------------------------------------------------------------------

    def merged(self, c: RowCoefficients, features: Any, buffer: Any, *, summary: bool = False) -> RowStatistics:
        """The statistics of rows whose classes come in blocks."""
        merged = None
        for classes in within(self.layout.classes, self.chunk.classes):
            logits = self.block_logits(features, classes, buffer)
            part = generic.row_statistics(self.xp, logits, c.classes(classes), self.work_float64, summary=summary)
            if summary:
                part = dataclasses.replace(part, prediction=part.prediction + classes.start)
            merged = part if merged is None else merge(self.xp, merged, part)
        assert merged is not None  # there are classes
        return merged

    def block_logits(self, features: Any, classes: slice, buffer: Any) -> Any:
        out = buffer[: len(features), : classes.stop - classes.start]
        return self.multiply(features, self.weight[classes], out)

    def losses_of_blocks(self, c: RowCoefficients, features: Any, upstream: Any, buffer: Any, into: Sums | None) -> Any:
        statistics = self.merged(c, features, buffer)
        if into is not None:
            for classes in within(self.layout.classes, self.chunk.classes):
                logits, part = self.block_logits(features, classes, buffer), c.classes(classes)
                logits[...] = generic.row_gradient(
                    self.xp, logits, part, statistics, upstream, self.work_float64, maximum=statistics.maximum
                )
                into.add(logits, classes)
        return self.finished(row_loss(self.xp, statistics, c), upstream)


class Sums:
    """What one chunk adds to the gradients."""

    def __init__(self, rows: LinearRows, gradients: Gradients, features: Any, place: Any, *, is_first: bool) -> None:
        self.rows, self.gradients, self.features, self.place, self.is_first = rows, gradients, features, place, is_first
        target = gradients.features
        self.direct = target is not None and isinstance(place, slice) and target.dtype == rows.work
        self.part = None
        if target is not None:
            self.part = target[place] if self.direct else rows.empty(*features.shape)

    def add(self, slopes: Any, classes: slice) -> None:
        """``slopes``: the gradient to the logits of these classes."""
        rows, gradients = self.rows, self.gradients
        if gradients.weight is not None:
            rows.product(slopes.T, self.features, gradients.weight[classes], add=not self.is_first)
        if gradients.bias is not None:
            total = rows.empty(1, slopes.shape[1])
            rows.product(rows.ones(1, len(slopes)), slopes, total)
            gradients.bias[classes] += total[0]
        if self.part is not None:
            rows.multiply_back(slopes, rows.weight[classes], self.part, add=classes.start > 0)

    def store(self) -> None:
        if self.part is not None and not self.direct:
            self.gradients.features[self.place] = self.part


def within(count: int, extent: int) -> Iterator[slice]:
    """Slices of ``count`` things, ``extent`` at a time."""
    return (slice(start, min(start + extent, count)) for start in range(0, count, extent))
