"""Every text's loss as a table: in nats, per token, and in bits per byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from crossentropy.reduction import NATS_PER_UNIT

from .alignment import taken
from .batches import PredictionError
from .language_model_table import Texts, read_texts
from .row_table import worst_rows


def text_row_batches(texts: Texts) -> Iterator[pa.RecordBatch]:
    """The texts' numbers, batch by batch, in the order of the rows; rows of weight 0 are left out.

    Columns: row (counted from 0), id where there is one, loss in nats; tokens and nats_per_token, bytes and
    bits_per_byte where they are counted.
    """
    rows = 0
    for batch in texts:
        rows += len(batch.log_prob)
        kept = batch.kept
        loss = batch.loss[kept]
        columns: dict[str, Any] = {"row": batch.first_row + kept}
        if batch.ids is not None:
            columns["id"] = taken(batch.ids, kept)
        columns["loss"] = loss
        if "tokens" in batch.counts:
            columns["tokens"] = batch.counts["tokens"][kept]
            columns["nats_per_token"] = loss / columns["tokens"]
        if "bytes" in batch.counts:
            columns["bytes"] = batch.counts["bytes"][kept]
            columns["bits_per_byte"] = loss / columns["bytes"] / NATS_PER_UNIT["bits"]
        yield pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
    if not rows:
        raise PredictionError(f"{texts.source}: there are no rows")


def worst_by(texts: Texts) -> str:
    """What makes a text the worst: its loss per token, where tokens are counted, as in the report."""
    return "loss" if texts.columns["tokens"] is None else "nats_per_token"


def language_model_rows(source: Any, *, worst: int | None = None, **how_to_read: Any) -> pa.Table:
    """Every text's loss: `crossentropy rows --language-model` as a function.

    Parameters
    ----------
    source, how_to_read : as in `language_model_report`
    worst : only so many texts, those with the largest loss per token (per text where tokens are not counted)

    Returns
    -------
    pyarrow.Table
        Columns row, id (where there is one), loss (nats), and where they are counted tokens, nats_per_token, bytes,
        bits_per_byte

    Raises
    ------
    PredictionError : as in `language_model_report`

    Examples
    --------
    >>> import pyarrow as pa
    >>> from crossentropy.evaluation import language_model_rows
    >>> texts = pa.table({"log_prob": [-6.0, -2.0], "tokens": [3, 2]})
    >>> language_model_rows(texts).to_pydict()
    {'row': [0, 1], 'loss': [6.0, 2.0], 'tokens': [3.0, 2.0], 'nats_per_token': [2.0, 1.0]}
    """
    texts = read_texts(source, **how_to_read)
    batches = text_row_batches(texts)
    return pa.Table.from_batches(batches) if worst is None else worst_rows(batches, worst, worst_by(texts))
