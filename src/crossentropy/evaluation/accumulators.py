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
        rows, right = np.bincount(group, minlength=groups), np.bincount(group[correct], minlength=groups)
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
            count, l1, l2, l3 = (rows - infinite) * 1.0, total(loss), total(loss**2), total(loss**3)
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
        candidates = np.flatnonzero(scores.prediction != scores.batch.labels)
        if len(self.rows) == self.size:  # equality stays in: the rank may still decide for the new row
            candidates = candidates[scores.loss[candidates] >= self.rows[-1].loss]
        order = (candidates, -scores.prediction_probability[candidates], -scores.loss[candidates])
        best = candidates[np.lexsort(order)[: self.size]]
        new = (scores.row(row).shifted(shift) for row in best)
        return replace(self, rows=tuple(sorted((*self.rows, *new), key=RowLoss.rank)[: self.size]))

    def merge(self, other: Self) -> Self:
        return replace(self, rows=tuple(sorted((*self.rows, *other.rows), key=RowLoss.rank)[: self.size]))

    def shifted(self, rows: int) -> Self:
        """The same rows, counted from `rows` further up."""
        return replace(self, rows=tuple(row.shifted(rows) for row in self.rows))


# What can be told of the precision the numbers had before they were stored: a float32 softmax kept in a float64 file
# is float32, and 0.123 is three decimals wherever it stands. The spacing of numbers just below 1 is the unit.
_BINARY = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}
_MOST_DECIMALS = {np.dtype(np.float16): 3, np.dtype(np.float32): 7, np.dtype(np.float64): 15}


@dataclass(frozen=True)
class RowSums:
    """How far the rows' probabilities are from adding up to 1, and how far their precision explains.

    A row sum may be off by one unit in the last place per class: half of it from storing each probability, as much
    again from the sum the softmax divided by. Beyond that the probabilities are something else, and are shown.
    """

    classes: int
    lowest: float = np.inf
    highest: float = -np.inf
    formats: frozenset[str] = frozenset(_BINARY)
    decimals: int = 0
    rows_by_tolerance: tuple[int, ...] = (0,) * (len(_BINARY) + 17)

    def _tolerances(self) -> dict[str, float]:
        """Every tolerance there can be, the smallest first: so rows can be counted before the precision is known."""
        decimal = {f"{d} decimal{'s' * (d != 1)}": 0.5 * 10.0**-d for d in range(16)}
        units = sorted((unit, name) for name, unit in (_BINARY | decimal).items())
        # the factor 1 + 2^-20 lets a sum that is off by exactly the tolerance pass in spite of its own rounding
        return {name: self.classes * unit * (2 if name in _BINARY else 1) * (1 + 2.0**-20) for unit, name in units}

    @property
    def rows(self) -> int:
        return sum(self.rows_by_tolerance)

    @property
    def precision(self) -> str:
        """The coarsest format that holds every number seen."""
        decimals = {f"{d} decimal{'s' * (d != 1)}" for d in range(self.decimals, 16)}
        return max(self.formats | decimals | {"float64"}, key=lambda name: self._tolerances()[name])

    @property
    def tolerance(self) -> float:
        return self._tolerances()[self.precision]

    @property
    def rows_beyond(self) -> int:
        """Rows whose sum the precision does not explain."""
        return sum(self.rows_by_tolerance[1 + list(self._tolerances()).index(self.precision) :])

    def update(self, probabilities: np.ndarray) -> Self:
        sums = probabilities.sum(axis=1, dtype=np.float64)
        tolerances = np.array(sorted(self._tolerances().values()))
        bins = np.bincount(np.searchsorted(tolerances, np.abs(sums - 1)), minlength=len(tolerances) + 1)
        formats = frozenset(name for name in self.formats if _fits(name, probabilities))
        decimals = self.decimals
        large = None
        while decimals < 16:
            # only numbers above 0.1: "%.6g" gives smaller ones more decimals, which says nothing about the others
            large = probabilities[probabilities >= 0.1] if large is None else large
            if decimals <= _MOST_DECIMALS[large.dtype] and np.array_equal(_decimal(large, decimals), large):
                break
            decimals = decimals + 1 if decimals < _MOST_DECIMALS[large.dtype] else 16
        seen = type(self)(self.classes, float(sums.min()), float(sums.max()), formats, decimals, tuple(bins.tolist()))
        return self.merge(seen)

    def merge(self, other: Self) -> Self:
        return type(self)(
            classes=self.classes,
            lowest=min(self.lowest, other.lowest),
            highest=max(self.highest, other.highest),
            formats=self.formats & other.formats,
            decimals=max(self.decimals, other.decimals),
            rows_by_tolerance=tuple(
                a + b for a, b in zip(self.rows_by_tolerance, other.rows_by_tolerance, strict=True)
            ),
        )


def _decimal(values: np.ndarray, decimals: int) -> np.ndarray:
    # multiply and divide by an exact power of ten: the division rounds once, to the float nearest the decimal number
    scale = values.dtype.type(10**decimals)
    return np.rint(values * scale) / scale


def _fits(name: str, values: np.ndarray) -> bool:
    """Whether every value is a number of the format."""
    if name == "float64" or name == values.dtype.name:
        return True
    if name == "bfloat16":
        if values.dtype == np.float16:
            return False
        single = values.astype(np.float32, copy=False)
        return bool((single.view(np.uint32) & 0xFFFF == 0).all()) and (
            single is values or np.array_equal(single, values)
        )
    with np.errstate(under="ignore"):
        return values.dtype == np.float16 or np.array_equal(values.astype(name), values)
