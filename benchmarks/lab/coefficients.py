"""Coefficients of the polynomials in native/vector_math.hpp: least maximum relative error, by Remez exchange."""

from mpmath import atanh, exp, log, lu_solve, matrix, mp, mpf, sqrt

mp.dps = 60


def remez(target, weight, degree, low, high, rounds=12):
    """Polynomial p of `degree` that minimises max |weight(x) (p(x) - target(x))| on [low, high]."""
    n = degree + 2
    x = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * (n - 1 - i) + 1) / (2 * n)) for i in range(n)]
    for _ in range(rounds):
        a = matrix(n, n)
        b = matrix(n, 1)
        for i, xi in enumerate(x):
            for j in range(degree + 1):
                a[i, j] = xi**j
            a[i, degree + 1] = (-1) ** i / weight(xi)
            b[i] = target(xi)
        c = lu_solve(a, b)
        coefficients = [c[j] for j in range(degree + 1)]

        def error(t, falling=coefficients[::-1]):
            return weight(t) * (mp.polyval(falling, t) - target(t))

        grid = [low + (high - low) * mpf(i) / 2000 for i in range(2001)]
        e = [error(t) for t in grid]
        ext = []
        for i in range(2001):
            if (i == 0 or abs(e[i]) >= abs(e[i - 1]) or e[i] * e[i - 1] < 0) and (
                i == 2000 or abs(e[i]) >= abs(e[i + 1]) or e[i] * e[i + 1] < 0
            ):
                if ext and e[ext[-1]] * e[i] > 0:
                    if abs(e[i]) > abs(e[ext[-1]]):
                        ext[-1] = i
                else:
                    ext.append(i)
        while len(ext) > n:
            ext.pop(0 if abs(e[ext[0]]) < abs(e[ext[-1]]) else -1)
        if len(ext) < n:
            break
        x = [grid[i] for i in ext]
    return coefficients, max(abs(v) for v in e)


half = log(2) / 2 * mpf("1.0002")


def q(r):
    return (exp(r) - 1 - r) / r**2 if abs(r) > mpf(10) ** -15 else mpf(1) / 2 + r / 6


for name, deg in (("float", 3), ("float", 4), ("double", 9)):
    c, e = remez(q, lambda r: mpf(1), deg, -half, half)
    print(name, deg, f"error 2^{float(mp.log(e, 2)):.2f}")
    print([float(v).hex() for v in c])
    print([float(v) for v in c])


def R(z):
    if z == 0:
        return mpf(2) / 3
    s = sqrt(z)
    return (2 * atanh(s) - 2 * s) / (s * z)


zmax = ((sqrt(2) - 1) / (sqrt(2) + 1)) ** 2 * mpf("1.0001")
for deg in (5, 6, 7):
    c, e = remez(R, lambda z: mpf(1), deg, mpf(0) + mpf(10) ** -12, zmax)
    print("log", deg, f"error 2^{float(mp.log(e, 2)):.2f}")
    print([float(v).hex() for v in c])
