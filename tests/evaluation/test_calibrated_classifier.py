"""The classifier keeps scikit-learn's rules: cloning, pipelines, searches, weights."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the classifier needs the extra `report`")

from sklearn.base import clone, is_classifier
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from crossentropy.evaluation import CalibratedClassifier, calibrate


def parts(load, seed=0):
    X, y = load(return_X_y=True)
    X, X_rest, y, y_rest = train_test_split(X, y, train_size=0.4, random_state=seed)
    return (X, y, *train_test_split(X_rest, y_rest, train_size=0.5, random_state=seed))


@pytest.mark.parametrize(
    ("load", "model", "method"),
    [
        (load_digits, GaussianNB(), "temperature"),
        (load_digits, LinearSVC(dual=True), "temperature"),  # no probabilities: its scores are logits
        (load_breast_cancer, GaussianNB(), "temperature"),
        (load_breast_cancer, GaussianNB(), "affine"),
        (load_breast_cancer, make_pipeline(StandardScaler(), LinearSVC(dual=True)), "affine"),
        (load_breast_cancer, RandomForestClassifier(random_state=0), "affine"),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_after_the_fit_the_loss_is_what_is_expected(load, model, method):
    X, y, X_fit, X_test, y_fit, y_test = parts(load)
    model = clone(model).fit(X, y)
    calibrated = CalibratedClassifier(model, method=method).fit(X_fit, y_fit)
    p = calibrated.predict_proba(X_fit)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    positions = np.searchsorted(calibrated.classes_, y_fit)
    finite = p[np.arange(len(p)), positions] > 0
    p, positions = p[finite], positions[finite]
    loss = -np.log(p[np.arange(len(p)), positions]).mean()
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1).mean()
    assert abs(loss - entropy) < 1e-9
    if isinstance(model, GaussianNB):  # naive Bayes is too sure; a forest may have nothing to gain
        assert log_loss(y_test, calibrated.predict_proba(X_test)) < log_loss(y_test, model.predict_proba(X_test))
    if method == "temperature":
        assert (calibrated.predict(X_test) == model.predict(X_test)).mean() > 0.99  # ties aside, nothing changes rank
    assert set(calibrated.predict(X_test)) <= set(calibrated.classes_)


def test_it_is_the_fit_of_calibrate():
    X, y, X_fit, _, y_fit, _ = parts(load_digits)
    model = GaussianNB().fit(X, y)
    calibrated = CalibratedClassifier(model).fit(X_fit, y_fit)
    assert calibrated.scaler_.slope == calibrate(model.predict_proba(X_fit), labels=y_fit).scaler.slope
    assert "on rows it was not fitted on" in calibrated.fit_.text(width=120)


def test_weights_count_rows():
    X, y, X_fit, _, y_fit, _ = parts(load_breast_cancer)
    model = GaussianNB().fit(X, y)
    times = np.arange(len(y_fit)) % 3
    weighted = CalibratedClassifier(model).fit(X_fit, y_fit, sample_weight=times)
    repeated = CalibratedClassifier(model).fit(np.repeat(X_fit, times, axis=0), np.repeat(y_fit, times))
    assert weighted.scaler_.slope == pytest.approx(repeated.scaler_.slope, rel=1e-10)


def test_names_of_classes():
    X, y, X_fit, X_test, y_fit, _ = parts(load_breast_cancer)
    names = np.array(["no", "yes"])
    calibrated = CalibratedClassifier(GaussianNB().fit(X, names[y])).fit(X_fit, names[y_fit])
    assert calibrated.scaler_.classes == ("no", "yes")
    assert set(calibrated.predict(X_test)) == {"no", "yes"}
    assert 0.8 < calibrated.score(X_test, names[parts(load_breast_cancer)[5]]) <= 1


def test_scikit_learns_machinery():
    X, y, X_fit, X_test, y_fit, _ = parts(load_breast_cancer)
    model = GaussianNB().fit(X, y)
    calibrated = CalibratedClassifier(FrozenEstimator(model), method="affine")
    assert is_classifier(calibrated)
    assert clone(calibrated).get_params()["method"] == "affine"
    assert "affine" in repr(calibrated)
    search = GridSearchCV(calibrated, {"method": ["temperature", "affine"]}, scoring="neg_log_loss").fit(X_fit, y_fit)
    assert search.best_params_["method"] in ("temperature", "affine")
    fitted = calibrated.fit(X_fit, y_fit)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X_test), fitted.predict_proba(X_test))
    assert fitted.n_features_in_ == X.shape[1]


def test_what_cannot_be_fitted():
    X, y, X_fit, _, y_fit, _ = parts(load_breast_cancer)
    model = GaussianNB()
    with pytest.raises(NotFittedError):
        CalibratedClassifier(model).fit(X_fit, y_fit)
    model.fit(X, y)
    with pytest.raises(NotFittedError):
        CalibratedClassifier(model).predict(X_fit)
    with pytest.raises(ValueError, match="label 8 at position 0 is none"):
        CalibratedClassifier(model).fit(X_fit, y_fit + 7)
    with pytest.raises(ValueError, match="method must be one of"):
        CalibratedClassifier(model, method="isotonic").fit(X_fit, y_fit)
    with pytest.raises(ValueError, match="label '1' at position 0 is none"):
        CalibratedClassifier(model).fit(X_fit, np.where(y_fit, "1", "1"))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        CalibratedClassifier(model).fit(X_fit, y_fit[1:])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        CalibratedClassifier(model).fit(X_fit, y_fit, sample_weight=[1.0])
    with pytest.raises(ValueError, match="LinearRegression has no classes_"):
        CalibratedClassifier(LinearRegression().fit(X, y)).fit(X_fit, y_fit)
    right = model.predict(X_fit) == y_fit
    with pytest.raises(ValueError, match="every row is right"):
        CalibratedClassifier(model).fit(X_fit[right], y_fit[right])
