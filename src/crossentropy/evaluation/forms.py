"""The forms every result has: text, terminal, notebook, dictionary, JSON, table."""

from __future__ import annotations

import html
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console, RenderableType


class Forms(ABC):
    """What a result must give (`to_dict`, `__rich__`) and what follows from it."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain dictionaries and lists. Infinite numbers stay infinite floats."""

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """What a `rich` console prints."""

    def to_json(self) -> str:
        """The dictionary as JSON. JSON has no infinity: infinite numbers are the strings "inf" and "-inf"."""
        return json.dumps(_without_infinity(self.to_dict()), indent=2, ensure_ascii=False, allow_nan=False)

    def to_arrow(self) -> pa.Table:
        """The parts (classes, slices) as a table, one row each; `.to_pandas()` makes a data frame of it."""
        found = self.to_dict()
        parts = [_flat("class", "class", part) for part in found["by_class"]]
        for column, values in found["by_slice"].items():
            parts += [_flat(column, "value", part) for part in values]
        names = dict.fromkeys(name for part in parts for name in part)
        return pa.table({name: [part.get(name) for part in parts] for name in names})

    def text(self, width: int = 80) -> str:
        """The result as plain text."""
        file = io.StringIO()
        Console(file=file, width=width, color_system=None, highlight=False).print(self)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text())}</pre>"


def _flat(by: str, name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    interval: Iterable[float | None] = part.get("interval_nats") or (None, None)
    low, high = interval
    rest = {key: value for key, value in part.items() if key not in (name, "interval_nats")}
    return {"by": by, "value": part[name], **rest, "low_nats": low, "high_nats": high}


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinity(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
