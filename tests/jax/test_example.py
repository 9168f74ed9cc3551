"""The example trains a network that predicts digits it has not seen."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("optax")
pytest.importorskip("sklearn")

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_with_optax.py"


def test_the_example_learns_digits(capsys):
    first, last, held_out, accuracy = runpy.run_path(str(EXAMPLE))["main"]()
    assert first > 2
    assert last < 0.2
    assert held_out < 0.2
    assert accuracy > 0.95
    assert f"loss {held_out:.3f} nats" in capsys.readouterr().out
