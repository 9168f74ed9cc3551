"""The linear form against the oracle of the logits: the same table of options, in chunks of every kind."""

import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
import tolerances
from checks import check_value
from linear_problem import LinearProblem
from tolerances import assert_same, assert_within

import crossentropy as xe
from crossentropy import linear_chunks

FUNCTION = "cross_entropy"


def named(combinations):
    return [pytest.param(*c, id="-".join((c[0], *c[1]))) for c in combinations]


SINGLES = named([(target, ()) for target in cases.TARGETS]) + named(cases.combinations_of(FUNCTION, 1))
FULL = named(dict.fromkeys(cases.full_combinations(FUNCTION, 40)))


def chunk_of(monkeypatch, rows, classes):
    """Whatever the budget: chunks of so many rows, in blocks of so many classes."""

    def chunk(budget, count, all_classes, *rest):
        return linear_chunks.Chunk(max(1, min(rows, count)), min(classes, all_classes))

    monkeypatch.setattr(linear_chunks, "chunk_within", chunk)


def check(library, problem, dtypes):
    linear = LinearProblem(problem)
    for dtype in dtypes:
        given, options = linear.typed(dtype)
        value = library.call("linear_cross_entropy", *given, **options)
        check_value(library, problem, value, dtype)
        again, gradients = library.call("linear_cross_entropy_value_and_grad", *given, **options)
        assert_same(again, value)
        linear.check_gradients(library, gradients, dtype)


@pytest.mark.parametrize(("target", "names"), SINGLES)
def test_each_option_alone(library, target, names, monkeypatch):
    chunk_of(monkeypatch, rows=4, classes=cases.CLASSES)
    check(library, cases.problem(FUNCTION, target, names), cases.DTYPES.values())


@pytest.mark.parametrize(("target", "names"), FULL)
def test_as_many_options_as_go_together(library, target, names, monkeypatch):
    chunk_of(monkeypatch, rows=3, classes=cases.CLASSES)
    check(library, cases.problem(FUNCTION, target, names), cases.DTYPES.values())


@pytest.mark.parametrize(("target", "names"), [p for p in SINGLES + FULL if "inputs" not in p.id])
def test_blocks_of_classes(library, target, names, monkeypatch):
    chunk_of(monkeypatch, rows=2, classes=2)
    check(library, cases.problem(FUNCTION, target, names), [np.dtype(np.float64), np.dtype(np.float32)])


# -- what the chunks leave out, and what they refuse ------------------------------------------------------------------


def head(rows=40, width=6, classes=30, seed=0, dtype=np.float64):
    """Features, weight, bias and labels, of which a third is ignored."""
    rng = np.random.default_rng(seed)
    arrays = (rng.normal(size=shape).astype(dtype) for shape in ((rows, width), (classes, width), (classes,)))
    labels = rng.integers(0, classes, rows)
    labels[::3] = -100
    return *arrays, labels


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("chunk", [(7, 30), (7, 11)], ids=["rows", "blocks"])
def test_nan_in_an_ignored_row_reaches_nothing(library, chunk, reduction, monkeypatch):
    """Bit for bit the results of the rows that count."""
    chunk_of(monkeypatch, *chunk)
    features, weight, bias, labels = head()
    features[::3] = np.nan
    features[3] = np.inf
    counts = labels >= 0
    options = {"bias": bias, "reduction": reduction, "label_smoothing": 0.1}
    function = "linear_cross_entropy_value_and_grad"
    value, gradients = library.call(function, features, weight, labels, **options)
    expected, expected_gradients = library.call(function, features[counts], weight, labels[counts], **options)
    assert_same(value[counts] if reduction == "none" else value, expected)
    assert not np.any(value[~counts]) if reduction == "none" else np.isfinite(value)
    assert_same(gradients[0][counts], expected_gradients[0])
    assert not gradients[0][~counts].any()
    for gradient, wanted in zip(gradients[1:], expected_gradients[1:], strict=True):
        assert_same(gradient, wanted)


def test_rows_of_weight_0_are_not_read_either(library):
    features, weight, bias, labels = head()
    row_weight = np.where(np.arange(40) % 4 == 1, 0.0, 1.5)
    features[1::4] = np.nan
    value, gradients = library.call(
        "linear_cross_entropy_value_and_grad", features, weight, labels, bias=bias, row_weight=row_weight
    )
    assert all(np.isfinite(part).all() for part in (value, *gradients))
    assert not gradients[0][1::4].any()


@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_that_counts_gives_0(library, rows):
    features, weight, bias, labels = head(rows=rows)
    labels[:] = -100
    features[:] = np.nan
    value, gradients = library.call("linear_cross_entropy_value_and_grad", features, weight, labels, bias=bias)
    for result in (value, *gradients):
        assert not np.any(result)
    assert [g.shape for g in gradients] == [features.shape, weight.shape, bias.shape]


def test_features_of_any_leading_shape(library):
    features, weight, bias, labels = head()
    shaped, shaped_labels = features.reshape(2, 5, 4, 6), labels.reshape(2, 5, 4)
    for reduction in ("mean", "none"):
        value = library.call("linear_cross_entropy", shaped, weight, shaped_labels, bias=bias, reduction=reduction)
        flat, gradients = library.call(
            "linear_cross_entropy_value_and_grad", features, weight, labels, bias=bias, reduction=reduction
        )
        assert_same(value.reshape(flat.shape), flat)
    _, shaped_gradients = library.call(
        "linear_cross_entropy_value_and_grad", shaped, weight, shaped_labels, bias=bias, reduction="none"
    )
    assert_same(shaped_gradients[0], gradients[0].reshape(shaped.shape))
    one = library.call("linear_cross_entropy", features[1], weight, labels[1], bias=bias)
    assert one.shape == ()


@pytest.mark.parametrize("chunk", [(7, 30), (7, 11)], ids=["rows", "blocks"])
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "softcap": 3.0}, {"inputs": "log_probs"}], ids=str)
def test_row_statistics_are_those_of_the_logits(library, options, chunk, monkeypatch):
    features, weight, bias, labels = head()
    if "inputs" in options:
        features, weight, bias = abs(features), -abs(weight), -abs(bias)
        chunk = (7, 30)  # log-probabilities are taken in whole rows
    chunk_of(monkeypatch, *chunk)
    logits = features @ weight.T + bias
    for target in (labels, None):
        given = () if target is None else (target,)
        expected = library.call("row_statistics", logits, *given, **options)
        found = library.call("linear_row_statistics", features, weight, *given, bias=bias, **options)
        for name, a, b in zip(("lse", "target_log_prob", "entropy", "prediction"), found, expected, strict=True):
            assert (a is None) == (b is None), name
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_16_bit_gradients_are_sums_in_float32(library, name, monkeypatch):
    """Sums over 512 rows in chunks of 8: in 16 bits they would be off by percents; here each is rounded once."""
    chunk_of(monkeypatch, rows=8, classes=20)
    rng = np.random.default_rng(0)
    dtype = cases.DTYPES[name]
    features, weight = (rng.normal(size=shape).astype(dtype) for shape in ((512, 4), (20, 4)))
    labels = rng.integers(0, 20, 512)
    wide = [features.astype(np.float64), weight.astype(np.float64)]
    exact = xe.linear_cross_entropy_value_and_grad(*wide, labels, reduction="sum")[1]
    value, gradients = library.call("linear_cross_entropy_value_and_grad", features, weight, labels, reduction="sum")
    assert value.dtype == np.float32
    for gradient, expected in zip(gradients, exact[:2], strict=False):
        assert gradient.dtype == dtype
        slack = 512 * tolerances.PRODUCT * float(np.finfo(np.float32).eps) * 4
        assert_within(gradient, expected, tolerances.ROUNDED_ONCE, slack=slack)


def test_out_takes_the_gradients(library):
    features, weight, bias, labels = head()
    expected, wanted = library.call("linear_cross_entropy_value_and_grad", features, weight, labels, bias=bias)
    # In the weight's own place too: it is read for the last time before its gradient is there.
    for out in [np.empty_like(weight), weight]:
        given = [library.array(np.array(a)) for a in (features, weight, bias)]
        if isinstance(given[1], np.ndarray):
            given = [np.array(a) for a in (features, weight, bias)]
            taken = given[1] if out is weight else np.empty_like(weight)
        else:
            taken = given[1] if out is weight else given[1].clone()
        value, gradients = xe.linear_cross_entropy_value_and_grad(
            *given[:2], library.array(labels), bias=given[2], out=(None, taken, None)
        )
        assert gradients.weight is taken
        assert_same(library.numpy(value), expected)
        for gradient, a in zip(gradients, wanted, strict=True):
            assert_same(library.numpy(gradient), a)


def test_out_may_overlap_the_target(library, monkeypatch):
    """Shifted by a row, so that the gradient of a row lies where the target of the next one is read."""
    chunk_of(monkeypatch, rows=2, classes=6)
    features, weight, _, _ = head(rows=8, classes=6)
    memory = np.abs(np.random.default_rng(2).normal(size=(9, 6)))
    target = memory[:-1].copy()
    expected = xe.linear_cross_entropy_value_and_grad(features, weight, target)[1].features
    if not isinstance(library.array(weight), np.ndarray):
        features, weight, memory = map(library.array, (features, weight, memory))
    gradients = xe.linear_cross_entropy_value_and_grad(features, weight, memory[:-1], out=(memory[1:], None))[1]
    np.testing.assert_allclose(library.numpy(gradients.features), expected, rtol=1e-12, atol=1e-15)


def test_out_that_overlaps_is_refused(library):
    """Each gradient needs its own memory, of which one piece may be cut."""
    features, weight, _, labels = head(rows=30)
    features, weight = (np.array(library.numpy(library.array(a))) for a in (features, weight))
    expected = xe.linear_cross_entropy_value_and_grad(features, weight, labels)[1]
    is_numpy = isinstance(library.array(labels), np.ndarray)
    memory = np.empty(400) if is_numpy else library.array(np.empty(400))
    given = [np.array(a) if is_numpy else library.array(a) for a in (features, weight, labels)]
    whole, columns = memory[:360].reshape(30, 12), memory[:180].reshape(30, 6)
    for out in [(columns, memory[180:360].reshape(30, 6)), (whole[:, :6], whole[:, 6:])]:
        xe.linear_cross_entropy_value_and_grad(*given, out=out)
        for part, gradient in zip(out, expected, strict=False):
            np.testing.assert_allclose(library.numpy(part), gradient, rtol=1e-12, atol=1e-15)
    for out in [(columns, columns), (columns, memory[179:359].reshape(30, 6)), (whole[:, :6], whole[:, 5:11])]:
        with pytest.raises(ValueError, match="the arrays for features and weight overlap in memory"):
            xe.linear_cross_entropy_value_and_grad(*given, out=out)


def test_shapes_that_do_not_fit_are_named(library):
    features, weight, bias, labels = head()
    cases_ = [
        ((features, weight[:, 1:], labels), {}, "last axis of both is D$"),
        ((features, weight.T, labels), {}, "last axis of both is D; is weight transposed"),
        ((features.T, weight, labels), {}, "D = 40 and weight of shape"),
        ((features, weight[0], labels), {}, r"weight must have shape \(classes, D\)"),
        ((features, weight, labels[:-1]), {}, "target has shape"),
        ((features, weight, labels), {"bias": bias[1:]}, r"bias must have shape \(30,\)"),
        ((features, weight, labels), {"memory_budget": 0}, "memory_budget is a number of bytes"),
        ((features, weight, labels), {"memory_budget": 50}, "memory_budget=50 is too small"),
    ]
    for given, options, message in cases_:
        with pytest.raises(ValueError, match=message):
            library.call("linear_cross_entropy", *given, **options)
    for options, message in [({"axis": 0}, "unknown option 'axis'"), ({"memory_budget": 1.5}, "must be an integer")]:
        with pytest.raises(TypeError, match=message):
            library.call("linear_cross_entropy", features, weight, labels, **options)
    with pytest.raises(TypeError, match="unknown option 'label_smoothing'"):
        library.call("linear_row_statistics", features, weight, labels, label_smoothing=0.1)


def test_bad_values_are_named_where_the_caller_has_them(library):
    features, weight, _, labels = head()
    labels[7] = 30
    with pytest.raises(IndexError, match=r"target\[7\] = 30 is outside \[0, 30\)"):
        library.call("linear_cross_entropy", features, weight, labels)
    # Rows 0 and 3 are ignored, and left out; the position is that of the array.
    features, weight, _, labels = head()
    p, one_hot = np.full((40, 2), 0.25), np.eye(30)[:, :2]
    p[4, 1] = 1.5
    labels[4] = 1
    with pytest.raises(ValueError, match=r"logits\[4, 1\] = 1.5 is outside \[0, 1\]"):
        library.call("linear_cross_entropy", p, one_hot, labels, inputs="probs")
    soft = np.full((40, 30), 1 / 30)
    soft[5, 2] = -1.0
    with pytest.raises(ValueError, match=r"target\[5, 2\] = -1"):
        library.call("linear_cross_entropy", features, weight, soft)


# -- the budget -------------------------------------------------------------------------------------------------------


def test_the_chunk_is_the_largest_that_the_budget_holds():
    chunk_within = linear_chunks.chunk_within
    for budget in (1_000_000, 64_000_000, 256_000_000, 2_000_000_000):
        for count, classes, per_row in ((1, 50_257, 0), (1_024, 50_257, 6_144), (8_192, 128_256, 0)):
            chunk = chunk_within(budget, count, classes, 4, per_row, 1_000)
            taken = chunk.rows * (classes * 4 + per_row) + 1_000
            assert taken <= budget
            assert chunk.classes == classes
            # One row more in every chunk does not fit, or would not make one chunk less.
            chunks = -(-count // chunk.rows)
            more = -(-count // (chunks - 1)) if chunks > 1 else None
            assert more is None or more * (classes * 4 + per_row) + 1_000 > budget


def test_no_more_memory_is_taken_than_is_of_use(monkeypatch):
    asked = []
    within = linear_chunks.chunk_within
    monkeypatch.setattr(linear_chunks, "chunk_within", lambda *given: asked.append(within(*given)) or asked[-1])
    weight = np.zeros((40_000, 1), np.float32)
    for rows in (600, 1_100):
        xe.linear_cross_entropy(np.zeros((rows, 1), np.float32), weight, np.zeros(rows, int))
    xe.linear_cross_entropy(np.zeros((20_000, 1)), np.zeros((10, 1)), np.zeros(20_000, int))
    assert [chunk.rows for chunk in asked] == [300, 367, 20_000]


def test_a_row_that_does_not_fit_comes_in_blocks():
    block = linear_chunks.chunk_within(100_000, 8, 50_257, 4, 0, 0)
    assert block.rows == 1
    assert 256 <= block.classes < 50_257
    assert linear_chunks.chunk_within(30_000, 8, 50_257, 4, 0, 0).classes >= 256
    with pytest.raises(ValueError, match=r"memory_budget=20,000 is too small: 256 of 50257 classes of one row"):
        linear_chunks.chunk_within(20_000, 8, 50_257, 4, 0, 0)


def test_any_budget_gives_the_same_results(library):
    """A vocabulary whose rows the smallest budget does not hold, with every kind of class option."""
    features, weight, bias, labels = head(rows=6, width=3, classes=9_000)
    rng = np.random.default_rng(1)
    options = {"bias": bias, "class_weight": rng.uniform(0.5, 1, 9_000), "label_smoothing": 0.1, "z_loss": 0.01}
    options["class_mask"] = (np.arange(9_000) % 7 != 0) | np.isin(np.arange(9_000), labels)
    results = [
        library.call("linear_cross_entropy_value_and_grad", features, weight, labels, memory_budget=b, **options)
        for b in (256_000_000, 200_000, 60_000)
    ]
    (expected, wanted), *others = results
    for value, gradients in others:
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        for a, b in zip(gradients, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-16)
    with pytest.raises(ValueError, match=r"inputs='probs' takes whole rows"):
        library.call("linear_cross_entropy", features, weight, labels, inputs="probs", memory_budget=60_000)


MEMORY = """
import numpy as np
import crossentropy as xe

def memory(what):
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))

rng = np.random.default_rng(0)
features, weight = (rng.standard_normal(shape, np.float32) for shape in ((2048, 16), (20_000, 16)))
labels = rng.integers(0, 20_000, 2048)
out = (np.ones_like(features), np.ones_like(weight))
# The products' own buffers, which their library keeps for the life of the process.
part = features[:200] @ weight.T
part @ weight, part.T @ features[:200]
del part
xe.linear_cross_entropy_value_and_grad(features[:4], weight, labels[:4], out=(out[0][:4], out[1]))
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins again
before = memory("VmRSS")
xe.linear_cross_entropy_value_and_grad(features, weight, labels, memory_budget=20_000_000, out=out)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its high-water mark")
def test_the_budget_is_kept():
    """The logits are 164 MB; what is taken beside inputs and gradients is the budget of 20 MB, and 10 % of it."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 10_000_000 < int(done.stdout) <= 22_000_000
