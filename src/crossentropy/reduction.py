"""none / sum / mean, denominators and units.

A row's loss counts ``row_weight / denominator / unit`` times in the result, and its gradient is multiplied by the same
number, so that value and gradient always belong to the same function. Sums are taken in the working precision in a
fixed order.
"""

from __future__ import annotations

import math
from typing import Any

from crossentropy.arrays import check_non_negative

NATS_PER_UNIT = {"nats": 1.0, "bits": math.log(2.0)}


def denominator(
    xp: Any, options: Any, shape: tuple[int, ...], row_weight: Any, valid: Any, mass: Any, work: Any
) -> Any:
    """What "mean" divides by: a number, or an array that divides each row's loss (an array given as ``normalizer``).

    ``mass`` is m_i: array (rows,) or the same number for every row.
    """
    if options.reduction != "mean":
        return 1.0
    if not isinstance(options.normalizer, str):
        given = xp.asarray(options.normalizer)
        check_non_negative(xp, "normalizer", given)
        given = xp.astype(given, work)
        if math.prod(given.shape) == 1:
            return xp.reshape(given, ())
        try:
            return xp.reshape(xp.broadcast_to(given, shape), (-1,))
        except ValueError:
            raise ValueError(
                f"normalizer must be a number or broadcast to the rows, {shape}, got {tuple(given.shape)}"
            ) from None
    rows = math.prod(shape)
    if options.normalizer == "rows":
        return rows if valid is None else xp.sum(xp.astype(valid, work))
    counts = mass if row_weight is None else xp.reshape(row_weight, (-1,)) * mass
    if getattr(counts, "ndim", 0) == 0 and valid is None:
        return rows * counts
    counts = xp.broadcast_to(xp.asarray(counts, dtype=work), (rows,))
    if valid is not None:
        counts = xp.where(xp.reshape(valid, (-1,)), counts, 0.0)
    return xp.sum(counts)


def reciprocal(xp: Any, value: Any, work: Any) -> Any:
    """1 / value, and 0 for 0: a mean over nothing is 0."""
    value = xp.asarray(value, dtype=work)
    return xp.where(value == 0, 0.0, 1.0 / xp.where(value == 0, 1.0, value))


def upstream(xp: Any, options: Any, row_weight: Any, denominator_: Any, work: Any) -> Any:
    """The factor of each row's gradient: a number or (rows,)."""
    factor = reciprocal(xp, denominator_, work) / NATS_PER_UNIT[options.unit]
    return factor if row_weight is None else row_weight * factor


def reduce_rows(xp: Any, losses: Any, options: Any, row_weight: Any, denominator_: Any) -> Any:
    """Row losses (rows,), 0 for ignored rows -> the value; (rows,) for "none"."""
    if row_weight is not None:
        # An ignored row has weight 0 and loss 0, never 0 x inf.
        losses = losses * row_weight
    unit = NATS_PER_UNIT[options.unit]
    if options.reduction == "none":
        return losses / unit
    if getattr(denominator_, "ndim", 0) == 1:
        return xp.sum(xp.where(denominator_ == 0, 0.0, losses / denominator_)) / unit
    total = xp.sum(losses)
    return xp.where(denominator_ == 0, 0.0, total / denominator_) / unit
