"""The scores of rows: the native core and the plain form against the oracle, and against each other."""

import mpmath
import numpy as np
import pytest

from crossentropy.evaluation import Batch, PredictionError
from crossentropy.evaluation.row_scores import RowScores
from crossentropy.evaluation.temperature_sums import FOLDS, INVERSE_TEMPERATURES, folds
from crossentropy.kernels import native

KERNELS = ["generic", *native.instruction_sets()]


def predictions(inputs, rows=24, classes=5, dtype=np.float64):
    """Predictions with ties, impossible classes and confident rows among them, and labels of finite loss."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, classes)) * 6
    x[0] = 0.0
    x[1, :2] = x[1].max() + 1
    x[2, 0], x[3, 0] = x[2, 1:].max() + 40, x[3, 1:].max() + 90
    x[4:6, 0] = -np.inf
    labels = generator.integers(1, classes, rows)
    labels[2:4] = 0
    if inputs != "logits":
        x -= x.max(axis=1, keepdims=True)
        x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
        x = np.minimum(x, 0)
    return (np.exp(x) if inputs == "probs" else x).astype(dtype), labels


def score(kernel, monkeypatch, *args, **options):
    monkeypatch.setenv("CROSSENTROPY_KERNEL", kernel)
    return RowScores.of(Batch(*args, **options), with_temperatures=True)


def oracle(row, label, inputs, inverse_temperature=1):
    """Loss, entropy and variance of -log p of one row with its logits times `inverse_temperature`."""
    z = [mpmath.log(mpmath.mpf(float(v))) if inputs == "probs" else mpmath.mpf(float(v)) for v in row]
    z = [v * inverse_temperature for v in z]
    lse = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in z))
    log_p = [v - lse for v in z if v != mpmath.mpf("-inf")]
    entropy = -mpmath.fsum(mpmath.exp(v) * v for v in log_p)
    variance = mpmath.fsum(mpmath.exp(v) * (v + entropy) ** 2 for v in log_p)
    return lse - z[label], entropy, variance


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("inputs", ["probs", "log_probs", "logits"])
def test_rows_agree_with_the_oracle(kernel, dtype, inputs, monkeypatch):
    values, labels = predictions(inputs, dtype=dtype)
    scores = score(kernel, monkeypatch, values, labels, inputs=inputs)
    with mpmath.workdps(60):
        for row, label in enumerate(labels):
            normalised, entropy, _ = oracle(values[row], label, inputs)
            given = mpmath.mpf(float(values[row, label]))
            loss = normalised if inputs == "logits" else -given if inputs == "log_probs" else -mpmath.log(given)
            assert scores.loss[row] == pytest.approx(float(loss), rel=2e-15, abs=0)
            # of the logarithms of probabilities the differences have rounded before they are summed
            assert scores.entropy[row] == pytest.approx(float(entropy), rel=2e-14, abs=1e-300)
            assert scores.label_probability[row] == pytest.approx(float(mpmath.exp(-loss)), rel=1e-13)
            assert scores.prediction[row] == np.argmax(values[row])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("inputs", ["probs", "logits"])
def test_sums_over_temperatures_agree_with_the_oracle(kernel, inputs, monkeypatch):
    values, labels = predictions(inputs)
    weights = np.random.default_rng(3).uniform(0.5, 2, len(labels))
    found = score(kernel, monkeypatch, values, labels, inputs=inputs, weights=weights).temperatures
    fold = folds(values)
    expected = np.zeros((FOLDS, 3, len(INVERSE_TEMPERATURES)))
    gap = gap_variance = 0.0
    with mpmath.workdps(40):
        for row, (label, weight) in enumerate(zip(labels, weights, strict=True)):
            for i, inverse in enumerate(INVERSE_TEMPERATURES):
                loss, entropy, variance = oracle(values[row], label, inputs, float(inverse))
                slope = loss - entropy
                expected[fold[row], :, i] += [float(weight * x) for x in (loss, slope, slope + variance)]
                if inverse == 1:
                    gap += float(weight * (loss - entropy))
                    gap_variance += float(weight**2 * variance)
    for i, name in enumerate(("loss", "slope", "bend")):
        scale = np.abs(expected[:, 0]) + np.abs(expected[:, i])
        np.testing.assert_array_less(np.abs(getattr(found, name) - expected[:, i]), 1e-12 * scale + 1e-300, name)
    np.testing.assert_allclose(found.weight, np.bincount(fold, weights, FOLDS), rtol=1e-14)
    assert found.gap == pytest.approx(gap, rel=1e-12)
    assert found.gap_variance == pytest.approx(gap_variance, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 300])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_agree(classes, order, dtype, monkeypatch):
    values, labels = predictions("probs", rows=2500, classes=classes, dtype=dtype)  # several blocks, a group cut off
    values[7, labels[7]] = 0  # an infinite loss
    values = np.asarray(values, order=order)
    expected = score("generic", monkeypatch, values, labels)
    assert expected.loss[7] == np.inf
    for kernel in native.instruction_sets():
        found = score(kernel, monkeypatch, values, labels)
        np.testing.assert_array_equal(found.prediction, expected.prediction)
        for name in ("loss", "entropy", "label_probability", "prediction_probability", "row_sum"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=2e-14, atol=1e-300)
        for name in ("weight", "loss", "slope", "bend"):
            ours, theirs = getattr(found.temperatures, name), getattr(expected.temperatures, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, err_msg=name)


@pytest.mark.skipif(not native.instruction_sets(), reason="a build without the core")
def test_the_bits_are_the_same_for_any_number_of_threads_and_every_instruction_set(monkeypatch):
    values, labels = predictions("probs", rows=20_000, classes=10, dtype=np.float32)
    found = []
    for kernel in native.instruction_sets():
        for threads in (1, 2, 5):
            monkeypatch.setattr(native, "EVERY_CORE", threads)
            found.append(score(kernel, monkeypatch, values, labels))
    for other in found[1:]:
        for name in ("loss", "entropy", "prediction", "prediction_probability"):
            np.testing.assert_array_equal(getattr(other, name), getattr(found[0], name))
        for name in ("weight", "loss", "slope", "bend", "gap", "gap_variance"):
            np.testing.assert_array_equal(getattr(other.temperatures, name), getattr(found[0].temperatures, name))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_without_any_probability(kernel, monkeypatch):
    scores = score(kernel, monkeypatch, np.array([[0.0, 0.0], [0.5, 0.5]]), np.array([1, 0]))
    assert scores.loss.tolist() == [np.inf, pytest.approx(np.log(2))]
    assert scores.entropy.tolist() == [0, pytest.approx(np.log(2))]
    assert scores.prediction.tolist() == [0, 0]
    assert scores.temperatures.weight.sum() == 1
    with pytest.raises(PredictionError, match=r"row 0 .*every logit is -inf"):
        score(kernel, monkeypatch, np.full((1, 3), -np.inf), np.array([1]), inputs="logits")


@pytest.mark.parametrize("kernel", KERNELS)
def test_probabilities_below_the_normal_numbers(kernel, monkeypatch):
    values = np.array([[2e-310, 1e-310], [1e-300, 5e-324]])  # rows that sum to next to nothing are taken as they are
    scores = score(kernel, monkeypatch, values, np.array([1, 0]))
    assert scores.loss == pytest.approx(-np.log(values[[0, 1], [1, 0]]), rel=1e-14)
    third = np.array([2 / 3, 1 / 3])
    assert scores.entropy[0] == pytest.approx(-(third * np.log(third)).sum(), rel=1e-10)


@pytest.mark.skipif(not native.instruction_sets(), reason="a build without the core")
def test_a_label_outside_the_classes_reads_no_memory(monkeypatch):
    results = {"loss": np.empty(2)}
    native.row_scores(np.full((2, 3), 1 / 3), np.array([3, -1]), "probs", results)
    assert np.isnan(results["loss"]).all()
