"""The table "Defined results", row by row: what happens where formulas break down."""

import cases
import numpy as np
import pytest
import tolerances
from mpmath import mp, mpf
from tolerances import assert_same, assert_within

import crossentropy as xe

INF, NAN = np.inf, np.nan
every_dtype = pytest.mark.parametrize("dtype", cases.DTYPES.values(), ids=cases.DTYPES)
every_reduction = pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
# The kinds of target, and options that go with all of them: a defined result holds under every option.
KINDS = ["labels", "soft", "one_hot", "sparse"]
SOME_OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.25},
    "z_loss": {"z_loss": 0.5},
    "softcap": {"softcap": 4.0},
    "weights": {"class_weight": np.array([0.5, 2.0, 1.0])},
    "bits": {"unit": "bits"},
}
some_options = pytest.mark.parametrize("options", SOME_OPTIONS.values(), ids=SOME_OPTIONS)


def both(library, *arguments, **options):
    """Value and gradient, the value also from the function that gives it alone."""
    value, gradient = library.call("cross_entropy_value_and_grad", *arguments, **options)
    assert_same(library.call("cross_entropy", *arguments, **options), value)
    return value, gradient


def binary(library, *arguments, **options):
    value, gradient = library.call("binary_cross_entropy_value_and_grad", *arguments, **options)
    assert_same(library.call("binary_cross_entropy", *arguments, **options), value)
    return value, gradient


def target_of(kind, labels, classes=3):
    """The same target in each form."""
    labels = np.asarray(labels)
    if kind == "labels":
        return labels
    one_hot = labels[:, None] == np.arange(classes)
    if kind == "sparse":
        return np.column_stack([labels, labels]), np.full((len(labels), 2), 0.5)
    return one_hot if kind == "one_hot" else one_hot.astype(float)


# -- every row ignored, or no rows ------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@some_options
def test_every_row_ignored(library, dtype, reduction, options):
    logits = np.array([[1.0, 2.0, NAN], [INF, 0.0, 0.0]]).astype(dtype)
    targets = [
        (np.array([-100, -100]), {}),
        (np.array([0, 2]), {"row_weight": np.zeros(2)}),
        (np.full((2, 3), 0.25), {"row_weight": np.zeros(2)}),
        ((np.full((2, 2), -100), np.full((2, 2), 0.5)), {}),
    ]
    for target, ignoring in targets:
        value, gradient = both(library, logits, target, reduction=reduction, **options, **ignoring)
        assert_same(value, np.zeros((), tolerances.result_dtype(dtype)))
        assert_same(gradient, np.zeros((2, 3), dtype))


@every_dtype
@every_reduction
def test_no_rows(library, dtype, reduction):
    for shape in ((0, 3), (2, 0, 3)):
        logits = np.zeros(shape, dtype)
        for target in (
            np.zeros(shape[:-1], int),
            np.zeros(shape),
            (np.zeros((*shape[:-1], 2), int), np.zeros((*shape[:-1], 2))),
        ):
            value, gradient = both(library, logits, target, reduction=reduction)
            expected = shape[:-1] if reduction == "none" else ()
            assert_same(value, np.zeros(expected, tolerances.result_dtype(dtype)))
            assert_same(gradient, np.zeros(shape, dtype))
            assert_same(library.call("cross_entropy_hvp", logits, target, logits), np.zeros(shape, dtype))


@every_reduction
def test_no_elements(library, reduction):
    value, gradient = binary(library, np.zeros((0, 3)), np.zeros((0, 3)), reduction=reduction)
    assert_same(value, np.zeros((0, 3) if reduction == "none" else ()))
    assert_same(gradient, np.zeros((0, 3)))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("ignoring", [{"ignore_index": 1}, {"row_weight": np.zeros(2)}, {"row_weight": np.float64(0)}])
def test_every_element_ignored(library, reduction, ignoring):
    value, gradient = binary(library, np.array([NAN, 3.0]), np.array([1, 1]), reduction=reduction, **ignoring)
    assert_same(value, np.zeros(()))
    assert_same(gradient, np.zeros(2))


def test_a_denominator_of_zero_gives_zero(library):
    """Also where the loss is not zero: z-loss is not scaled by class weights."""
    logits = np.array([[1.0, -2.0, 0.5]])
    for options in (
        {"class_weight": np.array([1.0, 1.0, 0.0])},
        {"class_weight": np.array([1.0, 1.0, 0.0]), "z_loss": 0.5},
        {"normalizer": 0.0},
        {"normalizer": np.array(0.0)},
    ):
        value, gradient = both(library, logits, np.array([2]), **options)
        assert_same(value, np.zeros(()))
        assert_same(gradient, np.zeros((1, 3)))
    value, gradient = both(library, logits, np.zeros((1, 3)))
    assert_same(value, np.zeros(()))
    assert_same(gradient, np.zeros((1, 3)))
    value, gradient = binary(library, np.array([1.0]), np.array([0]), normalizer=0.0)
    assert_same(value, np.zeros(()))
    assert_same(gradient, np.zeros(1))


# -- an ignored row leaks nothing -------------------------------------------------------------------------------------


@every_dtype
@every_reduction
@pytest.mark.parametrize("garbage", [NAN, INF, -INF])
@some_options
def test_an_ignored_row_leaks_nothing(library, dtype, reduction, garbage, options):
    """Value, gradient and Hessian-vector product are those without the row, to the bit."""
    rng = np.random.default_rng(2)
    kept = cases.short_normal(rng, (4, 3))
    vector = cases.short_normal(rng, (5, 3)).astype(dtype)
    logits = np.insert(kept, 2, garbage, axis=0).astype(dtype)
    labels, keep = np.array([0, 2, 1, 1, 0]), [0, 1, 3, 4]
    for kind in KINDS:
        target = target_of(kind, labels)
        alone = target_of(kind, labels[keep])
        weight = np.array([1.0, 0.5, 0.0, 2.0, 1.0])
        ways = [(target, {"row_weight": weight}, {"row_weight": weight[keep]})]
        if kind == "labels":
            ways.append((np.where(np.arange(5) == 2, -100, labels), {}, {}))
        if kind == "sparse":
            ways.append(((np.where(np.arange(5)[:, None] == 2, -100, target[0]), target[1]), {}, {}))
        for given, with_row, without_row in ways:
            value, gradient = both(library, logits, given, reduction=reduction, **options, **with_row)
            expected, slope = both(library, kept.astype(dtype), alone, reduction=reduction, **options, **without_row)
            assert_same(value[keep] if reduction == "none" else value, expected)
            assert_same(gradient[keep], slope)
            assert_same(gradient[2], np.zeros(3, dtype))
            if reduction == "none":
                assert value[2] == 0
            product = library.call(
                "cross_entropy_hvp", logits, given, vector, reduction=reduction, **options, **with_row
            )
            expected = library.call(
                "cross_entropy_hvp",
                kept.astype(dtype),
                alone,
                vector[keep],
                reduction=reduction,
                **options,
                **without_row,
            )
            assert_same(product[keep], expected)
            assert_same(product[2], np.zeros(3, dtype))


@pytest.mark.parametrize("inputs", ["probs", "log_probs"])
@pytest.mark.parametrize("garbage", [NAN, INF, -INF, 7.0])
def test_an_ignored_row_of_probabilities_leaks_nothing(library, inputs, garbage):
    """Not even its being no probability."""
    logits = (
        np.array([[0.5, 0.25], [garbage, garbage]]) if inputs == "probs" else np.array([[-1.0, -2.0], [garbage] * 2])
    )
    value, gradient = both(library, logits, np.array([0, -100]), inputs=inputs)
    expected, slope = both(library, logits[:1], np.array([0]), inputs=inputs)
    assert_same(value, expected)
    assert_same(gradient, np.concatenate([slope, np.zeros((1, 2))]))


@pytest.mark.parametrize(
    "target",
    [np.array([0, 99]), np.array([[1.0, 0.0], [NAN, -1.0]]), (np.array([[0], [99]]), np.array([[1.0], [NAN]]))],
)
def test_the_target_of_an_ignored_row_is_not_read(library, target):
    logits, weight = np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([1.0, 0.0])
    alone = tuple(part[:1] for part in target) if isinstance(target, tuple) else target[:1]
    expected = both(library, logits[:1], alone)
    value, gradient = both(library, logits, target, row_weight=weight)
    assert_same(value, expected[0])
    assert_same(gradient[:1], expected[1])
    assert_same(gradient[1], np.zeros(2))


@every_reduction
@pytest.mark.parametrize("garbage", [NAN, INF, -INF])
def test_an_ignored_element_leaks_nothing(library, reduction, garbage):
    logits, target = np.array([1.5, garbage, -0.25]), np.array([1, 7, 0])
    expected, slope = binary(library, logits[[0, 2]], target[[0, 2]], reduction=reduction)
    for ignoring in ({"ignore_index": 7}, {"row_weight": np.array([1.0, 0.0, 1.0])}):
        value, gradient = binary(library, logits, target, reduction=reduction, **ignoring)
        assert_same(value[[0, 2]] if reduction == "none" else value, expected)
        assert_same(gradient[[0, 2]], slope)
        assert gradient[1] == 0
        assert reduction != "none" or value[1] == 0


def test_an_ignored_sparse_entry_is_skipped(library):
    logits, target = np.array([[1.0, -2.0, 0.5]]), (np.array([[2, -100, 0]]), np.array([[0.25, NAN, 0.5]]))
    expected = both(library, logits, (np.array([[2, 0]]), np.array([[0.25, 0.5]])))
    value, gradient = both(library, logits, target)
    assert_same(value, expected[0])
    assert_same(gradient, expected[1])


def test_ignoring_can_be_turned_off(library):
    """A label that is a class and equal to the default of no one: ignore_index=None ignores nothing."""
    logits = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 0.0]])
    assert both(library, logits, np.array([0, 1]), ignore_index=1, reduction="none")[0][1] == 0
    assert both(library, logits, np.array([0, 1]), ignore_index=None, reduction="none")[0][1] > 0


# -- a class that cannot occur ----------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_cannot_occur_has_probability_zero(library, dtype, kind):
    """Two equal logits beside an impossible class: log 2, and the third gets no gradient."""
    target = target_of(kind, [0])
    logits = np.array([[0.5, 0.5, -INF]]).astype(dtype)
    finite = np.array([[0.5, 0.5, 7.0]]).astype(dtype)
    for given, options in (
        (logits, {}),
        (finite, {"class_mask": np.array([True, True, False])}),
        (finite, {"class_mask": np.array([[True, True, False]])}),
        (logits, {"temperature": 1.0, "class_bias": np.array([0.0, 0.0, 5.0])}),
    ):
        value, gradient = both(library, given, target, **options)
        assert_within(value, mp.log(2), tolerances.ROW_LOSS)
        assert_same(gradient, np.array([[-0.5, 0.5, 0.0]]).astype(dtype))
        product = library.call("cross_entropy_hvp", given, target, np.ones((1, 3), dtype) * 3, **options)
        assert_same(np.abs(product), np.zeros((1, 3), dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_a_soft_cap_does_not_make_a_class_possible(library, kind):
    """tanh(-inf) is -1, but who wrote -inf meant that the class cannot occur."""
    target = target_of(kind, [0])
    capped = {"softcap": 2.0, "z_loss": 0.25}
    expected, slope = both(library, np.array([[1.5, 0.5]]), target_of(kind, [0], classes=2), **capped)
    value, gradient = both(library, np.array([[1.5, 0.5, -INF]]), target, **capped)
    assert_same(value, expected)
    assert_same(gradient[:, :2], slope)
    assert gradient[0, 2] == 0
    assert both(library, np.array([[-INF, 1.5, 0.5]]), target, **capped)[0] == INF


@every_dtype
@pytest.mark.parametrize("kind", KINDS)
def test_an_impossible_target_costs_infinity_with_a_finite_gradient(library, dtype, kind):
    target = target_of(kind, [2])
    value, gradient = both(library, np.array([[0.5, 0.5, -INF]]).astype(dtype), target)
    assert value == INF
    assert_same(gradient, np.array([[0.5, 0.5, -1.0]]).astype(dtype))
    mask = np.array([True, True, False])
    value, gradient = both(library, np.array([[0.5, 0.5, 7.0]]).astype(dtype), target, class_mask=mask)
    assert value == INF
    assert np.isfinite(gradient.astype(float)).all()
    assert_same(gradient[:, :2], np.array([[0.5, 0.5]]).astype(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_smoothing_gives_an_impossible_class_mass_unless_it_is_masked(library, kind):
    target = target_of(kind, [0])
    logits = np.array([[0.5, 0.5, -INF]])
    value, gradient = both(library, logits, target, label_smoothing=0.25)
    assert value == INF
    third = mpf(1) / 4 / 3
    expected = np.array([[mpf(1) / 2 - mpf(3) / 4 - third, mpf(1) / 2 - third, -third]])
    assert_within(gradient, expected, tolerances.GRADIENT, scale=1)
    value, gradient = both(library, logits, target, label_smoothing=0.25, class_mask=np.array([True, True, False]))
    assert_within(value, mp.log(2), tolerances.ROW_LOSS)
    assert_within(gradient, np.array([[mpf(-3) / 8, mpf(3) / 8, mpf(0)]]), tolerances.GRADIENT, scale=1)


def test_what_has_no_weight_costs_nothing_at_probability_zero(library):
    """0 x -inf counts 0: for a target of 0, for a class weight of 0 under smoothing, for a sparse value of 0."""
    logits, weight = np.array([[0.5, 0.5, -INF]]), np.array([1.0, 1.0, 0.0])
    value, _ = both(library, logits, np.array([[1.0, 1.0, 0.0]]))
    assert_within(value, mp.log(2), tolerances.ROW_LOSS)
    value, _ = both(library, logits, np.array([0]), class_weight=weight, label_smoothing=0.25)
    assert np.isfinite(value)
    value, _ = both(library, logits, (np.array([[0, 2]]), np.array([[1.0, 0.0]])))
    assert_within(value, mp.log(2), tolerances.ROW_LOSS)
    value, gradient = both(library, logits, np.array([2]), class_weight=weight, reduction="sum")
    assert value == 0
    assert_same(np.abs(gradient), np.zeros((1, 3)))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_limits_of_focal(library, gamma):
    """No loss and no gradient where p = 1; the plain loss and gradient where p = 0."""
    value, gradient = both(
        library, np.array([[0.0, -INF], [3e4, 0.0]]), np.array([0, 0]), focal_gamma=gamma, reduction="none"
    )
    assert_same(value, np.zeros(2))
    assert_same(np.abs(gradient), np.zeros((2, 2)))
    value, gradient = both(
        library, np.array([[-INF, 0.0], [0.0, 3e4]]), np.array([0, 0]), focal_gamma=gamma, reduction="none"
    )
    assert_same(value, np.array([INF, 3e4]))
    assert_same(gradient, np.array([[-1.0, 1.0], [-1.0, 1.0]]))
    vector = np.array([[1.0, -1.0], [1.0, -1.0]])
    product = library.call(
        "cross_entropy_hvp", np.array([[0.0, -INF], [0.0, 3e4]]), np.array([0, 0]), vector, focal_gamma=gamma
    )
    assert_same(np.abs(product), np.zeros((2, 2)))


@every_dtype
def test_an_infinite_row_makes_the_mean_infinite_and_no_gradient(library, dtype):
    logits = np.array([[-INF, 0.0], [1.0, 1.0]]).astype(dtype)
    value, gradient = both(library, logits, np.array([0, 1]))
    assert value == INF
    assert_same(gradient[0], np.array([-0.5, 0.5]).astype(dtype))
    assert_within(gradient[1], [mpf(1) / 4, mpf(-1) / 4], tolerances.GRADIENT)


# -- probability 0 on the target --------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("kind", KINDS)
def test_a_probability_of_zero_on_the_target_costs_infinity(library, dtype, kind):
    """No epsilon, no clipping, no renormalising: the rows need not sum to 1."""
    p = np.array([[0.0, 0.5, 0.25], [0.5, 0.0, 0.0]]).astype(dtype)
    value, gradient = both(library, p, target_of(kind, [0, 0]), inputs="probs", reduction="none")
    assert value[0] == INF
    assert_within(value[1], mp.log(2), tolerances.ROW_LOSS)
    assert_same(gradient, np.array([[-INF, 0, 0], [-2.0, 0, 0]]).astype(dtype))


@every_dtype
@pytest.mark.parametrize("kind", KINDS)
def test_a_log_probability_of_minus_infinity_on_the_target_costs_infinity(library, dtype, kind):
    log_p = np.array([[-INF, -0.5, -0.25], [-0.5, -INF, -INF]]).astype(dtype)
    value, gradient = both(library, log_p, target_of(kind, [0, 0]), inputs="log_probs", reduction="none")
    assert_same(value, np.array([INF, 0.5], tolerances.result_dtype(dtype)))
    assert_same(gradient + dtype.type(0), np.array([[-1.0, 0, 0], [-1.0, 0, 0]]).astype(dtype))


@pytest.mark.parametrize("tiny", [5e-324, 1e-300, 1e-17])
def test_a_tiny_probability_is_not_clipped(library, tiny):
    value, _ = both(library, np.array([[tiny, 1.0]]), np.array([0]), inputs="probs")
    assert_within(value, -mp.log(mpf(tiny)), tolerances.ROW_LOSS)
    value, _ = both(library, np.array([[tiny, 1.0]]), np.array([1]), inputs="probs")
    assert value == 0


def test_binary_probabilities_at_the_ends(library):
    p, target = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 1, 0, 1])
    value, gradient = binary(library, p, target, inputs="probs", reduction="none")
    assert_same(value, np.array([0, INF, INF, 0]))
    assert_same(gradient, np.array([1.0, -INF, INF, -1.0]))
    value, gradient = binary(library, np.array([-INF, -INF, 0.0, 0.0]), target, inputs="log_probs", reduction="none")
    assert_same(value, np.array([0, INF, INF, 0]))
    assert_same(gradient + 0.0, np.array([0, -1.0, INF, -1.0]))


# -- rows without a result --------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("kind", KINDS)
@some_options
def test_an_undefined_row_is_nan_and_no_other_row_is(library, dtype, kind, options):
    fine = [1.0, -2.0, 0.5]
    rows = [[NAN, 0.0, 1.0], [0.0, NAN, 1.0], [INF, 0.0, 0.0], [0.0, INF, 0.0], [INF, INF, 0.0], [-INF, NAN, INF]]
    rows.append([-INF, -INF, -INF])
    logits = np.array([fine, *rows, fine]).astype(dtype)
    target = target_of(kind, [0] * len(logits))
    expected, slope = both(library, logits[:1], target_of(kind, [0]), reduction="none", **options)
    value, gradient = both(library, logits, target, reduction="none", **options)
    assert np.isnan(value[1:-1]).all()
    assert np.isnan(gradient[1:-1].astype(float)).all()
    for end in (0, -1):
        assert_same(value[end], expected[0])
        assert_same(gradient[end], slope[0])
    mean, gradient = both(library, logits, target, **options)
    assert np.isnan(mean)
    assert np.isfinite(gradient[[0, -1]].astype(float)).all()
    product = library.call("cross_entropy_hvp", logits, target, np.ones_like(logits), reduction="sum", **options)
    assert np.isnan(product[1:-1].astype(float)).all()
    assert np.isfinite(product[[0, -1]].astype(float)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fully_masked_row_is_nan(library, kind):
    logits, target = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), target_of(kind, [0, 0])
    mask = np.array([[False, False, False], [True, True, True]])
    value, gradient = both(library, logits, target, class_mask=mask, reduction="none")
    assert np.isnan(value[0])
    assert np.isnan(gradient[0]).all()
    expected, slope = both(library, logits[1:], target_of(kind, [0]), reduction="none")
    assert_same(value[1], expected[0])
    assert_same(gradient[1], slope[0])


@pytest.mark.parametrize("inputs", ["probs", "log_probs"])
def test_a_nan_probability_is_never_taken_for_a_number(library, inputs):
    """NaN for that row only; off the target it is not read."""
    p = np.array([[NAN, 0.5], [0.5, NAN]]) if inputs == "probs" else np.array([[NAN, -0.5], [-0.5, NAN]])
    value, gradient = both(library, p, np.array([0, 0]), inputs=inputs, reduction="none")
    assert np.isnan(value[0])
    assert np.isnan(gradient[0, 0])
    assert np.isfinite(value[1])
    assert np.isfinite(gradient[1]).all()
    value, gradient = both(library, p[1:], np.array([0]), inputs=inputs)
    assert_within(value, mp.log(2) if inputs == "probs" else mpf("0.5"), tolerances.ROW_LOSS)
    assert_same(gradient + 0.0, np.array([[-2.0 if inputs == "probs" else -1.0, 0.0]]))


def test_a_nan_sigmoid_logit_is_nan_for_that_element_only(library):
    value, gradient = binary(library, np.array([NAN, 0.0]), np.array([1, 1]), reduction="none")
    assert np.isnan(value[0])
    assert np.isnan(gradient[0])
    assert_within(value[1], mp.log(2), tolerances.ROW_LOSS)
    assert gradient[1] == -0.5


# -- sigmoid at infinity ----------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("options", [{}, {"focal_gamma": 2.0}, {"pos_weight": 1.0}, {"row_weight": np.ones(4)}])
def test_a_sigmoid_logit_at_infinity_has_the_limit(library, dtype, options):
    logits, target = np.array([INF, INF, -INF, -INF]).astype(dtype), np.array([1, 0, 0, 1])
    value, gradient = binary(library, logits, target, reduction="none", **options)
    assert_same(value, np.array([0, INF, 0, INF], tolerances.result_dtype(dtype)))
    assert_same(np.abs(gradient) * np.sign(gradient), np.array([0, 1, 0, -1]).astype(dtype))


def test_a_soft_sigmoid_target_at_infinity(library):
    value, gradient = binary(library, np.array([INF, -INF]), np.array([0.25, 0.25]), reduction="none")
    assert_same(value, np.array([INF, INF]))
    assert_same(gradient, np.array([0.75, -0.25]))


# -- labels that are no class -----------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("label", [3, -1, -99, 1000])
def test_a_label_that_is_no_class_raises(library, dtype, label):
    if not library.can_raise:
        pytest.skip("this library cannot raise on values")
    logits = np.zeros((2, 2, 3), dtype)
    target = np.array([[0, 1], [label, 2]])
    for function in ("cross_entropy", "cross_entropy_value_and_grad"):
        with pytest.raises(IndexError, match=rf"\[1, 0\].*{label}.*\[0, 3\)"):
            library.call(function, logits, target)
    with pytest.raises(IndexError, match=rf"\[1, 0\].*{label}"):
        library.call("cross_entropy_hvp", logits, target, logits)


# -- inputs are never written to --------------------------------------------------------------------------------------


def test_inputs_are_never_written_to():
    """Writable arrays, unlike those of the fixture: nothing is changed behind the caller's back either."""
    for function in ("cross_entropy", "binary_cross_entropy"):
        for target, names in cases.combinations_of(function, 1):
            logits, given, options = cases.problem(function, target, names).typed(np.dtype(np.float64))
            arrays = [
                a
                for a in (logits, *(given if isinstance(given, tuple) else (given,)), *options.values())
                if isinstance(a, np.ndarray)
            ]
            before = [a.copy() for a in arrays]
            getattr(xe, function + "_value_and_grad")(logits, given, **options)
            for array, copy in zip(arrays, before, strict=True):
                np.testing.assert_array_equal(array, copy)


def test_out_may_be_the_input_itself():
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 1.0]])
    value, gradient = xe.cross_entropy_value_and_grad(logits, [0, 2])
    given = logits.copy()
    again, same = xe.cross_entropy_value_and_grad(given, [0, 2], out=given)
    assert same is given
    assert_same(again, value)
    assert_same(given, gradient)
