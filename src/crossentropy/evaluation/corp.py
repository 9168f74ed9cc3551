"""CORP: the parts of a binary log loss, from the best non-decreasing recalibration of the probabilities.

Sort the rows by their probability and fit the relative frequency of class 1 by isotonic regression; no bins to choose.
With S the mean log loss, S_fit that of the fitted frequencies and S_prior that of the constant overall frequency,

    S = miscalibration - discrimination + uncertainty
    miscalibration = S - S_fit,  discrimination = S_prior - S_fit,  uncertainty = S_prior

The fit follows the noise as well, so miscalibration is above 0 for a perfectly calibrated model too: its null value is
what it would be if the labels had been drawn from the probabilities.

Source: Dimitriadis, Gneiting, Jordan 2021, "Stable reliability diagrams for probabilistic classifiers", PNAS 118 (8),
https://doi.org/10.1073/pnas.2016191118.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from crossentropy import binary_cross_entropy, entropy

MOST_SCORES = 100_000
# Enough for the null value to be known to a few per cent of itself.
NULL_DRAWS = 20


@dataclass(frozen=True)
class ScoreSums:
    """Per distinct probability of class 1, in increasing order: rows, weight and weight of class 1, sum of w p.

    With more than 100,000 distinct probabilities the last bit of their keys is dropped, as often as needed: a fine
    grid, as fine near 1 as near 0, on which the fit is bracketed.
    """

    keys: np.ndarray
    rows: np.ndarray
    weight: np.ndarray
    positive: np.ndarray
    expected: np.ndarray
    loss: float = 0.0
    dropped_bits: int = 0

    @classmethod
    def empty(cls) -> Self:
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0))

    def update(self, p: np.ndarray, labels: np.ndarray, loss: np.ndarray, weight: np.ndarray | None) -> Self:
        """Add rows of finite loss by their float64 probability of class 1."""
        w = np.ones(len(p)) if weight is None else weight
        rows = np.ones(len(p), np.int64)
        return self.merge(type(self)(_keys(p), rows, w, w * labels, w * p, float((w * loss).sum())))

    def merge(self, other: Self) -> Self:
        bits = max(self.dropped_bits, other.dropped_bits)
        keys = np.concatenate([self.keys, other.keys])
        while True:
            distinct, place = np.unique(keys >> np.uint64(bits), return_inverse=True)
            if len(distinct) <= MOST_SCORES:
                break
            bits += 1

        def total(name: str) -> np.ndarray:
            return np.bincount(place, np.concatenate([getattr(self, name), getattr(other, name)]), len(distinct))

        return type(self)(
            keys=distinct << np.uint64(bits),
            rows=total("rows").astype(np.int64),
            weight=total("weight"),
            positive=total("positive"),
            expected=total("expected"),
            loss=self.loss + other.loss,
            dropped_bits=bits,
        )

    def result(self) -> Corp | None:
        """The parts; None where there are no rows."""
        total = float(self.weight.sum())
        if not total > 0:
            return None
        fitted = _fitted_loss(self.positive, self.weight) / total
        prior = float(self.positive.sum()) / total
        uncertainty = float(entropy(np.array([prior, 1 - prior])))
        return Corp(
            loss=self.loss / total,
            fitted=fitted,
            uncertainty=abs(uncertainty),
            null_miscalibration=self._null(),
            error=(fitted - self._lowest_fit() / total) if self.dropped_bits else 0.0,
        )

    def _null(self) -> float | None:
        if not np.array_equal(self.rows, self.weight):
            return None  # weights that are no counts: the labels of a row cannot be drawn from the sums
        generator = np.random.default_rng(0)
        p = np.clip(self.expected / self.weight, 0, 1)
        found = []
        for _ in range(NULL_DRAWS):
            drawn = generator.binomial(self.rows, p).astype(np.float64)
            own = self.weight * binary_cross_entropy(p, drawn / self.weight, inputs="probs", reduction="none")
            found.append((own.sum() - _fitted_loss(drawn, self.weight)) / self.weight.sum())
        return float(np.mean(found))

    def _lowest_fit(self) -> float:
        """The least loss that any order inside the cells of the grid could have: class 0 first, then class 1."""
        weight = np.stack([self.weight - self.positive, self.positive], axis=1).ravel()
        positive = np.stack([np.zeros_like(self.positive), self.positive], axis=1).ravel()
        return _fitted_loss(positive[weight > 0], weight[weight > 0])


@dataclass(frozen=True)
class Corp:
    """loss = miscalibration - discrimination + uncertainty, in nats, over the rows with a finite loss.

    `null_miscalibration` is the mean miscalibration of a calibrated model with these probabilities, None with weights.
    `error` is how much too small miscalibration and discrimination may be, from the grid; 0 where every score is kept.
    """

    loss: float
    fitted: float
    uncertainty: float
    null_miscalibration: float | None
    error: float

    @property
    def miscalibration(self) -> float:
        return self.loss - self.fitted

    @property
    def discrimination(self) -> float:
        return self.uncertainty - self.fitted


def _keys(p: np.ndarray) -> np.ndarray:
    """Integers in the order of p, with relative resolution at both ends: the bits of p below 1/2, of 1 - p above."""
    # 1 - p is exact for p >= 1/2; adding 0 makes -0 a plain 0, whose bits are 0
    low, high = (p + 0.0).view(np.uint64), (1.0 - p).view(np.uint64)
    half = np.float64(0.5).view(np.uint64)
    return np.where(p < 0.5, low, half + (half - np.minimum(high, half)))


def _fitted_loss(positive: np.ndarray, weight: np.ndarray) -> float:
    """The total loss of the isotonic fit of the frequencies positive / weight: the weighted entropy of its blocks.

    Neighbours that would decrease are pooled until none do. A loop of our own: scipy.optimize has it, and takes longer
    to import than a whole report takes.
    """
    pooled: list[tuple[float, float]] = []
    for p, w in zip(positive.tolist(), weight.tolist(), strict=True):
        while pooled and pooled[-1][0] * w >= p * pooled[-1][1]:
            before_p, before_w = pooled.pop()
            p, w = p + before_p, w + before_w
        pooled.append((p, w))
    blocks = np.array(pooled)
    fit = np.clip(blocks[:, 0] / blocks[:, 1], 0, 1)
    return float((blocks[:, 1] * entropy(np.stack([fit, 1 - fit], axis=1))).sum())
