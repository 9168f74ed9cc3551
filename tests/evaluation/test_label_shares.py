"""Labels that say something of every class: soft labels, and several labels per row."""

import json

import numpy as np
import pytest

from crossentropy.evaluation import Batch, Evaluation, PredictionError, compare, read_predictions, report, rows
from crossentropy.evaluation.cli import main

pd = pytest.importorskip("pandas")

CLASSES = ("cat", "dog", "emu")


@pytest.fixture
def generator():
    return np.random.default_rng(5)


@pytest.fixture
def soft(generator):
    """300 rows: probabilities, soft labels near them, and both as a table."""
    probabilities, labels = generator.dirichlet([1.0] * 3, 300), generator.dirichlet([2.0] * 3, 300)
    labels = 0.6 * probabilities + 0.4 * labels
    return probabilities, labels, table(probabilities, labels)


@pytest.fixture
def several(generator):
    """300 rows: a probability for each class by itself, 0 or 1 for each class, and both as a table."""
    probabilities = generator.uniform(0.02, 0.98, (300, 3))
    present = (generator.random((300, 3)) < probabilities).astype(int)
    return probabilities, present, table(probabilities, present)


def table(probabilities, labels, order=CLASSES):
    columns = {"id": [f"r{i}" for i in range(len(labels))]}
    columns |= {f"label_{name}": labels[:, CLASSES.index(name)] for name in order}
    return pd.DataFrame(columns | {f"p_{name}": probabilities[:, i] for i, name in enumerate(CLASSES)})


def test_soft_labels_are_the_mean_of_what_each_class_costs(soft):
    probabilities, labels, frame = soft
    result = report(frame)
    loss = -(labels * np.log(probabilities)).sum(axis=1)
    assert result.loss.mean == pytest.approx(loss.mean(), rel=1e-14)
    assert result.label_entropy == pytest.approx(-(labels * np.log(labels)).sum(axis=1).mean(), rel=1e-12)
    prior = labels.mean(axis=0)
    assert result.baselines[0].loss == pytest.approx(np.log(3))
    assert result.baselines[1].loss == pytest.approx(-(prior * np.log(prior)).sum(), rel=1e-12)
    assert [part.loss.rows for part in result.by_class] == np.bincount(labels.argmax(axis=1)).tolist()
    entropy = -(probabilities * np.log(probabilities)).sum(axis=1)
    assert result.calibration.gap == pytest.approx((loss - entropy).mean(), rel=1e-10)
    assert result.calibration.z == pytest.approx((loss - entropy).sum() / np.sqrt(((loss - entropy) ** 2).sum()))
    assert "no prediction can" in result.text()
    assert "soft labels from 'label_cat' to 'label_emu'" in result.text()
    assert json.loads(result.to_json())["label_entropy_nats"] == pytest.approx(result.label_entropy)
    assert result.suspected_label_errors == 0


def test_the_best_temperature_of_soft_labels_brings_them_back(soft):
    _, labels, _ = soft
    sharp = labels**1.8 / (labels**1.8).sum(axis=1, keepdims=True)
    found = report(sharp, labels=labels)
    assert found.calibration.temperature == pytest.approx(1.8, rel=1e-3)
    assert found.calibration.fitted_loss == pytest.approx(found.label_entropy, rel=1e-5)
    assert found.calibration.direction == "over-confident"


def test_soft_labels_that_are_certain_are_the_labels(soft):
    probabilities, labels, _ = soft
    hard = labels.argmax(axis=1)
    ours, theirs = report(probabilities, labels=np.eye(3)[hard]), report(probabilities, labels=hard)
    assert ours.loss.mean == pytest.approx(theirs.loss.mean, rel=1e-14)
    assert ours.loss.interval == pytest.approx(theirs.loss.interval, rel=1e-12)
    assert ours.label_entropy == 0
    assert ours.calibration.temperature == pytest.approx(theirs.calibration.temperature, rel=1e-9)
    assert ours.baselines[1].loss == pytest.approx(theirs.baselines[1].loss, rel=1e-12)


def test_every_way_to_give_soft_labels(soft):
    probabilities, labels, frame = soft
    expected = report(frame).loss.mean
    turned = table(probabilities, labels, order=("emu", "cat", "dog"))  # matched by name, not by place
    assert report(turned).loss.mean == expected
    lists = pd.DataFrame({"label": labels.tolist(), "probs": probabilities.tolist()})
    named = frame.rename(columns=lambda name: name.replace("label", "rater"))
    for found in (
        report(lists),
        report(named, label="rater_*"),
        report(named, label=[f"rater_{name}" for name in CLASSES]),
        report(np.log(probabilities), labels=labels, inputs="log_probs"),
        report(np.log(probabilities), labels=labels, inputs="logits"),
    ):
        assert found.loss.mean == pytest.approx(expected, rel=1e-13)


def test_two_soft_classes_have_corp_parts_without_a_value_by_chance(generator):
    p = generator.uniform(0.1, 0.9, (200, 1))
    result = report(np.hstack([1 - p, p]), labels=np.hstack([1 - p, p]))
    assert result.corp.miscalibration == pytest.approx(0, abs=1e-12)
    assert result.corp.null_miscalibration is None


def test_soft_states_merge(soft):
    probabilities, labels, _ = soft
    empty = Evaluation.empty(CLASSES)
    whole = empty.update(Batch(probabilities, labels)).result()
    parts = [empty.update(Batch(probabilities[rows], labels[rows])) for rows in (slice(0, 90), slice(90, None))]
    merged = Evaluation.from_bytes(parts[0].merge(parts[1]).to_bytes()).result()
    assert merged.loss.mean == pytest.approx(whole.loss.mean, rel=1e-14)
    assert merged.label_entropy == pytest.approx(whole.label_entropy, rel=1e-14)
    assert merged.baselines[1].loss == pytest.approx(whole.baselines[1].loss, rel=1e-14)


def test_rows_and_compare_take_soft_labels(soft):
    probabilities, labels, frame = soft
    found = rows(frame, worst=3)
    loss = -(labels * np.log(probabilities)).sum(axis=1)
    np.testing.assert_allclose(found["loss"].to_numpy(), np.sort(loss)[::-1][:3], rtol=1e-14)
    better = compare(frame, table(labels, labels))
    assert better.difference.mean == pytest.approx((-(labels * np.log(labels)).sum(axis=1) - loss).mean(), rel=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.assign(label_cat=f.label_cat + 0.5),
            r"row 0 .*the labels add up to 1\.5, not to 1.*--multi-label",
        ),
        (lambda f: f.assign(label_cat=-f.label_cat), "is no share of a soft label"),
        (lambda f: f.assign(label_cat=f.label_cat.where(f.index != 7)), "row 7 .*'label_cat' is"),
        (lambda f: f.rename(columns={"label_cat": "label_cow"}), "label columns are of the classes"),
        (lambda f: f.drop(columns="label_cat"), "label columns are of the classes"),
        (lambda f: f.assign(label_cat="x", label="x"), "'x' is no class"),
    ],
)
def test_soft_labels_that_are_none(soft, change, message):
    with pytest.raises(PredictionError, match=message):
        report(change(soft[2]))


def test_a_row_of_weight_0_may_have_any_soft_label(soft):
    frame = soft[2]
    rest = report(frame.iloc[1:])
    frame = frame.assign(weight=1.0)
    frame.loc[0, ["weight", "label_cat"]] = 0.0, np.nan
    assert report(frame).loss.mean == pytest.approx(rest.loss.mean, rel=1e-14)


def test_several_labels_per_row_are_one_prediction_each(several):
    probabilities, present, frame = several
    result = report(frame, multi_label=True)
    loss = -np.where(present, np.log(probabilities), np.log1p(-probabilities))
    assert result.loss.mean == pytest.approx(loss.mean(), rel=1e-14)
    assert (result.loss.rows, result.loss.clusters, result.classes) == (900, 300, ("absent", "present"))
    per_row = loss.sum(axis=1) - 3 * loss.mean()  # the rows are the independent units
    assert result.loss.spread.standard_error == pytest.approx(np.sqrt((per_row**2).sum() / 299 * 300) / 900, rel=1e-9)
    assert [part.name for part in result.slices["label"]] == list(CLASSES)
    means = [part.loss.mean for part in result.slices["label"]]
    np.testing.assert_allclose(means, loss.mean(axis=0), rtol=1e-13)
    worst = np.unravel_index(loss.argmax(), loss.shape)
    assert result.worst[0].id == f"r{worst[0]}: {CLASSES[worst[1]]}"
    assert "one for each class: 'cat', 'dog', 'emu'" in result.text()


def test_every_way_to_give_several_labels(several):
    probabilities, present, frame = several
    expected = report(frame, multi_label=True).loss.mean
    lists = pd.DataFrame({"label": present.tolist(), "probs": probabilities.tolist()})
    logits = np.log(probabilities) - np.log1p(-probabilities)
    for found in (
        report(lists, multi_label=True),
        report(frame.astype({f"label_{name}": bool for name in CLASSES}), multi_label=True),
        report(probabilities, labels=present, multi_label=True),
        report(logits, labels=present, multi_label=True, inputs="logits"),
        report(np.log(probabilities), labels=present, multi_label=True, inputs="log_probs"),
    ):
        assert found.loss.mean == pytest.approx(expected, rel=1e-13)


def test_rows_and_compare_take_several_labels(several):
    probabilities, present, frame = several
    found = rows(frame, multi_label=True, worst=1)
    loss = -np.where(present, np.log(probabilities), np.log1p(-probabilities))
    assert found["loss"][0].as_py() == pytest.approx(loss.max())
    blurred = table(probabilities / 2 + 0.25, present)
    difference = compare(frame, blurred, multi_label=True)
    theirs = -np.where(present, np.log(probabilities / 2 + 0.25), np.log1p(-(probabilities / 2 + 0.25)))
    assert difference.difference.mean == pytest.approx((theirs - loss).mean(), rel=1e-10)
    assert [part.name for part in difference.slices["label"]] == list(CLASSES)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda f: f.assign(label_dog=2), {}, r"row 0 .*id 'r0': the label of class 'dog' is 2; 0 or 1"),
        (lambda f: f.assign(p_dog=1.5), {}, r"row 0 .*1\.5 in column 'p_dog' is not a probability"),
        (lambda f: f.assign(label="cat"), {"label": "label"}, "'label' holds one label per row"),
        (lambda f: f[["label_cat", "label_dog", "p_cat"]], {}, "several classes, not 'p_cat' alone"),
    ],
)
def test_several_labels_that_are_none(several, change, options, message):
    with pytest.raises(PredictionError, match=message):
        report(change(several[2]), multi_label=True, **options)
    with pytest.raises(PredictionError, match=r"shape \(300, 3\), 0 or 1"):
        report(several[0], labels=several[1][:, 0], multi_label=True)


def test_the_command_line_takes_both(soft, several, tmp_path, capsys):
    soft[2].to_parquet(tmp_path / "soft.parquet")
    several[2].to_csv(tmp_path / "several.csv", index=False)
    assert main(["report", str(tmp_path / "soft.parquet"), "--label", "label_*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log_loss"]["nats"] == pytest.approx(report(soft[2]).loss.mean)
    assert main(["report", str(tmp_path / "several.csv"), "--multi-label", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["log_loss"]["nats"] == pytest.approx(report(several[2], multi_label=True).loss.mean)
    assert main(["rows", str(tmp_path / "several.csv"), "--multi-label", "--worst", "2"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert main(["report", str(tmp_path / "several.csv")]) == 1
    assert "--multi-label" in capsys.readouterr().err


def test_the_class_prior_of_several_labels_is_each_labels_own(generator):
    share = np.array([0.1, 0.5, 0.9])
    probabilities = np.tile(share, (400, 1))
    present = (generator.random((400, 3)) < share).astype(int)
    weight = np.where(np.arange(400) % 3, 2.0, 0.0)
    frame = table(probabilities, present).assign(weight=weight)
    f = np.average(present, axis=0, weights=weight)
    expected = -(f * np.log(f) + (1 - f) * np.log1p(-f)).mean()
    whole = report(frame, multi_label=True)
    assert whole.baselines[1].name == "class prior"
    assert whole.baselines[1].loss == pytest.approx(expected, rel=1e-13)
    assert abs(whole.baselines[1].skill) < 0.02  # the predictions are the true frequencies

    def state(part):
        found = Evaluation.empty(("absent", "present"))
        for batch in read_predictions(part, multi_label=True):
            found = found.update(batch)
        return found

    parts = state(frame[:150]).merge(Evaluation.from_bytes(state(frame[150:]).to_bytes()))
    assert parts.result().baselines[1].loss == pytest.approx(expected, rel=1e-13)
    with pytest.raises(ValueError, match="answers to different questions"):
        parts.merge(state(frame.rename(columns={"p_emu": "p_owl", "label_emu": "label_owl"})))


def test_the_prior_of_a_label_that_every_row_has_is_certain(several):
    present = several[1].copy()
    present[:, 1] = 1
    f = present.mean(axis=0)[[0, 2]]
    expected = -(f * np.log(f) + (1 - f) * np.log1p(-f)).sum() / 3
    found = report(table(several[0], present), multi_label=True)
    assert found.baselines[1].loss == pytest.approx(expected, rel=1e-13)
