"""Targets and options of the sigmoid loss as the data of its elementwise form (``binary_loss``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crossentropy.arrays import (
    check_non_negative,
    equals,
    is_boolean,
    is_floating,
    is_integer,
    known_any,
    possible_any,
    probability_error,
    unravel,
)
from crossentropy.binary_loss import BinaryCoefficients
from crossentropy.options import BinaryOptions


def binary_coefficients(
    xp: Any,
    target: Any,
    shape: tuple[int, ...],
    options: BinaryOptions,
    work_dtype: Any,
    within: Callable[..., int | None] | None = None,
) -> tuple[BinaryCoefficients, Any]:
    """Coefficients and row weights (or None) of a target for logits of this shape.

    ``within(array, low, high, ignored)`` is one look of a kernel: how many entries are ignored, or None where
    another lies outside or the kernel cannot tell; then it is looked for here.

    Raises TypeError or ValueError naming the argument, the position and the value.
    """

    def broadcast(name: str) -> Any:
        value = getattr(options, name)
        if value is None:
            return None
        value = xp.asarray(value)
        check_non_negative(xp, name, value)
        try:
            return xp.broadcast_to(xp.astype(value, work_dtype), shape)
        except ValueError:
            raise ValueError(
                f"{name} must broadcast to the shape of logits, {shape}, got {tuple(value.shape)}"
            ) from None

    target = xp.asarray(target)
    if tuple(target.shape) != shape:
        raise ValueError(
            f"target has shape {tuple(target.shape)} for logits of shape {shape}: the binary loss needs one "
            "target per logit, and does not broadcast"
        )
    if not (is_floating(target) or is_integer(target) or is_boolean(target)):
        raise TypeError(f"target must hold numbers in [0, 1] or booleans, got dtype {target.dtype}")

    row_weight, valid = broadcast("row_weight"), None
    if row_weight is not None and possible_any(xp, row_weight == 0):
        valid = row_weight != 0
    ignored = None
    if within is not None and not options.focal_gamma:
        ignored = 0 if is_boolean(target) else within(target, 0.0, 1.0, options.ignore_index)
    if options.ignore_index is not None and not is_boolean(target) and ignored != 0:
        counted = ~equals(xp, target, options.ignore_index)
        if possible_any(xp, ~counted):
            valid = counted if valid is None else valid & counted

    if ignored is None:
        check_binary_target(xp, target, valid, options)
    return (
        BinaryCoefficients(
            inputs=options.inputs,
            label_smoothing=options.label_smoothing,
            focal_gamma=options.focal_gamma,
            target=target,
            pos_weight=broadcast("pos_weight"),
            valid=valid,
        ),
        row_weight,
    )


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
    if coefficients.inputs == "logits":
        return
    bad = (logits > 0) if coefficients.inputs == "log_probs" else (logits < 0) | (logits > 1)
    if coefficients.valid is not None:
        bad = bad & coefficients.valid
    if known_any(xp, bad):
        first = int(xp.argmax(xp.reshape(bad, (-1,))))
        value = float(xp.reshape(logits, (-1,))[first])
        raise ValueError(probability_error(coefficients.inputs, unravel(first, tuple(logits.shape)), value))
