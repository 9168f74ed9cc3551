"""The mathematics of the sigmoid loss, elementwise.

    loss = pos_weight t f(-log p) + (1 - t) f(-log(1 - p)),   p = sigmoid(logit),   t -> t (1 - e) + e / 2 under
    smoothing e

f(l) = l (1 - e^-l)^gamma is the focal transform (``row_loss.focal``), or nothing. Both terms are >= 0, and with
-log p = max(-x, 0) + log1p(e^-|x|) each is a sum of non-negative terms again: exact in both tails, where
log(sigmoid(x)) is 0 or -inf.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class BinaryCoefficients:
    """Arrays have the shape of logits (views, where they were broadcast)."""

    inputs: str
    label_smoothing: float
    focal_gamma: float
    target: Any
    pos_weight: Any = None
    valid: Any = None  # bool; None = every element, but for those of the two next lines
    ignored_label: int | None = None  # a target that does not count either, for kernels that know it when they read it
    weight: Any = None  # what an element counts, where that is not left to the caller's upstream factor
    totals: tuple[int, float] | None = None  # how many elements count, and their weight, where one look has told

    def elements(self, block: Any) -> BinaryCoefficients:
        """The data of a block of elements: ``block`` is an index that keeps views."""

        def part(value: Any) -> Any:
            return None if value is None else value[block]

        names = ("target", "pos_weight", "valid", "weight")
        return dataclasses.replace(self, **{name: part(getattr(self, name)) for name in names})


def sigmoid_losses(xp: Any, x: Any, inputs: str) -> tuple[Any, Any]:
    """(-log p, -log(1 - p)) of the positive class, each a sum of non-negative terms and exact in both tails."""
    if inputs == "logits":
        tail = xp.log1p(xp.exp(-xp.abs(x)))
        return xp.maximum(-x, 0.0) + tail, xp.maximum(x, 0.0) + tail
    if inputs == "probs":
        return -xp.log(x), -xp.log1p(-x)
    # log(1 - e^x) by the form that does not cancel: Maechler 2012, "Accurately computing log(1 - exp(-|a|))".
    near_one = x > -0.6931471805599453
    return -x, -xp.where(near_one, xp.log(-xp.expm1(x)), xp.log1p(-xp.exp(x)))


def sigmoid_slopes(xp: Any, x: Any, inputs: str) -> tuple[Any, Any]:
    """Derivatives of ``sigmoid_losses`` to x."""
    if inputs == "logits":
        decay = xp.exp(-xp.abs(x))
        larger, smaller = 1.0 / (1.0 + decay), decay / (1.0 + decay)
        return -xp.where(x >= 0, smaller, larger), xp.where(x >= 0, larger, smaller)
    if inputs == "probs":
        return -1.0 / x, 1.0 / (1.0 - x)
    return -xp.ones_like(x), xp.exp(x) / xp.abs(xp.expm1(x))


def sigmoid_curvatures(xp: Any, x: Any, inputs: str) -> tuple[Any, Any]:
    """Second derivatives of ``sigmoid_losses`` to x; p (1 - p) for logits."""
    if inputs == "logits":
        decay = xp.exp(-xp.abs(x))
        curvature = decay / (1.0 + decay) ** 2
        return curvature, curvature
    if inputs == "probs":
        return 1.0 / (x * x), 1.0 / ((1.0 - x) * (1.0 - x))
    return xp.zeros_like(x), xp.exp(x) / xp.expm1(x) ** 2


def binary_measure(xp: Any, c: BinaryCoefficients, like: Any) -> tuple[Any, Any]:
    """Coefficients of -log p and -log(1 - p): pos_weight t and 1 - t, after smoothing."""
    target = xp.astype(c.target, like.dtype)
    if c.valid is not None:
        target = xp.where(c.valid, target, 0.0)
    keep, half = 1.0 - c.label_smoothing, 0.5 * c.label_smoothing
    positive, negative = keep * target + half, keep * (1.0 - target) + half
    return (positive if c.pos_weight is None else positive * c.pos_weight), negative
