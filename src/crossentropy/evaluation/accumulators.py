"""Sums over rows that merge: the only things the evaluation remembers of the rows it has seen.

Each accumulator is immutable and has `empty`, `update` (one batch more) and `merge`; divisions wait for the result.
`merge` of the parts equals the whole, up to the rounding of float64 sums, for every way to split the rows.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from .batches import RowLoss
from .intervals import POWERS, Spread
from .row_scores import RowScores

_COUNTS = ("rows", "correct", "infinite")


@dataclass(frozen=True)
class LossSums:
    """Counts and float64 sums of the loss l and the weight w over K groups of rows; every array has shape (K,).

    w{a}l{b} is the sum of w^a l^b, for the powers that an interval needs. Rows with an infinite loss are counted and
    stay out of the sums.
    """

    rows: np.ndarray
    correct: np.ndarray
    infinite: np.ndarray
    infinite_weight: np.ndarray
    w1l0: np.ndarray
    w1l1: np.ndarray
    w2l0: np.ndarray
    w2l1: np.ndarray
    w2l2: np.ndarray
    w3l0: np.ndarray
    w3l1: np.ndarray
    w3l2: np.ndarray
    w3l3: np.ndarray

    @classmethod
    def empty(cls, groups: int) -> Self:
        return cls(*(np.zeros(groups, np.int64 if f.name in _COUNTS else np.float64) for f in fields(cls)))

    def update(self, group: np.ndarray, loss: np.ndarray, correct: np.ndarray, weight: np.ndarray | None) -> Self:
        """Add rows: their group in [0, K), float64 loss (inf allowed), whether the prediction was right, weight."""
        groups = len(self.rows)
        wrong, right = np.bincount(2 * group + correct, minlength=2 * groups).reshape(-1, 2).T
        rows = wrong + right
        infinite: np.ndarray = np.zeros(groups, np.int64)
        infinite_weight: np.ndarray = np.zeros(groups)
        is_infinite = np.isinf(loss)
        if is_infinite.any():
            lost = group[is_infinite]
            infinite = np.bincount(lost, minlength=groups)
            infinite_weight = np.bincount(lost, None if weight is None else weight[is_infinite], groups) * 1.0
            weight = None if weight is None else weight[~is_infinite]
            group, loss = group[~is_infinite], loss[~is_infinite]

        def total(values: np.ndarray) -> np.ndarray:
            return np.bincount(group, values, groups)

        sums: tuple[np.ndarray, ...]
        if weight is None:
            square = loss * loss  # a power costs ten times a product
            count, l1, l2, l3 = (rows - infinite) * 1.0, total(loss), total(square), total(square * loss)
            sums = (count, l1, count, l1, l2, count, l1, l2, l3)
        else:
            sums = tuple(total(weight**a * loss**b) for a, b in POWERS)
        return self.merge(type(self)(rows, right, infinite, infinite_weight, *sums))

    def merge(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def spread(self, group: int = 0) -> Spread | None:
        """The spread of a group's mean loss with the rows as the independent units; of the finite rows."""
        sums = {(a, b): float(getattr(self, f"w{a}l{b}")[group]) for a, b in POWERS}
        return Spread.from_power_sums(int(self.rows[group] - self.infinite[group]), sums)

    def central_moments(self, group: int = 0) -> tuple[float, float, float]:
        """Mean, second and third central moment of the finite losses of a group, weighted by w, w^2 and w^3."""
        (w1, s1), (w2, t1, t2), (w3, u1, u2, u3) = (
            [float(getattr(self, f"w{a}l{b}")[group]) for b in range(a + 1)] for a in (1, 2, 3)
        )
        mean = s1 / w1
        second, third = t2 - 2 * mean * t1 + mean**2 * w2, u3 - 3 * mean * u2 + 3 * mean**2 * u1 - mean**3 * w3
        if second <= 1e-13 * t2:  # what rounding leaves of equal losses
            second = third = 0.0
        return mean, second / w2, third / w3

    def total(self) -> Self:
        """All groups together, as one group."""
        return type(self)(*(getattr(self, f.name).sum(keepdims=True) for f in fields(self)))


@dataclass(frozen=True)
class WorstRows:
    """The `size` most confidently wrong rows seen so far, the worst first."""

    size: int
    rows: tuple[RowLoss, ...] = ()

    def update(self, scores: RowScores, shift: int = 0) -> Self:
        """Add the rows of a batch; `shift` moves their positions."""
        if not self.size:
            return self
        # equality stays in: the rank may still decide for the new row
        least = self.rows[-1].loss if len(self.rows) == self.size else 0.0
        candidates = np.flatnonzero(scores.loss >= least)
        candidates = candidates[scores.prediction[candidates] != scores.batch.labels[candidates]]
        order = (candidates, -scores.prediction_probability[candidates], -scores.loss[candidates])
        best = candidates[np.lexsort(order)[: self.size]]
        new = (scores.row(row).shifted(shift) for row in best)
        return replace(self, rows=tuple(sorted((*self.rows, *new), key=RowLoss.rank)[: self.size]))

    def merge(self, other: Self) -> Self:
        return replace(self, rows=tuple(sorted((*self.rows, *other.rows), key=RowLoss.rank)[: self.size]))

    def shifted(self, rows: int) -> Self:
        """The same rows, counted from `rows` further up."""
        return replace(self, rows=tuple(row.shifted(rows) for row in self.rows))
