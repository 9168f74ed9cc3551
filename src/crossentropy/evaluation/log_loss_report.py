"""The report and its forms: for a person, for a program."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from .scores import LogLossScores
from .terminal import plain_text


@dataclass(frozen=True)
class LogLossReport(LogLossScores):
    """What `crossentropy report` shows: its numbers are attributes, in nats; rows are counted from 0.

    `print(report)` gives the text, `report.to_dict()` and `report.to_json()` the same numbers for a program.
    """

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
        return plain_text(self, width)

    def __str__(self) -> str:
        return self.text()


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinity(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
