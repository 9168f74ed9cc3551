"""Language models: rows that hold the log-probability of a text, with its number of tokens and of bytes.

    loss per token = -sum(log p) / sum(tokens),  perplexity = exp(loss per token)
    bits per byte  = -sum(log p) / (sum(bytes) log 2)

Per token compares models with one tokenizer, per byte compares any. Both are ratios of sums over rows, and their
intervals take the rows (or clusters) as the independent units, since the tokens of one text are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from crossentropy import cross_entropy

from . import state_bytes
from .accumulators import LossSums
from .batches import Categories, PredictionError
from .clusters import ClusterSums
from .language_model_scores import LanguageModelReport, TextLoss
from .scores import MeanLoss, part_losses
from .slices import SliceSums


@dataclass(frozen=True)
class TextBatch:
    """Consecutive texts: the log-probability of each, and how many tokens and bytes it has."""

    log_prob: np.ndarray
    counts: Mapping[str, np.ndarray]
    ids: Sequence | None = None
    weights: np.ndarray | None = None
    groups: Categories | None = None
    slices: Mapping[str, Categories] = field(default_factory=dict)
    first_row: int = 0

    @property
    def loss(self) -> np.ndarray:
        """-log p of each text, in nats."""
        first = np.zeros(len(self.log_prob), np.intp)
        values = self.log_prob.astype(np.float64)[:, None]
        return np.asarray(cross_entropy(values, first, inputs="log_probs", reduction="none"))

    @property
    def kept(self) -> np.ndarray:
        """The positions of the texts that count: one of weight 0 is as if it were not there."""
        return np.arange(len(self.log_prob)) if self.weights is None else np.flatnonzero(self.weights)


@dataclass(frozen=True)
class LanguageModelEvaluation:
    """Everything the report needs of the texts seen so far: `update` with batches, `merge`, `result`; immutable.

    Examples
    --------
    >>> import numpy as np
    >>> from crossentropy.evaluation import LanguageModelEvaluation, TextBatch
    >>> texts = TextBatch(np.array([-6.0, -2.0]), {"tokens": np.array([3.0, 1.0]), "bytes": np.array([12.0, 4.0])})
    >>> result = LanguageModelEvaluation.empty().update(texts).result()
    >>> result.per["tokens"].mean, round(result.perplexity, 6), round(result.bits_per_byte, 6)
    (2.0, 7.389056, 0.721348)
    """

    rows: int
    size: int
    sums: Mapping[str, LossSums]
    totals: Mapping[str, float]
    worst: tuple[TextLoss, ...] = ()
    clusters: Mapping[str, ClusterSums] = field(default_factory=dict)
    slices: Mapping[str, SliceSums] = field(default_factory=dict)

    @classmethod
    def empty(cls, worst: int = 10) -> Self:
        """No texts yet; `worst` is how many of those with the largest loss per token to keep."""
        return cls(0, worst, {}, {})

    def update(self, batch: TextBatch) -> Self:
        """The state with one batch more."""
        if not len(batch.log_prob):
            return self
        kept = batch.kept
        loss = batch.loss[kept]
        weight = np.ones(len(kept)) if batch.weights is None else batch.weights[kept]
        wrong = np.zeros(len(kept), bool)  # "correct" has no meaning for a text
        units = {"rows": np.ones(len(kept)), **{name: counts[kept] for name, counts in batch.counts.items()}}
        sums, clusters, slices = {}, {}, {}
        for name, count in units.items():
            sums[name] = LossSums.empty(1).update(np.zeros(len(kept), np.intp), loss / count, wrong, weight * count)
            if batch.groups is not None:
                finite = np.isfinite(loss)
                codes = batch.groups.codes[kept][finite]
                rate, w = (loss / count)[finite], (weight * count)[finite]
                clusters[name] = ClusterSums.empty().update(codes, batch.groups.names, rate, w)
        per = units.get("tokens", units["rows"])
        for name, values in batch.slices.items():
            slices[name] = SliceSums.empty(name).update(values.take(kept), loss / per, wrong, weight * per)
        order = np.lexsort((kept, -loss / per))[: self.size]
        worst = (self._text(int(kept[i]), batch.ids, float(loss[i]), float(per[i])) for i in order)
        return self.merge(
            replace(
                self.empty(self.size),
                rows=len(batch.log_prob),
                sums=sums,
                totals={name: float((weight * count).sum()) for name, count in units.items()},
                worst=tuple(worst),
                clusters=clusters,
                slices=slices,
            )
        )

    @staticmethod
    def _text(row: int, ids: Sequence | None, loss: float, tokens: float) -> TextLoss:
        id: Any = None if ids is None else ids[row]
        return TextLoss(row, id.as_py() if hasattr(id, "as_py") else id, loss, tokens)

    def merge(self, other: Self) -> Self:
        """The state of these texts followed by the other's."""
        if self.rows and other.rows and self.sums.keys() != other.sums.keys():
            raise ValueError(f"one part counts {sorted(self.sums)}, the other {sorted(other.sums)}")
        shifted = (replace(text, row=text.row + self.rows) for text in other.worst)
        return replace(
            self,
            rows=self.rows + other.rows,
            sums=_merged(self.sums, other.sums),
            totals={n: self.totals.get(n, 0.0) + other.totals.get(n, 0.0) for n in {**self.totals, **other.totals}},
            worst=tuple(sorted((*self.worst, *shifted), key=TextLoss.rank)[: self.size]),
            clusters=_merged(self.clusters, other.clusters),
            slices=_merged(self.slices, other.slices),
        )

    def to_bytes(self) -> bytes:
        """The state as bytes: keep it, or send it to where the parts are merged."""
        return state_bytes.to_bytes(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state that `to_bytes` wrote.

        Raises
        ------
        ValueError : the bytes are not a saved state of texts, are damaged, or are of another version
        """
        state = state_bytes.from_bytes(data, (cls, LossSums, TextLoss, ClusterSums, SliceSums))
        if not isinstance(state, cls):
            raise ValueError("the bytes are a part of an evaluation, not a whole one")
        return state

    def result(self, source: str = "", reading: Sequence[str] = ()) -> LanguageModelReport:
        """The numbers, from the sums.

        Raises
        ------
        PredictionError : there are no texts, or every one has weight 0
        """
        per = {
            name: loss
            for name, sums in self.sums.items()
            if (loss := MeanLoss.from_sums(sums, clusters=self.clusters.get(name)))
        }
        if not per:
            raise PredictionError(f"all {self.rows} rows have weight 0" if self.rows else "there are no rows")
        inflation = per["tokens" if "tokens" in per else "rows"].inflation
        slices = {n: part_losses(part.values, part.sums, inflation) for n, part in sorted(self.slices.items())}
        return LanguageModelReport(source, tuple(reading), per, self.totals, slices, self.worst)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {name: one[name].merge(other[name]) for name in one if name in other}
    return {**other, **one, **both}
