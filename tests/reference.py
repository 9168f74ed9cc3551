"""The oracle: each loss from its definition, in mpmath, slowly.

Nothing here knows the library's canonical form, and no derivative is written down: a row's loss is a function
`loss(x)` of its inputs at high precision, a gradient is its central difference, a Hessian-vector product the mixed
one. What rounding may cost is told by the `_scale` attributes: the sums of the absolute values of the terms that make
up a result, which is what `tolerances.py` measures an error against.

The rules that are definitions and not arithmetic:
* the result at a logit -inf is the limit as that logit goes to -inf (so an infinite loss has a finite gradient);
* a masked class does not depend on its logit: derivative 0;
* an ignored row is not there: value 0 under "none", gradient 0, and it does not enter a denominator.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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

Row = Sequence[mpf]


def exact(value: Any) -> mpf:
    """The stored value of a number of any dtype, without rounding."""
    return mpf(float(value))


def exact_array(values: Any) -> np.ndarray:
    values = np.asarray(values)
    out = np.empty(values.shape, dtype=object)
    out.flat = [exact(v) for v in values.ravel()]
    return out


def digits_for(values: Sequence[mpf]) -> int:
    """Enough digits for exp(smallest - largest) to be seen beside 1: a loss of 1e-91 needs more than 91."""
    finite = [v for v in values if mpmath.isfinite(v)]
    if not finite:
        return DIGITS
    span = max(max(finite) - min(finite), max(abs(v) for v in finite))
    return DIGITS + min(int(span / mpf("2.3")), SMALLEST_EXPONENT)


# ---------------------------------------------------------------------------------------------------------------------
# Plain functions of one row
# ---------------------------------------------------------------------------------------------------------------------


def log_sum_exp(z: Row) -> mpf:
    """log(sum_j exp(z_j)); equal logits are counted, so that 200,000 classes with few distinct values stay affordable."""
    return mp.log(sum(count * mp.exp(v) for v, count in Counter(z).items()))


def softmax(z: Row) -> list[mpf]:
    total = mp.exp(log_sum_exp(z))
    values = {v: mp.exp(v) / total for v in set(z)}
    return [values[v] for v in z]


def log_softmax(z: Row) -> list[mpf]:
    lse = log_sum_exp(z)
    return [v - lse for v in z]


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


def plain_row(z: Row, label: int) -> tuple[mpf, list[mpf]]:
    """Loss and gradient of softmax cross-entropy for a label: -log p_y and p - t, for the tests of exactness."""
    with mp.workdps(digits_for(z)):
        lse = log_sum_exp(z)
        gradient = softmax(z)
        gradient[label] -= 1
        return lse - z[label], gradient


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives from a function alone
# ---------------------------------------------------------------------------------------------------------------------


def away_from_infinity(x: Row) -> list[mpf]:
    """Stand in for the limit at -inf: so far below the others that its probability is 0 at every precision used."""
    finite = [v for v in x if mpmath.isfinite(v)]
    floor = min(finite, default=mpf(0)) - 10**6
    return [floor if v == -mp.inf else v for v in x]


def moved(x: Row, j: int, step: mpf) -> list[mpf]:
    return [v + step if k == j else v for k, v in enumerate(x)]


def derivative(function: Callable[[Row], mpf], x: Row, j: int) -> mpf:
    return (function(moved(x, j, STEP)) - function(moved(x, j, -STEP))) / (2 * STEP)


def gradient(function: Callable[[Row], mpf], x: Row) -> list[mpf]:
    return [derivative(function, x, j) for j in range(len(x))]


def hessian_vector_product(function: Callable[[Row], mpf], x: Row, vector: Row) -> list[mpf]:
    forward = [a + STEP * v for a, v in zip(x, vector, strict=True)]
    backward = [a - STEP * v for a, v in zip(x, vector, strict=True)]
    return [(derivative(function, forward, j) - derivative(function, backward, j)) / (2 * STEP) for j in range(len(x))]


# ---------------------------------------------------------------------------------------------------------------------
# Softmax cross-entropy with every option
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SoftmaxRow:
    """One valid row of `cross_entropy`: its inputs x, its target t as given, and the options that shape its loss."""

    x: Row
    t: Row
    class_weight: Row
    allowed: Sequence[bool]
    inputs: str = "logits"
    label_smoothing: mpf = field(default_factory=mpf)
    focal_gamma: mpf = field(default_factory=mpf)
    z_loss: mpf = field(default_factory=mpf)
    softcap: mpf | None = None
    temperature: mpf = field(default_factory=lambda: mpf(1))
    class_bias: Row | None = None

    def transform(self, x: Row) -> list[mpf]:
        bias = self.class_bias if self.class_bias is not None else [mpf(0)] * len(x)
        z = [v / self.temperature + b for v, b in zip(x, bias, strict=True)]
        if self.softcap is not None:
            z = [self.softcap * mp.tanh(v / self.softcap) for v in z]
        return [v if ok else -mp.inf for v, ok in zip(z, self.allowed, strict=True)]

    def log_probs(self, x: Row) -> list[mpf]:
        if self.inputs == "logits":
            return log_softmax(self.transform(x))
        return [mp.log(v) for v in x] if self.inputs == "probs" else list(x)

    @cached_property
    def smoothed(self) -> list[mpf]:
        """What each class's -log p is multiplied with."""
        e, classes = self.label_smoothing, sum(self.allowed)
        mass = mpmath.fsum(self.t)
        return [
            w * ((1 - e) * t + (e * mass / classes if ok else 0))
            for w, t, ok in zip(self.class_weight, self.t, self.allowed, strict=True)
        ]

    @cached_property
    def mass(self) -> mpf:
        """The row's share of the "weight" denominator: the target as given, times the class weights."""
        return mpmath.fsum(w * t for w, t in zip(self.class_weight, self.t, strict=True))

    def loss(self, x: Row) -> mpf:
        log_p = self.log_probs(x)
        terms = [cross_term(q, lp) for q, lp in zip(self.smoothed, log_p, strict=True)]
        if self.focal_gamma:
            terms = [
                term * (1 - mp.exp(lp)) ** self.focal_gamma if term else term
                for term, lp in zip(terms, log_p, strict=True)
            ]
        if self.z_loss:
            terms.append(self.z_loss * log_sum_exp(self.transform(x)) ** 2)
        return mpmath.fsum(terms)

    # What rounding is measured against -----------------------------------------------------------------------------

    @cached_property
    def loss_scale(self) -> mpf:
        """Sum of the absolute terms of the loss. lse = max z + log-sum may cancel, so z-loss is scaled by both."""
        terms = [abs(cross_term(q, lp)) for q, lp in zip(self.smoothed, self.log_probs(self.x), strict=True)]
        if self.focal_gamma:
            terms = [self.loss(self.x)]
        if self.z_loss:
            terms.append(self.z_loss * self.lse_scale**2)
        return mpmath.fsum(terms)

    @cached_property
    def lse_scale(self) -> mpf:
        z = self.transform(self.x)
        return abs(max(z)) + (log_sum_exp(z) - max(z))

    @cached_property
    def transform_size(self) -> mpf:
        """How large the numbers are that the transform rounds; 0 where the logits go in as they are."""
        if self.softcap is None and self.class_bias is None and self.temperature == 1:
            return mpf(0)
        bias = self.class_bias if self.class_bias is not None else [mpf(0)] * len(self.x)
        parts = zip(away_from_infinity(self.x), bias, self.allowed, strict=True)
        finite = [abs(v / self.temperature) + abs(b) for v, b, ok in parts if ok and v > -(10**5)]
        return max(finite, default=mpf(0))

    @cached_property
    def slope(self) -> list[mpf]:
        """T'_j, the transform's derivative."""
        x = away_from_infinity(self.x)
        return [
            derivative(lambda v, j=j: self.transform(v)[j], x, j) if ok else mpf(0) for j, ok in enumerate(self.allowed)
        ]

    @cached_property
    def focal_slopes(self) -> tuple[mpf, mpf]:
        """b f'(l) and b f''(l) of b f(l) = b l (1 - e^-l)^gamma: what stands for q and adds to the curvature."""
        label = next(j for j, t in enumerate(self.t) if t)
        log_p = log_softmax(self.transform(away_from_infinity(self.x))) if self.inputs == "logits" else None
        loss = -log_p[label] if log_p else -self.log_probs(self.x)[label]

        def focal(values: Row) -> mpf:
            return values[0] * (1 - mp.exp(-values[0])) ** self.focal_gamma

        first = derivative(focal, [loss], 0)
        second = hessian_vector_product(focal, [loss], [mpf(1)])[0]
        weight = self.class_weight[label]
        return weight * first, weight * second

    @cached_property
    def a_and_q(self) -> tuple[mpf, list[mpf]]:
        q = self.smoothed
        if self.focal_gamma:
            q = [self.focal_slopes[0] if t else mpf(0) for t in self.t]
        a = mpmath.fsum(abs(v) for v in q)
        return (a + 2 * self.z_loss * self.lse_scale if self.z_loss else a), q

    @cached_property
    def gradient_scale(self) -> list[mpf]:
        """|T'_j| (|a p_j| + |q_j|) for logits; for inputs taken as they are, the gradient itself."""
        if self.inputs != "logits":
            return [abs(v) for v in gradient(self.loss, self.x)]
        a, q = self.a_and_q
        p = softmax(self.transform(self.x))
        return [abs(s) * (a * pj + qj) for s, pj, qj in zip(self.slope, p, q, strict=True)]

    def hvp_scale(self, vector: Row) -> list[mpf]:
        """Sum of the absolute terms of T'' v (a p - q) + T' [a p (w - p.w) + 2 zeta p (p.w)] and focal's own."""
        if self.inputs != "logits":
            return [abs(v) for v in hessian_vector_product(self.loss, self.x, vector)]
        a, q = self.a_and_q
        p = softmax(self.transform(self.x))
        x = away_from_infinity(self.x)
        bend = [
            hessian_vector_product(lambda v, j=j: self.transform(v)[j], x, moved([mpf(0)] * len(x), j, mpf(1)))[j]
            if ok
            else mpf(0)
            for j, ok in enumerate(self.allowed)
        ]
        w = [abs(s * v) for s, v in zip(self.slope, vector, strict=True)]
        pw = mpmath.fsum(pj * wj for pj, wj in zip(p, w, strict=True))
        scale = []
        for j in range(len(x)):
            total = abs(bend[j] * vector[j]) * (a * p[j] + q[j])
            total += abs(self.slope[j]) * (a * p[j] * (w[j] + pw) + 2 * self.z_loss * p[j] * pw)
            if self.focal_gamma:
                label = next(k for k, t in enumerate(self.t) if t)
                total += abs(self.slope[j] * self.focal_slopes[1]) * (p[j] + self.t[j]) * (w[label] + pw)
            scale.append(total)
        return scale


@dataclass(frozen=True)
class SigmoidRow:
    """One valid element of `binary_cross_entropy`: x of length 1, so that the same derivatives serve."""

    x: Row
    t: mpf
    pos_weight: mpf
    inputs: str = "logits"
    label_smoothing: mpf = field(default_factory=mpf)
    focal_gamma: mpf = field(default_factory=mpf)

    mass = mpf(1)
    transform_size = mpf(0)

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
        (log_p, log_not_p), (positive, negative) = self.log_probs(x[0]), self.weights
        g = self.focal_gamma
        on = cross_term(positive, log_p) * (mp.exp(log_not_p) ** g if g else 1) if positive else mpf(0)
        off = cross_term(negative, log_not_p) * (mp.exp(log_p) ** g if g else 1) if negative else mpf(0)
        return on + off

    @property
    def loss_scale(self) -> mpf:
        return self.loss(self.x)

    @cached_property
    def gradient_scale(self) -> list[mpf]:
        """The two terms of the gradient, each alone: they have opposite signs."""
        positive, negative = self.weights
        if self.focal_gamma or self.inputs != "logits":
            return [mpmath.fsum(abs(derivative(self.only(side).loss, self.x, 0)) for side in (0, 1))]
        return [positive * sigmoid(-self.x[0]) + negative * sigmoid(self.x[0])]

    def only(self, side: int) -> "SigmoidRow":
        alone = SigmoidRow(self.x, self.t, self.pos_weight, self.inputs, self.label_smoothing, self.focal_gamma)
        alone.__dict__["weights"] = (self.weights[0], mpf(0)) if side == 0 else (mpf(0), self.weights[1])
        return alone


# ---------------------------------------------------------------------------------------------------------------------
# Rows into results
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """Rows (None where ignored) with their weights and the reduction over them."""

    rows: list[SoftmaxRow | SigmoidRow | None]
    row_weight: list[mpf]
    classes: int
    reduction: str = "mean"
    normalizer: Any = "weight"
    unit: str = "nats"

    @cached_property
    def valid(self) -> list[tuple[int, SoftmaxRow | SigmoidRow, mpf]]:
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
        return mp.workdps(max([DIGITS] + [digits_for(row.x) for row in self.rows if row]))

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

    def per_entry(self, of_row: Callable[[int, Any], list[mpf]]) -> np.ndarray:
        out = np.full((len(self.rows), self.classes), mpf(0), dtype=object)
        for i, row, w in self.valid:
            out[i] = [w * self.factor * v for v in of_row(i, row)]
        return out

    @cached_property
    def value(self) -> Any:
        with self.precision():
            return self.reduced(self.per_row(lambda row: row.loss(row.x)))

    @cached_property
    def value_scale(self) -> Any:
        with self.precision():
            return self.reduced(self.per_row(lambda row: row.loss_scale))

    @cached_property
    def value_sensitivity(self) -> Any:
        """What a relative error in the transformed logits is multiplied with; 0 without a transform."""
        with self.precision():
            return self.reduced(
                self.per_row(lambda row: row.transform_size * row.a_and_q[0] if row.transform_size else mpf(0))
            )

    @cached_property
    def gradient_sensitivity(self) -> np.ndarray:
        """The same for the gradient, as a multiple of `gradient_scale` (or `hvp_scale`)."""
        out = np.full((len(self.rows), self.classes), mpf(0), dtype=object)
        for i, row, _ in self.valid:
            out[i] = row.transform_size
        return out

    @cached_property
    def gradient(self) -> np.ndarray:
        with self.precision():
            return self.per_entry(lambda _, row: gradient(row.loss, away_from_infinity(row.x)))

    @cached_property
    def gradient_scale(self) -> np.ndarray:
        with self.precision():
            return self.per_entry(lambda _, row: row.gradient_scale)

    def hvp(self, vector: np.ndarray) -> np.ndarray:
        with self.precision():
            vector = exact_array(vector)
            return self.per_entry(
                lambda i, row: hessian_vector_product(row.loss, away_from_infinity(row.x), list(vector[i]))
            )

    def hvp_scale(self, vector: np.ndarray) -> np.ndarray:
        with self.precision():
            vector = exact_array(vector)
            return self.per_entry(lambda i, row: row.hvp_scale(list(vector[i])))


def dense_target(target: Any, rows: int, classes: int, ignore_index: int) -> tuple[list[list[mpf] | None], bool]:
    """Labels, dense or sparse targets as one list of probabilities per row (None = ignored), and whether labels."""
    dense: list[list[mpf] | None] = []
    if isinstance(target, tuple):
        for indices, values in zip(*target, strict=True):
            entries = [(int(k), exact(v)) for k, v in zip(indices, values, strict=True) if int(k) != ignore_index]
            row = [mpf(0)] * classes
            for k, v in entries:
                row[k] += v
            dense.append(row if entries else None)
        return dense, False
    target = np.asarray(target)
    if target.ndim == 2:
        return [[exact(v) for v in row] for row in target], False
    for label in target:
        row = [mpf(int(label) == k) for k in range(classes)]
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
    weight = [mpf(1)] * classes if class_weight is None else [exact(v) for v in np.asarray(class_weight)]
    bias = None if class_bias is None else [exact(v) for v in np.asarray(class_bias)]
    built = [
        None
        if t is None
        else SoftmaxRow(
            x=list(x[i]),
            t=t,
            class_weight=weight,
            allowed=[bool(v) for v in mask[i]],
            inputs=inputs,
            label_smoothing=exact(label_smoothing),
            focal_gamma=exact(focal_gamma),
            z_loss=exact(z_loss),
            softcap=None if softcap is None else exact(softcap),
            temperature=exact(temperature),
            class_bias=bias,
        )
        for i, t in enumerate(targets)
    ]
    weights = [mpf(1)] * rows if row_weight is None else [exact(v) for v in np.broadcast_to(row_weight, (rows,))]
    return Losses(list(built), weights, classes, reduction, normalizer, unit)


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
        else SigmoidRow([v], t[i], pos[i], inputs, exact(label_smoothing), exact(focal_gamma))
        for i, v in enumerate(exact_array(logits).ravel())
    ]
    return Losses(list(rows), list(weights), 1, reduction, normalizer, unit)
