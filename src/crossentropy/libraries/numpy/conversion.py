"""NumPy arrays, lists and numbers as arrays of the dtypes that are computed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from crossentropy import arguments
from crossentropy.arrays import FLOATING, INTEGER, dtype_name

WORK = np.float64
# NumPy, but conversion gives C order: a sum over classes that are not contiguous is not pairwise (97 ulp, C = 4,000).
xp = namespace = SimpleNamespace(**vars(np) | {"astype": lambda array, dtype: np.asarray(array, dtype, order="C")})
FLOAT32 = np.dtype(np.float32)

# What as_array gives back as it is: NumPy's own numbers in the machine's byte order.
FLOATS = {np.dtype(name) for name in FLOATING if hasattr(np, name)}
NUMBERS = {np.dtype(name) for name in (*FLOATING, *INTEGER, "bool") if hasattr(np, name)}


def values_known(array: Any) -> bool:
    return True


values_readable = values_known


def as_array(name: str, value: Any) -> np.ndarray:
    """A NumPy array of native byte order, or TypeError."""
    if type(value) is np.ndarray and value.dtype in NUMBERS and value.dtype.isnative:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost; use row_weight, class_mask or ignore_index instead"
        )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from None
    if array.dtype == object:
        odd = next((v for v in array.flat if not isinstance(v, (int, float))), None)
        found = "objects of no NumPy number type" if odd is None and array.ndim else type(odd).__name__
        raise TypeError(f"{name} must hold numbers, got {found}")
    if array.dtype.kind in "USMmc" or dtype_name(array) in ("longdouble", "float128", "float96"):
        raise TypeError(f"{name} must hold real numbers of at most 64 bits, got dtype {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_floating(name: str, value: Any) -> np.ndarray:
    if type(value) is np.ndarray and value.dtype in FLOATS and value.dtype.isnative:
        return value
    return arguments.floating(as_array, name, value, WORK)


def result_dtype(array: np.ndarray) -> np.dtype:
    """The loss of 16-bit logits is float32."""
    return FLOAT32 if array.dtype.itemsize == 2 else array.dtype
