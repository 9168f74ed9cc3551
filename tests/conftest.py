"""What every test gets: the array libraries, arrays that refuse to be written to, and the hypothesis profiles."""

import os
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest

import crossentropy as xe

hypothesis.settings.register_profile("fast", max_examples=60, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))


@dataclass(frozen=True)
class NumPy:
    """NumPy arrays in, NumPy arrays out. Inputs are read-only, so a write to one raises where it happens."""

    name = "numpy"
    # Whether a bad value can raise: not where values are unknown (labels traced under jit).
    can_raise = True

    def array(self, values: Any) -> Any:
        """This library's array of a NumPy array; anything else is an option's plain value and stays as it is."""
        if isinstance(values, tuple):
            return tuple(self.array(v) for v in values)
        if not isinstance(values, np.ndarray):
            return values
        view = values.view()
        view.flags.writeable = False
        return view

    def numpy(self, result: Any) -> Any:
        """NumPy's array of this library's result."""
        if isinstance(result, tuple):
            return tuple(self.numpy(v) for v in result)
        assert isinstance(result, (np.ndarray, np.generic)), f"not a NumPy result: {type(result)}"
        return np.asarray(result)

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        """Call `xe.<function>` on this library's arrays; NumPy arrays in and out, inputs checked to be untouched."""
        given = [self.array(a) for a in arguments]
        named = {name: self.array(value) for name, value in options.items()}
        return self.numpy(self.apply(getattr(xe, function), given, named))

    def apply(self, function: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        """How this library calls: eagerly; a library that traces compiles here."""
        return function(*arguments, **options)


# One entry each: torch and JAX (eager and jit) join here and meet every test that asks for `library`.
LIBRARIES = [NumPy()]


@pytest.fixture(scope="session", params=LIBRARIES, ids=lambda library: library.name)
def library(request: pytest.FixtureRequest) -> NumPy:
    return request.param
