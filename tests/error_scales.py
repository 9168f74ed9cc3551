"""How large the terms are that make up a result: what rounding errors are measured against.

A loss is a sum of terms of one sign, a gradient T' (a p - q) and a Hessian-vector product are not: where terms cancel,
an error is a number of ulp of the sum of their absolute values. These numbers only scale a bound; what is right, the
oracle alone says.
"""

from functools import cache, cached_property
from typing import Any

import mpmath
import numpy as np
from mpmath import mp, mpf
from reference import (
    Losses,
    Row,
    SigmoidRow,
    SoftmaxRow,
    away_from_infinity,
    cross_term,
    exact_array,
    gradient,
    hessian_vector_product,
    log_softmax,
    log_sum_exp,
    sigmoid,
    softmax,
)


class ErrorScales:
    """The scales of value, gradient and Hessian-vector product of reduced losses, in the shapes of the results."""

    def __init__(self, losses: Losses) -> None:
        self.losses = losses

    @cached_property
    def value(self) -> Any:
        with self.losses.precision():
            return self.losses.reduced(self.losses.per_row(lambda row: scales(row).loss))

    @cached_property
    def gradient(self) -> np.ndarray:
        with self.losses.precision():
            return self.losses.per_entry(lambda _, row: scales(row).gradient)

    def hvp(self, vector: np.ndarray) -> np.ndarray:
        with self.losses.precision():
            vector = exact_array(vector)
            return self.losses.per_entry(lambda i, row: scales(row).hvp(tuple(vector[i])))

    @cached_property
    def transformed_value(self) -> Any:
        """What a relative error of the transformed logits moves the value by; 0 without a transform."""
        with self.losses.precision():
            return self.losses.reduced(self.losses.per_row(lambda row: scales(row).transformed_loss))

    @cached_property
    def transform_size(self) -> np.ndarray:
        """The same for gradients and products, as a multiple of their own scales."""
        out = np.full((len(self.losses.rows), self.losses.classes), mpf(0), dtype=object)
        for i, row, _ in self.losses.valid:
            out[i] = scales(row).transform_size
        return out


class SoftmaxScales:
    def __init__(self, row: SoftmaxRow) -> None:
        self.row = row

    @cached_property
    def z(self) -> Row:
        return self.row.transform(self.row.x)

    @cached_property
    def p(self) -> Row:
        return softmax(self.z)

    @cached_property
    def lse(self) -> mpf:
        """lse = max z + log-sum, which may cancel."""
        return abs(max(self.z)) + (log_sum_exp(self.z) - max(self.z))

    @cached_property
    def loss(self) -> mpf:
        row = self.row
        terms = [abs(cross_term(q, lp)) for q, lp in zip(row.smoothed, row.log_probs(row.x), strict=True)]
        if row.focal_gamma:
            terms = [row.value]
        if row.z_loss:
            terms.append(row.z_loss * self.lse**2)
        return mpmath.fsum(terms)

    @cached_property
    def transform_size(self) -> mpf:
        """How large the numbers are that the transform rounds; 0 where the logits go in as they are."""
        row = self.row
        if row.softcap is None and row.class_bias is None and row.temperature == 1:
            return mpf(0)
        bias = row.class_bias if row.class_bias is not None else (mpf(0),) * len(row.x)
        parts = zip(row.x, bias, row.allowed, strict=True)
        return max(abs(v / row.temperature) + abs(b) for v, b, ok in parts if ok and v > -mp.inf)

    @cached_property
    def transformed_loss(self) -> mpf:
        return self.transform_size * self.a_and_q[0] if self.transform_size else mpf(0)

    def of_each_class(self, differentiate: Any, *more: Row) -> Row:
        row = self.row
        return tuple(
            differentiate(lambda v, j=j: row.transformed(v[0], j), (x,), *more)[0] if ok else mpf(0)
            for j, (x, ok) in enumerate(zip(away_from_infinity(row.x), row.allowed, strict=True))
        )

    @cached_property
    def slope(self) -> Row:
        """T'_j, the transform's derivative."""
        return self.of_each_class(gradient)

    @cached_property
    def bend(self) -> Row:
        """T''_j, its second derivative."""
        return self.of_each_class(hessian_vector_product, (mpf(1),))

    @cached_property
    def label(self) -> int:
        return next(j for j, t in enumerate(self.row.t) if t)

    @cached_property
    def focal_slopes(self) -> tuple[mpf, mpf]:
        """b f'(l), and the absolute terms of b f''(l), of f(l) = l c^gamma with c = 1 - e^-l."""
        row, g = self.row, self.row.focal_gamma
        x = away_from_infinity(row.x)
        loss = -(log_softmax(row.transform(x)) if row.inputs == "logits" else row.log_probs(x))[self.label]
        weight, decay, c = row.class_weight[self.label], mp.exp(-loss), -mp.expm1(-loss)
        if loss <= 0:
            return mpf(0), mpf(0)
        first = c ** (g - 1) * (c + g * loss * decay)
        terms = g * decay * c ** (g - 2) * ((2 + loss) * c + abs(g - 1) * loss * decay)
        return weight * first, weight * terms

    @cached_property
    def a_and_q(self) -> tuple[mpf, Row]:
        q = self.row.smoothed
        if self.row.focal_gamma:
            q = tuple(self.focal_slopes[0] if t else mpf(0) for t in self.row.t)
        a = mpmath.fsum(q)
        return (a + 2 * self.row.z_loss * self.lse if self.row.z_loss else a), q

    @cached_property
    def gradient(self) -> Row:
        """|T'_j| (|a p_j| + |q_j|) for logits; for inputs taken as they are, where nothing cancels, the gradient."""
        if self.row.inputs != "logits":
            return tuple(abs(v) for v in self.row.gradient)
        a, q = self.a_and_q
        return tuple(abs(s) * (a * pj + qj) for s, pj, qj in zip(self.slope, self.p, q, strict=True))

    def hvp(self, vector: Row) -> Row:
        """Sum of the absolute terms of T'' v (a p - q) + T' [a p (w - p.w) + 2 zeta p (p.w)] and focal's own."""
        row = self.row
        if row.inputs != "logits":
            return self.hvp_of_given(vector)
        a, q = self.a_and_q
        p = self.p
        w = [abs(s * v) for s, v in zip(self.slope, vector, strict=True)]
        pw = mpmath.fsum(pj * wj for pj, wj in zip(p, w, strict=True))
        scale = []
        for j in range(len(p)):
            total = abs(self.bend[j] * vector[j]) * (a * p[j] + q[j])
            total += abs(self.slope[j]) * (a * p[j] * (w[j] + pw) + 2 * row.z_loss * p[j] * pw)
            if row.focal_gamma:
                total += abs(self.slope[j] * self.focal_slopes[1]) * (p[j] + row.t[j]) * (w[self.label] + pw)
            scale.append(total)
        return tuple(scale)

    def hvp_of_given(self, vector: Row) -> Row:
        if not self.row.focal_gamma:
            return tuple(abs(v) for v in self.row.hvp(vector))
        first, second = self.focal_slopes
        p = self.row.x[self.label] if self.row.inputs == "probs" else None
        total = second if p is None else (second + first) / p**2
        return tuple(total * abs(v) if j == self.label else mpf(0) for j, v in enumerate(vector))


class SigmoidScales:
    transform_size = transformed_loss = mpf(0)

    def __init__(self, row: SigmoidRow) -> None:
        self.row = row

    @property
    def loss(self) -> mpf:
        """Focal: l (1 - e^-l)^gamma magnifies a relative error of l by l f'(l) / f(l) <= 1 + gamma."""
        return self.row.value * (1 + self.row.focal_gamma)

    @cached_property
    def gradient(self) -> Row:
        """The terms of t = 1 and of t = 0 each alone: they have opposite signs."""
        x, (positive, negative) = self.row.x, self.row.weights
        if self.row.inputs == "logits" and not self.row.focal_gamma:
            return (positive * sigmoid(-x[0]) + negative * sigmoid(x[0]),)
        return (sum(abs(gradient(lambda v, side=side: self.row.terms(v[0])[side], x)[0]) for side in (0, 1)),)


@cache
def scales(row: SoftmaxRow | SigmoidRow) -> SoftmaxScales | SigmoidScales:
    return SoftmaxScales(row) if isinstance(row, SoftmaxRow) else SigmoidScales(row)
