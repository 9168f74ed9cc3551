"""The bounds in ulp of the losses and gradients, over ordinary and extreme inputs."""

import cases
import ml_dtypes
import numpy as np
import pytest
import reference
import tolerances
from checks import check_problem
from error_scales import ErrorScales
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf
from tolerances import assert_within

WIDE = [np.dtype(np.float64), np.dtype(np.float32)]
SHORT = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
wide = pytest.mark.parametrize("dtype", WIDE, ids=str)
short = pytest.mark.parametrize("dtype", SHORT, ids=str)


def check_rows(library, logits, labels):
    """Every row's loss and gradient against -log p_y and p - t of the stored values, as relative errors."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    exact = [
        reference.plain_row(tuple(row), label) for row, label in zip(reference.exact_array(logits), labels, strict=True)
    ]
    expected = np.array([gradient for _, gradient in exact], dtype=object).reshape(logits.shape)
    value, gradient = library.call("cross_entropy_value_and_grad", logits, labels, reduction="none")
    assert value.dtype == tolerances.result_dtype(logits.dtype)
    assert_within(value, [loss for loss, _ in exact], tolerances.ROW_LOSS)
    assert gradient.dtype == logits.dtype
    bound = tolerances.gradient_bound(logits)
    if logits.dtype.itemsize == 2:
        slack = bound * abs(expected) * float(np.finfo(np.float32).eps) + library.flushed
        assert_within(gradient, expected, tolerances.ROUNDED_ONCE, slack=slack)
    else:
        assert_within(gradient, expected, bound)
    alone = library.call("cross_entropy", logits, labels, reduction="none")
    tolerances.assert_same(alone, value)


def test_the_example_that_every_peer_gets_wrong(library):
    value = library.call("cross_entropy", np.array([[20.0, 0.0, 0.0]], np.float32), np.array([0]))
    assert value.dtype == np.float32
    assert f"{value:.6e}" == "4.122307e-09"


# -- ordinary ---------------------------------------------------------------------------------------------------------


@wide
@pytest.mark.parametrize("classes", [1, 2, 3, 7, 10, 32, 33, 100])
@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0, 100.0])
def test_ordinary_rows(library, dtype, classes, spread):
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, spread, (max(3, 60 // classes), classes)).astype(dtype)
    check_rows(library, logits, rng.integers(0, classes, len(logits)))


@wide
@pytest.mark.parametrize("classes", [1000, 3001])
def test_a_thousand_classes(library, dtype, classes):
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 4, (2, classes)).astype(dtype)
    check_rows(library, logits, [int(logits[0].argmax()), 17])


# -- extreme ----------------------------------------------------------------------------------------------------------


@wide
@pytest.mark.parametrize("offset", [1e4, -1e4, 123456.789, -1e6, 3e7])
def test_large_offsets(library, dtype, offset):
    rng = np.random.default_rng(7)
    logits = (offset + rng.normal(0, 5, (10, 6))).astype(dtype)
    check_rows(library, logits, rng.integers(0, 6, 10))
    check_rows(library, logits, logits.argmax(axis=1))


@wide
def test_ties(library, dtype):
    logits = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [3.3, 3.3, 3.3, 3.3, 3.3, 3.3],
            [9, 9, 1, 1, -4, -4],
            [40, 40, 0, 0, 0, 1],
            [90, 90, 90, 0, 1, 1],
            [-1e4, -1e4, -1e4, -1e4, -1e4, -1e4],
            [0.1, 0.1, 0.2, 0.2, 0.30000001, 0.3],
            [-0.0, 0.0, -0.0, 0.0, -1, -1],
        ],
        dtype,
    )
    for label in range(6):
        check_rows(library, logits, [label] * len(logits))


@wide
@pytest.mark.parametrize("offset", [1.0, 1e4, -3e5])
def test_neighbours(library, dtype, offset):
    """Logits that differ by the last bit alone: their difference must not be lost, nor the tie be claimed."""
    one = np.asarray(offset, dtype)
    above = np.nextafter(one, np.asarray(np.inf, dtype))
    below = np.nextafter(one, np.asarray(-np.inf, dtype))
    check_rows(library, np.array([[one, above, below], [above, above, one], [below, one, above]]), [0, 1, 2])


@wide
def test_classes_that_cannot_occur(library, dtype):
    inf = np.inf
    logits = np.array(
        [[1.5, -inf, 0.3, -inf], [-inf, -inf, -7.25, -inf], [30.1, 0.7, -inf, 0.7], [-inf, 2, 2, -inf]], dtype
    )
    check_rows(library, logits, [0, 2, 0, 1])


@wide
def test_one_class_has_no_loss(library, dtype):
    logits = np.array([[0.0], [1e4], [-3.7], [np.finfo(dtype).max], [np.finfo(dtype).tiny]], dtype)
    value, gradient = library.call("cross_entropy_value_and_grad", logits, np.zeros(5, int), reduction="none")
    np.testing.assert_array_equal(value, np.zeros(5))
    np.testing.assert_array_equal(gradient, np.zeros((5, 1)))


@wide
def test_tiny_losses(library, dtype):
    """Down to 1e-300 (1e-37 in float32), with inexact differences: each row is off by its own mantissas."""
    rng = np.random.default_rng(11)
    lead = np.linspace(5, 690 if dtype == np.float64 else 85, 60)
    logits = np.column_stack([lead, rng.normal(0, 1, (60, 2)), np.zeros(60)]).astype(dtype)
    check_rows(library, logits, np.zeros(60, int))
    check_rows(library, logits + dtype.type(-333.3), np.zeros(60, int))


@wide
def test_large_losses(library, dtype):
    """Up to 1e4 and, where the dtype holds it, to 1e30: the label far below the others."""
    rng = np.random.default_rng(12)
    depth = np.concatenate([np.geomspace(1, 1e4, 30), [1e7, 1e30]])
    logits = np.column_stack([-depth, rng.normal(0, 1, (32, 2))]).astype(dtype)
    check_rows(library, logits, np.zeros(32, int))


@wide
def test_gradients_down_to_the_smallest_normal_number(library, dtype):
    deepest = np.log(float(np.finfo(dtype).tiny))
    depth = np.concatenate([np.linspace(1, deepest + 0.5, 40), np.linspace(deepest - 20, deepest - 2000, 5)])
    logits = np.concatenate([[0.25], depth]).astype(dtype)[None]
    check_rows(library, logits, [0])
    check_rows(library, logits, [39])


@wide
def test_the_widest_range(library, dtype):
    big = float(np.finfo(dtype).max)
    logits = np.array([[big, -big, 0, 1], [-big, -big, -big, -big], [big, big, big, 0]], dtype)
    value, gradient = library.call("cross_entropy_value_and_grad", logits, np.array([0, 1, 2]), reduction="none")
    assert_within(value, [mpf(0), mp.log(4), mp.log(3)], tolerances.ROW_LOSS)
    third, quarter = mpf(1) / 3, mpf(1) / 4
    expected = [[0] * 4, [quarter, quarter - 1, quarter, quarter], [third, third, third - 1, 0]]
    assert_within(gradient, np.array(expected, dtype=object), tolerances.GRADIENT)


@wide
@given(data=st.data())
def test_any_row(library, dtype, data):
    """Whatever hypothesis thinks of: sizes from subnormal to 1e4, ties, one class."""
    numbers = st.floats(-1e4, 1e4, width=dtype.itemsize * 8)
    row = data.draw(st.lists(st.one_of(numbers, st.sampled_from([0.0, 1.0, -np.inf])), min_size=1, max_size=9))
    possible = [j for j, v in enumerate(row) if v > -np.inf] or None
    if possible:
        check_rows(library, np.array([row], dtype), [data.draw(st.sampled_from(possible))])


# -- 200,000 classes --------------------------------------------------------------------------------------------------


MANY = 200_000


def check_many(library, logits, label):
    """As check_rows for one long row with few distinct logits: of equal logits the smallest and largest gradient."""
    distinct, place, count = np.unique(logits, return_inverse=True, return_counts=True)
    total = mpmath_sum(distinct, count)
    value, gradient = library.call("cross_entropy_value_and_grad", logits[None], np.array([label]), reduction="none")
    assert_within(value[0], mp.log(total) - reference.exact(logits[label]), tolerances.ROW_LOSS)
    others = np.delete(gradient[0], label)
    place = np.delete(place, label)
    order = np.lexsort((others, place))
    first = np.searchsorted(place[order], np.arange(len(distinct)))
    last = np.searchsorted(place[order], np.arange(len(distinct)), side="right") - 1
    present = first <= last
    p = np.array([mp.exp(reference.exact(v)) / total for v in distinct], dtype=object)
    bound = tolerances.GRADIENT + np.abs(distinct - logits.max())
    for end in (first, last):
        assert_within(others[order][end[present]], p[present], bound[present])
    exact = mp.exp(reference.exact(logits[label])) / total - 1
    assert_within(gradient[0, label], exact, tolerances.GRADIENT + abs(float(logits[label] - logits.max())))


def mpmath_sum(distinct, count):
    return sum(int(n) * mp.exp(reference.exact(v)) for v, n in zip(distinct, count, strict=True))


@wide
def test_many_equal_classes(library, dtype):
    check_many(library, np.full(MANY, 0.7, dtype), 5)
    check_many(library, np.full(MANY, -1e4, dtype), MANY - 1)


@wide
@pytest.mark.parametrize("lead", [5.0, 30.0, 60.0])
def test_one_class_against_many(library, dtype, lead):
    logits = np.full(MANY, 0.1, dtype)
    logits[77_777] = lead
    check_many(library, logits, 77_777)
    check_many(library, logits, 0)


@wide
@pytest.mark.parametrize("order", ["mixed", "rising", "falling"])
def test_many_classes_of_all_sizes(library, dtype, order):
    rng = np.random.default_rng(13)
    logits = (np.round(rng.normal(0, 3, MANY) * 8) / 8 + 0.1).astype(dtype)
    logits = {"mixed": logits, "rising": np.sort(logits), "falling": np.sort(logits)[::-1]}[order]
    check_many(library, logits, 123_456)


@wide
def test_many_distinct_classes(library, dtype):
    """A shuffled geometric series: 200,000 different terms with an exact sum (1 - r^n) / (1 - r), r = exp(-1/1024)."""
    rng = np.random.default_rng(14)
    power = rng.permutation(MANY)
    logits = (-power / 1024).astype(dtype)
    total = (1 - mp.exp(-mpf(MANY) / 1024)) / (1 - mp.exp(-mpf(1) / 1024))
    value, gradient = library.call("cross_entropy_value_and_grad", logits[None], np.array([3]), reduction="none")
    assert_within(value[0], mp.log(total) + mpf(int(power[3])) / 1024, tolerances.ROW_LOSS)
    chosen = np.flatnonzero(power % 997 == 0)
    exact = np.array(
        [mp.exp(-mpf(int(k)) / 1024) / total - int(j == 3) for j, k in zip(chosen, power[chosen], strict=True)]
    )
    assert_within(gradient[0][chosen], exact, tolerances.GRADIENT + power[chosen] / 1024)


# -- 16 bits ----------------------------------------------------------------------------------------------------------


@short
@pytest.mark.parametrize("spread", [0.5, 5.0, 200.0])
def test_sixteen_bit_rows(library, dtype, spread):
    """A float32 loss of the exact stored values; a gradient rounded once, subnormal numbers included."""
    rng = np.random.default_rng(15)
    logits = rng.normal(0, spread, (12, 9)).astype(dtype)
    check_rows(library, logits, rng.integers(0, 9, 12))
    check_rows(library, logits, logits.astype(float).argmax(axis=1))


@short
def test_sixteen_bit_extremes(library, dtype):
    big = float(ml_dtypes.finfo(dtype).max)
    logits = np.array([[20, 0, 0, 0], [1e4, 1e4, 9.99e3, 9e3], [big, big, -big, 0], [-np.inf, 1, 1, 0.5]]).astype(dtype)
    check_rows(library, logits, [0, 2, 1, 2])


# -- the mean of ten million rows -------------------------------------------------------------------------------------


def test_the_mean_of_ten_million_rows(library):
    """1,000 different rows, 10,000 times each, shuffled: the exact mean is that of the 1,000."""
    rng = np.random.default_rng(16)
    different, times, classes = 1000, 10_000, 3
    logits = rng.normal(0, 3, (different, classes)).astype(np.float32)
    labels = rng.integers(0, classes, different).astype(np.int8)
    exact = [reference.plain_row(tuple(r), t)[0] for r, t in zip(reference.exact_array(logits), labels, strict=True)]
    order = rng.permutation(np.repeat(np.arange(different, dtype=np.int16), times))
    value = library.call("cross_entropy", logits[order], labels[order])
    assert_within(value, sum(exact) / different, tolerances.MEAN)


# -- sigmoid ----------------------------------------------------------------------------------------------------------


def sigmoid_points(dtype):
    deepest = 740 if dtype == np.float64 else 100
    rng = np.random.default_rng(17)
    size = np.concatenate(
        [
            np.geomspace(1e-30, 1e4, 50),
            np.linspace(0.1, deepest, 80),
            rng.normal(0, 3, 30),
            [0.0, float(np.finfo(dtype).tiny)],
        ]
    )
    return np.concatenate([size, -size]).astype(dtype)


@wide
@pytest.mark.parametrize("target", [0, 1])
def test_sigmoid_loss_at_both_tails(library, dtype, target):
    logits = sigmoid_points(dtype)
    value, gradient = library.call(
        "binary_cross_entropy_value_and_grad", logits, np.full(len(logits), target), reduction="none"
    )
    sign = -1 if target else 1
    exact = [-reference.log_sigmoid(-sign * x) for x in reference.exact_array(logits)]
    assert value.dtype == gradient.dtype == dtype
    assert_within(value, exact, tolerances.ROW_LOSS)
    exact = [sign * reference.sigmoid(sign * x) for x in reference.exact_array(logits)]
    assert_within(gradient, exact, tolerances.GRADIENT + np.minimum(np.abs(logits.astype(float)), 1e4))


@wide
@pytest.mark.parametrize("target", [0.3, 1e-9, 0.999999])
def test_sigmoid_loss_of_a_soft_target(library, dtype, target):
    """All terms of the loss have one sign: a relative error. The gradient's two terms meet: one against their sum."""
    logits = sigmoid_points(dtype)
    targets = np.full(len(logits), target, dtype)
    exact = reference.binary_cross_entropy(logits, targets, reduction="none")
    value, gradient = library.call("binary_cross_entropy_value_and_grad", logits, targets, reduction="none")
    assert_within(value, exact.value, tolerances.ROW_LOSS)
    bound = tolerances.GRADIENT + np.abs(logits.astype(float))
    assert_within(gradient, exact.gradient[:, 0], bound, scale=ErrorScales(exact).gradient[:, 0])


@short
@pytest.mark.parametrize("target", [0, 1])
def test_sixteen_bit_sigmoid_loss(library, dtype, target):
    logits = np.concatenate([np.linspace(-40, 40, 41), [1e-3, -1e-3, 300, -300]]).astype(dtype)
    value, gradient = library.call(
        "binary_cross_entropy_value_and_grad", logits, np.full(len(logits), target), reduction="none"
    )
    exact = reference.binary_cross_entropy(logits, np.full(len(logits), target), reduction="none")
    assert value.dtype == np.float32
    assert gradient.dtype == dtype
    assert_within(value, exact.value, tolerances.ROW_LOSS)
    slack = (
        abs(exact.gradient[:, 0]) * (tolerances.GRADIENT + abs(logits.astype(float))) * float(np.finfo(np.float32).eps)
    )
    assert_within(gradient, exact.gradient[:, 0], tolerances.ROUNDED_ONCE, slack=slack)


# -- probabilities taken as they are ----------------------------------------------------------------------------------


@wide
def test_log_loss_of_probabilities(library, dtype):
    """-log p over the whole range of p, near 1 as exact as near 0."""
    eps = float(np.finfo(dtype).eps)
    p = np.concatenate([np.geomspace(float(np.finfo(dtype).tiny), 1, 80), 1 - np.geomspace(eps, 0.5, 30)]).astype(dtype)
    logits = np.column_stack([p, np.zeros_like(p)])
    value, gradient = library.call(
        "cross_entropy_value_and_grad", logits, np.zeros(len(p), int), inputs="probs", reduction="none"
    )
    exact = reference.exact_array(p)
    assert_within(value, [-mp.log(v) for v in exact], tolerances.ROW_LOSS)
    assert_within(gradient[:, 0], [-1 / v for v in exact], tolerances.ELEMENTWISE)
    np.testing.assert_array_equal(gradient[:, 1], 0)


@wide
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("inputs", ["probs", "log_probs"])
def test_binary_log_loss_of_probabilities(library, dtype, inputs, target):
    eps = float(np.finfo(dtype).eps)
    # Logarithms as they come, not those of round probabilities: exp would give these back too well.
    log_p = -np.concatenate([np.geomspace(1e-30, 80, 70), np.linspace(0.5, 0.9, 9)])
    p = np.concatenate([np.geomspace(1e-30, 0.9, 60), 1 - np.geomspace(eps, 0.5, 30)])
    given = (log_p if inputs == "log_probs" else p).astype(dtype)
    targets = np.full(len(given), target)
    value, gradient = library.call(
        "binary_cross_entropy_value_and_grad", given, targets, inputs=inputs, reduction="none"
    )
    exact = reference.binary_cross_entropy(given, targets, inputs=inputs, reduction="none")
    assert_within(value, exact.value, tolerances.ROW_LOSS)
    # 1 - p from log p: exp(x) is as inexact as |x| ulp.
    size = np.abs(given.astype(float)) if inputs == "log_probs" else 0
    closed = [-1 / v if target else 1 / (1 - v) for v in reference.exact_array(given)]
    if inputs == "log_probs":
        closed = [mpf(-1) if target else mp.exp(v) / -mp.expm1(v) for v in reference.exact_array(given)]
    assert_within(gradient, closed, tolerances.GRADIENT + size)


# -- options on full-length numbers -----------------------------------------------------------------------------------


@wide
@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("function", ["cross_entropy", "binary_cross_entropy"])
def test_options_on_full_length_numbers(library, dtype, function, size):
    """Every option alone, on logits whose differences round and whose small probabilities underflow float32."""
    rng = np.random.default_rng(18)
    for target, names in cases.combinations_of(function, 1):
        if target in ("one_hot", "sparse"):  # the same measure as labels and soft targets, in another form
            continue
        given = cases.problem(function, target, names)
        if given.options.get("inputs", "logits") == "logits":
            logits = rng.normal(0, size, given.logits.shape).astype(dtype)
            check_problem(
                library, cases.Problem(function, logits, given.target, given.options), [dtype], with_hvp=False
            )


@wide
def test_the_slope_of_a_soft_cap_does_not_cancel(library, dtype):
    """sech^2(x / c) of a logit far above the cap: 1 - tanh^2 would be 0 from x / c = 19 on."""
    logits = np.array([[30.0, 1.0, -12.5], [-33.0, 20.0, 0.5]], dtype)
    exact = reference.cross_entropy(logits, [0, 2], softcap=1.5, reduction="sum")
    _, gradient = library.call("cross_entropy_value_and_grad", logits, np.array([0, 2]), softcap=1.5, reduction="sum")
    scales = ErrorScales(exact)
    slack = scales.gradient * scales.transform_size * tolerances.TRANSFORM * library.working_eps(dtype)
    assert_within(gradient, exact.gradient, tolerances.GRADIENT + 3.0, scale=scales.gradient, slack=slack)
    assert (gradient != 0).all()
