"""The rows of two sources, brought together by id, or because what happened is the same in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from .arrow_columns import first
from .batches import Batch, PredictionError
from .row_scores import RowScores
from .tables import Predictions


@dataclass(frozen=True)
class RowLosses:
    """What a comparison needs of every row of one source; `rows` are the positions of the rows that have a weight."""

    source: str
    loss: np.ndarray
    rows: np.ndarray
    ids: pa.Array | None
    weights: np.ndarray | None
    groups: np.ndarray | None
    slices: dict[str, np.ndarray]

    def where(self, row: int) -> str:
        name = f"{self.source}: row {self.rows[row]} (counted from 0)"
        return name if self.ids is None else f"{name}, id {self.ids[row].as_py()!r}"


@dataclass(frozen=True)
class ClassLosses(RowLosses):
    """The rows of predictions of classes, with their labels."""

    classes: tuple[str, ...]
    labels: np.ndarray

    @classmethod
    def of(cls, predictions: Predictions) -> ClassLosses:
        columns = joined(predictions.source, map(_columns, predictions))
        return cls(source=predictions.source, classes=predictions.classes, **columns)


def _columns(batch: Batch) -> dict[str, Any]:
    places = np.arange(batch.seen) if batch.positions is None else batch.positions
    return {
        "loss": RowScores.of(batch).loss,
        "labels": batch.labels,
        "rows": batch.first_row + places,
        "ids": None if batch.ids is None else taken(batch.ids, places),
        "weights": batch.weights,
        "groups": batch.groups and batch.groups.texts(),
        "slices": {name: values.texts() for name, values in batch.slices.items()},
    }


def taken(ids: Any, places: np.ndarray) -> pa.Array:
    """The ids at these places."""
    array = pa.array(ids)
    return array.take(pa.array(places)) if len(places) < len(array) else array


def joined(source: str, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of all batches, each put together: arrays, Arrow arrays, dictionaries of either, or None.

    Raises
    ------
    PredictionError : there are no rows
    """
    parts = list(batches)
    if not sum(len(part["loss"]) for part in parts):
        raise PredictionError(f"{source}: there are no rows")
    return {name: _concatenated([part[name] for part in parts]) for name in parts[0]}


def _concatenated(parts: Sequence[Any]) -> Any:
    first_part = parts[0]
    if first_part is None:
        return None
    if isinstance(first_part, Mapping):
        return {name: _concatenated([part[name] for part in parts]) for name in first_part}
    return pa.concat_arrays(parts) if isinstance(first_part, pa.Array) else np.concatenate(parts)


@dataclass(frozen=True)
class Alignment:
    """Positions in A and in B of the rows that both have, in A's order."""

    a: np.ndarray
    b: np.ndarray
    how: str
    by_id: bool


def align(a: ClassLosses, b: ClassLosses) -> Alignment:
    """Bring the rows of predictions of classes together.

    Raises
    ------
    PredictionError : as `pair`; labels that differ
    """
    pairs = pair(a, b)
    _check_labels(a, b, pairs)
    return pairs if pairs.by_id else replace(pairs, how="the same labels in the same order")


def pair(a: RowLosses, b: RowLosses) -> Alignment:
    """Bring rows together by id where both sources have ids, else in their order, which the caller has to check.

    Raises
    ------
    PredictionError : an id that occurs twice; no id in common; without ids, other numbers of rows
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
        return Alignment(both, np.from_dlpack(found.drop_null()).astype(np.intp), "rows aligned by id", by_id=True)
    if len(a.loss) != len(b.loss):
        raise PredictionError(
            f"{a.source} has {len(a.loss):,} rows and {b.source} {len(b.loss):,}, and no id aligns them"
        )
    every = np.arange(len(a.loss))
    return Alignment(every, every, "rows in the same order", by_id=False)


def _as_text(side: RowLosses) -> pa.Array:
    assert side.ids is not None
    try:
        return side.ids.cast(pa.string())
    except pa.ArrowException as error:
        raise PredictionError(f"{side.source}: the ids cannot be compared: {error}") from None


def _check_labels(a: ClassLosses, b: ClassLosses, alignment: Alignment) -> None:
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
