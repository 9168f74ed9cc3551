"""Which of two language models is better, on the same texts: the difference per token, per byte or per text.

    difference = (sum loss_B - sum loss_A) / sum(tokens),  exp(difference) = perplexity of B / perplexity of A

Models with different tokenizers split the same text into different numbers of tokens: they have no token in
common to be compared by, and are compared per byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .alignment import Alignment, RowLosses, joined, pair, taken
from .batches import PredictionError
from .comparison import Comparison, compare_rows
from .language_model import TextBatch
from .language_model_table import Texts, read_texts


@dataclass(frozen=True)
class TextLosses(RowLosses):
    """The texts of one source, with what is counted of each."""

    counts: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, texts: Texts) -> TextLosses:
        return cls(source=texts.source, **joined(texts.source, map(_columns, texts)))


def _columns(batch: TextBatch) -> dict[str, Any]:
    kept = batch.kept
    return {
        "loss": batch.loss[kept],
        "rows": batch.first_row + kept,
        "ids": None if batch.ids is None else taken(batch.ids, kept),
        "weights": None if batch.weights is None else batch.weights[kept],
        "groups": batch.groups and batch.groups.take(kept).texts(),
        "slices": {name: values.take(kept).texts() for name, values in batch.slices.items()},
        "counts": {unit: values[kept] for unit, values in batch.counts.items()},
    }


def compare_language_models(
    a: Any, b: Any, *, options_b: Mapping[str, Any] | None = None, moved: int = 5, **how_to_read: Any
) -> Comparison:
    """Compare two language models on the same texts: `crossentropy compare --language-model` as a function.

    Texts are aligned by id where both sources have one; else they must have the same counts in the same order. The
    difference is per token where both count the same tokens; else, as for different tokenizers, per byte; without
    bytes per text (unit "row"). Weights, clusters and slices are taken from `a`.

    Parameters
    ----------
    a, b : sources, as in `language_model_report`
    options_b : what is different for `b`, e.g. {"log_prob": "other"}
    moved : how many of the texts that moved most, per unit, to show, each way
    how_to_read : as in `language_model_report`, for both sources

    Returns
    -------
    Comparison
        `unit` says what `difference`, `loss_a` and `loss_b` are a mean per; `per` has the difference per every unit
        that both count. `difference.probability_ratio` is that of the geometric-mean probability of a token.

    Raises
    ------
    PredictionError : a source cannot be read, or the texts are not the same

    Examples
    --------
    >>> import pyarrow as pa
    >>> from crossentropy.evaluation import compare_language_models
    >>> a = pa.table({"log_prob": [-6.0, -2.0], "tokens": [3, 1]})
    >>> b = pa.table({"log_prob": [-4.0, -2.0], "tokens": [3, 1]})
    >>> result = compare_language_models(a, b)
    >>> result.unit, result.difference.mean, round(result.difference.probability_ratio, 6)
    ('token', -0.5, 1.648721)
    """
    for_b = {name: value for name, value in how_to_read.items() if name not in ("weight", "group", "by")}
    texts_a = TextLosses.of(read_texts(a, **how_to_read))
    texts_b = TextLosses.of(read_texts(b, **{**for_b, **(options_b or {})}))
    pairs = pair(texts_a, texts_b)
    counts = _common_counts(texts_a, texts_b, pairs)
    if not pairs.by_id:
        if not counts:
            raise PredictionError(
                f"nothing shows that {texts_a.source} and {texts_b.source} hold the same texts: both need a column of "
                "ids, or the same numbers of tokens or bytes"
            )
        how = f"the same numbers of {' and '.join(f'{unit}s' for unit in counts)} in the same order"
        pairs = replace(pairs, how=how)
    elif "tokens" in texts_a.counts and "tokens" in texts_b.counts and "token" not in counts:
        pairs = replace(pairs, how=f"{pairs.how}; not compared by token: the models count other tokens")
    units: dict[str, np.ndarray | None] = {**counts, "row": None}
    found = {unit: compare_rows(texts_a, texts_b, pairs, moved, unit=unit, count=n) for unit, n in units.items()}
    return replace(next(iter(found.values())), per={unit: result.difference for unit, result in found.items()})


def _common_counts(a: TextLosses, b: TextLosses, pairs: Alignment) -> dict[str, np.ndarray]:
    """What both count alike: tokens where every text has as many, then bytes, which no tokenizer changes."""
    found = {}
    for name in ("tokens", "bytes"):
        if name not in a.counts or name not in b.counts:
            continue
        ours, theirs = a.counts[name][pairs.a], b.counts[name][pairs.b]
        different = np.flatnonzero(ours != theirs)
        if not len(different):
            found[name.removesuffix("s")] = ours
        elif name == "bytes":
            row = int(different[0])
            raise PredictionError(
                f"{a.where(int(pairs.a[row]))} has {ours[row]:,.0f} bytes and {b.where(int(pairs.b[row]))} "
                f"{theirs[row]:,.0f}: these are not the same texts ({len(different):,} of {len(ours):,} differ)"
            )
    return found
