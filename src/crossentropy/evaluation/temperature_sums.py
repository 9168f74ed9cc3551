"""The loss at every temperature, as sums over rows.

Divide a row's logits x by a temperature T and write u = log(1 / T). With l the row's loss, p the probabilities, H their
entropy and V = sum_j p_j (log p_j + H)^2 the variance of -log p, all at that temperature,

    d l / d u = l - H        d^2 l / d u^2 = l - H + V

so one read of a row gives its loss and two derivatives on a grid of temperatures, and the mean loss is convex in 1 / T.
At T = 1 the slope is the gap, loss - entropy: what the model loses minus what it expects to lose. If the label was
drawn from the probabilities, the gap has the mean 0 and the variance V.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from crossentropy import row_statistics

# The grid of u = log(1 / T): T from 1/16 to 16 in factors of 2; u = 0 is the model as it is.
STEP = math.log(2)
GRID = np.arange(-4, 5) * STEP
INVERSE_TEMPERATURES = np.exp2(np.arange(-4, 5))
# The temperature that a row is judged by is fitted without the rows of its fold.
FOLDS = 5


@dataclass(frozen=True)
class TemperatureSums:
    """Sums over rows of the loss and its derivatives on the grid, by fold; at T = 1, of the gap and of its variance.

    Rows with an infinite loss are left out: no temperature makes it finite.
    """

    weight: np.ndarray
    loss: np.ndarray
    slope: np.ndarray
    bend: np.ndarray
    gap: float = 0.0
    gap_variance: float = 0.0

    @classmethod
    def empty(cls) -> Self:
        return cls(np.zeros(FOLDS), *np.zeros((3, FOLDS, len(GRID))))

    @classmethod
    def of_sums(cls, by_fold: np.ndarray, gap: np.ndarray) -> Self:
        """From what the native core adds up."""
        loss, slope, bend = by_fold[:, 1:].reshape(FOLDS, 3, len(GRID)).swapaxes(0, 1)
        return cls(by_fold[:, 0], loss, slope, bend, float(gap[0]), float(gap[1]))

    @classmethod
    def of_rows(cls, logits: np.ndarray, target: np.ndarray, weight: np.ndarray | None, fold: np.ndarray) -> Self:
        """Of rows of finite loss by their float64 logits (or log-probabilities), where the core does not compute."""
        if not len(target):
            return cls.empty()
        w = np.ones(len(target)) if weight is None else weight
        loss, slope, bend = np.empty((3, FOLDS, len(GRID)))
        gap = gap_variance = 0.0
        for i, inverse in enumerate(INVERSE_TEMPERATURES):
            at = row_statistics(logits, target, temperature=1 / inverse, ignore_index=None)
            row_loss = -at.target_log_prob
            row_gap = row_loss - at.entropy
            variance = _surprise_variance(logits * inverse, at.lse, at.entropy)
            if inverse == 1:
                # soft labels are not drawn from the probabilities: their gap varies as much as it is seen to vary
                squared = variance if target.ndim == 1 else row_gap**2
                gap, gap_variance = float((w * row_gap).sum()), float((w**2 * squared).sum())
            loss[:, i] = np.bincount(fold, w * row_loss, FOLDS)
            slope[:, i] = np.bincount(fold, w * row_gap, FOLDS)
            bend[:, i] = np.bincount(fold, w * (row_gap + variance), FOLDS)
        return cls(np.bincount(fold, w, FOLDS), loss, slope, bend, gap, gap_variance)

    def merge(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def _surprise_variance(logits: np.ndarray, lse: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """The variance of -log p of a row's own random draw."""
    log_p = logits - lse[:, None]
    p = np.exp(log_p)
    # p = 0 has log p = -inf and counts 0
    return (p * np.square(log_p + entropy[:, None], out=np.zeros_like(p), where=p > 0)).sum(axis=1)


def folds(values: np.ndarray) -> np.ndarray:
    """The fold of each row, from the bits of its numbers: the same for any order and any split of the rows.

    native/score_kernels.cpp has the same hash.
    """
    bits = np.ascontiguousarray(values.T, np.float64).view(np.uint64)
    mixed = np.zeros(len(values), np.uint64)
    for column in bits:  # a multiplicative hash; unsigned integers wrap round
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return ((mixed >> np.uint64(32)) * np.uint64(FOLDS) >> np.uint64(32)).astype(np.intp)
