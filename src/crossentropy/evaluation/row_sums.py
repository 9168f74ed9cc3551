"""Whether the rows' probabilities add up to 1, as far as the precision explains that they were stored with."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import numpy as np

from .stored_precision import StoredPrecision


@dataclass(frozen=True)
class RowSums:
    """How far the rows' probabilities are from adding up to 1, and how far their precision explains.

    Rows are counted by every tolerance there can be, so before the precision is known. Beyond the tolerance the
    probabilities are something else, and are shown.
    """

    classes: int
    lowest: float = np.inf
    highest: float = -np.inf
    stored: StoredPrecision = field(default_factory=StoredPrecision)
    rows_by_tolerance: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return sum(self.rows_by_tolerance)

    @property
    def precision(self) -> str:
        """The coarsest format that holds every number seen."""
        return self.stored.coarsest(self.classes)

    @property
    def tolerance(self) -> float:
        return StoredPrecision.tolerances(self.classes)[self.precision]

    @property
    def rows_beyond(self) -> int:
        """Rows whose sum the precision does not explain."""
        return sum(self.rows_by_tolerance[1 + list(StoredPrecision.tolerances(self.classes)).index(self.precision) :])

    def update(self, probabilities: np.ndarray, sums: np.ndarray) -> Self:
        """Add rows by their probabilities and the sum of each row's."""
        lowest, highest, off = float(sums.min()), float(sums.max()), np.abs(sums - 1)
        furthest = max(abs(lowest - 1), abs(highest - 1))
        tolerances = StoredPrecision.tolerances(self.classes).values()
        beyond = [int(np.count_nonzero(off > t)) if t < furthest else 0 for t in tolerances]
        bins = [more - fewer for more, fewer in pairwise([len(sums), *beyond, 0])]
        return self.merge(type(self)(self.classes, lowest, highest, self.stored.update(probabilities), tuple(bins)))

    def merge(self, other: Self) -> Self:
        one, two = self.rows_by_tolerance, other.rows_by_tolerance
        return type(self)(
            classes=self.classes,
            lowest=min(self.lowest, other.lowest),
            highest=max(self.highest, other.highest),
            stored=self.stored.merge(other.stored),
            rows_by_tolerance=tuple(a + b for a, b in zip(one, two, strict=True)) if one and two else one or two,
        )
