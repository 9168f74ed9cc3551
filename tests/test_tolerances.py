"""The helper that compares must itself be able to fail."""

import ml_dtypes
import numpy as np
import pytest
from mpmath import mp, mpf
from tolerances import assert_same, assert_within, gradient_bound, result_dtype, ulp

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1.0, 1.5, 3.0, 0.0078125, -20.0])
def test_ulp_is_the_distance_to_the_next_number(dtype, size):
    value = np.asarray(size, dtype)
    up = np.nextafter(value, np.asarray(np.inf, dtype)) if size > 0 else np.nextafter(value, np.asarray(-np.inf, dtype))
    assert ulp(size, dtype) == abs(mpf(float(up)) - mpf(float(value)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ulp_stops_at_the_smallest_normal_number(dtype):
    info = np.finfo(dtype)
    assert ulp(0, dtype) == ulp(float(info.smallest_normal), dtype) == mpf(float(info.smallest_subnormal))


def test_a_result_at_the_bound_passes_and_one_above_it_fails():
    one = np.float32(1.0)
    step = np.spacing(one)
    assert_within(one + 4 * step, mpf(1), 4)
    with pytest.raises(AssertionError, match=r"off by 5\.0 ulp, allowed 4\.0"):
        assert_within(one + 5 * step, mpf(1), 4)


def test_every_entry_is_looked_at_and_the_failing_one_is_named():
    actual = np.zeros((2, 3))
    actual[1, 2] = 1e-300
    with pytest.raises(AssertionError, match=r"at \(1, 2\)"):
        assert_within(actual, np.full((2, 3), mpf(0), dtype=object), 4)


def test_scale_and_slack_widen_the_bound_by_what_they_say():
    assert_within(1.0 + 4e-16, mpf(1), 1, scale=2)
    with pytest.raises(AssertionError):
        assert_within(1.0 + 7e-16, mpf(1), 1, scale=2)
    assert_within(1.0 + 1e-9, mpf(1), 0, slack=mpf("1.1e-9"))
    with pytest.raises(AssertionError):
        assert_within(1.0 + 1e-9, mpf(1), 0, slack=mpf("0.9e-9"))


def test_a_zero_for_a_tiny_loss_fails():
    with pytest.raises(AssertionError):
        assert_within(np.float32(0.0), mpf("4.122307e-09"), 4)
    with pytest.raises(AssertionError):
        assert_within(0.0, mpf("1e-300"), 4)


def test_only_below_the_smallest_normal_number_may_a_wide_result_be_flushed():
    assert_within(0.0, mpf("1e-310"), 4)
    with pytest.raises(AssertionError):
        assert_within(np.float16(0.0), mpf("1e-6"), 0.51)


@pytest.mark.parametrize(
    ("actual", "exact"), [(np.nan, 1), (1.0, mp.nan), (np.inf, 1), (1.0, mp.inf), (np.inf, -mp.inf), (np.nan, mp.inf)]
)
def test_nan_and_infinity_must_agree(actual, exact):
    with pytest.raises(AssertionError):
        assert_within(actual, exact, 1e9)


def test_nan_and_infinity_may_agree():
    assert_within(np.array([np.nan, np.inf, -np.inf]), [mp.nan, mp.inf, -mp.inf], 0)


def test_shapes_must_agree():
    with pytest.raises(AssertionError, match="shape"):
        assert_within(np.zeros(3), [mpf(0)], 1)


def test_same_means_the_same_bits_and_dtype():
    assert_same(np.array([1.0, np.nan]), np.array([1.0, -np.nan]))
    with pytest.raises(AssertionError, match="first at"):
        assert_same(np.array([1.0]), np.array([np.nextafter(1.0, 2)]))
    with pytest.raises(AssertionError, match="first at"):
        assert_same(np.array([0.0]), np.array([-0.0]))
    with pytest.raises(AssertionError, match="float32"):
        assert_same(np.float32(1), np.float64(1))
    with pytest.raises(AssertionError, match="shape"):
        assert_same(np.zeros(1), np.zeros(()))


def test_the_gradient_bound_follows_the_distance_to_the_maximum():
    np.testing.assert_array_equal(gradient_bound([3.0, 1.0, -np.inf]), [8, 10, 8])


@pytest.mark.parametrize(("logits", "loss"), [("f8", "f8"), ("f4", "f4"), ("f2", "f4"), (ml_dtypes.bfloat16, "f4")])
def test_a_loss_is_at_least_float32(logits, loss):
    assert result_dtype(logits) == np.dtype(loss)
