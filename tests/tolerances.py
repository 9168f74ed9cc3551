"""Every bound of the tests, each with its reason, and the one helper that holds results to them.

An error is measured in ulp: units in the last place that the result's dtype has at the size of `scale`, which is the
exact result itself (a relative error) or, where terms of opposite sign meet, the sum of their absolute values.
"""

from typing import Any

import ml_dtypes
import mpmath
import numpy as np
from mpmath import mp, mpf

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# -- bounds, in ulp ---------------------------------------------------------------------------------------------------

# The loss of a row is a sum of terms of one sign: exp (1 ulp), blocked sums (1), log1p (1), rounding to dtype (1/2).
ROW_LOSS = 4
# With distance |z_j - max z| added: half an ulp in the difference of two logits already moves exp by that much.
GRADIENT = 8
# Second derivatives multiply two such factors; p.w is one more blocked sum.
HVP = 16
# The mean of rows, each right to ROW_LOSS before it is rounded: one float64 sum, one division, one rounding.
MEAN = 2
# A sum or mean of rows that were each allowed ROW_LOSS.
REDUCED = ROW_LOSS + MEAN
# The same terms scaled in another order: a row's weight, the denominator and the unit round once each.
SCALED = 2
# A 16-bit result of a computation in float32 or wider is rounded once; float32 errors can add 0.01 to that half.
ROUNDED_ONCE = 0.51
# tanh, exp and log of one argument, and a sum of at most a few terms round them.
ELEMENTWISE = 4
# Roundings of x / T + b and of the soft-cap before the row starts, in the library's working precision
# (`library.working_eps`): each moves z_j by half an ulp of its size, and two logits enter a difference.
TRANSFORM = 4
# A library's matrix product rounds every term and every sum once, in the dtype of the products, in its own order.
PRODUCT = 2
# Two results that are each within a bound of the truth differ by at most twice the bound.
BETWEEN_TWO = 2


def gradient_bound(z: Any) -> np.ndarray:
    """8 + |z_j - max z|; a class that cannot occur (z = -inf) is exact in any case."""
    z = np.asarray(z, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.abs(z - z.max(axis=-1, keepdims=True))
    return GRADIENT + np.where(np.isfinite(distance), distance, 0.0)


def product_bound(terms: int) -> int:
    """Of a dot product of so many terms, measured against the sum of their absolute values."""
    return PRODUCT * terms


def hvp_bound(z: Any) -> np.ndarray:
    return gradient_bound(z) - GRADIENT + HVP


# -- measuring --------------------------------------------------------------------------------------------------------


def result_dtype(dtype: Any) -> np.dtype:
    """The dtype of a loss: float32 for 16-bit logits."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def ulp(scale: Any, dtype: Any) -> mpf:
    """The spacing of `dtype` at |scale|; below the smallest normal number the spacing there."""
    info = ml_dtypes.finfo(np.dtype(dtype))
    smallest, eps = mpf(float(info.smallest_normal)), mpf(float(info.eps))
    size = max(abs(mpf(scale)), smallest)
    return mp.ldexp(eps, mp.frexp(size)[1] - 1)


def allowed_error(bound: Any, scale: Any, dtype: Any) -> mpf:
    """`bound` ulp. float32 and float64 may flush to zero below their smallest normal number, 16-bit results may not."""
    info = ml_dtypes.finfo(np.dtype(dtype))
    smallest = mpf(float(info.smallest_normal))
    allowed = mpf(bound) * ulp(scale, dtype)
    if np.dtype(dtype).itemsize > 2 and 0 < abs(mpf(scale)) < smallest * (1 + mpf(bound) * mpf(float(info.eps))):
        allowed = max(allowed, smallest)
    return allowed


def object_array(values: Any) -> np.ndarray:
    """Python's or mpmath's numbers, whatever they were."""
    if isinstance(values, (np.ndarray, np.generic)):
        return np.asarray(values).astype(object)
    if isinstance(values, (list, tuple)):
        out = np.empty(len(values), dtype=object)
        out[:] = list(values)
        return out
    return np.array(values, dtype=object)


def assert_within(actual: Any, exact: Any, bound: Any, *, scale: Any = None, dtype: Any = None, slack: Any = 0) -> None:
    """Assert |actual - exact| <= bound ulp of scale (default: of the exact result) + slack, entry by entry.

    NaN and infinities must agree exactly. `dtype` is the one whose ulp counts, by default that of `actual`.
    """
    actual = np.asarray(actual)
    dtype = actual.dtype if dtype is None else np.dtype(dtype)
    exact = object_array(exact)
    assert actual.shape == exact.shape, f"shape {actual.shape}, expected {exact.shape}"
    scale = np.broadcast_to(object_array(exact if scale is None else scale), exact.shape)
    bound = np.broadcast_to(object_array(bound), exact.shape)
    slack = np.broadcast_to(object_array(slack), exact.shape)
    for position in np.ndindex(exact.shape):
        got, want = mpf(float(actual[position])), mpf(exact[position])
        where = f"at {position}: {actual[position]!r}, expected {mp.nstr(want, 20)}"
        if mpmath.isnan(want) or mpmath.isinf(want):
            assert got == want or (mpmath.isnan(got) and mpmath.isnan(want)), where
            continue
        assert mpmath.isfinite(got), where
        error = abs(got - want)
        size = mpf(scale[position])
        limit = allowed_error(bound[position], size, dtype) + mpf(slack[position])
        if error > limit:
            unit = ulp(size, dtype)
            raise AssertionError(f"{where}: off by {mp.nstr(error / unit, 4)} ulp, allowed {mp.nstr(limit / unit, 4)}")


def assert_same(actual: Any, expected: Any) -> None:
    """Assert the same dtype, shape and bits (every NaN counts as one)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"{actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if actual.dtype.kind in "iub":
        np.testing.assert_array_equal(actual, expected)
        return
    kind = np.dtype(f"u{actual.dtype.itemsize}")
    bits, wanted = (np.where(np.isnan(a), np.asarray(np.nan, a.dtype), a).view(kind) for a in (actual, expected))
    different = np.argwhere(np.atleast_1d(bits != wanted))
    if len(different):
        first = tuple(int(v) for v in different[0])
        values = np.atleast_1d(actual)[first], np.atleast_1d(expected)[first]
        raise AssertionError(
            f"{len(different)} entries differ, first at {first}: {values[0]!r}, expected {values[1]!r}"
        )
