"""How results look in a terminal, 80 columns wide. Draws finished results; computes nothing but the layout."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .calibration import Calibration
from .corp import Corp
from .row_sums import RowSums
from .scores import Baseline, LogLossScores, PartLoss
from .text_table import TextTable, shortened

# As many as fit on a first screen; --json has them all.
SHOWN_PARTS = 12
SHOWN_INFINITE = 5
LONGEST_ID = 40


def render(report: LogLossScores) -> RenderableType:
    """The report as something a `rich` console can print."""
    parts = [_by_part("Loss by class", "class", report.by_class)]
    parts += [_by_part(f"Loss by {printable(name)}", printable(name), values) for name, values in report.slices.items()]
    return Group(*spaced([_heading(report), _summary(report), *parts, *_confidently_wrong(report)]))


def number(value: float, digits: int = 6) -> str:
    """A loss, to a number of significant digits that does not change with its size."""
    return f"{value:#.{digits}g}" if value and math.isfinite(value) else f"{value:.0f}"


def probability(value: float) -> str:
    """A probability, with digits where they matter: near 0 and near 1."""
    if value in (0, 1):
        return f"{value:.0f}"
    if value < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{4 if value < 0.999 else 2 - math.floor(math.log10(1 - value))}f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def counted(rows: int) -> str:
    return f"{rows:,} row{'s' * (rows != 1)}"


def printable(value: object) -> str:
    """A name or id from a file: nothing in it may move the cursor or colour the terminal."""
    text = str(value)
    return text if text.isprintable() else ascii(text)[1:-1]


def spaced(parts: list[RenderableType]) -> Iterator[RenderableType]:
    """The parts with an empty line after each."""
    for part in parts:
        yield part
        yield ""


def _heading(report: LogLossScores) -> RenderableType:
    names = [printable(name) for name in report.classes]
    shown = ", ".join(names if len(names) <= SHOWN_PARTS else [*names[: SHOWN_PARTS - 2], "...", names[-1]])
    title = Text(printable(report.source), style="bold")
    size = Text(f"{counted(report.loss.rows)}, {len(names):,} classes in the order {shown}")
    lines = [*[title][: bool(report.source)], size, *(Text(printable(line), style="dim") for line in report.reading)]
    if report.ignored:
        lines.append(Text(f"{counted(report.ignored)} of weight 0 left out", style="dim"))
    return Group(*lines)


def _summary(report: LogLossScores) -> RenderableType:
    loss = report.loss
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("Log loss", Text(f"{number(loss.mean)} nats per row = {number(loss.bits)} bits", style="bold"))
    if loss.interval:
        low, high = (number(end, 4) for end in loss.interval)
        units = f", {loss.clusters:,} clusters" if loss.clusters else ""
        table.add_row("", Text(f"{low} to {high} nats with 95 % confidence{units}"))
    if loss.infinite:
        first = report.infinite_rows[:SHOWN_INFINITE]
        rows = ", ".join(shortened(printable(row.row if row.id is None else row.id), LONGEST_ID) for row in first)
        more = ", ..." if loss.infinite > len(first) else ""
        name = "rows" if report.infinite_rows[0].id is None else "ids"
        table.add_row(
            "Infinite",
            Text(f"{counted(loss.infinite)} gave the label the probability 0 ({name} {rows}{more})", style="red"),
        )
        if loss.finite_mean is not None:
            table.add_row("", f"the other rows: {number(loss.finite_mean)} nats")
    else:
        likely = f"as if each label had been given the probability {probability(math.exp(-loss.mean))}"
        table.add_row("", Text(likely, style="dim"))
        table.add_row("Infinite", "no row gave the label the probability 0")
    for i, baseline in enumerate(report.baselines):
        table.add_row("" if i else "Skill", _skill(baseline))
    if report.calibration:
        table.add_row("Calibration", _calibration(report.calibration))
    if report.corp:
        table.add_row("Parts", _corp(report.corp))
    if report.worst_share is not None and loss.rows >= 100:
        table.add_row("Worst 1 %", f"of the rows carry {percent(report.worst_share)} of the loss")
    wrong = loss.rows - loss.correct
    table.add_row("Accuracy", f"{percent(loss.accuracy)}, {wrong:,} of {counted(loss.rows)} wrong")
    if report.label_entropy is not None:
        least = f"soft, with an entropy of {number(report.label_entropy)} nats per row: no prediction can lose less"
        table.add_row("Labels", least)
    if report.suspected_label_errors:
        found = counted(report.suspected_label_errors)
        table.add_row("Labels", f"about {found} may have the wrong label (marked ? below)")
    if report.row_sums:
        table.add_row("Row sums", _row_sums(report.row_sums))
    return table


def _calibration(found: Calibration) -> Text:
    side = "above" if found.gap > 0 else "below"
    text = Text(
        f"{found.direction}: the loss is {number(abs(found.gap), 3)} nats {side} what the model expects to lose"
    )
    text.append(f" (z = {found.z:.1f}); " if found.z is not None else "; ")
    if found.temperature is None:
        return text.append("too few rows for a temperature")
    text.append(f"temperature {'beyond ' * found.at_edge}{number(found.temperature, 4)}")
    if found.calibration is not None and found.fitted_loss is not None:
        verb = "saves" if found.calibration > 0 else "costs"
        text.append(f" {verb} {number(abs(found.calibration), 3)} nats, leaving {number(found.fitted_loss, 4)}")
    return text


def _corp(corp: Corp) -> Text:
    chance = corp.null_miscalibration
    by_chance = "" if chance is None else f" ({number(chance, 3)} by chance alone)"
    text = Text(
        f"{number(corp.miscalibration, 4)} miscalibration{by_chance} - {number(corp.discrimination, 4)} discrimination"
    )
    text.append(f" + {number(corp.uncertainty, 4)} uncertainty")
    return text.append(f"; the first two up to {number(corp.error, 2)} larger" if corp.error else "")


def _skill(baseline: Baseline) -> Text:
    known = {"uniform": "every class alike (uniform, ", "class prior": "the label frequencies (class prior, "}
    than = known.get(baseline.name, f"{printable(baseline.name)} (") + f"{number(baseline.loss)} nats)"
    if baseline.skill is None:
        return Text(f"none to measure against {than}")
    if baseline.skill < 0:
        much = percent(-baseline.skill) if math.isfinite(baseline.skill) else "infinitely"
        return Text(f"{much} worse than {than}", style="red")
    return Text(f"{percent(baseline.skill)} better than {than}")


def _row_sums(sums: RowSums) -> Text:
    explained = f"{sums.precision} explain{'' if sums.precision.endswith('s') else 's'} {sums.tolerance:.1e}"
    if not sums.rows_beyond:
        furthest = max(abs(sums.lowest - 1), abs(sums.highest - 1))
        return Text(f"1 within {furthest:.1e} ({explained})" if furthest else "1, each")
    return Text(
        f"{sums.lowest:.7g} to {sums.highest:.7g}: {counted(sums.rows_beyond)} further from 1 than "
        f"rounding explains ({explained}); taken as they are, not renormalised",
        style="red",
    )


def columns(*names: str, left: int = 1) -> TextTable:
    """A table with the first `left` columns of names and the others of numbers."""
    return TextTable(names, left)


def titled(title: str, note: str, table: TextTable) -> RenderableType:
    """A table under its title."""
    return Group(Text.assemble((title, "bold"), (note, "dim")), Padding(table, (0, 0, 0, 2)))


def _by_part(title: str, name: str, parts: tuple[PartLoss, ...]) -> RenderableType:
    table = columns(name, "rows", "loss (nats)", "95 % interval", "share of loss", "accuracy")
    note = ", * differs from the other rows by more than chance" if any(part.differs for part in parts) else ""
    shown = parts
    if len(parts) > SHOWN_PARTS:
        # a share is missing only where the total is infinite; then the parts' own means decide
        shown = tuple(sorted(parts, key=lambda c: (-(c.share or 0), -(c.loss.mean if c.loss else -1))))[:SHOWN_PARTS]
        note = f", the {len(shown)} of {len(parts):,} that cost most{note}"
    for part in shown:
        if part.loss is None:
            table.add_row(Text(printable(part.name)), "0", *"----")
            continue
        mean = number(part.loss.mean, 4) + ("*" if part.differs else " ")
        interval = " to ".join(number(end, 3) for end in part.loss.interval) if part.loss.interval else "-"
        share = "-" if part.share is None else percent(part.share)
        table.add_row(
            Text(printable(part.name)), f"{part.loss.rows:,}", mean, interval, share, percent(part.loss.accuracy)
        )
    return titled(title, note, table)


def _confidently_wrong(report: LogLossScores) -> Iterator[RenderableType]:
    if not report.worst:
        return
    has_id = any(row.id is not None for row in report.worst)
    table = columns(
        "id" if has_id else "row", "label", "p(label)", "prediction", "p(prediction)", "loss (nats)", left=2
    )
    for row in report.worst:
        table.add_row(
            Text(printable(row.id if has_id else row.row)),
            Text(printable(report.classes[row.label])),
            probability(row.label_probability),
            Text(printable(report.classes[row.prediction])),
            probability(row.prediction_probability),
            number(row.loss, 4) + ("?" if report.is_suspected(row) else " "),
        )
    wrong = report.loss.rows - report.loss.correct
    yield titled("Most confidently wrong", f", {len(report.worst)} of {wrong:,}", table)
