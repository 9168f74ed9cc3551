"""softmax, sigmoid, entropy and their kin against the oracle, over ordinary and extreme inputs."""

import cases
import numpy as np
import pytest
import reference
import tolerances
from mpmath import mp, mpf
from tolerances import assert_same, assert_within

import crossentropy as xe

INF, NAN = np.inf, np.nan
WIDE = pytest.mark.parametrize("dtype", [np.dtype(np.float64), np.dtype(np.float32)], ids=str)
SHORT = pytest.mark.parametrize("dtype", [cases.DTYPES["float16"], cases.DTYPES["bfloat16"]], ids=str)


def exact_rows(function, rows):
    """`function` of each row at enough digits, as an object array."""
    out = []
    for row in reference.exact_array(rows):
        with mp.workdps(reference.digits_for(row)):
            out.append(function(tuple(row)))
    return np.array(out, dtype=object)


def rows_for(dtype):
    rng = np.random.default_rng(1)
    deepest = 700 if dtype.itemsize == 8 else 80
    return np.concatenate(
        [
            rng.normal(0, 1, (4, 5)),
            rng.normal(0, 30, (4, 5)),
            1e4 + rng.normal(0, 3, (4, 5)),
            [[0, 0, 0, 0, 0], [5, 5, 5, 1, 1], [-INF, 1, -INF, 2, 2], [-INF, -INF, -INF, -INF, 3]],
            [[deepest, 0, 1, 0.3, -0.7], [-deepest, 0, 0, 0, 0]],
        ]
    ).astype(dtype)


@WIDE
def test_softmax(library, dtype):
    logits = rows_for(dtype)
    p = library.call("softmax", logits)
    assert p.dtype == dtype
    assert_within(p, exact_rows(reference.softmax, logits), tolerances.gradient_bound(logits))


@WIDE
def test_log_softmax(library, dtype):
    """As exact at p = 1 - 1e-300 as far below: the largest entry has a relative error as well."""
    logits = rows_for(dtype)

    def exact(row):
        top = row.index(max(row))
        values = list(reference.log_softmax(row))
        values[top] = -reference.plain_row(row, top)[0]
        return values

    actual = library.call("log_softmax", logits)
    assert actual.dtype == dtype
    assert_within(actual, exact_rows(exact, logits), tolerances.ROW_LOSS)


@SHORT
def test_softmax_of_sixteen_bits(library, dtype):
    logits = rows_for(dtype)
    for function in ("softmax", "log_softmax"):
        actual = library.call(function, logits)
        assert_same(actual, library.call(function, logits.astype(np.float64)).astype(actual.dtype))
        assert actual.dtype in (np.dtype(np.float32), dtype)


def test_softmax_along_any_axis(library):
    logits = cases.short_normal(np.random.default_rng(2), (3, 4, 5))
    for axis in (0, 1, 2, -2):
        for function in ("softmax", "log_softmax"):
            expected = library.call(function, np.ascontiguousarray(np.moveaxis(logits, axis, -1)))
            assert_same(np.moveaxis(library.call(function, logits, axis=axis), axis, -1), expected)


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_an_undefined_row_of_softmax_is_nan(library, function):
    logits = np.array([[NAN, 0.0], [INF, 0.0], [-INF, -INF], [0.0, 0.0]])
    result = library.call(function, logits)
    assert np.isnan(result[:3]).all()
    assert np.isfinite(result[3]).all()


def elements_for(dtype):
    deepest = 740 if dtype.itemsize == 8 else 100
    size = np.concatenate([np.geomspace(1e-30, deepest, 60), np.linspace(0.1, 40, 40), [0.0, 1e4]])
    return np.concatenate([size, -size]).astype(dtype)


@WIDE
def test_sigmoid(library, dtype):
    x = elements_for(dtype)
    exact = [reference.sigmoid(v) for v in reference.exact_array(x)]
    bound = tolerances.GRADIENT + np.where(x < 0, np.abs(x.astype(float)), 0)
    assert_within(library.call("sigmoid", x), exact, bound)


@WIDE
def test_log_sigmoid(library, dtype):
    x = elements_for(dtype)
    exact = [reference.log_sigmoid(v) for v in reference.exact_array(x)]
    assert_within(library.call("log_sigmoid", x), exact, tolerances.ROW_LOSS)


def test_sigmoid_at_infinity(library):
    x = np.array([INF, -INF, NAN])
    assert_same(library.call("sigmoid", x), np.array([1.0, 0.0, NAN]))
    assert_same(library.call("log_sigmoid", x) + 0.0, np.array([0.0, -INF, NAN]))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int8])
def test_one_hot(library, dtype):
    labels = np.array([[2, 0], [1, 2]], dtype)
    expected = np.array([[[0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 0, 1]]], float)
    assert_same(library.call("one_hot", labels, 3), expected)
    for axis in (0, 1, 2, -1, -3):
        assert_same(
            np.ascontiguousarray(library.call("one_hot", labels, 3, axis=axis)),
            np.ascontiguousarray(np.moveaxis(expected, -1, axis)),
        )
    assert_same(library.call("one_hot", labels, 3, dtype=np.float32), expected.astype(np.float32))
    assert_same(library.call("one_hot", labels, 3, dtype=bool), expected.astype(bool))
    assert_same(library.call("one_hot", labels[0, 0], 3), expected[0, 0])


def probabilities(dtype):
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(6), 12)
    ends = [
        [1, 0, 0, 0, 0, 0],
        [0.5, 0.5, 0, 0, 0, 0],
        [1 / 6] * 6,
        [1 - 1e-9, 1e-9, 0, 0, 0, 0],
        [1e-30, 1, 0, 0, 0, 0],
    ]
    return np.concatenate([p, ends]).astype(dtype)


@WIDE
@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_entropy(library, dtype, unit):
    p = probabilities(dtype)
    exact = exact_rows(reference.entropy, p) / (1 if unit == "nats" else mp.log(2))
    actual = library.call("entropy", p, unit=unit)
    assert actual.dtype == dtype
    assert_within(actual, exact, tolerances.ROW_LOSS)
    assert_same(library.call("entropy", p.T, axis=0, unit=unit), actual)


def test_entropy_by_hand(library):
    assert library.call("entropy", np.array([0.5, 0.25, 0.25]), unit="bits") == 1.5
    assert library.call("entropy", np.array([1.0, 0.0])) == 0
    assert np.isnan(library.call("entropy", np.array([0.5, NAN])))


@WIDE
@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_kl_divergence(library, dtype, unit):
    """Against the sum of the absolute terms where they cancel; what the true distribution excludes costs nothing."""
    t = probabilities(dtype)
    p = np.where(t > 0, np.roll(probabilities(dtype), 1, axis=0) + dtype.type(1e-3), 0).astype(dtype)
    p = np.minimum(p, 1)
    scale = []
    exact = []
    for row_t, row_p in zip(reference.exact_array(t), reference.exact_array(p), strict=True):
        exact.append(reference.kl_divergence(tuple(row_t), tuple(row_p)))
        scale.append(sum(abs(a * mp.log(a / b)) + abs(a - b) for a, b in zip(row_t, row_p, strict=True) if a))
    factor = 1 if unit == "nats" else mp.log(2)
    actual = library.call("kl_divergence", t, p, unit=unit)
    assert_within(actual, [v / factor for v in exact], tolerances.ROW_LOSS, scale=[v / factor for v in scale])


def test_kl_divergence_of_close_distributions_keeps_its_digits(library):
    """sum t log(t / p) as written has lost all of them at a distance of 1e-9."""
    t = np.array([0.5, 0.25, 0.25])
    for step in (2.0**-10, 2.0**-20, 2.0**-30):
        p = t + np.array([step, -step / 2, -step / 2])
        exact = reference.kl_divergence(tuple(reference.exact_array(t)), tuple(reference.exact_array(p)))
        assert_within(library.call("kl_divergence", t, p), exact, tolerances.GRADIENT)


def test_kl_divergence_where_a_probability_is_zero(library):
    assert library.call("kl_divergence", np.array([0.5, 0.5]), np.array([1.0, 0.0])) == INF
    assert_within(
        library.call("kl_divergence", np.array([1.0, 0.0]), np.array([0.25, 0.75])), mp.log(4), tolerances.ROW_LOSS
    )
    assert library.call("kl_divergence", np.array([0.3, 0.7]), np.array([0.3, 0.7])) == 0


def test_cross_entropy_is_entropy_and_divergence(library):
    t, p = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.25, 0.5]])
    parts = library.call("entropy", t) + library.call("kl_divergence", t, p)
    value = library.call("cross_entropy", p, t, inputs="probs", reduction="none")
    np.testing.assert_allclose(value, parts, rtol=1e-15)


@WIDE
def test_perplexity(library, dtype):
    loss = np.array([0.0, 1.0, 3.5, 0.01, 20.0, INF], dtype)
    exact = [mp.exp(v) for v in reference.exact_array(loss)]
    bound = tolerances.ELEMENTWISE
    assert_within(library.call("perplexity", loss), exact, bound)
    assert_within(
        library.call("perplexity", loss, unit="bits"), [mpf(2) ** v for v in reference.exact_array(loss)], bound
    )
    assert library.call("perplexity", np.float64(3.0), unit="bits") == 8


@WIDE
def test_softmax_jacobian(library, dtype):
    p = probabilities(dtype)
    actual = library.call("softmax_jacobian", p)
    assert actual.shape == (len(p), 6, 6)
    exact = np.array(
        [[[a * (int(i == j) - b) for j, b in enumerate(r)] for i, a in enumerate(r)] for r in reference.exact_array(p)],
        dtype=object,
    )
    assert_within(actual, exact, tolerances.ELEMENTWISE)
    assert_same(library.call("softmax_jacobian", p[3]), actual[3])
    assert_same(library.call("softmax_jacobian", p.reshape(1, -1, 6)), actual[None])


def test_the_jacobian_is_the_derivative_of_softmax(library):
    """The Hessian of the loss is softmax's Jacobian: one from the probabilities, one from the logits."""
    logits = cases.short_normal(np.random.default_rng(4), (1, 4))
    jacobian = library.call("softmax_jacobian", library.call("softmax", logits))[0]
    columns = [library.call("cross_entropy_hvp", logits, np.array([0]), np.eye(4)[j : j + 1])[0] for j in range(4)]
    np.testing.assert_allclose(np.array(columns).T, jacobian, rtol=1e-13, atol=1e-18)


# -- row statistics ---------------------------------------------------------------------------------------------------


STATISTICS_OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 1.25},
    "softcap": {"softcap": 4.0},
    "class_bias": {"class_bias": np.array([0.5, -1.0, 0.0, 2.0, 0.0])},
    "class_mask": {"class_mask": np.array([True, True, False, True, True])},
    "bits": {"unit": "bits"},
    "log_probs": {"inputs": "log_probs"},
    "probs": {"inputs": "probs"},
}


@pytest.mark.parametrize("dtype", cases.DTYPES.values(), ids=cases.DTYPES)
@pytest.mark.parametrize("options", STATISTICS_OPTIONS.values(), ids=STATISTICS_OPTIONS)
@pytest.mark.parametrize("kind", ["labels", "soft", "sparse"])
def test_row_statistics(library, dtype, options, kind):
    rng = np.random.default_rng(5)
    logits = cases.inputs_for(options, rng).astype(dtype)
    target = cases.TARGETS[kind](rng)
    if kind == "labels":
        target = np.where(target == 2, 0, target)
    if kind == "soft" and "class_mask" in options:
        target[:, 2] = 0
    if kind == "sparse" and "class_mask" in options:
        target = np.where(target[0] == 2, 0, target[0]), target[1]
    given = {name: v.astype(dtype) if name == "class_bias" else v for name, v in options.items()}
    lse, target_log_prob, entropy, prediction = library.call("row_statistics", logits, target, **given)
    exact = reference.cross_entropy(logits.astype(float), target, reduction="none", **options)
    factor = mp.log(2) if options.get("unit") == "bits" else mpf(1)
    wide = tolerances.result_dtype(dtype)
    assert lse.dtype == target_log_prob.dtype == entropy.dtype == wide
    assert prediction.dtype == library.index_dtype(dtype)
    assert_within(target_log_prob, [-v for v in exact.value], tolerances.REDUCED, slack=1e-15)
    for i, row in enumerate(exact.rows):
        z = row.transform(row.x) if options.get("inputs") in (None, "logits") else row.log_probs(row.x)
        assert prediction[i] == z.index(max(z))
        if options.get("inputs") is None:
            log_sum = reference.log_sum_exp(z)
            assert_within(lse[i], log_sum / factor, tolerances.REDUCED, scale=(abs(max(z)) + log_sum - max(z)) / factor)
            p = reference.softmax(z)
            assert_within(
                entropy[i], reference.entropy(p) / factor, tolerances.REDUCED, scale=mpf(1) + reference.entropy(p)
            )
    again = library.call("row_statistics", logits, target, **given)
    assert_same(again[0], lse)


def test_row_statistics_of_ignored_and_undefined_rows(library):
    logits = np.array([[1.0, 3.0, 3.0], [0.0, 1.0, 0.0], [NAN, 0.0, 0.0], [0.0, INF, 0.0], [-INF, -INF, -INF]])
    lse, target_log_prob, entropy, prediction = library.call("row_statistics", logits, np.array([1, -100, 0, 0, 0]))
    assert prediction.tolist() == [1, 1, -1, -1, -1]
    assert target_log_prob[1] == 0
    for values in (lse, entropy, target_log_prob):
        assert np.isfinite(values[:2]).all()
        assert np.isnan(values[2:]).all()


def test_row_statistics_without_a_target_and_on_another_axis(library):
    logits = cases.short_normal(np.random.default_rng(6), (4, 3, 2))
    moved = np.ascontiguousarray(np.moveaxis(logits, 1, -1))
    summary = library_summary(library, logits, axis=1)
    assert summary.target_log_prob is None
    expected = library_summary(library, moved)
    for name in ("lse", "entropy", "prediction"):
        assert getattr(summary, name).shape == (4, 2)
        assert_same(library.numpy(getattr(summary, name)), library.numpy(getattr(expected, name)))


def library_summary(library, logits, **options):
    return xe.row_statistics(library.array(logits), **options)


def test_the_entropy_of_a_sure_prediction_keeps_its_digits(library):
    """p = 1 - 1e-13: lse - sum p z would have an absolute error of 1e-16 and nothing left of the 3e-12."""
    logits = np.array([[30.0, 0.0, 0.0], [600.0, 0.0, 1.0]])
    entropy = library.call("row_statistics", logits, np.array([0, 0]))[2]
    exact = []
    for row in reference.exact_array(logits):
        with mp.workdps(700):
            exact.append(reference.entropy(reference.softmax(tuple(row))))
    assert_within(entropy, exact, tolerances.GRADIENT + 600)
