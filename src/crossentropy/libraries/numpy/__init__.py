"""NumPy arrays, lists and numbers. The arithmetic is in ``kernels``."""

from crossentropy.libraries.numpy.linear import (
    linear_cross_entropy,
    linear_cross_entropy_value_and_grad,
    linear_row_summary,
)
from crossentropy.libraries.numpy.losses import (
    WORK,
    Rows,
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
