"""NumPy arrays, lists and numbers. The arithmetic is in ``kernels``."""

from crossentropy.libraries.numpy.conversion import (
    WORK,
    as_array,
    as_floating,
    namespace,
    result_dtype,
    values_known,
    values_readable,
)
from crossentropy.libraries.numpy.elements import (
    binary_cross_entropy,
    binary_cross_entropy_value_and_grad,
    map_elements,
)
from crossentropy.libraries.numpy.linear import (
    linear_cross_entropy,
    linear_cross_entropy_value_and_grad,
    linear_row_summary,
)
from crossentropy.libraries.numpy.losses import (
    Rows,
    cross_entropy,
    cross_entropy_hvp,
    cross_entropy_value_and_grad,
    map_rows,
    row_summary,
)
