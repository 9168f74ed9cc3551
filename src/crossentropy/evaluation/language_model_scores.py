"""The loss of a language model: its numbers and their forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crossentropy import perplexity

from .forms import Forms
from .scores import MeanLoss, PartLoss
from .terminal import columns, counted, number, percent, printable, spaced, titled


@dataclass(frozen=True)
class TextLoss:
    """One text that is shown: its loss in nats, over all its tokens."""

    row: int
    id: int | str | None
    loss: float
    tokens: float

    def rank(self) -> tuple[float, int]:
        return (-self.loss / self.tokens, self.row)


@dataclass(frozen=True)
class LanguageModelReport(Forms):
    """The loss of a language model: `per["rows"]`, and `per["tokens"]` and `per["bytes"]` where they are counted."""

    source: str
    reading: tuple[str, ...]
    per: Mapping[str, MeanLoss]
    totals: Mapping[str, float]
    slices: Mapping[str, tuple[PartLoss, ...]]
    worst: tuple[TextLoss, ...]

    @property
    def perplexity(self) -> float | None:
        """exp(loss per token); None where tokens are not counted."""
        return float(perplexity(self.per["tokens"].mean)) if "tokens" in self.per else None

    @property
    def bits_per_byte(self) -> float | None:
        """None where bytes are not counted."""
        return self.per["bytes"].bits if "bytes" in self.per else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "reading": list(self.reading),
            "rows": self.per["rows"].rows,
            "infinite_rows": self.per["rows"].infinite,
            "totals": dict(self.totals),
            "loss_per": {name.removesuffix("s"): _numbers(loss) for name, loss in self.per.items()},
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "by_class": [],
            "by_slice": {
                column: [
                    {"value": part.name, **(_numbers(part.loss) if part.loss else {}), "share": part.share}
                    | {"p_value": part.p_value, "differs": part.differs}
                    for part in parts
                ]
                for column, parts in self.slices.items()
            },
            "worst": [
                {"row": t.row, "id": t.id, "nats": t.loss, "tokens": t.tokens, "nats_per_token": t.loss / t.tokens}
                for t in self.worst
            ],
        }

    def __rich__(self) -> RenderableType:
        return Group(*spaced([_heading(self), _summary(self), *_slices(self), _worst(self)]))


def _numbers(loss: MeanLoss) -> dict[str, Any]:
    interval = None if loss.interval is None else list(loss.interval)
    return {"rows": loss.rows, "nats": loss.mean, "bits": loss.bits, "interval_nats": interval}


def _heading(report: LanguageModelReport) -> RenderableType:
    counts = ", ".join(f"{total:,.0f} {name}" for name, total in report.totals.items() if name != "rows")
    lines = [Text(printable(report.source), style="bold")] * bool(report.source)
    lines.append(Text(counted(report.per["rows"].rows) + (f", {counts}" if counts else "")))
    return Group(*lines, *(Text(printable(line), style="dim") for line in report.reading))


def _summary(report: LanguageModelReport) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for name, loss in report.per.items():
        grid.add_row(f"Per {name[:-1]}", f"{number(loss.mean)} nats = {number(loss.bits)} bits")
        if loss.interval:
            low, high = (number(end, 4) for end in loss.interval)
            units = f", {loss.clusters:,} clusters" if loss.clusters else ""
            grid.add_row("", f"{low} to {high} nats with 95 % confidence{units}")
    tokens = report.per.get("tokens")
    if tokens and report.perplexity is not None:
        ends = [float(perplexity(end)) for end in tokens.interval] if tokens.interval else []
        interval = f", {' to '.join(number(end, 4) for end in ends)} with 95 % confidence" if ends else ""
        grid.add_row("Perplexity", Text(f"{number(report.perplexity)}{interval}", style="bold"))
    if report.bits_per_byte is not None:
        grid.add_row("Bits per byte", Text(number(report.bits_per_byte), style="bold"))
    infinite = report.per["rows"]
    if infinite.infinite:
        grid.add_row("Infinite", Text(f"{counted(infinite.infinite)} had the probability 0", style="red"))
    return grid


def _slices(report: LanguageModelReport) -> Iterator[RenderableType]:
    for column, parts in report.slices.items():
        table = columns(printable(column), "rows", "loss (nats)", "95 % interval", "share of loss")
        for part in sorted(parts, key=lambda part: -(part.share or 0)):
            if part.loss:
                mean = number(part.loss.mean, 4) + ("*" if part.differs else " ")
                interval = " to ".join(number(end, 3) for end in part.loss.interval) if part.loss.interval else "-"
                share = "-" if part.share is None else percent(part.share)
                table.add_row(Text(printable(part.name)), f"{part.loss.rows:,}", mean, interval, share)
        unit = "token" if "tokens" in report.per else "row"
        yield titled(f"Loss per {unit} by {printable(column)}", "", table)


def _worst(report: LanguageModelReport) -> RenderableType:
    has_id = any(text.id is not None for text in report.worst)
    has_tokens = "tokens" in report.per
    table = columns("id" if has_id else "row", *(["tokens"] if has_tokens else []), "nats", "nats per token")
    for text in report.worst:
        name = Text(printable(text.id if has_id else text.row))
        tokens = [f"{text.tokens:,.0f}"] if has_tokens else []
        table.add_row(name, *tokens, number(text.loss, 4), number(text.loss / text.tokens, 4))
    return titled("Least expected texts", "", table)
