"""What `crossentropy calibrate` found: the scaler, and what it is worth on rows it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .batches import Batch
from .forms import Forms
from .scaler import Scaler
from .scaler_fit import FittedValues, fit_values
from .temperature_sums import FOLDS
from .terminal import counted, number, printable


@dataclass(frozen=True)
class CalibrationFit(Forms):
    """A fitted scaler and its worth: `scaler`, and the numbers of `FittedValues` in `found`, in nats.

    `print(fit)` gives the text, a notebook shows it, `to_dict()`, `to_json()` and `to_arrow()` give the numbers to a
    program; `fit.scaler.save(path)` keeps the scaler.
    """

    source: str
    reading: tuple[str, ...]
    scaler: Scaler
    found: FittedValues

    @property
    def gain(self) -> float | None:
        """The mean loss that the scaler takes away from rows it was not fitted on; None where that is not known."""
        return None if self.found.fitted_loss is None else self.found.loss - self.found.fitted_loss

    @property
    def gain_interval(self) -> tuple[float, float] | None:
        """Its 95 % interval, paired by row (or by cluster)."""
        return self.found.gain.interval() if self.found.gain else None

    def to_dict(self) -> dict[str, Any]:
        found = self.found
        return {
            "source": self.source,
            "reading": list(self.reading),
            "rows": found.rows,
            "infinite_rows": found.infinite,
            "classes": list(self.scaler.classes),
            "method": self.scaler.method,
            "temperature": self.scaler.temperature,
            "slope": self.scaler.slope,
            "intercept": self.scaler.intercept,
            "loss_nats": found.loss,
            "cross_fitted_loss_nats": found.fitted_loss,
            "cross_fitted_gain_nats": self.gain,
            "interval_nats": None if self.gain_interval is None else list(self.gain_interval),
            "clusters": found.clusters,
            "not_cross_fitted_because": found.unfitted,
            "loss_minus_entropy_before_nats": found.gap,
            "loss_minus_entropy_on_fitted_rows_nats": found.remaining_gap,
            "passes": found.passes,
        }

    def to_arrow(self) -> pa.Table:
        """The numbers as a table of one row."""
        found = {name: value for name, value in self.to_dict().items() if not isinstance(value, (list, tuple))}
        low, high = self.gain_interval or (None, None)
        return pa.Table.from_pylist([{**found, "low_nats": low, "high_nats": high}])

    def __rich__(self) -> RenderableType:
        lines = [Text(printable(self.source), style="bold")] * bool(self.source)
        lines += [Text(counted(self.found.rows)), *(Text(printable(line), style="dim") for line in self.reading)]
        return Group(*lines, "", self._summary(), "")

    def _summary(self) -> RenderableType:
        found, table = self.found, Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        if self.scaler.method == "temperature":
            table.add_row("Temperature", Text(f"{number(self.scaler.temperature, 4)}: divide the logits by it"))
        else:
            low, high = (printable(name) for name in self.scaler.classes)
            text = f"slope {number(self.scaler.slope, 4)}, intercept {number(self.scaler.intercept, 4)}"
            table.add_row("Affine", Text(f"{text}, on the logit of {high} against {low}"))
        side = "over" if found.gap > 0 else "under"
        gap = f"{side}-confident before by {number(abs(found.gap), 4)} nats (mean loss - mean entropy)"
        table.add_row("", Text(gap))
        table.add_row("Log loss", Text(f"{number(found.loss)} nats per row before"))
        if found.fitted_loss is None or self.gain is None:
            table.add_row("Gain", Text(f"not known: with a part of the rows left out, {found.unfitted}", style="red"))
        else:
            after = f"{number(found.fitted_loss)} after, on rows it was not fitted on ({FOLDS} folds)"
            table.add_row("", Text(after))
            table.add_row("Gain", Text(self._gain(self.gain), style="bold"))
        if found.infinite:
            text = f"{counted(found.infinite)} with an infinite loss left out: no scaling makes it finite"
            table.add_row("Infinite", Text(text, style="red"))
        if found.only_class is not None:
            name = printable(self.scaler.classes[found.only_class]) if self.scaler.classes else str(found.only_class)
            table.add_row("Labels", Text(f"every label is {name}: the fit knows nothing of the others", style="red"))
        return table

    def _gain(self, gain: float) -> str:
        verb = f"{number(gain, 4)} nats" if gain > 0 else f"none: {number(-gain, 4)} nats lost"
        if not self.gain_interval:
            return f"{verb}; too few rows for an interval"
        low, high = self.gain_interval
        units = f", {self.found.clusters:,} clusters" if self.found.clusters else ""
        chance = "" if low > 0 or high < 0 else ": no more than chance explains"
        return f"{verb}, {number(low, 3)} to {number(high, 3)} with 95 % confidence{units}{chance}"


def fit_calibration(
    batches: Callable[[], Iterable[Batch]],
    classes: tuple[str, ...],
    method: str = "temperature",
    source: str = "",
    reading: tuple[str, ...] = (),
    sha256: str | None = None,
) -> CalibrationFit:
    """Fit a scaler to batches of predictions: see `fit_values`."""
    found = fit_values(batches, classes, method)
    fitted_on = {"source": source, "sha256": sha256, "rows": found.rows}
    return CalibrationFit(source, reading, Scaler(found.slope, found.intercept, method, classes, fitted_on), found)
