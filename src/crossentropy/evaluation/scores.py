"""The results of an evaluation: frozen numbers, derived from the sums. Nothing here sees a row or draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .accumulators import LossSums, RowSums
from .batches import RowLoss

NATS_PER_BIT = math.log(2)


@dataclass(frozen=True)
class MeanLoss:
    """The mean log loss of a group of rows, in nats.

    `mean` is infinite where one row's loss is; `finite_mean` is the mean of the other rows, None where there is none.
    """

    rows: int
    correct: int
    infinite: int
    weight: float
    mean: float
    finite_mean: float | None
    finite_total: float

    @classmethod
    def from_sums(cls, sums: LossSums, group: int = 0) -> MeanLoss | None:
        """The mean of one group of the sums; None where the group has no rows."""
        rows, infinite = int(sums.rows[group]), int(sums.infinite[group])
        if not rows:
            return None
        finite_weight, finite_total = float(sums.w1l0[group]), float(sums.w1l1[group])
        finite_mean = finite_total / finite_weight if rows > infinite else None
        return cls(
            rows=rows,
            correct=int(sums.correct[group]),
            infinite=infinite,
            weight=finite_weight + float(sums.infinite_weight[group]),
            mean=math.inf if finite_mean is None or infinite else finite_mean,
            finite_mean=finite_mean,
            finite_total=finite_total,
        )

    @property
    def bits(self) -> float:
        return self.mean / NATS_PER_BIT

    @property
    def accuracy(self) -> float:
        return self.correct / self.rows


@dataclass(frozen=True)
class Baseline:
    """A prediction that looks at no row, and the skill of the model against it: 1 - loss / baseline loss."""

    name: str
    loss: float
    skill: float | None


@dataclass(frozen=True)
class ClassLoss:
    """The mean loss of the rows of one class; `loss` is None for a class that does not occur."""

    name: str
    loss: MeanLoss | None
    share: float | None


@dataclass(frozen=True)
class LogLossScores:
    """All numbers of a report. Losses are in nats, rows are counted from 0.

    `source` and `reading` say what was read and how; `ignored` counts the rows of weight 0.
    """

    source: str
    reading: tuple[str, ...]
    classes: tuple[str, ...]
    ignored: int
    loss: MeanLoss
    baselines: tuple[Baseline, ...]
    by_class: tuple[ClassLoss, ...]
    infinite_rows: tuple[RowLoss, ...]
    worst: tuple[RowLoss, ...]
    row_sums: RowSums
