"""The precision that probabilities had before they were stored, told from the numbers themselves.

A float32 softmax kept in a float64 file is float32, 0.123 is three decimals and 1.23457e-05 is six digits wherever it
stands.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

# The spacing of numbers just below 1 is the unit.
_BINARY = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}
# What is left of a number's digits says nothing: every number of the type has that many.
_MOST_DIGITS = {np.dtype(np.float16): 3, np.dtype(np.float32): 7, np.dtype(np.float64): 15}
_NONE = 16
# A float32 written into a text file has as many digits as tell it from its neighbours: nine at most, and of many
# numbers some need more than six.
_FLOAT32_DIGITS = range(7, 10)
# Powers of ten up to 10^22 are exact in float64: fifteen digits of a number from 10^-7 on.
_POWERS = 10.0 ** np.arange(23)
_SMALL = 1e-7
# Most often so many rows already show what the numbers are not, and the others need not be looked at for it.
_FIRST = 100


@dataclass(frozen=True)
class StoredPrecision:
    """Which formats hold every number seen.

    `formats` are the binary ones, `decimals` is how many places after the point ("%.3f", round(p, 3)) and `digits` how
    many significant digits ("%.6g") the numbers need; 16 where they need more than their type can show, and 0 where
    no number strictly between 0 and 1 was seen: 0 and 1 look the same in every format and are evidence of none.
    """

    formats: frozenset[str] = frozenset(_BINARY)
    decimals: int = 0
    digits: int = 0

    @staticmethod
    def tolerances(classes: int) -> dict[str, float]:
        """How far the sum of a row may be from 1 in each format, the smallest first.

        In a binary format, one unit in the last place per class: half of it from storing each probability, as much
        again from the sum the softmax divided by. With d decimals, half a unit of the last place per class. With d
        digits the same, and at most 5 / 10^d of the sum, because that is the most by which any number is off.
        """
        decimal = {_named(d, "decimal"): classes * 0.5 * 10.0**-d for d in range(1, _NONE)}
        digits = {_named(d, "digit"): min(classes * 0.5, 5.0) * 10.0**-d for d in range(1, _NONE)}
        binary = {name: classes * unit * 2 for name, unit in _BINARY.items()}
        # the factor 1 + 2^-20 lets a sum that is off by exactly the tolerance pass in spite of its own rounding
        every = {name: tolerance * (1 + 2.0**-20) for name, tolerance in (digits | decimal | binary).items()}
        return dict(sorted(every.items(), key=lambda item: item[1]))

    def coarsest(self, classes: int) -> str:
        """The format of the largest tolerance that holds every number seen."""
        holding = {"float64", *self.formats}
        holding |= {_named(d, "decimal") for d in range(self.decimals, _NONE) if self.decimals}
        holding |= {_named(d, "digit") for d in range(self.digits, _NONE) if self.digits}
        if self.digits in _FLOAT32_DIGITS:
            holding.add("float32")
        return [name for name in self.tolerances(classes) if name in holding][-1]

    def update(self, probabilities: np.ndarray) -> Self:
        """Look at more numbers, in [0, 1]."""
        if len(probabilities) > _FIRST:
            found = self.update(probabilities[:_FIRST])
            return found if found.is_settled(probabilities.dtype) else found._update(probabilities)
        return self._update(probabilities)

    def is_settled(self, dtype: np.dtype) -> bool:
        """Whether numbers of this type can show nothing more."""
        return self.decimals == self.digits == _NONE and self.formats <= {"float64", dtype.name}

    def _update(self, probabilities: np.ndarray) -> Self:
        formats = frozenset(name for name in self.formats if _fits(name, probabilities))
        most = _MOST_DIGITS[probabilities.dtype]
        decimals, digits = self.decimals, self.digits
        if decimals < _NONE or digits < _NONE:
            values = probabilities[(probabilities > 0) & (probabilities < 1)]
            decimals = _least(values, decimals, most, np.zeros((), np.intp))
            large = values[values >= _SMALL]
            # 0.1 has no zeros after the point, 0.01 one: so many decimals more show the same digits
            zeros = -1 - np.floor(np.log10(large, dtype=np.float64)).astype(np.intp) if digits < _NONE else 0
            digits = _least(large, digits, most, np.asarray(zeros))
        return type(self)(formats, decimals, digits)

    def merge(self, other: Self) -> Self:
        """What holds the numbers of both."""
        return type(self)(
            self.formats & other.formats, max(self.decimals, other.decimals), max(self.digits, other.digits)
        )


def _named(places: int, what: str) -> str:
    return f"{places} {what}{'s' * (places != 1)}"


def _least(values: np.ndarray, places: int, most: int, zeros: np.ndarray) -> int:
    """The least number of places, from `places` on, that writes every value with `zeros` more after the point."""
    if not values.size or places >= _NONE:
        return places
    wide = values.astype(np.float64, copy=False)
    for enough in range(max(places, 1), most + 1):
        # the quotient of two exact numbers rounds once, to the float nearest the decimal number
        scale = _POWERS[enough + zeros]
        if np.array_equal((np.rint(wide * scale) / scale).astype(values.dtype, copy=False), values):
            return enough
    return _NONE


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
