"""Intervals, calibration, shares and label errors, against direct computation on all rows."""

import math

import mpmath
import numpy as np
import pytest
from scipy import optimize, stats

from crossentropy.evaluation import report
from crossentropy.evaluation.clusters import ClusterSums
from crossentropy.evaluation.intervals import Spread, holm, student_quantile
from crossentropy.evaluation.loss_histogram import LossHistogram
from crossentropy.evaluation.temperature_sums import folds

from .conftest import as_columns, softmax_rows
from .test_report import evaluate


def losses_of(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels])


# intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [9, 10, 30, 1000, 10**6])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.995])
def test_student_quantile(probability, degrees):
    assert student_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), abs=2e-4)


def hall_interval(values, confidence=0.95):
    """Hall 1992, by solving his cubic numerically."""
    n, mean, sd = len(values), values.mean(), values.std(ddof=1)
    skewness = ((values - mean) ** 3).mean() / values.std() ** 3
    a = skewness / math.sqrt(n)

    def solve(x):
        return optimize.brentq(lambda t: t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6 - x, -1e3, 1e3, xtol=1e-12)

    quantile = stats.t.ppf(0.5 + confidence / 2, n - 1)
    return mean - sd / math.sqrt(n) * solve(quantile), mean - sd / math.sqrt(n) * solve(-quantile)


def test_interval_is_halls():
    probabilities, labels = softmax_rows(300, 4, seed=1)
    result = evaluate(probabilities, labels, batch=77).result()
    expected = hall_interval(losses_of(probabilities, labels))
    assert result.loss.interval == pytest.approx(expected, rel=1e-6)
    low, high = result.loss.interval
    assert high - result.loss.mean > result.loss.mean - low  # losses are skewed to the right, and so is the interval


def test_interval_of_cifar_and_mnist(shared):
    cifar = report(shared / "cifar10_predictions.npy", labels=shared / "cifar10_labels.npy")
    assert cifar.loss.interval == pytest.approx((0.230, 0.270), abs=5e-4)


def test_weights_of_one_and_no_weights_have_the_same_interval():
    probabilities, labels = softmax_rows(100, 3, seed=2)
    plain = evaluate(probabilities, labels).result().loss
    scaled = evaluate(probabilities, labels, np.full(100, 2.5)).result().loss
    assert scaled.interval == pytest.approx(plain.interval, rel=1e-10)


def test_interval_of_equal_losses_is_a_point_and_of_few_rows_is_none():
    probabilities = np.full((20, 4), 0.25)
    labels = np.arange(20) % 4
    low, high = evaluate(probabilities, labels).result().loss.interval
    assert low == high == pytest.approx(math.log(4), rel=1e-15)
    assert evaluate(probabilities[:9], labels[:9]).result().loss.interval is None


def test_no_interval_for_an_infinite_mean():
    probabilities = np.tile([[0.5, 0.5], [1.0, 0.0]], (20, 1))
    assert evaluate(probabilities, np.ones(40, int)).result().loss.interval is None


def test_transformation_is_its_own_inverse():
    for skewness in (0.0, 1e-9, 0.5, -3.0, 20.0):
        spread = Spread(50, 1.0, 0.1, skewness)
        for x in (-2.0, 0.0, 1.9):
            assert spread._transformed(spread._untransformed(x)) == pytest.approx(x, abs=1e-9)


def test_holm_adjusts_as_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


# clusters ----------------------------------------------------------------------------------------------------------


def test_clusters_are_the_independent_units():
    probabilities, labels = softmax_rows(400, 3, seed=3)
    groups = np.random.default_rng(0).integers(0, 40, 400)
    loss = losses_of(probabilities, labels)
    result = evaluate(probabilities, labels, groups=groups, batch=64).result().loss
    d = np.bincount(groups, loss - loss.mean(), 40)
    error = math.sqrt((d**2).sum() * 40 / 39) / 400
    assert result.clusters == 40
    assert result.spread.standard_error == pytest.approx(error, rel=1e-12)
    assert result.mean == pytest.approx(loss.mean(), rel=1e-13)


def test_every_row_its_own_cluster_is_no_clusters():
    probabilities, labels = softmax_rows(60, 3, seed=4)
    plain = evaluate(probabilities, labels).result().loss
    each = evaluate(probabilities, labels, groups=np.arange(60)).result().loss
    assert each.interval == pytest.approx(plain.interval, rel=1e-9)


def test_repeated_rows_in_clusters_do_not_narrow_the_interval():
    probabilities, labels = softmax_rows(80, 3, seed=5)
    once = evaluate(probabilities, labels).result().loss
    ten = np.repeat(np.arange(80), 10)
    clustered = evaluate(probabilities[ten], labels[ten], groups=ten).result().loss
    assert clustered.interval == pytest.approx(once.interval, rel=1e-9)
    naive = evaluate(probabilities[ten], labels[ten]).result().loss
    assert naive.spread.standard_error < 0.4 * once.spread.standard_error


def test_more_clusters_than_are_kept_are_joined_and_the_error_stays(monkeypatch):
    generator = np.random.default_rng(6)
    loss, names = generator.exponential(size=6000), tuple(f"c{i}" for i in range(3000))
    codes = np.repeat(np.arange(3000), 2)
    exact = ClusterSums.empty().update(codes, names, loss, None)
    monkeypatch.setattr("crossentropy.evaluation.clusters.MOST_CLUSTERS", 500)
    joined, merged = ClusterSums.empty().update(codes, names, loss, None), ClusterSums.empty()
    for part in np.array_split(np.arange(6000), 7):
        merged = merged.merge(ClusterSums.empty().update(codes[part], names, loss[part], None))
    assert 100 < len(joined.keys) <= 500
    np.testing.assert_array_equal(joined.keys, merged.keys)
    np.testing.assert_allclose(joined.loss, merged.loss, rtol=1e-12)
    assert joined.dropped_bits == merged.dropped_bits
    # the standard error of a standard error from some 400 units is 3.5 %
    assert joined.spread().standard_error == pytest.approx(exact.spread().standard_error, rel=0.15)


# the share of the worst rows ---------------------------------------------------------------------------------------


def test_share_of_the_worst_percent():
    loss = np.sort(np.random.default_rng(7).lognormal(sigma=2, size=20_000))
    found = LossHistogram.empty().update(loss, None).share_of_worst(0.01)
    assert found == pytest.approx(loss[-200:].sum() / loss.sum(), rel=0.01)
    equal = LossHistogram.empty().update(np.full(1000, 0.3), None).share_of_worst(0.01)
    assert equal == pytest.approx(0.01, rel=1e-12)
    assert LossHistogram.empty().update(np.zeros(10), None).share_of_worst() is None


def test_losses_of_every_size_have_a_bin():
    loss = np.array([0.0, 5e-324, 1e-300, 1e-17, 1.0, 745.1, 1e300])
    histogram = LossHistogram.empty().update(loss, None)
    assert histogram.rows.sum() == 7
    assert histogram.loss.sum() == loss.sum()


# calibration -------------------------------------------------------------------------------------------------------


def scaled_loss(probabilities, labels, temperature):
    logits = np.log(probabilities) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


def best_temperature(probabilities, labels):
    found = optimize.minimize_scalar(
        lambda u: scaled_loss(probabilities, labels, math.exp(u)).mean(), bounds=(-3, 3), options={"xatol": 1e-9}
    )
    return math.exp(found.x)


@pytest.mark.parametrize("power", [0.1, 0.25, 0.7, 1.0, 1.4, 2.0, 5.0])
def test_temperature_is_right_to_a_thousandth(power):
    probabilities, labels = softmax_rows(2000, 5, seed=8)
    bent = probabilities**power
    bent /= bent.sum(axis=1, keepdims=True)
    found = evaluate(bent, labels, batch=300).result().calibration
    assert found.temperature == pytest.approx(best_temperature(bent, labels), rel=1e-3)
    assert not found.at_edge


def test_gap_and_z_by_hand():
    probabilities, labels = softmax_rows(500, 4, seed=9)
    found = evaluate(probabilities, labels, batch=90).result().calibration
    surprise = -np.log(probabilities)
    entropy = (probabilities * surprise).sum(axis=1)
    variance = (probabilities * (surprise - entropy[:, None]) ** 2).sum(axis=1)
    gap = losses_of(probabilities, labels) - entropy
    assert found.gap == pytest.approx(gap.mean(), rel=1e-10)
    assert found.z == pytest.approx(gap.sum() / math.sqrt(variance.sum()), rel=1e-10)


def test_gap_is_the_slope_of_the_loss():
    probabilities, labels = softmax_rows(200, 4, seed=10)
    found = evaluate(probabilities, labels).result().calibration
    step = 1e-5
    up, down = (scaled_loss(probabilities, labels, math.exp(-u)).mean() for u in (step, -step))
    assert found.gap == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_z_is_standard_normal_for_a_calibrated_model():
    z = [evaluate(*softmax_rows(300, 3, seed=seed)).result().calibration.z for seed in range(200)]
    assert abs(np.mean(z)) < 4 / math.sqrt(200)
    assert 0.8 < np.std(z) < 1.2


def test_direction_of_a_bent_model():
    probabilities, labels = softmax_rows(2000, 4, seed=11)
    for power, direction in ((2.0, "over-confident"), (0.5, "under-confident"), (1.0, "no clear direction")):
        bent = probabilities**power
        found = evaluate(bent / bent.sum(axis=1, keepdims=True), labels).result().calibration
        assert found.direction == direction
        assert found.temperature == pytest.approx(power, rel=0.1)


def test_cross_fitted_loss_is_fitted_on_the_other_folds():
    probabilities, labels = softmax_rows(1000, 4, seed=12)
    bent = probabilities**1.5 / (probabilities**1.5).sum(axis=1, keepdims=True)
    found = evaluate(bent, labels).result().calibration
    fold, total = folds(bent), 0.0
    assert np.bincount(fold).min() > 100
    for k in range(5):
        temperature = best_temperature(bent[fold != k], labels[fold != k])
        total += scaled_loss(bent[fold == k], labels[fold == k], temperature).sum()
    assert found.fitted_loss == pytest.approx(total / 1000, rel=1e-6)
    assert found.calibration == pytest.approx(losses_of(bent, labels).mean() - total / 1000, rel=1e-4)


def test_calibration_of_cifar(shared):
    found = report(shared / "cifar10_predictions.npy", labels=shared / "cifar10_labels.npy").calibration
    assert found.gap == pytest.approx(0.143, abs=5e-4)
    assert found.z == pytest.approx(35, abs=0.5)
    assert found.temperature == pytest.approx(1.466, abs=1e-3)
    assert found.calibration == pytest.approx(0.2491712 - 0.2197, abs=1e-4)
    assert found.fitted_loss == pytest.approx(0.2197, abs=1e-4)


def test_calibration_beyond_the_grid_and_without_a_scale():
    probabilities = np.full((40, 2), 0.5)
    probabilities[:, 0] += 1e-9
    probabilities[:, 1] -= 1e-9
    far = evaluate(probabilities, np.zeros(40, int)).result()  # always right, never sure: no temperature is too low
    assert far.calibration.at_edge
    assert "beyond" in far.text()
    certain = evaluate(np.tile([1.0, 0.0], (40, 1)), np.zeros(40, int)).result()
    assert certain.calibration.z is None
    assert certain.calibration.gap == 0
    nothing = evaluate(np.tile([1.0, 0.0], (40, 1)), np.ones(40, int)).result()
    assert nothing.calibration is None


def test_folds_follow_the_row_and_not_its_place():
    values = np.random.default_rng(13).random((300, 6)).astype(np.float32)
    order = np.random.default_rng(14).permutation(300)
    np.testing.assert_array_equal(folds(values)[order], folds(np.asfortranarray(values[order])))
    assert np.bincount(folds(values), minlength=5).min() > 30


# log-probabilities and logits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", ["log_probs", "logits"])
def test_log_probabilities_and_logits_give_the_same_report(inputs):
    probabilities, labels = softmax_rows(300, 4, seed=15)
    expected = evaluate(probabilities, labels).result()
    values = np.log(probabilities) + (np.arange(300.0)[:, None] if inputs == "logits" else 0)
    found = evaluate(values, labels, inputs=inputs).result()
    assert found.loss.mean == pytest.approx(expected.loss.mean, rel=1e-12)
    assert found.calibration.gap == pytest.approx(expected.calibration.gap, rel=1e-9)
    assert [row.row for row in found.worst] == [row.row for row in expected.worst]
    for one, other in zip(found.worst, expected.worst, strict=True):
        assert one.label_probability == pytest.approx(other.label_probability, rel=1e-11)
        assert one.prediction_probability == pytest.approx(other.prediction_probability, rel=1e-11)
    assert found.row_sums is None


def test_logits_are_exact_where_probabilities_would_round():
    found = evaluate(np.array([[20.0, 0.0, 0.0]]), np.array([0]), inputs="logits").result()
    with mpmath.workdps(40):
        assert found.loss.mean == pytest.approx(float(mpmath.log1p(2 * mpmath.exp(-20))), rel=1e-14)


# slices ------------------------------------------------------------------------------------------------------------


def test_slices_agree_with_each_slice_alone(save):
    probabilities, labels = softmax_rows(300, 3, seed=16)
    site = np.array(["a", "b", "c"])[np.random.default_rng(0).integers(0, 3, 300)]
    probabilities[site == "b"] = 1 / 3
    found = report(save({**as_columns(probabilities, labels), "site": site}), by=["site"])
    assert [part.name for part in found.slices["site"]] == ["a", "b", "c"]
    for part in found.slices["site"]:
        alone = evaluate(probabilities[site == part.name], labels[site == part.name]).result().loss
        assert part.loss.mean == pytest.approx(alone.mean, rel=1e-12)
        assert part.loss.interval == pytest.approx(alone.interval, rel=1e-6)
        assert part.differs or part.name != "b"
    assert math.fsum(part.share for part in found.slices["site"]) == pytest.approx(1, abs=1e-12)
    assert "Loss by site" in found.text()


def test_marks_allow_for_the_number_of_looks():
    marked = 0
    for seed in range(40):
        probabilities, labels = softmax_rows(600, 2, seed=seed)
        parts = evaluate(probabilities, labels, by={"any": np.arange(600) % 20}).result().slices["any"]
        marked += any(part.differs for part in parts)
    assert marked <= 8  # about 5 % of 40; without the adjustment about 26


# suspected label errors --------------------------------------------------------------------------------------------


def test_suspected_label_errors_are_those_of_the_thresholds():
    probabilities, labels = softmax_rows(3000, 4, seed=17, spread=4.0)
    flipped = np.random.default_rng(0).random(3000) < 0.05
    labels = np.where(flipped, (labels + 1) % 4, labels)
    found = evaluate(probabilities, labels, batch=500, worst=3000).result()
    thresholds = [probabilities[labels == j, j].mean() for j in range(4)]
    assert found.label_thresholds == pytest.approx(thresholds, rel=1e-12)
    top = probabilities.argmax(axis=1)
    suspected = (top != labels) & (probabilities.max(axis=1) >= np.array(thresholds)[top])
    assert found.suspected_label_errors == pytest.approx(suspected.sum(), abs=2)  # the grid is 1 / 1024 wide
    assert {row.row for row in found.worst if found.is_suspected(row)} == set(np.flatnonzero(suspected))
