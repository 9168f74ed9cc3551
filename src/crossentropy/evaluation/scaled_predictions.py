"""Predictions with their calibrated numbers in place of their own: the file keeps its columns and its form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from .arrow_columns import LAYOUTS, Where, numbers
from .batches import RANGES, PredictionError
from .columns import LABEL_NAMES, Columns, find_columns
from .formats import Table, batch_rows, is_npy, keep_inputs, load_npy, open_files
from .multi_label import CLASSES, two_classes
from .row_table import write_rows
from .scaler import Scaler
from .tables import with_list_classes
from .whole_file import whole_file

# Predictions that wait for a scaler often have no label yet; nothing is ever read under this name.
NO_LABEL = "no label\0"


def apply_scaler(scaler: Scaler, source: str | Path, output: str | Path, **how_to_read: Any) -> int:
    """Write the predictions of a file with their calibrated numbers: `crossentropy calibrate --apply` as a function.

    Every other column stays as it is, so that the result can be read like the file it came from. The calibrated columns
    keep their names and their kind (probabilities stay probabilities, logits logits) and are float64. Labels are not
    needed.

    Parameters
    ----------
    scaler : from `calibrate(...).scaler` or `Scaler.load`
    source : path of a Parquet, CSV, Arrow or NPY file, folder or pattern, as in `report`
    output : path to write: .parquet or .csv; .npy for predictions that are one
    how_to_read : `label`, `classes`, `id`, `weight`, `group`, `by`, `inputs`, `multi_label`, as in `report`

    Returns
    -------
    int
        The number of rows written.

    Raises
    ------
    PredictionError : the file cannot be read, its classes are not the scaler's, or the output cannot be written

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from crossentropy.evaluation import Scaler, apply_scaler
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "new.csv").write_text("id,p_cat,p_dog\\nr1,0.9,0.1\\n")
    >>> apply_scaler(Scaler(slope=0.5, classes=("cat", "dog")), folder / "new.csv", folder / "calibrated.csv")
    1
    >>> print((folder / "calibrated.csv").read_text())
    "id","p_cat","p_dog"
    "r1",0.75,0.25
    """
    output, multi_label = Path(output), bool(how_to_read.get("multi_label"))
    keep_inputs(output, source)
    if is_npy(Path(source)):
        return _write_npy(scaler, Path(source), output, how_to_read.get("inputs", "auto"), multi_label)
    if output.suffix.lower() not in (".parquet", ".csv"):
        raise PredictionError(f"{output}: calibrated tables are written as .parquet or .csv")
    table, columns = _open(source, how_to_read)
    _check_classes(scaler, CLASSES if multi_label else columns.classes, table.source)
    with whole_file(output) as unfinished:
        rows = write_rows(_scaled(scaler, table, columns, multi_label), str(unfinished))
        if not rows:
            raise PredictionError(f"{table.source}: there are no rows")
    return rows


def _open(source: str | Path, how_to_read: dict[str, Any]) -> tuple[Table, Columns]:
    table = open_files(source)
    names = ("inputs", "label", "classes", "id", "weight", "group")
    named = {name: value for name, value in how_to_read.items() if name in names}
    by = tuple(how_to_read.get("by") or ()) or None
    kinds = dict(table.kinds)
    if named.get("label") is None and not any(name.lower() in LABEL_NAMES for name in kinds):
        kinds[NO_LABEL], named["label"] = "text", NO_LABEL
    try:
        columns = find_columns(kinds, by=by, **named)
    except PredictionError as error:
        raise PredictionError(f"{table.source}: {error}") from None
    return table, with_list_classes(table, columns) if columns.layout == "list" else columns


def _check_classes(scaler: Scaler, classes: tuple[str, ...], source: str) -> None:
    if scaler.classes and scaler.classes != classes:
        for i, (one, other) in enumerate(zip(scaler.classes, classes, strict=False)):
            if one != other:
                raise PredictionError(
                    f"{source}: the scaler was fitted for other classes: its class {i} is {one!r}, here it is {other!r}"
                )
        raise PredictionError(
            f"{source}: the scaler was fitted for {len(scaler.classes)} classes; there are {len(classes)} here"
        )


def _scaled(scaler: Scaler, table: Table, columns: Columns, multi_label: bool) -> Iterator[pa.RecordBatch]:
    """The batches of the table, the prediction columns calibrated."""
    others = [name for name in table.kinds if name not in columns.predictions]
    first_row = 0
    for rows in table.read(columns.predictions, others, len(columns.classes)):
        where = Where(table.source, first_row, rows.column(columns.id) if columns.id is not None else None)
        read, places = rows, None
        if columns.weight is not None:  # rows of weight 0 may hold anything: they are not looked at, and stay empty
            kept = np.flatnonzero(numbers(rows, columns.weight, where))
            if len(kept) < rows.num_rows:
                read, where = rows.take(pa.array(kept)), replace(where, kept=kept)
                places = pa.array(np.cumsum(np.isin(np.arange(rows.num_rows), kept)) - 1)
                places = pa.compute.if_else(pa.array(np.isin(np.arange(rows.num_rows), kept)), places, None)
        predictions, inputs = LAYOUTS[columns.layout](read, columns, where)
        wide = columns.predictions if columns.layout == "wide" else None
        _check_values(predictions, inputs, where, wide)
        new = dict(
            zip(
                columns.predictions,
                _as_stored(_calibrated(scaler, predictions, inputs, multi_label), inputs, columns),
                strict=True,
            )
        )
        if places is not None:
            new = {name: column.take(places) for name, column in new.items()}
        old = {name: rows.column(name) for name in others}
        yield pa.RecordBatch.from_pydict({name: (new if name in new else old)[name] for name in table.kinds})
        first_row += rows.num_rows


def _calibrated(scaler: Scaler, predictions: np.ndarray, inputs: str, multi_label: bool) -> np.ndarray:
    """The predictions, of the same kind; where a row may have several labels, every class by itself."""
    if not multi_label:
        return scaler.apply(predictions, inputs)
    pairs, kind = two_classes(predictions, inputs)
    values = scaler.apply(pairs.reshape(-1, 2), kind).reshape(pairs.shape)
    own = values[..., 1] - values[..., 0] if kind == "logits" else values[..., 1]
    return np.exp(own) if inputs == "probs" else own


def _check_values(predictions: np.ndarray, inputs: str, where: Where, columns: Sequence[str] | None) -> None:
    """Refuse what is no prediction, by the row's name, instead of scaling it."""
    lowest, highest, is_open, kind = RANGES[inputs]
    good = (predictions >= lowest) & ((predictions < highest) if is_open else (predictions <= highest))
    if not good.all():
        row, position = (int(i) for i in np.argwhere(~good)[0])
        column = f"column {columns[position]!r}" if columns else f"class {position}"
        raise where.error(row, f"{predictions[row, position]!s} in {column} is not {kind}")


def _as_stored(values: np.ndarray, inputs: str, columns: Columns) -> list[pa.Array]:
    """The values as the columns they came from."""
    if columns.layout == "list":
        return [pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])]
    if columns.layout == "single":  # one number for class 1 of two
        own = values[:, 1] - values[:, 0] if inputs == "logits" else values[:, 1]
        return [pa.array(np.exp(own) if columns.inputs == "probs" else own)]
    return [pa.array(np.ascontiguousarray(column)) for column in values.T]


def _write_npy(scaler: Scaler, source: Path, output: Path, inputs: str, multi_label: bool) -> int:
    if output.suffix.lower() != ".npy":
        raise PredictionError(f"{output}: calibrated arrays are written as .npy")
    inputs = "probs" if inputs == "auto" else inputs
    array = load_npy(source)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise PredictionError(
            f"{source}: predictions must be floating numbers of shape (rows, classes), "
            f"not {array.dtype} of shape {array.shape}"
        )
    rows, classes = array.shape
    _check_classes(scaler, CLASSES if multi_label else tuple(str(i) for i in range(classes)), str(source))
    with whole_file(output) as unfinished:
        result = np.lib.format.open_memmap(unfinished, "w+", np.float64, (rows, classes))
        for start in range(0, rows, size := batch_rows(classes)):
            block = np.asarray(array[start : start + size], np.float64)
            _check_values(block, inputs, Where(str(source), start), None)
            result[start : start + size] = _calibrated(scaler, block, inputs, multi_label)
        result.flush()
    return rows
