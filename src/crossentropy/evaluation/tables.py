"""From a source of predictions to batches: which source, which columns, which labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .arrow_columns import Where, batch_of, of_class_1, positions
from .batches import RANGES, Batch, PredictionError, listed
from .class_index import ClassIndex
from .columns import Columns, find_columns
from .formats import Table, batch_rows, is_npy, load_npy, open_files, open_stream
from .multi_label import CLASSES
from .read_ahead import read_ahead


@dataclass(frozen=True)
class Predictions:
    """Saved predictions, ready to be read: iterate for `Batch` after `Batch`, as often as wanted."""

    source: str
    classes: tuple[str, ...]
    reading: tuple[str, ...]
    rows: int | None
    batches: Callable[[], Iterator[Batch]] = field(repr=False)

    def __iter__(self) -> Iterator[Batch]:
        return read_ahead(self.batches())

    def watched(self, watch: Callable[[Predictions], Iterable[Batch]] | None) -> Predictions:
        """The same predictions, whose batches go through `watch`, which may show how far the reading has got."""
        return self if watch is None else replace(self, batches=lambda: iter(watch(self)))


def read_predictions(
    source: Any,
    *,
    labels: Any = None,
    inputs: str = "auto",
    label: str | Sequence[str] | None = None,
    classes: str | Sequence[str] | None = None,
    id: str | None = None,
    weight: str | None = None,
    group: str | None = None,
    by: Sequence[str] = (),
    label_kind: str = "auto",
    multi_label: bool = False,
) -> Predictions:
    """Open saved predictions.

    Parameters
    ----------
    source : what to read:
        path of a Parquet, CSV (comma, semicolon or tab; gzip too) or Arrow IPC table, of a folder of such files, or a
        pattern such as "part-*.parquet"; or a pandas, Polars or PyArrow table. One row per prediction; one column per
        class, one column with a list per row, or one column for two classes.
        Or an array, or the path of an NPY array, of shape (rows, classes), or (rows,) for class 1 of two, with
        `labels`.
    labels : array, or path of an NPY array, shape (rows,), or (rows, classes) for soft labels; with an array of
        predictions, and only then
    inputs : "probs", "log_probs", "logits"; "auto" goes by the columns' names and takes arrays for probabilities
    label, id, weight : names of the columns; found by their usual names where None. `label` may be a pattern or several
        names, one column per class: soft labels, a distribution per row. So may a column that holds a list per row
    group : name of the column of the clusters: rows that belong together and count as one observation
    by : names of the columns to split the loss by
    classes : names or patterns of the prediction columns, in the order of the classes; found where None
    multi_label : a row may have several labels, or none: the labels say of every class whether the row has it (0 or
        1), in the form of soft labels, and the predictions are of every class by itself. Each class of a row is then
        read as a row of the two classes "absent" and "present", in clusters by row and split by label
    label_kind : "name" or "position" where a label could be both, e.g. "1" with the classes "1", "2", "3"

    Returns
    -------
    Predictions : iterate for the batches; rows with a problem raise PredictionError while iterating

    Raises
    ------
    PredictionError : the source is not readable, or its columns have no single meaning; one line that says what to do
    """
    if inputs != "auto" and inputs not in RANGES:
        raise ValueError(f"inputs must be 'auto', {', '.join(map(repr, RANGES))}, not {inputs!r}")
    by = (by,) if isinstance(by, str) else tuple(by)
    named: dict[str, Any] = {
        "label": label,
        "classes": classes,
        "id": id,
        "weight": weight,
        "group": group,
        "by": by or None,
    }
    is_path = isinstance(source, (str, Path))
    is_array = not is_path and not hasattr(source, "__arrow_c_stream__")
    if is_array or (is_path and is_npy(Path(source))):
        name = str(source) if is_path else "array"
        meaningless = next((option for option, value in named.items() if value is not None), None)
        if meaningless:
            raise PredictionError(f"{name}: an array has no named columns, so {meaningless} has no meaning here")
        if hasattr(source, "collect"):
            raise PredictionError(f"{type(source).__name__}: a query that has not run yet; call .collect() on it")
        array = load_npy(Path(source)) if is_path else np.asarray(source)
        return _from_arrays(name, array, labels, "probs" if inputs == "auto" else inputs, label_kind, multi_label)
    if labels is not None:
        raise PredictionError(
            f"{source if is_path else 'table'}: a table's labels are one of its columns (--label NAME); "
            "--labels is for arrays (NPY)"
        )
    table = open_files(source) if is_path else open_stream(source)
    try:
        columns = find_columns(table.kinds, inputs=inputs, multi_label=multi_label, **named)
    except PredictionError as error:
        raise PredictionError(f"{table.source}: {error}") from None
    if columns.layout == "list":
        columns = with_list_classes(table, columns)

    def class_index() -> ClassIndex:
        return ClassIndex(columns.classes, columns.predictions if columns.layout == "wide" else (), label_kind)

    class_index()  # a wrong label_kind is an error now and not with the first batch
    return _predictions(
        columns.classes if multi_label else None,
        source=table.source,
        classes=columns.classes,
        reading=columns.describe(),
        rows=table.rows,
        batches=lambda: _table_batches(table, columns, class_index()),
    )


def _predictions(of_every_row: Sequence[str] | None, **values: Any) -> Predictions:
    """Predictions; where each row has those of every class, each of them is a row of two classes."""
    found = Predictions(**values)
    if of_every_row is None:
        return found
    line = f"each row stands for {len(of_every_row):,} rows, one for each class: {listed(of_every_row)}"
    rows = None if found.rows is None else found.rows * len(of_every_row)
    return replace(found, classes=CLASSES, reading=(*found.reading, line), rows=rows)


def _table_batches(table: Table, columns: Columns, index: ClassIndex) -> Iterator[Batch]:
    numbers = [*columns.predictions, *([columns.weight] if columns.weight is not None else [])]
    numbers += columns.labels if columns.labels_every_class else ()
    one_label = () if columns.labels_every_class else columns.labels
    one_each = (*one_label, columns.id, columns.group, *columns.by)
    texts = list(dict.fromkeys(name for name in one_each if name is not None))
    first_row = 0
    for rows in table.read(numbers, texts, len(columns.classes)):
        try:
            batch = batch_of(rows, columns, index, table.source, first_row)
        except (
            pa.ArrowException
        ) as error:  # a type that has no text or no number: a struct for a label, a list to slice by
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise PredictionError(f"{table.source}: a column has a type that cannot be used: {reason}") from None
        yield batch
        first_row += rows.num_rows


def with_list_classes(table: Table, columns: Columns) -> Columns:
    """The classes of a list column are the positions in the first row's list."""
    for rows in table.read(columns.predictions, (), 1):
        if rows.num_rows:
            length = len(rows.column(0)[0].as_py() or ())
            if length < 2:
                raise PredictionError(
                    f"{table.source}: row 0 (counted from 0): the list in column {columns.predictions[0]!r} has "
                    f"{length} values; one per class is needed, at least two"
                )
            return replace(columns, classes=tuple(str(i) for i in range(length)))
    raise PredictionError(f"{table.source}: there are no rows")


def _from_arrays(
    name: str, predictions: np.ndarray, labels: Any, inputs: str, label_kind: str, multi_label: bool
) -> Predictions:
    if labels is None:
        raise PredictionError(f"{name}: an array of predictions needs its labels: --labels FILE.npy")
    if (
        predictions.ndim not in (1, 2)
        or not np.issubdtype(predictions.dtype, np.floating)
        or 0 in predictions.shape[1:]
    ):
        raise PredictionError(
            f"{name}: predictions must be floating numbers of shape (rows, classes), or (rows,) for class 1 of two, "
            f"not {predictions.dtype} of shape {predictions.shape}"
        )
    rows = len(predictions)
    is_single = predictions.ndim == 1 or predictions.shape[1] == 1
    if is_single:
        predictions = predictions.reshape(rows)
    classes = 2 if is_single else predictions.shape[1]
    label_name, values = "labels", labels
    if isinstance(labels, (str, Path)):
        label_name = str(labels)
        if not is_npy(Path(labels)):
            raise PredictionError(f"{label_name}: labels for an NPY array must be an NPY array too")
        values = load_npy(Path(labels))
    values = np.asarray(values)
    every_class = values.shape == (rows, classes) and np.issubdtype(values.dtype, np.number)
    if values.ndim != 1 and not every_class:
        hint = "; drop the last axis" if values.ndim == 2 and values.shape[1] == 1 else ""
        raise PredictionError(
            f"{label_name}: labels must have shape ({rows},), or ({rows}, {classes}) for shares of every class, "
            f"not {values.shape}{hint}"
        )
    if len(values) != rows:
        raise PredictionError(f"{label_name}: {len(values):,} labels for the {rows:,} rows of {name}")
    if multi_label and is_single:
        raise PredictionError(f"{name}: several labels per row need predictions of several classes, not one per row")
    if multi_label and not every_class:
        raise PredictionError(
            f"{label_name}: several labels per row need an array of shape ({rows}, {classes}), 0 or 1"
        )
    names = tuple(str(i) for i in range(classes))
    ClassIndex(names, kind=label_kind)  # a wrong label_kind is an error now and not with the first batch

    def batches() -> Iterator[Batch]:
        index = ClassIndex(names, kind=label_kind)
        for start in range(0, rows, size := batch_rows(classes)):
            block, block_labels = predictions[start : start + size], values[start : start + size]
            where = Where(name, start)
            if every_class:
                labels = np.asarray(block_labels, np.float64)
            else:
                labels = positions(_arrow(block_labels, label_name), index, Where(label_name, start))
            # numbers of other widths and byte orders become the nearest that hold them
            block = np.asarray(block, np.float64 if block.dtype.itemsize >= 8 else np.float32)
            block, held = of_class_1(block, inputs, where) if is_single else (block, inputs)
            batch = where.batch(
                predictions=block,
                inputs=held,
                labels=np.zeros(len(block), np.int64) if multi_label else labels,
            )
            yield where.by_class(batch, labels, names) if multi_label else batch

    kind = {"probs": "probabilities", "log_probs": "log-probabilities", "logits": "logits"}[inputs]
    return _predictions(
        names if multi_label else None,
        source=name,
        classes=names,
        reading=(f"{kind} {'of class 1' if is_single else 'by position'}, labels from {label_name}",),
        rows=rows,
        batches=batches,
    )


def _arrow(values: np.ndarray, name: str) -> pa.Array:
    try:
        return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False))
    except (pa.ArrowException, TypeError, ValueError):
        raise PredictionError(f"{name}: labels of type {values.dtype} are neither names nor positions") from None
