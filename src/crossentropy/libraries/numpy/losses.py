"""The softmax losses of NumPy arrays: blocks of rows, dtypes of results. The arithmetic is in ``kernels``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from crossentropy import arguments, reduction
from crossentropy.arrays import LARGEST, Layout, is_boolean, layout_of
from crossentropy.binary_coefficients import PROBABILITIES
from crossentropy.kernels import generic, native
from crossentropy.libraries.numpy.conversion import WORK, as_array, as_floating, result_dtype, xp
from crossentropy.libraries.numpy.output import Output
from crossentropy.options import LossOptions
from crossentropy.reduction import Reduction
from crossentropy.row_coefficients import (
    RowCoefficients,
    check_dense_target,
    check_probabilities,
    explicit,
    row_coefficients,
)
from crossentropy.row_loss import RowStatistics, log_sum, row_loss

# Elements per block of rows: the float64 temporaries of one block (256 kB each) stay in a core's cache.
BLOCK = 1 << 15

# Infinities and underflow are results here, defined row by row; a warning for each would be noise. As a decorator it
# costs a third of what it costs as a context.
quiet = np.errstate(all="ignore")


def blocks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, width))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


class Rows:
    """The softmax loss of one call: the logits as given and everything that belongs to them."""

    def __init__(
        self, given: np.ndarray, layout: Layout, coefficients: RowCoefficients, row_weight: Any, options: LossOptions
    ) -> None:
        self.given, self.layout, self.options = given, layout, options
        self.coefficients, self.row_weight = coefficients, row_weight
        # The C++ core, where it can compute this call.
        self.core = native.core(given, layout, coefficients, options.num_threads)
        self.labelled: native.Core | None = None  # the same for what needs the labels' entries alone
        self.looks_back = False  # is a dense target checked where the losses are not finite, and not before?
        self.found: float | None = None  # what ``total`` gives, once it has been computed

    @classmethod
    def of(
        cls,
        logits: np.ndarray,
        target: Any,
        options: LossOptions,
        gradient: Output | None = None,
        *,
        summary: bool = False,
        one_read: bool = False,
    ) -> Rows:
        """Checked, but for a dense target in ``one_read`` with the losses, which are NaN where it is none."""
        rows = cls.unread(logits, target, options, summary=summary)
        dense = rows.coefficients.dense
        if dense is None and options.inputs == "logits":
            return rows
        # Everything else that can raise does so before anything is written: `out` may be the logits themselves.
        is_read = one_read and rows.core is not None and dense is not None and native.reads_every_digit(dense, logits)
        rows.looks_back = is_read and not (gradient and gradient.replaces(logits))
        if not rows.looks_back:
            rows.check_target()
        rows.check_inputs(every=summary)
        return rows

    @classmethod
    def unread(cls, logits: np.ndarray, target: Any, options: LossOptions, *, summary: bool = False) -> Rows:
        """The same before the logits and a dense target are read."""
        layout = layout_of(logits.shape, options.axis)
        options = arguments.options(as_array, options)
        if target is not None or not summary:
            target = arguments.target(as_array, target)
        scan = None if summary else native.label_scan()
        coefficients, row_weight = row_coefficients(xp, target, layout, options, WORK, scan)
        if coefficients.class_mask is not None:  # in C order, like everything that meets the logits
            coefficients = dataclasses.replace(coefficients, class_mask=np.ascontiguousarray(coefficients.class_mask))
        return cls(logits, layout, coefficients, row_weight, options)

    def check_target(self) -> None:
        """ValueError for an entry of a dense target that is none, in a row that counts."""
        dense = self.coefficients.dense
        # The core's look at all of them, where there is a core, settles the usual case.
        if dense is None or is_boolean(dense) or native.within(dense, 0.0, LARGEST) is not None:
            return
        for block in blocks(self.layout.count, self.layout.classes):
            check_dense_target(xp, self.coefficients.rows(block), self.layout, block.start)

    def look_back(self, found: Any) -> None:
        """The check of the target where it is due after the core has read it: what it ``found`` is finite as a rule."""
        if self.looks_back and not np.all(np.isfinite(found)):
            self.check_target()

    def check_inputs(self, *, every: bool = False) -> None:
        """ValueError for a probability that is none and is read; or, with ``every``, that is not read either."""
        if self.options.inputs != "logits" and not self.has_good_inputs(every=every):
            for block, part, piece in self.blocks():
                check_probabilities(xp, part, piece, self.layout, block.start, every=every)

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """(rows, classes)."""
        return self.layout.to_rows(xp, self.given)

    def has_good_inputs(self, *, every: bool) -> bool:
        """Is there nothing that ``check_inputs`` could refuse, as the core sees it? Of labels, their entries alone."""
        inputs, c = self.options.inputs, self.coefficients
        if self.core and c.dense is None and not c.label_smoothing and not every:
            self.labelled = self.core.labelled(*PROBABILITIES[inputs])
            return self.labelled is not None
        return native.within(self.given, *PROBABILITIES[inputs], nan=True) is not None

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, RowCoefficients]]:
        for block in blocks(self.layout.count, self.layout.classes):
            yield block, self.logits[block], explicit(xp, self.coefficients.rows(block), WORK)

    def dense_mass(self, *, value_only: bool = False) -> np.ndarray:
        """m_i of the dense target."""
        c, mass = self.coefficients, np.empty(self.layout.count)
        if self.core:
            if value_only:  # then this is all that reads the target
                self.found = self.core.total(self.row_weight, dense_mass=mass)
            else:
                self.core.dense_mass(mass)
            self.look_back(mass)
            return mass
        for block in blocks(self.layout.count, self.layout.classes):
            mass[block] = generic.dense_target(xp, c.rows(block), WORK)[1].sum(axis=-1)
        return mass

    def reduction(self, *, value_only: bool = False) -> Reduction:
        coefficients, mass, totals = self.coefficients, self.coefficients.target_mass, self.coefficients.totals
        by_weight = isinstance(self.options.normalizer, str) and self.options.normalizer == "weight"
        if coefficients.dense is not None and self.options.reduction == "mean" and by_weight:
            mass = self.dense_mass(value_only=value_only)
        shape = self.layout.row_shape
        result = Reduction(xp, self.options, shape, self.row_weight, coefficients.valid, mass, WORK, totals)
        if totals is not None and not (result.is_total and self.core):
            result.valid = explicit(xp, coefficients, WORK).valid
        return result

    def value(self, gradient: Output | None = None) -> Any:
        """The reduced loss; its gradient is written into ``gradient`` where one is given."""
        how = self.reduction(value_only=gradient is None)
        core = self.labelled if self.labelled and gradient is None else self.core
        slope = () if gradient is None else (how.upstream(), gradient.buffer)
        losses: Any
        if self.found is not None:
            value = how.of_total(losses := self.found)
        elif core and how.is_total:
            value = how.of_total(losses := core.total(self.row_weight, *slope))
        else:
            losses = np.empty(self.layout.count)
            if core:
                core.losses(losses, *slope)
            elif gradient is None:
                self.generic_losses(losses)
            else:
                slopes = gradient.rows(self.layout)
                self.generic_losses(losses, how.upstream(), slopes)
                gradient.fill(self.layout, slopes)
            value = how.of_losses(losses)
        self.look_back(losses)
        if gradient is not None:
            gradient.deliver()
        return as_result(value, result_dtype(self.given))

    def losses(self, upstream: Any = None, gradient: np.ndarray | None = None) -> np.ndarray:
        """(rows,); ``gradient``, of the shape of the logits, takes upstream x derivative, and may be the logits."""
        losses = np.empty(self.layout.count)
        if self.core:
            self.core.losses(losses, upstream, gradient)
        else:
            self.generic_losses(losses, upstream, gradient)
        return losses

    def generic_losses(self, losses: np.ndarray, upstream: Any = None, slopes: np.ndarray | None = None) -> None:
        """The same by the plain form; ``slopes`` (rows, classes)."""
        for block, part, coefficients in self.blocks():
            statistics = generic.row_statistics(xp, part, coefficients, WORK)
            losses[block] = row_loss(xp, statistics, coefficients)
            if slopes is not None:
                factor = upstream[block] if np.ndim(upstream) else upstream
                slopes[block] = generic.row_gradient(xp, part, coefficients, statistics, factor, WORK)

    def summaries(self) -> Iterator[tuple[slice, RowStatistics, RowCoefficients]]:
        """Statistics of every row, with what entropy and prediction need: ignoring concerns the target alone."""
        statistics = self.core.row_statistics() if self.core else None
        if statistics is not None:
            yield slice(None), statistics, self.coefficients
            return
        for block, part, coefficients in self.blocks():
            everywhere = dataclasses.replace(coefficients, valid=None)
            yield block, generic.row_statistics(xp, part, everywhere, WORK, summary=True), coefficients


def as_result(value: Any, dtype: np.dtype) -> Any:
    """A number of the dtype, or an array."""
    return dtype.type(value) if isinstance(value, float) else value.astype(dtype)[()]


@quiet
def cross_entropy(logits: Any, target: Any, options: LossOptions) -> Any:
    return Rows.of(as_floating("logits", logits), target, options, one_read=True).value()


@quiet
def cross_entropy_value_and_grad(logits: Any, target: Any, options: LossOptions, out: Any) -> tuple[Any, np.ndarray]:
    logits = as_floating("logits", logits)
    gradient = Output(out, logits, logits, target, *vars(options).values())
    rows = Rows.of(logits, target, options, gradient, one_read=True)
    return rows.value(gradient), gradient.array


@quiet
def cross_entropy_hvp(logits: Any, target: Any, vector: Any, options: LossOptions) -> np.ndarray:
    logits, vector = as_floating("logits", logits), as_floating("vector", vector)
    if vector.shape != logits.shape:
        raise ValueError(f"vector must have the shape of logits, {logits.shape}, got {vector.shape}")
    product = Output(None, logits)
    rows = Rows.of(logits, target, options)
    upstream = rows.reduction().upstream()
    vector_rows, product_rows = rows.layout.to_rows(xp, vector), product.rows(rows.layout)
    for block, part, coefficients in rows.blocks():
        statistics = generic.row_statistics(xp, part, coefficients, WORK)
        factor = upstream[block] if np.ndim(upstream) else upstream
        product_rows[block] = generic.row_hessian_vector(
            xp, part, coefficients, statistics, vector_rows[block], factor, WORK
        )
    product.fill(rows.layout, product_rows)
    return product.deliver()


@quiet
def row_summary(logits: Any, target: Any, options: LossOptions) -> tuple[Any, Any, Any, Any]:
    """lse, log-probability of the target (None without one), entropy, prediction; each of the shape of the rows."""
    logits = as_floating("logits", logits)
    rows = Rows.of(logits, target, options, summary=True)
    count = rows.layout.count
    lse, entropy, loss, prediction = np.empty(count), np.empty(count), np.empty(count), np.empty(count, np.int64)
    for block, statistics, coefficients in rows.summaries():
        lse[block], entropy[block], prediction[block] = summary_of(statistics)
        loss[block] = 0.0 if target is None else row_loss(xp, statistics, coefficients)
    return shaped_summary(lse, loss, entropy, prediction, target, options, result_dtype(logits), rows.layout.row_shape)


def summary_of(statistics: RowStatistics) -> tuple[Any, Any, Any]:
    """lse, entropy and prediction of rows."""
    total = log_sum(xp, statistics)
    undefined = ~np.isfinite(statistics.maximum)
    lse = np.where(undefined, np.nan, statistics.maximum + total)
    entropy = np.where(undefined, np.nan, total - statistics.entropy_sum / (statistics.ties + statistics.others))
    return lse, entropy, np.where(np.isnan(entropy), -1, statistics.prediction)


def shaped_summary(
    lse: Any, loss: Any, entropy: Any, prediction: Any, target: Any, options: LossOptions, dtype: Any, shape: Any
) -> tuple[Any, Any, Any, Any]:
    unit = reduction.NATS_PER_UNIT[options.unit]

    def shaped(value: np.ndarray) -> Any:
        return np.reshape(value / unit, shape).astype(dtype)[()]

    # 0 - loss: a loss of 0 is the log-probability 0, not -0.
    target_log_prob = None if target is None else shaped(0.0 - loss)
    return shaped(lse), target_log_prob, shaped(entropy), np.reshape(prediction, shape)[()]


@quiet
def map_rows(
    function: Callable[..., Any], axis: int, keeps_classes: bool, *, probabilities: bool = False, **named: Any
) -> Any:
    """``function(xp, rows, ...)`` of float64 (rows, classes), blockwise; its result in the dtype of the arguments."""
    arrays, layout = arguments.rows(as_floating, axis, named, probabilities=probabilities)
    rows = [layout.to_rows(xp, array) for array in arrays.values()]
    dtype = np.result_type(*map(result_dtype, arrays.values()))
    result = np.empty((layout.count, layout.classes) if keeps_classes else layout.count, dtype)
    for block in blocks(layout.count, layout.classes):
        result[block] = function(xp, *(xp.astype(part[block], WORK) for part in rows))
    return layout.from_rows(xp, result) if keeps_classes else result.reshape(layout.row_shape)[()]
