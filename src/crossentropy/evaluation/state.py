"""The evaluation of predictions against labels: one mergeable state, fed batch by batch, and its result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from crossentropy import entropy, softmax

from . import state_bytes
from .accumulators import LossSums, WorstRows
from .batches import Batch, PredictionError, RowLoss
from .calibration import Calibration
from .clusters import ClusterSums
from .corp import ScoreSums
from .label_errors import LabelErrorSums
from .label_frequencies import LabelFrequencies
from .log_loss_report import LogLossReport
from .loss_histogram import LossHistogram
from .row_scores import RowScores
from .row_sums import RowSums
from .scores import Baseline, MeanLoss, part_losses
from .slices import SliceSums
from .soft_labels import SoftLabelSums
from .stored_precision import StoredPrecision
from .temperature_sums import TemperatureSums

SHOWN_INFINITE_ROWS = 10
# What a saved state may be made of.
_PARTS = (
    *(LossSums, RowSums, StoredPrecision, WorstRows, RowLoss, LossHistogram),
    *(TemperatureSums, LabelErrorSums, ClusterSums, SliceSums, ScoreSums, SoftLabelSums),
    LabelFrequencies,
)


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
    histogram: LossHistogram
    temperatures: TemperatureSums
    label_errors: LabelErrorSums
    infinite_rows: tuple[RowLoss, ...] = ()
    binary: ScoreSums | None = None
    clusters: ClusterSums | None = None
    soft: SoftLabelSums | None = None
    frequencies: LabelFrequencies | None = None
    slices: Mapping[str, SliceSums] = field(default_factory=dict)

    @classmethod
    def empty(cls, classes: Sequence[str], worst: int = 10) -> Self:
        """No rows yet.

        Parameters
        ----------
        classes : the classes' names, in the order of the prediction columns
        worst : how many of the most confidently wrong rows to keep
        """
        if worst < 0:
            raise ValueError(f"worst must be a number of rows, 0 or more, not {worst}")
        names = tuple(str(name) for name in classes)
        return cls(
            classes=names,
            rows=0,
            ignored=0,
            by_class=LossSums.empty(len(names)),
            row_sums=RowSums(len(names)),
            worst=WorstRows(worst),
            histogram=LossHistogram.empty(),
            temperatures=TemperatureSums.empty(),
            label_errors=LabelErrorSums.empty(len(names)),
            binary=ScoreSums.empty() if len(names) == 2 else None,
        )

    def update(self, batch: Batch) -> Self:
        """The state with the rows of one batch more, whose positions count on from the rows seen before."""
        if batch.predictions.shape[1] != len(self.classes):
            raise PredictionError(
                f"the batch has {batch.predictions.shape[1]} predictions per row for {len(self.classes)} classes"
            )
        return self.add(RowScores.of(batch, with_temperatures=True))

    def add(self, scores: RowScores) -> Self:
        """The state with rows more that have been scored already."""
        batch = scores.batch
        after = replace(self, rows=self.rows + batch.seen, ignored=self.ignored + batch.seen - batch.rows)
        return after._with_scores(scores, self.rows - batch.first_row) if batch.rows else after

    def _with_scores(self, scores: RowScores, shift: int) -> Self:
        batch, loss, weights, sums = scores.batch, scores.loss, scores.batch.weights, scores.row_sum
        correct = scores.prediction == batch.labels
        finite: Any = np.isfinite(loss)
        infinite_rows: tuple[RowLoss, ...] = ()
        if np.all(finite):
            finite = slice(None)
        else:
            first = np.flatnonzero(np.isinf(loss))[:SHOWN_INFINITE_ROWS]
            infinite_rows = tuple(scores.row(row).shifted(shift) for row in first)
        finite_weights = None if weights is None else weights[finite]
        clusters, slices = self.clusters, dict(self.slices)
        if batch.groups is not None:
            groups = batch.groups.codes[finite], batch.groups.names
            clusters = (clusters or ClusterSums.empty()).update(*groups, loss[finite], finite_weights)
        binary = self.binary
        if binary:
            p = batch.predictions if batch.inputs == "probs" else softmax(batch.predictions)
            score = np.ascontiguousarray(p[finite, 1], np.float64)
            happened = batch.labels if batch.targets is None else batch.targets[:, 1]
            binary = binary.update(score, happened[finite], loss[finite], finite_weights)
        soft, label_errors = self.soft, self.label_errors
        if batch.targets is None:
            label_errors = label_errors.update(scores)
        else:  # of which none is right or wrong
            found = SoftLabelSums.of(batch.targets, weights)
            soft = found if soft is None else soft.merge(found)
        frequencies = self.frequencies
        if batch.questions is not None:
            asked = LabelFrequencies.of(batch.questions, batch.labels, weights, len(self.classes))
            frequencies = asked if frequencies is None else frequencies.merge(asked)
        for name, values in batch.slices.items():
            slices[name] = slices.get(name, SliceSums.empty(name)).update(values, loss, correct, weights)
        return replace(
            self,
            by_class=self.by_class.update(batch.labels, loss, correct, weights),
            row_sums=self.row_sums if sums is None else self.row_sums.update(batch.predictions, sums),
            worst=self.worst.update(scores, shift),
            histogram=self.histogram.update(loss[finite], finite_weights),
            temperatures=self.temperatures.merge(scores.temperatures) if scores.temperatures else self.temperatures,
            label_errors=label_errors,
            soft=soft,
            frequencies=frequencies,
            infinite_rows=(*self.infinite_rows, *infinite_rows)[:SHOWN_INFINITE_ROWS],
            binary=binary,
            clusters=clusters,
            slices=slices,
        )

    def merge(self, other: Self) -> Self:
        """The state of these rows followed by the other's."""
        if self.classes != other.classes:
            raise ValueError(f"cannot merge evaluations of different classes: {self.classes} and {other.classes}")
        if self.worst.size != other.worst.size:
            raise ValueError(f"cannot merge evaluations that keep {self.worst.size} and {other.worst.size} worst rows")
        clusters, slices = self.clusters or other.clusters, {**other.slices, **self.slices}
        soft = self.soft or other.soft
        if self.soft and other.soft:
            soft = self.soft.merge(other.soft)
        frequencies = self.frequencies or other.frequencies
        if self.frequencies and other.frequencies:
            frequencies = self.frequencies.merge(other.frequencies)
        if self.clusters and other.clusters:
            clusters = self.clusters.merge(other.clusters)
        for name in self.slices.keys() & other.slices.keys():
            slices[name] = self.slices[name].merge(other.slices[name])
        shifted: Iterable[RowLoss] = (row.shifted(self.rows) for row in other.infinite_rows)
        return replace(
            self,
            rows=self.rows + other.rows,
            ignored=self.ignored + other.ignored,
            by_class=self.by_class.merge(other.by_class),
            row_sums=self.row_sums.merge(other.row_sums),
            worst=self.worst.merge(other.worst.shifted(self.rows)),
            histogram=self.histogram.merge(other.histogram),
            temperatures=self.temperatures.merge(other.temperatures),
            label_errors=self.label_errors.merge(other.label_errors),
            infinite_rows=(*self.infinite_rows, *shifted)[:SHOWN_INFINITE_ROWS],
            binary=self.binary.merge(other.binary) if self.binary and other.binary else None,
            clusters=clusters,
            soft=soft,
            frequencies=frequencies,
            slices=slices,
        )

    def to_bytes(self) -> bytes:
        """The state as bytes: keep it, or send it to where the parts are merged."""
        return state_bytes.to_bytes(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state that `to_bytes` wrote.

        Raises
        ------
        ValueError : the bytes are not a saved evaluation, are damaged, or are of another version
        """
        state = state_bytes.from_bytes(data, (cls, *_PARTS))
        if not isinstance(state, cls):
            raise ValueError("the bytes are a part of an evaluation, not a whole one")
        return state

    def result(self, source: str = "", reading: Sequence[str] = ()) -> LogLossReport:
        """The numbers, from the sums.

        Parameters
        ----------
        source, reading : what was read and how, repeated at the head of the report

        Raises
        ------
        PredictionError : there are no rows, or every row has weight 0
        """
        loss = MeanLoss.from_sums(self.by_class.total(), clusters=self.clusters)
        if loss is None:
            raise PredictionError(f"all {self.rows} rows have weight 0" if self.rows else "there are no rows")
        by_class = part_losses(self.classes, self.by_class, loss.inflation)
        soft, corp = self.soft, self.binary.result() if self.binary else None
        prior = np.array([part.loss.weight if part.loss else 0.0 for part in by_class]) if soft is None else soft.share
        prior_loss = abs(float(entropy(prior / prior.sum())))
        if self.frequencies:
            prior_loss = self.frequencies.prior_loss()
        if soft and corp:  # the value by chance is that of labels that are drawn
            corp = replace(corp, null_miscalibration=None)
        return LogLossReport(
            source=source,
            reading=tuple(reading),
            classes=self.classes,
            ignored=self.ignored,
            loss=loss,
            worst_share=None if loss.infinite else self.histogram.share_of_worst(),
            baselines=(
                Baseline.of("uniform", math.log(len(self.classes)), loss),
                Baseline.of("class prior", prior_loss, loss),
            ),
            calibration=Calibration.of(self.temperatures, loss.rows - loss.infinite),
            corp=corp,
            label_entropy=soft.entropy / soft.weight if soft else None,
            by_class=by_class,
            slices={
                name: part_losses(part.values, part.sums, loss.inflation) for name, part in sorted(self.slices.items())
            },
            infinite_rows=self.infinite_rows,
            worst=self.worst.rows,
            label_thresholds=tuple(self.label_errors.thresholds().tolist()),
            suspected_label_errors=self.label_errors.suspected(),
            row_sums=self.row_sums if self.row_sums.rows else None,
            histogram=self.histogram,
        )
