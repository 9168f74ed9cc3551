"""Pictures for a page: SVG that takes its colours from the page, small enough to be part of it."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from . import plots
from .comparison_scores import ComparisonScores
from .reliability_diagram import Reliability
from .scores import LogLossScores

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
# What the pictures are drawn in, and the page's names for it: the page has a light and a dark set.
INK, PAPER, GREY = "#1a1c1e", "#fefefe", "#808080"
COLOURS = {
    INK: "var(--ink)",
    PAPER: "var(--paper)",
    GREY: "var(--muted)",
    "#ffffff": "var(--paper)",
    plots.MAIN: "var(--main)",
    plots.SECOND: "var(--second)",
    plots.PALE: "var(--pale)",
}
STYLE = {
    "svg.fonttype": "none",  # words stay words: they can be read aloud, found and selected
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.facecolor": PAPER,
    "hatch.color": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# Inches, of which a page shows 96 pixels each: as wide as a phone, so that the words stay readable there.
WIDTH, HEIGHT = 4.3, 3.2
ROW_HEIGHT = 0.19


def report_pictures(report: LogLossScores, reliability: tuple[Reliability, ...], most_slices: int) -> dict[str, str]:
    """The pictures of a report, by what they show."""
    pictures = {}
    for i, found in enumerate(reliability):
        of = "the predicted class" if found.name == "top label" else "one class against the others"
        pictures[f"reliability {i}"] = _svg(partial(plots.reliability, found), f"Reliability of {of}")
    pictures["histogram"] = _svg(partial(plots.loss_histogram, report), "Histogram of the rows' losses")
    if report.calibration and report.calibration.curve:
        draw = partial(plots.temperature_curve, report.calibration)
        pictures["temperature"] = _svg(draw, "Mean loss by temperature")
    rows = sum(1 for part in report.by_class if part.loss)
    pictures["classes"] = _svg(partial(plots.loss_by_part, report), "Loss by class with intervals", rows)
    for i, (column, parts) in enumerate(list(report.slices.items())[:most_slices]):
        rows = sum(1 for part in parts if part.loss)
        draw = partial(plots.loss_by_part, report, by=column)
        pictures[f"slice {i}"] = _svg(draw, "Loss by slice with intervals", rows)
    return pictures


def comparison_pictures(comparison: ComparisonScores, most_slices: int) -> dict[str, str]:
    """The pictures of a comparison, by what they show."""
    what = "Difference of the models by class, with intervals"
    rows = 1 + sum(1 for part in comparison.by_class if part.difference)
    pictures = {"classes": _svg(partial(plots.difference, comparison), what, rows)}
    for i, (column, parts) in enumerate(list(comparison.slices.items())[:most_slices]):
        rows = 1 + sum(1 for part in parts if part.difference)
        draw = partial(plots.difference, comparison, by=column)
        pictures[f"slice {i}"] = _svg(draw, "Difference of the models by slice, with intervals", rows)
    return pictures


def _svg(draw: Callable[[Axes], Axes], what: str, rows: int = 0) -> str:
    """Draw into a figure of our own and give its SVG as an element for a page.

    `rows` are the lines of a picture that grows with them, up to as many as the plots draw.
    """
    height = max(HEIGHT, 1.0 + ROW_HEIGHT * min(rows, plots.SHOWN_PARTS))
    # the salt makes the identifiers of one picture its own: a page has several
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": what}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the browser has fonts for what DejaVu lacks
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        file = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), what)


def _inline(data: bytes, what: str) -> str:
    """The SVG as part of a page: named, without a size of its own, in the page's colours, in few digits."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(data)
    for parent in list(root.iter()):
        parent.text, parent.tail = (text if text and text.strip() else None for text in (parent.text, parent.tail))
        for child in list(parent):
            # the style would apply to the whole page
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style") or child.get("style") == "fill: none":
                parent.remove(child)
    text = ET.tostring(root, "unicode")
    used = set(re.findall(r'#([\w-]+)(?=["\)])', text))
    for element in root.iter():
        if element.get("transform", "").startswith("rotate(-0 "):  # what matplotlib writes for no rotation
            del element.attrib["transform"]
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        for name in ("d", "x", "y", "transform", "points"):
            if name in element.attrib:
                value = re.sub(r"-?\d+\.\d+", _short, element.attrib[name])
                element.set(name, " ".join(value.split()))
        for name in ("style", "fill", "stroke"):
            if name in element.attrib:
                value = element.attrib[name].replace("font-family: 'DejaVu Sans', sans-serif; ", "")
                for colour, variable in COLOURS.items():
                    value = value.replace(colour, variable)
                element.set(name, value)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("stroke-linejoin", "round")
    root.set("role", "img")
    root.set("aria-label", what)
    return ET.tostring(root, "unicode")


def _short(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
