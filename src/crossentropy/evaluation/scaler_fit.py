"""The fit of a scaler: the slope (and the intercept) of the least mean loss, by root finding on its derivative.

With z' = a z + b e_1 the loss of a row is convex in (a, b), and with p = softmax(z')

    d loss / d a = sum_j p_j z_j - z_y,    d loss / d b = p_1 - 1[y = 1],    a d/da + b d/db = loss - entropy

so at the root the mean loss is the mean entropy: the model loses what it expects to lose. Newton's steps from a = 0,
halved until the loss has fallen as a convex function's must, cannot diverge. Whether there is a root at all is known
from the first pass (`scaler_survey`).

The gain is measured on rows that the fit has not seen: five folds, by the bits of a row's numbers or by its cluster. A
pass over the rows serves the fits of all folds at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from crossentropy import cross_entropy, cross_entropy_value_and_grad, row_statistics

from .accumulators import LossSums
from .batches import Batch, PredictionError
from .clusters import ClusterSums
from .intervals import Spread
from .scaler import METHODS, scaled
from .scaler_survey import ScalerSurvey, UsableRows
from .temperature_sums import FOLDS

METHOD_NAMES = {"temperature": "temperature", "affine": "slope and intercept"}
# Newton's steps shrink quadratically: after one this small the next would be below the rounding of a float64.
SMALL_STEP = 1e-7
# Steps from 0 to a slope that fits e^k to 1 odds number about k; 200 are far beyond what float64 can tell.
MOST_PASSES = 200
# The least share of what a Newton step promises that a halved step has to keep; the usual value.
SUFFICIENT = 1e-4


class FittedValues(NamedTuple):
    """What the fit found, and what it is worth; losses in nats.

    `loss` is the mean loss of the rows as they were stored, `fitted_loss` that with scalers fitted on other rows, None
    where a fold cannot be fitted; `gain` is the spread of their difference (its mean is loss - fitted_loss), `gap` mean
    loss - mean entropy before, and `remaining_gap` after, on the rows of the fit.
    """

    slope: float
    intercept: float
    rows: int
    infinite: int
    weight: float
    loss: float
    gap: float
    remaining_gap: float
    fitted_loss: float | None
    gain: Spread | None
    clusters: int | None
    only_class: int | None
    unfitted: str | None
    passes: int


class _Derivatives(NamedTuple):
    """The mean loss and its first and second derivatives by slope and intercept."""

    value: float
    gradient: np.ndarray
    hessian: np.ndarray

    @classmethod
    def of(cls, rows: UsableRows, at: np.ndarray) -> _Derivatives:
        """The sums over the rows.

        The gradient is exact to the last digits; the second derivatives only steer the steps, and are plain moments.
        """
        x, target, w = rows.logits, rows.target, rows.weight
        z = scaled(x, *at)
        value, by_logit = cross_entropy_value_and_grad(z, target, row_weight=w, reduction="sum", ignore_index=None)
        along = np.where(x > -np.inf, x, 0.0)  # a class that cannot occur has p = 0, and counts 0
        # by_logit is m p - w q, of the label's mass m: with t = 0 at a label, its moments with t are those of m p
        t = along - rows.at_label(along)[:, None]
        first = np.einsum("ij,ij->i", by_logit, t)
        mass, p = (w, by_logit) if target.ndim == 1 else (w * target.sum(axis=1), by_logit + w[:, None] * target)
        mean, square = (np.einsum("ij,ij->i", p, power) for power in (t, t * t))
        p1 = by_logit[:, 1] + w * rows.share(1)
        mixed = (p1 * (t[:, 1] - mean / mass)).sum()
        return cls(
            float(value),
            np.array([first.sum(), by_logit[:, 1].sum()]),
            np.array(
                [
                    [np.maximum(square - mean**2 / mass, 0.0).sum(), mixed],
                    [mixed, (p1 * (1 - p1 / mass)).sum()],
                ]
            ),
        )

    def plus(self, other: _Derivatives) -> _Derivatives:
        return _Derivatives(self.value + other.value, self.gradient + other.gradient, self.hessian + other.hessian)


# A fit asks for the derivatives at a point, is sent them, and in the end returns the root.
_Fit = Generator[np.ndarray, _Derivatives, np.ndarray]


def _newton(start: np.ndarray, free: int) -> _Fit:
    """The least loss over the first `free` parameters, by Newton's steps, halved where they overshoot."""
    point, here = start, (yield start)
    for _ in range(MOST_PASSES):
        gradient, hessian = here.gradient[:free], here.hessian[:free, :free]
        # the ridge is below the rounding of a sound Hessian; it keeps the step finite where all rows are saturated
        ridge = np.eye(free) * max(1e-14 * np.trace(hessian), 1e-300)
        step = np.zeros_like(point)
        step[:free] = -np.linalg.solve(hessian + ridge, gradient)
        promised = float(gradient @ step[:free])
        last = bool((np.abs(step) <= SMALL_STEP * (np.abs(point) + np.array([0.0, 1.0]))).all())
        if last:
            return point + step
        size, slack = 1.0, 1e-13 * abs(here.value)  # so much of the sum may be rounding
        there = yield point + step
        while not there.value <= here.value + SUFFICIENT * size * promised + slack:
            size /= 2
            there = yield point + size * step
        point, here = point + size * step, there
    raise PredictionError("the fit did not settle: the logits spread over too many orders of magnitude")


def fit_values(
    batches: Callable[[], Iterable[Batch]], classes: Sequence[str], method: str = "temperature"
) -> FittedValues:
    """Fit a scaler to the rows and measure what it gains on rows it was not fitted on.

    Parameters
    ----------
    batches : called once per pass; gives the same batches every time
    classes : the classes' names
    method : "temperature", or "affine" for two classes

    Raises
    ------
    PredictionError : there is nothing to fit; the message says why in words
    ValueError : a method that is none, or that needs two classes
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, not {method!r}")
    if method == "affine" and len(classes) != 2:
        raise PredictionError(f"affine scaling needs two classes, not {len(classes)}; use the method temperature")
    passes = 0

    def rows() -> Iterator[UsableRows]:
        nonlocal passes
        passes += 1
        return (UsableRows.of(batch) for batch in batches() if batch.rows)

    survey = ScalerSurvey.empty(len(classes))
    for part in rows():
        survey = survey.update(part)
    obstacle = survey.without(None).obstacle(method, classes)
    if obstacle:
        raise PredictionError(f"no {METHOD_NAMES[method]} can be fitted: {obstacle}")
    free = METHODS.index(method) + 1
    (whole,) = _run({None: _newton(np.zeros(2), free)}, rows).values()
    used = [k for k in range(FOLDS) if survey.rows[k]]
    unfitted = next((found for k in used if (found := survey.without(k).obstacle(method, classes))), None)
    # the other folds' roots are near the whole's, where Newton's steps converge at once
    fitted = {} if unfitted else _run({k: _newton(whole, free) for k in used}, rows)
    return _measure(rows, whole, fitted, survey.class_weight.sum(axis=0), unfitted, lambda: passes)


def _run(fits: dict[int | None, _Fit], rows: Callable[[], Iterator[UsableRows]]) -> dict[int | None, np.ndarray]:
    """Drive the fits, each on the rows outside its fold, with one pass for all that are still at work."""
    asked, found = {k: next(fit) for k, fit in fits.items()}, {}
    while asked:
        sums: dict[int | None, _Derivatives] = {}
        for part in rows():
            for k, point in asked.items():
                here = _Derivatives.of(part if k is None else part.take(part.fold != k), point)
                sums[k] = sums[k].plus(here) if k in sums else here
        for k in list(asked):
            try:
                asked[k] = fits[k].send(sums[k])
            except StopIteration as end:
                found[k] = end.value
                del asked[k]
    return found


def _measure(
    rows: Callable[[], Iterator[UsableRows]],
    whole: np.ndarray,
    fitted: dict[int | None, np.ndarray],
    class_weight: np.ndarray,
    unfitted: str | None,
    passes: Callable[[], int],
) -> FittedValues:
    """One pass more: the loss before and after, and the gap that is left."""
    count = infinite = 0
    weight = before = gap = remaining = 0.0
    gains, clusters = LossSums.empty(1), None
    for part in rows():
        w = part.weight
        count, infinite, weight = count + len(w), infinite + part.infinite, weight + float(w.sum())
        before += float(w @ part.loss)
        gap += float(w @ _gap(part.logits, part.target))
        remaining += float(w @ _gap(scaled(part.logits, *whole), part.target))
        if len(fitted) < 2:
            continue
        held_out = np.empty_like(part.loss)
        for k, point in fitted.items():
            own = part.fold == k
            held_out[own] = _losses(scaled(part.logits[own], *point), part.target[own])
        gain = part.loss - held_out
        gains = gains.update(np.zeros(len(w), np.intp), gain, gain > 0, w)
        if part.groups is not None:
            clusters = (clusters or ClusterSums.empty()).update(part.groups.codes, part.groups.names, gain, w)
    measured = len(fitted) >= 2
    happened = np.flatnonzero(class_weight)
    return FittedValues(
        slope=float(whole[0]),
        intercept=float(whole[1]),
        rows=count,
        infinite=infinite,
        weight=weight,
        loss=before / weight,
        gap=gap / weight,
        remaining_gap=remaining / weight,
        fitted_loss=before / weight - float(gains.w1l1[0] / gains.w1l0[0]) if measured else None,
        gain=(clusters.spread() if clusters else gains.spread()) if measured else None,
        clusters=len(clusters.keys) if clusters else None,
        only_class=int(happened[0]) if len(happened) == 1 else None,
        unfitted=None if measured else unfitted or "all rows are in one fold",
        passes=passes(),
    )


def _losses(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    return cross_entropy(logits, target, reduction="none", ignore_index=None)


def _gap(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Loss - entropy of each row: what it lost beyond what it expected to lose."""
    return _losses(logits, target) - row_statistics(logits, ignore_index=None).entropy
