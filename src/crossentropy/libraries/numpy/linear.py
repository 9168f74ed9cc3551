"""The loss of a linear classifier on NumPy arrays: its arguments, and the products by ``np.matmul``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from crossentropy.arrays import Layout, check_apart
from crossentropy.libraries.numpy.conversion import WORK, as_floating, xp
from crossentropy.libraries.numpy.losses import Rows, as_result, quiet, shaped_summary, summary_of
from crossentropy.libraries.numpy.output import Output
from crossentropy.linear_chunks import (
    MEMORY_BUDGET,
    ChosenRows,
    Gradients,
    LinearRows,
    linear_layout,
    within,
)
from crossentropy.options import LinearOptions, LossOptions
from crossentropy.row_coefficients import RowCoefficients, explicit
from crossentropy.row_loss import RowStatistics, row_loss

# NumPy cannot add a product to an array: it goes here first, piece by piece. In a core's cache, and large enough that
# the product takes the time that it takes in one piece.
SCRATCH = 4_000_000


class Head(LinearRows):
    """The chunks of one call, of NumPy arrays."""

    xp, work_float64 = xp, WORK

    def __init__(
        self,
        features: np.ndarray,
        weight: np.ndarray,
        bias: Any,
        c: RowCoefficients,
        layout: Layout,
        counted: Any,
        options: LossOptions,
        budget: int | None,
        work: np.dtype,
    ) -> None:
        self.options, self.work = options, work
        budget = MEMORY_BUDGET if budget is None else budget
        self.scratch = min(SCRATCH, budget // 8)
        super().__init__(features, weight, bias, c, layout, counted, budget)
        self.sum = np.empty(self.scratch // self.work.itemsize, self.work)

    def entry_bytes(self) -> int:
        return self.work.itemsize

    def empty(self, rows: int, columns: int) -> np.ndarray:
        return np.empty((rows, columns), self.work)

    def ones(self, rows: int, columns: int) -> np.ndarray:
        return np.ones((rows, columns), self.work)

    def wide(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self.work, copy=False)

    def product(self, a: np.ndarray, b: np.ndarray, out: np.ndarray, *, add: bool = False) -> None:
        if not add:
            np.matmul(a, b, out=out)
            return
        columns = b.shape[1]
        for block in within(len(a), max(1, self.sum.size // max(1, columns))):
            rows = block.stop - block.start
            part = self.sum[: rows * columns] if rows * columns <= self.sum.size else np.empty(columns, self.work)
            part = part.reshape(rows, columns)
            np.matmul(a[block], b, out=part)
            out[block] += part

    def of_chunk(self, logits: np.ndarray, c: RowCoefficients, rows: Any, *, every: bool = False) -> Rows:
        chunk = Rows(logits, ChosenRows(self.layout, rows, len(logits)), c, None, self.options)
        chunk.check_inputs(every=every)
        return chunk

    def kernel(self, logits: np.ndarray, c: RowCoefficients, rows: Any, upstream: Any, gradient: Any) -> np.ndarray:
        return self.of_chunk(logits, c, rows).losses(upstream, gradient)

    def statistics(self) -> Iterator[tuple[Any, RowStatistics, RowCoefficients]]:
        """Statistics of the rows of each chunk or of a block of it, with what entropy and prediction need."""
        buffer = self.empty(min(self.chunk.rows, self.count), self.chunk.classes)
        for rows, c, features in self.chunks():
            if self.holds_whole_rows:
                logits = self.logits(features, buffer)
                for block, statistics, piece in self.of_chunk(logits, c, rows, every=True).summaries():
                    place = slice(*(rows.start + edge for edge in block.indices(len(logits))[:2]))
                    yield place, statistics, piece
            else:
                yield rows, self.merged(dataclasses.replace(c, valid=None), features, buffer, summary=True), c


class Problem:
    """One call: its arrays, with what the target and the options mean for all rows."""

    def __init__(
        self, features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions, *, summary: bool = False
    ) -> None:
        features, weight = as_floating("features", features), as_floating("weight", weight)
        bias = None if bias is None else as_floating("bias", bias)
        self.given = [array for array in (features, weight, bias) if array is not None]
        self.layout = linear_layout(features.shape, weight.shape, None if bias is None else bias.shape)
        is_double = any(array.dtype == WORK for array in (features, weight))
        self.work = np.dtype(WORK if is_double else np.float32)
        # The logits are asked for their shape alone.
        stand_in = np.broadcast_to(np.zeros((), self.work), self.layout.shape)
        self.rows = Rows.unread(stand_in, target, options, summary=summary)
        self.rows.check_target()
        c = self.rows.coefficients
        valid = None if summary or (c.valid is None and c.ignored_label is None) else explicit(xp, c, WORK).valid
        self.head = Head(
            product_operand(features.reshape(self.layout.count, weight.shape[1])),
            product_operand(weight),
            bias,
            c,
            self.layout,
            None if valid is None or valid.all() else np.flatnonzero(valid),
            self.rows.options,
            vars(self.rows.options).get("memory_budget"),
            self.work,
        )

    def value(self, outputs: Outputs | None = None) -> Any:
        """The reduced loss; its gradients go to ``outputs``."""
        how, losses = self.rows.reduction(), np.zeros(self.layout.count)
        upstream, gradients = (None, None) if outputs is None else (how.upstream(), outputs.sums(self.head))
        for rows, part in self.head.losses(upstream, gradients):
            losses[rows] = part
        if outputs is not None:
            outputs.deliver()
        return as_result(how.of_losses(losses), self.work)


class Outputs:
    """The arrays of the gradients: the caller's ``out``, or fresh ones."""

    def __init__(self, out: Any, given: list[np.ndarray], target: Any) -> None:
        names = ("features", "weight", "bias")[: len(given)]
        if out is None:
            out = (None,) * len(given)
        elif not isinstance(out, tuple | list):
            raise TypeError(f"out must be ({', '.join(names)}), got {type(out).__name__}")
        elif len(out) < len(given) or any(extra is not None for extra in out[len(given) :]):
            raise ValueError(f"out must be ({', '.join(names)}), got {len(out)} entries")
        check_apart([(name, part) for name, part in zip(names, out, strict=False) if isinstance(part, np.ndarray)])
        # Views of the inputs: none is read for the last time before its gradient is written.
        inputs = [*(array[...] for array in given), target]
        self.outputs = [
            Output(part, array, *inputs, name=name) for part, array, name in zip(out, given, names, strict=False)
        ]

    def sums(self, head: Head) -> Gradients:
        """What the chunks add to: the arrays themselves where the products can write there."""
        features, weight, *bias = (output.buffer for output in self.outputs)
        rows = features.reshape(head.features.shape)
        if head.counted is not None:
            rows[...] = 0
        self.rows, self.weight = rows, weight
        if weight.dtype != head.work or not weight.flags.c_contiguous:
            self.weight = np.empty(weight.shape, head.work)
        if not head.count:
            self.weight[...] = 0
        self.bias = np.zeros(bias[0].shape) if bias else None
        return Gradients(self.rows, self.weight, self.bias)

    def deliver(self) -> None:
        features, weight, *bias = self.outputs
        if not np.may_share_memory(self.rows, features.buffer):
            features.buffer[...] = self.rows.reshape(features.buffer.shape)
        if self.weight is not weight.buffer:
            weight.buffer[...] = self.weight
        if bias:
            bias[0].buffer[...] = self.bias
        for output in self.outputs:
            output.deliver()


def product_operand(array: np.ndarray) -> np.ndarray:
    """The matrix in a layout that the product takes as it is; ``np.matmul`` is a plain loop for any other."""
    strides = sorted(array.strides)
    fits = array.flags.aligned and strides[0] == array.itemsize and strides[1] >= min(array.shape) * array.itemsize
    return array if fits else np.ascontiguousarray(array)


@quiet
def linear_cross_entropy(features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions) -> Any:
    return Problem(features, weight, target, bias, options).value()


@quiet
def linear_cross_entropy_value_and_grad(
    features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions, out: Any
) -> tuple[Any, list[np.ndarray]]:
    problem = Problem(features, weight, target, bias, options)
    outputs = Outputs(out, problem.given, target)
    value = problem.value(outputs)
    return value, [output.array for output in outputs.outputs]


@quiet
def linear_row_summary(features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions) -> Any:
    """lse, log-probability of the target (None without one), entropy, prediction; each of the shape of the rows."""
    problem = Problem(features, weight, target, bias, options, summary=True)
    count = problem.layout.count
    lse, entropy, loss, prediction = np.empty(count), np.empty(count), np.empty(count), np.empty(count, np.int64)
    for rows, statistics, c in problem.head.statistics():
        lse[rows], entropy[rows], prediction[rows] = summary_of(statistics)
        loss[rows] = 0.0 if target is None else row_loss(xp, statistics, c)
    return shaped_summary(lse, loss, entropy, prediction, target, options, problem.work, problem.layout.row_shape)
