"""The loss as a function of the probability given to what happened: points to draw, from the losses themselves."""

from dataclasses import dataclass

import numpy as np

from crossentropy import binary_cross_entropy, cross_entropy


@dataclass(frozen=True)
class Curve:
    """One line of a picture: y over x, and what it shows."""

    x: np.ndarray
    y: np.ndarray
    name: str


def probabilities(points: int = 401) -> np.ndarray:
    """Points on (0, 1], closer together near 0, where -log p is steep."""
    return np.linspace(0, 1, points + 1)[1:] ** 3


def log_probability() -> tuple[Curve, Curve]:
    """log p and -log p on (0, 1]: the second is the loss of giving what happened the probability p."""
    loss = categorical_loss()
    return Curve(loss.x, -loss.y, "log p"), Curve(loss.x, loss.y, "-log p")


def binary_loss() -> tuple[Curve, Curve]:
    """The binary loss over p in (0, 1): -log p where t = 1 and -log(1 - p) where t = 0."""
    p = np.unique(np.concatenate([probabilities(), 1 - probabilities()]))[1:-1]
    losses = (binary_cross_entropy(p, np.full_like(p, t), inputs="probs", reduction="none") for t in (1.0, 0.0))
    return tuple(Curve(p, loss, f"t = {t}") for t, loss in zip((1, 0), losses, strict=True))  # type: ignore[return-value]


def categorical_loss() -> Curve:
    """The categorical loss of one class: -log of the probability given to it, whatever the other classes got."""
    p = probabilities()
    rows = np.stack([p, 1 - p], axis=1)
    loss = cross_entropy(rows, np.zeros(len(p), np.intp), inputs="probs", reduction="none")
    return Curve(p, loss, "loss of the class that happened")
