"""Suspected label errors: rows whose prediction is as sure as the model is where it and the label agree on that class.

The threshold of class j is the mean probability that the model gives to j on the rows labelled j. A row is suspected
where the predicted class is not the label and its probability reaches the threshold of the predicted class.

Source: Northcutt, Jiang, Chuang 2021, "Confident learning: estimating uncertainty in dataset labels",
https://arxiv.org/abs/1911.00068, equations 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from .row_scores import RowScores


@dataclass(frozen=True)
class LabelErrorSums:
    """Per class: rows labelled so and the sum of their label's probability; wrong rows predicted so, on a fixed grid
    of the prediction's probability, since the thresholds are known only at the end."""

    rows: np.ndarray
    confidence: np.ndarray
    wrong: np.ndarray

    @classmethod
    def empty(cls, classes: int) -> Self:
        # at most 8 MB, whatever the number of classes
        bins = max(16, min(1024, 2**20 // max(classes, 1)))
        return cls(np.zeros(classes, np.int64), np.zeros(classes), np.zeros((classes, bins), np.int64))

    def update(self, scores: RowScores) -> Self:
        classes, bins = self.wrong.shape
        labels = scores.batch.labels
        wrong = np.flatnonzero(scores.prediction != labels)
        bin_of = np.minimum((scores.prediction_probability[wrong] * bins).astype(np.intp), bins - 1)
        counts = np.bincount(scores.prediction[wrong] * bins + bin_of, minlength=classes * bins)
        return type(self)(
            self.rows + np.bincount(labels, minlength=classes),
            self.confidence + np.bincount(labels, scores.label_probability, classes),
            self.wrong + counts.reshape(classes, bins),
        )

    def merge(self, other: Self) -> Self:
        return type(self)(self.rows + other.rows, self.confidence + other.confidence, self.wrong + other.wrong)

    def thresholds(self) -> np.ndarray:
        """The threshold of every class; NaN for a class that no label names, of which nothing can be suspected."""
        return np.divide(self.confidence, self.rows, out=np.full(len(self.rows), np.nan), where=self.rows > 0)

    def suspected(self) -> int:
        """How many rows are suspected; rows in the one bin that a threshold cuts count in proportion."""
        bins = self.wrong.shape[1]
        reached = np.clip(np.arange(1, bins + 1) - bins * self.thresholds()[:, None], 0, 1)
        return round(float(np.nansum(reached * self.wrong)))
