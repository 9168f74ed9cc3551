"""The results of comparing two models on the same rows: frozen numbers. Differences are B - A: below 0, B is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from crossentropy import perplexity

from .intervals import Spread


@dataclass(frozen=True)
class MeanDifference:
    """The mean of loss B - loss A over a part of the rows, in nats.

    It is of the rows where both losses are finite; `infinite_a` and `infinite_b` count the rows where only A's or only
    B's is infinite, `infinite_both` those where both are, which say nothing about the difference.
    `b_wins` counts the rows where B's loss is the smaller one, `ties` those where they are equal.
    """

    rows: int
    finite_mean: float | None
    spread: Spread | None
    b_wins: int
    ties: int
    infinite_a: int = 0
    infinite_b: int = 0
    infinite_both: int = 0

    @property
    def mean(self) -> float:
        """The mean over all rows: infinite where one model alone has an infinite loss, NaN where each has one."""
        if self.infinite_a or self.infinite_b:
            return (math.inf if self.infinite_b else 0.0) + (-math.inf if self.infinite_a else 0.0)
        return math.nan if self.finite_mean is None else self.finite_mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None for an infinite mean and for too few rows."""
        return self.spread.interval() if self.spread and math.isfinite(self.mean) else None

    @property
    def probability_ratio(self) -> float:
        """The geometric-mean probability of B's labels over that of A's: exp(-mean)."""
        return float(perplexity(-self.mean))  # math.exp would raise where it is too large for a float

    @property
    def win_rate(self) -> float:
        """The share of rows where B's loss is the smaller one, ties counting half."""
        return (self.b_wins + self.ties / 2) / self.rows


@dataclass(frozen=True)
class PartDifference:
    """The difference in a part of the rows; `p_value` of no difference, adjusted (Holm) for looking at every part."""

    name: str
    difference: MeanDifference | None
    p_value: float | None

    @property
    def differs(self) -> bool:
        return self.p_value is not None and self.p_value < 0.05


@dataclass(frozen=True)
class MovedRow:
    """A row whose loss differs much between the models."""

    row: int
    id: int | str | None
    label: str | None
    loss_a: float
    loss_b: float

    @property
    def difference(self) -> float:
        return self.loss_b - self.loss_a


@dataclass(frozen=True)
class ComparisonScores:
    """All numbers of a comparison; `alignment` says how the rows were brought together.

    Losses and differences are means per `unit`, "row" for predictions of classes, for texts "token", "byte" or "row";
    `per` has the difference per every unit that both models count.
    """

    source_a: str
    source_b: str
    alignment: str
    unmatched_a: int
    unmatched_b: int
    loss_a: float
    loss_b: float
    difference: MeanDifference
    clusters: int | None
    by_class: tuple[PartDifference, ...]
    slices: Mapping[str, tuple[PartDifference, ...]]
    better: tuple[MovedRow, ...]
    worse: tuple[MovedRow, ...]
    unit: str = "row"
    per: Mapping[str, MeanDifference] = field(default_factory=dict)
