"""The C++ core against the generic form and itself: every instruction set, thread count, dtype and target."""

import math
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from mpmath import mp, mpf

import crossentropy as xe
from crossentropy.kernels import generic, native

pytestmark = pytest.mark.skipif(not native.instruction_sets(), reason="this build has no native core")

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
# One vector, its end, several vectors, several blocks (2,048), kept and recomputed powers, several parts (131,072).
CLASSES = [1, 2, 10, 31, 32, 33, 64, 100, 2_049, 5_000, 70_000, 300_001]
OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"z_loss": 0.01},
    {"temperature": 1.7},
    {"softcap": 3.0},
    {"temperature": 0.7, "softcap": 9.0, "label_smoothing": 0.2, "z_loss": 0.01},
]


@pytest.fixture
def kernel(monkeypatch):
    """Choose who computes: "generic" or an instruction set."""
    return lambda name: monkeypatch.setenv("CROSSENTROPY_KERNEL", name)


def problem(classes, dtype, kind="labels", rows=None):
    random = np.random.default_rng(classes)
    rows = rows or (70 if classes < 200 else 3)
    logits = random.normal(0, 3, (rows, classes)).astype(dtype)
    if kind == "labels":
        return logits, random.integers(0, classes, rows)
    if kind == "soft":
        return logits, np.where(random.random(logits.shape) < 0.3, 0, random.random(logits.shape))
    return logits, (random.integers(0, classes, (rows, 3)), random.random((rows, 3)))


def both(logits, target, **options):
    return xe.cross_entropy_value_and_grad(logits, target, reduction="none", **options)


def same_bits(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["labels", "soft", "sparse"])
@pytest.mark.parametrize("name", native.instruction_sets())
def test_the_core_and_the_generic_form_agree(kernel, name, dtype, classes, kind):
    logits, target = problem(classes, dtype, kind)
    eps = float(ml_dtypes.finfo(logits.dtype).eps)
    for options in OPTIONS:
        kernel("generic")
        value, gradient = both(logits, target, **options)
        kernel(name)
        found, slope = both(logits, target, **options)
        np.testing.assert_allclose(found, value, rtol=16 * max(float(np.finfo(value.dtype).eps), 2.0**-52))
        error = np.abs(slope.astype(float) - gradient.astype(float))
        # Both are within 8 + |z_j - max z| ulp of a p and q, whose sizes the target's mass bounds.
        mass = 1 + target.sum(axis=1, keepdims=True) if kind == "soft" else 3.0 if kind == "sparse" else 1.0
        allowed = 32 * eps * mass + float(ml_dtypes.finfo(logits.dtype).tiny)
        assert (error <= allowed).all(), (options, (error / allowed).max())


# Those with fused multiply-add; the others round twice where these round once.
SAME_BITS = [name for name in native.instruction_sets() if name != "baseline"]


@pytest.mark.skipif(len(SAME_BITS) < 2, reason="one instruction set with fused multiply-add here")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_instruction_sets_with_fused_multiply_add_give_the_same_bits(kernel, dtype, classes):
    for kind in ("labels", "soft"):
        logits, target = problem(classes, dtype, kind)
        for options in OPTIONS:
            results = []
            for name in SAME_BITS:
                kernel(name)
                results.append(both(logits, target, **options))
            assert all(same_bits(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("classes", [100, 129, 300, 1_000, 2_049, 5_000])
@pytest.mark.parametrize("name", native.instruction_sets())
def test_where_the_class_axis_stands_changes_no_number(kernel, name, classes, dtype):
    kernel(name)
    logits, labels = problem(classes, dtype, "labels")
    scaled = (logits * 20).astype(dtype)  # maxima of blocks lie far apart
    for options in ({}, {"temperature": 0.7}, {"label_smoothing": 0.1, "z_loss": 0.01}):
        value, gradient = both(scaled, labels, **options)
        found, slope = both(np.ascontiguousarray(scaled.T), labels, axis=0, **options)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(found, value, rtol=4 * eps)
        np.testing.assert_allclose(slope.T, gradient, rtol=400 * eps, atol=4 * eps)  # twice 8 + |z - max| ulp


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_block_far_below_the_maximum(kernel, temperature):
    """Its factor is subnormal as a float where its probabilities are not."""
    logits = np.full((3, 9_000), -120, np.float32)
    logits[:, 0], logits[:, 4_096:4_100] = 0, np.float32(-68 * temperature)
    gradient = xe.cross_entropy_value_and_grad(logits, [0, 1, 2], temperature=temperature, reduction="none")[1]
    exact = np.exp(logits[0, 4_096].astype(float) / temperature) / temperature
    np.testing.assert_allclose(gradient[:, 4_096:4_100], exact, rtol=8e-7)


@pytest.mark.parametrize(("rows", "classes"), [(40_000, 10), (3_000, 300), (40, 40_000), (1, 600_000), (3, 400_000)])
def test_any_number_of_threads_gives_the_same_bits(rows, classes):
    logits, target = problem(classes, np.float32, rows=rows)
    one = both(logits, target, num_threads=1), xe.cross_entropy(logits, target, num_threads=1)
    for threads in (2, 3, 7):
        assert same_bits(both(logits, target, num_threads=threads), one[0])
        assert xe.cross_entropy(logits, target, num_threads=threads) == one[1]


INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("step", [1, -1, 3])
def test_labels_are_read_as_they_are_given(dtype, step):
    """Any integer dtype and stride; an ignored label, a wrong one and their weights."""
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 3, (40_000, 5)), random.integers(0, 5, 40_000)
    labels[::7] = 9
    given = np.repeat(labels, abs(step)).astype(dtype)[::step]
    labels = labels[:: np.sign(step)]
    weight = random.random(5) + 0.5
    keep = labels != 9
    for options in ({}, {"class_weight": weight}, {"class_weight": weight, "label_smoothing": 0.1}):
        value, gradient = xe.cross_entropy_value_and_grad(logits, given, ignore_index=9, **options)
        alone, slope = xe.cross_entropy_value_and_grad(logits[keep], labels[keep], **options)
        assert value == alone  # to the bit: the ignored rows leave no trace
        np.testing.assert_array_equal(gradient[keep], slope)
        assert not gradient[~keep].any()
    first = int(np.argmax(~keep))
    with pytest.raises(IndexError, match=rf"target\[{first}\] = 9 is outside \[0, 5\)"):
        xe.cross_entropy(logits, given)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("classes", [1, 2, 127, 128, 129, 255, 256, 257, 40_000, 2**31 - 1, 2**31, 2**33])
def test_every_label_is_compared_with_the_number_of_classes(dtype, classes):
    scan, limits = native.label_scan(), np.iinfo(dtype)
    values = {0, 1, 2, -1, -100, limits.min, limits.max, classes - 1, classes, classes + 1}
    for value in (v for v in values if limits.min <= v <= limits.max):
        for step in (1, 2):
            labels = np.zeros(40 * step, dtype)[::step]
            labels[7] = value
            ignored = value == -100
            expected = (40 - ignored, 40.0 - ignored) if ignored or 0 <= value < classes else None
            assert scan(labels, classes, -100, None, None) == expected


@pytest.mark.parametrize("inputs", ["probs", "log_probs"])
def test_the_first_entry_out_of_range_is_named(inputs):
    """Among the entries that labels read, in the last of many threads' pieces; what no label reads may be anything."""
    given = np.full((300_000, 2), 0.5 if inputs == "probs" else -0.7, np.float32)
    given[:, 1] = 7  # read by no label
    labels = np.zeros(300_000, int)
    assert np.isfinite(xe.cross_entropy(given, labels, inputs=inputs))
    given[299_998, 0] = 1.5
    with pytest.raises(ValueError, match=r"logits\[299998, 0\] = 1.5"):
        xe.cross_entropy(given, labels, inputs=inputs)


def test_the_first_wrong_entry_of_a_large_target_is_named():
    logits, target = np.zeros((300_000, 4), np.float32), np.full((300_000, 4), 0.25, np.float32)
    for value in (-0.5, np.nan, np.inf):
        target[299_999, 2] = value
        with pytest.raises(ValueError, match=r"target\[299999, 2\]"):
            xe.cross_entropy(logits, target)
    binary = np.zeros(1_200_000, np.float32)
    binary[-2] = 2.0
    with pytest.raises(ValueError, match=r"target\[1199998\]"):
        xe.binary_cross_entropy(logits.reshape(-1), binary)


def test_the_environment_names_what_computes(kernel):
    for name in ("generic", *native.instruction_sets()):
        kernel(name)
        assert native.kernel_name() == name
    kernel("abacus")
    with pytest.raises(ValueError, match="CROSSENTROPY_KERNEL='abacus': expected one of generic"):
        xe.cross_entropy([[0.0, 1.0]], [0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials_of_two_classes(dtype):
    """exp and log1p of the core, through the loss of two classes: log(1 + e^-x), over the whole range."""
    largest = 103.2 if dtype == np.float32 else 707  # of float32 the subnormal losses too
    x = np.concatenate([np.linspace(0, largest, 3_001), np.geomspace(1e-6, 1, 200)]).astype(dtype)
    loss = xe.cross_entropy(np.stack([x, np.zeros_like(x)], axis=1), np.zeros(len(x), int), reduction="none")
    ulp = np.spacing(loss).astype(float)
    with mp.workdps(400 if dtype == np.float64 else 80):
        exact = [mp.log1p(mp.exp(-mpf(float(a)))) for a in x]
        errors = [abs(float((mpf(float(v)) - e) / u)) for v, e, u in zip(loss, exact, ulp, strict=True)]
    assert max(errors) <= 4
    assert (loss > 0).all()  # not even the last subnormal digit is lost


def test_sums_beside_a_block_of_infinities():
    """Blocks of -inf alone are the identity of the merger, with and without a profile."""
    logits = np.full((2, 300_000), -np.inf, np.float32)
    logits[:, -5:] = [[0, 1, 2, 3, 4]] * 2
    mask = np.zeros(300_000, bool)
    mask[-5:] = True
    short = logits[:, -5:].copy()
    np.testing.assert_allclose(xe.cross_entropy(logits, [299_999, 299_995]), xe.cross_entropy(short, [4, 0]), rtol=1e-6)
    smooth = xe.cross_entropy(logits, [299_999, 299_995], class_mask=mask, label_smoothing=0.1)
    np.testing.assert_allclose(smooth, xe.cross_entropy(short, [4, 0], label_smoothing=0.1), rtol=1e-6)
    assert xe.cross_entropy(logits, [299_999, 299_995], label_smoothing=0.1) == np.inf


@pytest.mark.parametrize("scale", [1e30, 3e38, -3e38])
def test_the_largest_numbers(scale):
    logits = np.array([[scale, -scale, -np.inf, scale]], np.float32)
    top = max(scale, -scale)
    value, gradient = xe.cross_entropy_value_and_grad(logits, [int(np.argmax(logits))])
    ties = int((logits == np.float32(top)).sum())
    np.testing.assert_allclose(value, np.log(ties), rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert gradient[0, 2] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_after_fork():
    """A forked child computes with threads of its own: nothing of the core outlives a call."""
    code = """
import multiprocessing, numpy as np, crossentropy as xe
def work(_): return float(xe.cross_entropy(np.ones((200_000, 10), np.float32), np.zeros(200_000, int), num_threads=2))
if __name__ == "__main__":
    before = work(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, range(4)) == [before] * 4
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_one_class_that_are_not_evenly_spaced(dtype):
    """A class axis of one element has no step: rows must not be taken for neighbours because of it."""
    whole = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(dtype)
    logits, target, out = whole[:, :1, :], np.zeros((4, 5), int), np.zeros_like(whole)
    value = xe.cross_entropy(logits, target, axis=1, z_loss=1.0, reduction="none")
    np.testing.assert_allclose(value, logits[:, 0] ** 2, rtol=1e-6)
    xe.cross_entropy_value_and_grad(logits, target, axis=1, z_loss=1.0, reduction="sum", out=out[:, :1, :])
    np.testing.assert_allclose(out[:, :1, :], 2 * logits, rtol=1e-6)
    assert not out[:, 1:].any()


@pytest.mark.parametrize("classes", [7, 100, 512, 1_300])
def test_the_mass_of_soft_targets(kernel, classes):
    """What a mean divides by: added up by the core, and not over rows that do not count."""
    logits, target = problem(classes, np.float64, "soft")
    rows = len(logits)
    row_weight = np.where(np.arange(rows) % 3 == 0, 0, 0.5 + np.arange(rows))
    target[row_weight == 0] = np.nan
    class_weight = np.linspace(0.5, 2, classes)
    exact = [math.fsum(row) for row in target * class_weight if not np.isnan(row[0])]
    mass = math.fsum(w * m for w, m in zip(row_weight[row_weight > 0], exact, strict=True))
    options = {"class_weight": class_weight, "row_weight": row_weight}
    total = xe.cross_entropy(logits, target, reduction="sum", **options)
    assert math.isclose(xe.cross_entropy(logits, target, **options), total / mass, rel_tol=4e-16)


@pytest.mark.parametrize("name", native.instruction_sets())
@pytest.mark.parametrize("classes", [31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 200])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_a_soft_target_is_added_up_alike_wherever_its_rows_stand(kernel, name, dtype, classes):
    kernel(name)
    random = np.random.default_rng(classes)
    logits = random.normal(0, 4, (75, classes)).astype(dtype)
    target = np.where(random.random(logits.shape) < 0.3, 0, random.random(logits.shape)).astype(dtype)
    weight = np.where(np.arange(75) % 7 == 3, 0.0, 1.0)
    logits[0, 1], target[0, 1], logits[1, classes - 1], target[1, classes - 1] = -np.inf, 0, -np.inf, 0
    logits[3, classes // 2], target[3, 0], target[10, classes - 1] = np.nan, np.nan, -1  # of rows that do not count
    for options in ({}, {"row_weight": weight}):
        rows = slice(None) if options else slice(11, None)
        x, t, kept = logits[rows], target[rows], {k: v[rows] for k, v in options.items()}
        losses = xe.cross_entropy(x, t, reduction="none", **kept)
        assert np.isfinite(losses).all()
        apart = [np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3] for a in (x, t)]
        backwards = [np.ascontiguousarray(a[:, ::-1])[:, ::-1] for a in (x, t)]
        for pair in ((x, apart[1]), (apart[0], t), apart, backwards):
            assert same_bits([xe.cross_entropy(*pair, reduction="none", **kept)], [losses])
            assert same_bits(both(*pair, **kept), both(x, t, **kept))
        np.testing.assert_array_equal(both(x, t, **kept)[0], losses)
        mass = t.astype(np.float64).sum(axis=1)[kept.get("row_weight", np.ones(len(t))) != 0].sum()
        for mean in (xe.cross_entropy(x, t, **kept), xe.cross_entropy_value_and_grad(x, t, **kept)[0]):
            np.testing.assert_allclose(mean, losses.sum(dtype=float) / mass, rtol=8 * np.finfo(losses.dtype).eps)
        found = xe.cross_entropy(np.asfortranarray(x), np.asfortranarray(t), reduction="none", **kept)
        np.testing.assert_allclose(found, losses, rtol=4 * np.finfo(losses.dtype).eps)
        exact = xe.cross_entropy(x.astype(np.float64), t.astype(np.float64), reduction="none", **kept)
        np.testing.assert_allclose(losses, exact, rtol=4 * np.finfo(losses.dtype).eps)


@pytest.mark.parametrize("classes", [3, 100, 1_300, 70_000])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_wrong_entry_of_a_soft_target_is_found_in_the_one_read(reduction, wrong, dtype, classes):
    """At the end of a row as well, where its weight is 0, and with a normalizer that would make 0 of the loss."""
    random = np.random.default_rng(classes)
    logits, target = random.normal(size=(3, classes)).astype(dtype), np.ones((3, classes), dtype)
    target[1, -1] = wrong
    weight = np.where(np.arange(classes) == classes - 1, 0.0, 1.0)
    for options in ({}, {"class_weight": weight}, {"label_smoothing": 0.1}, {"temperature": 2.0, "class_bias": weight}):
        for out in (None, np.empty_like(logits), logits.copy()):
            given = logits if out is None or out[0, 0] != logits[0, 0] else out
            before = given.copy()
            with pytest.raises(ValueError, match=rf"target\[1, {classes - 1}\] = {wrong}"):
                xe.cross_entropy_value_and_grad(given, target, out=out, reduction=reduction, **options)
            np.testing.assert_array_equal(given, before)
        with pytest.raises(ValueError, match=rf"target\[1, {classes - 1}\] = {wrong}"):
            xe.cross_entropy(logits, target, reduction=reduction, **options)
    if reduction == "mean":
        with pytest.raises(ValueError, match="target"):
            xe.cross_entropy(logits, target, normalizer=0.0)
    counts = np.array([1.0, 0.0, 2.0])
    assert np.isfinite(xe.cross_entropy(logits, target, row_weight=counts, reduction=reduction)).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("classes", [100, 129, 2_049, 5_000, 140_000])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_probabilities_in_several_blocks_have_no_normalizer(dtype, classes, axis):
    """Each block's log-sum is 0, and so is that of all of them."""
    p = np.full((3, classes), 1 / classes, dtype)
    exact, labels = -math.log(float(p[0, 0])), np.array([0, 1, classes - 1])
    given = p if axis else np.ascontiguousarray(p.T)
    for inputs, x in (("probs", given), ("log_probs", np.log(given))):
        for target, options in ((labels, {}), (given, {}), (labels, {"label_smoothing": 0.1})):
            value, gradient = xe.cross_entropy_value_and_grad(x, target, axis=axis, inputs=inputs, **options)
            for found in (value, xe.cross_entropy(x, target, axis=axis, inputs=inputs, **options)):
                assert math.isclose(found, exact, rel_tol=1e-5 if dtype == np.float32 else 1e-12)
            share = gradient.sum(axis=axis, dtype=float) * (1 if inputs == "log_probs" else 1 / classes)
            np.testing.assert_allclose(share, -1 / 3, rtol=1e-4)


@pytest.mark.parametrize("classes", [3, 200])
def test_a_double_target_of_float_logits_is_checked_as_it_is(classes):
    logits, target = np.zeros((2, classes), np.float32), np.full((2, classes), 1 / classes)
    target[1, 2] = -1e-50
    for reduction in ("mean", "sum", "none"):
        with pytest.raises(ValueError, match=r"target\[1, 2\] = -1e-50"):
            xe.cross_entropy(logits, target, reduction=reduction)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("classes", [129, 2_049, 70_000])
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0}, {"softcap": 30.0}])
def test_nan_is_not_lost_among_classes_that_cannot_occur(options, classes, axis):
    """The last block of a row holds NaN and -inf alone, the first of another."""
    logits = np.zeros((3, classes), np.float32)
    logits[1, -(classes - 1) // 2 :], logits[2, : (classes + 1) // 2] = -np.inf, -np.inf
    logits[1, -1] = logits[2, 0] = np.nan
    given = logits if axis else np.ascontiguousarray(logits.T)
    losses, gradient = xe.cross_entropy_value_and_grad(
        given, [0, 0, classes - 1], axis=axis, reduction="none", **options
    )
    gradient = gradient if axis else gradient.T
    assert np.isnan(losses).tolist() == [False, True, True]
    assert np.isnan(gradient).all(axis=1).tolist() == [False, True, True]
    assert np.isnan(xe.row_statistics(given, axis=axis).lse).tolist() == [False, True, True]


@pytest.mark.parametrize("classes", [7, 100, 1_300, 140_000])
def test_a_mean_is_the_same_with_and_without_a_gradient(classes):
    """Its denominator is added up with the losses, or before them."""
    random = np.random.default_rng(classes)
    logits, target = random.normal(size=(2, 5, classes))
    options = {"class_weight": random.random(classes), "row_weight": random.random(5), "label_smoothing": 0.1}
    value, _ = xe.cross_entropy_value_and_grad(logits, target**2, **options)
    assert value == xe.cross_entropy(logits, target**2, **options)


@pytest.mark.parametrize("name", native.instruction_sets())
@pytest.mark.parametrize("classes", [2, 3, 4, 10, 17, 32, 33, 100, 128])
def test_few_classes_are_exact_in_float(kernel, name, classes):
    """Their rows are computed in float: many of them, beside float64, which the oracle holds to its own last digits."""
    kernel(name)
    random = np.random.default_rng(classes)
    for scale, offset, temperature in ((0.3, 5, 1.0), (3, -300, 1.0), (10, 5, 1.0), (10, 0, 0.7), (30, 1_000, 1.0)):
        logits = (random.normal(0, scale, (3_000, classes)) + offset).astype(np.float32)
        labels = np.where(random.random(3_000) < 0.5, logits.argmax(1), random.integers(0, classes, 3_000))
        options = {"temperature": temperature, "class_weight": np.linspace(0.5, 2, classes)}
        value, gradient = both(logits, labels, **options)
        exact, slope = both(logits.astype(np.float64), labels, **options)
        for found, expected, bound in ((value, exact, 4), (gradient, slope, 8)):
            expected = np.where(np.abs(expected) < 1e-35, 0, expected)
            ulp = np.abs(np.where(expected == 0, 0, found) - expected) / np.spacing(np.abs(expected).astype(np.float32))
            assert ulp.max() <= bound


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 10.0])
@pytest.mark.parametrize("classes", [2, 7, 40, 300])
@pytest.mark.parametrize("name", native.instruction_sets())
def test_a_label_that_cannot_occur(kernel, name, classes, temperature):
    kernel(name)
    logits = np.zeros((40, classes), np.float32)
    logits[::2, 1] = -np.inf
    value, gradient = both(logits, np.ones(40, int), temperature=temperature)
    assert (value[::2] == np.inf).all()
    np.testing.assert_allclose(value[1::2], np.log(classes), rtol=1e-6)
    np.testing.assert_allclose(gradient[::2, 1], -1 / temperature, rtol=1e-6)
    np.testing.assert_allclose(gradient[::2, 0], 1 / (classes - 1) / temperature, rtol=1e-6)


@pytest.mark.parametrize("name", native.instruction_sets())
def test_the_slope_of_a_soft_cap_vanishes(kernel, name):
    """1 - tanh^2 is less than any number far from 0: not the number where its exponential was cut off."""
    kernel(name)
    gradient = both(np.array([[4_000.0, -4_000.0, 1.0]]), np.array([1]), softcap=5.0)[1]
    assert gradient[0, 0] == gradient[0, 1] == 0
    assert gradient[0, 2] > 0


@pytest.mark.parametrize(
    "options", [{"softcap": 3.0}, {"softcap": 60.0}, {"softcap": 70.0}, {"temperature": 1.7}], ids=str
)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("classes", [2, 40, 300, 5_000, 70_000])
@pytest.mark.parametrize("name", native.instruction_sets())
def test_transformed_logits_of_32_bits_are_exact(kernel, name, classes, with_bias, options):
    """They become pairs of floats, or doubles: beside float64, which the oracle holds to its own last digits."""
    kernel(name)
    random = np.random.default_rng(classes)
    bias = {"class_bias": random.normal(0, 3, classes)} if with_bias else {}
    for size in (1, 50):
        rows = 300 if classes < 1_000 else 3
        logits = random.normal(0, size, (rows, classes)).astype(np.float32)
        logits[::2, 0], logits[::3, 1] = -np.inf, logits[::3, 0]
        labels = np.where(random.random(rows) < 0.5, logits.argmax(1), random.integers(1, classes, rows))
        value, gradient = both(logits, labels, **options, **bias)
        exact, slope = both(logits.astype(np.float64), labels, **options, **bias)
        for found, expected, bound in ((value, exact, 4), (gradient, slope, 8)):
            expected = np.where(np.abs(expected) < 1e-35, 0, expected)
            found = np.where(expected == 0, 0, found)
            finite = np.isfinite(expected)
            np.testing.assert_array_equal(found[~finite], expected[~finite])
            ulp = np.abs(found[finite] - expected[finite]) / np.spacing(np.abs(expected[finite]).astype(np.float32))
            assert ulp.max() <= bound
        found = xe.row_statistics(logits, labels, **options, **bias)
        expected = xe.row_statistics(logits.astype(np.float64), labels, **options, **bias)
        np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.lse, expected.lse, rtol=1e-6, atol=1e-6)


def test_the_bias_of_the_largest_numbers():
    """Where a float would overflow, doubles take over."""
    logits = np.array([[3e38, 0, -3e38]], np.float32)
    for bias in ([0, 3e38, 0], [1e38, 0, 0], [-3e38, 0, 3e38]):
        value, gradient = xe.cross_entropy_value_and_grad(logits, [0], class_bias=np.array(bias), reduction="none")
        z = logits[0].astype(np.float64) + bias
        weight = np.exp(z - z.max())
        np.testing.assert_allclose(value, [np.log(weight.sum()) - (z[0] - z.max())], rtol=1e-6)
        np.testing.assert_allclose(gradient[0], weight / weight.sum() - [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(3, 5, 200), (2, 21, 16, 16), (2, 128, 130), (7, 300), (40, 2_000), (2, 3, 127), (2, 130, 256)]
)
@pytest.mark.parametrize("name", native.instruction_sets())
def test_gradients_whose_classes_lie_far_apart(kernel, name, shape, dtype):
    """They are written in runs of 128 rows; images end within a run, and the last one is shorter."""
    kernel(name)
    random, axis = np.random.default_rng(5), int(len(shape) > 2)
    logits = random.normal(0, 3, shape).astype(dtype)
    rows, classes = np.moveaxis(logits, axis, -1).shape[:-1], shape[axis]
    labels, soft = random.integers(0, classes, rows), random.random(shape).astype(np.float32)
    labels.ravel()[::7] = -100
    last = np.ascontiguousarray(np.moveaxis(logits, axis, -1))
    for target, options in (
        (labels, {}),
        (labels, {"class_weight": random.random(classes), "temperature": 1.7}),
        (labels, {"label_smoothing": 0.1, "z_loss": 0.01}),
        (soft, {}),
    ):
        moved = target if target is labels else np.moveaxis(target, axis, -1)
        value, gradient = xe.cross_entropy_value_and_grad(last, np.ascontiguousarray(moved), **options)
        whole = np.zeros((*shape[:-1], 2 * shape[-1]), dtype)
        own = logits.copy()
        for given, out in ((logits, None), (logits, np.empty_like(logits)), (logits, whole[..., ::2]), (own, own)):
            found, slope = xe.cross_entropy_value_and_grad(given, target, axis=axis, out=out, num_threads=2, **options)
            np.testing.assert_allclose(float(found), float(value), rtol=4 * float(np.finfo(found.dtype).eps))
            size, eps = np.abs(gradient.astype(float)), float(ml_dtypes.finfo(dtype).eps)
            meet = target is soft or "label_smoothing" in options  # p and what every class has of the target
            limit = 40 * eps * (size + (size.max() if meet else 0))
            assert (np.abs(np.moveaxis(slope, axis, -1).astype(float) - gradient.astype(float)) <= limit).all()
        assert not whole[..., 1::2].any()


def test_a_gradient_of_images_that_goes_past_the_caches():
    logits = np.random.default_rng(1).standard_normal((2, 21, 230, 230), np.float32)
    labels = np.random.default_rng(2).integers(0, 21, (2, 230, 230))
    assert logits.nbytes > 1 << 23
    value, gradient = xe.cross_entropy_value_and_grad(logits, labels, axis=1, reduction="sum")
    last = np.ascontiguousarray(np.moveaxis(logits, 1, -1))
    expected, slope = xe.cross_entropy_value_and_grad(last, labels, reduction="sum")
    assert value == expected
    np.testing.assert_array_equal(np.moveaxis(gradient, 1, -1), slope)


@pytest.mark.parametrize("inputs", ["probs", "log_probs"])
@pytest.mark.parametrize("kind", ["none", "labels", "soft", "sparse"])
@pytest.mark.parametrize("classes", [1, 2, 33, 300, 5_000])
@pytest.mark.parametrize("name", native.instruction_sets())
def test_statistics_of_probabilities(kernel, monkeypatch, name, classes, kind, inputs):
    for dtype in (np.float64, np.float32):
        logits, target = problem(classes, np.float64, "labels" if kind == "none" else kind)
        log_p = np.minimum(xe.log_softmax(logits), 0)
        log_p[0, 1:], log_p[0, 0] = -np.inf, 0  # certain
        given = (log_p if inputs == "log_probs" else np.exp(log_p)).astype(dtype)
        target = None if kind == "none" else target
        kernel("generic")
        expected = xe.row_statistics(given, target, inputs=inputs)
        kernel(name)
        with monkeypatch.context() as patch:
            patch.setattr(generic, "row_statistics", None)
            found = xe.row_statistics(given, target, inputs=inputs)
        for a, b in zip(found, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=20 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(found.prediction, expected.prediction)


@pytest.mark.parametrize("name", native.instruction_sets())
def test_statistics_of_rows_that_are_no_probabilities(kernel, name):
    given = np.array([[0.0, 0.0, 0.0], [np.nan, 0.5, 0.5], [0.5, 0.25, 0.25]])
    kernel("generic")
    expected = xe.row_statistics(given, [0, 1, 2], inputs="probs")
    kernel(name)
    for a, b in zip(xe.row_statistics(given, [0, 1, 2], inputs="probs"), expected, strict=True):
        np.testing.assert_array_equal(a, b)


STREAMED = {
    "plain": {},
    "smoothing and weights": {"label_smoothing": 0.1, "class_weight": True, "z_loss": 0.01},
    "temperature": {"temperature": 1.7},
    "pairs": {"class_bias": True, "softcap": 9.0, "temperature": 1.5},
    "mask": {"class_mask": True, "label_smoothing": 0.2},
    "soft": {"soft": True},
}


@pytest.mark.parametrize("name", native.instruction_sets())
@pytest.mark.parametrize("options", STREAMED.values(), ids=STREAMED)
@pytest.mark.parametrize(
    ("dtype", "rows", "classes"), [(np.float32, 130, 17_344), (np.float32, 31, 70_001), (np.float64, 70, 17_100)]
)
def test_a_large_gradient_has_the_bits_of_its_rows_alone(kernel, name, dtype, rows, classes, options):
    """8 MB and more are written as they are computed, with powers kept or formed again, to any address."""
    kernel(name)
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (rows, classes)).astype(dtype)
    logits[1, 5_000:9_000] -= 400  # a block far below the maximum
    logits[2, 3_000:8_000] = -np.inf
    logits[4, 9_999], logits[5, 12_345] = np.inf, np.nan
    target = random.integers(0, classes, rows)
    target[2], target[3] = 0, -100
    given = dict(options)
    if given.pop("soft", False):
        target = random.random((rows, classes)).astype(dtype)
        target[2, 3_000:8_000] = 0
    for array, value in {
        "class_weight": random.random(classes) + 0.5,
        "class_bias": random.normal(size=classes),
        "class_mask": random.random(classes) < 0.9,
    }.items():
        if given.get(array):
            given[array] = value
    if "class_mask" in given:
        given["class_mask"][target[target >= 0]] = True
    expected = np.concatenate([both(logits[i : i + 1], target[i : i + 1], **given)[1] for i in range(rows)])
    size = logits.itemsize
    memory = np.empty(logits.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64
    for shift in (0, size, 16, 64 - size):
        out = memory[start + shift : start + shift + logits.nbytes].view(dtype).reshape(logits.shape)
        out.fill(7)
        assert both(logits, target, out=out, **given)[1].tobytes() == expected.tobytes()
        out[...] = logits
        assert both(out, target, out=out, **given)[1].tobytes() == expected.tobytes()
