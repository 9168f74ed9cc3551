"""A result as one HTML page: it needs no network, opens anywhere, and nothing that stands in the data can execute.

Three walls keep the data from executing: the templates escape every text, what comes from the data is cut to a length
and stripped of what moves the cursor, and the page's own policy allows no script but the one whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from . import terminal
from .comparison_scores import ComparisonScores
from .pictures import comparison_pictures, report_pictures
from .provenance import Provenance
from .reliability_diagram import Reliability
from .scores import LogLossScores
from .text_table import shortened
from .verdict import comparison_verdict, report_verdict
from .whole_file import whole_file

# What bounds the page, whatever the data: rows of a table of parts, and of all such tables together, columns to slice
# by, rows of predictions, names of classes, length of a name.
MOST_PARTS = 60
ALL_PARTS = 160
MOST_SLICES = 4
MOST_ROWS = 50
MOST_CLASSES = 60
LONGEST_NAME = 48
LONGEST_TEXT = 300


def report_page(report: LogLossScores, reliability: Sequence[Reliability], provenance: Provenance) -> str:
    """The page of a report.

    Parameters
    ----------
    report : the result of an evaluation
    reliability : the diagrams to show; the first is that of the predicted class
    provenance : what was read, by which versions, when

    Returns
    -------
    str
        HTML, under 300 kB for any data.
    """
    slices = list(report.slices.items())[:MOST_SLICES]
    return _render(
        "report.html.jinja",
        title=report.source or "predictions",
        report=report,
        verdict=report_verdict(report, reliability[0]),
        reliability=tuple(reliability),
        pictures=_safe(report_pictures(report, tuple(reliability), MOST_SLICES)),
        parts=[("class", report.by_class, "classes"), *((n, p, f"slice {i}") for i, (n, p) in enumerate(slices))],
        more_slices=len(report.slices) - len(slices),
        classes=report.classes,
        provenance=provenance,
    )


def comparison_page(comparison: ComparisonScores, provenance: Provenance) -> str:
    """The page of a comparison; parameters and result as in `report_page`."""
    slices = list(comparison.slices.items())[:MOST_SLICES]
    names = tuple(part.name for part in comparison.by_class)
    return _render(
        "comparison.html.jinja",
        title=f"{comparison.source_a} and {comparison.source_b}",
        comparison=comparison,
        verdict=comparison_verdict(comparison),
        pictures=_safe(comparison_pictures(comparison, MOST_SLICES)),
        parts=[("class", comparison.by_class, "classes"), *((n, p, f"slice {i}") for i, (n, p) in enumerate(slices))],
        more_slices=len(comparison.slices) - len(slices),
        classes=names,
        provenance=provenance,
    )


def write_page(page: str, output: str | Path) -> None:
    """Write a page to a file.

    Raises
    ------
    PredictionError : the file cannot be written
    """
    with whole_file(Path(output)) as unfinished:
        unfinished.write_text(page, "utf-8")


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("crossentropy.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.tests["finite"] = lambda value: value is not None and math.isfinite(value)
    loader = environment.loader
    assert loader is not None  # it was given above
    style, script = (loader.get_source(environment, name)[0] for name in ("page.css", "sort.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    most_parts = min(MOST_PARTS, ALL_PARTS // len(values["parts"]))
    limits = {"parts": most_parts, "rows": MOST_ROWS, "classes": MOST_CLASSES}
    page = environment.get_template(template)
    return page.render(style=Markup(style), script=Markup(script), script_hash=digest, limits=limits, **values)


def _safe(pictures: dict[str, str]) -> dict[str, Markup]:
    # they were written by an XML library, which escaped the texts in them
    return {name: Markup(svg) for name, svg in pictures.items()}


def _name(value: object, longest: int = LONGEST_NAME) -> str:
    """A text from the data: nothing in it moves the cursor or the direction of writing, and it is cut in the middle."""
    text = str(value)
    if len(text) > 4 * longest:  # before anything looks at every character of a very long text
        text = text[: 2 * longest] + "..." + text[-2 * longest :]
    return shortened(terminal.printable(text), longest)


def _sort_key(value: float | None) -> str:
    """A number as the page's script reads it; what is not there sorts below everything."""
    if value is None or math.isnan(value):
        return "-Infinity"
    return ("Infinity" if value > 0 else "-Infinity") if math.isinf(value) else repr(float(value))


def _interval(ends: tuple[float, float] | None, digits: int = 3) -> str:
    return "-" if ends is None else " to ".join(terminal.number(end, digits) for end in ends)


def _signed_interval(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else " to ".join(_signed(end, 3) for end in ends)


def _signed(value: float, digits: int = 4) -> str:
    return "undefined" if math.isnan(value) else ("+" if value > 0 else "") + terminal.number(value, digits)


def _fingerprint(classes: Sequence[str]) -> str:
    """The SHA-256 of the classes' names in their order, which tells two long lists apart."""
    return hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()


def _costliest(parts: Sequence[Any], key: str, most: int) -> list[Any]:
    """The parts that have rows, as many as are shown: in their order where all are, else those that matter most."""
    present = [part for part in parts if getattr(part, key)]
    if len(present) <= most:
        return present
    if key == "loss":
        return sorted(present, key=lambda part: (-(part.share or 0), -part.loss.mean))[:most]
    return sorted(present, key=lambda part: (part.p_value is None, part.p_value))[:most]


def _unbroken(text: str) -> str:
    """A number and its unit stay on one line."""
    return text.replace(" %", "\u00a0%").replace(" nats", "\u00a0nats").replace("z = ", "z\u00a0=\u00a0")


FILTERS: dict[str, Any] = {
    "unbroken": _unbroken,
    "number": lambda value, digits=6: "infinite" if value == math.inf else terminal.number(value, digits),
    "percent": terminal.percent,
    "probability": terminal.probability,
    "counted": terminal.counted,
    "name": _name,
    "text": lambda value: _name(value, LONGEST_TEXT),
    "sort_key": _sort_key,
    "interval": _interval,
    "signed_interval": _signed_interval,
    "signed": _signed,
    "fingerprint": _fingerprint,
    "costliest": _costliest,
}
