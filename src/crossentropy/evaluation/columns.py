"""Which column of a table is what. Names only: no file and no row is touched here."""

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .batches import PredictionError, listed

# Compared without case. More than one of the label names in a table is an error; of the others the first one counts,
# because a wrong id is seen at once and a wrong label is not.
# What stands before the class in the names of label columns, where there is one per class.
LABEL_PREFIX = re.compile(r"(soft_?)?(labels?|targets?|y_true|true|truth|q)(?![a-z])", re.IGNORECASE)
LABEL_NAMES = ("label", "labels", "target", "targets", "y_true", "true_label", "true", "truth", "y", "class", "actual")
ID_NAMES = ("id", "ids", "row_id", "sample_id", "example_id", "image_id", "uuid", "key", "index", "name", "filename")
PANDAS_INDEX = ("", "unnamed: 0", "__index_level_0__")
WEIGHT_NAMES = ("weight", "weights", "row_weight", "sample_weight")
# What a column of predictions holds, by the word its name begins with, in the order in which they are looked for.
PREFIXES = {
    "probs": re.compile(r"p(r(ob(s|a|abilit(y|ies))?)?)?(?![a-z])", re.IGNORECASE),
    "log_probs": re.compile(r"log_?p(rob(s|abilit(y|ies))?)?(?![a-z])", re.IGNORECASE),
    "logits": re.compile(r"logits?(?![a-z])", re.IGNORECASE),
}
KIND_NAMES = {"probs": "probabilities", "log_probs": "log-probabilities", "logits": "logits"}

NUMERIC = ("float", "integer")
# A column called like predictions that holds no value at all is one, so that its first row can be named.
PREDICTED = (*NUMERIC, "nothing")


@dataclass(frozen=True)
class Columns:
    """The columns an evaluation reads, by their names in the table, and the class names they stand for.

    `layout` is "wide" for a column per class, "list" for one column with a list per row (whose classes are known once a
    row is), "single" for one column that holds class 1 of two. `labels` is the label column; or, for a label that says
    something of every class, the column that holds a list per row or the columns of the classes, in their order.
    """

    labels: tuple[str, ...]
    predictions: tuple[str, ...]
    classes: tuple[str, ...]
    inputs: str = "probs"
    layout: str = "wide"
    id: str | None = None
    weight: str | None = None
    group: str | None = None
    by: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    labels_every_class: bool = False
    multi_label: bool = False

    def describe(self) -> tuple[str, ...]:
        """How the columns were read, for the head of the report."""
        first, last, kind = self.predictions[0], self.predictions[-1], KIND_NAMES[self.inputs]
        columns = {
            "wide": f"{kind} from {first!r} to {last!r}",
            "list": f"{kind} from the lists in {first!r}",
            "single": f"{kind} of class 1 from {first!r}",
        }
        what = "labels of every class" if self.multi_label else "soft labels" if self.labels_every_class else "label"
        place = f"the lists in {self.labels[0]!r}" if self.labels_every_class else repr(self.labels[0])
        if len(self.labels) > 1:
            place = f"{self.labels[0]!r} to {self.labels[-1]!r}"
        roles = [f"{what} from {place}", columns[self.layout]]
        roles += [f"id from {self.id!r}"] * (self.id is not None)
        roles += [f"weight from {self.weight!r}"] * (self.weight is not None)
        roles += [f"clusters from {self.group!r}"] * (self.group is not None)
        lines = [", ".join(roles)]
        if self.unused:
            lines.append("not used: " + listed(self.unused))
        return tuple(lines)


def find_columns(
    kinds: Mapping[str, str],
    *,
    inputs: str = "auto",
    label: str | Sequence[str] | None = None,
    classes: str | Sequence[str] | None = None,
    id: str | None = None,
    weight: str | None = None,
    group: str | None = None,
    by: Sequence[str] | None = None,
    multi_label: bool = False,
) -> Columns:
    """Find the label, prediction, id and weight columns; check those that are only taken when named.

    Parameters
    ----------
    kinds : column name -> "float", "integer", "boolean", "text", "list", "nothing" or "other", in the table's order
    inputs : "probs", "log_probs", "logits", or "auto" to go by the columns' names
    label, id, weight : the column's name; found by its usual names where None. `label` may name one column per class,
        or a pattern for them: soft labels, or with `multi_label` whether a row has the class
    group, by : the column of the clusters, the columns to split the loss by; none unless named
    classes : the prediction columns: names or patterns such as "p_*", in the order of the classes. Where None: the
        numeric or list columns that start with p, prob, probability (or log_prob, logit); where there are none, all
        floating columns left, or the list column that is left

    Raises
    ------
    PredictionError : a column is missing, or more than one could be meant
    """
    labels = _label_columns(kinds, label)
    group = _column(kinds, group, "group")
    by = tuple(dict.fromkeys(name for name in by or () if _column(kinds, name, "by")))
    id = _column(kinds, id, "id")
    weight = _column(kinds, weight, "weight") or _usual(kinds, WEIGHT_NAMES, {*labels, id, group, *by})
    if weight is not None and kinds[weight] not in (*NUMERIC, "boolean"):
        raise PredictionError(f"column {weight!r} is meant to hold weights and holds {kinds[weight]}")
    id = id or _usual(kinds, ID_NAMES + PANDAS_INDEX, {*labels, weight})
    roles: dict[str, tuple[str | None, ...]] = {
        "label": labels,
        "id": (id,),
        "cluster": (group,),
        "column to split by": by,
    }
    for role, names in roles.items():
        if weight is not None and weight in names:
            raise PredictionError(f"column {weight!r} cannot be the weight and the {role}")
    taken = {*labels, id, weight, group, *by}
    free = {name: kind for name, kind in kinds.items() if name not in taken}
    if classes is not None:
        found = _matching(kinds, classes)
        for role, names in (roles | {"weight": (weight,)}).items():
            if both := next((name for name in names if name in found), None):
                raise PredictionError(f"column {both!r} is the {role} and cannot hold predictions as well")
        if inputs == "auto":
            inputs = next((kind for kind, word in PREFIXES.items() if all(map(word.match, found))), "probs")
    else:
        inputs, found = _usual_predictions(free, inputs)
    for name in found:
        if kinds[name] not in PREDICTED and not (kinds[name] == "list" and len(found) == 1):
            raise PredictionError(f"column {name!r} is meant to hold {KIND_NAMES[inputs]} and holds {kinds[name]}")
    if not found:
        raise PredictionError(
            f"there are no predictions among {listed(kinds)}{_texts_alike(free)}; name them with classes"
        )
    layout = "wide" if len(found) > 1 else "list" if kinds[found[0]] == "list" else "single"
    named = {"wide": class_names(found), "list": (), "single": ("0", "1")}[layout]
    if multi_label and layout == "single":
        raise PredictionError(f"several labels per row need predictions of several classes, not {found[0]!r} alone")
    labels_every_class = len(labels) > 1 or kinds[labels[0]] == "list"
    if multi_label and not labels_every_class:
        raise PredictionError(
            f"column {labels[0]!r} holds one label per row; several need a column per class (--label 'label_*') or a "
            "column with a list of 0 and 1 per row"
        )
    return Columns(
        labels=_in_order_of_classes(kinds, labels, named) if len(labels) > 1 else labels,
        predictions=tuple(found),
        classes=named,
        inputs=inputs,
        layout=layout,
        id=id,
        weight=weight,
        group=group,
        by=by,
        unused=tuple(name for name in free if name not in found),
        labels_every_class=labels_every_class,
        multi_label=multi_label,
    )


def _usual_predictions(free: Mapping[str, str], inputs: str) -> tuple[str, list[str]]:
    """What the prediction columns hold, and which they are."""
    for kind, word in PREFIXES.items():
        if inputs in ("auto", kind):
            named = [name for name in free if word.match(name)]
            for wanted in (PREDICTED, ("list",)):
                found = [name for name in named if free[name] in wanted]
                if len(found) == 1 < len(named) and wanted == PREDICTED:
                    odd = next(name for name in named if name not in found)
                    raise PredictionError(
                        f"is {found[0]!r} the one column of predictions? {odd!r} is called alike and holds "
                        f"{free[odd]}; name them with classes"
                    )
                if found:
                    return kind, found
    kind = "probs" if inputs == "auto" else inputs
    floating = [name for name in free if free[name] == "float"]
    lists = [name for name in free if free[name] == "list"]
    return kind, floating or (lists if len(lists) == 1 else [])


def _texts_alike(free: Mapping[str, str]) -> str:
    found = [name for name, kind in free.items() if kind == "text" and any(w.match(name) for w in PREFIXES.values())]
    if not found:
        return ""
    hold = "is called like one and holds" if len(found) == 1 else "are called like them and hold"
    return f": {listed(found)} {hold} text, not numbers (a comma for the decimal point? a percent sign?)"


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
    elif not any(word.fullmatch(shared) for word in PREFIXES.values()):
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


def _column(kinds: Mapping[str, str], name: str | None, role: str) -> str | None:
    if name is not None and name not in kinds:
        close = difflib.get_close_matches(name, list(kinds), n=1)
        meant = f"; was {close[0]!r} meant?" if close else ""
        raise PredictionError(f"there is no {role} column {name!r}; the columns are {listed(kinds)}{meant}")
    return name


def _label_columns(kinds: Mapping[str, str], label: str | Sequence[str] | None) -> tuple[str, ...]:
    """The label column, or the columns that hold a label's share of every class."""
    if label is None:
        return _only_label(kinds)
    if isinstance(label, str) and not any(mark in label for mark in "*?["):
        return (_column(kinds, label, "label"),)  # type: ignore[return-value]
    return tuple(_matching(kinds, label))


def _in_order_of_classes(
    kinds: Mapping[str, str], labels: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[str, ...]:
    for name in labels:
        if kinds[name] not in (*PREDICTED, "boolean"):
            raise PredictionError(
                f"column {name!r} is meant to hold a label's share of a class and holds {kinds[name]}"
            )
    place = dict(zip(class_names(labels), labels, strict=True))
    if not classes and len(labels) > 1:  # the predictions are lists: their classes are positions
        return labels
    if place.keys() != set(classes):
        raise PredictionError(
            f"the label columns are of the classes {listed(list(place))} and the predictions of {listed(classes)}"
        )
    return tuple(place[name] for name in classes)


def _only_label(kinds: Mapping[str, str]) -> tuple[str, ...]:
    found = [name for name in kinds if name.lower() in LABEL_NAMES]
    if len(found) > 1:
        raise PredictionError(f"the label could be any of the columns {listed(found)}; name it with label")
    if not found:
        header = ""
        if kinds and all(re.fullmatch(r"[-+0-9.eE]+", name) for name in kinds):
            header = "; are the column names missing from the first line?"
        every_class = [name for name in kinds if LABEL_PREFIX.match(name) and kinds[name] in (*NUMERIC, "boolean")]
        if len(every_class) > 1:
            return tuple(every_class)
        raise PredictionError(f"there is no label column among {listed(kinds)}; name it with label{header}")
    return (found[0],)


def _usual(kinds: Mapping[str, str], names: Sequence[str], taken: set[str | None]) -> str | None:
    lower = {name.lower(): name for name in reversed(list(kinds)) if name not in taken}
    return next((lower[name] for name in names if name in lower), None)


def _matching(kinds: Mapping[str, str], patterns: str | Sequence[str]) -> list[str]:
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = [pattern] if pattern in kinds else fnmatch.filter(kinds, pattern)
        if not matches:
            raise PredictionError(f"no column is named {pattern!r}; the columns are {listed(kinds)}")
        found += [name for name in matches if name not in found]
    return found
