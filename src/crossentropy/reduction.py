"""none / sum / mean, denominators and units.

A row's loss counts ``row_weight / denominator / unit`` times in the result, and its gradient is multiplied by the same
number, so that value and gradient always belong to the same function. Sums are taken in the working precision in a
fixed order.
"""

from __future__ import annotations

import math
from typing import Any

from crossentropy.arrays import check_non_negative, is_boolean, values_known
from crossentropy.row_loss import times

NATS_PER_UNIT = {"nats": 1.0, "bits": math.log(2.0)}


def finite(total: Any) -> Any:
    """ValueError where finite weights add up to more than a float holds: each share of the mean would be a silent 0."""
    if isinstance(total, float) and total == math.inf:
        raise ValueError(
            "the weights of the rows that count add up to infinity; divide row_weight or class_weight by a number"
        )
    return total


def near_one(number: float) -> float:
    """The power of two that brings a positive number near 1, as far as it has an inverse; 1 for other numbers."""
    if not 0.0 < number < math.inf:
        return 1.0
    return math.ldexp(1.0, -max(-1000, min(1000, math.frexp(number)[1])))


def of_valid(values: Any, valid: Any) -> Any:
    """(rows,) without the ignored ones, so that a sum has the bits of the rest alone; under a tracer they are 0."""
    if valid is None or not values_known(valid):
        return values
    return values[valid]


def value_of(xp: Any, losses: Any, valid: Any, upstream: Any, total: bool) -> Any:
    """upstream_i loss_i, or their sum, which has the bits of the rows that count alone."""
    if not total:
        return times(xp, upstream, losses)
    if upstream.ndim == 0:
        return times(xp, upstream, xp.sum(of_valid(losses, valid)))
    # The largest factor last, so that rows of equal weight have the bits of rows without weights.
    top = xp.max(upstream, axis=0) if upstream.shape[0] else xp.sum(upstream)
    scale = xp.where(top > 0, top, 1.0)
    share = xp.where(top > 0, upstream / scale, upstream)
    return times(xp, scale, xp.sum(of_valid(times(xp, share, losses), valid)))


class Reduction:
    """How the row losses of one call become its value, and what each row's gradient counts."""

    def __init__(
        self,
        xp: Any,
        options: Any,
        shape: tuple[int, ...],
        row_weight: Any,
        valid: Any,
        mass: Any,
        work: Any,
        totals: Any = None,
    ) -> None:
        """``row_weight`` and ``valid`` are (rows,) or None; ``mass`` and ``totals`` as in ``denominator``."""
        self.xp, self.options, self.shape, self.row_weight, self.valid = xp, options, shape, row_weight, valid
        self.denominator = denominator(xp, options, shape, row_weight, valid, mass, work, totals)
        # Is the value made of one sum, that of row_weight x loss?
        self.is_total = options.reduction != "none" and isinstance(self.denominator, float)

    def upstream(self) -> Any:
        """The factor of each row's gradient: a number or (rows,)."""
        return upstream(self.xp, self.options, self.row_weight, self.denominator)

    def of_total(self, total: Any) -> Any:
        """The value from the sum of row_weight x loss over the rows that count."""
        return divide(self.xp, total, self.denominator) / NATS_PER_UNIT[self.options.unit]

    def of_losses(self, losses: Any) -> Any:
        """The value from (rows,) losses, 0 for ignored rows; in the shape of the result."""
        value = reduce_rows(self.xp, losses, self.options, self.row_weight, self.valid, self.denominator)
        return self.xp.reshape(value, self.shape if self.options.reduction == "none" else ())


def denominator(
    xp: Any,
    options: Any,
    shape: tuple[int, ...],
    row_weight: Any,
    valid: Any,
    mass: Any,
    work: Any,
    totals: Any = None,
) -> Any:
    """What "mean" divides by: a number, or an array that divides each row's loss (an array given as ``normalizer``).

    ``mass`` is m_i: array (rows,) or the same number for every row. Where a kernel has added up these numbers already,
    ``totals`` has them: how many rows count, and their weight.
    """
    if options.reduction != "mean":
        return 1.0
    if not isinstance(options.normalizer, str):
        given = xp.asarray(options.normalizer)
        if is_boolean(given):
            raise TypeError('normalizer must be "weight", "rows", a number or an array of numbers, got booleans')
        check_non_negative(xp, "normalizer", given)
        given = xp.astype(given, work)
        if math.prod(given.shape) == 1:
            return xp.reshape(given, ())[()]
        try:
            return xp.reshape(xp.broadcast_to(given, shape), (-1,))
        except ValueError:
            raise ValueError(
                f"normalizer must be a number or broadcast to the rows, {shape}, got {tuple(given.shape)}"
            ) from None
    if totals is not None:
        counted, weight = totals
        return float(counted) if options.normalizer == "rows" else finite(weight)
    rows = math.prod(shape)
    if options.normalizer == "rows":
        return float(rows) if valid is None else xp.sum(xp.astype(valid, work))
    counts = mass if row_weight is None else xp.reshape(row_weight, (-1,)) * mass
    if getattr(counts, "ndim", 0) == 0 and valid is None:
        return finite(float(rows) * counts)
    counts = xp.broadcast_to(xp.asarray(counts, dtype=work), (rows,))
    if valid is not None:
        valid = xp.reshape(valid, (-1,))
        counts = of_valid(xp.where(valid, counts, 0.0), valid)
    return finite(xp.sum(counts))


def divide(xp: Any, value: Any, denominator_: Any) -> Any:
    """value / denominator, and 0 for a denominator of 0: a mean over nothing is 0."""
    if isinstance(denominator_, float):
        if denominator_:
            return value / denominator_
        return 0.0 if isinstance(value, float) else xp.zeros_like(value)
    return xp.where(denominator_ == 0, 0.0, value / xp.where(denominator_ == 0, 1.0, denominator_))


def upstream(xp: Any, options: Any, row_weight: Any, denominator_: Any) -> Any:
    """The factor of each row's gradient: a number or (rows,)."""
    # row_weight / denominator and not row_weight x (1 / denominator): for denormal weights the latter is infinite.
    return divide(xp, 1.0 if row_weight is None else row_weight, denominator_) / NATS_PER_UNIT[options.unit]


def reduce_rows(xp: Any, losses: Any, options: Any, row_weight: Any, valid: Any, denominator_: Any) -> Any:
    """Row losses (rows,), 0 for ignored rows -> the value; (rows,) for "none"."""
    if row_weight is not None:
        # An ignored row has weight 0 and loss 0, never 0 x inf.
        losses = losses * row_weight
    unit = NATS_PER_UNIT[options.unit]
    if options.reduction == "none":
        return losses / unit
    if getattr(denominator_, "ndim", 0) == 1:
        return xp.sum(of_valid(divide(xp, losses, denominator_), valid)) / unit
    return divide(xp, xp.sum(of_valid(losses, valid)), denominator_) / unit
