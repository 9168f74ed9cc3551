"""One batch of predictions, checked: what every reader produces and every accumulator consumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np


class PredictionError(ValueError):
    """Predictions that cannot be evaluated. The message is one line and says where and why."""


def listed(names: Sequence[str] | Mapping[str, str], most: int = 12) -> str:
    """Names for a message: quoted, and not too many of them."""
    shown = [repr(name) for name in list(names)[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True)
class RowLoss:
    """One row that is shown to a person: where it is, what was predicted, what happened, what it cost in nats."""

    row: int
    id: int | str | None
    label: int
    prediction: int
    label_probability: float
    prediction_probability: float
    loss: float

    def rank(self) -> tuple[float, float, int]:
        """Most confidently wrong first; equal ones in the order of the rows, so that the ranking is the same for
        every way to split them."""
        return (-self.loss, -self.prediction_probability, self.row)

    def shifted(self, rows: int) -> Self:
        """The same row, counted from `rows` further up."""
        return replace(self, row=self.row + rows)


@dataclass(frozen=True)
class Categories:
    """One text per row, as positions `codes` in the distinct texts `names`."""

    codes: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence | np.ndarray) -> Self:
        """From a sequence of values, one per row."""
        names, codes = np.unique(np.asarray(values).astype(str), return_inverse=True)
        return cls(codes, tuple(names.tolist()))

    def take(self, rows: np.ndarray) -> Self:
        return replace(self, codes=self.codes[rows])

    def texts(self) -> np.ndarray:
        """The text of every row."""
        return np.array(self.names, object)[self.codes]


# How far the sum of a row's soft labels may be from 1: distributions rounded to two decimals or so pass.
LABEL_SUM_TOLERANCE = 0.01
# Intervals need the third power of weight times loss, which must neither overflow nor, by the weight alone, vanish.
WEIGHTS = (1e-50, 1e50)
LARGEST_LOSS = 1e50
# inputs -> lowest value, highest value, whether the highest is excluded, what a value is called
RANGES = {
    "probs": (0.0, 1.0, False, "a probability: it lies outside [0, 1]"),
    "log_probs": (-np.inf, 0.0, False, "the logarithm of a probability: it lies above 0"),
    "logits": (-np.inf, np.inf, True, "a logit: it is infinite"),
}


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of predictions with what happened.

    Rows of weight 0 are dropped before anything is checked: they count in `seen` and nowhere else, as if they were
    not there.

    Parameters
    ----------
    predictions : float array, shape (rows, classes), never renormalised
    labels : int array, shape (rows,), positions in [0, classes); or soft labels, a float array of shape
        (rows, classes), each row a distribution. `labels` is then the most probable class, `targets` the distribution
    inputs : "probs", every value in [0, 1]; "log_probs", every value <= 0; or "logits", any value but NaN and +inf
    ids : sequence of `rows` values, or None; only the ids of rows that are shown are ever looked at
    weights : float array, shape (rows,), 0 or from 1e-50 to 1e50, or None for 1 each
    groups : the cluster of each row: rows that belong together and count as one observation
    slices : name -> the value of each row, for every column by which the loss is split
    questions : what each row's label answers, where rows are asked different things: each has a class prior of its own
    source : what the rows were read from; used in messages
    first_row : position of the first row in the whole, counted from 0; used in messages
    columns : names of the columns of `predictions`; used in messages

    Raises
    ------
    PredictionError : wrong shapes, a value that its kind cannot have, a label outside [0, classes), a bad weight;
        the message gives the row

    Examples
    --------
    >>> import numpy as np
    >>> batch = Batch(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]), weights=np.array([0.0, 2.0]))
    >>> batch.seen, batch.labels
    (2, array([1]))
    """

    predictions: np.ndarray
    labels: np.ndarray
    inputs: str = "probs"
    ids: Sequence | np.ndarray | None = None
    weights: np.ndarray | None = None
    groups: Categories | None = None
    slices: Mapping[str, Categories] = field(default_factory=dict)
    first_row: int = 0
    columns: Sequence[str] | None = field(default=None, repr=False)
    questions: Categories | None = None
    source: str = ""
    seen: int = field(init=False)
    positions: np.ndarray | None = field(init=False, default=None, repr=False)
    targets: np.ndarray | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        predictions, labels, weights = self.predictions, self.labels, self.weights
        if self.inputs not in RANGES:
            raise ValueError(f"inputs must be one of {', '.join(map(repr, RANGES))}, not {self.inputs!r}")
        if predictions.ndim != 2 or not np.issubdtype(predictions.dtype, np.floating):
            raise PredictionError(
                "predictions must be a floating array of shape (rows, classes), "
                f"not {predictions.dtype} of shape {predictions.shape}"
            )
        rows, classes = predictions.shape
        if labels.ndim == 2 and np.issubdtype(labels.dtype, np.floating):
            if labels.shape != predictions.shape:
                raise PredictionError(
                    f"soft labels must have the shape of the predictions, {predictions.shape}, not {labels.shape}"
                )
            self._set(targets=labels, labels=(labels := np.argmax(labels, axis=1)))
        if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
            raise PredictionError(
                f"labels must be integers of shape ({rows},), one per row, not {labels.dtype} of shape {labels.shape}"
            )
        per_row: dict[str, Any] = {"ids": self.ids, "weights": weights, "groups": self.groups and self.groups.codes}
        per_row["questions"] = self.questions and self.questions.codes
        per_row |= {f"slice {name!r}": column.codes for name, column in self.slices.items()}
        for name, values in per_row.items():
            if values is not None and len(values) != rows:
                raise PredictionError(f"{name} has {len(values)} values for {rows} rows")
        self._set(seen=rows)
        if weights is not None and rows:
            good = (weights == 0) | ((weights >= WEIGHTS[0]) & (weights <= WEIGHTS[1]))
            if not good.all():
                row, (low, high) = int(good.argmin()), WEIGHTS
                raise PredictionError(
                    f"{self.where(row)}: weight {weights[row]} is not 0 or a number from {low:g} to {high:g}"
                )
            if not weights.all():
                self._keep(np.flatnonzero(weights))
        if self.rows:
            self._check_values(classes)

    def _keep(self, kept: np.ndarray) -> None:
        self._set(
            predictions=self.predictions[kept],
            labels=self.labels[kept],
            targets=None if self.targets is None else self.targets[kept],
            weights=None if self.weights is None else self.weights[kept],
            groups=self.groups and self.groups.take(kept),
            questions=self.questions and self.questions.take(kept),
            slices={name: column.take(kept) for name, column in self.slices.items()},
            positions=kept,
        )

    def _check_values(self, classes: int) -> None:
        # the least and the greatest value alone settle the ordinary case, and NaN fails every comparison
        lowest, highest, is_open, kind = RANGES[self.inputs]
        values, labels = self.predictions, self.labels
        if not (values.min() >= lowest and (values.max() < highest if is_open else values.max() <= highest)):
            bad = ~((values >= lowest) & ((values < highest) if is_open else (values <= highest)))
            row, position = (int(i) for i in np.argwhere(bad)[0])
            column = f"column {self.columns[position]!r}" if self.columns else f"class {position}"
            value = values[row, position]
            if np.isnan(value):
                raise PredictionError(f"{self.where(row)}: the value in {column} is NaN")
            raise PredictionError(f"{self.where(row)}: {value!s} in {column} is not {kind}")
        if self.targets is not None:
            self._check_targets(self.targets)
        if not (labels.min() >= 0 and labels.max() < classes):
            row = int(np.argmax((labels < 0) | (labels >= classes)))
            raise PredictionError(f"{self.where(row)}: label {labels[row]} is not a position in [0, {classes})")

    def _check_targets(self, targets: np.ndarray) -> None:
        if not (targets.min() >= 0 and targets.max() < np.inf):
            row, position = (int(i) for i in np.argwhere(~((targets >= 0) & (targets < np.inf)))[0])
            value = targets[row, position]
            raise PredictionError(f"{self.where(row)}: {value!s} is no share of a soft label: it must be 0 or more")
        sums = targets.sum(axis=1)
        off = np.abs(sums - 1) > LABEL_SUM_TOLERANCE
        if off.any():
            row = int(off.argmax())
            raise PredictionError(
                f"{self.where(row)}: the labels add up to {sums[row]:.6g}, not to 1; where a row has several "
                "labels, or none, say multi_label (--multi-label)"
            )

    @property
    def rows(self) -> int:
        """The rows that count: those of weight > 0."""
        return len(self.labels)

    def where(self, row: int) -> str:
        """Name a row in a message: its position in the whole, and its id where there is one."""
        name = f"row {self.first_row + self.position(row)} (counted from 0)"
        return name if self.ids is None else f"{name}, id {self.id(row)!r}"

    def error(self, row: int, problem: str) -> PredictionError:
        """A problem of one row that is found after the batch was made."""
        return PredictionError(f"{self.source}: " * bool(self.source) + f"{self.where(row)}: {problem}")

    def position(self, row: int) -> int:
        """Where a row stands among all rows of the batch, those of weight 0 included."""
        return int(row if self.positions is None else self.positions[row])

    def id(self, row: int) -> int | str | None:
        """The id of a row as plain Python, or None where there are none."""
        if self.ids is None:
            return None
        value = self.ids[self.position(row)]
        value = value.as_py() if hasattr(value, "as_py") else getattr(value, "item", lambda: value)()
        return value if isinstance(value, int) else str(value)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)
