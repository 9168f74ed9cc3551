"""The commands as functions: what `crossentropy report`, `compare`, `calibrate` and `rows` do, for a program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from .batches import Batch, PredictionError
from .calibration_fit import CalibrationFit, fit_calibration
from .comparison import Comparison, compare_predictions
from .formats import keep_inputs
from .log_loss_report import LogLossReport
from .provenance import Provenance, SourceFile
from .read_ahead import read_ahead
from .reliability_diagram import Reliability, ReliabilitySums
from .row_scores import RowScores
from .row_table import row_batches, worst_rows
from .scores import Baseline
from .state import Evaluation
from .tables import Predictions, read_predictions

Watch = Callable[[Predictions], Iterable[Batch]]


def report(
    source: Any,
    *,
    worst: int = 10,
    baseline: Any = None,
    html: str | Path | None = None,
    watch: Watch | None = None,
    **how_to_read: Any,
) -> LogLossReport:
    """Evaluate saved predictions: `crossentropy report` as a function.

    Parameters
    ----------
    source : path of a Parquet, CSV, Arrow or NPY file, table in memory or array: see `read_predictions`
    worst : how many of the most confidently wrong rows to show
    baseline : predictions for the same rows to measure the skill against, beside the uniform and the prior ones
    html : path of a page to write as well: one file under 300 kB that needs no network; takes a second pass
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
    keep_inputs(html, source, baseline, how_to_read.get("labels"))
    predictions = read_predictions(source, **how_to_read)
    state = Evaluation.empty(predictions.classes, worst)
    batches = predictions if watch is None else watch(predictions)
    for scores in read_ahead(RowScores.of(batch, with_temperatures=True) for batch in batches):
        state = state.add(scores)
    try:
        result = state.result(predictions.source, predictions.reading)
    except PredictionError as error:
        raise PredictionError(f"{predictions.source}: {error}") from None
    if baseline is not None:
        result = _with_baseline(result, predictions, baseline, how_to_read)
    if html is not None:
        from .page import report_page, write_page  # Jinja2 and matplotlib, that no other form needs

        diagrams = _diagrams(result, predictions if watch is None else watch(predictions))
        provenance = Provenance.of(SourceFile.of(source, predictions.source))
        write_page(report_page(result, diagrams, provenance), html)
    return result


def _with_baseline(
    result: LogLossReport, predictions: Predictions, baseline: Any, how_to_read: dict[str, Any]
) -> LogLossReport:
    """The report with the skill against the predictions of another model."""
    against = compare_predictions(predictions, read_predictions(baseline, **_for_b(how_to_read)))
    if against.unmatched_a:
        raise PredictionError(f"{against.source_b}: {against.unmatched_a:,} rows of {predictions.source} are not in it")
    return replace(result, baselines=(*result.baselines, Baseline.of(against.source_b, against.loss_b, result.loss)))


def _diagrams(result: LogLossReport, batches: Iterable[Batch]) -> tuple[Reliability, ...]:
    """Reliability of the predicted class, and of the class that costs most; of class 1 where there are two."""
    costs = [part.share or 0.0 for part in result.by_class]
    costliest = 1 if len(costs) == 2 else max(range(len(costs)), key=costs.__getitem__)
    sums = ReliabilitySums.empty(result.classes, [None, costliest])
    for batch in batches:
        sums = sums.update(batch)
    return sums.result()


def _for_b(how_to_read: dict[str, Any]) -> dict[str, Any]:
    """How to read the second source: as the first, whose weights, clusters and slices count for both."""
    return {name: value for name, value in how_to_read.items() if name not in ("weight", "group", "by")}


def compare(
    a: Any,
    b: Any,
    *,
    options_b: dict[str, Any] | None = None,
    moved: int = 5,
    html: str | Path | None = None,
    watch: Watch | None = None,
    **how_to_read: Any,
) -> Comparison:
    """Compare two models on the same rows: `crossentropy compare` as a function.

    Rows are aligned by id where both have one; else both must hold the same labels in the same order. Weights, clusters
    and slices are taken from `a`.

    Parameters
    ----------
    a, b : sources, as in `report`
    moved : how many of the rows that moved most to show, each way
    how_to_read : as in `report`, for both sources
    html : path of a page to write as well: one file under 300 kB that needs no network
    options_b : what is different for `b`, e.g. {"labels": "other.npy"}
    watch : as in `report`, for `a`, which is read beside `b`

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
    keep_inputs(html, a, b, how_to_read.get("labels"), options.get("labels"))
    predictions_a, predictions_b = read_predictions(a, **how_to_read), read_predictions(b, **options)
    result = compare_predictions(predictions_a.watched(watch), predictions_b, moved)
    if html is not None:
        from .page import comparison_page, write_page

        sources = SourceFile.of(a, predictions_a.source), SourceFile.of(b, predictions_b.source)
        write_page(comparison_page(result, Provenance.of(*sources)), html)
    return result


def calibrate(
    source: Any, *, method: str = "temperature", watch: Watch | None = None, **how_to_read: Any
) -> CalibrationFit:
    """Fit what repairs over- and under-confidence: `crossentropy calibrate` as a function.

    The calibrated logits are slope z_j (+ intercept for class 1): those of the least mean loss. There the mean loss is
    the mean entropy. The loss after is measured on rows that the fit has not seen (5 folds; clusters stay together).

    Parameters
    ----------
    source, watch, how_to_read : as in `report`; the source is read once per step of the fit, 10 to 20 times
    method : "temperature" (slope 1 / T, no intercept), or "affine" for two classes

    Returns
    -------
    CalibrationFit
        Its `scaler` calibrates other predictions: `scaler.apply(array)`, `apply_scaler(scaler, file, output)`.

    Raises
    ------
    PredictionError : the source cannot be read as predictions, or there is nothing to fit (every row is right, the
        classes are separable, the labels go against the predictions); the message says which

    Examples
    --------
    >>> import numpy as np
    >>> from crossentropy.evaluation import calibrate
    >>> sure = np.array([[0.99, 0.01]] * 4)  # 99 %, and right three times in four
    >>> fit = calibrate(sure, labels=[0, 0, 0, 1])
    >>> round(fit.scaler.temperature, 4)
    4.1827
    >>> fit.scaler.apply(sure)[0].round(6)
    array([0.75, 0.25])

    Source: Guo, Pleiss, Sun, Weinberger 2017, https://arxiv.org/abs/1706.04599; Platt 1999 (affine).
    """
    predictions = read_predictions(source, **how_to_read)
    digest = SourceFile.of(source).sha256
    try:
        return fit_calibration(
            lambda: predictions if watch is None else watch(predictions),
            predictions.classes,
            method,
            predictions.source,
            predictions.reading,
            digest,
        )
    except PredictionError as error:
        text = str(error)
        raise PredictionError(text if predictions.source in text else f"{predictions.source}: {text}") from None


def reliability(source: Any, *, of: str | int | None = None, **how_to_read: Any) -> Reliability:
    """How often what was given a probability happened, to draw with `plots.reliability`.

    Parameters
    ----------
    source, how_to_read : as in `report`
    of : the class, by its name or its position, whose probability is meant, against all others; where None, that of the
        predicted class, whichever it is, and with two classes that of the second

    Returns
    -------
    Reliability

    Raises
    ------
    PredictionError : the source cannot be read as predictions, or has no such class

    Examples
    --------
    >>> import numpy as np
    >>> from crossentropy.evaluation import reliability
    >>> found = reliability(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), labels=[0, 1, 1], of=1)
    >>> found.frequency  # 0 of 1 at 0.1, 2 of 2 from 0.2 on
    array([0., 1.])
    """
    predictions = read_predictions(source, **how_to_read)
    names = predictions.classes
    if of is None:
        which = 1 if len(names) == 2 else None
    elif of in names:
        which = names.index(str(of))
    elif isinstance(of, int) and not isinstance(of, bool) and 0 <= of < len(names):
        which = of
    else:
        raise PredictionError(f"{predictions.source}: there is no class {of!r}; the classes are {names[:12]}")
    sums = ReliabilitySums.empty(names, [which])
    for batch in predictions:
        sums = sums.update(batch)
    (found,) = sums.result()
    return found


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
