"""Pictures of results, drawn with matplotlib: give `ax` to draw into your own figure; the axes come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def log_probability(ax: Axes | None = None) -> Axes:
    """Draw log p and -log p on (0, 1].

    Parameters
    ----------
    ax : matplotlib axes to draw into; a new figure where None

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from crossentropy.evaluation import plots
    >>> [line.get_label() for line in plots.log_probability().get_lines()]
    ['log p', '-log p']
    """
    return _draw(curves.log_probability(), ax, x="p", y="nats")


def binary_loss(ax: Axes | None = None) -> Axes:
    """Draw the binary loss against p for t = 1 and t = 0. Parameters and result as in `log_probability`."""
    ax = _draw(curves.binary_loss(), ax, x="predicted probability p of t = 1", y="loss (nats)")
    ax.set_ylim(bottom=0)
    return ax


def categorical_loss(ax: Axes | None = None) -> Axes:
    """Draw the loss of one class against the probability it was given. As `log_probability` otherwise."""
    ax = _draw([curves.categorical_loss()], ax, x="probability given to the class that happened", y="loss (nats)")
    ax.set_ylim(bottom=0)
    return ax


def _draw(lines: Sequence[curves.Curve], ax: Axes | None, x: str, y: str) -> Axes:
    if ax is None:
        import matplotlib.pyplot

        ax = matplotlib.pyplot.subplots()[1]
    for line in lines:
        ax.plot(line.x, line.y, label=line.name)
    ax.set(xlabel=x, ylabel=y, xlim=(0, 1))
    ax.legend()
    return ax
