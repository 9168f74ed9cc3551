"""The C++ core's sigmoid loss: every option in it, weights of every shape, and what it may not read."""

import ml_dtypes
import numpy as np
import pytest
from mpmath import mp, mpf

import crossentropy as xe
from crossentropy.kernels import generic, native
from tests import reference, tolerances
from tests.tolerances import assert_within

pytestmark = pytest.mark.skipif(not native.instruction_sets(), reason="this build has no native core")

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
SHAPE = (50, 4, 13)  # 2,600 elements: more than a block
OPTIONS = {
    "none": {},
    "label_smoothing": {"label_smoothing": 0.1},
    "pos_weight": {"pos_weight": np.linspace(0, 3, 13)},
    "row_weight": {"row_weight": np.linspace(0, 3, 50)[:, None, None]},
    "normalizer": {"normalizer": np.linspace(0, 3, 13)},
    "bits": {"unit": "bits", "row_weight": np.float32(0.3)},
    "everything": {
        "label_smoothing": 0.2,
        "pos_weight": 3.0,
        "row_weight": np.linspace(0, 1, 4)[:, None],
        "unit": "bits",
    },
}
HARD = {f"focal_gamma={gamma}": {"focal_gamma": gamma, "pos_weight": 2.0} for gamma in (0.5, 1, 1.5, 2, 2.7, 5)}


@pytest.fixture
def kernel(monkeypatch):
    """Choose who computes: "generic" or an instruction set."""
    return lambda name: monkeypatch.setenv("CROSSENTROPY_KERNEL", name)


def problem(inputs="logits", dtype=np.float64, shape=SHAPE, hard=False):
    """A quarter of the elements is not to be read: their targets are -100, their logits NaN."""
    random = np.random.default_rng(3)
    logits, target = random.normal(0, 9 if inputs == "logits" else 2, shape), random.random(shape)
    if inputs != "logits":
        logits = -np.logaddexp(0, -logits) if inputs == "log_probs" else 1 / (1 + np.exp(-logits))
    if hard:
        target = np.round(target)
    out = random.random(shape) < 0.25
    return np.where(out, np.nan, logits).astype(dtype), np.where(out, -100, target)


def call(logits, target, **options):
    return xe.binary_cross_entropy_value_and_grad(logits, target, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 31, 2_048, 5_000])
@pytest.mark.parametrize("name", native.instruction_sets())
def test_the_sigmoid_loss_of_the_core_and_of_the_generic_form_agree(kernel, name, dtype, count):
    random = np.random.default_rng(count)
    logits, target = (random.normal(0, 9, count)).astype(dtype), random.random(count).astype(np.float32)
    kernel("generic")
    value, gradient = call(logits, target, reduction="none")
    kernel(name)
    found, slope = call(logits, target, reduction="none")
    np.testing.assert_allclose(found, value, rtol=8 * float(np.finfo(value.dtype).eps))
    eps = float(ml_dtypes.finfo(logits.dtype).eps)
    assert (np.abs(slope.astype(float) - gradient.astype(float)) <= 16 * eps).all()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("option", [*OPTIONS, *HARD])
@pytest.mark.parametrize("inputs", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("name", native.instruction_sets())
def test_every_option_is_computed_in_the_core(kernel, monkeypatch, name, inputs, option, reduction):
    options = {"inputs": inputs, "reduction": reduction, **(OPTIONS | HARD)[option]}
    for dtype in (np.float64, np.float32, np.float16):
        logits, target = problem(inputs, dtype, hard=option in HARD)
        kernel("generic")
        value, gradient = call(logits, target, **options)
        kernel(name)
        with monkeypatch.context() as patch:
            patch.setattr(generic, "binary_loss", None)
            patch.setattr(generic, "binary_gradient", None)
            found, slope = call(logits, target, **options)
        assert found.dtype == value.dtype
        assert slope.dtype == gradient.dtype == dtype
        between = tolerances.BETWEEN_TWO * (tolerances.REDUCED + tolerances.SCALED)
        np.testing.assert_allclose(found, value, rtol=between * np.finfo(value.dtype).eps)
        # Two terms of opposite sign meet in the gradient of a soft target: against the sum of their sizes.
        kernel("generic")
        certain = [call(logits, np.where(target == -100, -100, t), **options)[1].astype(float) for t in (0, 1)]
        scale = np.abs(certain).sum(axis=0) + np.abs(gradient.astype(float))
        assert (np.abs(slope.astype(float) - gradient.astype(float)) <= 40 * float(np.finfo(dtype).eps) * scale).all()


@pytest.mark.parametrize("gamma", [0.5, 1, 1.5, 2, 2.7, 5])
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", native.instruction_sets())
def test_focal_loss_at_both_tails(kernel, name, dtype, target, gamma):
    kernel(name)
    size = np.concatenate([np.geomspace(1e-9, 1, 12), [3.0, 17.0, 40.0, 88.0]])
    logits = np.concatenate([size, -size, [0.0]]).astype(dtype)
    targets = np.full(len(logits), target)
    exact = reference.binary_cross_entropy(logits, targets, focal_gamma=gamma, reduction="none")
    value, gradient = call(logits, targets, focal_gamma=gamma, reduction="none")
    # A relative error of the chance counts gamma times.
    bound = (1 + gamma) * (tolerances.ROW_LOSS + np.abs(logits.astype(float)))
    assert_within(value, exact.value, bound)
    assert_within(gradient, exact.gradient[:, 0], bound + tolerances.GRADIENT)


@pytest.mark.parametrize("name", native.instruction_sets())
def test_log_probabilities_down_to_nothing(kernel, name):
    kernel(name)
    x = np.array([-0.0, -5e-324, -1e-310, -1e-17, -0.69, -0.7, -36.0, -690.0, -701.0, -720.0, -744.0, -np.inf])
    exact = reference.binary_cross_entropy(x, np.zeros(len(x)), inputs="log_probs", reduction="none")
    value, gradient = call(x, np.zeros(len(x)), inputs="log_probs", reduction="none")
    assert_within(value, exact.value, tolerances.ROW_LOSS)
    # e^x / (1 - e^x): more than a double holds for the first three, a subnormal number for the last but one.
    slopes = [mp.inf, mp.inf, mp.inf, *(mp.exp(v) / -mp.expm1(v) for v in map(mpf, x[3:]))]
    assert_within(gradient, slopes, tolerances.GRADIENT + np.abs(np.maximum(x, -800)))
    value, gradient = call(x, np.ones(len(x)), inputs="log_probs", reduction="none")
    np.testing.assert_array_equal(value, -x)
    np.testing.assert_array_equal(gradient, -1)


@pytest.mark.parametrize("target", [1 - 1e-9, 1e-9, 1 - 1e-16])
def test_a_double_target_keeps_its_digits_beside_float_logits(target):
    """1 - t would round to 0, and with it the whole loss of a confident prediction."""
    logits = np.array([-100.0, -3.0, 0.5, 3.0, 100.0], np.float32)
    targets = np.full(5, target)
    exact = reference.binary_cross_entropy(logits, targets, reduction="none")
    value, gradient = call(logits, targets, reduction="none")
    assert_within(value, exact.value, tolerances.ROW_LOSS)
    scale = [max(abs(e), mpf(1) / 10**9) for e in exact.gradient[:, 0]]
    assert_within(gradient, exact.gradient[:, 0], 2 * tolerances.GRADIENT + 100, scale=scale)


@pytest.mark.parametrize(
    "shape", [(), (1,), (13,), (4, 1), (4, 13), (50, 1, 1), (50, 4, 1), (50, 1, 13), (1, 4, 1), SHAPE]
)
@pytest.mark.parametrize("name", native.instruction_sets())
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, ml_dtypes.bfloat16])
def test_weights_are_broadcast_without_a_copy(kernel, name, shape, dtype):
    """The same bits as of weights that were written out, whatever shape, dtype and strides they have."""
    kernel(name)
    logits, target = problem(dtype=np.float32)
    weight = (np.random.default_rng(5).integers(0, 4, shape) / (1 if dtype is np.int64 else 2)).astype(dtype)
    whole = np.ascontiguousarray(np.broadcast_to(weight, SHAPE)).astype(np.float64)
    for given in (weight, weight[..., ::-1][..., ::-1] if shape else weight, np.asfortranarray(weight)):
        for reduction in ("none", "sum", "mean"):
            expected = call(logits, target, row_weight=whole, pos_weight=whole, reduction=reduction)
            found = call(logits, target, row_weight=given, pos_weight=given, reduction=reduction)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_weights_of_any_size_count_by_their_ratio():
    """Also where their sum has no inverse, and where float has no number for them."""
    logits, target = problem(dtype=np.float32)
    weight = np.random.default_rng(7).integers(1, 4, SHAPE).astype(float)
    value, gradient = call(logits, target, row_weight=weight)
    for scale in (1e-300, 1e-50, 1e50, 1e300):
        found, slope = call(logits, target, row_weight=weight * scale)
        assert_within(found, value, tolerances.SCALED)
        np.testing.assert_allclose(slope, gradient, rtol=4e-7)
    tiny = np.full(SHAPE, 1e-315)
    expected = call(logits, target)
    found, slope = call(logits, target, row_weight=tiny)
    assert_within(found, expected[0], tolerances.SCALED)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-6)


def test_what_weighs_nothing_is_not_read():
    logits = np.array([np.nan, 1.0, np.inf, -2.0], np.float32)
    target, weight = np.array([7.0, 1.0, 0.5, 0.0]), np.array([0, 1, 0, 2])
    for inputs, given in (("logits", logits), ("probs", np.array([-3.0, 0.5, 7.0, 0.25]))):
        value, gradient = call(given, target, row_weight=weight, inputs=inputs)
        expected, slope = call(given[[1, 3]], target[[1, 3]], row_weight=weight[[1, 3]], inputs=inputs)
        assert value == expected
        np.testing.assert_array_equal(gradient, [0, slope[0], 0, slope[1]])
        assert not np.signbit(gradient[[0, 2]]).any()
    with pytest.raises(ValueError, match=r"target\[3\] = 7.0 is outside"):
        call(logits, target[::-1].copy(), row_weight=weight)


def test_a_target_that_focal_loss_cannot_take_is_named():
    target = np.zeros(3_000, np.float32)
    target[2_345] = 0.5
    with pytest.raises(ValueError, match=r"target\[2345\] = 0.5 is neither 0 nor 1"):
        call(np.zeros(3_000, np.float32), target, focal_gamma=2.0)
    with pytest.raises(ValueError, match=r"target\[2345\] = 0.5 is neither 0 nor 1"):
        xe.binary_cross_entropy(np.zeros(3_000), target, focal_gamma=2.0, ignore_index=1)


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("name", native.instruction_sets())
def test_threads_change_no_bit_of_a_weighted_sigmoid_loss(kernel, name, threads):
    kernel(name)
    logits, target = problem(dtype=np.float32, shape=(300_000,), hard=True)
    options = {"row_weight": np.random.default_rng(1).random(300_000), "focal_gamma": 2.0}
    one, several = (call(logits, target, num_threads=n, **options) for n in (1, threads))
    assert one[0] == several[0]
    np.testing.assert_array_equal(one[1], several[1])


NAN, INF = np.nan, np.inf
# Logits, targets, options: what float cannot hold, beside float logits; what no sum of weights can; what is not read.
EXTREMES = [
    ([1, 2, 3], [1, NAN, 1], {"row_weight": [1, 0, 1]}),
    ([1, 2], [0, 1e300], {"row_weight": [1, 0]}),
    ([1, 2], [0, 0], {"pos_weight": 1e39}),
    ([1, 2], [0, -100], {"pos_weight": [1, 1e39]}),
    ([1, 2], [0, 1], {"pos_weight": [1, 1e39], "row_weight": [1, 0]}),
    ([1, 2], [1, 2.0**70], {"ignore_index": 2**70}),
    ([1, -2], [1, 1], {"ignore_index": 10**400}),
    ([1, -2], [1, 2.0**63], {"ignore_index": 2**63}),
    ([100, 20], [1, 1], {"row_weight": [1e39, 1e39], "reduction": "none"}),
    ([-INF, -1e38], [1, 1], {"row_weight": [1e-50, 1e-50], "reduction": "none"}),
    ([1, -2], [1, 1], {"normalizer": 1e50, "pos_weight": 1e20}),
    ([-1e6, -2e5], [1, 1], {"normalizer": 1.1e42, "pos_weight": 1e30}),
    ([-1e6, -2e5], [1, 1], {"row_weight": 1.1e-42, "reduction": "none"}),
    ([100, -2], [1, 1], {"normalizer": 1e39, "pos_weight": 1e39}),
    ([1, -2], [1, 1], {"pos_weight": 1e-50, "row_weight": 1e50, "reduction": "sum"}),
    ([-100, -2], [1e-50, 1e-50], {"pos_weight": 1e50, "reduction": "none"}),
    ([-100, -2], [1, 1], {"normalizer": 1e10, "pos_weight": 1e38}),
    ([-1e30, -1e30], [1e-46, 1e-46], {}),
    ([NAN, 2], [1, 1], {"normalizer": 0}),
    ([1, 0.5], [0, 1], {"normalizer": 0, "inputs": "probs"}),
    ([1, 2], [1, 1], {"normalizer": 1e-310, "pos_weight": 1e-300}),
    ([-1e10, 20], [1, 1], {"row_weight": [1e-312, 1e-312]}),
    ([1, 20], [1, 0], {"row_weight": [1e-312, 3e-312], "reduction": "none"}),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("logits", "target", "options"), EXTREMES)
@pytest.mark.parametrize("name", native.instruction_sets())
def test_extreme_numbers_and_what_is_not_read(kernel, name, logits, target, options, dtype):
    logits = np.array(logits, np.float64).astype(dtype)
    kernel("generic")
    expected = call(logits, np.array(target, np.float64), **options)
    kernel(name)
    found = call(logits, np.array(target, np.float64), **options)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=40 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


def test_a_sum_of_weights_that_no_double_holds():
    """The mean of [1e10, 2e-9] under weights of which the sum times the loss would overflow."""
    value, gradient = call(np.array([-1e10, 20.0]), np.array([1.0, 1.0]), row_weight=np.array([1e300, 1e300]))
    assert_within(value, mpf(10) ** 10 / 2, tolerances.REDUCED)
    assert_within(gradient[0], mpf(-1) / 2, tolerances.GRADIENT)


@pytest.mark.parametrize(("index", "target"), [(2**63, 2**63 - 1), (2**53 + 1, 2**53)])
def test_an_integer_that_rounds_to_the_ignored_one_is_not_ignored(index, target):
    with pytest.raises(ValueError, match=r"target\[1\] = .* is outside \[0, 1\]"):
        xe.binary_cross_entropy(np.zeros(2), np.array([1, target]), ignore_index=index)
