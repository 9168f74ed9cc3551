"""The polynomials of native/vector_math.hpp and native/element_kernels.cpp: least maximum error, by Remez exchange.

``python benchmarks/lab/coefficients.py`` prints the coefficients and their largest error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpmath import atanh, exp, log, lu_solve, matrix, mp, mpf, sqrt

mp.dps = 60
Number = Any


def remez(target: Callable[[Number], Number], degree: int, low: Number, high: Number) -> tuple[list[Number], Number]:
    """Coefficients (constant first) of the polynomial nearest to ``target`` on [low, high], and its largest error."""
    points = degree + 2
    middle, half = (low + high) / 2, (high - low) / 2
    nodes = [middle - half * mp.cos(mp.pi * (2 * i + 1) / (2 * points)) for i in range(points)]
    grid = [low + (high - low) * mpf(i) / 2000 for i in range(2001)]
    for _ in range(12):
        system = matrix(points, points)
        for i, x in enumerate(nodes):
            for j in range(degree + 1):
                system[i, j] = x**j
            system[i, degree + 1] = (-1) ** i
        solution = lu_solve(system, matrix([target(x) for x in nodes]))
        coefficients = [solution[j] for j in range(degree + 1)]
        error = [mp.polyval(coefficients[::-1], x) - target(x) for x in grid]
        # One extremum of each run of one sign.
        extrema: list[int] = []
        for i, e in enumerate(error):
            if extrema and error[extrema[-1]] * e > 0:
                if abs(e) > abs(error[extrema[-1]]):
                    extrema[-1] = i
            else:
                extrema.append(i)
        while len(extrema) > points:
            extrema.pop(0 if abs(error[extrema[0]]) < abs(error[extrema[-1]]) else -1)
        if len(extrema) < points:
            break
        nodes = [grid[i] for i in extrema]
    return coefficients, max(map(abs, error))


def exp_tail(r: Number) -> Number:
    """(e^r - 1 - r) / r^2."""
    return (exp(r) - 1 - r) / r**2 if abs(r) > mpf(10) ** -15 else mpf(1) / 2 + r / 6


def exp_third(r: Number) -> Number:
    """(e^r - 1 - r - r^2 / 2) / r^3."""
    return (exp_tail(r) - mpf(1) / 2) / r if abs(r) > mpf(10) ** -15 else mpf(1) / 6


def atanh_tail(first: int) -> Callable[[Number], Number]:
    """(atanh(s) / s - 1) / s^2 times ``first``, as a function of z = s^2."""
    return lambda z: first * ((atanh(sqrt(z)) / sqrt(z) - 1) / z if z > 0 else mpf(1) / 3)


HALF_LN2 = log(2) / 2 * mpf("1.0002")
LOG_RANGE = ((sqrt(2) - 1) / (sqrt(2) + 1)) ** 2 * mpf("1.0001")
POLYNOMIALS = {
    "exp, float": (exp_tail, 4, -HALF_LN2, HALF_LN2),
    "exp, pairs of floats": (exp_third, 5, -HALF_LN2, HALF_LN2),
    "exp, double": (exp_tail, 9, -HALF_LN2, HALF_LN2),
    "log, double": (atanh_tail(2), 7, mpf(10) ** -12, LOG_RANGE),
    "log1p of [0, 1], float": (atanh_tail(1), 4, mpf(10) ** -8, mpf(1) / 9),
}

if __name__ == "__main__":
    for name, arguments in POLYNOMIALS.items():
        found, largest = remez(*arguments)
        print(f"{name}: error 2^{float(log(largest, 2)):.1f}")
        print("  ", ", ".join(float(c).hex() for c in found))
