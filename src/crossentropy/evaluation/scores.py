"""The results of an evaluation: frozen numbers, derived from the sums. Nothing here sees a row or draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crossentropy.reduction import NATS_PER_UNIT

from .accumulators import LossSums
from .batches import RowLoss
from .calibration import Calibration
from .clusters import ClusterSums
from .corp import Corp
from .intervals import Spread, holm, skewed_p_value
from .row_sums import RowSums


@dataclass(frozen=True)
class MeanLoss:
    """The mean log loss of a group of rows, in nats.

    `mean` is infinite where one row's loss is; `finite_mean` is the mean of the other rows, None where there is none.
    `spread` is that of the finite rows' mean, by row or by cluster, None where there are too few of them; `row_error`
    is the standard error by row.
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
    row_error: float | None = None

    @classmethod
    def from_sums(cls, sums: LossSums, group: int = 0, clusters: ClusterSums | None = None) -> MeanLoss | None:
        """The mean of one group of the sums; None where the group has no rows."""
        rows, infinite = int(sums.rows[group]), int(sums.infinite[group])
        if not rows:
            return None
        finite_weight, finite_total = float(sums.w1l0[group]), float(sums.w1l1[group])
        finite_mean = finite_total / finite_weight if rows > infinite else None
        by_row = sums.spread(group)
        return cls(
            rows=rows,
            correct=int(sums.correct[group]),
            infinite=infinite,
            weight=finite_weight + float(sums.infinite_weight[group]),
            mean=math.inf if finite_mean is None or infinite else finite_mean,
            finite_mean=finite_mean,
            finite_total=finite_total,
            spread=clusters.spread() if clusters else by_row,
            row_error=by_row.standard_error if by_row else None,
            clusters=len(clusters.keys) if clusters else None,
        )

    @property
    def bits(self) -> float:
        return self.mean / NATS_PER_UNIT["bits"]

    @property
    def accuracy(self) -> float:
        return self.correct / self.rows

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean; None for an infinite mean and for too few rows."""
        return self.spread.interval() if self.spread and not self.infinite else None

    @property
    def inflation(self) -> float:
        """How much wider clusters make the standard error than the rows alone would; at least 1."""
        if not self.clusters or not self.spread or not self.row_error:
            return 1.0
        return max(1.0, self.spread.standard_error / self.row_error)


@dataclass(frozen=True)
class Baseline:
    """A prediction that looks at no row, and the skill of the model against it: 1 - loss / baseline loss."""

    name: str
    loss: float
    skill: float | None

    @classmethod
    def of(cls, name: str, baseline: float, loss: MeanLoss) -> Baseline:
        """The skill is None where the baseline is perfect: there is no scale to measure a skill on."""
        return cls(name, baseline, 1 - loss.mean / baseline if 0 < baseline < math.inf else None)


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


def part_losses(names: Sequence[str], sums: LossSums, inflation: float = 1.0) -> tuple[PartLoss, ...]:
    """The loss of every group of the sums, beside the others.

    `inflation` widens the standard errors: what clusters do to that of the whole, they are taken to do to the parts.
    """
    total = sums.total()
    whole = MeanLoss.from_sums(total)
    if whole is None:
        return tuple(PartLoss(name, None, None, None) for name in names)
    losses = [MeanLoss.from_sums(sums, group) for group in range(len(names))]
    losses = [loss and replace(loss, spread=loss.spread and loss.spread.inflated(inflation)) for loss in losses]
    shares = not whole.infinite and whole.finite_total > 0
    moments = total.central_moments() if total.spread() else None
    p_values = {
        group: p_value
        for group in np.flatnonzero(sums.rows).tolist()
        if (p_value := _difference_p_value(sums, group, total, moments, inflation)) is not None
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return tuple(
        PartLoss(name, loss, loss.finite_total / whole.finite_total if loss and shares else None, adjusted.get(group))
        for group, (name, loss) in enumerate(zip(names, losses, strict=True))
    )


def _difference_p_value(
    sums: LossSums, group: int, total: LossSums, moments: tuple[float, float, float] | None, inflation: float
) -> float | None:
    """The chance that rows drawn from all rows differ as much in their mean as the rows of this part do.

    The variance and the skewness, in `moments`, are those of all rows: a part of a few skewed losses does not know its
    own.
    """

    def part(power: int, at: LossSums = sums, i: int = group) -> float:
        return float(getattr(at, f"w{power}l0")[i])

    share = part(1) / part(1, total, 0) if part(1) else 1.0
    if moments is None or not 0 < share < 1:
        return None
    mean, second, third = moments
    error = math.sqrt(second * part(2) * (1 - share)) / part(1) * inflation
    if not error:
        return None
    skewness = third / second**1.5 * part(3) / part(2) ** 1.5
    return skewed_p_value((float(sums.w1l1[group]) / part(1) - mean) / error, skewness)


@dataclass(frozen=True)
class LogLossScores:
    """All numbers of a report. Losses are in nats, rows are counted from 0.

    `source` and `reading` say what was read and how; `ignored` counts the rows of weight 0; `worst_share` is the share
    of the loss in the 1 % of the rows that lose most; `corp` is there with two classes; `label_thresholds` are
    confident learning's, by class; `label_entropy` is the mean entropy of soft labels, below which no loss can be.
    """

    source: str
    reading: tuple[str, ...]
    classes: tuple[str, ...]
    ignored: int
    loss: MeanLoss
    worst_share: float | None
    baselines: tuple[Baseline, ...]
    calibration: Calibration | None
    corp: Corp | None
    by_class: tuple[PartLoss, ...]
    slices: Mapping[str, tuple[PartLoss, ...]]
    infinite_rows: tuple[RowLoss, ...]
    worst: tuple[RowLoss, ...]
    label_thresholds: tuple[float, ...]
    suspected_label_errors: int
    row_sums: RowSums | None
    label_entropy: float | None = None

    def is_suspected(self, row: RowLoss) -> bool:
        """Whether a row that is shown may have the wrong label."""
        return row.prediction != row.label and row.prediction_probability >= self.label_thresholds[row.prediction]
