"""The pictures show the losses: the lines' points are compared, and the axes come back."""

import re
import runpy
from dataclasses import replace
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


# results -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    """A report with an infinite loss and slices, a comparison and a diagram, of the same rows."""
    from crossentropy.evaluation import compare, reliability, report

    from .conftest import as_columns, pa, softmax_rows

    probabilities, labels = softmax_rows(600, 3, seed=21)
    sharp = probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True)
    sharp[0] = np.eye(3)[(labels[0] + 1) % 3]
    site = np.array(["$x", "y$", "z"])[np.arange(600) % 3]
    tables = [pa.table(as_columns(p, labels, ["a$", "b$", "c"]) | {"site": site}) for p in (sharp, probabilities)]
    infinite, finite = (report(table, by=["site"]) for table in tables)
    comparison = compare(tables[1], pa.table(as_columns(probabilities**1.2, labels, ["a$", "b$", "c"])))
    return {
        "infinite": infinite,
        "finite": finite,
        "comparison": comparison,
        "diagram": reliability(tables[1]),
    }


def draw_all(results):
    for report in (results["infinite"], results["finite"]):
        yield plots.loss_histogram, (report,)
        yield plots.loss_by_part, (report,)
        yield plots.temperature_curve, (report.calibration,)
    yield plots.difference, (results["comparison"],)
    yield plots.reliability, (results["diagram"],)


def test_each_takes_one_result_and_gives_the_axes_back(results, tmp_path):
    for plot, arguments in draw_all(results):
        ax = plt.figure().add_subplot()
        assert plot(*arguments, ax=ax) is ax
        assert ax.get_title()
        assert ax.get_xlabel()
        assert plot(*arguments).figure is not ax.figure
        ax.figure.savefig(tmp_path / "picture.svg")  # names with dollar signs are no formulas
        plt.close("all")


def test_reliability_draws_the_staircase_the_band_and_the_rows(results):
    found = results["diagram"]
    ax = plots.reliability(found)
    x, y = lines(ax)["this model"]
    np.testing.assert_array_equal(x, np.stack([found.lowest, found.highest], axis=1).ravel())
    np.testing.assert_array_equal(y, np.repeat(found.frequency, 2))
    band = next(part for part in ax.collections if part.get_label() == "calibrated, 95 %")
    ends = band.get_paths()[0].vertices
    assert ends[:, 1].max() == pytest.approx(found.band[2].max())
    (rows,) = (patch for patch in ax.patches if patch.get_label() == "600 rows, log scale")
    values, edges, _ = rows.get_data()
    assert ((values > 0) == (found.density > 0)).all()
    assert len(edges) == len(found.density) + 1


def test_histogram_adds_up_and_sets_infinities_beside(results):
    for name, infinite in (("finite", 0), ("infinite", 1)):
        report = results[name]
        ax = plots.loss_histogram(report)
        data = [patch.get_data() for patch in ax.patches]
        assert ax.get_xscale() == "log"
        rows, loss, *beside = data
        assert rows.values.sum() == pytest.approx(100 * (600 - infinite) / 600)
        assert loss.values.sum() == pytest.approx(100)
        assert len(beside) == infinite
        if infinite:
            assert beside[0].values[0] == pytest.approx(100 / 600)
            assert beside[0].edges[0] > rows.edges[-1]
            assert "infinite" in [text.get_text() for text in ax.get_xticklabels()]
        finite = report.loss.finite_total
        above = rows.edges[:-1] >= 1
        exact = sum(report.histogram.loss[report.histogram.edges()[:-1] >= 1])
        assert loss.values[above].sum() == pytest.approx(100 * exact / finite)


def test_parts_show_their_means_and_intervals(results):
    report = results["finite"]
    ax = plots.loss_by_part(report)
    dots = [line.get_xdata() for line in ax.get_lines() if line.get_marker() == "o"]
    parts = sorted(report.by_class, key=lambda part: -part.share)
    assert [x[0] for x in dots] == [part.loss.mean for part in parts]
    bars = [segment[:, 0].tolist() for part in ax.collections for segment in part.get_segments()]
    assert bars == [list(part.loss.interval) for part in parts]
    assert ax.get_lines()[0].get_xdata()[0] == report.loss.mean
    names = [text.get_text() for text in plots.loss_by_part(report, by="site").get_yticklabels()]
    assert sorted(name.rstrip(" *") for name in names) == [r"\$x", "y\\$", "z"]
    with pytest.raises(KeyError):
        plots.loss_by_part(report, by="nothing")
    infinite = plots.loss_by_part(results["infinite"])
    assert [text.get_text() for text in infinite.texts] == ["infinite"]


def test_difference_shows_the_whole_first(results):
    found = results["comparison"]
    ax = plots.difference(found)
    dots = [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() == "o"]
    assert dots[0] == found.difference.mean
    assert sorted(dots[1:]) == sorted(part.difference.mean for part in found.by_class)
    assert ax.get_xlim()[0] == -ax.get_xlim()[1]  # 0 in the middle: neither model is favoured


def test_temperature_curve_shows_the_minimum(results):
    found = results["finite"].calibration
    ax = plots.temperature_curve(found)
    (curve,) = (line for line in ax.get_lines() if len(line.get_xdata()) > 2)
    points = dict(found.curve)
    assert all(points[t] == loss for t, loss in zip(*curve.get_data(), strict=True))
    marks = [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata()) == 2]
    assert marks == [1, pytest.approx(found.temperature)]
    lowest = min(points, key=points.get)
    assert lowest == pytest.approx(found.temperature, rel=0.05)  # as near as the points are
    with pytest.raises(ValueError, match="10 rows"):
        plots.temperature_curve(replace(found, temperature=None, curve=()))
    with pytest.raises(ValueError, match="10 rows of finite loss"):
        plots.temperature_curve(None)


def test_many_parts_and_long_names_stay_readable():
    from crossentropy.evaluation import report

    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.ones(300), size=900)
    ax = plots.loss_by_part(report(p, labels=generator.integers(300, size=900)))
    assert len(ax.get_yticks()) == plots.SHOWN_PARTS
    assert "of 2" in ax.get_title()
