"""From Arrow columns to the arrays of a batch, with every problem named by file, row and column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from .batches import RANGES, Batch, Categories, PredictionError
from .class_index import ClassIndex
from .columns import Columns
from .multi_label import by_class, two_classes


@dataclass(frozen=True)
class Where:
    """Where a batch comes from: the source, its first row and its ids, for messages.

    `kept` are the positions of the rows that are read, where some are not.
    """

    source: str
    first_row: int
    ids: Any = None
    kept: np.ndarray | None = None

    def row(self, row: int) -> int:
        """The position in the source of a row that is read."""
        return self.first_row + int(row if self.kept is None else self.kept[row])

    def error(self, row: int, problem: str) -> PredictionError:
        row = self.row(row) - self.first_row
        name = f"row {self.first_row + row} (counted from 0)"
        name += "" if self.ids is None else f", id {self.ids[row].as_py()!r}"
        return PredictionError(f"{self.source}: {name}: {problem}")

    def by_class(self, rows: Batch, present: np.ndarray, classes: Sequence[str]) -> Batch:
        """One row for each class of each row, whose problems name the source."""
        try:
            return by_class(rows, present, classes)
        except PredictionError as error:
            raise PredictionError(f"{self.source}: {error}") from None

    def batch(self, **values: Any) -> Batch:
        """A batch of these rows, whose problems name the source."""
        try:
            return Batch(ids=self.ids, first_row=self.first_row, source=self.source, **values)
        except PredictionError as error:
            raise PredictionError(f"{self.source}: {error}") from None


def batch_of(rows: pa.RecordBatch, columns: Columns, index: ClassIndex, source: str, first_row: int) -> Batch:
    """One batch of predictions from one batch of a table."""
    where = Where(source, first_row, plain(rows.column(columns.id)) if columns.id is not None else None)
    weights = numbers(rows, columns.weight, where) if columns.weight is not None else None
    read, at = rows, where
    if weights is not None and not weights.all():  # rows of weight 0 may hold anything: they are not looked at
        at = replace(where, kept=np.flatnonzero(weights))
        read = rows.take(pa.array(at.kept))
    predictions, inputs = LAYOUTS[columns.layout](read, columns, at)
    if columns.labels_every_class:
        labels = _shares(read, columns, at)
    else:
        labels = positions(read.column(columns.labels[0]), index, at)
    if at.kept is not None:
        predictions, labels = (_spread(values, at.kept, rows.num_rows) for values in (predictions, labels))
    batch = where.batch(
        predictions=predictions,
        inputs=inputs,
        labels=np.zeros(rows.num_rows, np.int64) if columns.multi_label else labels,
        weights=weights,
        groups=categories(rows, columns.group, where) if columns.group is not None else None,
        slices={name: categories(rows, name, where) for name in columns.by},
        columns=columns.predictions if columns.layout == "wide" else None,
    )
    return where.by_class(batch, labels, columns.classes) if columns.multi_label else batch


def _spread(values: np.ndarray, kept: np.ndarray, rows: int) -> np.ndarray:
    """The values of the rows that were read at their places among all rows, 0 elsewhere."""
    spread = np.zeros((*values.shape[1:], rows), values.dtype).T  # class by class in memory, as `_wide` makes them
    spread[kept] = values
    return spread


def _shares(rows: pa.RecordBatch, columns: Columns, where: Where) -> np.ndarray:
    """A label's share of every class: a column per class, or a list per row."""
    if len(columns.labels) > 1:
        return np.stack([numbers(rows, name, where).astype(np.float64) for name in columns.labels], axis=1)
    return lists(rows, columns.labels[0], len(columns.classes), where).astype(np.float64)


def _wide(rows: pa.RecordBatch, columns: Columns, where: Where) -> tuple[np.ndarray, str]:
    """One column per class, side by side, in float32 where that holds all of them, else in float64.

    Kept class by class in memory, as the columns come: then every sum and maximum over the classes runs along rows.
    """
    types = [rows.column(name).type for name in columns.predictions]
    single = all(pa.types.is_float32(type) or pa.types.is_float16(type) for type in types)
    matrix = np.empty((len(types), rows.num_rows), np.float32 if single else np.float64)
    for position, name in enumerate(columns.predictions):
        matrix[position] = numbers(rows, name, where)
    return matrix.T, columns.inputs


def _list(rows: pa.RecordBatch, columns: Columns, where: Where) -> tuple[np.ndarray, str]:
    """One column that holds a list per row, one value per class."""
    return lists(rows, columns.predictions[0], len(columns.classes), where), columns.inputs


def lists(rows: pa.RecordBatch, name: str, classes: int, where: Where) -> np.ndarray:
    """A column that holds a list of numbers per row, one for each class, as an array of shape (rows, classes)."""
    column = rows.column(name)
    if column.null_count:
        raise where.error(first(column.is_null()), f"the list in column {name!r} is missing")
    if not pa.types.is_fixed_size_list(column.type):
        lengths = pa.compute.not_equal(pa.compute.list_value_length(column), classes)
        if pa.compute.any(lengths).as_py():
            row = first(lengths)
            raise where.error(row, f"the list in column {name!r} has {len(column[row])} values, not {classes}")
    values = column.flatten()
    if values.null_count:
        raise where.error(first(values.is_null()) // classes, f"a value in column {name!r} is missing")
    if not pa.types.is_float32(values.type):
        values = values.cast(pa.float64())
    return np.from_dlpack(values).reshape(rows.num_rows, classes)


def _single(rows: pa.RecordBatch, columns: Columns, where: Where) -> tuple[np.ndarray, str]:
    """One column for two classes: the probability of class 1, its logarithm, or its logit."""
    (name,) = columns.predictions
    return of_class_1(numbers(rows, name, where), columns.inputs, where, f" in column {name!r}")


def of_class_1(values: np.ndarray, inputs: str, where: Where, place: str = "") -> tuple[np.ndarray, str]:
    """From one number per row, the prediction of class 1 of two, to those of both; `place` is for messages."""
    values = values.astype(np.float64)
    lowest, highest, is_open, kind = RANGES[inputs]
    bad = ~((values >= lowest) & ((values < highest) if is_open else (values <= highest)))
    if bad.any():
        row = int(bad.argmax())
        raise where.error(row, f"{values[row]!s}{place} is not {kind}")
    return two_classes(values, inputs)


LAYOUTS: dict[str, Callable[[pa.RecordBatch, Columns, Where], tuple[np.ndarray, str]]] = {
    "wide": _wide,
    "list": _list,
    "single": _single,
}


def numbers(rows: pa.RecordBatch, name: str, where: Where) -> np.ndarray:
    """One numeric column without missing values."""
    column = rows.column(name)
    if column.null_count:
        raise where.error(first(column.is_null()), f"the value in column {name!r} is missing")
    if not pa.types.is_floating(column.type):
        column = column.cast(pa.float64(), safe=False)  # an integer above 2^53 is rounded
    # DLPack and not to_numpy, which would import pandas: 0.36 s where a whole report takes 0.6 s
    return np.from_dlpack(column)


def positions(labels: pa.Array, index: ClassIndex, where: Where) -> np.ndarray:
    """The labels' classes. Each distinct label is looked up once."""
    labels = plain(labels)
    if labels.null_count:
        raise where.error(first(labels.is_null()), "the label is missing")
    if pa.types.is_integer(labels.type) and (known := _known(labels, index)) is not None:
        return known
    labels = _distinct(labels, "the labels", where)
    codes, texts = np.from_dlpack(labels.indices), labels.dictionary.to_pylist()
    first_rows = np.empty(len(texts), np.intp)
    first_rows[codes[::-1]] = np.arange(len(codes))[::-1]  # of several values for one place the last one stays
    classes = [_position(label, int(row), index, where) for label, row in zip(texts, first_rows, strict=True)]
    return np.array(classes, np.intp)[codes]


def _known(labels: pa.Array, index: ClassIndex) -> np.ndarray | None:
    """The classes of integers that all have been looked up before."""
    values = np.from_dlpack(labels)
    if not len(values) or values.min() < 0 or values.max() >= len(index.by_number):
        return None
    found = index.by_number[values]
    return found if found.min() >= 0 else None


def _position(label: Any, row: int, index: ClassIndex, where: Where) -> int:
    try:
        return index.position(label, where.row(row))
    except PredictionError as error:
        raise where.error(row, str(error)) from None


def plain(values: pa.Array) -> pa.Array:
    """Without categories, one of which may itself be null."""
    if not pa.types.is_dictionary(values.type):
        return values
    names = values.dictionary
    if pa.types.is_string_view(names.type):  # those of Polars, which Arrow cannot look up yet
        names = names.cast(pa.large_string())
    return names.take(values.indices)


def _distinct(values: pa.Array, what: str, where: Where) -> pa.DictionaryArray:
    try:
        return values.dictionary_encode(null_encoding="encode")
    except pa.ArrowNotImplementedError:
        raise PredictionError(
            f"{where.source}: {what} are of type {values.type}; numbers or texts are needed"
        ) from None


def categories(rows: pa.RecordBatch, name: str, where: Where) -> Categories:
    """The values of a column as text; a missing one is a value of its own."""
    values = _distinct(plain(rows.column(name)), f"the values of column {name!r}", where)
    names = tuple("(missing)" if value is None else str(value) for value in values.dictionary.to_pylist())
    return Categories(np.from_dlpack(values.indices).astype(np.intp, copy=False), names)


def first(mask: pa.BooleanArray) -> int:
    """The position of the first true value."""
    return pa.compute.index(mask, True).as_py()
