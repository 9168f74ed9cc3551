"""Reliability: how often what was given a probability happened; the CORP staircase, its band and the rows behind it.

Sort the rows by their probability and fit the relative frequency of what happened by isotonic regression: no bins to
choose. The band is where the staircase of a calibrated model with these probabilities lies, 95 times in 100 at each
point: the labels are drawn from the probabilities and fitted again.

Source: Dimitriadis, Gneiting, Jordan 2021, "Stable reliability diagrams for probabilistic classifiers", PNAS 118 (8),
https://doi.org/10.1073/pnas.2016191118.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from crossentropy import binary_cross_entropy, softmax

from .batches import Batch, PredictionError
from .corp import Corp, ScoreSums, isotonic_fit

# One cell is half a pixel of a picture 500 pixels wide. The scores' numbers (`corp`) do not go through the cells.
CELLS = 1000
# Enough for the ends of a 95 % band to be steady; fewer make them jump.
DRAWS = 200
BAND_POINTS = 101
DENSITY_BINS = 40


@dataclass(frozen=True)
class Reliability:
    """What a reliability diagram shows; every array is of bounded length, whatever the number of rows.

    `name` says whose probability it is. The staircase: `frequency[i]` is the fitted frequency from the probability
    `lowest[i]` to `highest[i]`. `band` are probabilities with the lower and the upper end of the band there, None with
    soft labels and with weights that are no counts, where no labels can be drawn. `density` counts the rows in 40 equal
    bins of [0, 1]. `corp` has the parts of the (binary) log loss; its loss is infinite where something happened that
    had the probability 0.
    """

    name: str
    rows: int
    mean_probability: float
    mean_frequency: float
    lowest: np.ndarray
    highest: np.ndarray
    frequency: np.ndarray
    band: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    density: np.ndarray
    corp: Corp

    @classmethod
    def from_sums(cls, name: str, sums: ScoreSums, has_soft_labels: bool = False) -> Self:
        """From the sums by score.

        Raises
        ------
        PredictionError : there are no rows
        """
        corp = sums.result()
        if corp is None:
            raise PredictionError("there are no rows")
        p = np.clip(sums.expected / sums.weight, 0, 1)
        cell = np.minimum((p * CELLS).astype(np.intp), CELLS - 1)
        present, place = np.unique(cell, return_inverse=True)

        def total(values: np.ndarray) -> np.ndarray:
            return np.bincount(place, values, len(present))

        weight, positive, rows = total(sums.weight), total(sums.positive), total(sums.rows)
        mean = total(sums.expected) / weight
        lowest, highest = np.full(len(present), np.inf), np.zeros(len(present))
        np.minimum.at(lowest, place, p)
        np.maximum.at(highest, place, p)
        fitted = isotonic_fit(positive, weight)
        start = np.flatnonzero(np.r_[True, np.diff(fitted) > 1e-12])
        end = np.r_[start[1:], len(fitted)] - 1
        drawn = np.array_equal(sums.rows, sums.weight) and not has_soft_labels  # the labels can be, from the sums
        bins = np.minimum((p * DENSITY_BINS).astype(np.intp), DENSITY_BINS - 1)
        return cls(
            name=name,
            rows=int(sums.rows.sum()),
            mean_probability=float(sums.expected.sum() / sums.weight.sum()),
            mean_frequency=float(sums.positive.sum() / sums.weight.sum()),
            lowest=lowest[start],
            highest=highest[end],
            frequency=fitted[start],
            band=_band(mean, rows) if drawn else None,
            density=np.bincount(bins, sums.rows, DENSITY_BINS).astype(np.int64),
            corp=corp if drawn else replace(corp, null_miscalibration=None),
        )


def _band(p: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    at = np.linspace(p[0], p[-1], BAND_POINTS)
    counts = rows.astype(np.int64)
    drawn = [np.interp(at, p, isotonic_fit(generator.binomial(counts, p) * 1.0, rows)) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return at, low, high


@dataclass(frozen=True)
class ReliabilitySums:
    """The sums of several diagrams: of the top label (None), and of classes (their positions) against the rest.

    Immutable, with `empty`, `update`, `merge` and `result`; its size does not grow with the rows.
    """

    classes: tuple[str, ...]
    sums: dict[int | None, ScoreSums]
    has_soft_labels: bool = False

    @classmethod
    def empty(cls, classes: Sequence[str], of: Sequence[int | None]) -> Self:
        return cls(tuple(classes), {which: ScoreSums.empty() for which in of})

    def update(self, batch: Batch) -> Self:
        """Add the rows of one batch."""
        if not batch.rows:
            return self
        values = batch.predictions
        if batch.inputs == "logits":
            values = softmax(values)
        elif batch.inputs == "log_probs":
            values = np.exp(values)
        new = {}
        for which, sums in self.sums.items():
            chosen = values.argmax(axis=1) if which is None else np.full(batch.rows, which)
            p = np.ascontiguousarray(values[np.arange(batch.rows), chosen], np.float64)
            happened = (batch.labels == chosen).astype(np.float64)
            if batch.targets is not None:
                happened = np.clip(batch.targets[np.arange(batch.rows), chosen], 0.0, 1.0)
            loss = binary_cross_entropy(p, happened, inputs="probs", reduction="none", ignore_index=None)
            new[which] = sums.update(p, happened, loss, batch.weights)
        return replace(self, sums=new, has_soft_labels=self.has_soft_labels or batch.targets is not None)

    def merge(self, other: Self) -> Self:
        sums = {which: sums.merge(other.sums[which]) for which, sums in self.sums.items()}
        return replace(self, sums=sums, has_soft_labels=self.has_soft_labels or other.has_soft_labels)

    def result(self) -> tuple[Reliability, ...]:
        """One diagram for each, in the order they were asked for."""
        names = {which: "top label" if which is None else self.classes[which] for which in self.sums}
        return tuple(
            Reliability.from_sums(names[which], sums, self.has_soft_labels) for which, sums in self.sums.items()
        )
