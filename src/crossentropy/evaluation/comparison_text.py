"""How a comparison looks in a terminal. Draws finished results; computes nothing but the layout."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crossentropy import perplexity
from crossentropy.reduction import NATS_PER_UNIT

from .comparison_scores import ComparisonScores, MeanDifference, MovedRow, PartDifference
from .terminal import SHOWN_PARTS, columns, counted, number, percent, printable, spaced, titled


def render(result: ComparisonScores) -> RenderableType:
    """The comparison as something a `rich` console can print."""
    parts = [_by_part("Difference by class", "class", result.by_class)] if result.by_class else []
    parts += [
        _by_part(f"Difference by {printable(name)}", printable(name), values) for name, values in result.slices.items()
    ]
    moved = [
        _rows(title, "" if result.by_class else f", nats per {result.unit}", rows)
        for title, rows in (("Better with B", result.better), ("Worse with B", result.worse))
        if rows
    ]
    return Group(*spaced([_heading(result), _summary(result), *parts, *moved]))


def _heading(result: ComparisonScores) -> RenderableType:
    lines = [
        Text.assemble(("A ", "bold"), f"{printable(result.source_a)}: {_loss(result.loss_a, result.unit)}"),
        Text.assemble(("B ", "bold"), f"{printable(result.source_b)}: {_loss(result.loss_b, result.unit)}"),
        Text(f"{counted(result.difference.rows)}, {result.alignment}", style="dim"),
    ]
    if result.unmatched_a or result.unmatched_b:
        text = f"left out: {counted(result.unmatched_a)} of A and {counted(result.unmatched_b)} of B without a partner"
        lines.append(Text(text, style="red"))
    return Group(*lines)


def _loss(loss: float, unit: str) -> str:
    exponential = f", perplexity {number(float(perplexity(loss)))}" if unit == "token" else ""
    return f"{number(loss)} nats per {unit}{exponential}"


def _summary(result: ComparisonScores) -> RenderableType:
    found = result.difference
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("B - A", Text(_mean(found, result.unit), style="bold"))
    if found.interval:
        low, high = found.interval
        verdict = "B is better" if high < 0 else "A is better" if low > 0 else "no clear difference"
        units = f", {result.clusters:,} clusters" if result.clusters else ""
        table.add_row("", f"{_signed(low, 4)} to {_signed(high, 4)} nats with 95 % confidence{units}: {verdict}")
    if math.isfinite(found.mean):
        ratio = found.probability_ratio
        what = "the labels" if result.unit == "row" and result.by_class else f"a {result.unit}"
        it = "them" if what == "the labels" else "it"
        table.add_row("", f"B gives {what} {number(ratio, 4)} times the probability that A gives {it} (geometric mean)")
        if result.unit == "token":
            ends = [number(float(perplexity(end)), 4) for end in found.interval or ()]
            interval = f", {' to '.join(ends)} with 95 % confidence" if ends else ""
            table.add_row("", f"perplexity of B: {number(float(perplexity(found.mean)), 4)} times that of A{interval}")
    if "byte" in result.per and math.isfinite(result.per["byte"].mean):
        table.add_row("Per byte", _bits(result.per["byte"]))
    if found.infinite_a or found.infinite_b or found.infinite_both:
        text = f"loss infinite in A alone: {counted(found.infinite_a)}, in B alone: {counted(found.infinite_b)}"
        table.add_row("Infinite", Text(f"{text}, in both: {counted(found.infinite_both)}", style="red"))
        if found.finite_mean is not None:
            table.add_row("", f"the other rows: {_signed(found.finite_mean)} nats")
    ties = f", {found.ties:,} ties counted half" if found.ties else ""
    table.add_row("B wins", f"{percent(found.win_rate)} of the rows{ties}")
    return table


def _bits(found: MeanDifference) -> str:
    bit = NATS_PER_UNIT["bits"]
    ends = [_signed(end / bit, 4) for end in found.interval or ()]
    return f"{_signed(found.mean / bit)} bits" + (f", {' to '.join(ends)} with 95 % confidence" if ends else "")


def _mean(found: MeanDifference, unit: str) -> str:
    if math.isnan(found.mean):
        return "undefined: each model has infinite losses that the other has not"
    return f"{_signed(found.mean)} nats per {unit}"


def _signed(value: float, digits: int = 6) -> str:
    return ("+" if value > 0 else "") + number(value, digits)


def _by_part(title: str, name: str, parts: tuple[PartDifference, ...]) -> RenderableType:
    table = columns(name, "rows", "B - A (nats)", "95 % interval", "B wins")
    note = ", * more than chance" if any(part.differs for part in parts) else ""
    shown = [part for part in parts if part.difference]
    if len(shown) > SHOWN_PARTS:
        shown = sorted(shown, key=lambda part: (part.p_value is None, part.p_value))[:SHOWN_PARTS]
        note = f", the {len(shown)} of {len(parts):,} that differ most clearly{note}"
    for part in shown:
        found = part.difference
        assert found is not None  # parts without rows are not shown
        mean = ("undefined" if math.isnan(found.mean) else _signed(found.mean, 4)) + ("*" if part.differs else " ")
        interval = " to ".join(_signed(end, 3) for end in found.interval) if found.interval else "-"
        table.add_row(Text(printable(part.name)), f"{found.rows:,}", mean, interval, percent(found.win_rate))
    return titled(title, note, table)


def _rows(title: str, note: str, rows: tuple[MovedRow, ...]) -> RenderableType:
    has_id = any(row.id is not None for row in rows)
    has_label = any(row.label is not None for row in rows)
    names = ("id" if has_id else "row", *["label"] * has_label, "loss of A", "loss of B", "B - A")
    table = columns(*names, left=1 + has_label)
    for row in rows:
        name = Text(printable(row.id if has_id else row.row))
        losses = number(row.loss_a, 4), number(row.loss_b, 4), _signed(row.difference, 4)
        table.add_row(name, *[Text(printable(row.label))] * has_label, *losses)
    return titled(title, note, table)
