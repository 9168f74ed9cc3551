"""A scikit-learn classifier with calibrated probabilities, around one that is fitted."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from crossentropy import log_softmax

from .batches import Batch, PredictionError
from .calibration_fit import fit_calibration
from .scaler import logits_of


class CalibratedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Calibrate a fitted classifier with rows that it was not fitted on.

    `fit` leaves the classifier as it is and fits the scaler alone: calibrated logits = slope z_j (+ intercept for class
    1 of two), z = log of its `predict_proba`, or its `decision_function` where it has no probabilities.

    Parameters
    ----------
    estimator : a fitted scikit-learn classifier; in a `FrozenEstimator` for cross-validation, as clones forget a fit
    method : "temperature", any number of classes; or "affine", two classes

    Attributes
    ----------
    scaler_ : the `Scaler`
    fit_ : the `CalibrationFit`: what the scaler is worth on rows it was not fitted on; `print(classifier.fit_)`
    classes_, n_features_in_, feature_names_in_ : those of the estimator

    Raises
    ------
    NotFittedError : the estimator is not fitted
    ValueError : an estimator that is no classifier; labels that it does not know; weights or lengths that do not fit;
        nothing to fit (the message says why); a method that is none

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from crossentropy.evaluation import CalibratedClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X_train, X_rest, y_train, y_rest = train_test_split(X, y, train_size=0.4, random_state=0)
    >>> X_calibrate, X_test, y_calibrate, y_test = train_test_split(X_rest, y_rest, train_size=0.5, random_state=0)
    >>> model = GaussianNB().fit(X_train, y_train)
    >>> calibrated = CalibratedClassifier(model).fit(X_calibrate, y_calibrate)
    >>> calibrated.scaler_.temperature > 2  # naive Bayes is too sure
    True
    >>> from sklearn.metrics import log_loss
    >>> log_loss(y_test, calibrated.predict_proba(X_test)) < log_loss(y_test, model.predict_proba(X_test))
    True
    """

    def __init__(self, estimator: Any, *, method: str = "temperature") -> None:
        self.estimator = estimator
        self.method = method

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the scaler to rows that the estimator has not seen; `sample_weight` counts a row several times."""
        check_is_fitted(self.estimator)
        if not hasattr(self.estimator, "classes_"):
            raise ValueError(f"estimator must be a classifier; {type(self.estimator).__name__} has no classes_")
        classes = np.asarray(self.estimator.classes_)
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y, sample_weight)
        positions = {name: position for position, name in enumerate(classes.tolist())}
        labels = np.array([positions.get(label, -1) for label in y.tolist()], np.intp)
        if (labels < 0).any():
            row = int(np.argmax(labels < 0))
            raise ValueError(
                f"label {y[row : row + 1].tolist()[0]!r} at position {row} is none of the estimator's classes"
            )
        weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        logits, inputs = self._predictions(X)
        names = tuple(str(name) for name in classes)
        try:
            batch = Batch(logits, labels, inputs, weights=weights)
            fit = fit_calibration(lambda: [batch], names, self.method, type(self.estimator).__name__)
        except PredictionError as error:
            raise ValueError(str(error)) from None
        self.classes_, self.fit_, self.scaler_ = classes, fit, fit.scaler
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator, name):
                setattr(self, name, getattr(self.estimator, name))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities, shape (rows, classes), in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Their logarithms."""
        check_is_fitted(self, "scaler_")
        logits, inputs = self._predictions(X)
        return log_softmax(self.scaler_.scale(logits_of(logits, inputs)))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row."""
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]

    def _predictions(self, X: Any) -> tuple[np.ndarray, str]:
        """The estimator's predictions as a batch takes them, and what they are."""
        if hasattr(self.estimator, "predict_proba"):
            return np.asarray(self.estimator.predict_proba(X), np.float64), "probs"
        scores = np.asarray(self.estimator.decision_function(X), np.float64)
        if scores.ndim == 1:  # two classes: one score, for the second
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        return scores, "logits"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "scaler_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import get_tags  # from scikit-learn 1.6 on, which is where tags are asked for

        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags
