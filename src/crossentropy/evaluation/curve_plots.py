"""The curves of the tutorial on matplotlib axes: the user's (`ax=`) or new ones, which are returned."""

from __future__ import annotations

import math
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
    ax = _draw(curves.log_probability(), ax, "log p and -log p", x="p", y="nats", limits=(-5, 5))
    ax.hlines(0, -0.02, 1.02, color="grey", linewidth=0.8, zorder=0)
    return ax


def binary_loss(ax: Axes | None = None) -> Axes:
    """Draw the binary loss against p for t = 1 and t = 0. Parameters and result as in `log_probability`."""
    x = "predicted probability p of t = 1"
    return _draw(curves.binary_loss(), ax, "Binary cross-entropy", x, y="loss (nats)", limits=(0, 5))


def categorical_loss(ax: Axes | None = None) -> Axes:
    """Draw the loss of one class against the probability it was given. As `log_probability` otherwise."""
    x = "probability given to the class that happened"
    return _draw([curves.categorical_loss()], ax, "Categorical cross-entropy", x, y="loss (nats)", limits=(0, 5))


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes that were given, or those of a new figure."""
    if ax is None:
        import matplotlib.pyplot

        ax = matplotlib.pyplot.subplots(layout="constrained")[1]
    return ax


# What lies outside is cut off: 5 nats are a probability of 0.007, and the curves go on to infinity.
def _draw(
    lines: Sequence[curves.Curve], ax: Axes | None, title: str, x: str, y: str, limits: tuple[float, float]
) -> Axes:
    ax = axes_or_new(ax)
    for line, style in zip(lines, ("-", "--"), strict=False):  # told apart in print, without colour
        ax.plot(line.x, line.y, style, label=line.name, linewidth=2)
    ax.set(title=title, xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=limits)
    ax.scatter([0.5], [math.log(2)], color="black", s=25, zorder=3)
    place = {"xytext": (0, 16), "textcoords": "offset points", "ha": "center", "fontsize": "small"}
    ax.annotate(f"p = 1/2: {math.log(2):.3f}", (0.5, math.log(2)), **place)
    ax.legend()
    return ax
