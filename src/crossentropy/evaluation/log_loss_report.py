"""The report and its forms: for a person, for a program."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from .forms import Forms
from .scores import LogLossScores, MeanLoss, PartLoss
from .terminal import render


@dataclass(frozen=True)
class LogLossReport(LogLossScores, Forms):
    """What `crossentropy report` shows: its numbers are attributes, in nats; rows are counted from 0.

    `print(report)` gives the text, a notebook shows it, `to_dict()`, `to_json()` and `to_arrow()` give the same numbers
    to a program.
    """

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "reading": list(self.reading),
            "rows": self.loss.rows,
            "ignored_rows": self.ignored,
            "classes": list(self.classes),
            "log_loss": {
                "nats": self.loss.mean,
                "bits": self.loss.bits,
                "interval_nats": _interval(self.loss),
                "clusters": self.loss.clusters,
                "finite_rows_nats": self.loss.finite_mean,
                "geometric_mean_probability": math.exp(-self.loss.mean),
            },
            "label_entropy_nats": self.label_entropy,
            "accuracy": self.loss.accuracy,
            "wrong_rows": self.loss.rows - self.loss.correct,
            "weight": self.loss.weight,
            "share_of_worst_percent": self.worst_share,
            "infinite": {
                "rows": self.loss.infinite,
                "first": [
                    {"row": row.row, "id": row.id, "label": self.classes[row.label]} for row in self.infinite_rows
                ],
            },
            "baselines": [{"name": b.name, "nats": b.loss, "skill": b.skill} for b in self.baselines],
            "calibration": self._calibration_dict(),
            "corp": self.corp
            and {
                "miscalibration_nats": self.corp.miscalibration,
                "miscalibration_by_chance_nats": self.corp.null_miscalibration,
                "discrimination_nats": self.corp.discrimination,
                "uncertainty_nats": self.corp.uncertainty,
                "error_nats": self.corp.error,
            },
            "row_sums": self.row_sums
            and {
                "lowest": self.row_sums.lowest,
                "highest": self.row_sums.highest,
                "precision": self.row_sums.precision,
                "tolerance": self.row_sums.tolerance,
                "rows_beyond": self.row_sums.rows_beyond,
            },
            "by_class": [{"class": part.name, **_part(part)} for part in self.by_class],
            "by_slice": {
                column: [{"value": part.name, **_part(part)} for part in parts] for column, parts in self.slices.items()
            },
            "suspected_label_errors": {
                "rows": self.suspected_label_errors,
                "thresholds": [None if math.isnan(t) else t for t in self.label_thresholds],
            },
            "confidently_wrong": [
                {
                    "row": row.row,
                    "id": row.id,
                    "label": self.classes[row.label],
                    "label_probability": row.label_probability,
                    "prediction": self.classes[row.prediction],
                    "prediction_probability": row.prediction_probability,
                    "nats": row.loss,
                    "suspected_label_error": self.is_suspected(row),
                }
                for row in self.worst
            ],
        }

    def _calibration_dict(self) -> dict[str, Any] | None:
        if self.calibration is None:
            return None
        found = self.calibration
        return {
            "loss_minus_entropy_nats": found.gap,
            "z": found.z,
            "direction": found.direction,
            "temperature": found.temperature,
            "temperature_at_edge_of_grid": found.at_edge,
            "loss_at_cross_fitted_temperature_nats": found.fitted_loss,
            "calibration_nats": found.calibration,
        }

    def __rich__(self) -> RenderableType:
        return render(self)


def _interval(loss: MeanLoss) -> list[float] | None:
    return None if loss.interval is None else list(loss.interval)


def _part(part: PartLoss) -> dict[str, Any]:
    loss = part.loss
    return {
        "rows": loss.rows if loss else 0,
        "nats": loss.mean if loss else None,
        "interval_nats": _interval(loss) if loss else None,
        "accuracy": loss.accuracy if loss else None,
        "infinite_rows": loss.infinite if loss else 0,
        "share": part.share,
        "p_value": part.p_value,
        "differs": part.differs,
    }
