"""The fit of a scaler against mpmath, its worth against fits by hand, and every case without a fit."""

import json
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossentropy.evaluation import Batch, PredictionError, Scaler, apply_scaler, calibrate, report
from crossentropy.evaluation.scaler_fit import fit_values
from crossentropy.evaluation.temperature_sums import FOLDS, folds

from .conftest import as_columns, pa, softmax_rows


def sharpened(probabilities, power):
    p = probabilities**power
    return p / p.sum(axis=1, keepdims=True)


def mean_loss(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean()


def mean_gap(probabilities, labels):
    return mean_loss(probabilities, labels) + (probabilities * np.log(probabilities)).sum(axis=1).mean()


def exact_slope(probabilities, labels):
    """The root of mean loss - mean entropy over the slope, with 40 digits."""
    with mpmath.workdps(40):
        logits = [[mpmath.log(mpmath.mpf(float(p))) for p in row] for row in probabilities]

        def derivative(slope):
            total = mpmath.mpf(0)
            for row, label in zip(logits, labels, strict=True):
                weights = [mpmath.exp(slope * z) for z in row]
                mean = sum(w * z for w, z in zip(weights, row, strict=True)) / sum(weights)
                total += mean - row[label]
            return total

        return mpmath.findroot(derivative, (0.3, 1.5), solver="anderson", tol=1e-30)


# the fit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("power", "classes"), [(2.5, 4), (0.4, 3), (1.0, 2)])
def test_temperature_is_the_exact_root(power, classes):
    probabilities, labels = softmax_rows(60, classes, seed=3)
    probabilities = sharpened(probabilities, power)
    fit = calibrate(probabilities, labels=labels)
    assert fit.scaler.slope == pytest.approx(float(exact_slope(probabilities, labels)), rel=1e-12)


def test_affine_is_the_exact_root():
    probabilities, labels = softmax_rows(80, 2, seed=4)
    probabilities = sharpened(probabilities, 2.0)
    fit = calibrate(probabilities, labels=labels, method="affine")
    with mpmath.workdps(40):
        d = [mpmath.log(mpmath.mpf(float(p[1]))) - mpmath.log(mpmath.mpf(float(p[0]))) for p in probabilities]

        def gradient(slope, intercept):
            errors = [1 / (1 + mpmath.exp(-slope * x - intercept)) - int(t) for x, t in zip(d, labels, strict=True)]
            return sum(e * x for e, x in zip(errors, d, strict=True)), sum(errors)

        slope, intercept = mpmath.findroot(gradient, (0.5, 0.0), tol=1e-50)
    assert fit.scaler.slope == pytest.approx(float(slope), rel=1e-11)
    assert fit.scaler.intercept == pytest.approx(float(intercept), rel=1e-11)


@pytest.mark.parametrize("inputs", ["probs", "log_probs", "logits"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_after_the_fit_the_mean_loss_is_the_mean_entropy(inputs, dtype):
    probabilities, labels = softmax_rows(500, 5, seed=5)
    values = sharpened(probabilities, 3.0).astype(dtype)
    with np.errstate(divide="ignore"):
        values = values if inputs == "probs" else np.minimum(np.log(values), 0) + (7 if inputs == "logits" else 0)
    fit = calibrate(values, labels=labels, inputs=inputs)
    after = report(fit.scaler.apply(values, inputs), labels=labels, inputs=inputs)
    assert abs(after.calibration.gap) < 1e-9
    assert abs(fit.found.remaining_gap) < 1e-12
    assert after.calibration.temperature == pytest.approx(1, abs=1e-6)


def test_one_slope_for_every_kind_of_input():
    probabilities, labels = softmax_rows(200, 3, seed=6)
    slopes = [
        calibrate(values, labels=labels, inputs=inputs).scaler.slope
        for inputs, values in (
            ("probs", probabilities),
            ("log_probs", np.log(probabilities)),
            ("logits", np.log(probabilities) * 1.0 - 3),
        )
    ]
    assert slopes == pytest.approx([slopes[0]] * 3, rel=1e-12)


def test_batches_and_weights_change_nothing():
    probabilities, labels = softmax_rows(300, 3, seed=7)
    twice = np.repeat(np.arange(300), np.arange(300) % 3)

    def batches(size):
        weights = (np.arange(300) % 3).astype(float)
        return [
            Batch(probabilities[i : i + size], labels[i : i + size], weights=weights[i : i + size], first_row=i)
            for i in range(0, 300, size)
        ]

    whole = fit_values(lambda: batches(300), "abc")
    parts = fit_values(lambda: batches(7), "abc")
    repeated = fit_values(lambda: [Batch(probabilities[twice], labels[twice])], "abc")
    for other in (parts, repeated):
        for name in ("slope", "loss", "fitted_loss", "gap"):
            assert getattr(other, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    assert whole.rows == 200
    assert repeated.rows == 300


def test_the_gain_is_measured_on_rows_that_the_fit_has_not_seen():
    probabilities, labels = softmax_rows(400, 3, seed=8)
    probabilities = sharpened(probabilities, 2.0)
    fit = calibrate(probabilities, labels=labels)
    fold = folds(probabilities)
    held_out = np.empty(400)
    for k in range(FOLDS):
        rest = fold != k
        slope = float(exact_slope(probabilities[rest], labels[rest]))
        scaled = sharpened(probabilities[~rest], slope)
        held_out[~rest] = -np.log(scaled[np.arange(len(scaled)), labels[~rest]])
    before = -np.log(probabilities[np.arange(400), labels])
    assert fit.found.fitted_loss == pytest.approx(held_out.mean(), rel=1e-11)
    assert fit.gain == pytest.approx((before - held_out).mean(), rel=1e-10)
    error = (before - held_out).std(ddof=1) / 20
    assert fit.found.gain.standard_error == pytest.approx(error, rel=1e-10)
    in_sample = mean_loss(probabilities, labels) - mean_loss(fit.scaler.apply(probabilities), labels)
    assert fit.gain < in_sample  # what is never shown as a gain
    assert f"{in_sample:.4g}" not in str(fit)
    numbers = [value for value in fit.to_dict().values() if isinstance(value, float)]
    assert all(value != pytest.approx(in_sample, rel=1e-6) for value in numbers)


def test_clusters_are_fitted_or_held_out_together(save):
    probabilities, labels = softmax_rows(40, 3, seed=9)
    rows = np.repeat(np.arange(40), 10)  # every row ten times: ten rows of one patient
    columns = as_columns(sharpened(probabilities[rows] + 1e-9 * rows[:, None], 2.0), labels[rows])
    path = save(columns | {"patient": [f"p{row}" for row in rows]})
    by_patient, by_row = calibrate(path, group="patient"), calibrate(path)
    assert by_patient.found.clusters == 40
    assert by_patient.found.gain.standard_error > 2 * by_row.found.gain.standard_error
    assert by_patient.scaler.slope == pytest.approx(by_row.scaler.slope, rel=1e-12)


def test_rows_that_no_scaling_can_help_are_counted():
    probabilities, labels = softmax_rows(200, 3, seed=10)
    impossible = probabilities.copy()
    impossible[:5] = np.eye(3)[(labels[:5] + 1) % 3]
    fit = calibrate(impossible, labels=labels)
    assert fit.found.infinite == 5
    assert fit.found.rows == 195
    assert fit.scaler.slope == pytest.approx(calibrate(probabilities[5:], labels=labels[5:]).scaler.slope, rel=1e-12)
    assert "5 rows with an infinite loss left out" in fit.text(width=120)


def test_cifar_model_b(shared):
    labels = np.load(shared / "cifar10_labels.npy")
    values = np.load(shared / "cifar10_wideresnet_predictions.npy")
    fit = calibrate(shared / "cifar10_wideresnet_predictions.npy", labels=shared / "cifar10_labels.npy")
    assert fit.scaler.temperature == pytest.approx(2.053, abs=5e-4)
    assert fit.found.loss == pytest.approx(0.3781700, abs=1e-6)
    assert fit.found.fitted_loss == pytest.approx(0.27469, abs=1e-5)
    found = report(shared / "cifar10_wideresnet_predictions.npy", labels=shared / "cifar10_labels.npy").calibration
    assert fit.found.fitted_loss == pytest.approx(found.fitted_loss, abs=1e-6)  # the report says what a fit is worth
    assert abs(report(fit.scaler.apply(values), labels=labels).calibration.gap) < 1e-9
    # held-out halves: fitted on one half of the rows, judged on the other
    measured = []
    for own in (slice(0, 5000), slice(5000, None)):
        other = slice(5000, None) if own.stop else slice(0, 5000)
        scaler = calibrate(values[own], labels=labels[own]).scaler
        before, after = (
            report(x, labels=labels[other]).loss.mean for x in (values[other], scaler.apply(values[other]))
        )
        measured += [scaler.temperature, before, after]
    # temperatures by scipy's brentq on the derivative, and the losses at them
    assert measured == pytest.approx([2.0592242, 0.3737087, 0.2704220, 2.0460399, 0.3826304, 0.2785660], abs=1e-6)


def soft(labels, classes, share=0.8):
    """Soft labels: most of each on its class, the rest on the next one."""
    return share * np.eye(classes)[labels] + (1 - share) * np.eye(classes)[(labels + 1) % classes]


@pytest.mark.parametrize(("classes", "method"), [(4, "temperature"), (2, "temperature"), (2, "affine")])
def test_soft_labels_are_rows_split_by_their_shares(classes, method):
    probabilities, labels = softmax_rows(300, classes, seed=17)
    probabilities = sharpened(probabilities, 2.5)
    targets = soft(labels, classes)
    found = fit_values(lambda: [Batch(probabilities, targets)], "abcd"[:classes], method)
    split = [
        Batch(
            np.repeat(probabilities, 2, axis=0),
            np.stack([labels, (labels + 1) % classes], 1).ravel(),
            weights=np.tile([0.8, 0.2], 300),
        )
    ]
    expected = fit_values(lambda: split, "abcd"[:classes], method)
    assert found.slope == pytest.approx(expected.slope, rel=1e-11)
    assert found.intercept == pytest.approx(expected.intercept, rel=1e-10)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found.fitted_loss == pytest.approx(expected.fitted_loss, rel=1e-10)
    scaler = Scaler(found.slope, found.intercept, method)
    after = report(scaler.apply(probabilities), labels=targets)
    assert abs(after.calibration.gap) < 1e-9


def test_several_labels_per_row(save, tmp_path):
    generator = np.random.default_rng(18)
    logits = generator.normal(scale=2, size=(400, 3))
    present = (generator.random((400, 3)) < 1 / (1 + np.exp(-logits))).astype(int)
    p = 1 / (1 + np.exp(-2 * logits))
    columns = {f"p_{c}": p[:, i] for i, c in enumerate("abc")} | {
        f"label_{c}": present[:, i] for i, c in enumerate("abc")
    }
    path, out = save(columns), tmp_path / "out.parquet"
    reading = {"label": "label_*", "multi_label": True}
    fit = calibrate(path, **reading)
    assert fit.scaler.temperature == pytest.approx(2, rel=0.1)
    assert fit.found.clusters == 400
    assert apply_scaler(fit.scaler, path, out, multi_label=True) == 400
    after = report(out, **reading)
    assert abs(after.calibration.gap) < 1e-9
    read = pa.parquet.read_table(out)
    np.testing.assert_allclose(read["p_b"], 1 / (1 + np.exp(-2 * logits[:, 1] * fit.scaler.slope)), rtol=1e-12)
    with pytest.raises(PredictionError, match="fitted for other classes"):
        apply_scaler(fit.scaler, path, tmp_path / "other.parquet")
    np.save(tmp_path / "p.npy", p)
    apply_scaler(fit.scaler, tmp_path / "p.npy", tmp_path / "q.npy", multi_label=True)
    np.testing.assert_allclose(np.load(tmp_path / "q.npy")[:, 1], read["p_b"], rtol=1e-12)


# nothing to fit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "labels", "method", "words"),
    [
        ([[0.9, 0.1], [0.2, 0.8]], [0, 1], "temperature", "every row is right"),
        ([[0.9, 0.1], [0.2, 0.8]], [1, 0], "temperature", "go against the predictions"),
        ([[0.5, 0.5], [0.5, 0.5]], [1, 0], "temperature", "the same probability to all its classes"),
        ([[1.0, 0.0], [0.0, 1.0]], [0, 1], "temperature", "or all of it to one"),
        ([[1.0, 0.0], [1.0, 0.0]], [1, 1], "temperature", "no row with a finite loss"),
        ([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [0, 0, 1], "affine", "separable"),
        ([[0.6, 0.4], [0.6, 0.4], [0.2, 0.8], [0.9, 0.1]], [0, 1, 1, 0], "affine", "separable"),
        ([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [1, 1, 0], "affine", "go against the predictions"),
        ([[0.9, 0.1], [0.2, 0.8]], [1, 1], "affine", "every label is '1'"),
        ([[0.7, 0.3], [0.7, 0.3]], [0, 1], "affine", "the same probabilities"),
        ([[1.0, 0.0], [0.0, 1.0]], [0, 1], "affine", "is 0 or 1"),
        ([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]], [0, 1], "affine", "needs two classes"),
    ],
)
def test_where_there_is_nothing_to_fit_it_says_why(rows, labels, method, words):
    with pytest.raises(PredictionError, match=words):
        calibrate(np.array(rows), labels=labels, method=method)


def test_one_class_is_said_beside_the_temperature():
    fit = calibrate(np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), labels=[0, 0, 0])
    assert "every label is 0" in str(fit)


def test_a_gain_that_cannot_be_measured_is_not_claimed():
    fit = calibrate(np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]), labels=[0, 0, 1, 1])
    assert fit.gain is None
    assert fit.found.fitted_loss is None
    assert "not known" in str(fit)
    assert json.loads(fit.to_json())["not_cross_fitted_because"]


def test_a_calibrated_model_gains_nothing_and_is_told_so():
    probabilities, labels = softmax_rows(4000, 3, seed=12)
    fit = calibrate(probabilities, labels=labels)
    low, high = fit.gain_interval
    assert low < 0 < high
    assert "no more than chance explains" in fit.text(width=120)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1.0, 30.0, 1e4]), st.sampled_from([2, 3]), st.booleans())
def test_a_fit_ends_at_the_root_or_says_why_not(seed, spread, classes, masked):
    generator = np.random.default_rng(seed)
    logits = generator.standard_t(2, size=(30, classes)) * spread
    if masked:
        logits[generator.random(logits.shape) < 0.1] = -np.inf
        logits[np.arange(30), generator.integers(classes, size=30)] = 0.0
    labels = generator.integers(classes, size=30)
    methods = ("temperature", "affine") if classes == 2 else ("temperature",)
    for method in methods:
        found, why = None, ""
        try:
            found = fit_values(lambda: [Batch(logits, labels, "logits")], "abc"[:classes], method)
        except PredictionError as error:
            why = str(error)
        if found is None:
            assert "can be fitted" in why
        else:
            scale = 1 + np.abs(np.where(np.isfinite(logits), logits, 0)).max() * found.slope
            assert abs(found.remaining_gap) < 1e-11 * scale


# the scaler --------------------------------------------------------------------------------------------------------


def test_a_saved_scaler_is_the_same_scaler(tmp_path):
    scaler = Scaler(1 / 3, 0.1 + 0.2, "affine", ("<script>", 'שלום\n"'), {"source": "x", "sha256": None, "rows": 3})
    scaler.save(tmp_path / "s.json")
    assert Scaler.load(tmp_path / "s.json") == scaler


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no scaler"),
        ("[" * 100_000, "no scaler"),
        ("[1]", "no scaler"),
        ('{"format": "crossentropy scaler", "version": 2}', "version 2"),
        ('{"slope": 0}', "slope must be a number above 0"),
        ('{"slope": NaN}', "slope must be a number above 0"),
        ('{"slope": true}', "slope must be a number above 0"),
        ('{"slope": 1e-320}', "slope must be a number above 0, with a finite inverse"),
        ('{"slope": 1' + 400 * "0" + "}", "slope must be a number above 0"),
        ('{"slope": 1, "intercept": 1e999, "method": "affine"}', "intercept must be a finite number"),
        ('{"slope": 1, "intercept": 1}', "has no intercept"),
        ('{"method": "vector"}', "method must be one of"),
        ('{"classes": 3}', "no list of names"),
        ('{"method": "affine", "classes": ["a"]}', "two classes"),
    ],
)
def test_what_is_no_scaler_is_refused(tmp_path, text, words):
    sound = json.loads(Scaler(0.5).to_json())
    if words != "no scaler":
        text = json.dumps(sound | json.loads(text))
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(PredictionError, match=words):
        Scaler.load(tmp_path / "s.json")


def test_a_scaler_leaves_its_input_and_impossible_classes_alone():
    p = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    p.setflags(write=False)
    scaler = Scaler(0.5)
    np.testing.assert_allclose(scaler.apply(p), [[0.5, 0.5, 0], [0, 0, 0], [0, 1, 0]], rtol=1e-15)
    with np.errstate(divide="ignore"):
        expected = np.log(p)
    np.testing.assert_allclose(scaler.apply(expected, "log_probs"), expected, rtol=1e-15)
    with pytest.raises(ValueError, match="shape"):
        Scaler(0.5, classes=("a", "b")).apply(p)


@pytest.mark.parametrize("name", ["p.parquet", "p.csv", "p.arrow"])
@pytest.mark.parametrize("output", ["calibrated.parquet", "calibrated.csv"])
def test_applied_to_a_file_every_other_column_stays(save, tmp_path, name, output):
    probabilities, labels = softmax_rows(50, 3, seed=12)
    columns = as_columns(probabilities, labels, "abc", ids=[f"r{i}" for i in range(50)]) | {"note": ['x, "y"'] * 50}
    path, out = save(columns, name), tmp_path / output
    scaler = calibrate(path).scaler
    assert apply_scaler(scaler, path, out) == 50
    after = report(out)
    assert abs(after.calibration.gap) < 1e-9
    assert after.classes == ("a", "b", "c")
    read = pa.parquet.read_table(out) if out.suffix == ".parquet" else pa.csv.read_csv(out)
    assert read.column_names == list(columns)
    assert read["note"].to_pylist() == columns["note"]
    assert read["id"].to_pylist() == columns["id"]


@pytest.mark.parametrize("kind", ["single", "single logit", "single log", "list", "logits"])
def test_every_layout_keeps_its_form(save, tmp_path, kind):
    probabilities, labels = softmax_rows(80, 2, seed=13)
    probabilities = sharpened(probabilities, 3.0)
    p = probabilities[:, 1]
    columns = {
        "single": {"p": p},
        "single logit": {"logit": np.log(p / (1 - p))},
        "single log": {"log_prob": np.log(p)},
        "list": {"probs": probabilities.tolist()},
        "logits": {"logit_a": np.log(probabilities[:, 0]) + 5, "logit_b": np.log(p) + 5},
    }[kind]
    path, out = save({"label": labels} | columns), tmp_path / "out.parquet"
    for method in ("temperature", "affine"):
        fit = calibrate(path, method=method)
        apply_scaler(fit.scaler, path, out)
        assert abs(report(out).calibration.gap) < 1e-9
    assert pa.parquet.read_table(out).column_names == ["label", *columns]


def test_rows_without_a_label_are_calibrated_too(save, tmp_path):
    path = save({"p_a": [0.9, 0.5], "p_b": [0.1, 0.5]})
    assert apply_scaler(Scaler(0.5), path, tmp_path / "out.parquet") == 2
    assert pa.parquet.read_table(tmp_path / "out.parquet")["p_a"].to_pylist() == pytest.approx([0.75, 0.5])


def test_rows_of_weight_0_are_not_looked_at(save, tmp_path):
    path = save({"label": [0, 0, 1], "p_a": [0.9, math.nan, 0.9], "p_b": [0.1, 7.0, 0.1], "weight": [1.0, 0.0, 1.0]})
    apply_scaler(Scaler(0.5), path, tmp_path / "out.parquet")
    assert pa.parquet.read_table(tmp_path / "out.parquet")["p_a"].to_pylist() == [
        pytest.approx(0.75),
        None,
        pytest.approx(0.75),
    ]
    assert report(tmp_path / "out.parquet").ignored == 1


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"p_b": [0.5], "p_a": [0.5]}, "its class 0 is 'a', here it is 'b'"),
        ({"p_a": [0.5], "p_b": [0.2], "p_c": [0.3]}, "fitted for 2 classes; there are 3 here"),
        ({"p_a": [0.5], "p_b": [1.5]}, r"row 0 \(counted from 0\): 1.5 in column 'p_b' is not a probability"),
        ({"p_a": [0.5], "p_b": [math.nan]}, "nan in column 'p_b'"),
        ({"p_a": pa.array([], pa.float64()), "p_b": pa.array([], pa.float64())}, "there are no rows"),
    ],
)
def test_what_cannot_be_scaled_is_one_clear_line(save, tmp_path, columns, words):
    out = tmp_path / "out.parquet"
    with pytest.raises(PredictionError, match=words):
        apply_scaler(Scaler(0.5, classes=("a", "b")), save(columns), out)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.parquet"]  # and nothing half written


# the command line --------------------------------------------------------------------------------------------------


def test_fit_save_apply(run, save, tmp_path):
    probabilities, labels = softmax_rows(400, 3, seed=14)
    path = save(as_columns(sharpened(probabilities, 2.0), labels))
    scaler, out = tmp_path / "scaler.json", tmp_path / "out.parquet"
    status, text, _ = run("calibrate", path, "--save", scaler)
    assert status == 0
    assert "on rows it was not fitted on (5 folds)" in text
    status, text, _ = run("calibrate", path, "--apply", scaler, "-o", out)
    assert status == 0
    assert "these are the rows that the scaler was fitted on" in text
    assert abs(report(out).calibration.gap) < 1e-9
    other = save(as_columns(probabilities[:50], labels[:50]), "other.parquet")
    status, text, _ = run("calibrate", other, "--apply", scaler, "-o", tmp_path / "o.csv")
    assert status == 0
    assert "fitted on" not in text
    status, _, error = run("calibrate", other, "--apply", scaler, "-o", other)
    assert status == 1
    assert "this is the file that is read" in error


def test_npy(run, tmp_path):
    probabilities, labels = softmax_rows(300, 4, seed=15)
    np.save(tmp_path / "p.npy", sharpened(probabilities, 2.0).astype(np.float32))
    np.save(tmp_path / "y.npy", labels)
    files = tmp_path / "p.npy", "--labels", tmp_path / "y.npy"
    assert run("calibrate", *files, "--save", tmp_path / "s.json")[0] == 0
    assert run("calibrate", tmp_path / "p.npy", "--apply", tmp_path / "s.json", "-o", tmp_path / "q.npy")[0] == 0
    after = report(tmp_path / "q.npy", labels=labels)
    assert abs(after.calibration.gap) < 1e-9
    status, _, error = run("calibrate", tmp_path / "p.npy", "--apply", tmp_path / "s.json", "-o", tmp_path / "q.csv")
    assert status == 1
    assert "written as .npy" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--apply", "s.json"], "--apply needs -o"),
        (["-o", "x.csv"], "-o is written by --apply"),
        (["--apply", "s.json", "--save", "t.json"], "not allowed with"),
        (["--apply", "s.json", "-o", "x.csv", "--method", "affine"], "--method belongs to a fit"),
    ],
)
def test_wrong_calls(run, options, words):
    status, _, error = run("calibrate", "p.csv", *options)
    assert status == 2
    assert words in error
