"""What each row of a batch costs: the per-row numbers that everything else adds up, all from the losses themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossentropy import cross_entropy, row_statistics

from .batches import Batch, PredictionError, RowLoss


@dataclass(frozen=True)
class RowScores:
    """Per row: loss and entropy in nats, the predicted class, the probabilities of label and prediction.

    `logits` are what was normalised: the logits given, or the logarithms of the probabilities given.
    """

    batch: Batch
    loss: np.ndarray
    entropy: np.ndarray
    prediction: np.ndarray
    label_probability: np.ndarray
    prediction_probability: np.ndarray
    logits: np.ndarray

    @classmethod
    def of(cls, batch: Batch) -> RowScores:
        values, labels = batch.predictions, batch.labels
        if batch.inputs == "probs":
            with np.errstate(divide="ignore"):  # log 0 = -inf: the class cannot occur
                logits = np.log(values)
        else:
            logits = values
        summary = row_statistics(logits, labels, ignore_index=None)
        prediction, row_entropy = summary.prediction, summary.entropy
        undefined = prediction < 0
        if undefined.any():
            if batch.inputs == "logits":
                raise PredictionError(
                    f"{batch.where(int(undefined.argmax()))}: every logit is -inf: no class can occur"
                )
            # every probability is 0: the loss is infinite, the first class is as good as any
            prediction, row_entropy = np.where(undefined, 0, prediction), np.where(undefined, 0, row_entropy)
        rows = np.arange(batch.rows)
        chosen = values[rows, labels].astype(np.float64)
        top = values[rows, prediction].astype(np.float64)
        if batch.inputs == "logits":
            loss = -summary.target_log_prob.astype(np.float64) + 0.0
            label_probability, prediction_probability = np.exp(-loss), np.exp(top - summary.lse)
        else:
            # Probabilities are taken as they are, and in float64, where the loss is exact for the number stored.
            first = np.zeros(batch.rows, np.intp)
            loss = cross_entropy(chosen[:, None], first, inputs=batch.inputs, reduction="none")
            label_probability, prediction_probability = (
                (chosen, top) if batch.inputs == "probs" else (np.exp(chosen), np.exp(top))
            )
        return cls(batch, loss, row_entropy, prediction, label_probability, prediction_probability, logits)

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
