"""Whether a scaler can be fitted to some rows, and if not, why not, in words.

A slope a > 0 and an intercept b of the least loss do not always exist; one pass over the rows tells:

* the derivative by a is not below 0 at a = 0: the labels go against the predictions, or with none of them
* separable: no row would lose anything for a -> inf
* one class alone happened: b would go to infinity
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import numpy as np

from crossentropy import cross_entropy

from .batches import Batch, Categories
from .clusters import cluster_hash
from .scaler import logits_of
from .temperature_sums import FOLDS, folds


class UsableRows(NamedTuple):
    """The rows of a batch that a fit can use: those of finite loss.

    `target` are labels, shape (rows,), or soft labels, shape (rows, classes); `loss` is that of the predictions as they
    were stored.
    """

    logits: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    fold: np.ndarray
    loss: np.ndarray
    groups: Categories | None
    infinite: int

    @classmethod
    def of(cls, batch: Batch) -> UsableRows:
        """The rows of finite loss, in float64."""
        predictions = np.asarray(batch.predictions, np.float64)
        target = batch.labels if batch.targets is None else batch.targets.astype(np.float64)
        loss = cross_entropy(predictions, target, inputs=batch.inputs, reduction="none", ignore_index=None)
        kept = np.flatnonzero(np.isfinite(loss))
        logits = logits_of(predictions[kept], batch.inputs)
        weight = np.ones(len(kept)) if batch.weights is None else batch.weights[kept].astype(np.float64)
        groups = None if batch.groups is None else batch.groups.take(kept)
        if groups is None:
            fold = folds(predictions[kept])  # of the numbers as stored: their logarithms differ between machines
        else:  # rows that belong together are fitted or held out together
            fold = np.array([cluster_hash(name) % FOLDS for name in groups.names], np.intp)[groups.codes]
        return cls(logits, target[kept], weight, fold, loss[kept], groups, len(loss) - len(kept))

    def share(self, label: int) -> np.ndarray:
        """How much of each row's label is this class: 0 or 1, or the share of a soft label."""
        return (self.target == label) * 1.0 if self.target.ndim == 1 else self.target[:, label]

    def at_label(self, values: np.ndarray) -> np.ndarray:
        """The value of the label's class in each row of (rows, classes); of a soft label the mean by its shares."""
        if self.target.ndim == 1:
            return values[np.arange(len(values)), self.target]
        return np.einsum("ij,ij->i", values, self.target) / self.target.sum(axis=1)

    def take(self, rows: np.ndarray) -> UsableRows:
        """Some of the rows, for their derivatives."""
        return self._replace(logits=self.logits[rows], target=self.target[rows], weight=self.weight[rows])


@dataclass(frozen=True)
class ScalerSurvey:
    """What one pass tells about whether there is a root, by fold; sums of weights.

    `spread` is the derivative by the slope at slope 0; `shortfall` is by how much the most probable class beats the
    label in logits: 0 where every row is right. `logit`, `lowest` and `highest` are the sum and the ends of
    z_1 - z_0 by label, of two classes.
    """

    rows: np.ndarray
    weight: np.ndarray
    shortfall: np.ndarray
    spread: np.ndarray
    class_weight: np.ndarray
    logit: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    @classmethod
    def empty(cls, classes: int) -> Self:
        by_class = np.zeros((FOLDS, classes))
        zero = np.zeros(FOLDS)
        infinite = np.full((FOLDS, 2), np.inf)
        return cls(zero, zero, zero, zero, by_class, np.zeros((FOLDS, 2)), infinite, -infinite)

    def update(self, rows: UsableRows) -> Self:
        """Add the rows of one batch."""
        x, w, fold = rows.logits, rows.weight, rows.fold
        possible = x > -np.inf
        finite = np.where(possible, x, 0.0)
        mean, label = finite.sum(axis=1) / possible.sum(axis=1), rows.at_label(finite)

        def total(values: np.ndarray) -> np.ndarray:
            return np.bincount(fold, values, FOLDS)

        by_class = np.zeros_like(self.class_weight)
        if rows.target.ndim == 1:
            np.add.at(by_class, (fold, rows.target), w)
        else:
            np.add.at(by_class, fold, w[:, None] * rows.target)
        logit, lowest, highest = np.zeros((FOLDS, 2)), np.full((FOLDS, 2), np.inf), np.full((FOLDS, 2), -np.inf)
        if by_class.shape[1] == 2:
            for k in (0, 1):
                # a row that is certain loses the same for every slope and intercept
                here = possible.all(axis=1) & (rows.share(k) > 0)
                d = (finite[:, 1] - finite[:, 0])[here]
                np.add.at(logit[:, k], fold[here], (w * rows.share(k))[here] * d)
                np.minimum.at(lowest[:, k], fold[here], d)
                np.maximum.at(highest[:, k], fold[here], d)
        return type(self)(
            self.rows + np.bincount(fold, minlength=FOLDS),
            self.weight + total(w),
            self.shortfall + total(w * (x.max(axis=1) - label)),
            self.spread + total(w * (mean - label)),
            self.class_weight + by_class,
            self.logit + logit,
            np.minimum(self.lowest, lowest),
            np.maximum(self.highest, highest),
        )

    def without(self, fold: int | None) -> Self:
        """The survey of all folds but one, as one fold; of all with None."""
        kept = [k for k in range(FOLDS) if k != fold]
        joined = {f.name: getattr(self, f.name)[kept].sum(axis=0, keepdims=True) for f in fields(self)}
        joined |= {"lowest": self.lowest[kept].min(axis=0, keepdims=True)}
        joined |= {"highest": self.highest[kept].max(axis=0, keepdims=True)}
        return type(self)(**joined)

    def obstacle(self, method: str, classes: Sequence[str]) -> str | None:
        """Why there is nothing to fit, in words; None where there is a root."""
        if not self.weight[0] > 0:
            return "there is no row with a finite loss and a weight above 0"
        happened = np.flatnonzero(self.class_weight[0])
        if method == "affine":
            if len(happened) == 1:
                return f"every label is {classes[happened[0]]!r}: the intercept would be infinite"
            (low0, low1), (high0, high1) = self.lowest[0], self.highest[0]
            if not (low0 < np.inf and low1 < np.inf):
                return "every probability of one of the classes is 0 or 1, which no slope or intercept changes"
            if min(low0, low1) == max(high0, high1):
                return "every row has the same probabilities: there is nothing to scale"
            prior = self.class_weight[0] / self.weight[0]
            if not self.logit[0, 1] * prior[0] > self.logit[0, 0] * prior[1]:
                return (
                    f"the labels go against the predictions: on average {classes[1]!r} was given more where "
                    f"{classes[0]!r} happened (are the classes in the right order?)"
                )
            if low1 >= high0:
                return (
                    f"the classes are separable: there is a probability above which only {classes[1]!r} happened and "
                    f"below which only {classes[0]!r}; ever steeper slopes would fit ever better"
                )
            return None
        if not self.spread[0]:
            return (
                "every row gives the same probability to all its classes, or all of it to one: no temperature changes "
                "that"
            )
        if not self.shortfall[0] > 0:
            return (
                "every row is right: its label has the highest probability, and the loss falls to its end only as the "
                "temperature goes to 0"
            )
        if self.spread[0] > -1e-12 * self.shortfall[0]:
            return (
                "the labels go against the predictions: on average a label was given no more than the other classes, "
                "and every temperature is worse than an infinite one (are the classes in the right order?)"
            )
        return None
