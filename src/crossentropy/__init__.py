"""Cross-entropy, exact and fast: losses and derivatives for training, an honest report for evaluation.

>>> import crossentropy as xe
>>> float(xe.cross_entropy([[2.0, 1.0, 0.1]], [0]))
0.4170300162778335
"""

from __future__ import annotations

import importlib
from typing import Any

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
    "RowSummary",
    "binary_cross_entropy",
    "binary_cross_entropy_value_and_grad",
    "cross_entropy",
    "cross_entropy_hvp",
    "cross_entropy_value_and_grad",
    "entropy",
    "evaluation",
    "kl_divergence",
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

LAZY = ("evaluation", "optax", "torch")  # loaded on first use, so that the core imports NumPy alone


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return importlib.import_module(f"crossentropy.{name}")
    raise AttributeError(f"module 'crossentropy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
