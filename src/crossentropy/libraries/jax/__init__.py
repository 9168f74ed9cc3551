"""JAX arrays and tracers. The arithmetic is in ``kernels``."""

from typing import Any

from crossentropy.libraries.jax.linear import (
    linear_cross_entropy,
    linear_cross_entropy_value_and_grad,
    linear_row_summary,
)
from crossentropy.libraries.jax.losses import (
    as_array,
    as_floating,
    binary_cross_entropy,
    binary_cross_entropy_value_and_grad,
    cross_entropy,
    cross_entropy_hvp,
    cross_entropy_value_and_grad,
    map_elements,
    map_rows,
    namespace,
    result_dtype,
    row_summary,
    values_known,
    values_readable,
)


def __getattr__(name: str) -> Any:
    if name == "WORK":
        return namespace.float64  # asked anew each time: it follows jax_enable_x64
    raise AttributeError(name)
