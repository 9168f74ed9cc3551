"""The results of an evaluation: frozen numbers, derived from the sums. Nothing here sees a row or draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from .accumulators import LossSums, RowSums
from .batches import RowLoss
from .calibration import Calibration
from .clusters import ClusterSums
from .intervals import Spread, holm

NATS_PER_BIT = math.log(2)


@dataclass(frozen=True)
class MeanLoss:
    """The mean log loss of a group of rows, in nats.

    `mean` is infinite where one row's loss is; `finite_mean` is the mean of the other rows, None where there is none.
    `spread` is that of the finite rows' mean, by row or by cluster; None where there are too few of them.
    """

    rows: int
    correct: int
    infinite: int
    weight: float
    mean: float
    finite_mean: float | None
    finite_total: float
    spread: Spread | None
    clusters: int | None = None

    @classmethod
    def from_sums(cls, sums: LossSums, group: int = 0, clusters: ClusterSums | None = None) -> MeanLoss | None:
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
            spread=clusters.spread() if clusters else sums.spread(group),
            clusters=len(clusters.keys) if clusters else None,
        )

    @property
    def bits(self) -> float:
        return self.mean / NATS_PER_BIT

    @property
    def accuracy(self) -> float:
        return self.correct / self.rows

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean; None for an infinite mean and for too few rows."""
        return self.spread.interval() if self.spread and not self.infinite else None


@dataclass(frozen=True)
class Baseline:
    """A prediction that looks at no row, and the skill of the model against it: 1 - loss / baseline loss."""

    name: str
    loss: float
    skill: float | None


@dataclass(frozen=True)
class PartLoss:
    """The mean loss of a part of the rows: of one class, of one value of a column; None where it has no rows.

    `share` is its share of the whole loss. `p_value` is of the difference between this part's mean and that of all
    other rows, adjusted (Holm) for looking at every part; None where there are too few rows to tell.
    """

    name: str
    loss: MeanLoss | None
    share: float | None
    p_value: float | None

    @property
    def differs(self) -> bool:
        """Whether the part differs from the other rows by more than chance explains, at the 5 % level."""
        return self.p_value is not None and self.p_value < 0.05


def part_losses(names: Sequence[str], sums: LossSums) -> tuple[PartLoss, ...]:
    """The loss of every group of the sums, beside the others."""
    total = sums.total()
    whole = MeanLoss.from_sums(total)
    losses = [MeanLoss.from_sums(sums, group) for group in range(len(names))]
    if whole is None:
        return tuple(PartLoss(name, None, None, None) for name in names)
    shares = not whole.infinite and whole.finite_total > 0
    p_values = {
        group: p_value
        for group, loss in enumerate(losses)
        if loss and (p_value := _difference_p_value(loss, sums.without(group, total))) is not None
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return tuple(
        PartLoss(name, loss, loss.finite_total / whole.finite_total if loss and shares else None, adjusted.get(group))
        for group, (name, loss) in enumerate(zip(names, losses, strict=True))
    )


def _difference_p_value(part: MeanLoss, others: LossSums) -> float | None:
    rest = others.spread()
    if part.spread is None or rest is None:
        return None
    error = math.hypot(part.spread.standard_error, rest.standard_error)
    return 2 * NormalDist().cdf(-abs(part.spread.mean - rest.mean) / error) if error else None


@dataclass(frozen=True)
class LogLossScores:
    """All numbers of a report. Losses are in nats, rows are counted from 0.

    `source` and `reading` say what was read and how; `ignored` counts the rows of weight 0; `worst_share` is the share
    of the loss in the 1 % of the rows that lose most; `label_thresholds` are confident learning's, by class.
    """

    source: str
    reading: tuple[str, ...]
    classes: tuple[str, ...]
    ignored: int
    loss: MeanLoss
    worst_share: float | None
    baselines: tuple[Baseline, ...]
    calibration: Calibration | None
    by_class: tuple[PartLoss, ...]
    slices: Mapping[str, tuple[PartLoss, ...]]
    infinite_rows: tuple[RowLoss, ...]
    worst: tuple[RowLoss, ...]
    label_thresholds: tuple[float, ...]
    suspected_label_errors: int
    row_sums: RowSums | None

    def is_suspected(self, row: RowLoss) -> bool:
        """Whether a row that is shown may have the wrong label."""
        return row.prediction != row.label and row.prediction_probability >= self.label_thresholds[row.prediction]
