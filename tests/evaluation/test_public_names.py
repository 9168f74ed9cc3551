"""Every name that the evaluation announces is there."""

import pytest

from crossentropy import evaluation


@pytest.mark.parametrize("name", evaluation.__all__)
def test_a_public_name_loads(name):
    assert getattr(evaluation, name).__name__ == name
