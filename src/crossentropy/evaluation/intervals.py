"""Confidence intervals of a mean whose rows are skewed, from sums alone.

The losses of a good model are very skewed: most rows lose almost nothing and a few lose much. The usual mean +- 2
standard errors then misses the truth too often, always on the side of too small a loss. Hall's transformation takes the
skewness out: with T = (mean - truth) / se, its skewness g and a = g / sqrt(n),

    H(T) = T + a T^2 / 3 + a^2 T^3 / 27 + a / 6 = ((1 + a T / 3)^3 - 1) / a + a / 6

is nearer to a Student t than T is, is monotone, and has the inverse T = 3 / a ((1 + a (x - a / 6))^(1/3) - 1).

Source: Hall 1992, "On the removal of skewness by transformation", J. R. Statist. Soc. B 54, 221-228.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

# A mean is the ratio sum(w x) / sum(w): its spread needs the moments of w (x - mean), and these are sums of w^a x^b for
POWERS = ((1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (3, 3))

# With fewer rows (or clusters) the third moment says nothing about the skewness and an interval would be a pretence.
FEWEST = 10


@dataclass(frozen=True)
class Spread:
    """The standard error of a mean and the skewness of what it averages; `units` independent rows or clusters."""

    units: int
    mean: float
    standard_error: float
    skewness: float

    @classmethod
    def from_moments(cls, units: int, mean: float, weight: float, second: float, third: float) -> Spread | None:
        """From the sums over units of d^2 and d^3, d = sum over the unit's rows of w (l - mean); weight = sum of w."""
        if units < FEWEST or weight <= 0:
            return None
        deviation = math.sqrt(max(second, 0.0) / units)
        error = deviation * units / weight / math.sqrt(units - 1)  # d has mean 0; the mean took a degree of freedom
        return cls(units, mean, error, third / units / deviation**3 if deviation > 0 else 0.0)

    @classmethod
    def from_power_sums(cls, units: int, sums: Mapping[tuple[int, int], float]) -> Spread | None:
        """From sums[a, b] = sum of w^a x^b over the units, for all (a, b) in POWERS."""
        if not sums[1, 0] > 0:
            return None
        mean = sums[1, 1] / sums[1, 0]
        second = sums[2, 2] - 2 * mean * sums[2, 1] + mean**2 * sums[2, 0]
        third = sums[3, 3] - 3 * mean * sums[3, 2] + 3 * mean**2 * sums[3, 1] - mean**3 * sums[3, 0]
        if second <= 1e-13 * sums[2, 2]:  # what rounding leaves of equal values
            second = third = 0.0
        return cls.from_moments(units, mean, sums[1, 0], second, third)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The two-sided interval of the mean."""
        if not self.standard_error:
            return self.mean, self.mean
        quantile = student_quantile(0.5 + confidence / 2, self.units - 1)
        return tuple(self.mean - self.standard_error * self._untransformed(x) for x in (quantile, -quantile))  # type: ignore[return-value]

    def inflated(self, factor: float) -> Spread:
        """The same with a standard error `factor` times as large."""
        return replace(self, standard_error=self.standard_error * factor)

    def p_value(self, truth: float = 0.0) -> float:
        """The probability of a mean at least this far from `truth`, either way, if `truth` were the true mean."""
        if not self.standard_error:
            return 1.0 if self.mean == truth else 0.0
        return student_p_value(self._transformed((self.mean - truth) / self.standard_error), self.units - 1)

    def _transformed(self, t: float) -> float:
        a = self.skewness / math.sqrt(self.units)
        return t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6

    def _untransformed(self, x: float) -> float:
        a = self.skewness / math.sqrt(self.units)
        shift = a * (x - a / 6)
        if abs(shift) < 1e-4:  # the same to first order, where the form below would divide 0 by 0
            return (x - a / 6) * (1 - shift / 3)
        return 3 / a * (math.cbrt(1 + shift) - 1)


def student_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t, from the normal one (Abramowitz and Stegun 26.7.5; error < 2e-4 from 9 on)."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def student_p_value(t: float, degrees: int) -> float:
    """The probability of a Student t at least as far from 0 (Wallace 1959; within 2 % of itself from 9 degrees on)."""
    z = math.sqrt(degrees * math.log1p(t * t / degrees)) * (8 * degrees + 1) / (8 * degrees + 3)
    return 2 * NormalDist().cdf(-z)


def skewed_p_value(z: float, skewness: float) -> float:
    """The two-sided p-value of a standardised sum with a known skewness, as if it were a shifted gamma variable.

    Source: Wilson and Hilferty 1931: the cube root of a gamma variable is nearly normal.
    """
    if abs(skewness) > 1e-6:
        z = 6 / skewness * (math.cbrt(1 + skewness * z / 2) - 1) + skewness / 6
    return min(1.0, 2 * NormalDist().cdf(-abs(z)))


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for having looked at all of them (Holm 1979): below 0.05 marks a difference that counts.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
