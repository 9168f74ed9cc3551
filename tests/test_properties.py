"""What must hold for any input, by hypothesis: the identities that the loss has on paper."""

import dataclasses

import numpy as np
import tolerances
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import exact_array
from tolerances import assert_same, assert_within

import crossentropy.libraries.numpy as numpy_library
from crossentropy.kernels import generic
from crossentropy.options import LossOptions
from crossentropy.row_loss import merge, row_loss

# Multiples of 1/64 up to 32: adding an integer or permuting rounds nothing, so what should agree agrees exactly.
STEPS = st.integers(-2048, 2048)
FINITE = st.floats(-700, 700, allow_subnormal=False)


def logits_of(rows, classes, elements=FINITE, dtype=np.float64):
    return hnp.arrays(dtype, (rows, classes), elements=elements)


@st.composite
def problems(draw, *, elements=FINITE, options=True, min_rows=1, kinds=("labels", "soft", "sparse"), any_dtype=True):
    """Logits, a target of any kind, and options that go with each other."""
    rows, classes = draw(st.integers(min_rows, 6)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([np.float64, np.float32])) if any_dtype else np.float64
    logits = draw(logits_of(rows, classes, elements)).astype(dtype)
    kind = draw(st.sampled_from(kinds))
    share = st.integers(0, 16).map(lambda k: k / 16)
    labels = hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1))
    if kind == "labels":
        target = draw(labels)
    elif kind == "soft":
        target = draw(hnp.arrays(dtype, (rows, classes), elements=share))
    else:
        entries = (rows, draw(st.integers(1, 3)))
        indices = draw(hnp.arrays(np.int64, entries, elements=st.integers(0, classes - 1)))
        target = indices, draw(hnp.arrays(dtype, entries, elements=share))
    chosen = {}
    if options:
        weight = st.integers(1, 32).map(lambda k: k / 8)
        if draw(st.booleans()):
            chosen["class_weight"] = draw(hnp.arrays(dtype, classes, elements=weight))
        if draw(st.booleans()):
            chosen["row_weight"] = draw(hnp.arrays(dtype, rows, elements=weight))
        if draw(st.booleans()):
            chosen["temperature"] = draw(st.sampled_from([0.5, 0.8, 3.0]))
        if draw(st.booleans()):
            name = "focal_gamma" if kind == "labels" and draw(st.booleans()) else "label_smoothing"
            chosen[name] = draw(st.sampled_from([0.125, 0.5]))
        if draw(st.booleans()):
            chosen["unit"] = "bits"
    return logits, target, chosen


def take(value, rows):
    """Those rows of a target, of weights, or of anything else that has them."""
    if isinstance(value, tuple):
        return tuple(take(v, rows) for v in value)
    return value[rows]


def rows_of(logits, target, options, rows):
    weighted = {"row_weight": options["row_weight"][rows]} if "row_weight" in options else {}
    return logits[rows], take(target, rows), options | weighted


def both(library, logits, target, **options):
    return library.call("cross_entropy_value_and_grad", logits, target, **options)


def assert_near(actual, expected, bound, scale=None):
    """Two results of ours, each within `bound` of the truth."""
    assert_within(actual, exact_array(expected), tolerances.BETWEEN_TWO * np.asarray(bound), scale=scale)


def gradient_scale(library, logits, target, **options):
    """|a p| + |q|, from the library itself: large enough where terms cancel, and no part of what is compared."""
    p = library.call("softmax", logits / options.get("temperature", 1.0)).astype(float)
    dense = np.zeros(logits.shape)
    if isinstance(target, tuple):
        np.add.at(dense, (np.arange(len(dense))[:, None], target[0]), target[1])
    elif target.ndim == 1:
        dense[np.arange(len(dense)), target] = 1
    else:
        dense = target.astype(float)
    weight = np.asarray(options.get("class_weight", np.ones(logits.shape[1])), float)
    q = weight * (dense + options.get("label_smoothing", 0) * dense.sum(axis=1, keepdims=True) / logits.shape[1])
    # The slope of the focal factor is at most 1 + gamma / e < 2.
    scale = 2 * (q.sum(axis=1, keepdims=True) * p + q) / options.get("temperature", 1.0)
    if "row_weight" in options:
        scale = scale * np.asarray(options["row_weight"], float)[:, None]
    return scale / (np.log(2) if options.get("unit") == "bits" else 1)


# -- symmetries -------------------------------------------------------------------------------------------------------


@given(problem=problems(elements=STEPS.map(lambda k: k / 64)), shift=st.integers(-60_000, 60_000))
def test_shifting_the_logits_changes_nothing(library, problem, shift):
    """Beyond rounding: the core takes e^z apart before it relates it to the maximum. (x / T rounds, so not there.)"""
    logits, target, options = problem
    options.pop("temperature", None)
    assert ((logits + shift) - shift == logits).all()
    value, gradient = both(library, logits, target, reduction="sum", **options)
    moved, slope = both(library, logits + logits.dtype.type(shift), target, reduction="sum", **options)
    assert_near(moved, value, tolerances.REDUCED)
    bound = tolerances.gradient_bound(logits)
    assert_near(slope, gradient, bound, gradient_scale(library, logits, target, **options))


@given(problem=problems())
def test_the_gradient_of_a_row_sums_to_zero(library, problem):
    logits, target, options = problem
    _, gradient = both(library, logits, target, reduction="sum", **options)
    bound = tolerances.gradient_bound(logits / options.get("temperature", 1.0))
    scale = gradient_scale(library, logits, target, **options)
    allowed = (bound * scale).sum(axis=1) * np.finfo(logits.dtype).eps
    if "temperature" in options:
        allowed = allowed + scale.sum(axis=1) * np.abs(logits).max() * tolerances.TRANSFORM * library.working_eps(
            logits.dtype
        )
    assert (np.abs(gradient.astype(float).sum(axis=1)) <= allowed).all()


@given(problem=problems(), data=st.data())
def test_permuting_the_classes_permutes_the_gradient(library, problem, data):
    logits, target, options = problem
    classes = logits.shape[1]
    order = np.array(data.draw(st.permutations(range(classes))))
    place = np.argsort(order)  # old class c is at place[c]
    permuted = dict(options)
    if "class_weight" in options:
        permuted["class_weight"] = options["class_weight"][order]
    if isinstance(target, tuple):
        moved = place[target[0]], target[1]
    else:
        moved = place[target] if target.ndim == 1 else target[:, order]
    value, gradient = both(library, logits, target, reduction="none", **options)
    again, slope = both(library, logits[:, order], moved, reduction="none", **permuted)
    assert_near(again, value, tolerances.ROW_LOSS)
    bound = tolerances.gradient_bound(logits / options.get("temperature", 1.0))[:, order]
    scale = gradient_scale(library, logits, target, **options)[:, order]
    assert_near(slope, gradient[:, order], bound, scale)


@given(problem=problems(), data=st.data())
def test_shuffling_the_rows_shuffles_the_losses(library, problem, data):
    """A row's bits do not depend on where it stands; the mean's may, in the last place."""
    logits, target, options = problem
    order = np.array(data.draw(st.permutations(range(len(logits)))))
    value, gradient = both(library, logits, target, reduction="none", **options)
    shuffled = rows_of(logits, target, options, order)
    again, slope = both(library, shuffled[0], shuffled[1], reduction="none", **shuffled[2])
    assert_same(again, value[order])
    assert_same(slope, gradient[order])
    mean = library.call("cross_entropy", logits, target, **options)
    assert_near(library.call("cross_entropy", shuffled[0], shuffled[1], **shuffled[2]), mean, tolerances.MEAN)


# -- reductions -------------------------------------------------------------------------------------------------------


@given(problem=problems(min_rows=2), data=st.data())
def test_split_rows_add_up(library, problem, data):
    logits, target, options = problem
    cut = data.draw(st.integers(1, len(logits) - 1))
    whole, gradient = both(library, logits, target, reduction="sum", **options)
    parts = [rows_of(logits, target, options, rows) for rows in (slice(0, cut), slice(cut, None))]
    sums = [both(library, x, t, reduction="sum", **o) for x, t, o in parts]
    assert_near(whole.dtype.type(sum(float(value) for value, _ in sums)), whole, tolerances.MEAN)
    assert_same(np.concatenate([slope for _, slope in sums]), gradient)


@given(problem=problems(), normalizer=st.sampled_from(["weight", "rows", 3.0]))
def test_the_mean_is_the_sum_over_the_denominator(library, problem, normalizer):
    logits, target, options = problem
    rows, classes = logits.shape
    if normalizer == "weight":
        weight = np.asarray(options.get("class_weight", np.ones(classes)), float)
        if isinstance(target, tuple):
            mass = (weight[target[0]] * target[1]).sum(axis=1)
        else:
            mass = weight[target] if target.ndim == 1 else (weight * target).sum(axis=1)
        denominator = float((np.asarray(options.get("row_weight", np.ones(rows)), float) * mass).sum())
    else:
        denominator = rows if normalizer == "rows" else normalizer
    mean, mean_gradient = both(library, logits, target, normalizer=normalizer, **options)
    if denominator == 0:
        assert mean == 0
        assert (mean_gradient == 0).all()
        return
    total, gradient = both(library, logits, target, reduction="sum", **options)
    assert_near(mean, np.float64(total) / denominator, tolerances.MEAN)
    assert_near(mean_gradient, gradient.astype(float) / denominator, tolerances.SCALED)
    each = library.call("cross_entropy", logits, target, reduction="none", **options)
    assert_near(total, each.astype(float).sum(), tolerances.MEAN)


@given(problem=problems(), powers=st.lists(st.integers(-3, 3), min_size=6, max_size=6))
def test_a_normalizer_of_each_row_divides_that_row(library, problem, powers):
    """As the reciprocal weights would; where it is 0 the row gives nothing."""
    logits, target, options = problem
    divisor = np.exp2(np.array(powers[: len(logits)]))
    weight = np.asarray(options.pop("row_weight", np.ones(len(logits))), float)
    value, gradient = both(library, logits, target, normalizer=divisor, row_weight=weight, **options)
    expected, slope = both(library, logits, target, reduction="sum", row_weight=weight / divisor, **options)
    assert_near(value, expected, tolerances.MEAN)
    assert_near(gradient, slope, tolerances.SCALED)
    divisor[0] = 0
    keep = np.arange(len(logits)) > 0
    value, gradient = both(library, logits, target, normalizer=divisor, row_weight=weight, **options)
    dropped, slope = both(
        library, logits, target, reduction="sum", row_weight=keep * weight / np.exp2(powers[: len(logits)]), **options
    )
    assert_near(value, dropped, tolerances.MEAN)
    assert_near(gradient, slope, tolerances.SCALED)


@given(problem=problems())
def test_none_has_the_gradient_of_the_sum(library, problem):
    logits, target, options = problem
    _, gradient = both(library, logits, target, reduction="sum", **options)
    assert_same(both(library, logits, target, reduction="none", **options)[1], gradient)


@given(problem=problems(any_dtype=False), data=st.data())
def test_weight_two_is_the_row_twice(library, problem, data):
    logits, target, options = problem
    twice = np.array(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    weight = options.pop("row_weight", np.ones(len(logits)))
    repeated = np.repeat(np.arange(len(logits)), 1 + twice)
    value, gradient = both(library, logits, target, row_weight=weight * (1 + twice), **options)
    x, t, _ = rows_of(logits, target, {}, repeated)
    again, slope = both(library, x, t, row_weight=weight[repeated], **options)
    assert_near(again, value, tolerances.MEAN)
    first = np.searchsorted(repeated, np.arange(len(logits)))
    assert_near(slope[first] * (1 + twice)[:, None], gradient, tolerances.SCALED)


@given(problem=problems(), data=st.data(), normalizer=st.sampled_from(["weight", "rows"]))
def test_ignored_is_deleted(library, problem, data, normalizer):
    logits, target, options = problem
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    options["normalizer"] = normalizer
    x, t, kept_options = rows_of(logits, target, options, keep)
    expected, slope = both(library, x, t, **kept_options)
    weight = np.where(keep, options.get("row_weight", np.ones(len(logits), logits.dtype)), 0).astype(logits.dtype)
    ways = [(target, options | {"row_weight": weight})]
    if not isinstance(target, tuple) and target.ndim == 1:
        ways.append((np.where(keep, target, -100), options))
    if isinstance(target, tuple):
        ways.append(((np.where(keep[:, None], target[0], -100), target[1]), options))
    for given_target, given_options in ways:
        value, gradient = both(library, logits, given_target, **given_options)
        assert_near(value, expected, tolerances.MEAN)
        assert_same(gradient[keep], slope)
        assert (gradient[~keep] == 0).all()


@given(problem=problems())
def test_bits_are_nats_over_ln_2(library, problem):
    logits, target, options = problem
    options.pop("unit", None)
    value, gradient = both(library, logits, target, **options)
    bits, slope = both(library, logits, target, unit="bits", **options)
    assert_near(bits, value.astype(float) / np.log(2), tolerances.MEAN)
    assert_near(slope, gradient.astype(float) / np.log(2), tolerances.SCALED)


# -- targets ----------------------------------------------------------------------------------------------------------


@given(problem=problems(kinds=("labels",)))
def test_a_label_is_its_one_hot(library, problem):
    """In every form: dense of any dtype, sparse, and sparse in two halves."""
    logits, labels, options = problem
    options.pop("focal_gamma", None)
    one_hot = labels[:, None] == np.arange(logits.shape[1])
    halves = np.column_stack([labels, labels]), np.full((len(labels), 2), 0.5)
    expected, slope = both(library, logits, labels, **options)
    scale = gradient_scale(library, logits, labels, **options)
    bound = tolerances.gradient_bound(logits / options.get("temperature", 1.0))
    mass = np.asarray(options.get("class_weight", np.ones(logits.shape[1])), float)[labels]
    denominator = (np.asarray(options.get("row_weight", np.ones(len(labels))), float) * mass).sum()
    forms = [
        one_hot,
        one_hot.astype(np.uint8),
        one_hot.astype(logits.dtype),
        (labels[:, None], np.ones((len(labels), 1))),
    ]
    for target in (*forms, halves):
        value, gradient = both(library, logits, target, **options)
        assert_near(value, expected, tolerances.REDUCED)
        assert_near(gradient, slope, bound, scale / denominator)


@given(
    problem=problems(kinds=("soft",), any_dtype=False), share=st.integers(0, 16).map(lambda k: k / 16), data=st.data()
)
def test_the_loss_is_linear_in_the_target(library, problem, share, data):
    logits, target, options = problem
    other = data.draw(hnp.arrays(np.float64, logits.shape, elements=st.integers(0, 16).map(lambda k: k / 16)))
    mixed = share * target + (1 - share) * other
    values = [library.call("cross_entropy", logits, t, reduction="none", **options) for t in (target, other, mixed)]
    assert_near(values[2], share * values[0] + (1 - share) * values[1], tolerances.ROW_LOSS)


@given(problem=problems(kinds=("soft",), any_dtype=False, options=False))
def test_sparse_targets_are_dense_targets(library, problem):
    logits, target, _ = problem
    rows, classes = logits.shape
    sparse = np.broadcast_to(np.arange(classes)[::-1], (rows, classes)), target[:, ::-1]
    expected, slope = both(library, logits, target, label_smoothing=0.25)
    value, gradient = both(library, logits, sparse, label_smoothing=0.25)
    assert_near(value, expected, tolerances.REDUCED)
    mass = target.sum() or 1.0
    scale = gradient_scale(library, logits, target, label_smoothing=0.25) / mass
    assert_near(gradient, slope, tolerances.gradient_bound(logits), scale)


@given(logits=logits_of(4, 1), target=hnp.arrays(np.float64, (4, 1), elements=st.integers(0, 64).map(lambda k: k / 64)))
def test_binary_is_the_two_class_loss(library, logits, target):
    two = np.concatenate([np.zeros_like(logits), logits], axis=1)
    value = library.call("cross_entropy", two, np.concatenate([1 - target, target], axis=1), reduction="none")
    binary = library.call("binary_cross_entropy", logits, target, reduction="none")
    assert_near(binary[:, 0], value, tolerances.ROW_LOSS)


@given(logits=logits_of(3, 4), target=hnp.arrays(np.bool_, (3, 4)))
def test_mirrored_binary_loss(library, logits, target):
    """A yes to x costs what a no to -x costs, to the bit."""
    value, gradient = library.call("binary_cross_entropy_value_and_grad", logits, target, reduction="none")
    mirrored, slope = library.call("binary_cross_entropy_value_and_grad", -logits, ~target, reduction="none")
    assert_same(mirrored, value)
    assert_same(slope, -gradient)


# -- derivatives ------------------------------------------------------------------------------------------------------


@given(problem=problems(kinds=("soft", "sparse"), any_dtype=False), data=st.data())
def test_the_hessian_is_symmetric_and_positive(library, problem, data):
    """u . H v = v . H u and v . H v >= 0 of a plain loss, to rounding."""
    logits, target, options = problem
    options["reduction"] = "sum"
    u, v = (data.draw(logits_of(*logits.shape, STEPS.map(lambda k: k / 64))) for _ in range(2))
    hu, hv = (library.call("cross_entropy_hvp", logits, target, vector, **options) for vector in (u, v))
    size = np.abs(u).max() * np.abs(v).max() * gradient_scale(library, logits, target, **options).sum() * 2
    size /= options.get("temperature", 1.0)
    error = 1e-12 * size + 1e-290
    assert abs((u * hv).sum() - (v * hu).sum()) <= error
    assert (v * hv).sum() >= -1e-12 * size / max(np.abs(u).max(), 1e-300) * np.abs(v).max() - 1e-290


# -- statistics of blocks of classes ----------------------------------------------------------------------------------


@given(problem=problems(any_dtype=False), data=st.data(), impossible=st.booleans())
def test_split_classes_merge(problem, data, impossible):
    """row_loss.merge of two blocks of classes is the statistics of all classes; a block of -inf is the identity."""
    logits, target, options = problem
    classes = logits.shape[1]
    assume(classes > 1)
    cut = data.draw(st.integers(1, classes - 1))
    if impossible:
        logits = np.concatenate([logits, np.full((len(logits), cut), -np.inf)], axis=1)
        target = (
            np.concatenate([target, np.zeros((len(target), cut))], axis=1)
            if isinstance(target, np.ndarray) and target.ndim == 2
            else target
        )
        if "class_weight" in options:
            options["class_weight"] = np.concatenate([options["class_weight"], np.ones(cut)])
        options.pop("label_smoothing", None)
        cut = classes
    options.pop("focal_gamma", None)
    rows = numpy_library.Rows.of(logits, target, LossOptions(**options), summary=True)
    with np.errstate(all="ignore"):
        whole = generic.row_statistics(np, rows.logits, rows.coefficients, np.float64, summary=True)
        parts = []
        for block in (slice(0, cut), slice(cut, logits.shape[1])):
            piece = rows.coefficients.classes(block)
            part = generic.row_statistics(np, rows.logits[:, block], piece, np.float64, summary=True)
            parts.append(dataclasses.replace(part, prediction=part.prediction + block.start))
        merged = merge(np, *parts)
        losses = [row_loss(np, statistics, rows.coefficients) for statistics in (merged, whole)]
    assert_same(merged.maximum, whole.maximum)
    assert_same(merged.ties, whole.ties)
    assert_same(merged.prediction, whole.prediction)
    assert_near(losses[0], losses[1], 2 * tolerances.ROW_LOSS)
    for name in ("others", "profile_mass", "dense_mass", "target_sum"):
        if getattr(whole, name) is not None:
            np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-12)
