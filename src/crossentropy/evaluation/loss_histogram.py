"""How the losses are distributed, on a fixed grid that merges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

# Bins are cut from the bits of a float64: the exponent and the first 4 bits of the fraction make 16 bins per factor of
# 2, from 2^-64 to 2^12. Losses are 0 (first bin) to 745 for a float64 probability, and a few thousand from logits.
_FRACTION_BITS = 4
_LOWEST = (1023 - 64) << _FRACTION_BITS
BINS_PER_OCTAVE = 1 << _FRACTION_BITS
BINS = (64 + 12) << _FRACTION_BITS


@dataclass(frozen=True)
class LossHistogram:
    """Per bin: the number of rows, their weight and their weighted loss. Rows of infinite loss are left out."""

    rows: np.ndarray
    weight: np.ndarray
    loss: np.ndarray

    @classmethod
    def empty(cls) -> Self:
        return cls(np.zeros(BINS, np.int64), np.zeros(BINS), np.zeros(BINS))

    def update(self, loss: np.ndarray, weight: np.ndarray | None) -> Self:
        """Add rows by their finite float64 losses."""
        bins = np.clip((loss.view(np.int64) >> (52 - _FRACTION_BITS)) - _LOWEST, 0, BINS - 1)
        rows = np.bincount(bins, minlength=BINS)
        w_loss = np.bincount(bins, loss if weight is None else weight * loss, BINS)
        return self.merge(type(self)(rows, rows * 1.0 if weight is None else np.bincount(bins, weight, BINS), w_loss))

    def merge(self, other: Self) -> Self:
        return type(self)(self.rows + other.rows, self.weight + other.weight, self.loss + other.loss)

    @staticmethod
    def edges() -> np.ndarray:
        """The BINS + 1 edges of the bins, in nats; the first bin holds all that is smaller, the last what is larger."""
        return (np.arange(_LOWEST, _LOWEST + BINS + 1) << (52 - _FRACTION_BITS)).view(np.float64)

    def share_of_worst(self, fraction: float = 0.01) -> float | None:
        """The share of the whole loss that the rows of the largest losses carry, `fraction` of the weight.

        Within the one bin that is cut, losses count as equal; they differ by at most 1/16.
        """
        total = self.loss.sum()
        if not total > 0:
            return None
        wanted = fraction * self.weight.sum()
        weight, loss = self.weight[::-1], self.loss[::-1]
        before = np.cumsum(weight) - weight
        taken = np.clip((wanted - before) / np.where(weight > 0, weight, 1), 0, 1)
        return float((taken * loss).sum() / total)
