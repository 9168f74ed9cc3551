"""The pictures show the losses: the lines' points are compared, and the axes come back."""

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
