"""The mathematics of cross-entropy, derived once. Everything else in the package calls it, feeds it or draws it.

One canonical form
------------------
For one row with raw logits x, every option of the package is data in

    loss = s L - sum_k b_k r_k - g P - d D + zeta lse^2

* transformed logits   z_j = cap(x_j / temperature + bias_j), -inf where the class is masked; slope T'_j = dz_j / dx_j
                         (an infinite logit stays infinite under the cap)
* maximum              m = max_j z_j
* ties, others         n = number of classes with z_j = m,  S = sum of exp(z_j - m) over all other classes
* log-sum              L = log n + log1p(S / n),  lse = m + L
* sparse target        r_k = z_{idx_k} - m with coefficients b_k (a class label is k = 1)
* profile              P = sum_j u_j (z_j - m) over the allowed classes, u_j = class weight or 1, coefficient g
                         (label smoothing)
* dense target         D = sum_j w_j t_j (z_j - m), coefficient d
* mass                 s = sum_k b_k + g U + d W,  U = sum of u over allowed classes, W = sum_j w_j t_j

Equivalently, with the target measure q_j = sum_k b_k [idx_k = j] + g u_j + d w_j t_j of mass s, loss = s lse - sum_j
q_j z_j.

Why this form and not lse - z_y: r, P and D are sums of terms <= 0, and L >= 0, so the loss is a sum of non-negative
terms and keeps its relative accuracy at every size. logits [20, 0, 0] with target 0 have loss 4.12e-9; lse - z_y is 0
in float32.

Gradient
--------
d loss / d x_j = T'_j (a p_j - q_j),  a = s + 2 zeta lse,  p_j = exp(z_j - m) / (n + S).
Where p_j > 1/2 (a unique maximum with S < 1), p_j - 1 = -S / (n + S) has no cancellation, so there
    a p_j - q_j = 2 zeta lse p_j + (s - q_j) - s S / (n + S).

Focal loss (labels only): b f(l) + zeta lse^2 with l = L - r and f(l) = l (1 - e^-l)^gamma; in the gradient s and q
become s f'(l) and q f'(l).

Second derivative
-----------------
With w = T' v, the Hessian-vector product is
    H v = T'' v (a p - q) + T' [a p (w - p.w) + 2 zeta p (p.w)]  + T' b f''(l) (p - e_y) ((p - e_y).w).

Log-probabilities and probabilities
-----------------------------------
Taken as they are: z = log p, and no softmax. That is the same form with m = 0, n = 1, S = 0 (so L = lse = 0) and p_j =
0 in the gradient: loss = -sum_j q_j log p_j, gradient -q_j T'_j with T' = 1 or 1 / p_j.

Merging
-------
The statistics of disjoint sets of classes merge (``merge``): the larger maximum wins; the losing side's n and S are
rescaled by exp(m_side - m) and join S; r, P and D shift by (m_side - m) times their masses. A side whose logits are all
-inf is the identity.

Sources: Szegedy et al. 2016 (label smoothing), https://arxiv.org/abs/1512.00567; Lin et al. 2017 (focal loss),
https://arxiv.org/abs/1708.02002; Chowdhery et al. 2022 (z-loss), https://arxiv.org/abs/2204.02311; Blanchard, Higham
and Higham 2021 (log-sum-exp accuracy), https://doi.org/10.1093/imanum/draa038.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(eq=False)  # not frozen: that would make each of a small batch's fields cost as much as a row
class RowCoefficients:
    """The canonical form's data for rows of shape (rows, classes).

    What is the same for all rows has a leading extent of 1 or none; what is absent is None (or 0), so that a plain loss
    costs nothing for options that it does not use.
    """

    inputs: str
    temperature: float
    softcap: float | None
    label_smoothing: float
    focal_gamma: float
    z_loss: float
    class_bias: Any = None  # (classes,)
    class_mask: Any = None  # (classes,) or (rows, classes), True = can occur
    class_weight: Any = None  # (classes,): w of the dense target and u of the profile
    indices: Any = None  # (rows, K) int64; or class labels as given, (rows,) of any integer dtype
    index_weight: Any = None  # (rows, K) or (1, 1): b_k; of labels as given, a number that their class weights multiply
    ignored_label: int | None = None  # of labels as given
    dense: Any = None  # (rows, classes): t, any numeric dtype
    dense_scale: float = 1.0  # d
    target_sum: Any = 1.0  # (rows,) or number: mass of a sparse target before class weights
    target_mass: Any = 1.0  # (rows,) or number: m_i, its mass with class weights, what "weight" divides by
    valid: Any = None  # (rows,) bool; None = every row. Of labels as given, without those that are ignored
    totals: tuple[int, float] | None = None  # of labels as given: how many rows count, and their weight

    def rows(self, block: slice) -> RowCoefficients:
        """The data of a block of rows."""

        def part(value: Any, per_row_dimensions: int) -> Any:
            per_row = getattr(value, "ndim", 0) == per_row_dimensions and value.shape[0] > 1
            return value[block] if per_row else value

        return dataclasses.replace(
            self,
            class_mask=part(self.class_mask, 2),
            indices=None if self.indices is None else self.indices[block],
            index_weight=part(self.index_weight, 2),
            dense=None if self.dense is None else self.dense[block],
            target_sum=part(self.target_sum, 1),
            target_mass=part(self.target_mass, 1),
            valid=None if self.valid is None else self.valid[block],
        )

    def classes(self, block: slice) -> RowCoefficients:
        """The data of a block of classes, whose statistics ``merge`` joins again; other indices are not found there."""

        def part(value: Any) -> Any:
            return None if value is None else value[..., block]

        return dataclasses.replace(
            self,
            class_bias=part(self.class_bias),
            class_mask=part(self.class_mask),
            class_weight=part(self.class_weight),
            dense=part(self.dense),
            indices=None if self.indices is None else self.indices - (block.start or 0),
        )


@dataclasses.dataclass(frozen=True)
class RowStatistics:
    """What one read of the logits keeps of each row: arrays (rows,); ``target_logit`` and ``found`` (rows, K)."""

    maximum: Any  # m; NaN or +-inf where the row has no defined softmax
    ties: Any  # n
    others: Any  # S
    target_logit: Any = None  # r_k
    found: Any = None  # is idx_k among these classes? A label that no block of classes holds makes the row NaN
    profile: Any = None  # P
    profile_mass: Any = None  # U
    allowed: Any = None  # number of classes the mask allows
    dense: Any = None  # D
    dense_mass: Any = None  # W = sum_j w_j t_j
    target_sum: Any = None  # sum_j t_j: the mass that label smoothing spreads
    entropy_sum: Any = None  # sum_j exp(z_j - m) (z_j - m)
    prediction: Any = None  # index of the first maximum


def times(xp: Any, coefficient: Any, value: Any) -> Any:
    """coefficient * value, where a coefficient of 0 wins over an infinite or undefined value: 0 x -inf counts 0.

    The value is replaced, not the product: so the derivative to a coefficient that is 0 is the value, as it must be.
    """
    coefficient = xp.asarray(coefficient, dtype=value.dtype)
    return coefficient * xp.where((coefficient == 0) & ~xp.isfinite(value), 0.0, value)


def difference_error(xp: Any, a: Any, b: Any, difference: Any) -> Any:
    """The rounding error of difference = a - b (Knuth's two-sum): a - b = difference + error; 0 where not finite.

    A difference is rounded to half an ulp, which its exponential magnifies by its size: 8 ulp at -30.
    """
    back = difference - a
    error = (a - (difference - back)) - (b + back)
    return xp.where(xp.isfinite(error), error, 0.0)


def log_sum(xp: Any, statistics: RowStatistics) -> Any:
    """L = log sum_j exp(z_j - m) >= 0."""
    return xp.log(statistics.ties) + xp.log1p(statistics.others / statistics.ties)


def defined(xp: Any, statistics: RowStatistics) -> Any:
    """False where value and gradient are NaN: NaN or +inf logit, no possible class, label that no class holds."""
    # An undefined maximum says it for softmax; without softmax (maximum 0) what was read says it.
    result = xp.isfinite(statistics.maximum)
    if statistics.found is not None:
        result = result & xp.all(statistics.found, axis=-1) & ~xp.any(xp.isnan(statistics.target_logit), axis=-1)
    for part in (statistics.profile, statistics.dense):
        if part is not None:
            result = result & ~xp.isnan(part)
    return result


def smoothing_coefficient(statistics: RowStatistics, coefficients: RowCoefficients) -> Any:
    """g: the share of the row's own target mass that label smoothing gives to each allowed class."""
    mass = coefficients.target_sum if statistics.target_sum is None else statistics.target_sum
    return coefficients.label_smoothing * mass / statistics.allowed


def normalizer_mass(statistics: RowStatistics, coefficients: RowCoefficients) -> Any:
    """m_i = sum_j class_weight_j t_ij of the target as given: what one row adds to the denominator "weight"."""
    return coefficients.target_mass if statistics.dense_mass is None else statistics.dense_mass


def target_mass(xp: Any, statistics: RowStatistics, coefficients: RowCoefficients) -> Any:
    """s, the mass of the target measure q."""
    mass = xp.zeros_like(statistics.maximum)
    if coefficients.indices is not None:
        mass = mass + xp.sum(coefficients.index_weight, axis=-1)
    if coefficients.label_smoothing:
        mass = mass + smoothing_coefficient(statistics, coefficients) * statistics.profile_mass
    if coefficients.dense is not None:
        mass = mass + coefficients.dense_scale * statistics.dense_mass
    return mass


def row_loss(xp: Any, statistics: RowStatistics, coefficients: RowCoefficients) -> Any:
    """The loss of every row, before row weights and reduction; 0 for ignored rows."""
    log_sum_ = log_sum(xp, statistics)
    if coefficients.focal_gamma:
        loss = times(
            xp,
            coefficients.index_weight[..., 0],
            focal(xp, log_sum_ - statistics.target_logit[..., 0], coefficients.focal_gamma),
        )
    else:
        loss = times(xp, target_mass(xp, statistics, coefficients), log_sum_)
        if coefficients.indices is not None:
            loss = loss + xp.sum(times(xp, coefficients.index_weight, -statistics.target_logit), axis=-1)
        if coefficients.label_smoothing:
            loss = loss + times(xp, smoothing_coefficient(statistics, coefficients), -statistics.profile)
        if coefficients.dense is not None:
            loss = loss + times(xp, coefficients.dense_scale, -statistics.dense)
    if coefficients.z_loss:
        loss = loss + coefficients.z_loss * (statistics.maximum + log_sum_) ** 2
    loss = xp.where(defined(xp, statistics), loss, xp.nan)
    return loss if coefficients.valid is None else xp.where(coefficients.valid, loss, xp.zeros_like(loss))


def focal(xp: Any, loss: Any, gamma: float) -> Any:
    """f(l) = l (1 - e^-l)^gamma."""
    return loss * (-xp.expm1(-loss)) ** gamma


def focal_slope(xp: Any, loss: Any, gamma: float) -> Any:
    """f'(l) = c^gamma + gamma l e^-l c^(gamma - 1), c = 1 - e^-l; f'(0) = 0 and f'(inf) = 1 for gamma > 0."""
    chance = -xp.expm1(-loss)
    # l e^-l c^(gamma-1) = [l / c] e^-l c^gamma, and l / c has the limits 1 at 0 and l at infinity.
    ratio = xp.where(loss > 0, loss / xp.where(loss > 0, chance, 1.0), 1.0)
    decaying = xp.where(xp.isinf(loss), 0.0, ratio * xp.exp(-loss))
    return chance**gamma * (1.0 + gamma * decaying)


def focal_curvature(xp: Any, loss: Any, gamma: float) -> Any:
    """f''(l) = c^(gamma-1) e^-l gamma [2 - (l / c) (1 - gamma e^-l)]; 0 at infinity, and at 0, where p - e_y is 0."""
    positive = (loss > 0) & ~xp.isinf(loss)
    safe = xp.where(positive, loss, 1.0)
    chance, decay = -xp.expm1(-safe), xp.exp(-safe)
    value = chance ** (gamma - 1.0) * decay * gamma * (2.0 - (safe / chance) * (1.0 - gamma * decay))
    return xp.where(positive, value, 0.0)


def merge(xp: Any, a: RowStatistics, b: RowStatistics) -> RowStatistics:
    """Statistics of the union of two disjoint sets of classes (see the module's docstring).

    ``prediction`` of ``b`` must already count from the same first class as that of ``a``.
    """
    maximum = xp.maximum(a.maximum, b.maximum)
    # -inf - -inf: a side with no possible class moves by nothing, whichever side it is.
    shift_a, shift_b = (xp.where(side.maximum == maximum, 0.0, side.maximum - maximum) for side in (a, b))
    wins_a, wins_b = shift_a == 0, shift_b == 0
    scale_a, scale_b = (
        xp.exp(shift) * (1.0 + difference_error(xp, side.maximum, maximum, shift))
        for side, shift in ((a, shift_a), (b, shift_b))
    )

    def either(name: str, combine: Any) -> Any:
        left, right = getattr(a, name), getattr(b, name)
        return None if left is None else combine(left, right)

    def shifted(name: str, mass_name: str) -> Any:
        mass_a, mass_b = getattr(a, mass_name), getattr(b, mass_name)
        return either(name, lambda x, y: x + times(xp, mass_a, shift_a) + y + times(xp, mass_b, shift_b))

    def total(name: str) -> Any:
        return either(name, lambda x, y: x + y)

    return RowStatistics(
        maximum=maximum,
        ties=xp.where(wins_a, a.ties, 0.0) + xp.where(wins_b, b.ties, 0.0),
        others=(a.others + xp.where(wins_a, 0.0, a.ties)) * scale_a
        + (b.others + xp.where(wins_b, 0.0, b.ties)) * scale_b,
        target_logit=either(
            "target_logit",
            lambda x, y: (
                xp.where(a.found, x + shift_a[..., None], 0.0) + xp.where(b.found, y + shift_b[..., None], 0.0)
            ),
        ),
        found=either("found", lambda x, y: x | y),
        profile=shifted("profile", "profile_mass"),
        profile_mass=total("profile_mass"),
        allowed=total("allowed"),
        dense=shifted("dense", "dense_mass"),
        dense_mass=total("dense_mass"),
        target_sum=total("target_sum"),
        entropy_sum=either(
            "entropy_sum",
            lambda x, y: (
                scale_a * (x + times(xp, a.ties + a.others, shift_a))
                + scale_b * (y + times(xp, b.ties + b.others, shift_b))
            ),
        ),
        prediction=either("prediction", lambda x, y: xp.where(wins_a, x, y)),
    )
