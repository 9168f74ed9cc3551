"""One batch of predictions, checked: what every reader produces and every accumulator consumes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np


class PredictionError(ValueError):
    """Predictions that cannot be evaluated. The message is one line and says where and why."""


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
class Batch:
    """Consecutive rows of predictions with what happened.

    Rows of weight 0 are dropped before anything is checked: they count in `seen` and nowhere else, as if they were
    not there.

    Parameters
    ----------
    probabilities : float array, shape (rows, classes), every value in [0, 1]; never renormalised
    labels : int array, shape (rows,), positions in [0, classes)
    ids : sequence of `rows` values, or None; only the ids of rows that are shown are ever looked at
    weights : float array, shape (rows,), finite and >= 0, or None for 1 each
    first_row : position of the first row in the whole, counted from 0; used in messages
    columns : names of the probability columns; used in messages

    Raises
    ------
    PredictionError : wrong shapes, a probability outside [0, 1] or NaN, a label outside [0, classes), a bad weight;
        the message gives the row

    Examples
    --------
    >>> import numpy as np
    >>> batch = Batch(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]), weights=np.array([0.0, 2.0]))
    >>> batch.seen, batch.labels
    (2, array([1]))
    """

    probabilities: np.ndarray
    labels: np.ndarray
    ids: Sequence | np.ndarray | None = None
    weights: np.ndarray | None = None
    first_row: int = 0
    columns: Sequence[str] | None = field(default=None, repr=False)
    seen: int = field(init=False)
    positions: np.ndarray | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        probabilities, labels, weights = self.probabilities, self.labels, self.weights
        if probabilities.ndim != 2 or not np.issubdtype(probabilities.dtype, np.floating):
            raise PredictionError(
                "probabilities must be a floating array of shape (rows, classes), "
                f"not {probabilities.dtype} of shape {probabilities.shape}"
            )
        rows, classes = probabilities.shape
        if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
            raise PredictionError(
                f"labels must be integers of shape ({rows},), one per row, not {labels.dtype} of shape {labels.shape}"
            )
        for name, values in (("ids", self.ids), ("weights", weights)):
            if values is not None and len(values) != rows:
                raise PredictionError(f"{name} has {len(values)} values for {rows} rows")
        self._set(seen=rows)
        if weights is not None and rows:
            if not (weights.min() >= 0 and weights.max() < np.inf):
                row = int(np.argmin((weights >= 0) & (weights < np.inf)))
                raise PredictionError(f"{self.where(row)}: weight {weights[row]} is not a finite number >= 0")
            if not weights.all():
                kept = np.flatnonzero(weights)
                probabilities, labels = probabilities[kept], labels[kept]
                self._set(probabilities=probabilities, labels=labels, weights=weights[kept], positions=kept)
        if not len(labels):
            return
        # min and max alone settle the ordinary case, and NaN fails both comparisons
        if not (probabilities.min() >= 0 and probabilities.max() <= 1):
            self._refuse_probability()
        if not (labels.min() >= 0 and labels.max() < classes):
            row = int(np.argmax((labels < 0) | (labels >= classes)))
            raise PredictionError(f"{self.where(row)}: label {labels[row]} is not a position in [0, {classes})")

    @property
    def rows(self) -> int:
        """The rows that count: those of weight > 0."""
        return len(self.labels)

    def row_loss(self, row: int, loss: np.ndarray, prediction: np.ndarray) -> RowLoss:
        """One row for a person, given the batch's losses and predicted classes."""
        label, predicted = int(self.labels[row]), int(prediction[row])
        return RowLoss(
            row=self.first_row + self._position(row),
            id=self._id(row),
            label=label,
            prediction=predicted,
            label_probability=float(self.probabilities[row, label]),
            prediction_probability=float(self.probabilities[row, predicted]),
            loss=float(loss[row]),
        )

    def where(self, row: int) -> str:
        """Name a row in a message: its position in the whole, and its id where there is one."""
        name = f"row {self.first_row + self._position(row)} (counted from 0)"
        return name if self.ids is None else f"{name}, id {self._id(row)!r}"

    def _position(self, row: int) -> int:
        return int(row if self.positions is None else self.positions[row])

    def _id(self, row: int) -> int | str | None:
        if self.ids is None:
            return None
        value = self.ids[self._position(row)]
        value = value.as_py() if hasattr(value, "as_py") else getattr(value, "item", lambda: value)()
        return value if isinstance(value, int) else str(value)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _refuse_probability(self) -> None:
        bad = ~((self.probabilities >= 0) & (self.probabilities <= 1))
        row, position = (int(i) for i in np.argwhere(bad)[0])
        column = f"column {self.columns[position]!r}" if self.columns else f"class {position}"
        value = self.probabilities[row, position]
        if np.isnan(value):
            raise PredictionError(f"{self.where(row)}: the probability in {column} is NaN")
        raise PredictionError(f"{self.where(row)}: {value!s} in {column} is not a probability: it lies outside [0, 1]")
