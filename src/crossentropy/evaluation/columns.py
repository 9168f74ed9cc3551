"""Which column of a table is what, and which class a label means. Names only: no file and no row is touched here."""

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .batches import PredictionError

# Compared without case. More than one of the label names in a table is an error; of the others the first one counts,
# because a wrong id is seen at once and a wrong label is not.
LABEL_NAMES = ("label", "labels", "target", "targets", "y_true", "true_label", "true", "truth", "y", "class", "actual")
ID_NAMES = ("id", "ids", "row_id", "sample_id", "example_id", "image_id", "uuid", "key", "index", "name", "filename")
PANDAS_INDEX = ("", "unnamed: 0", "__index_level_0__")
WEIGHT_NAMES = ("weight", "weights", "row_weight", "sample_weight")
PROBABILITY_PREFIX = re.compile(r"p(r(ob(s|a|abilit(y|ies))?)?)?(?![a-z])", re.IGNORECASE)

LABEL_KINDS = ("auto", "name", "position")


@dataclass(frozen=True)
class Columns:
    """The columns an evaluation reads, by their names in the table, and the class names they stand for."""

    label: str
    probabilities: tuple[str, ...]
    classes: tuple[str, ...]
    id: str | None = None
    weight: str | None = None
    group: str | None = None
    by: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def describe(self) -> tuple[str, ...]:
        """How the columns were read, for the head of the report."""
        first, last = self.probabilities[0], self.probabilities[-1]
        roles = [f"label from {self.label!r}", f"probabilities from {first!r} to {last!r}"]
        roles += [f"id from {self.id!r}"] * (self.id is not None)
        roles += [f"weight from {self.weight!r}"] * (self.weight is not None)
        roles += [f"clusters from {self.group!r}"] * (self.group is not None)
        lines = [", ".join(roles)]
        if self.unused:
            lines.append("not used: " + _listed(self.unused))
        return tuple(lines)


def find_columns(
    kinds: Mapping[str, str],
    *,
    label: str | None = None,
    classes: str | Sequence[str] | None = None,
    id: str | None = None,
    weight: str | None = None,
    group: str | None = None,
    by: Sequence[str] = (),
) -> Columns:
    """Find the label, probability, id and weight columns; check those that are only taken when named.

    Parameters
    ----------
    kinds : column name -> "float", "integer", "boolean", "text" or "other", in the table's order
    label, id, weight : the column's name; found by its usual names where None
    group, by : the column of the clusters, the columns to split the loss by; none unless named
    classes : the probability columns: names or patterns such as "p_*", in the order of the classes. Where None: the
        numeric columns that start with p, prob or probability; where there are none, all floating columns left

    Raises
    ------
    PredictionError : a column is missing, or more than one could be meant
    """
    label = _column(kinds, label, "label") or _only_label(kinds)
    weight = _column(kinds, weight, "weight") or _usual(kinds, WEIGHT_NAMES, {label})
    id = _column(kinds, id, "id") or _usual(kinds, ID_NAMES + PANDAS_INDEX, {label})
    group = _column(kinds, group, "group")
    by = tuple(dict.fromkeys(name for name in by if _column(kinds, name, "by")))
    taken = {label, id, weight, group, *by}
    if classes is not None:
        probabilities = _matching(kinds, classes)
        if label in probabilities:
            raise PredictionError(f"column {label!r} is the label and cannot hold probabilities as well")
    else:
        free = {name: kind for name, kind in kinds.items() if name not in taken}
        probabilities = [n for n, kind in free.items() if kind in ("float", "integer") and PROBABILITY_PREFIX.match(n)]
        probabilities = probabilities or [name for name, kind in free.items() if kind == "float"]
    not_numeric = [name for name in probabilities if kinds[name] not in ("float", "integer")]
    if not_numeric:
        raise PredictionError(
            f"column {not_numeric[0]!r} is meant to hold probabilities and holds {kinds[not_numeric[0]]}"
        )
    if len(probabilities) < 2:
        found = f"only one ({probabilities[0]!r})" if probabilities else "none"
        raise PredictionError(
            f"one column of probabilities per class is needed, at least two, and there is {found} "
            f"among the columns {_listed(kinds)}; name them with classes"
        )
    return Columns(
        label=label,
        probabilities=tuple(probabilities),
        classes=class_names(probabilities),
        id=id,
        weight=weight,
        group=group,
        by=by,
        unused=tuple(name for name in kinds if name not in taken and name not in probabilities),
    )


def class_names(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns' names without what they share at the front: p_cat, p_car -> cat, car; class10, class11 -> 10, 11.

    The shared part ends at a separator, before a number, or is a word for a probability; p_cat and p_car do not share
    "p_ca".
    """
    shared = _common_prefix(columns)
    at_separator = re.match(r".*[^0-9A-Za-z]", shared, re.DOTALL)
    before_number = shared.rstrip("0123456789")
    if all(re.fullmatch(r"[0-9]+\W*", name[len(before_number) :]) for name in columns):
        shared = before_number
    elif at_separator:
        shared = at_separator[0]
    elif not PROBABILITY_PREFIX.fullmatch(shared):
        shared = ""
    names = [name[len(shared) :] for name in columns]
    if shared.endswith(("(", "[")) and all(name.endswith((")", "]")) for name in names):
        names = [name[:-1] for name in names]
    return tuple(names) if all(names) and len(set(names)) == len(names) else tuple(columns)


def _common_prefix(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    first, last = min(names), max(names)  # in sorted order, what these two share all of them share
    return next((first[:i] for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), first)


class ClassIndex:
    """From a label as it stands in a file to the position of its class.

    A label is a class name (the shared prefix of the columns stripped, or the whole column name), else a position
    counted from 0. Where both are possible and differ, the reader has to be told.
    """

    def __init__(self, classes: Sequence[str], columns: Sequence[str] = (), kind: str = "auto") -> None:
        if kind not in LABEL_KINDS:
            raise ValueError(f"label_kind must be one of {', '.join(LABEL_KINDS)}, not {kind!r}")
        self.classes = tuple(classes)
        self.kind = kind
        self._names = {name: i for i, name in enumerate(columns)} | {name: i for i, name in enumerate(classes)}

    def position(self, label: Any) -> int:
        """The class of one label (str, int, bool or a float that is a whole number).

        Raises
        ------
        PredictionError : no class, or two that differ; the caller adds the row
        """
        text, number = _read_label(label)
        by_name = self._names.get(text) if self.kind != "position" else None
        by_position = number if number is not None and 0 <= number < len(self.classes) else None
        if self.kind == "name":
            by_position = None
        if by_name is None and by_position is None:
            raise PredictionError(f"label {label!r} is no class: {self._hint(text)}")
        if by_name is not None and by_position is not None and by_name != by_position:
            raise PredictionError(
                f"label {label!r} is the name of class {by_name} and also the position of class "
                f"{self.classes[by_position]!r}; say which with label_kind (--label-kind name or position)"
            )
        return by_name if by_name is not None else by_position  # type: ignore[return-value]

    def _hint(self, text: str) -> str:
        close = difflib.get_close_matches(text, self.classes, n=1)
        meant = f"; was {close[0]!r} meant?" if close else ""
        kinds = {
            "auto": f"the classes are {_listed(self.classes)}, or positions 0 to {len(self.classes) - 1}",
            "name": f"the classes are {_listed(self.classes)}",
            "position": f"the positions are 0 to {len(self.classes) - 1}",
        }
        return kinds[self.kind] + meant


def _read_label(label: Any) -> tuple[str, int | None]:
    """The text to look up among the names, and the number to take as a position."""
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    if isinstance(label, bool):
        return str(label), int(label)
    if isinstance(label, float):
        return (str(int(label)), int(label)) if label.is_integer() else (str(label), None)
    if isinstance(label, int):
        return str(label), label
    # the length limit keeps int() from ever seeing a text that is costly to convert
    whole = re.fullmatch(r"(0|[1-9][0-9]{0,9})(\.0+)?", label, re.ASCII) if isinstance(label, str) else None
    return str(label), int(whole[1]) if whole else None


def _column(kinds: Mapping[str, str], name: str | None, role: str) -> str | None:
    if name is not None and name not in kinds:
        close = difflib.get_close_matches(name, list(kinds), n=1)
        meant = f"; was {close[0]!r} meant?" if close else ""
        raise PredictionError(f"there is no {role} column {name!r}; the columns are {_listed(kinds)}{meant}")
    return name


def _only_label(kinds: Mapping[str, str]) -> str:
    found = [name for name in kinds if name.lower() in LABEL_NAMES]
    if len(found) > 1:
        raise PredictionError(f"the label could be any of the columns {_listed(found)}; name it with label")
    if not found:
        header = ""
        if kinds and all(re.fullmatch(r"[-+0-9.eE]+", name) for name in kinds):
            header = "; are the column names missing from the first line?"
        raise PredictionError(f"there is no label column among {_listed(kinds)}; name it with label{header}")
    return found[0]


def _usual(kinds: Mapping[str, str], names: Sequence[str], taken: set[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(list(kinds)) if name not in taken}
    return next((lower[name] for name in names if name in lower), None)


def _matching(kinds: Mapping[str, str], patterns: str | Sequence[str]) -> list[str]:
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = [pattern] if pattern in kinds else fnmatch.filter(kinds, pattern)
        if not matches:
            raise PredictionError(f"no column is named {pattern!r}; the columns are {_listed(kinds)}")
        found += [name for name in matches if name not in found]
    return found


def _listed(names: Sequence[str] | Mapping[str, str], most: int = 12) -> str:
    shown = [repr(name) for name in list(names)[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
