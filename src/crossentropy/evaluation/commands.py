"""The commands as functions: what `crossentropy report` shows, for a program."""

from __future__ import annotations

from typing import Any

from .batches import PredictionError
from .log_loss_report import LogLossReport
from .state import Evaluation
from .tables import read_predictions


def report(source: Any, *, worst: int = 10, **how_to_read: Any) -> LogLossReport:
    """Evaluate saved predictions: `crossentropy report` as a function.

    Parameters
    ----------
    source : path of a Parquet, CSV, Arrow or NPY file
    worst : how many of the most confidently wrong rows to show
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
    for batch in predictions:
        state = state.update(batch)
    try:
        return state.result(predictions.source, predictions.reading)
    except PredictionError as error:
        raise PredictionError(f"{predictions.source}: {error}") from None
