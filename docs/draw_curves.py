"""Draw the tutorial's picture: `python docs/draw_curves.py` writes docs/curves.svg, the same bytes every time."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from crossentropy.evaluation import plots

PICTURE = Path(__file__).with_name("curves.svg")


def draw(path: Path = PICTURE) -> None:
    """Draw the three curves side by side."""
    # text as text (small, searchable), names of parts that do not change from run to run, and no date
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "crossentropy", "font.size": 9}):
        figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
        for ax, curve in zip(axes, (plots.log_probability, plots.binary_loss, plots.categorical_loss), strict=True):
            curve(ax=ax)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    draw()
