"""The staircase against scikit-learn's isotonic regression, its band against simulation, and the merge law."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from crossentropy.evaluation import Batch, PredictionError, reliability
from crossentropy.evaluation.reliability_diagram import BAND_POINTS, CELLS, DENSITY_BINS, ReliabilitySums

from .conftest import softmax_rows


def height(found, p):
    """The staircase at p, between its steps a straight line."""
    ends = np.stack([found.lowest, found.highest], axis=1).ravel()
    return np.interp(p, ends, np.repeat(found.frequency, 2))


@pytest.mark.parametrize("of", [None, 0, 2])
def test_the_staircase_is_the_isotonic_fit(of):
    probabilities, labels = softmax_rows(400, 3, seed=1)
    # no two scores that differ share a cell, and none lies on an edge of a bin
    probabilities = np.floor(probabilities * 999) / 1000 + 4e-4
    found = reliability(probabilities, labels=labels, of=of)
    chosen = probabilities.argmax(axis=1) if of is None else np.full(400, of)
    p, happened = probabilities[np.arange(400), chosen], (labels == chosen).astype(float)
    expected = IsotonicRegression(y_min=0, y_max=1).fit(p, happened).predict(p)
    np.testing.assert_allclose(height(found, p), expected, atol=1e-9)
    assert found.mean_probability == pytest.approx(p.mean())
    assert found.mean_frequency == pytest.approx(happened.mean())
    assert found.density.tolist() == np.histogram(p, DENSITY_BINS, (0, 1))[0].tolist()
    assert found.name == ("top label" if of is None else str(of))


def test_the_band_holds_a_calibrated_model_and_not_one_that_is_too_sure():
    inside = []
    for seed in range(20):
        probabilities, labels = softmax_rows(1000, 2, seed=seed)
        found = reliability(probabilities, labels=labels)
        at, low, high = found.band
        inside.append(((low <= height(found, at)) & (height(found, at) <= high)).mean())
    assert 0.9 < np.mean(inside) < 0.99
    sharpened = probabilities**3 / (probabilities**3).sum(axis=1, keepdims=True)
    found = reliability(sharpened, labels=labels)
    at, low, high = found.band
    assert ((low <= height(found, at)) & (height(found, at) <= high)).mean() < 0.5


def test_parts_merge_to_the_whole():
    probabilities, labels = softmax_rows(300, 3, seed=2)
    empty = ReliabilitySums.empty("abc", [None, 1])
    whole = empty.update(Batch(probabilities, labels))
    first, rest = (
        empty.update(Batch(probabilities[:70], labels[:70])),
        empty.update(Batch(probabilities[70:], labels[70:])),
    )
    for one, other in zip(whole.result(), first.merge(rest).result(), strict=True):
        np.testing.assert_allclose(one.frequency, other.frequency, rtol=1e-12)
        np.testing.assert_array_equal(one.density, other.density)
        assert one.corp.miscalibration == pytest.approx(other.corp.miscalibration, rel=1e-10)


def test_its_size_is_bounded():
    generator = np.random.default_rng(0)
    p = generator.random(200_000)
    found = reliability(np.stack([1 - p, p], axis=1), labels=(generator.random(len(p)) < p).astype(int))
    assert len(found.frequency) <= CELLS
    assert len(found.band[0]) == BAND_POINTS
    assert found.density.sum() == 200_000


def test_every_kind_of_input_and_certain_rows():
    probabilities, labels = softmax_rows(200, 3, seed=3)
    probabilities[:3] = np.eye(3)
    labels[:2] = [0, 2]  # the second was certain, and wrong
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities)
    found = [
        reliability(values, labels=labels, inputs=inputs, of=1)
        for inputs, values in (("probs", probabilities), ("log_probs", logs), ("logits", logs))
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other.frequency, found[0].frequency, atol=1e-9)
    assert found[0].rows == 200
    assert np.isinf(found[0].corp.miscalibration)


def test_weights_count_rows(save):
    probabilities, labels = softmax_rows(100, 2, seed=4)
    times = np.arange(100) % 4
    whole = {"label": labels, "p_a": probabilities[:, 0], "p_b": probabilities[:, 1], "weight": times / 2}
    repeated = {name: np.repeat(values, times) for name, values in whole.items() if name != "weight"}
    one, other = reliability(save(whole)), reliability(save(repeated, "repeated.parquet"))
    np.testing.assert_allclose(one.frequency, other.frequency, rtol=1e-12)
    assert one.band is None  # weights that are no counts: no labels can be drawn
    assert other.band is not None


def test_soft_labels_happen_by_their_shares():
    probabilities, labels = softmax_rows(200, 3, seed=5)
    targets = 0.75 * np.eye(3)[labels] + 0.25 * np.eye(3)[(labels + 1) % 3]
    found = reliability(probabilities, labels=targets, of=2)
    assert found.mean_frequency == pytest.approx(targets[:, 2].mean())
    expected = IsotonicRegression().fit(probabilities[:, 2], targets[:, 2]).predict(probabilities[:, 2])
    assert np.abs(height(found, probabilities[:, 2]) - expected).mean() < 0.01  # the cells are 0.001 wide
    assert found.band is None
    assert found.corp.null_miscalibration is None


def test_a_class_that_is_none_is_named():
    with pytest.raises(PredictionError, match="no class 'x'"):
        reliability(np.array([[0.5, 0.5]]), labels=[0], of="x")
