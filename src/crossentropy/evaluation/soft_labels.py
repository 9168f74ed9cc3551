"""Soft labels: a distribution over the classes per row, as several annotators or a teacher give it.

The loss of a row with the label q is -sum_j q_j log p_j = H(q) + KL(q, p): no prediction can lose less than the entropy
of the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from crossentropy import entropy


@dataclass(frozen=True)
class SoftLabelSums:
    """Per class the weighted sum of its share; the weight, and the weighted sum of the labels' entropies."""

    share: np.ndarray
    weight: float = 0.0
    entropy: float = 0.0

    @classmethod
    def of(cls, targets: np.ndarray, weights: np.ndarray | None) -> Self:
        w = np.ones(len(targets)) if weights is None else weights
        return cls(w @ targets, float(w.sum()), float(w @ entropy(targets)))

    def merge(self, other: Self) -> Self:
        return type(self)(self.share + other.share, self.weight + other.weight, self.entropy + other.entropy)
