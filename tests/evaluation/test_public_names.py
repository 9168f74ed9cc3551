"""Every name that the evaluation announces is there, whichever of its modules was imported first."""

from importlib import import_module

import pytest

from crossentropy import evaluation


@pytest.mark.parametrize("name", evaluation.__all__)
def test_a_public_name_loads(name):
    # importing a module sets its name in the package: a function must not have that name too
    import_module(f"crossentropy.evaluation.{evaluation._HOME[name]}")
    assert getattr(evaluation, name).__name__ == name
