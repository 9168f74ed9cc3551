"""The map that calibrates: logits times a slope and, with two classes, plus an intercept. Made by `scaler_fit`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from crossentropy import log_softmax, softmax

from .batches import RANGES, PredictionError
from .whole_file import whole_file

METHODS = ("temperature", "affine")
# What the file says it is, so that another program's JSON is not taken for a scaler.
FORMAT = "crossentropy scaler"
VERSION = 1
# A scaler is a few hundred bytes and its classes; a larger file is something else.
MOST_BYTES = 64_000_000


@dataclass(frozen=True)
class Scaler:
    """Calibrated logits z' of the logits z: z'_j = slope z_j, plus the intercept for class 1 of two.

    The method "temperature" has the slope 1 / T and the intercept 0, for any number of classes; "affine" has both, for
    two classes (Platt's scaling, on the logit).

    Parameters
    ----------
    slope : above 0; below 1 where the model was over-confident
    intercept : added to the logit of class 1; 0 for "temperature"
    method : "temperature" or "affine"
    classes : the classes' names in the order of the predictions; () where they have none
    fitted_on : where the fit comes from: {"source": ..., "sha256": ..., "rows": ...}, as far as known

    Raises
    ------
    ValueError : a slope that is not a number above 0, an intercept without meaning

    Examples
    --------
    >>> import numpy as np
    >>> scaler = Scaler(slope=0.5)
    >>> scaler.temperature
    2.0
    >>> scaler.apply(np.array([[0.9, 0.1]])).round(4)  # 0.9 / 0.1 = 9 to 1 becomes 3 to 1
    array([[0.75, 0.25]])

    Source: Platt 1999; Guo, Pleiss, Sun, Weinberger 2017, https://arxiv.org/abs/1706.04599.
    """

    slope: float
    intercept: float = 0.0
    method: str = "temperature"
    classes: tuple[str, ...] = ()
    fitted_on: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, not {self.method!r}")
        if not (_is_finite(self.slope) and self.slope > 0 and _is_finite(1 / self.slope)):
            raise ValueError(f"slope must be a number above 0, with a finite inverse, not {self.slope!r:.40}")
        if not _is_finite(self.intercept):
            raise ValueError(f"intercept must be a finite number, not {self.intercept!r:.40}")
        if self.method == "temperature" and self.intercept:
            raise ValueError(f"a temperature has no intercept, but intercept is {self.intercept!r}")
        if self.method == "affine" and len(self.classes) not in (0, 2):
            raise ValueError(f"affine needs two classes, not {len(self.classes)}")

    @property
    def temperature(self) -> float:
        """1 / slope: what the logits are divided by."""
        return 1 / self.slope

    def describe(self) -> str:
        """The map in words, for a line of text."""
        if self.method == "temperature":
            return f"logits divided by the temperature {self.temperature:.4g}"
        return f"logits times the slope {self.slope:.4g}, {self.intercept:+.4g} for class 1"

    def scale(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated logits, float64, of logits or log-probabilities of shape (rows, classes); -inf stays -inf."""
        return scaled(logits, self.slope, self.intercept)

    def apply(self, predictions: np.ndarray, inputs: str = "probs") -> np.ndarray:
        """Calibrated predictions, of the kind that was given.

        Parameters
        ----------
        predictions : float array, shape (rows, classes); never written to
        inputs : what they are and what comes out: "probs", "log_probs" or "logits"

        Returns
        -------
        float64 array of the same shape. Probabilities add up to 1 in every row; a row that gives every class the
        probability 0 stays as it is.

        Raises
        ------
        ValueError : the wrong number of classes; a kind that is none
        """
        if inputs not in RANGES:
            raise ValueError(f"inputs must be one of {', '.join(map(repr, RANGES))}, not {inputs!r}")
        predictions = np.asarray(predictions)
        wanted = 2 if self.method == "affine" else len(self.classes) or None
        if predictions.ndim != 2 or (wanted is not None and predictions.shape[1] != wanted):
            raise ValueError(f"predictions must have the shape (rows, {wanted or 'classes'}), not {predictions.shape}")
        logits = self.scale(logits_of(predictions, inputs))
        if inputs == "logits":
            return logits
        possible = (logits > -np.inf).any(axis=1, keepdims=True)
        normalised = (softmax if inputs == "probs" else log_softmax)(np.where(possible, logits, 0.0))
        return np.where(possible, normalised, 0.0 if inputs == "probs" else -np.inf)

    def to_json(self) -> str:
        """The scaler as JSON; every float comes back with the same bits."""
        found = {
            "format": FORMAT,
            "version": VERSION,
            "method": self.method,
            "slope": self.slope,
            "intercept": self.intercept,
            "temperature": self.temperature,
            "classes": list(self.classes),
            "fitted_on": self.fitted_on,
        }
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the JSON to a file."""
        with whole_file(Path(path)) as unfinished:
            unfinished.write_text(self.to_json(), "utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        PredictionError : there is no such file, or it holds no scaler of this version
        """
        try:
            with Path(path).open("rb") as file:
                text = file.read(MOST_BYTES + 1)
            found = None if len(text) > MOST_BYTES else json.loads(text)
        except OSError as error:
            raise PredictionError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise PredictionError(f"{path}: this is no scaler; one is written by: crossentropy calibrate FILE --save")
        if found.get("version") != VERSION:
            raise PredictionError(f"{path}: a scaler of version {found.get('version')!r}; this program reads {VERSION}")
        classes, fitted_on = found.get("classes"), found.get("fitted_on")
        if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise PredictionError(f"{path}: the scaler's classes are no list of names")
        if not (fitted_on is None or isinstance(fitted_on, dict)):
            raise PredictionError(f"{path}: the scaler's fitted_on is no object")
        try:
            return cls(found.get("slope"), found.get("intercept"), found.get("method"), tuple(classes), fitted_on)  # type: ignore[arg-type]
        except ValueError as error:
            raise PredictionError(f"{path}: {error}") from None


def logits_of(predictions: np.ndarray, inputs: str) -> np.ndarray:
    """Predictions of any kind as float64 logits: log-probabilities are logits whose softmax is themselves."""
    values = np.asarray(predictions, np.float64)
    if inputs != "probs":
        return values
    with np.errstate(divide="ignore"):  # log 0 = -inf: the class cannot occur
        return np.log(values)


def scaled(logits: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """slope z_j, plus the intercept for class 1. A class that cannot occur (-inf) cannot occur for any slope."""
    possible = logits > -np.inf
    result = np.where(possible, slope * np.where(possible, logits, 0.0), -np.inf)
    if intercept:
        result[:, 1] += intercept
    return result


def _is_finite(value: object) -> bool:
    """A number that a float64 holds; an integer of JSON may be larger."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
