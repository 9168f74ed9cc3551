"""The oracle: each loss from its definition, in mpmath, slowly.

Nothing here knows the library's canonical form, and no derivative is written down: a row's loss is a function
`loss(x)` of its inputs at high precision, a gradient is its central difference, a Hessian-vector product the mixed
one. `error_scales.py` says how large the terms are that make up a result.

The rules that are definitions and not arithmetic:
* the result at a logit -inf is the limit as that logit goes to -inf (so an infinite loss has a finite gradient);
* a masked class does not depend on its logit: derivative 0;
* an ignored row is not there: value 0 under "none", gradient 0, and it does not enter a denominator.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import mpmath
import numpy as np
from mpmath import mp, mpf

# Step of the differences. Their error is about STEP^2 relative to the third derivative (which shrinks with the
# probabilities as the gradient does), so 1e-20 leaves 40 digits; the working precision pays for the division by STEP^2.
DIGITS = 80
mp.dps = DIGITS
STEP = mpf(10) ** -20
# The smallest positive float64 is 5e-324: nothing below needs to be told from zero.
SMALLEST_EXPONENT = 330

Row = tuple[mpf, ...]


def exact(value: Any) -> mpf:
    """The stored value of a number of any dtype, without rounding."""
    return mpf(float(value))


def exact_array(values: Any) -> np.ndarray:
    values = np.asarray(values)
    out = np.empty(values.shape, dtype=object)
    out.flat = [exact(v) for v in values.ravel()]
    return out


def digits_for(values: Sequence[mpf], power: mpf | int = 1) -> int:
    """Enough digits for exp(smallest - largest)^power to be seen beside 1: a loss of 1e-91 needs more than 91."""
    finite = [v for v in values if mpmath.isfinite(v)]
    if not finite:
        return DIGITS
    span = max(max(finite) - min(finite), max(abs(v) for v in finite))
    return DIGITS + min(int(power * span / mpf("2.3")), SMALLEST_EXPONENT)


# ---------------------------------------------------------------------------------------------------------------------
# Plain functions of one row
# ---------------------------------------------------------------------------------------------------------------------


def log_sum_exp(z: Row) -> mpf:
    """log(sum_j exp(z_j)); equal logits are counted: 200,000 classes with few distinct values stay affordable."""
    return mp.log(sum(count * mp.exp(v) for v, count in Counter(z).items()))


def softmax(z: Row) -> Row:
    total = mp.exp(log_sum_exp(z))
    values = {v: mp.exp(v) / total for v in set(z)}
    return tuple(values[v] for v in z)


def log_softmax(z: Row) -> Row:
    lse = log_sum_exp(z)
    return tuple(v - lse for v in z)


def sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def log_sigmoid(x: mpf) -> mpf:
    return -mp.log1p(mp.exp(-x)) if x > 0 else x - mp.log1p(mp.exp(x))


def cross_term(q: mpf, log_p: mpf) -> mpf:
    """-q log p, where what has no weight costs nothing, also at p = 0."""
    return mpf(0) if q == 0 else -q * log_p


def entropy(p: Row) -> mpf:
    return mpmath.fsum(cross_term(v, mp.log(v)) if v else mpf(0) for v in p)


def kl_divergence(t: Row, p: Row) -> mpf:
    if any(a > 0 and b == 0 for a, b in zip(t, p, strict=True)):
        return mp.inf
    return mpmath.fsum(a * mp.log(a / b) for a, b in zip(t, p, strict=True) if a > 0)


def plain_row(z: Row, label: int) -> tuple[mpf, Row]:
    """Loss and gradient of softmax cross-entropy for a label: -log p_y and p - t, for the tests of exactness."""
    with mp.workdps(digits_for(z)):
        # The label's own term leaves both formulas: a single class then gives 0 and not mpmath's last digit.
        odds = Counter(z) - Counter([z[label]])
        loss = mp.log1p(mpmath.fsum(count * mp.exp(v - z[label]) for v, count in odds.items()))
        p = softmax(z)
        others = mpmath.fsum(v for j, v in enumerate(p) if j != label)
        return loss, tuple(-others if j == label else v for j, v in enumerate(p))


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives from a function alone
# ---------------------------------------------------------------------------------------------------------------------


def away_from_infinity(x: Row) -> Row:
    """Stand in for the limit at -inf: so far below the others that its probability is 0 at every precision used."""
    finite = [v for v in x if mpmath.isfinite(v)]
    floor = min(finite, default=mpf(0)) - 10**6
    return tuple(floor if v == -mp.inf else v for v in x)


def moved(x: Row, j: int, step: mpf) -> Row:
    return (*x[:j], x[j] + step, *x[j + 1 :])


def difference(forward: mpf, backward: mpf, size: mpf) -> mpf:
    """forward - backward, and exactly 0 where that is nothing but the rounding of numbers of this size."""
    result = forward - backward
    return mpf(0) if abs(result) <= size * mpf(10) ** (14 - mp.dps) else result


def derivative(function: Callable[[Row], mpf], x: Row, j: int) -> mpf:
    forward, backward = function(moved(x, j, STEP)), function(moved(x, j, -STEP))
    return difference(forward, backward, max(1, abs(forward))) / (2 * STEP)


def gradient(function: Callable[[Row], mpf], x: Row) -> Row:
    return tuple(derivative(function, x, j) for j in range(len(x)))


def hessian_vector_product(function: Callable[[Row], mpf], x: Row, vector: Row) -> Row:
    forward = tuple(a + STEP * v for a, v in zip(x, vector, strict=True))
    backward = tuple(a - STEP * v for a, v in zip(x, vector, strict=True))
    size = max(1, abs(function(x))) / STEP
    slopes = [(derivative(function, forward, j), derivative(function, backward, j)) for j in range(len(x))]
    return tuple(difference(a, b, size) / (2 * STEP) for a, b in slopes)


# ---------------------------------------------------------------------------------------------------------------------
# Softmax cross-entropy with every option
# ---------------------------------------------------------------------------------------------------------------------


class DifferentiatedRow:
    """Derivatives of a row's `loss` at its inputs `x`, each worked out once."""

    x: Row
    loss: Callable[[Row], mpf]

    @cached_property
    def value(self) -> mpf:
        return self.loss(self.x)

    @cached_property
    def gradient(self) -> Row:
        return gradient(self.loss, away_from_infinity(self.x))

    def hvp(self, vector: Row) -> Row:
        return shared_product(self, vector)


@cache
def shared_product(row: DifferentiatedRow, vector: Row) -> Row:
    return hessian_vector_product(row.loss, away_from_infinity(row.x), vector)


@cache
def shared(row: DifferentiatedRow) -> DifferentiatedRow:
    """Equal rows as one object, so that what one problem works out serves the next."""
    return row


@dataclass(frozen=True)
class SoftmaxRow(DifferentiatedRow):
    """One valid row of `cross_entropy`: its inputs x, its target t as given, and the options that shape its loss."""

    x: Row
    t: Row
    class_weight: Row
    allowed: tuple[bool, ...]
    inputs: str = "logits"
    label_smoothing: mpf = field(default_factory=mpf)
    focal_gamma: mpf = field(default_factory=mpf)
    z_loss: mpf = field(default_factory=mpf)
    softcap: mpf | None = None
    temperature: mpf = field(default_factory=lambda: mpf(1))
    class_bias: Row | None = None

    def transform(self, x: Row) -> Row:
        pairs = enumerate(zip(x, self.allowed, strict=True))
        return tuple(self.transformed(v, j) if ok else -mp.inf for j, (v, ok) in pairs)

    def transformed(self, x: mpf, j: int) -> mpf:
        """z_j of a class that the mask allows."""
        z = x / self.temperature
        if self.class_bias is not None:
            z += self.class_bias[j]
        return z if self.softcap is None else self.softcap * mp.tanh(z / self.softcap)

    def log_probs(self, x: Row) -> Row:
        if self.inputs == "logits":
            return log_softmax(self.transform(x))
        return tuple(mp.log(v) for v in x) if self.inputs == "probs" else x

    @cached_property
    def smoothed(self) -> Row:
        """What each class's -log p is multiplied with."""
        e, classes = self.label_smoothing, sum(self.allowed)
        mass = mpmath.fsum(self.t)
        return tuple(
            w * ((1 - e) * t + (e * mass / classes if ok else 0))
            for w, t, ok in zip(self.class_weight, self.t, self.allowed, strict=True)
        )

    @cached_property
    def mass(self) -> mpf:
        """The row's share of the "weight" denominator: the target as given, times the class weights."""
        return mpmath.fsum(w * t for w, t in zip(self.class_weight, self.t, strict=True))

    def loss(self, x: Row) -> mpf:
        if not any(self.allowed) or any(mpmath.isnan(v) or (v == mp.inf and self.inputs == "logits") for v in x):
            return mp.nan
        log_p = self.log_probs(x)
        terms = [cross_term(q, lp) for q, lp in zip(self.smoothed, log_p, strict=True)]
        if self.focal_gamma:
            terms = [
                term * max(mpf(0), 1 - mp.exp(lp)) ** self.focal_gamma if term else term
                for term, lp in zip(terms, log_p, strict=True)
            ]
        if self.z_loss:
            terms.append(self.z_loss * log_sum_exp(self.transform(x)) ** 2)
        return mpmath.fsum(terms)


@dataclass(frozen=True)
class SigmoidRow(DifferentiatedRow):
    """One valid element of `binary_cross_entropy`: x of length 1, so that the same derivatives serve."""

    x: Row
    t: mpf
    pos_weight: mpf
    inputs: str = "logits"
    label_smoothing: mpf = field(default_factory=mpf)
    focal_gamma: mpf = field(default_factory=mpf)

    mass = mpf(1)

    def log_probs(self, x: mpf) -> tuple[mpf, mpf]:
        """log p and log(1 - p)."""
        if self.inputs == "logits":
            return log_sigmoid(x), log_sigmoid(-x)
        p = x if self.inputs == "probs" else mp.exp(x)
        return (mp.log(p) if self.inputs == "probs" else x), mp.log(1 - p)

    @cached_property
    def weights(self) -> tuple[mpf, mpf]:
        """What -log p and -log(1 - p) are multiplied with."""
        t = self.t * (1 - self.label_smoothing) + self.label_smoothing / 2
        return self.pos_weight * t, 1 - t

    def loss(self, x: Row) -> mpf:
        return sum(self.terms(x[0]))

    def terms(self, x: mpf) -> tuple[mpf, mpf]:
        """What the positive and the negative side cost."""
        (log_p, log_not_p), (positive, negative), g = self.log_probs(x), self.weights, self.focal_gamma
        on, off = cross_term(positive, log_p), cross_term(negative, log_not_p)
        if g:
            on, off = on and on * mp.exp(log_not_p) ** g, off and off * mp.exp(log_p) ** g
        return on, off


# ---------------------------------------------------------------------------------------------------------------------
# Rows into results
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """Rows (None where ignored) with their weights and the reduction over them."""

    rows: list[Any]
    row_weight: list[mpf]
    classes: int
    reduction: str = "mean"
    normalizer: Any = "weight"
    unit: str = "nats"

    @cached_property
    def valid(self) -> list[tuple[int, Any, mpf]]:
        return [(i, r, w) for i, (r, w) in enumerate(zip(self.rows, self.row_weight, strict=True)) if r and w]

    @cached_property
    def denominator(self) -> mpf:
        if isinstance(self.normalizer, str):
            if self.normalizer == "rows":
                return mpf(len(self.valid))
            return mpmath.fsum(w * row.mass for _, row, w in self.valid)
        return exact(self.normalizer)

    @cached_property
    def factor(self) -> mpf:
        """What the sum over rows is multiplied with."""
        unit = mpf(1) if self.unit == "nats" else 1 / mp.log(2)
        if self.reduction != "mean":
            return unit
        return unit / self.denominator if self.denominator else mpf(0)

    def precision(self) -> Any:
        return mp.workdps(max([DIGITS] + [digits_for(row.x, 1 + row.focal_gamma) for row in self.rows if row]))

    def per_row(self, of_row: Callable[[Any], mpf]) -> np.ndarray:
        out = np.full(len(self.rows), mpf(0), dtype=object)
        for i, row, w in self.valid:
            out[i] = w * of_row(row)
        return out

    def reduced(self, values: np.ndarray) -> Any:
        unit = mpf(1) if self.unit == "nats" else 1 / mp.log(2)
        if self.reduction == "none":
            return np.array([v * unit for v in values], dtype=object)
        return self.factor * mpmath.fsum(values) if self.factor else mpf(0)

    def per_entry(self, of_row: Callable[[int, Any], Row]) -> np.ndarray:
        out = np.full((len(self.rows), self.classes), mpf(0), dtype=object)
        for i, row, w in self.valid:
            out[i] = [w * self.factor * v for v in of_row(i, row)]
        return out

    @cached_property
    def value(self) -> Any:
        with self.precision():
            return self.reduced(self.per_row(lambda row: row.value))

    @cached_property
    def gradient(self) -> np.ndarray:
        with self.precision():
            return self.per_entry(lambda _, row: row.gradient)

    def hvp(self, vector: np.ndarray) -> np.ndarray:
        with self.precision():
            vector = exact_array(vector)
            return self.per_entry(lambda i, row: row.hvp(tuple(vector[i])))


def dense_target(target: Any, rows: int, classes: int, ignore_index: int) -> tuple[list[Row | None], bool]:
    """Labels, dense or sparse targets as one list of probabilities per row (None = ignored), and whether labels."""
    dense: list[Row | None] = []
    if isinstance(target, tuple):
        for indices, values in zip(*target, strict=True):
            entries = [(int(k), exact(v)) for k, v in zip(indices, values, strict=True) if int(k) != ignore_index]
            row = [mpf(0)] * classes
            for k, v in entries:
                row[k] += v
            dense.append(tuple(row) if entries else None)
        return dense, False
    target = np.asarray(target)
    if target.ndim == 2:
        return [tuple(exact(v) for v in row) for row in target], False
    for label in target:
        row = tuple(mpf(int(label) == k) for k in range(classes))
        dense.append(None if int(label) == ignore_index else row)
    return dense, True


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    inputs: str = "logits",
    class_weight: Any = None,
    row_weight: Any = None,
    class_mask: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    class_bias: Any = None,
    reduction: str = "mean",
    normalizer: Any = "weight",
    unit: str = "nats",
    num_threads: int | None = None,
) -> Losses:
    """The oracle of `cross_entropy` for logits of shape (rows, classes): the same arguments, axis apart."""
    logits = np.asarray(logits)
    rows, classes = logits.shape
    x = exact_array(logits)
    targets, is_label = dense_target(target, rows, classes, ignore_index)
    assert is_label or not focal_gamma, "focal has a meaning for labels alone"
    mask = np.broadcast_to(True if class_mask is None else np.asarray(class_mask), logits.shape)
    weight = (mpf(1),) * classes if class_weight is None else tuple(exact_array(class_weight))
    bias = None if class_bias is None else tuple(exact_array(class_bias))
    built = [
        None
        if t is None
        else shared(
            SoftmaxRow(
                x=tuple(x[i]),
                t=t,
                class_weight=weight,
                allowed=tuple(bool(v) for v in mask[i]),
                inputs=inputs,
                label_smoothing=exact(label_smoothing),
                focal_gamma=exact(focal_gamma),
                z_loss=exact(z_loss),
                softcap=None if softcap is None else exact(softcap),
                temperature=exact(temperature),
                class_bias=bias,
            )
        )
        for i, t in enumerate(targets)
    ]
    weights = [mpf(1)] * rows if row_weight is None else [exact(v) for v in np.broadcast_to(row_weight, (rows,))]
    return Losses(built, weights, classes, reduction, normalizer, unit)


def binary_cross_entropy(
    logits: Any,
    target: Any,
    *,
    inputs: str = "logits",
    pos_weight: Any = None,
    row_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    reduction: str = "mean",
    normalizer: Any = "weight",
    unit: str = "nats",
    num_threads: int | None = None,
) -> Losses:
    """The oracle of `binary_cross_entropy`; elements in C order, gradients of shape (elements, 1)."""
    logits = np.asarray(logits)
    shape = logits.shape
    t = exact_array(np.broadcast_to(target, shape)).ravel()
    pos = exact_array(np.broadcast_to(1.0 if pos_weight is None else pos_weight, shape)).ravel()
    weights = exact_array(np.broadcast_to(1.0 if row_weight is None else row_weight, shape)).ravel()
    rows = [
        None
        if t[i] == ignore_index
        else shared(SigmoidRow((v,), t[i], pos[i], inputs, exact(label_smoothing), exact(focal_gamma)))
        for i, v in enumerate(exact_array(logits).ravel())
    ]
    return Losses(rows, list(weights), 1, reduction, normalizer, unit)
