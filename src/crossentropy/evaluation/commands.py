"""The commands as functions: what `crossentropy report`, `compare` and `rows` do, for a program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from .batches import Batch, PredictionError
from .comparison import Comparison, compare_predictions
from .log_loss_report import LogLossReport
from .read_ahead import read_ahead
from .row_scores import RowScores
from .row_table import row_batches, worst_rows
from .scores import Baseline
from .state import Evaluation
from .tables import Predictions, read_predictions

Watch = Callable[[Predictions], Iterable[Batch]]


def report(
    source: Any, *, worst: int = 10, baseline: Any = None, watch: Watch | None = None, **how_to_read: Any
) -> LogLossReport:
    """Evaluate saved predictions: `crossentropy report` as a function.

    Parameters
    ----------
    source : path of a Parquet, CSV, Arrow or NPY file, table in memory or array: see `read_predictions`
    worst : how many of the most confidently wrong rows to show
    baseline : predictions for the same rows to measure the skill against, beside the uniform and the prior ones
    watch : called with the predictions; gives their batches, and may show how far the reading has got
    how_to_read : `labels`, `label`, `classes`, `id`, `weight`, `group`, `by`, `label_kind`: see `read_predictions`

    Returns
    -------
    LogLossReport

    Raises
    ------
    PredictionError : the file cannot be read as predictions; the message is one line and says where and why

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from crossentropy.evaluation import report
    >>> file = pathlib.Path(tempfile.mkdtemp(), "predictions.csv")
    >>> _ = file.write_text("id,label,p_cat,p_dog\\nr1,cat,0.9,0.1\\nr2,dog,0.6,0.4\\n")
    >>> result = report(file)
    >>> round(result.loss.mean, 6), result.worst[0].id
    (0.510826, 'r2')
    """
    predictions = read_predictions(source, **how_to_read)
    state = Evaluation.empty(predictions.classes, worst)
    batches = predictions if watch is None else watch(predictions)
    for scores in read_ahead(RowScores.of(batch, with_temperatures=True) for batch in batches):
        state = state.add(scores)
    try:
        result = state.result(predictions.source, predictions.reading)
    except PredictionError as error:
        raise PredictionError(f"{predictions.source}: {error}") from None
    if baseline is None:
        return result
    against = compare_predictions(predictions, read_predictions(baseline, **_for_b(how_to_read)))
    if against.unmatched_a:
        raise PredictionError(f"{against.source_b}: {against.unmatched_a:,} rows of {predictions.source} are not in it")
    return replace(result, baselines=(*result.baselines, Baseline.of(against.source_b, against.loss_b, result.loss)))


def _for_b(how_to_read: dict[str, Any]) -> dict[str, Any]:
    """How to read the second source: as the first, whose weights, clusters and slices count for both."""
    return {name: value for name, value in how_to_read.items() if name not in ("weight", "group", "by")}


def compare(
    a: Any, b: Any, *, options_b: dict[str, Any] | None = None, moved: int = 5, **how_to_read: Any
) -> Comparison:
    """Compare two models on the same rows: `crossentropy compare` as a function.

    Rows are aligned by id where both have one; else both must hold the same labels in the same order. Weights, clusters
    and slices are taken from `a`.

    Parameters
    ----------
    a, b : sources, as in `report`
    moved : how many of the rows that moved most to show, each way
    how_to_read : as in `report`, for both sources
    options_b : what is different for `b`, e.g. {"labels": "other.npy"}

    Returns
    -------
    Comparison

    Raises
    ------
    PredictionError : a source cannot be read, or the rows are not the same

    Examples
    --------
    >>> import numpy as np
    >>> from crossentropy.evaluation import compare
    >>> labels = [0, 1]
    >>> result = compare(np.array([[0.5, 0.5], [0.4, 0.6]]), np.array([[0.9, 0.1], [0.4, 0.6]]), labels=labels)
    >>> round(result.difference.mean, 6), result.difference.win_rate
    (-0.293893, 0.75)
    """
    options = {**_for_b(how_to_read), **(options_b or {})}
    return compare_predictions(read_predictions(a, **how_to_read), read_predictions(b, **options), moved)


def rows(source: Any, *, worst: int | None = None, label_errors: bool = False, **how_to_read: Any) -> pa.Table:
    """Every row's loss, entropy and prediction: `crossentropy rows` as a function.

    Parameters
    ----------
    source, how_to_read : as in `report`
    worst : only so many rows, those with the largest losses, the largest first
    label_errors : only the rows whose label confident learning suspects

    Returns
    -------
    pyarrow.Table
        Columns row, id (where there is one), label, prediction, label_probability, prediction_probability, loss,
        entropy (nats). `.to_pandas()` and `polars.from_arrow` make a data frame of it.

    Examples
    --------
    >>> import numpy as np
    >>> from crossentropy.evaluation import rows
    >>> table = rows(np.array([[0.9, 0.1], [0.4, 0.6]]), labels=[0, 0], worst=1)
    >>> table.column_names[:3], table["row"].to_pylist()
    (['row', 'label', 'prediction'], [1])
    """
    batches = row_batches(read_predictions(source, **how_to_read), label_errors)
    return pa.Table.from_batches(batches) if worst is None else worst_rows(batches, worst)
