"""From a file to batches of predictions: which columns, which labels, which rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute

from .batches import Batch, Categories, PredictionError
from .columns import ClassIndex, Columns, find_columns
from .formats import Table, batch_rows, is_npy, load_npy, open_table


class _Rows(Protocol):
    def __call__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Predictions:
    """Saved predictions, ready to be read: iterate for `Batch` after `Batch`, as often as wanted."""

    source: str
    classes: tuple[str, ...]
    reading: tuple[str, ...]
    rows: int | None
    batches: _Rows = field(repr=False)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()


def read_predictions(
    source: str | Path,
    *,
    labels: str | Path | None = None,
    label: str | None = None,
    classes: str | Sequence[str] | None = None,
    id: str | None = None,
    weight: str | None = None,
    group: str | None = None,
    by: Sequence[str] = (),
    label_kind: str = "auto",
) -> Predictions:
    """Open saved predictions.

    Parameters
    ----------
    source : path of a Parquet, CSV (comma, semicolon or tab; gzip too) or Arrow IPC table with one row per prediction
        and one column of probabilities per class, or of an NPY array of probabilities, shape (rows, classes)
    labels : path of an NPY array of labels, shape (rows,); with an NPY array of probabilities, and only then
    label, id, weight : names of the columns; found by their usual names where None
    group : name of the column of the clusters: rows that belong together and count as one observation
    by : names of the columns to split the loss by
    classes : names or patterns of the probability columns, in the order of the classes; found where None
    label_kind : "name" or "position" where a label could be both, e.g. "1" with the classes "1", "2", "3"

    Returns
    -------
    Predictions : iterate for the batches; rows with a problem raise PredictionError while iterating

    Raises
    ------
    PredictionError : the file is not readable, or its columns have no single meaning; one line that says what to do
    """
    path = Path(source)
    if is_npy(path):
        given = {"label": label, "classes": classes, "id": id, "weight": weight, "group": group, "by": by or None}
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise PredictionError(f"{path}: an NPY array has no named columns, so {named[0]} has no meaning here")
        return _from_arrays(path, labels, label_kind)
    if labels is not None:
        raise PredictionError(
            f"{path}: a table's labels are one of its columns (--label NAME); --labels is for NPY arrays"
        )
    table = open_table(path)
    try:
        columns = find_columns(table.kinds, label=label, classes=classes, id=id, weight=weight, group=group, by=by)
    except PredictionError as error:
        raise PredictionError(f"{path}: {error}") from None
    index = ClassIndex(columns.classes, columns.probabilities, label_kind)
    return Predictions(
        source=str(path),
        classes=columns.classes,
        reading=columns.describe(),
        rows=table.rows,
        batches=lambda: _table_batches(path, table, columns, index),
    )


def _table_batches(path: Path, table: Table, columns: Columns, index: ClassIndex) -> Iterator[Batch]:
    numbers = [*columns.probabilities, *([columns.weight] if columns.weight is not None else [])]
    one_each = (columns.label, columns.id, columns.group, *columns.by)
    texts = list(dict.fromkeys(name for name in one_each if name is not None))
    first_row = 0
    for rows in table.read(numbers, texts):
        ids = rows.column(columns.id) if columns.id is not None else None
        where = _Where(path, first_row, ids)
        yield _batch(
            where,
            predictions=_matrix(rows, columns.probabilities, where),
            labels=_positions(rows.column(columns.label), index, where),
            weights=_numbers(rows, columns.weight, where) if columns.weight is not None else None,
            groups=_categories(rows.column(columns.group)) if columns.group is not None else None,
            slices={name: _categories(rows.column(name)) for name in columns.by},
            columns=columns.probabilities,
        )
        first_row += rows.num_rows


def _from_arrays(path: Path, labels: str | Path | None, label_kind: str) -> Predictions:
    if labels is None:
        raise PredictionError(f"{path}: an NPY array of probabilities needs its labels: --labels FILE.npy")
    probabilities, label_path = load_npy(path), Path(labels)
    if probabilities.ndim != 2 or not np.issubdtype(probabilities.dtype, np.floating) or probabilities.shape[1] == 0:
        raise PredictionError(
            f"{path}: probabilities must be floating numbers of shape (rows, classes), "
            f"not {probabilities.dtype} of shape {probabilities.shape}"
        )
    if not is_npy(label_path):
        raise PredictionError(f"{label_path}: labels for an NPY array must be an NPY array too")
    values = load_npy(label_path)
    rows, classes = probabilities.shape
    if values.ndim != 1:
        hint = "; drop the last axis" if values.ndim == 2 and values.shape[1] == 1 else ""
        raise PredictionError(f"{label_path}: labels must have shape ({rows},), not {values.shape}{hint}")
    if len(values) != rows:
        raise PredictionError(f"{label_path}: {len(values):,} labels for the {rows:,} rows of {path}")
    names = tuple(str(i) for i in range(classes))
    index = ClassIndex(names, kind=label_kind)

    def batches() -> Iterator[Batch]:
        for start in range(0, rows, size := batch_rows(classes)):
            where = _Where(label_path, start, None)
            block = probabilities[start : start + size]
            native = np.float64 if block.dtype.itemsize >= 8 else np.float32
            yield _batch(
                _Where(path, start, None),
                predictions=np.asarray(block, native),
                labels=_positions(_arrow(values[start : start + size], where), index, where),
            )

    return Predictions(str(path), names, (f"labels from {label_path}",), rows, batches)


def _arrow(values: np.ndarray, where: "_Where") -> pa.Array:
    try:
        return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False))
    except (pa.ArrowException, TypeError, ValueError):
        raise PredictionError(f"{where.path}: labels of type {values.dtype} are neither names nor positions") from None


@dataclass(frozen=True)
class _Where:
    """Where a batch comes from: the file, its first row and its ids, for messages."""

    path: Path
    first_row: int
    ids: Any

    def error(self, row: int, problem: str) -> PredictionError:
        name = f"row {self.first_row + row} (counted from 0)"
        name += "" if self.ids is None else f", id {self.ids[row].as_py()!r}"
        return PredictionError(f"{self.path}: {name}: {problem}")


def _batch(where: _Where, **values: Any) -> Batch:
    try:
        return Batch(ids=where.ids, first_row=where.first_row, **values)
    except PredictionError as error:
        raise PredictionError(f"{where.path}: {error}") from None


def _matrix(rows: pa.RecordBatch, names: Sequence[str], where: _Where) -> np.ndarray:
    """The probability columns side by side, in float32 where that holds all of them, else in float64.

    Kept class by class in memory, as the columns come: then every sum and maximum over the classes runs along rows.
    """
    types = [rows.column(name).type for name in names]
    single = all(pa.types.is_float32(type) or pa.types.is_float16(type) for type in types)
    matrix = np.empty((len(names), rows.num_rows), np.float32 if single else np.float64)
    for position, name in enumerate(names):
        matrix[position] = _numbers(rows, name, where)
    return matrix.T


def _numbers(rows: pa.RecordBatch, name: str, where: _Where) -> np.ndarray:
    column = rows.column(name)
    if column.null_count:
        raise where.error(_first(column.is_null()), f"the value in column {name!r} is missing")
    if not pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
    # DLPack and not to_numpy, which would import pandas: 0.36 s where a whole report takes 0.6 s
    return np.from_dlpack(column)


def _positions(labels: pa.Array, index: ClassIndex, where: _Where) -> np.ndarray:
    """The labels' classes. Each distinct label is looked up once."""
    if labels.null_count:
        raise where.error(_first(labels.is_null()), "the label is missing")
    if not pa.types.is_dictionary(labels.type):
        labels = labels.dictionary_encode()
    if labels.dictionary.null_count:
        labels = labels.cast(labels.type.value_type).dictionary_encode()
        if labels.null_count:
            raise where.error(_first(labels.is_null()), "the label is missing")
    codes = np.from_dlpack(labels.indices).astype(np.intp, copy=False)
    classes = np.full(len(labels.dictionary), -1, np.intp)
    for code, label in enumerate(labels.dictionary.to_pylist()):
        try:
            classes[code] = index.position(label)
        except PredictionError as error:
            row = np.flatnonzero(codes == code)
            if len(row):  # a category that no row of the batch has is no problem
                raise where.error(int(row[0]), str(error)) from None
    return classes[codes]


def _categories(values: pa.Array) -> Categories:
    """The values as text; a missing one is a value of its own."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    values = values.dictionary_encode(null_encoding="encode")
    names = tuple("(missing)" if value is None else str(value) for value in values.dictionary.to_pylist())
    return Categories(np.from_dlpack(values.indices).astype(np.intp, copy=False), names)


def _first(mask: pa.BooleanArray) -> int:
    return pa.compute.index(mask, True).as_py()
