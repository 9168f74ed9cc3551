"""Two models on the same rows: paired differences, alignment, and the exit status for CI."""

import json
import math

import numpy as np
import pytest

from crossentropy.evaluation import PredictionError, compare

from .conftest import as_columns, softmax_rows

NAMES = ["cat", "dog", "emu"]


def two_models(rows=400, seed=0):
    first, labels = softmax_rows(rows, 3, seed)
    second = first**0.6
    return first, second / second.sum(axis=1, keepdims=True), labels


def losses(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels])


def test_difference_of_the_cifar_models(shared):
    found = compare(
        shared / "cifar10_predictions.npy",
        shared / "cifar10_wideresnet_predictions.npy",
        labels=shared / "cifar10_labels.npy",
    ).difference
    assert found.mean == pytest.approx(0.1290, abs=5e-5)
    assert found.spread.standard_error == pytest.approx(0.0135, abs=5e-5)
    low, high = found.interval
    assert low == pytest.approx(0.1290 - 1.96 * 0.0135, abs=1e-3)
    assert high == pytest.approx(0.1290 + 1.96 * 0.0135, abs=1e-3)


def test_numbers_by_hand():
    a, b, labels = two_models()
    d = losses(b, labels) - losses(a, labels)
    found = compare(a, b, labels=labels)
    assert found.difference.mean == pytest.approx(d.mean(), rel=1e-12)
    assert found.difference.spread.standard_error == pytest.approx(d.std(ddof=1) / 20, rel=1e-10)
    assert found.difference.win_rate == (d < 0).mean()
    assert found.difference.probability_ratio == pytest.approx(math.exp(-d.mean()), rel=1e-12)
    assert (found.loss_a, found.loss_b) == pytest.approx((losses(a, labels).mean(), losses(b, labels).mean()))
    for position, part in enumerate(found.by_class):
        assert part.difference.mean == pytest.approx(d[labels == position].mean(), rel=1e-10)
    assert [row.row for row in found.better] == np.argsort(d)[:5].tolist()
    assert [row.row for row in found.worse] == np.argsort(-d)[:5].tolist()
    assert found.worse[0].difference == pytest.approx(d.max(), rel=1e-12)


def test_a_model_against_itself_and_turned_round():
    a, b, labels = two_models()
    same = compare(a, a, labels=labels)
    assert (same.difference.mean, same.difference.win_rate, same.difference.ties) == (0, 0.5, 400)
    assert same.better == same.worse == ()
    assert not any(part.differs for part in same.by_class)
    there, back = compare(a, b, labels=labels).difference, compare(b, a, labels=labels).difference
    assert there.mean == -back.mean
    assert there.interval == pytest.approx([-end for end in reversed(back.interval)], rel=1e-9)


def test_rows_are_aligned_by_id(save):
    a, b, labels = two_models(60)
    ids = np.array([f"r{i}" for i in range(60)])
    names = np.array(NAMES)[labels]
    order = np.random.default_rng(1).permutation(60)[:50]
    first = save(as_columns(a, names, NAMES, ids), "a.parquet")
    # other order, fewer rows, classes in another order, one row that A does not have
    more = np.append(order, 0)
    shuffled = as_columns(b[more][:, [2, 0, 1]], names[more], ["emu", "cat", "dog"], [*ids[order], "other"])
    found = compare(first, save(shuffled, "b.csv"))
    d = (losses(b, labels) - losses(a, labels))[order]
    assert found.difference.mean == pytest.approx(d.mean(), rel=1e-12)
    assert (found.unmatched_a, found.unmatched_b, found.alignment) == (10, 1, "rows aligned by id")
    assert found.worse[0].id == ids[order[d.argmax()]]
    assert "10 rows of A and 1 row of B without a partner" in found.text()


def test_rows_that_are_not_the_same_are_refused(save):
    a, b, labels = two_models(20)
    ids = [f"r{i}" for i in range(20)]
    other = labels.copy()
    other[7] = (other[7] + 1) % 3
    plain = save(as_columns(a, labels, NAMES), "plain.parquet")
    with_ids = save(as_columns(a, labels, NAMES, ids), "ids.parquet")
    for columns, against, message in (
        (as_columns(b, other, NAMES), plain, r"row 7 .* has the label .*these are not the same rows \(1 of 20"),
        (as_columns(b, other, NAMES, ids), with_ids, r"row 7 .*id 'r7' has the label"),
        (as_columns(b[:9], labels[:9], NAMES), plain, r"has 20 rows and .* 9, and no id aligns them"),
        (as_columns(b, labels, NAMES, ["x", "x", *ids[2:]]), with_ids, r"the id 'x' occurs more than once"),
        (as_columns(b, labels, NAMES, [f"other{i}" for i in range(20)]), with_ids, r"have no id in common"),
        (as_columns(b, labels, ["cat", "dog", "yak"]), plain, r"have different classes, for example"),
    ):
        with pytest.raises(PredictionError, match=message):
            compare(against, save(columns, "b.parquet"))


def test_classes_without_names_go_by_position(save):
    a, b, labels = two_models(30)
    found = compare(save(as_columns(a, labels, NAMES)), b, options_b={"labels": labels})
    assert found.difference.mean == pytest.approx((losses(b, labels) - losses(a, labels)).mean(), rel=1e-12)


def test_infinite_losses_are_counted_by_side():
    a = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
    b = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0], [1.0, 0.0]])
    labels = np.array([1, 1, 1, 1])
    found = compare(a, b, labels=labels)
    difference = found.difference
    assert (difference.infinite_a, difference.infinite_b, difference.infinite_both) == (1, 1, 1)
    assert math.isnan(difference.mean)
    assert difference.finite_mean == pytest.approx(math.log(0.5) - math.log(0.75))
    assert "undefined" in found.text()
    assert json.loads(found.to_json())["difference"]["nats"] is None
    assert compare(a[:2], b[:2], labels=labels[:2]).difference.mean == -math.inf
    assert json.loads(compare(b[:2], a[:2], labels=labels[:2]).to_json())["difference"]["nats"] == "inf"


def test_clusters_slices_and_weights_are_those_of_a(save):
    a, b, labels = two_models(200)
    site, user = np.arange(200) % 2, np.arange(200) // 4
    weight = np.random.default_rng(2).random(200)
    extra = {"site": site, "user": user, "weight": weight}
    found = compare(
        save({**as_columns(a, labels), **extra}, "a.parquet"), save(as_columns(b, labels), "b.parquet"),
        group="user", by=["site"],
    )  # fmt: skip
    d = losses(b, labels) - losses(a, labels)
    mean = np.average(d, weights=weight)
    assert found.difference.mean == pytest.approx(mean, rel=1e-12)
    sums = np.bincount(user, weight * (d - mean))
    assert found.clusters == 50
    error = math.sqrt((sums**2).sum() * 50 / 49) / weight.sum()
    assert found.difference.spread.standard_error == pytest.approx(error, rel=1e-10)
    for part in found.slices["site"]:
        rows = site == int(part.name)
        assert part.difference.mean == pytest.approx(np.average(d[rows], weights=weight[rows]), rel=1e-10)


def test_marks_of_parts_without_a_difference_are_rare():
    marked = 0
    for seed in range(40):
        a, b, labels = two_models(600, seed)
        swap = np.random.default_rng(seed).random(600) < 0.5
        first, second = np.where(swap[:, None], a, b), np.where(swap[:, None], b, a)
        marked += any(part.differs for part in compare(first, second, labels=labels).by_class)
    assert marked <= 6  # 5 % of 40 is 2


def test_exit_status_for_ci(run, tmp_path):
    a, b, labels = two_models()
    for name, values in (("a", a), ("b", b), ("y", labels)):
        np.save(tmp_path / f"{name}.npy", values)
    call = ("compare", tmp_path / "a.npy", tmp_path / "b.npy", "--labels", tmp_path / "y.npy")
    difference = compare(a, b, labels=labels).difference.mean
    assert difference > 0
    status, text, _ = run(*call)
    assert status == 0
    assert f"+{difference:#.6g} nats per row" in text
    assert run(*call, "--fail-if-worse-than", difference * 1.01)[0] == 0
    assert run(*call, "--fail-if-worse-than", difference * 0.99)[0] == 3
    status, out, _ = run(*call, "--json", "--fail-if-worse-than", 0)
    assert status == 3
    assert json.loads(out)["difference"]["nats"] == difference
    assert run(*call, "--labels-b", tmp_path / "absent.npy")[0] == 1


def test_forms():
    a, b, labels = two_models(100)
    found = compare(a, b, labels=labels)
    table = found.to_arrow()
    assert table.column_names[:2] == ["by", "value"]
    assert table["nats"].to_pylist() == [part.difference.mean for part in found.by_class]
    assert found._repr_html_().startswith("<pre>A array")
    assert max(map(len, found.text().splitlines())) <= 80


def test_baseline_file_in_the_report(save, run_json, run):
    a, b, labels = two_models(50)
    ids = [f"r{i}" for i in range(50)]
    first = save(as_columns(a, labels, NAMES, ids), "a.parquet")
    other = save(as_columns(b[::-1], labels[::-1], NAMES, ids[::-1]), "b.parquet")
    found = run_json("report", first, "--baseline", other)["baselines"][2]
    assert found["name"] == str(other)
    assert found["nats"] == pytest.approx(losses(b, labels).mean(), rel=1e-12)
    assert found["skill"] == pytest.approx(1 - losses(a, labels).mean() / losses(b, labels).mean(), rel=1e-10)
    few = save(as_columns(b[:40], labels[:40], NAMES, ids[:40]), "few.parquet")
    status, _, err = run("report", first, "--baseline", few)
    assert status == 1
    assert "10 rows of" in err


def test_clusters_widen_the_intervals_of_the_parts_too(save):
    a, b, labels = two_models()
    ten = {name: np.repeat(values, 10, axis=0) for name, values in {"a": a, "b": b, "labels": labels}.items()}
    first, second = (
        save(as_columns(ten[name], ten["labels"], NAMES) | {"user": np.repeat(np.arange(400), 10)}, f"{name}.csv")
        for name in "ab"
    )
    alone, copies = compare(a, b, labels=labels), compare(first, second, group="user")
    by_row = compare(first, second)
    for one, ten_times, rows in zip(alone.by_class, copies.by_class, by_row.by_class, strict=True):
        error = one.difference.spread.standard_error  # ten copies of a row say no more than the row
        assert ten_times.difference.spread.standard_error == pytest.approx(error, rel=0.02)
        assert rows.difference.spread.standard_error == pytest.approx(error / 10**0.5, rel=0.02)
