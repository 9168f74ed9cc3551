"""Cross-entropy, exact and fast: losses and derivatives for training, an honest report for evaluation.

>>> import crossentropy as xe
>>> float(xe.cross_entropy([[2.0, 1.0, 0.1]], [0]))
0.4170300162778335
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossentropy.distributions import (
        entropy,
        kl_divergence,
        log_sigmoid,
        log_softmax,
        one_hot,
        perplexity,
        sigmoid,
        softmax,
        softmax_jacobian,
    )
    from crossentropy.linear import (
        LinearGradients,
        linear_cross_entropy,
        linear_cross_entropy_value_and_grad,
        linear_row_statistics,
    )
    from crossentropy.losses import (
        RowSummary,
        binary_cross_entropy,
        binary_cross_entropy_value_and_grad,
        cross_entropy,
        cross_entropy_hvp,
        cross_entropy_value_and_grad,
        row_statistics,
    )

__version__ = "0.1.0"

__all__ = [
    "LinearGradients",
    "RowSummary",
    "binary_cross_entropy",
    "binary_cross_entropy_value_and_grad",
    "cross_entropy",
    "cross_entropy_hvp",
    "cross_entropy_value_and_grad",
    "entropy",
    "evaluation",
    "kl_divergence",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "linear_row_statistics",
    "log_sigmoid",
    "log_softmax",
    "one_hot",
    "optax",
    "perplexity",
    "row_statistics",
    "sigmoid",
    "softmax",
    "softmax_jacobian",
    "torch",
]

# Everything loads on first use: the command line answers --help in less time than NumPy takes to import, and the core
# imports NumPy alone.
MODULES = ("evaluation", "optax", "torch")
DISTRIBUTIONS = (
    *("entropy", "kl_divergence", "log_sigmoid", "log_softmax", "one_hot", "perplexity", "sigmoid", "softmax"),
    "softmax_jacobian",
)
LINEAR = (
    *("LinearGradients", "linear_cross_entropy", "linear_cross_entropy_value_and_grad"),
    "linear_row_statistics",
)


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"crossentropy.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'crossentropy' has no attribute {name!r}")
    home = "distributions" if name in DISTRIBUTIONS else "linear" if name in LINEAR else "losses"
    value = getattr(importlib.import_module(f"crossentropy.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
