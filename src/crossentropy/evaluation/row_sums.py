"""Whether the rows' probabilities add up to 1, as far as the precision explains that they were stored with."""

from dataclasses import dataclass
from typing import Self

import numpy as np

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
