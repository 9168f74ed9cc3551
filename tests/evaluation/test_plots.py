"""The pictures show the losses: the lines' points are compared, and the axes come back."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib", reason="pictures need the extra `report`")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from crossentropy.evaluation import plots  # noqa: E402


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def lines(ax):
    return {line.get_label(): line.get_data() for line in ax.get_lines()}


def test_log_probability():
    drawn = lines(plots.log_probability())
    p, log_p = drawn["log p"]
    assert p[0] > 0
    assert p[-1] == 1
    np.testing.assert_allclose(log_p, np.log(p), rtol=1e-14)
    np.testing.assert_array_equal(drawn["-log p"], (p, -log_p))


def test_binary_loss():
    drawn = lines(plots.binary_loss())
    p, loss = drawn["t = 1"]
    np.testing.assert_allclose(loss, -np.log(p), rtol=1e-14)
    p, loss = drawn["t = 0"]
    np.testing.assert_allclose(loss, -np.log1p(-p), rtol=1e-14)
    assert 0 < p[0] < 1e-6
    assert 1 - 1e-6 < p[-1] < 1
    assert (np.diff(p) > 0).all()


def test_categorical_loss():
    ((p, loss),) = lines(plots.categorical_loss()).values()
    np.testing.assert_allclose(loss, -np.log(p), rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("plot", [plots.log_probability, plots.binary_loss, plots.categorical_loss])
def test_axes_in_and_out(plot):
    ax = plt.figure().add_subplot()
    assert plot(ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert plot().figure is not ax.figure
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("plot", "limits"),
    [(plots.log_probability, (-5, 5)), (plots.binary_loss, (0, 5)), (plots.categorical_loss, (0, 5))],
)
def test_pictures_show_what_matters(plot, limits):
    ax = plot()
    assert ax.get_ylim() == limits
    assert ax.get_title()
    assert len({line.get_linestyle() for line in ax.get_lines()}) == len(ax.get_lines())  # without colour
    marks = [tuple(mark) for part in ax.collections for mark in np.asarray(part.get_offsets())]
    assert (0.5, np.log(2)) in marks
    assert [text.get_text() for text in ax.texts] == ["p = 1/2: 0.693"]


def test_the_picture_of_the_tutorial_is_drawn_by_its_command(tmp_path):
    docs = Path(__file__).parents[2] / "docs"
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        runpy.run_path(str(docs / "draw_curves.py"))["draw"](picture)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert pictures[0].stat().st_size < 60_000
    # fonts and versions of matplotlib move the marks a little; the words are the same
    words = [re.findall(r"<text[^>]*>([^<]*)<", file.read_text("utf-8")) for file in (pictures[0], docs / "curves.svg")]
    assert words[0] == words[1]
    assert words[0].count("p = 1/2: 0.693") == 3
