"""CORP against its published example, against scikit-learn's isotonic regression, and against itself on a grid."""

import math

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from crossentropy.evaluation import report
from crossentropy.evaluation.corp import ScoreSums, _fitted_loss, _keys

from .test_report import evaluate, same_sums


def binary_losses(p, labels):
    return -np.log(np.where(labels == 1, p, 1 - p))


def sums_of(p, labels, weight=None):
    return ScoreSums.empty().update(p, labels, binary_losses(p, labels), weight)


def drawn(rows, seed=0, bend=1.0):
    generator = np.random.default_rng(seed)
    p = generator.beta(0.7, 0.9, rows)
    labels = (generator.random(rows) < p).astype(int)
    return p**bend / (p**bend + (1 - p) ** bend), labels


def test_the_published_example(save):
    labels, p = [0, 0, 0, 1, 1, 1], [0.4, 0.3, 0.2, 0.1, 0.5, 0.9]
    found = report(save({"y": labels, "p": p}))
    assert found.loss.mean == pytest.approx(0.6986228, abs=5e-8)
    assert found.corp.miscalibration == pytest.approx(0.3237327, abs=5e-8)
    assert found.corp.discrimination == pytest.approx(0.3182571, abs=5e-8)
    assert found.corp.uncertainty == pytest.approx(0.6931472, abs=5e-8)
    assert found.corp.error == 0
    assert "0.3237 miscalibration" in found.text()


def test_parts_are_those_of_isotonic_regression():
    isotonic = pytest.importorskip("sklearn.isotonic", reason="compares with scikit-learn")
    p, labels = drawn(3000, bend=2.0)
    p = np.round(p, 3) * 0.998 + 0.001  # ties
    weight = np.random.default_rng(1).random(3000)
    found = sums_of(p, labels, weight).result()
    fit = isotonic.IsotonicRegression().fit(p, labels, weight).predict(p)
    fitted = np.average(
        np.where(labels == 1, -np.log(np.maximum(fit, 1e-300)), -np.log1p(-np.minimum(fit, 1 - 1e-16))), weights=weight
    )
    assert found.fitted == pytest.approx(fitted, rel=1e-9)
    assert found.loss == pytest.approx(np.average(binary_losses(p, labels), weights=weight), rel=1e-12)
    assert found.loss == pytest.approx(found.miscalibration - found.discrimination + found.uncertainty, rel=1e-12)
    assert found.null_miscalibration is None  # these weights are no counts


def test_null_value_is_what_a_calibrated_model_shows():
    found = [sums_of(*drawn(2000, seed)).result() for seed in range(30)]
    mean = np.mean([one.miscalibration for one in found])
    spread = np.std([one.miscalibration for one in found]) / math.sqrt(30)
    assert mean == pytest.approx(np.mean([one.null_miscalibration for one in found]), abs=4 * spread)
    bent = sums_of(*drawn(2000, bend=2.0)).result()
    assert bent.miscalibration > 5 * bent.null_miscalibration


def test_keys_keep_the_order_and_tell_all_probabilities_apart():
    p = np.array(
        [0.0, 5e-324, 1e-300, 0.1, np.nextafter(0.5, 0), 0.5, np.nextafter(0.5, 1), 0.9, np.nextafter(1, 0), 1.0]
    )
    keys = _keys(p)
    assert (np.diff(keys.astype(object)) > 0).all()
    assert _keys(np.array([-0.0])) == _keys(np.array([0.0]))


def test_on_the_grid_the_truth_lies_within_the_error_shown(monkeypatch):
    p, labels = drawn(20_000, seed=3, bend=1.5)
    exact = sums_of(p, labels).result()
    monkeypatch.setattr("crossentropy.evaluation.corp.MOST_SCORES", 1000)
    whole, parts = sums_of(p, labels), ScoreSums.empty()
    for rows in np.array_split(np.arange(20_000), 7):
        parts = parts.merge(sums_of(p[rows], labels[rows]))
    same_sums(parts, whole)
    assert 300 < len(whole.keys) <= 1000
    found = whole.result()
    assert 0 < found.error < 0.01
    assert found.miscalibration <= exact.miscalibration <= found.miscalibration + found.error
    assert found.discrimination <= exact.discrimination <= found.discrimination + found.error
    assert found.uncertainty == pytest.approx(exact.uncertainty, rel=1e-12)


def test_logits_and_columns_give_the_same_parts():
    p, labels = drawn(500, seed=4)
    wide = np.stack([1 - p, p], axis=1)
    expected = sums_of(p, labels).result()
    for values, inputs in ((wide, "probs"), (np.log(wide), "log_probs"), (np.log(wide) + 3, "logits")):
        found = evaluate(values, labels, inputs=inputs).result().corp
        assert found.miscalibration == pytest.approx(expected.miscalibration, rel=1e-9)
        assert found.discrimination == pytest.approx(expected.discrimination, rel=1e-9)
    assert evaluate(np.full((4, 3), 1 / 3), np.zeros(4, int)).result().corp is None


@pytest.mark.parametrize("rows", [1, 2, 7, 400])
def test_the_fit_is_scipys(rows):
    generator = np.random.default_rng(rows)
    weight = generator.uniform(0.1, 2, rows)
    frequency = np.clip(np.linspace(0, 1, rows) + generator.normal(scale=0.4, size=rows), 0, 1)
    fit = np.clip(isotonic_regression(frequency, weights=weight).x, 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = -np.nansum(weight * (fit * np.log(fit) + (1 - fit) * np.log(1 - fit)))
    assert _fitted_loss(frequency * weight, weight) == pytest.approx(loss, rel=1e-12, abs=1e-12)
