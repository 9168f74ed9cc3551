"""What each row of a batch costs: the per-row numbers that everything else adds up, from one read of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crossentropy import cross_entropy, row_statistics
from crossentropy.kernels import native

from .batches import LARGEST_LOSS, Batch, RowLoss
from .temperature_sums import INVERSE_TEMPERATURES, TemperatureSums, folds

_FLOATS = ("loss", "entropy", "label_probability", "prediction_probability")


@dataclass(frozen=True)
class RowScores:
    """Per row: loss and entropy in nats, the predicted class, the probabilities of label and prediction, all float64.

    `row_sum` is the sum of a row's probabilities, None where something else was given. `temperatures` are the sums over
    the rows of finite loss, None unless asked for.
    """

    batch: Batch
    loss: np.ndarray
    entropy: np.ndarray
    prediction: np.ndarray
    label_probability: np.ndarray
    prediction_probability: np.ndarray
    row_sum: np.ndarray | None = None
    temperatures: TemperatureSums | None = None

    @classmethod
    def of(cls, batch: Batch, with_temperatures: bool = False) -> RowScores:
        """Score every row of a batch.

        Probabilities are taken as they are: their loss is -log of what the label was given. The entropy, and the loss
        at other temperatures, are of the distribution that their logarithms have as logits.

        Raises
        ------
        PredictionError : every logit of a row is -inf; a loss that is finite and above 1e50
        """
        names = (*_FLOATS, "row_sum") if batch.inputs == "probs" else _FLOATS
        results: dict[str, Any] = {name: np.empty(batch.rows) for name in names} | {
            "prediction": np.empty(batch.rows, np.int64)
        }
        if not batch.rows:
            return cls(batch, **results)
        at = INVERSE_TEMPERATURES if with_temperatures else None
        sums = None
        if batch.targets is None:
            sums = native.row_scores(batch.predictions, batch.labels, batch.inputs, results, batch.weights, at)
        if sums is None:
            temperatures = _score(batch, results, with_temperatures)
        else:
            temperatures = TemperatureSums.of_sums(*sums) if with_temperatures else None
        if batch.inputs != "probs":  # no probability is small enough
            loss = results["loss"]
            if (huge := (loss > LARGEST_LOSS) & (loss < np.inf)).any():
                row = int(huge.argmax())
                raise batch.error(row, f"a loss of {loss[row]:.3g} nats; -inf says that something cannot happen")
        prediction = results["prediction"]
        if prediction.min() < 0:
            undefined = prediction < 0
            if batch.inputs == "logits":
                raise batch.error(int(undefined.argmax()), "every logit is -inf: no class can occur")
            # every probability is 0: the loss is infinite, the first class is as good as any
            prediction[undefined], results["entropy"][undefined] = 0, 0.0
        return cls(batch, **results, temperatures=temperatures)

    def row(self, row: int) -> RowLoss:
        """One row for a person."""
        return RowLoss(
            row=self.batch.first_row + self.batch.position(row),
            id=self.batch.id(row),
            label=int(self.batch.labels[row]),
            prediction=int(self.prediction[row]),
            label_probability=float(self.label_probability[row]),
            prediction_probability=float(self.prediction_probability[row]),
            loss=float(self.loss[row]),
        )


def _score(batch: Batch, results: dict[str, np.ndarray], with_temperatures: bool) -> TemperatureSums | None:
    """What the native core does, in plain array code, and for soft labels: fill the results, give the sums."""
    values, labels, weights, target = batch.predictions, batch.labels, batch.weights, batch.labels
    if batch.targets is not None:
        target = batch.targets.astype(np.float64)
    if batch.inputs == "probs":
        with np.errstate(divide="ignore"):  # log 0 = -inf: the class cannot occur
            logits = np.log(values, dtype=np.float64)
    else:
        logits = values.astype(np.float64)
    summary = row_statistics(logits, target, ignore_index=None)
    rows, prediction = np.arange(len(labels)), summary.prediction
    results["prediction"][:], results["entropy"][:] = prediction, summary.entropy
    chosen, top = values[rows, labels].astype(np.float64), values[rows, prediction].astype(np.float64)
    loss = results["loss"]
    if batch.inputs == "logits":
        loss[:] = 0.0 - summary.target_log_prob
        results["label_probability"][:] = np.exp(chosen - summary.lse)
        results["prediction_probability"][:] = np.exp(top - summary.lse)
    else:
        if batch.targets is None:
            given, target = chosen[:, None], np.zeros(len(labels), np.intp)
        else:
            given = values.astype(np.float64)
        loss[:] = cross_entropy(given, target, inputs=batch.inputs, reduction="none")
        results["label_probability"][:] = chosen if batch.inputs == "probs" else np.exp(chosen)
        results["prediction_probability"][:] = top if batch.inputs == "probs" else np.exp(top)
    if batch.inputs == "probs":
        results["row_sum"][:] = values.sum(axis=1, dtype=np.float64)
    if not with_temperatures:
        return None
    kept = np.isfinite(loss)
    target = batch.labels if batch.targets is None else target
    w = None if weights is None else weights[kept]
    return TemperatureSums.of_rows(logits[kept], target[kept], w, folds(values)[kept])
