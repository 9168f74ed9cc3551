"""Which class a label means."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .batches import PredictionError, listed

LABEL_KINDS = ("auto", "name", "position")


class ClassIndex:
    """From the labels of one source, as they stand there, to the positions of their classes.

    A label is a class name (the shared prefix of the columns stripped, or the whole column name), else a position
    counted from 0. Where both are possible and differ, the reader has to be told; and all labels of one source are read
    by the same rule, so the index remembers which labels have only one reading.
    """

    def __init__(self, classes: Sequence[str], columns: Sequence[str] = (), kind: str = "auto") -> None:
        if kind not in LABEL_KINDS:
            raise ValueError(f"label_kind must be one of {', '.join(LABEL_KINDS)}, not {kind!r}")
        self.classes = tuple(classes)
        self.kind = kind
        self._names = {name: i for i, name in enumerate(columns)} | {name: i for i, name in enumerate(classes)}
        self._only: dict[str, tuple[Any, int]] = {}
        # the classes of the labels 0, 1, ... that have been looked up, -1 for the others
        self.by_number = np.full(min(len(self.classes) + 1, 65_536), -1, np.int64)

    def position(self, label: Any, row: int = 0) -> int:
        """The class of one label (str, int, bool or a float that is a whole number), which stands in `row`.

        Raises
        ------
        PredictionError : no class, or two that differ, or a rule that another label contradicts; the caller adds the
            row
        """
        texts, number = _read_label(label)
        by_name = next((self._names[text] for text in texts if text in self._names), None)
        by_position = number if number is not None and 0 <= number < len(self.classes) else None
        if self.kind == "position":
            by_name = None
        elif self.kind == "name" or isinstance(label, bool):  # which of two classes True is, their order does not say
            by_position = None
        if by_name is None and by_position is None:
            raise PredictionError(f"label {label!r} is no class: {self._hint(texts[0])}")
        if by_name is None or by_position is None:
            self._check_rule("position" if by_name is None else "name", label, row)
        elif by_name != by_position:
            raise PredictionError(
                f"label {label!r} is the name of class {by_name} and also the position of class "
                f"{self.classes[by_position]!r}; say which with label_kind (--label-kind name or position)"
            )
        found: int = by_name if by_name is not None else by_position  # type: ignore[assignment]
        if type(label) is int and 0 <= label < len(self.by_number):
            self.by_number[label] = found
        return found

    def _check_rule(self, rule: str, label: Any, row: int) -> None:
        self._only.setdefault(rule, (label, row))
        contradiction = self._only.get("name" if rule == "position" else "position")
        if contradiction:
            readings = {"name": "the name of a class", "position": "the position of a class"}
            other, other_row = contradiction
            raise PredictionError(
                f"label {label!r} can only be {readings.pop(rule)} and label {other!r} in row {other_row} only "
                f"{readings.popitem()[1]}; say which is meant with label_kind (--label-kind name or position)"
            )

    def _hint(self, text: str) -> str:
        close = difflib.get_close_matches(text, self.classes, n=1)
        meant = f"; was {close[0]!r} meant?" if close else ""
        kinds = {
            "auto": f"the classes are {listed(self.classes)}, or positions 0 to {len(self.classes) - 1}",
            "name": f"the classes are {listed(self.classes)}",
            "position": f"the positions are 0 to {len(self.classes) - 1}",
        }
        return kinds[self.kind] + meant


def _read_label(label: Any) -> tuple[tuple[str, ...], int | None]:
    """The texts to look up among the names, and the number to take as a position."""
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    if isinstance(label, bool):
        return (str(label), str(label).lower(), str(int(label))), int(label)
    if isinstance(label, float):
        return ((str(int(label)),), int(label)) if label.is_integer() else ((str(label),), None)
    if isinstance(label, int):
        return (str(label),), label
    # the length limit keeps int() from ever seeing a text that is costly to convert
    whole = re.fullmatch(r"(0|[1-9][0-9]{0,9})(\.0+)?", label, re.ASCII) if isinstance(label, str) else None
    if isinstance(label, str) and label.lower() in ("true", "false"):  # a CSV file's boolean
        return (label, str(int(label.lower() == "true"))), None
    return (str(label),), int(whole[1]) if whole else None
