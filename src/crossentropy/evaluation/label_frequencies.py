"""How often each class is the label, question by question: what a prediction that looks at no row can know.

Where a row may have several labels, each class is a question of its own, with the answers absent and present. The best
that a constant prediction can do is to give every question its own frequencies f: it loses the mean of their entropies
-sum_j f_j log f_j, by the weight of the questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from crossentropy import entropy

from .batches import Categories


@dataclass(frozen=True)
class LabelFrequencies:
    """The weight of the rows of every question (by name) and class; shape (questions, classes)."""

    questions: tuple[str, ...]
    weight: np.ndarray

    @classmethod
    def of(cls, questions: Categories, labels: np.ndarray, weights: np.ndarray | None, classes: int) -> Self:
        cells = np.bincount(questions.codes * classes + labels, weights, len(questions.names) * classes)
        return cls(questions.names, cells.reshape(-1, classes).astype(np.float64))

    def merge(self, other: Self) -> Self:
        if self.questions != other.questions:
            raise ValueError(f"cannot merge answers to different questions: {self.questions} and {other.questions}")
        return type(self)(self.questions, self.weight + other.weight)

    def prior_loss(self) -> float:
        """What the frequencies lose, each question's as the prediction of all its rows, in nats per row."""
        asked = self.weight[self.weight.any(axis=1)]
        each = asked.sum(axis=1)
        return float(np.average(entropy(asked / each[:, None]), weights=each))
