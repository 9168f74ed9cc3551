"""Which of two models is better, on the same rows: paired differences, and the forms of the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import RenderableType

from .accumulators import LossSums
from .alignment import Alignment, ClassLosses, RowLosses, align
from .batches import Categories
from .clusters import ClusterSums
from .comparison_scores import ComparisonScores, MeanDifference, MovedRow, PartDifference
from .comparison_text import render
from .forms import Forms
from .intervals import holm
from .tables import Predictions


@dataclass(frozen=True)
class Comparison(ComparisonScores, Forms):
    """What `crossentropy compare` shows: its numbers are attributes, in nats, differences B - A.

    `print(comparison)` gives the text, a notebook shows it, `to_dict()`, `to_json()` and `to_arrow()` give the same
    numbers to a program.
    """

    def to_dict(self) -> dict[str, Any]:
        return {
            "a": {"source": self.source_a, "nats": self.loss_a, "rows_without_partner": self.unmatched_a},
            "b": {"source": self.source_b, "nats": self.loss_b, "rows_without_partner": self.unmatched_b},
            "alignment": self.alignment,
            "clusters": self.clusters,
            "unit": self.unit,
            "difference_per": {unit: _difference(found) for unit, found in self.per.items()},
            "difference": _difference(self.difference),
            "by_class": [_part("class", part) for part in self.by_class],
            "by_slice": {column: [_part("value", part) for part in parts] for column, parts in self.slices.items()},
            "better_with_b": [_row(row) for row in self.better],
            "worse_with_b": [_row(row) for row in self.worse],
        }

    def __rich__(self) -> RenderableType:
        return render(self)


def compare_predictions(a: Predictions, b: Predictions, moved: int = 5) -> Comparison:
    """Compare two sets of predictions row by row; weights, clusters and slices are A's."""
    rows_a, rows_b = ClassLosses.of(a), ClassLosses.of(b)
    pairs = align(rows_a, rows_b)
    return compare_rows(rows_a, rows_b, pairs, moved, labels=Labels(rows_a.classes, rows_a.labels[pairs.a]))


@dataclass(frozen=True)
class Labels:
    """The label of every pair of rows, as a position in `classes`."""

    classes: tuple[str, ...]
    positions: np.ndarray


def compare_rows(
    rows_a: RowLosses,
    rows_b: RowLosses,
    pairs: Alignment,
    moved: int,
    *,
    labels: Labels | None = None,
    unit: str = "row",
    count: np.ndarray | None = None,
) -> Comparison:
    """Compare the losses of paired rows: the mean per `unit`, of which each pair has `count` (1 where None).

    The mean per unit is sum w (b - a) / sum w n, a mean of (b - a) / n with the weights w n, whose independent units
    are the rows (or clusters).
    """
    loss_a, loss_b = rows_a.loss[pairs.a], rows_b.loss[pairs.b]
    weights = None if rows_a.weights is None else rows_a.weights[pairs.a]
    if count is not None:
        loss_a, loss_b, weights = loss_a / count, loss_b / count, count if weights is None else weights * count
    groups = None if rows_a.groups is None else Categories.of(rows_a.groups[pairs.a])

    whole = _Paired(loss_a, loss_b, weights, np.zeros(len(loss_a), np.intp), 1)
    difference, clusters, inflation = whole.difference(0), None, 1.0
    if groups is not None and difference is not None:
        finite = whole.finite
        sums = ClusterSums.empty().update(
            groups.codes[finite], groups.names, whole.values[finite], None if weights is None else weights[finite]
        )
        by_row, spread = difference.spread, sums.spread()
        difference, clusters = replace(difference, spread=spread), len(sums.keys)
        if by_row and spread and by_row.standard_error:
            inflation = max(1.0, spread.standard_error / by_row.standard_error)

    def by(values: np.ndarray, names: Sequence[str]) -> tuple[PartDifference, ...]:
        return _parts(_Paired(loss_a, loss_b, weights, values, len(names)), names, inflation)

    slices = {name: Categories.of(values[pairs.a]) for name, values in rows_a.slices.items()}

    def shown(order: np.ndarray, sign: int) -> tuple[MovedRow, ...]:
        rows = [int(row) for row in order[:moved] if sign * whole.values[row] > 0]
        return tuple(_moved(row, rows_a, int(pairs.a[row]), labels, loss_a, loss_b) for row in rows)

    order = np.argsort(whole.values, kind="stable")
    order = order[~np.isnan(whole.values[order])]
    assert difference is not None  # the alignment has at least one row
    return Comparison(
        source_a=rows_a.source,
        source_b=rows_b.source,
        alignment=pairs.how,
        unmatched_a=len(rows_a.loss) - len(pairs.a),
        unmatched_b=len(rows_b.loss) - len(pairs.b),
        loss_a=float(np.average(loss_a, weights=weights)),
        loss_b=float(np.average(loss_b, weights=weights)),
        difference=difference,
        clusters=clusters,
        by_class=by(labels.positions, labels.classes) if labels else (),
        slices={name: by(values.codes, values.names) for name, values in slices.items()},
        better=shown(order, -1),
        worse=shown(order[::-1], 1),
        unit=unit,
        per={unit: difference},
    )


class _Paired:
    """The sums of the differences by group; rows without a finite difference are counted beside them."""

    def __init__(
        self, a: np.ndarray, b: np.ndarray, weights: np.ndarray | None, group: np.ndarray, groups: int
    ) -> None:
        with np.errstate(
            invalid="ignore"
        ):  # inf - inf: both lose everything, which is no difference that could be told
            self.values = b - a
        self.finite = np.isfinite(self.values)
        kept = None if weights is None else weights[self.finite]
        values, place = self.values[self.finite], group[self.finite]
        self.sums = LossSums.empty(groups).update(place, values, values < 0, kept)

        def count(rows: np.ndarray) -> np.ndarray:
            return np.bincount(group[rows], minlength=groups)

        self.rows = np.bincount(group, minlength=groups)
        self.infinite_a, self.infinite_b = count(np.isposinf(-self.values)), count(np.isposinf(self.values))
        self.both = count(np.isnan(self.values))
        self.wins, self.ties = count(b < a), count(a == b)

    def difference(self, i: int) -> MeanDifference | None:
        if not self.rows[i]:
            return None
        finite = self.sums.w1l0[i] > 0
        return MeanDifference(
            rows=int(self.rows[i]),
            finite_mean=float(self.sums.w1l1[i] / self.sums.w1l0[i]) if finite else None,
            spread=self.sums.spread(i),
            b_wins=int(self.wins[i]),
            ties=int(self.ties[i]),
            infinite_a=int(self.infinite_a[i]),
            infinite_b=int(self.infinite_b[i]),
            infinite_both=int(self.both[i]),
        )


def _parts(paired: _Paired, names: Sequence[str], inflation: float) -> tuple[PartDifference, ...]:
    """The difference in every part; what clusters do to the standard error of all rows, they are taken to do to it."""
    found = [paired.difference(i) for i in range(len(names))]
    found = [d and replace(d, spread=d.spread and d.spread.inflated(inflation)) for d in found]
    tested = {i: d.spread.p_value() for i, d in enumerate(found) if d and d.spread and math.isfinite(d.mean)}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(PartDifference(name, found[i], adjusted.get(i)) for i, name in enumerate(names))


def _moved(
    row: int, a: RowLosses, place: int, labels: Labels | None, loss_a: np.ndarray, loss_b: np.ndarray
) -> MovedRow:
    id = None if a.ids is None else a.ids[place].as_py()
    label = labels.classes[labels.positions[row]] if labels else None
    return MovedRow(int(a.rows[place]), id, label, float(loss_a[row]), float(loss_b[row]))


def _difference(found: MeanDifference) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "nats": None if math.isnan(found.mean) else found.mean,
        "interval_nats": None if found.interval is None else list(found.interval),
        "finite_rows_nats": found.finite_mean,
        "probability_ratio": None if math.isnan(found.mean) else found.probability_ratio,
        "win_rate": found.win_rate,
        "ties": found.ties,
        "infinite_a_only": found.infinite_a,
        "infinite_b_only": found.infinite_b,
        "infinite_both": found.infinite_both,
    }


def _part(kind: str, part: PartDifference) -> dict[str, Any]:
    numbers = _difference(part.difference) if part.difference else {"rows": 0}
    return {kind: part.name, **numbers, "p_value": part.p_value, "differs": part.differs}


def _row(row: MovedRow) -> dict[str, Any]:
    return {
        "row": row.row,
        "id": row.id,
        "label": row.label,
        "nats_a": row.loss_a,
        "nats_b": row.loss_b,
        "difference_nats": row.difference,
    }
