"""The loss by the values of a column: the same sums as by class, for values that are met on the way."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from .accumulators import LossSums
from .batches import Categories, PredictionError

# A column with more values names rows, not slices, and the state must not grow with the rows.
MOST_VALUES = 10_000


@dataclass(frozen=True)
class SliceSums:
    """The sums of every value of one column, the values in alphabetical order."""

    column: str
    values: tuple[str, ...]
    sums: LossSums

    @classmethod
    def empty(cls, column: str) -> Self:
        return cls(column, (), LossSums.empty(0))

    def update(self, slices: Categories, loss: np.ndarray, correct: np.ndarray, weight: np.ndarray | None) -> Self:
        """Add rows by their value of the column."""
        present = np.flatnonzero(np.bincount(slices.codes, minlength=len(slices.names)))
        names = tuple(sorted({slices.names[code] for code in present}))
        place = {name: i for i, name in enumerate(names)}
        position = np.array([place.get(name, -1) for name in slices.names], np.intp)
        sums = LossSums.empty(len(names)).update(position[slices.codes], loss, correct, weight)
        return self.merge(type(self)(self.column, names, sums))

    def merge(self, other: Self) -> Self:
        values = tuple(sorted({*self.values, *other.values}))
        if len(values) > MOST_VALUES:
            raise PredictionError(f"column {self.column!r} has more than {MOST_VALUES:,} values: too many to slice by")
        place = {value: i for i, value in enumerate(values)}

        def spread_out(part: SliceSums) -> LossSums:
            position = [place[value] for value in part.values]
            empty = LossSums.empty(len(values))
            for f in fields(empty):
                getattr(empty, f.name)[position] = getattr(part.sums, f.name)
            return empty

        return type(self)(self.column, values, spread_out(self).merge(spread_out(other)))
