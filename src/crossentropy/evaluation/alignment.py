"""The rows of two sets of predictions, brought together by id, or because the labels are the same in the same order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute

from .arrow_columns import first
from .batches import Categories, PredictionError
from .row_scores import RowScores
from .tables import Predictions


@dataclass(frozen=True)
class RowLosses:
    """What a comparison needs of every row of one set of predictions."""

    source: str
    classes: tuple[str, ...]
    loss: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    ids: pa.Array | None
    weights: np.ndarray | None
    groups: np.ndarray | None
    slices: dict[str, np.ndarray]

    @classmethod
    def of(cls, predictions: Predictions) -> RowLosses:
        loss, labels, rows, ids, weights, groups = [], [], [], [], [], []
        slices: dict[str, list[np.ndarray]] = {}
        for batch in predictions:
            loss.append(RowScores.of(batch).loss)
            labels.append(batch.labels)
            places = np.arange(batch.seen) if batch.positions is None else batch.positions
            rows.append(batch.first_row + places)
            if batch.ids is not None:
                ids.append(
                    pa.array(batch.ids).take(pa.array(places)) if len(places) < batch.seen else pa.array(batch.ids)
                )
            if batch.weights is not None:
                weights.append(batch.weights)
            if batch.groups is not None:
                groups.append(_texts(batch.groups))
            for name, values in batch.slices.items():
                slices.setdefault(name, []).append(_texts(values))
        if not loss or not sum(map(len, loss)):
            raise PredictionError(f"{predictions.source}: there are no rows")
        return cls(
            source=predictions.source,
            classes=predictions.classes,
            loss=np.concatenate(loss),
            labels=np.concatenate(labels),
            rows=np.concatenate(rows),
            ids=pa.concat_arrays(ids) if ids else None,
            weights=np.concatenate(weights) if weights else None,
            groups=np.concatenate(groups) if groups else None,
            slices={name: np.concatenate(parts) for name, parts in slices.items()},
        )

    def where(self, row: int) -> str:
        name = f"{self.source}: row {self.rows[row]} (counted from 0)"
        return name if self.ids is None else f"{name}, id {self.ids[row].as_py()!r}"


@dataclass(frozen=True)
class Alignment:
    """Positions in A and in B of the rows that both have, in A's order."""

    a: np.ndarray
    b: np.ndarray
    how: str


def align(a: RowLosses, b: RowLosses) -> Alignment:
    """Bring the rows together.

    Raises
    ------
    PredictionError : an id that occurs twice; no id in common; without ids, other numbers of rows; labels that differ
    """
    if a.ids is not None and b.ids is not None:
        ids_a, ids_b = _as_text(a), _as_text(b)
        for side, ids in ((a, ids_a), (b, ids_b)):
            counts = ids.value_counts()
            twice = pa.compute.greater(counts.field("counts"), 1)
            if pa.compute.any(twice).as_py():
                name = counts.field("values")[first(twice)].as_py()
                raise PredictionError(
                    f"{side.source}: the id {name!r} occurs more than once, so rows cannot be aligned"
                )
        found = pa.compute.index_in(ids_a, value_set=ids_b)
        both = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
        if not len(both):
            raise PredictionError(f"{a.source} and {b.source} have no id in common")
        alignment = Alignment(both, np.from_dlpack(found.drop_null()).astype(np.intp), "rows aligned by id")
    else:
        if len(a.loss) != len(b.loss):
            raise PredictionError(
                f"{a.source} has {len(a.loss):,} rows and {b.source} {len(b.loss):,}, and no id aligns them"
            )
        every = np.arange(len(a.loss))
        alignment = Alignment(every, every, "the same labels in the same order")
    _check_labels(a, b, alignment)
    return alignment


def _as_text(side: RowLosses) -> pa.Array:
    assert side.ids is not None
    try:
        return side.ids.cast(pa.string())
    except pa.ArrowException as error:
        raise PredictionError(f"{side.source}: the ids cannot be compared: {error}") from None


def _check_labels(a: RowLosses, b: RowLosses, alignment: Alignment) -> None:
    labels_a, labels_b = a.labels[alignment.a], b.labels[alignment.b]
    by_position = [side.classes == tuple(map(str, range(len(side.classes)))) for side in (a, b)]
    if set(a.classes) == set(b.classes):
        place = {name: i for i, name in enumerate(a.classes)}
        labels_b = np.array([place[name] for name in b.classes])[labels_b]
    elif len(a.classes) != len(b.classes) or not any(by_position):
        odd = next(iter(set(a.classes) ^ set(b.classes)))
        raise PredictionError(f"{a.source} and {b.source} have different classes, for example {odd!r}")
    different = np.flatnonzero(labels_a != labels_b)
    if len(different):
        row = int(different[0])
        ours, theirs = a.classes[labels_a[row]], b.classes[b.labels[alignment.b[row]]]
        raise PredictionError(
            f"{a.where(int(alignment.a[row]))} has the label {ours!r} and {b.where(int(alignment.b[row]))} {theirs!r}: "
            f"these are not the same rows ({len(different):,} of {len(labels_a):,} labels differ)"
        )


def _texts(values: Categories) -> np.ndarray:
    return np.array(values.names, object)[values.codes]
