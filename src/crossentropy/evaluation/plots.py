"""Pictures of results, drawn with matplotlib: give `ax` to draw into your own figure; the axes come back.

Each function takes one result and computes nothing but the layout. Everything is told apart by shape, line style or
place as well as by colour, so that a picture can be printed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .calibration import Calibration
from .comparison_scores import ComparisonScores, MeanDifference
from .curve_plots import axes_or_new, binary_loss, categorical_loss, log_probability
from .loss_histogram import BINS_PER_OCTAVE
from .reliability_diagram import Reliability
from .scores import LogLossScores
from .terminal import number, percent, printable
from .text_table import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "binary_loss",
    "categorical_loss",
    "difference",
    "log_probability",
    "loss_by_part",
    "loss_histogram",
    "reliability",
    "temperature_curve",
]

# A dark and a middle blue, and a light grey that stays visible in print.
MAIN, SECOND, PALE = "#14507d", "#4f93c4", "#c9d3db"
# As many parts as can be read on one picture, and as much of a name as fits beside it.
SHOWN_PARTS = 16
LONGEST_NAME = 18
# Losses below this are drawn as one bar: the label was given 0.999999 or more.
SMALLEST_DRAWN = 2.0**-20
# How wide the bars of what is smaller, and of what is infinite, are drawn: as two others.
BESIDE = 4.0


def reliability(result: Reliability, ax: Axes | None = None) -> Axes:
    """Draw how often what was given a probability happened: the CORP staircase, its band and the rows behind it.

    On the diagonal a probability means what it says; a staircase below it is over-confident. The band holds the
    staircase of a calibrated model 95 times in 100 at each point. The bars at the foot count the rows on a log scale.

    Parameters
    ----------
    result : Reliability, from `crossentropy.evaluation.reliability`
    ax : matplotlib axes to draw into; a new figure where None

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import numpy as np
    >>> from crossentropy.evaluation import plots, reliability
    >>> sure = reliability(np.array([[0.9, 0.1]] * 4), labels=[0, 0, 0, 1], of="0")
    >>> plots.reliability(sure).get_xlabel()
    'probability given to 0'
    """
    ax = axes_or_new(ax)
    ax.plot([0, 1], [0, 1], linestyle=(0, (2, 3)), color="grey", linewidth=1, label="means what it says")
    if result.band is not None:
        ax.fill_between(*result.band, color=PALE, linewidth=0, label="calibrated, 95 %", zorder=0)
    ends = np.stack([result.lowest, result.highest], axis=1).ravel()
    ax.plot(ends, np.repeat(result.frequency, 2), color=MAIN, linewidth=2, label="this model")
    if len(result.lowest) == 1:  # one probability for every row has no width to draw a step over
        ax.plot(ends[:1], result.frequency, "o", color=MAIN)
    height = 0.16 * np.log1p(result.density) / np.log1p(max(1, result.density.max()))
    edges = np.linspace(0, 1, len(result.density) + 1)
    ax.stairs(height, edges, fill=True, color=SECOND, alpha=0.55, label=f"{result.rows:,} rows, log scale")
    name = "the predicted class" if result.name == "top label" else _name(result.name)
    ax.set(xlabel=f"probability given to {name}", ylabel="how often it happened", xlim=(0, 1), ylim=(0, 1))
    said, happened = percent(result.mean_probability), percent(result.mean_frequency)
    ax.set_title(f"On average {said} given, {happened} happened", fontsize="medium")
    ax.legend(loc="best", fontsize="small", framealpha=0.85, edgecolor="none")
    return ax


def loss_histogram(report: LogLossScores, ax: Axes | None = None) -> Axes:
    """Draw how the losses are distributed: the share of the rows, and of the whole loss, by the size of the loss.

    The axis is logarithmic. Losses below 1e-6 share the first bar, infinite ones stand beside the axis on the right.

    Parameters
    ----------
    report : LogLossReport
    ax : as in `reliability`, whose result it shares
    """
    ax = axes_or_new(ax)
    found, edges = report.histogram, report.histogram.edges()
    present = np.flatnonzero(found.rows)
    smallest = int(np.searchsorted(edges, SMALLEST_DRAWN))
    # bars of a factor of 2 are equally wide; the grid's octaves begin at multiples of BINS_PER_OCTAVE
    first, last = (max(smallest, int(present[i])) if len(present) else smallest for i in (0, -1))
    starts = np.arange(first - first % BINS_PER_OCTAVE, last + 1, BINS_PER_OCTAVE)
    end, less = starts[-1] + BINS_PER_OCTAVE, slice(0, starts[0])
    limits = edges[[*starts, end]]
    weight = np.add.reduceat(found.weight[:end], starts)
    loss = np.add.reduceat(found.loss[:end], starts)
    ticks = [10.0**k for k in range(-5, 5) if limits[0] <= 10.0**k < limits[-1]]
    ticks = ticks[:: -max(1, math.ceil(len(ticks) / 5))][::-1]  # as many as have room
    names = [f"{tick:g}".replace("e-0", "e-") for tick in ticks]
    if found.rows[less].any():
        limits = np.r_[limits[0] / BESIDE, limits]
        weight, loss = np.r_[found.weight[less].sum(), weight], np.r_[found.loss[less].sum(), loss]
        ticks, names = [limits[0] * math.sqrt(BESIDE), *ticks], ["less", *names]
    infinite = max(0.0, report.loss.weight - float(found.weight.sum())) if report.loss.infinite else 0.0
    total = found.weight.sum() + infinite
    ax.stairs(100 * weight / total, limits, fill=True, color=PALE, label="rows")
    if loss.sum() > 0:
        ax.stairs(100 * loss / loss.sum(), limits, color=MAIN, linewidth=1.5, label="the loss they carry")
    ax.set_xscale("log")
    right = float(limits[-1])
    if infinite:
        left, right = right * math.sqrt(BESIDE), right * BESIDE**1.5
        ax.stairs([100 * infinite / total], [left, right], fill=True, color=MAIN, hatch="///", edgecolor="white")
        ticks, names = [*ticks, math.sqrt(left * right)], [*names, "infinite"]
    if report.loss.finite_mean:
        mean = report.loss.finite_mean
        place_of_mean = min(max(mean, limits[0]), right)  # a mean below the first bar is shown at the edge
        ax.axvline(place_of_mean, color="grey", linestyle="--", linewidth=1, zorder=0)
        is_right = math.log(place_of_mean / limits[0]) > 0.6 * math.log(right / limits[0])
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": "small"}
        side = {"ha": "right", "xytext": (-3, -9)} if is_right else {"ha": "left", "xytext": (3, -9)}
        name = "mean" if not report.loss.infinite else "mean of the others"
        ax.annotate(f"{name} {number(mean, 3)}", (place_of_mean, 1), **place, **side)
    ax.set_xlim(limits[0], right)
    ax.set_xticks(ticks, names)
    ax.minorticks_off()
    ax.set(xlabel="loss of a row (nats)", ylabel="share (%)")
    ax.set_title(_worst(report), fontsize="medium")
    # the losses' tail is on the right, the mean's name at the top
    ax.legend(loc="center left", fontsize="small", framealpha=0.85, edgecolor="none")
    return ax


def loss_by_part(report: LogLossScores, ax: Axes | None = None, by: str | None = None) -> Axes:
    """Draw the mean loss of every class, or of every value of the column `by`, with its 95 % interval.

    The parts that cost most stand first, 16 of them; a star marks one that differs from the other rows by more than
    chance. The line is the mean of all rows.

    Parameters
    ----------
    report : LogLossReport
    ax : as in `reliability`, whose result it shares
    by : a column of `report.slices`; the classes where None

    Raises
    ------
    KeyError : the report was not split by that column
    """
    ax = axes_or_new(ax)
    parts = [part for part in (report.by_class if by is None else report.slices[by]) if part.loss]
    parts.sort(key=lambda part: (-(part.share or 0.0), -(part.loss.mean if part.loss else 0.0)))
    rows = []
    for part in parts[:SHOWN_PARTS]:
        assert part.loss is not None  # parts without rows were left out
        rows.append((_name(part.name) + (" *" if part.differs else ""), part.loss.mean, part.loss.interval))
    whole = report.loss.mean if math.isfinite(report.loss.mean) else report.loss.finite_mean
    _dots(ax, rows, whole or 0.0)
    ax.set_xlim(left=0)
    left_out = f", the {len(rows)} of {len(parts):,} that cost most" if len(rows) < len(parts) else ""
    what = "class" if by is None else _name(by)
    ax.set(xlabel="mean loss (nats), 95 % interval")
    ax.set_title(f"Loss by {what}{left_out}", fontsize="medium")
    return ax


def difference(comparison: ComparisonScores, ax: Axes | None = None, by: str | None = None) -> Axes:
    """Draw the mean difference of two models, B - A, over all rows and by class (or by the column `by`).

    Left of the line B is better. A star marks a difference beyond chance; the clearest 15 parts are drawn.

    Parameters
    ----------
    comparison : Comparison
    ax, by : as in `loss_by_part`
    """
    ax = axes_or_new(ax)
    parts = [part for part in (comparison.by_class if by is None else comparison.slices[by]) if part.difference]
    parts.sort(key=lambda part: (part.p_value is None, part.p_value))
    rows = [("all rows", *_mean_and_interval(comparison.difference))]
    for part in parts[: SHOWN_PARTS - 1]:
        assert part.difference is not None  # parts without rows were left out
        rows.append((_name(part.name) + (" *" if part.differs else ""), *_mean_and_interval(part.difference)))
    _dots(ax, rows, 0.0)
    furthest = max(map(abs, ax.get_xlim()))
    ax.set_xlim(-furthest, furthest)
    ax.set(xlabel="B is better   <   B - A (nats), 95 % interval   >   A is better")
    ax.set_title("Difference of the mean losses", fontsize="medium")
    return ax


def temperature_curve(calibration: Calibration | None, ax: Axes | None = None) -> Axes:
    """Draw the mean loss over the temperature that the logits are divided by, and where its minimum lies.

    Parameters
    ----------
    calibration : the `calibration` of a LogLossReport; None where no row has a finite loss
    ax : as in `reliability`, whose result it shares

    Raises
    ------
    ValueError : the report has no temperature, because it has fewer than 10 rows of finite loss
    """
    if calibration is None or not calibration.curve or calibration.temperature is None:
        raise ValueError("there is no temperature to draw: it takes 10 rows of finite loss")
    ax = axes_or_new(ax)
    t, loss = np.array(sorted(calibration.curve)).T
    best = float(np.clip(calibration.temperature, t[0], t[-1]))
    shown = (t >= min(0.5, best / 2.9)) & (t <= max(2.0, best * 2.9))
    t, loss = t[shown], loss[shown]
    ax.plot(t, loss, color=MAIN, linewidth=2)
    ax.set_xscale("log", base=2)
    ticks = [2.0**k for k in range(-4, 5) if t[0] <= 2.0**k <= t[-1]]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.axvline(1, color="grey", linestyle=(0, (2, 3)), linewidth=1, label="as it is")
    name = f"best: {'beyond ' * calibration.at_edge}{number(calibration.temperature, 4)}"
    ax.axvline(best, color=MAIN, linestyle="--", linewidth=1, label=name)
    ax.set(xlabel="temperature: below 1 surer, above 1 less sure", ylabel="mean loss (nats)")
    ax.set_title(calibration.direction.capitalize(), fontsize="medium")
    ax.legend(loc="best", fontsize="small", framealpha=0.85, edgecolor="none")
    return ax


def _name(text: str) -> str:
    """A name from the data, as text: matplotlib would take what stands between two dollars for a formula."""
    return shortened(printable(text), LONGEST_NAME).replace("$", r"\$")


def _worst(report: LogLossScores) -> str:
    if report.loss.infinite:
        return f"{report.loss.infinite:,} of {report.loss.rows:,} losses are infinite"
    if report.worst_share is None or report.loss.rows < 100:
        return "How the losses are distributed"
    return f"1 % of the rows carry {percent(report.worst_share)} of the loss"


def _mean_and_interval(found: MeanDifference) -> tuple[float, tuple[float, float] | None]:
    return found.mean, found.interval


def _dots(ax: Axes, rows: Sequence[tuple[str, float, tuple[float, float] | None]], line: float) -> None:
    """A dot with its interval for each row, the first at the top; what is infinite is an arrow at the edge."""
    ax.axvline(line, color="grey", linestyle="--", linewidth=1, zorder=0)
    for i, (_, mean, interval) in enumerate(rows):
        if interval is not None:
            ax.hlines(i, *interval, color=SECOND, linewidth=2.5)
        if math.isfinite(mean):
            ax.plot(mean, i, "o", color=MAIN, markersize=5)
        elif not math.isnan(mean):
            edge = float(mean > 0)
            ax.plot(edge, i, ">" if edge else "<", color=MAIN, transform=ax.get_yaxis_transform(), clip_on=False)
            place = {"xycoords": ax.get_yaxis_transform(), "xytext": (-8 if edge else 8, 0), "va": "center"}
            side = "right" if edge else "left"
            ax.annotate("infinite", (edge, i), textcoords="offset points", ha=side, fontsize="small", **place)
    ax.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
