"""The primitives in plain array code: reference, fallback and documentation.

``xp`` is the array library's namespace. Logits come as (rows, classes); everything is computed in the dtype of ``work``
and nothing is written in place, so that the same lines serve libraries that trace or differentiate. The formulas are
derived in ``row_loss``.
"""

from __future__ import annotations

from typing import Any

from crossentropy.arrays import dtype_name
from crossentropy.binary_loss import (
    BinaryCoefficients,
    binary_measure,
    sigmoid_curvatures,
    sigmoid_losses,
    sigmoid_slopes,
)
from crossentropy.row_loss import (
    RowCoefficients,
    RowStatistics,
    defined,
    difference_error,
    focal,
    focal_curvature,
    focal_slope,
    log_sum,
    smoothing_coefficient,
    target_mass,
    times,
)


def transform(xp: Any, logits: Any, c: RowCoefficients, work: Any) -> Any:
    """z: temperature, class bias, soft-cap, mask; or the log-probabilities as they are. Ignored rows are not read."""
    z = xp.astype(logits, work)
    if c.valid is not None:
        z = xp.where(c.valid[:, None], z, 0.0 if c.inputs != "probs" else 1.0)
    if c.inputs == "probs":
        return xp.log(z)
    z = uncapped(z, c)
    if c.softcap is not None:
        # An infinite logit says what it says without a cap: -inf cannot occur, +inf is undefined.
        z = xp.where(xp.isinf(z), z, c.softcap * xp.tanh(z / c.softcap))
    if c.class_mask is not None:
        z = xp.where(c.class_mask, z, -xp.inf)
    return z


def uncapped(z: Any, c: RowCoefficients) -> Any:
    if c.temperature != 1.0:
        z = z / c.temperature
    return z if c.class_bias is None else z + c.class_bias


def slopes(xp: Any, logits: Any, c: RowCoefficients, work: Any) -> tuple[Any, Any]:
    """T' and T'': first and second derivative of z to the logit as given (numbers where they are the same for all)."""
    x = xp.astype(logits, work)
    if c.inputs == "probs":
        return 1.0 / x, -1.0 / (x * x)
    first, second = 1.0 / c.temperature, 0.0
    if c.softcap is not None:
        angle = uncapped(x, c) / c.softcap
        # sech^2 from the exponential: 1 - tanh^2 cancels where tanh is near 1.
        decay = xp.exp(-2.0 * xp.abs(angle))
        sech2 = 4.0 * decay / (1.0 + decay) ** 2
        second = -2.0 * xp.tanh(angle) * sech2 / (c.softcap * c.temperature**2)
        first = sech2 / c.temperature
    if c.class_mask is not None:
        # A masked class is constant; where() and not a product, since its logit may be NaN.
        first, second = (xp.where(c.class_mask, xp.asarray(value, dtype=work), 0.0) for value in (first, second))
    return first, second


def relative(
    xp: Any, z: Any, inputs: str = "logits", *, exact: bool = True, maximum: Any = None
) -> tuple[Any, Any, Any]:
    """m (rows,), d = z - m, and e^d (None without a softmax); ``exact`` keeps the rounding error of the difference.

    ``maximum``: m where it is known; of all classes, where z holds a block of them.
    """
    if inputs != "logits":
        return xp.zeros_like(z[:, 0]), z, None
    z = rounded(xp, z)
    maximum = xp.max(z, axis=-1) if maximum is None else maximum
    m = maximum[:, None]
    d = xp.where(z == -xp.inf, -xp.inf, z - m)
    power = xp.exp(d)
    if exact:
        power = power * (1.0 + difference_error(xp, z, m, d))
    return maximum, d, power


def rounded(xp: Any, z: Any) -> Any:
    """z itself; a library whose compiler fuses z - m with the product that z was keeps the two apart here."""
    return xp.rounded(z) if hasattr(xp, "rounded") else z


def keeps_error(logits: Any, z: Any) -> bool:
    """Does the rounding error of z - m count? Not where z has more digits than the result."""
    return logits.dtype == z.dtype or dtype_name(z) == "float32"


def row_statistics(xp: Any, logits: Any, c: RowCoefficients, work: Any, *, summary: bool = False) -> RowStatistics:
    """One read of (rows, classes) logits -> ``RowStatistics``; ``summary`` adds what entropy and prediction need."""
    if c.inputs != "logits" and not (c.label_smoothing or c.dense is not None or summary):
        return target_statistics(xp, logits, c, work)
    z = transform(xp, logits, c, work)
    maximum, d, power = relative(xp, z, c.inputs, exact=keeps_error(logits, z))
    ones = xp.ones_like(maximum)
    parts: dict[str, Any] = {"maximum": maximum}
    if power is None:  # log-probabilities: no softmax, so lse = 0
        parts |= {"ties": ones, "others": xp.zeros_like(maximum)}
    else:
        largest = d == 0
        parts["ties"] = xp.sum(xp.astype(largest, work), axis=-1)
        parts["others"] = xp.sum(xp.where(largest, 0.0, power), axis=-1)
    if c.indices is not None:
        found = (c.indices >= 0) & (c.indices < z.shape[-1])
        value = xp.take_along_axis(d, xp.where(found, c.indices, 0), axis=-1)
        parts |= {"target_logit": xp.where(found, value, 0.0), "found": found}
    if c.label_smoothing:
        weight = xp.ones_like(z[0]) if c.class_weight is None else c.class_weight
        profile = weight if c.class_mask is None else xp.where(c.class_mask, weight, 0.0)
        allowed = xp.ones_like(z[0], dtype=bool) if c.class_mask is None else c.class_mask
        parts |= {
            "profile": xp.sum(times(xp, profile, d), axis=-1),
            "profile_mass": ones * xp.sum(profile, axis=-1),
            "allowed": ones * xp.sum(xp.astype(allowed, work), axis=-1),
        }
    if c.dense is not None:
        target, weighted = dense_target(xp, c, work)
        parts |= {
            "dense": xp.sum(times(xp, weighted, d), axis=-1),
            "dense_mass": xp.sum(weighted, axis=-1),
            "target_sum": xp.sum(target, axis=-1),
        }
    if summary:
        p = xp.exp(d) if power is None else power
        parts["entropy_sum"] = xp.sum(times(xp, p, d), axis=-1)
        parts["prediction"] = xp.argmax(z, axis=-1)
    return RowStatistics(**parts)


def target_statistics(xp: Any, logits: Any, c: RowCoefficients, work: Any) -> RowStatistics:
    """Statistics of log-probabilities under labels: only the target's own columns are read."""
    found = (c.indices >= 0) & (c.indices < logits.shape[-1])
    value = transform(xp, xp.take_along_axis(logits, xp.where(found, c.indices, 0), axis=-1), c, work)
    zeros = xp.zeros_like(value[:, 0])
    return RowStatistics(zeros, zeros + 1.0, zeros, target_logit=xp.where(found, value, 0.0), found=found)


def dense_target(xp: Any, c: RowCoefficients, work: Any) -> tuple[Any, Any]:
    """t and w t of the dense target; an ignored row's are not read."""
    target = xp.astype(c.dense, work)
    if c.valid is not None:
        target = xp.where(c.valid[:, None], target, 0.0)
    return target, target if c.class_weight is None else target * c.class_weight


def target_measure(xp: Any, statistics: RowStatistics, c: RowCoefficients, like: Any) -> Any:
    """q (rows, classes), dense: sum_k b_k 1[idx_k] + g u + d w t."""
    q = xp.zeros_like(like)
    if c.indices is not None:
        classes = xp.arange(like.shape[-1])
        for k in range(c.indices.shape[-1]):
            q = q + xp.where(classes == c.indices[:, k, None], c.index_weight[:, k, None], 0.0)
    if c.label_smoothing:
        g = xp.ones_like(statistics.maximum) * smoothing_coefficient(statistics, c)
        weight = xp.ones(like.shape[-1:], dtype=like.dtype) if c.class_weight is None else c.class_weight
        profile = g[:, None] * weight
        q = q + (profile if c.class_mask is None else xp.where(c.class_mask, profile, 0.0))
    if c.dense is not None:
        q = q + c.dense_scale * dense_target(xp, c, like.dtype)[1]
    return q


def certain(d: Any, statistics: RowStatistics) -> Any:
    """True at the class with p > 1/2, if there is one: the only maximum, and worth more than all others."""
    return (d == 0) & ((statistics.ties == 1) & (statistics.others < 1))[:, None]


def residual(
    xp: Any, d: Any, power: Any, q: Any, statistics: RowStatistics, c: RowCoefficients
) -> tuple[Any, Any, Any]:
    """a p - q, p and a: the gradient to z, before the slope. p is 0 without a softmax."""
    mass = target_mass(xp, statistics, c)
    if c.focal_gamma:
        loss = log_sum(xp, statistics) - statistics.target_logit[:, 0]
        factor = focal_slope(xp, loss, c.focal_gamma)
        mass, q = mass * factor, q * factor[:, None]
    if power is None:
        return 0.0 - q, xp.zeros_like(q), xp.zeros_like(mass)  # not -q: no gradient is 0, never -0
    total = statistics.ties + statistics.others
    p = power / total[:, None]
    s = mass[:, None]
    # Where p > 1/2, s p - q = (s - q) - s S / (n + S) without cancellation; elsewhere that form would cancel.
    result = xp.where(certain(d, statistics), (s - q) - s * (statistics.others / total)[:, None], s * p - q)
    if not c.z_loss:
        return result, p, mass
    slope = 2.0 * c.z_loss * (statistics.maximum + log_sum(xp, statistics))
    return result + slope[:, None] * p, p, mass + slope


def finish(xp: Any, value: Any, statistics: RowStatistics, c: RowCoefficients, upstream: Any) -> Any:
    """Times the row's upstream gradient; NaN for undefined rows, 0 for ignored ones."""
    factor = xp.asarray(upstream if getattr(upstream, "ndim", 0) == 0 else upstream[:, None], dtype=value.dtype)
    result = xp.where(factor == 0, 0.0, factor * value)
    result = xp.where(defined(xp, statistics)[:, None], result, xp.nan)
    return result if c.valid is None else xp.where(c.valid[:, None], result, 0.0)


def row_gradient(
    xp: Any,
    logits: Any,
    c: RowCoefficients,
    statistics: RowStatistics,
    upstream: Any,
    work: Any,
    *,
    maximum: Any = None,
) -> Any:
    """upstream_i T'_j (a p_j - q_j), shape (rows, classes), in the working precision.

    ``maximum``: that of the statistics, where the logits are a block of the classes and the statistics of all.
    """
    z = transform(xp, logits, c, work)
    _, d, power = relative(xp, z, c.inputs, exact=keeps_error(logits, z), maximum=maximum)
    q = target_measure(xp, statistics, c, z)
    gradient, _, _ = residual(xp, d, power, q, statistics, c)
    # 0 x inf: a probability of 0 off the target has an infinite slope and no gradient.
    gradient = times(xp, gradient, xp.zeros_like(gradient) + slopes(xp, logits, c, work)[0])
    return finish(xp, gradient, statistics, c, upstream)


def row_hessian_vector(
    xp: Any, logits: Any, c: RowCoefficients, statistics: RowStatistics, vector: Any, upstream: Any, work: Any
) -> Any:
    """upstream_i (H v)_ij for the Hessian of each row's loss."""
    z = transform(xp, logits, c, work)
    v = xp.astype(vector, work)
    if c.valid is not None:
        v = xp.where(c.valid[:, None], v, 0.0)
    _, d, power = relative(xp, z, c.inputs, exact=keeps_error(logits, z))
    q = target_measure(xp, statistics, c, z)
    gradient, p, a = residual(xp, d, power, q, statistics, c)
    slope, curvature = (xp.zeros_like(z) + value for value in slopes(xp, logits, c, work))
    # Products with v are plain, so that they stay linear in v for libraries that transpose them. A slope is infinite
    # only without a softmax and off the target, where p and off are 0.
    bounded = xp.where(xp.isfinite(slope), slope, 0.0)
    w = v * bounded
    mean = xp.sum(p * w, axis=-1)[:, None]
    inner = a[:, None] * (p * (w - mean))
    if c.z_loss:
        inner = inner + 2.0 * c.z_loss * p * mean
    if c.focal_gamma:
        loss = log_sum(xp, statistics) - statistics.target_logit[:, 0]
        one_hot = xp.astype(xp.arange(z.shape[-1]) == c.indices, work)
        off = p - one_hot
        if power is not None:
            total = statistics.ties + statistics.others
            off = xp.where(certain(d, statistics) & (one_hot == 1), -(statistics.others / total)[:, None], off)
        scale = c.index_weight[:, 0] * focal_curvature(xp, loss, c.focal_gamma)
        inner = inner + scale[:, None] * off * xp.sum(off * w, axis=-1)[:, None]
    result = inner * bounded + v * times(xp, gradient, curvature)
    return finish(xp, result, statistics, c, upstream)


def softmax(xp: Any, z: Any) -> Any:
    """p (rows, classes)."""
    maximum, _, power = relative(xp, z)
    p = power / xp.sum(power, axis=-1)[:, None]
    return xp.where(xp.isfinite(maximum)[:, None], p, xp.nan)


def log_softmax(xp: Any, z: Any) -> Any:
    """log p (rows, classes) = (z - m) - L, two terms <= 0."""
    maximum, d, power = relative(xp, z)
    largest = d == 0
    ties = xp.sum(xp.astype(largest, z.dtype), axis=-1)
    statistics = RowStatistics(maximum, ties, xp.sum(xp.where(largest, 0.0, power), axis=-1))
    return xp.where(xp.isfinite(maximum)[:, None], d - log_sum(xp, statistics)[:, None], xp.nan)


def sigmoid(xp: Any, x: Any) -> Any:
    return sigmoid_slopes(xp, x, "logits")[1]


def log_sigmoid(xp: Any, x: Any) -> Any:
    return -sigmoid_losses(xp, x, "logits")[0]


def binary_input(xp: Any, logits: Any, c: BinaryCoefficients, work: Any) -> Any:
    """The logits in the working precision; an ignored element is not read."""
    x = xp.astype(logits, work)
    return x if c.valid is None else xp.where(c.valid, x, {"logits": 0.0, "probs": 0.5, "log_probs": -1.0}[c.inputs])


def counted(xp: Any, value: Any, c: BinaryCoefficients) -> Any:
    """Times the element's weight; 0 where it does not count."""
    if c.weight is not None:
        value = times(xp, c.weight, value)
    return value if c.valid is None else xp.where(c.valid, value, 0.0)


def binary_loss(xp: Any, logits: Any, c: BinaryCoefficients, work: Any) -> Any:
    """pos_weight t f(-log p) + (1 - t) f(-log(1 - p)) per element, f the focal transform or nothing; ignored 0."""
    x = binary_input(xp, logits, c, work)
    total = xp.where(xp.isnan(x), xp.nan, 0.0)
    for weight, loss in zip(binary_measure(xp, c, x), sigmoid_losses(xp, x, c.inputs), strict=True):
        total = total + times(xp, weight, focal(xp, loss, c.focal_gamma) if c.focal_gamma else loss)
    return counted(xp, total, c)


def binary_gradient(xp: Any, logits: Any, c: BinaryCoefficients, upstream: Any, work: Any) -> Any:
    """Derivative of ``binary_loss`` times the element's upstream gradient."""
    x = binary_input(xp, logits, c, work)
    total = xp.where(xp.isnan(x), xp.nan, 0.0)
    losses = sigmoid_losses(xp, x, c.inputs) if c.focal_gamma else (None, None)
    for weight, loss, slope in zip(binary_measure(xp, c, x), losses, sigmoid_slopes(xp, x, c.inputs), strict=True):
        if c.focal_gamma:
            slope = times(xp, focal_slope(xp, loss, c.focal_gamma), slope)
        total = total + times(xp, weight, slope)
    return counted(xp, times(xp, upstream, total), c)


def binary_hessian_vector(xp: Any, logits: Any, c: BinaryCoefficients, vector: Any, upstream: Any, work: Any) -> Any:
    """Second derivative of ``binary_loss`` times the element of ``vector`` and its upstream gradient."""
    x = binary_input(xp, logits, c, work)
    total = xp.where(xp.isnan(x), xp.nan, 0.0)
    losses, slopes_ = sigmoid_losses(xp, x, c.inputs), sigmoid_slopes(xp, x, c.inputs)
    parts = zip(binary_measure(xp, c, x), losses, slopes_, sigmoid_curvatures(xp, x, c.inputs), strict=True)
    for weight, loss, slope, curvature in parts:
        if c.focal_gamma:
            bend, stretch = focal_curvature(xp, loss, c.focal_gamma), focal_slope(xp, loss, c.focal_gamma)
            curvature = times(xp, bend, slope * slope) + times(xp, stretch, curvature)
        total = total + times(xp, weight, curvature)
    return counted(xp, times(xp, upstream, times(xp, xp.astype(vector, work), total)), c)


def divergence(xp: Any, t: Any, p: Any) -> Any:
    """KL(t || p) of each row: sum_j [t_j log(t_j / p_j) - (t_j - p_j)] + sum_j (t_j - p_j).

    The first terms are not negative, so that the divergence of two close distributions keeps its digits.
    """
    return xp.sum(divergence_terms(xp, t, p), axis=-1) + xp.sum(t - p, axis=-1)


def divergence_terms(xp: Any, t: Any, p: Any) -> Any:
    """t log(t / p) - (t - p) >= 0, elementwise."""
    difference = t - p
    ratio = t / p
    # A ratio that overflows (a denormal p) has logarithms that do not.
    logarithm = xp.where(xp.isfinite(ratio) & (ratio > 0), xp.log(ratio), xp.log(t) - xp.log(p))
    plain = xp.where(t == 0, p, t * logarithm - difference)
    # Close together the two parts cancel: p [(1 + x) log(1 + x) - x] = p sum_k (-x)^k / (k (k - 1)) with x = difference
    # / p. 18 terms leave less than 1e-18 of the sum for |x| <= 1/8.
    close = xp.abs(difference) <= 0.125 * p
    x = xp.where(close & (p > 0), difference / p, 0.0)
    series = xp.zeros_like(x)
    for k in range(19, 1, -1):
        series = 1.0 / (k * (k - 1)) - x * series
    return xp.where(close, p * x * x * series, plain)
