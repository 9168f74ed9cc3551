"""Every row's loss, entropy and prediction as a table: to look at, to filter, to join with other data."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from .batches import PredictionError
from .label_errors import LabelErrorSums
from .row_scores import RowScores
from .tables import Predictions


def row_batches(predictions: Predictions, label_errors: bool = False) -> Iterator[pa.RecordBatch]:
    """The rows' numbers, batch by batch, in the order of the rows; rows of weight 0 are left out.

    Columns: row (counted from 0), id where there is one, label, prediction, label_probability, prediction_probability,
    loss and entropy in nats. With `label_errors` only the rows whose label is suspected; that takes a second pass,
    since the thresholds of confident learning need all rows.
    """
    thresholds = _thresholds(predictions) if label_errors else None
    names, rows = pa.array(predictions.classes), 0
    for batch in predictions:
        rows += batch.seen
        scores = RowScores.of(batch)
        if thresholds is None:
            kept = np.arange(batch.rows)
        else:
            reached = scores.prediction_probability >= thresholds[scores.prediction]
            kept = np.flatnonzero((scores.prediction != batch.labels) & reached)
        places = kept if batch.positions is None else batch.positions[kept]
        columns: dict[str, pa.Array] = {"row": pa.array(batch.first_row + places)}
        if batch.ids is not None:
            ids = batch.ids if isinstance(batch.ids, pa.Array) else pa.array(batch.ids)
            columns["id"] = ids.take(pa.array(places))
        columns["label"] = names.take(pa.array(batch.labels[kept]))
        columns["prediction"] = names.take(pa.array(scores.prediction[kept]))
        for name in ("label_probability", "prediction_probability", "loss", "entropy"):
            columns[name] = pa.array(getattr(scores, name)[kept].astype(np.float64))
        yield pa.RecordBatch.from_pydict(columns)
    if not rows:
        raise PredictionError(f"{predictions.source}: there are no rows")


def worst_rows(batches: Iterable[pa.RecordBatch], most: int, by: str = "loss") -> pa.Table:
    """The rows with the largest losses in the column `by`, the largest first."""
    # with equal losses the row decides, so that the answer does not depend on how the rows were split
    order = [(by, "descending"), ("row", "ascending")]
    worst: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        worst = table if worst is None else pa.concat_tables([worst, table])
        worst = worst.take(pa.compute.sort_indices(worst, sort_keys=order)[:most])
    if worst is None:
        raise PredictionError("there are no rows")
    return worst


def write_rows(batches: Iterable[pa.RecordBatch], output: str | None) -> int:
    """Write to a Parquet or CSV file, told by its name, or as CSV to standard output; the number of rows written."""
    path = None if output is None else Path(output)
    if path is not None and path.suffix.lower() not in (".parquet", ".csv"):
        raise PredictionError(f"{path}: rows are written as .parquet or .csv")
    rows, writer = 0, None
    try:
        for batch in batches:
            if writer is None:
                if path is not None and path.suffix.lower() == ".parquet":
                    writer = pa.parquet.ParquetWriter(path, batch.schema)
                else:
                    writer = pa.csv.CSVWriter(sys.stdout.buffer if path is None else path, batch.schema)
            writer.write_batch(batch)
            rows += batch.num_rows
    except BrokenPipeError:
        raise
    except pa.ArrowException as error:
        raise PredictionError(f"{output or 'standard output'}: cannot be written: {error}") from None
    except OSError as error:
        raise PredictionError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        if writer is not None:
            writer.close()
    return rows


def _thresholds(predictions: Predictions) -> np.ndarray:
    sums = LabelErrorSums.empty(len(predictions.classes))
    for batch in predictions:
        sums = sums.update(RowScores.of(batch))
    return sums.thresholds()
