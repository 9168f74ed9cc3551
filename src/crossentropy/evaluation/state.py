"""The evaluation of predictions against labels: one mergeable state, fed batch by batch, and its result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from crossentropy import cross_entropy, entropy

from .accumulators import LossSums, RowSums, WorstRows
from .batches import Batch, PredictionError, RowLoss
from .log_loss_report import LogLossReport
from .scores import Baseline, ClassLoss, MeanLoss

SHOWN_INFINITE_ROWS = 10


@dataclass(frozen=True)
class Evaluation:
    """Everything the report needs of the rows seen so far. Immutable: `update` and `merge` return a new state.

    The loss of a row is -log of the probability given to its label, in nats. The size of the state does not grow with
    the rows, and `a.merge(b)` is the state of a's rows followed by b's: split a data set anywhere, evaluate the
    parts, merge.

    Examples
    --------
    >>> import numpy as np
    >>> from crossentropy.evaluation import Batch, Evaluation
    >>> empty = Evaluation.empty(["cat", "dog"])
    >>> first = empty.update(Batch(np.array([[0.9, 0.1]]), np.array([0])))
    >>> second = empty.update(Batch(np.array([[0.6, 0.4]]), np.array([1])))
    >>> result = first.merge(second).result()
    >>> round(result.loss.mean, 6), result.loss.correct
    (0.510826, 1)
    """

    classes: tuple[str, ...]
    rows: int
    ignored: int
    by_class: LossSums
    row_sums: RowSums
    worst: WorstRows
    infinite_rows: tuple[RowLoss, ...] = ()

    @classmethod
    def empty(cls, classes: Sequence[str], worst: int = 10) -> Self:
        """No rows yet.

        Parameters
        ----------
        classes : the classes' names, in the order of the probability columns
        worst : how many of the most confidently wrong rows to keep
        """
        if worst < 0:
            raise ValueError(f"worst must be a number of rows, 0 or more, not {worst}")
        names = tuple(str(name) for name in classes)
        return cls(names, 0, 0, LossSums.empty(len(names)), RowSums(len(names)), WorstRows(worst))

    def update(self, batch: Batch) -> Self:
        """The state with the rows of one batch more, whose positions count on from the rows seen before."""
        if batch.probabilities.shape[1] != len(self.classes):
            raise PredictionError(
                f"the batch has {batch.probabilities.shape[1]} probabilities per row for {len(self.classes)} classes"
            )
        after = replace(self, rows=self.rows + batch.seen, ignored=self.ignored + batch.seen - batch.rows)
        if not batch.rows:
            return after
        # in float64, where the loss is exact for the number that was stored
        chosen = batch.probabilities[np.arange(batch.rows), batch.labels].astype(np.float64)
        loss = cross_entropy(chosen[:, None], np.zeros(batch.rows, np.intp), inputs="probs", reduction="none")
        prediction = batch.probabilities.argmax(axis=1)
        shift = self.rows - batch.first_row
        infinite = np.flatnonzero(np.isinf(loss))[:SHOWN_INFINITE_ROWS]
        seen = replace(
            after,
            by_class=self.by_class.update(batch.labels, loss, prediction == batch.labels, batch.weights),
            row_sums=self.row_sums.update(batch.probabilities),
            worst=self.worst.update(batch, loss, prediction, shift),
        )
        return seen._with_infinite(batch.row_loss(row, loss, prediction).shifted(shift) for row in infinite)

    def merge(self, other: Self) -> Self:
        """The state of these rows followed by the other's."""
        if self.classes != other.classes:
            raise ValueError(f"cannot merge evaluations of different classes: {self.classes} and {other.classes}")
        if self.worst.size != other.worst.size:
            raise ValueError(f"cannot merge evaluations that keep {self.worst.size} and {other.worst.size} worst rows")
        return replace(
            self,
            rows=self.rows + other.rows,
            ignored=self.ignored + other.ignored,
            by_class=self.by_class.merge(other.by_class),
            row_sums=self.row_sums.merge(other.row_sums),
            worst=self.worst.merge(other.worst.shifted(self.rows)),
        )._with_infinite(row.shifted(self.rows) for row in other.infinite_rows)

    def _with_infinite(self, rows: Iterable[RowLoss]) -> Self:
        return replace(self, infinite_rows=(*self.infinite_rows, *rows)[:SHOWN_INFINITE_ROWS])

    def result(self, source: str = "", reading: Sequence[str] = ()) -> LogLossReport:
        """The numbers, from the sums.

        Parameters
        ----------
        source, reading : what was read and how, repeated at the head of the report

        Raises
        ------
        PredictionError : there are no rows, or every row has weight 0
        """
        loss = MeanLoss.from_sums(self.by_class.total())
        if loss is None:
            raise PredictionError(f"all {self.rows} rows have weight 0" if self.rows else "there are no rows")
        by_class = [MeanLoss.from_sums(self.by_class, group) for group in range(len(self.classes))]
        weights = np.array([item.weight if item else 0.0 for item in by_class])
        return LogLossReport(
            source=source,
            reading=tuple(reading),
            classes=self.classes,
            ignored=self.ignored,
            loss=loss,
            baselines=(
                _baseline("uniform", math.log(len(self.classes)), loss),
                _baseline("class prior", abs(float(entropy(weights / weights.sum()))), loss),
            ),
            by_class=tuple(
                ClassLoss(name, item, item.finite_total / loss.finite_total if item and _divides(loss) else None)
                for name, item in zip(self.classes, by_class, strict=True)
            ),
            infinite_rows=self.infinite_rows,
            worst=self.worst.rows,
            row_sums=self.row_sums,
        )


def _divides(loss: MeanLoss) -> bool:
    return not loss.infinite and loss.finite_total > 0


def _baseline(name: str, baseline: float, loss: MeanLoss) -> Baseline:
    # one class, or one class that occurs: the baseline is perfect and there is no scale to measure a skill on
    return Baseline(name, baseline, 1 - loss.mean / baseline if baseline > 0 else None)
