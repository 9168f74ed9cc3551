"""Targets and options of the sigmoid loss as the data of its elementwise form (``binary_loss``)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from crossentropy.arrays import (
    LARGEST,
    check_non_negative,
    equals,
    is_boolean,
    is_floating,
    is_integer,
    known_any,
    possible_any,
    probability_error,
    unravel,
    values_known,
)
from crossentropy.binary_loss import BinaryCoefficients
from crossentropy.options import BinaryOptions

PROBABILITIES = {"probs": (0.0, 1.0), "log_probs": (-math.inf, 0.0)}  # the range of each, by ``inputs``


def binary_coefficients(
    xp: Any,
    logits: Any,
    target: Any,
    options: BinaryOptions,
    work_dtype: Any,
    within: Callable[..., int | None] | None = None,
    *,
    as_given: bool = False,
) -> tuple[BinaryCoefficients, Any]:
    """Coefficients and row weights (or None) of a target for logits.

    ``within(array, low, high, ignored, nan=, ends=)`` is one look of a kernel: how many entries are ignored, or None
    where another lies outside (is not NaN, is neither low nor high), or the kernel cannot tell; then it is looked for
    here.
    ``as_given``: for a caller whose kernel knows an ignored target and a weight of 0 when it reads them. The weights
    are among the coefficients, too, and ``valid`` is there only where one look did not tell.

    Raises TypeError or ValueError naming the argument, the position and the value.
    """
    shape = tuple(logits.shape)
    target = xp.asarray(target)
    if tuple(target.shape) != shape:
        raise ValueError(
            f"target has shape {tuple(target.shape)} for logits of shape {shape}: the binary loss needs one "
            "target per logit, and does not broadcast"
        )
    if not (is_floating(target) or is_integer(target) or is_boolean(target)):
        raise TypeError(f"target must hold numbers in [0, 1] or booleans, got dtype {target.dtype}")

    def look(array: Any, *limits: Any, **how: Any) -> int | None:
        return None if within is None else within(array, *limits, **how)

    def weights(name: str) -> tuple[Any, int | None]:
        """Of the shape of the logits; and how many of the entries given are 0, if one look tells."""
        value = getattr(options, name)
        if value is None:
            return None, 0
        value = xp.asarray(value)
        zeros = look(value, 0.0, LARGEST, 0) if as_given else None
        if zeros is None:
            check_non_negative(xp, name, value)
        try:
            return xp.broadcast_to(value if as_given else xp.astype(value, work_dtype), shape), zeros
        except ValueError:
            raise ValueError(
                f"{name} must broadcast to the shape of logits, {shape}, got {tuple(value.shape)}"
            ) from None

    row_weight, zeros = weights("row_weight")
    ignored = None
    if is_boolean(target):
        ignored = 0
    elif is_double(options.ignore_index):
        ignored = look(target, 0.0, 1.0, options.ignore_index, ends=bool(options.focal_gamma))
    valid, totals, ignored_label = None, None, None
    if as_given and ignored is not None and zeros is not None and not (ignored and row_weight is not None):
        ignored_label = options.ignore_index if ignored else None
        totals = totals_of(xp, options.row_weight, math.prod(shape), zeros, ignored)
    else:
        if row_weight is not None and possible_any(xp, row_weight == 0):
            valid = row_weight != 0
        if options.ignore_index is not None and not is_boolean(target) and ignored != 0:
            counted = ~equals(xp, target, options.ignore_index)
            if possible_any(xp, ~counted):
                valid = counted if valid is None else valid & counted
    if ignored is None:
        check_binary_target(xp, target, valid, options)
    coefficients = BinaryCoefficients(
        inputs=options.inputs,
        label_smoothing=options.label_smoothing,
        focal_gamma=options.focal_gamma,
        target=target,
        pos_weight=weights("pos_weight")[0],
        valid=valid,
        ignored_label=ignored_label,
        weight=row_weight if as_given else None,
        totals=totals,
    )
    if options.inputs != "logits" and (
        totals is None or look(logits, *PROBABILITIES[options.inputs], nan=True) is None
    ):
        check_binary_probabilities(xp, logits, explicit_elements(coefficients))
    return coefficients, row_weight


def explicit_elements(c: BinaryCoefficients) -> BinaryCoefficients:
    """What does not count, by its target or its weight, as array code reads it."""
    valid = c.valid
    if c.ignored_label is not None:
        counts = c.target != c.ignored_label
        valid = counts if valid is None else valid & counts
    if c.weight is not None:
        valid = c.weight != 0 if valid is None else valid & (c.weight != 0)
    return dataclasses.replace(c, valid=valid, ignored_label=None)


def is_double(number: int | None) -> bool:
    """Is the integer a double, too, as the kernels take it?"""
    try:
        return number is None or float(number) == number
    except OverflowError:
        return False


def totals_of(xp: Any, row_weight: Any, count: int, zeros: int, ignored: int) -> tuple[int, float]:
    """How many elements count, and their weight: without ``ignored`` ones, or with the weights given, 0 or not."""
    if row_weight is None:
        return count - ignored, float(count - ignored)
    given = xp.asarray(row_weight)
    each = count // max(1, math.prod(given.shape))
    return count - each * zeros, each * float(xp.sum(given, dtype=float))


def check_binary_target(xp: Any, target: Any, valid: Any, options: BinaryOptions) -> None:
    """ValueError for the target of an element that counts and is no probability; under focal loss, neither 0 nor 1."""
    bad = ~((target >= 0) & (target <= 1))
    if options.focal_gamma:
        bad = (target != 0) & (target != 1)
    if valid is not None:
        bad = bad & valid
    if known_any(xp, bad):
        first = int(xp.argmax(xp.reshape(bad, (-1,))))
        value = float(xp.reshape(target, (-1,))[first])
        where = f"target{unravel(first, tuple(target.shape))} = {value}"
        if options.focal_gamma and 0 < value < 1:
            raise ValueError(
                f"focal_gamma={options.focal_gamma} and a soft target have no joint meaning: {where} is neither 0 nor 1"
            )
        raise ValueError(f"{where} is outside [0, 1]; the binary target is the probability of the positive class")


def check_binary_probabilities(xp: Any, logits: Any, coefficients: BinaryCoefficients) -> None:
    """ValueError for a probability (or log-probability) of an element that counts and is none."""
    if not values_known(logits):
        return
    low, high = PROBABILITIES[coefficients.inputs]
    bad = (logits < low) | (logits > high)
    if coefficients.valid is not None:
        bad = bad & coefficients.valid
    if known_any(xp, bad):
        first = int(xp.argmax(xp.reshape(bad, (-1,))))
        value = float(xp.reshape(logits, (-1,))[first])
        raise ValueError(probability_error(coefficients.inputs, unravel(first, tuple(logits.shape)), value))
