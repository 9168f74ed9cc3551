"""The numbers of the report, against mpmath and against numbers that were published or measured elsewhere."""

import dataclasses
import json
import math
import re

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from crossentropy.evaluation import Batch, Categories, Evaluation, PredictionError, report
from crossentropy.evaluation.text_table import shortened

from .conftest import as_columns, softmax_rows


def evaluate(
    probabilities,
    labels,
    weights=None,
    ids=None,
    classes=None,
    batch=10**9,
    worst=10,
    groups=None,
    by=None,
    inputs="probs",
):
    state = Evaluation.empty(classes or [str(i) for i in range(probabilities.shape[1])], worst)
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        state = state.update(
            Batch(
                probabilities[part],
                labels[part],
                ids=None if ids is None else ids[part],
                weights=None if weights is None else weights[part],
                groups=None if groups is None else Categories.of(groups[part]),
                slices={name: Categories.of(values[part]) for name, values in (by or {}).items()},
                inputs=inputs,
                first_row=start,
            )
        )
    return state


def exact_loss(probabilities, labels, weights=None):
    with mpmath.workdps(40):
        weights = [1] * len(labels) if weights is None else [mpmath.mpf(float(w)) for w in weights]
        losses = [-mpmath.log(mpmath.mpf(float(p[y]))) for p, y in zip(probabilities, labels, strict=True)]
        return float(mpmath.fdot(weights, losses) / mpmath.fsum(weights))


def test_mean_loss_of_mnist_and_cifar(shared):
    for name, mean in (("mnist", 0.0302824), ("cifar10", 0.2491712)):
        result = report(shared / f"{name}_predictions.npy", labels=shared / f"{name}_labels.npy")
        assert result.loss.mean == pytest.approx(mean, abs=5e-8)
        assert result.loss.rows == 10_000
        assert result.row_sums.precision == "float32"
        assert result.row_sums.rows_beyond == 0
    result = report(shared / "cifar10_wideresnet_predictions.npy", labels=shared / "cifar10_labels.npy")
    assert result.loss.mean == pytest.approx(0.37817, abs=5e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_mean_loss_is_exact_for_the_stored_numbers(dtype):
    probabilities, labels = softmax_rows(500, 7)
    probabilities = probabilities.astype(dtype)
    result = evaluate(probabilities, labels).result()
    assert result.loss.mean == pytest.approx(exact_loss(probabilities, labels), rel=1e-14)
    assert result.loss.bits == pytest.approx(result.loss.mean / math.log(2), rel=1e-15)
    wrong = int((probabilities.argmax(axis=1) != labels).sum())
    assert (result.loss.rows, result.loss.correct) == (500, 500 - wrong)


def test_weights_are_repeated_rows_and_zero_is_no_row():
    probabilities, labels = softmax_rows(200, 4, seed=1)
    weights = np.random.default_rng(2).integers(0, 4, 200).astype(float)
    assert (weights == 0).any()
    probabilities[weights == 0] = np.nan  # an ignored row leaks nothing
    weighted = evaluate(probabilities, labels, weights).result()
    repeat = np.repeat(np.arange(200), weights.astype(int))
    repeated = evaluate(probabilities[repeat], labels[repeat]).result()
    kept = weights > 0
    assert weighted.loss.mean == pytest.approx(exact_loss(probabilities[kept], labels[kept], weights[kept]), rel=1e-14)
    assert weighted.loss.mean == pytest.approx(repeated.loss.mean, rel=1e-14)
    assert weighted.ignored == (weights == 0).sum()
    assert [b.loss for b in weighted.baselines] == pytest.approx([b.loss for b in repeated.baselines], rel=1e-14)
    assert [c.share for c in weighted.by_class] == pytest.approx([c.share for c in repeated.by_class], rel=1e-13)


def test_by_class_adds_up_and_agrees_with_each_class_alone():
    probabilities, labels = softmax_rows(300, 5, seed=3)
    labels[labels == 2] = 1  # a class that does not occur
    result = evaluate(probabilities, labels).result()
    for position, item in enumerate(result.by_class):
        rows = labels == position
        if position == 2:
            assert item.loss is None
            assert item.share is None
            continue
        assert item.loss.rows == rows.sum()
        assert item.loss.mean == pytest.approx(exact_loss(probabilities[rows], labels[rows]), rel=1e-13)
    assert math.fsum(item.share for item in result.by_class if item.share) == pytest.approx(1, abs=1e-14)


def test_baselines_and_skill():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]])
    labels = np.array([0, 0, 1, 2])
    uniform, prior = evaluate(probabilities, labels).result().baselines
    assert (uniform.name, prior.name) == ("uniform", "class prior")
    assert uniform.loss == pytest.approx(math.log(3), rel=1e-15)
    assert prior.loss == pytest.approx(1.5 * math.log(2), rel=1e-15)
    assert uniform.skill == pytest.approx(1 - math.log(2) / math.log(3), rel=1e-14)
    assert prior.skill == pytest.approx(1 / 3, rel=1e-14)


def test_one_class_that_occurs_has_no_prior_skill():
    result = evaluate(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 0])).result()
    assert result.baselines[1].loss == 0
    assert result.baselines[1].skill is None
    assert "none to measure against the label frequencies (class prior, 0 nats)" in " ".join(result.text().split())


def test_infinite_losses_are_counted_named_and_kept_apart():
    probabilities = np.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.0, 1.0]])
    result = evaluate(probabilities, np.array([0, 1, 1, 0]), ids=np.array(["a", "b", "c", "d"])).result()
    assert result.loss.mean == math.inf
    assert result.loss.infinite == 2
    assert result.loss.finite_mean == pytest.approx((math.log(2) - math.log(0.75)) / 2, rel=1e-15)
    assert [row.id for row in result.infinite_rows] == ["b", "d"]
    assert result.baselines[0].skill == -math.inf
    assert all(item.share is None for item in result.by_class)
    assert "2 rows gave the label the probability 0 (ids b, d)" in result.text()
    assert json.loads(result.to_json())["log_loss"]["nats"] == "inf"


def test_a_row_of_zeros_is_an_infinite_loss_and_one_of_impossible_logits_an_error():
    result = evaluate(np.array([[0.0, 0.0], [0.5, 0.5]]), np.array([1, 0])).result()
    assert result.loss.infinite == 1
    assert result.worst[0].prediction_probability == 0
    with pytest.raises(PredictionError, match=r"row 1 .*every logit is -inf"):
        evaluate(np.array([[0.0, 0.0], [-np.inf, -np.inf]]), np.array([1, 0]), inputs="logits")


def test_only_infinite_losses():
    result = evaluate(np.array([[1.0, 0.0]]), np.array([1])).result()
    assert result.loss.mean == math.inf
    assert result.loss.finite_mean is None


def test_worst_rows_are_the_wrong_ones_with_the_largest_loss():
    probabilities, labels = softmax_rows(400, 6, seed=4)
    ids = np.array([f"r{i}" for i in range(400)])
    result = evaluate(probabilities, labels, ids=ids, batch=37, worst=7).result()
    chosen = probabilities[np.arange(400), labels]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    expected = wrong[np.argsort(chosen[wrong])][:7]
    assert [row.row for row in result.worst] == expected.tolist()
    for row in result.worst:
        assert row.id == f"r{row.row}"
        assert row.label == labels[row.row]
        assert row.prediction == probabilities[row.row].argmax()
        assert row.label_probability == chosen[row.row]
        assert row.prediction_probability == probabilities[row.row].max()
        assert row.loss == pytest.approx(-math.log(chosen[row.row]), rel=1e-14)


def test_right_rows_are_never_confidently_wrong():
    result = evaluate(np.array([[0.4, 0.3, 0.3], [0.9, 0.05, 0.05]]), np.array([0, 0])).result()
    assert result.worst == ()
    assert "confidently wrong" not in result.text().lower()


def same_sums(one, other):
    """Compare two states or accumulators number by number, up to the rounding of sums."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        # sums of terms of both signs (the gaps) may cancel: what is left of them is compared in absolute terms
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    elif dataclasses.is_dataclass(one):
        for item in dataclasses.fields(one):
            same_sums(getattr(one, item.name), getattr(other, item.name))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same_sums(one[name], other[name])
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-12, abs=1e-12)
    else:
        assert one == other


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_merge_of_any_split_is_the_whole(data):
    rows, classes = data.draw(st.integers(0, 60)), data.draw(st.integers(2, 5))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    probabilities, labels = softmax_rows(rows, classes, seed=generator)
    probabilities[generator.random(rows) < 0.2, 0] = 0.0
    probabilities = np.round(probabilities, data.draw(st.sampled_from([2, 3, 20])))
    weights = data.draw(st.sampled_from([None, generator.integers(0, 3, rows).astype(float)]))
    groups, by = generator.integers(0, 9, rows), {"site": generator.integers(0, 3, rows)}
    more = {"worst": 4, "groups": groups, "by": by}
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    whole = evaluate(probabilities, labels, weights, **more)
    merged = Evaluation.empty(whole.classes, 4)
    for start, stop in zip([0, *cuts], [*cuts, rows], strict=True):
        part = slice(start, stop)
        part_weights = None if weights is None else weights[part]
        part_more = {"worst": 4, "groups": groups[part], "by": {"site": by["site"][part]}}
        batch = data.draw(st.integers(1, 20))
        merged = merged.merge(evaluate(probabilities[part], labels[part], part_weights, batch=batch, **part_more))
    assert (merged.rows, merged.ignored) == (whole.rows, whole.ignored)
    assert merged.worst == whole.worst
    assert merged.infinite_rows == whole.infinite_rows
    assert merged.row_sums == whole.row_sums
    for name in vars(whole.by_class):
        np.testing.assert_allclose(
            getattr(merged.by_class, name), getattr(whole.by_class, name), rtol=1e-12, atol=1e-300
        )


def test_state_survives_bytes():
    probabilities, labels = softmax_rows(50, 3, seed=20)
    probabilities[3] = [1, 0, 0]
    labels[3] = 1
    weights = np.random.default_rng(0).random(50)
    ids, groups, by = np.array([f"ä{i}" for i in range(50)]), np.arange(50) % 12, {"site": np.arange(50) % 2}
    state = evaluate(probabilities, labels, weights, ids=ids, groups=groups, by=by)
    restored = Evaluation.from_bytes(state.to_bytes())
    same_sums(restored, state)
    assert restored.result().to_json() == state.result().to_json()
    assert restored.merge(state).rows == 100
    empty = Evaluation.empty(["a", "b"])
    same_sums(Evaluation.from_bytes(empty.to_bytes()), empty)


def test_damaged_bytes_are_refused():
    data = Evaluation.empty(["a", "b"]).to_bytes()
    for damaged in (b"", b"something else", data[:-5], data[:40] + bytes([data[40] ^ 255]) + data[41:]):
        with pytest.raises(ValueError, match=r"not a saved evaluation|damaged"):
            Evaluation.from_bytes(damaged)


def numbers_in(state):
    if isinstance(state, np.ndarray):
        return state.size
    if dataclasses.is_dataclass(state):
        return sum(numbers_in(getattr(state, item.name)) for item in dataclasses.fields(state))
    return sum(
        map(numbers_in, state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ())
    )


def test_size_of_the_state_does_not_grow_with_the_rows():
    by = {"site": np.arange(20_000) % 3}
    few, many = (
        evaluate(*softmax_rows(rows, 4, seed=1), groups=np.arange(rows) % 50, by={"site": by["site"][:rows]})
        for rows in (500, 20_000)
    )
    assert numbers_in(few) == numbers_in(many)


def test_merge_refuses_other_classes():
    with pytest.raises(ValueError, match=r"different classes"):
        Evaluation.empty(["a", "b"]).merge(Evaluation.empty(["a", "c"]))


@pytest.mark.parametrize("state", [Evaluation.empty(["a", "b"]), "weightless"])
def test_nothing_to_evaluate(state):
    if state == "weightless":
        state = evaluate(np.array([[0.5, 0.5]]), np.array([0]), weights=np.array([0.0]))
    with pytest.raises(PredictionError, match=r"no rows|weight 0"):
        state.result()


# the stored precision, and what it explains ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "precision"),
    [
        (lambda p: p, "float64"),
        (lambda p: p.astype(np.float32), "float32"),
        (lambda p: p.astype(np.float32).astype(np.float64), "float32"),
        (lambda p: p.astype(np.float16).astype(np.float64), "float16"),
        (lambda p: (p.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32), "bfloat16"),
        (lambda p: np.round(p, 3), "3 decimals"),
        (lambda p: np.round(p, 3).astype(np.float32), "3 decimals"),
        (lambda p: np.array([[float(f"{x:.5g}") for x in row] for row in p]), "5 digits"),
        (lambda p: np.array([[float(str(x)) for x in row] for row in p.astype(np.float32)]), "float32"),
    ],
)
def test_row_sums_that_the_stored_precision_explains(store, precision):
    probabilities, labels = softmax_rows(300, 10, seed=5)
    sums = evaluate(store(probabilities), labels).result().row_sums
    assert sums.precision == precision
    assert sums.rows_beyond == 0


@pytest.mark.parametrize("certain", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_row_sums_of_small_numbers_are_judged_too(certain, dtype):
    probabilities = np.random.default_rng(0).random((50, 20)) * 0.04  # every number below 0.1, sums of 0.3 to 0.55
    probabilities[:certain] = np.eye(20)[:certain]  # 0 and 1 are evidence of no precision
    sums = evaluate(probabilities.astype(dtype), np.zeros(50, int), batch=7).result().row_sums
    assert sums.precision == np.dtype(dtype).name
    assert sums.rows_beyond == 50 - certain


@pytest.mark.parametrize("digits", [2, 4, 6])
def test_digits_explain_no_more_for_more_classes(digits):
    probabilities, labels = softmax_rows(40, 1000, seed=5)
    written = np.array([[float(f"{x:.{digits}g}") for x in row] for row in probabilities])
    sums = evaluate(written, labels).result().row_sums
    assert (sums.precision, sums.rows_beyond) == (f"{digits} digits", 0)
    assert sums.tolerance == pytest.approx(5 * 10.0**-digits, rel=1e-5)
    shrunk = np.array([[float(f"{x:.{digits}g}") for x in row] for row in probabilities * 0.9])
    assert evaluate(shrunk, labels).result().row_sums.rows_beyond == 40


def test_row_sums_beyond_the_precision_are_shown_and_not_renormalised():
    probabilities, labels = softmax_rows(50, 3, seed=6)
    probabilities[7] *= 0.99
    probabilities[9] *= 1 + 1e-9
    result = evaluate(np.minimum(probabilities, 1), labels).result()
    assert result.row_sums.rows_beyond == 2
    assert result.row_sums.lowest == pytest.approx(0.99)
    assert result.row_sums.highest == pytest.approx(1 + 1e-9)
    assert result.loss.mean == pytest.approx(exact_loss(probabilities, labels), rel=1e-14)
    assert "2 rows further from 1" in " ".join(result.text().split())


# the forms ---------------------------------------------------------------------------------------------------------


def test_json_holds_the_numbers_of_the_text(save, run, run_json):
    probabilities, labels = softmax_rows(120, 3, seed=7)
    path = save(as_columns(probabilities, labels, ["cat", "dog", "emu"], ids=[f"r{i}" for i in range(120)]))
    numbers, (status, text, _) = run_json("report", path), run("report", path)
    assert status == 0
    assert f"{numbers['log_loss']['nats']:#.6g} nats" in text
    assert f"{numbers['log_loss']['bits']:#.6g} bits" in text
    assert numbers["classes"] == ["cat", "dog", "emu"]
    assert "cat, dog, emu" in text
    for baseline in numbers["baselines"]:
        assert f"{baseline['nats']:#.6g} nats" in " ".join(text.split())
        assert f"{abs(100 * baseline['skill']):.1f} %" in text
    for item in numbers["by_class"]:
        row = next(line.split() for line in text.splitlines() if line.split()[:1] == [item["class"]])
        assert row[1] == str(item["rows"])
        assert row[2].rstrip("*") == f"{item['nats']:#.4g}"
        assert row[2].endswith("*") == item["differs"]
    for item in numbers["confidently_wrong"]:
        row = next(line.split() for line in text.splitlines() if line.split()[:1] == [item["id"]])
        assert row[1] == item["label"]
        assert row[3] == item["prediction"]
        assert row[-1].rstrip("?") == f"{item['nats']:#.4g}"
        assert row[-1].endswith("?") == item["suspected_label_error"]


def test_text_fits_80_columns_without_colour(save, run):
    probabilities, labels = softmax_rows(50, 30, seed=8)
    path = save(as_columns(probabilities, labels, [f"a rather long class name {i}" for i in range(30)]))
    status, text, _ = run("report", path)
    assert status == 0
    assert "\x1b" not in text
    lines = [line for line in text.splitlines() if str(path) not in line]
    assert max(map(len, lines)) <= 80
    assert "the 12 of 30 that cost most" in text


@pytest.mark.parametrize("width", [80, 60, 40, 30])
def test_narrow_terminals_keep_the_names_one_line_each(width):
    probabilities, labels = softmax_rows(60, 3)
    ids = np.array([f"images/of/2024/with-a-long-name-{i:06}" for i in range(60)])
    ids[3] = "x" * 500
    classes = ["cat", "a class with a longer name", "日本語の長い名前の分類です"]
    result = Evaluation.empty(classes, worst=60).update(Batch(probabilities, labels, ids=ids)).result()
    lines = result.text(width).splitlines()
    assert max(map(cell_len, lines)) <= width
    by_class = lines[lines.index(next(line for line in lines if line.startswith("Loss by class"))) + 2 :]
    assert by_class[0].split()[:2] == ["cat", str((labels == 0).sum())]
    for line, ending in zip(by_class[1:3], ("name", "です"), strict=True):
        assert line.split(" 1")[0].split(" 2")[0].rstrip().endswith(ending)
    wrong = [line.split() for line in lines if re.match(r"  (im|xx)", line)]
    assert len(wrong) == len(result.worst)  # one line each
    for cells, row in zip(wrong, result.worst, strict=True):
        assert cells[0].endswith(row.id[-3:])
        assert cells[1][0] == classes[row.label][0]
    if width < 80:
        assert "too narrow for: " in "\n".join(lines)


def test_a_name_is_shortened_in_its_middle():
    assert shortened("abcdefghijklmnop", 12) == "abc...klmnop"
    assert shortened("abcdef", 6) == "abcdef"
    assert cell_len(shortened("日本語の長い名前", 10)) == 10


def test_names_from_the_file_cannot_steer_the_terminal(save, run):
    hostile = "\x1b[1m[b]\n"
    columns = {"id": [hostile], "label": ["b"], "p_a": [0.9], "p_b": [0.1]}
    status, text, _ = run("report", save(columns))
    assert status == 0
    assert "\x1b" not in text
    assert "\r" not in text
    assert r"\x1b[1m[b]\n" in text


def test_report_prints_as_text(save):
    probabilities, labels = softmax_rows(20, 3)
    result = report(save(as_columns(probabilities, labels)))
    assert str(result) == result.text()
    assert "Log loss" in str(result)
