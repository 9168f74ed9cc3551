"""The results of an evaluation: frozen numbers, with a text and a JSON form. Nothing here reads or computes rows."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .accumulators import LossSums, RowSums
from .batches import RowLoss

NATS_PER_BIT = math.log(2)


@dataclass(frozen=True)
class MeanLoss:
    """The mean log loss of a group of rows, in nats.

    `mean` is infinite where one row's loss is; `finite_mean` is the mean of the other rows, None where there is none.
    """

    rows: int
    correct: int
    infinite: int
    weight: float
    mean: float
    finite_mean: float | None
    finite_total: float

    @classmethod
    def from_sums(cls, sums: LossSums, group: int = 0) -> MeanLoss | None:
        """The mean of one group of the sums; None where the group has no rows."""
        rows, infinite = int(sums.rows[group]), int(sums.infinite[group])
        if not rows:
            return None
        finite_weight, finite_total = float(sums.w1l0[group]), float(sums.w1l1[group])
        finite_mean = finite_total / finite_weight if rows > infinite else None
        return cls(
            rows=rows,
            correct=int(sums.correct[group]),
            infinite=infinite,
            weight=finite_weight + float(sums.infinite_weight[group]),
            mean=math.inf if finite_mean is None or infinite else finite_mean,
            finite_mean=finite_mean,
            finite_total=finite_total,
        )

    @property
    def bits(self) -> float:
        return self.mean / NATS_PER_BIT

    @property
    def accuracy(self) -> float:
        return self.correct / self.rows


@dataclass(frozen=True)
class Baseline:
    """A prediction that looks at no row, and the skill of the model against it: 1 - loss / baseline loss."""

    name: str
    loss: float
    skill: float | None


@dataclass(frozen=True)
class ClassLoss:
    """The mean loss of the rows of one class; `loss` is None for a class that does not occur."""

    name: str
    loss: MeanLoss | None
    share: float | None


@dataclass(frozen=True)
class LogLossReport:
    """What `crossentropy report` shows. Losses are in nats, rows are counted from 0.

    `print(report)` gives the text, `report.to_dict()` and `report.to_json()` the same numbers for a program.
    """

    source: str
    reading: tuple[str, ...]
    classes: tuple[str, ...]
    ignored: int
    loss: MeanLoss
    baselines: tuple[Baseline, ...]
    by_class: tuple[ClassLoss, ...]
    infinite_rows: tuple[RowLoss, ...]
    worst: tuple[RowLoss, ...]
    row_sums: RowSums

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain dictionaries and lists. Infinite numbers stay infinite floats."""
        return {
            "source": self.source,
            "reading": list(self.reading),
            "rows": self.loss.rows,
            "ignored_rows": self.ignored,
            "classes": list(self.classes),
            "log_loss": {
                "nats": self.loss.mean,
                "bits": self.loss.bits,
                "finite_rows_nats": self.loss.finite_mean,
                "geometric_mean_probability": math.exp(-self.loss.mean),
            },
            "accuracy": self.loss.accuracy,
            "wrong_rows": self.loss.rows - self.loss.correct,
            "weight": self.loss.weight,
            "infinite": {
                "rows": self.loss.infinite,
                "first": [
                    {"row": row.row, "id": row.id, "label": self.classes[row.label]} for row in self.infinite_rows
                ],
            },
            "baselines": [{"name": b.name, "nats": b.loss, "skill": b.skill} for b in self.baselines],
            "row_sums": {
                "lowest": self.row_sums.lowest,
                "highest": self.row_sums.highest,
                "precision": self.row_sums.precision,
                "tolerance": self.row_sums.tolerance,
                "rows_beyond": self.row_sums.rows_beyond,
            },
            "by_class": [
                {
                    "class": item.name,
                    "rows": item.loss.rows if item.loss else 0,
                    "nats": item.loss.mean if item.loss else None,
                    "accuracy": item.loss.accuracy if item.loss else None,
                    "infinite_rows": item.loss.infinite if item.loss else 0,
                    "share": item.share,
                }
                for item in self.by_class
            ],
            "confidently_wrong": [
                {
                    "row": row.row,
                    "id": row.id,
                    "label": self.classes[row.label],
                    "label_probability": row.label_probability,
                    "prediction": self.classes[row.prediction],
                    "prediction_probability": row.prediction_probability,
                    "nats": row.loss,
                }
                for row in self.worst
            ],
        }

    def to_json(self) -> str:
        """The dictionary as JSON. JSON has no infinity: it is written as the string "inf"."""
        return json.dumps(_without_infinity(self.to_dict()), indent=2, ensure_ascii=False, allow_nan=False)

    def text(self, width: int = 80) -> str:
        """The report as plain text."""
        from .terminal import plain_text

        return plain_text(self, width)

    def __str__(self) -> str:
        return self.text()


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinity(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and math.isinf(value) else value
