"""Whether the rows' probabilities add up to 1, as far as the precision explains that they were stored with."""

from dataclasses import dataclass, field
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

    def update(self, probabilities: np.ndarray) -> Self:
        sums = probabilities.sum(axis=1, dtype=np.float64)
        tolerances = list(StoredPrecision.tolerances(self.classes).values())
        bins = np.bincount(np.searchsorted(tolerances, np.abs(sums - 1)), minlength=len(tolerances) + 1)
        stored = self.stored.update(probabilities)
        return self.merge(type(self)(self.classes, float(sums.min()), float(sums.max()), stored, tuple(bins.tolist())))

    def merge(self, other: Self) -> Self:
        one, two = self.rows_by_tolerance, other.rows_by_tolerance
        return type(self)(
            classes=self.classes,
            lowest=min(self.lowest, other.lowest),
            highest=max(self.highest, other.highest),
            stored=self.stored.merge(other.stored),
            rows_by_tolerance=tuple(a + b for a, b in zip(one, two, strict=True)) if one and two else one or two,
        )
