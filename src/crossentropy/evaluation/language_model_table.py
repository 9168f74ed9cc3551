"""From a table with the log-probability of each text to the report of a language model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from .arrow_columns import Where, categories, numbers, plain
from .batches import LARGEST_LOSS, PredictionError
from .columns import ID_NAMES, WEIGHT_NAMES
from .formats import Table, open_files, open_stream
from .language_model import LanguageModelEvaluation, TextBatch
from .language_model_scores import LanguageModelReport

LOG_PROB_NAME = re.compile(r"(token_?|sum_?|total_?)?log_?(p|probs?|likelihood|lik)", re.IGNORECASE)
COUNT_NAMES = {unit: (unit, f"num_{unit}", f"n_{unit}", f"{unit[:-1]}_count") for unit in ("tokens", "bytes")}
# role -> lowest and highest value, what a value is. Intervals need the third power of weight times count.
RANGES = {
    "log_prob": (-LARGEST_LOSS, 0.0, "the logarithm of a probability: from -1e50 to 0, or -inf"),
    "tokens": (1.0, 1e50, "a number of tokens: at least 1"),
    "bytes": (1.0, 1e50, "a number of bytes: at least 1"),
    "weight": (0.0, 1e50, "a weight: a number from 1e-50 to 1e50, or 0"),
}


def language_model_report(
    source: Any,
    *,
    log_prob: str | None = None,
    tokens: str | None = None,
    bytes: str | None = None,
    id: str | None = None,
    weight: str | None = None,
    group: str | None = None,
    by: Sequence[str] = (),
    worst: int = 10,
) -> LanguageModelReport:
    """The loss of a language model, from a table with the log-probability of each text.

    Parameters
    ----------
    source : file, folder, pattern or table in memory, as in `read_predictions`
    log_prob, tokens, bytes, id, weight : names of the columns; found by their usual names where None
    group, by, worst : as in `report`

    Returns
    -------
    LanguageModelReport

    Raises
    ------
    PredictionError : a column is missing, a log-probability above 0 or missing, a count below 1
    """
    texts = read_texts(source, log_prob=log_prob, tokens=tokens, bytes=bytes, id=id, weight=weight, group=group, by=by)
    state = LanguageModelEvaluation.empty(worst)
    for batch in texts:
        state = state.update(batch)
    try:
        return state.result(texts.source, texts.reading)
    except PredictionError as error:
        raise PredictionError(f"{texts.source}: {error}") from None


@dataclass(frozen=True)
class Texts:
    """A table of texts, read in batches as often as it is iterated; `columns` maps roles to the columns found."""

    table: Table
    columns: Mapping[str, str | None]
    by: tuple[str, ...]

    @property
    def source(self) -> str:
        return self.table.source

    @property
    def reading(self) -> tuple[str, ...]:
        """How the columns were read."""
        return (", ".join(f"{role} from {name!r}" for role, name in self.columns.items() if name is not None),)

    def __iter__(self) -> Iterator[TextBatch]:
        return _batches(self.table, self.columns, self.by)


def read_texts(
    source: Any,
    *,
    log_prob: str | None = None,
    tokens: str | None = None,
    bytes: str | None = None,
    id: str | None = None,
    weight: str | None = None,
    group: str | None = None,
    by: Sequence[str] = (),
) -> Texts:
    """Find the columns of a table of texts; arguments and errors as in `language_model_report`."""
    table = open_stream(source) if hasattr(source, "__arrow_c_stream__") else open_files(source)
    by = (by,) if isinstance(by, str) else tuple(by)
    found = {
        "log_prob": _found(
            table, log_prob, "log_prob", [name for name in table.kinds if LOG_PROB_NAME.fullmatch(name)]
        ),
        "tokens": _found(table, tokens, "tokens", _usual(table, COUNT_NAMES["tokens"])),
        "bytes": _found(table, bytes, "bytes", _usual(table, COUNT_NAMES["bytes"])),
        "id": _found(table, id, "id", _usual(table, ID_NAMES)),
        "weight": _found(table, weight, "weight", _usual(table, WEIGHT_NAMES)),
        "group": _found(table, group, "group", []),
    }
    for name in by:
        _found(table, name, "by", [])
    if found["log_prob"] is None:
        raise PredictionError(
            f"{table.source}: there is no column of log-probabilities among {', '.join(map(repr, table.kinds))}; "
            "name it with log_prob"
        )
    return Texts(table, found, by)


def _usual(table: Table, names: Sequence[str]) -> list[str]:
    return [name for name in table.kinds if name.lower() in names][:1]


def _found(table: Table, given: str | None, role: str, usual: list[str]) -> str | None:
    if given is not None and given not in table.kinds:
        close = difflib.get_close_matches(given, list(table.kinds), n=1)
        meant = f"; was {close[0]!r} meant?" if close else ""
        raise PredictionError(f"{table.source}: there is no {role} column {given!r}{meant}")
    if given is None and len(usual) > 1:
        raise PredictionError(f"{table.source}: {role} could be {' or '.join(map(repr, usual))}; name it")
    return given if given is not None else next(iter(usual), None)


def _batches(table: Table, found: Mapping[str, str | None], by: Sequence[str]) -> Iterator[TextBatch]:
    numeric = {role: name for role in RANGES if (name := found[role]) is not None}
    for name in numeric.values():
        if table.kinds[name] not in ("float", "integer"):
            raise PredictionError(f"{table.source}: column {name!r} is meant to hold numbers, not {table.kinds[name]}")
    texts = [name for name in (found["id"], found["group"], *by) if name is not None]
    first_row = 0
    for rows in table.read(list(numeric.values()), list(dict.fromkeys(texts)), 1):
        where = Where(table.source, first_row, plain(rows.column(found["id"])) if found["id"] is not None else None)
        weights = _checked(rows, "weight", found["weight"], where) if found["weight"] is not None else None
        kept = np.arange(rows.num_rows) if weights is None else np.flatnonzero(weights)
        read, at = rows, where
        if len(kept) < rows.num_rows:  # rows of weight 0 may hold anything: they are not looked at
            read, at = rows.take(pa.array(kept)), replace(where, kept=kept)
        values = {}
        for role in (role for role in numeric if role != "weight"):
            values[role] = np.full(rows.num_rows, -1.0 if role == "log_prob" else 1.0)
            values[role][kept] = _checked(read, role, numeric[role], at)
        yield TextBatch(
            values["log_prob"],
            {unit: values[unit] for unit in COUNT_NAMES if unit in values},
            ids=where.ids,
            weights=weights,
            groups=categories(rows, found["group"], where) if found["group"] is not None else None,
            slices={name: categories(rows, name, where) for name in by},
            first_row=first_row,
        )
        first_row += rows.num_rows


def _checked(rows: pa.RecordBatch, role: str, name: str, where: Where) -> np.ndarray:
    values = numbers(rows, name, where).astype(np.float64)
    lowest, highest, what = RANGES[role]
    bad = ~((values >= lowest) & (values <= highest))
    if role == "log_prob":
        bad &= values != -np.inf
    if role == "weight":
        bad |= (values > 0) & (values < 1 / highest)
    if bad.any():
        row = int(bad.argmax())
        raise where.error(row, f"{values[row]} in column {name!r} is not {what}")
    return values
