"""Which library an array belongs to, which dtypes are allowed, and the (..., C) -> (rows, classes) view."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

# The first word of an array type's module -> the file in libraries/ that serves it. The user's array is what imports
# its library.
LIBRARIES = {"numpy": "numpy", "torch": "torch", "jax": "jax", "jaxlib": "jax"}
TAKES_NUMPY = ("jax",)  # libraries whose own functions take NumPy arrays beside theirs
KNOWN_WITHOUT_SUPPORT = {"cupy": "CuPy", "tensorflow": "TensorFlow"}


def library_of(*arrays: Any) -> Any:
    """The module of ``crossentropy.libraries`` for these arguments; lists, numbers and data frames go to NumPy."""
    for value in arrays:
        if type(value) is not np.ndarray:
            break
    else:
        return load_library("numpy")
    kind = type(arrays[0])
    if kind is type(arrays[-1]) and len(arrays) == 2:
        name = LIBRARIES.get(kind.__module__) or LIBRARIES.get(root_module(kind))
        if name is not None:
            return load_library(name)
    found: dict[str, Any] = {}
    for value in arrays:
        for part in value if isinstance(value, tuple) else (value,):
            name = root_module(type(part))
            if name in LIBRARIES:
                found[LIBRARIES[name]] = part
            elif name in KNOWN_WITHOUT_SUPPORT:
                raise TypeError(
                    f"{KNOWN_WITHOUT_SUPPORT[name]} arrays are not supported by this version of crossentropy; "
                    "convert with numpy.asarray first"
                )
    if "numpy" in found and any(name in found for name in TAKES_NUMPY):
        del found["numpy"]
    if len(found) > 1:
        raise TypeError(f"arrays of several libraries: {', '.join(sorted(found))}; convert them to one")
    return load_library(next(iter(found), "numpy"))


def root_module(array_type: type) -> str:
    """Of the type or, since a subclass lives in a module of its own, of the first base that is a library's."""
    for base in array_type.__mro__:
        root = base.__module__.partition(".")[0]
        if root in LIBRARIES or root in KNOWN_WITHOUT_SUPPORT:
            return root
    return ""


def namespace_of(array: Any) -> Any:
    """The functions of the array's library; those that make an array make it on this array's device."""
    namespace = library_of(array).namespace
    return namespace(array.device) if callable(namespace) else namespace


def load_library(name: str) -> Any:
    return sys.modules["crossentropy.libraries"].load(name)


class Layout:
    """The shape of logits with one class axis, seen as (rows, classes)."""

    def __init__(self, shape: tuple[int, ...], axis: int) -> None:
        """``axis``: non-negative."""
        self.shape, self.axis = shape, axis
        self.classes: int = shape[axis]
        self.row_shape: tuple[int, ...] = shape[:axis] + shape[axis + 1 :]
        self.count = math.prod(self.row_shape)

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: int, name: str = "logits") -> Layout:
        if not shape:
            raise ValueError(f"{name} must have a class axis, got a single number")
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"axis {axis} is out of range for {name} of shape {tuple(shape)}")
        axis %= len(shape)
        if shape[axis] == 0:
            raise ValueError(f"{name} of shape {tuple(shape)} has no classes along axis {axis}")
        return cls(tuple(shape), axis)

    def to_rows(self, xp: Any, array: Any) -> Any:
        """(rows, classes); a view where the strides allow one."""
        if self.axis != len(self.shape) - 1:
            array = xp.moveaxis(array, self.axis, -1)
        return xp.reshape(array, (self.count, self.classes))

    def from_rows(self, xp: Any, rows: Any) -> Any:
        """The inverse of ``to_rows``."""
        array = xp.reshape(rows, (*self.row_shape, self.classes))
        return array if self.axis == len(self.shape) - 1 else xp.moveaxis(array, -1, self.axis)

    def position(self, row: int, entry: int | None = None) -> str:
        """``[3, 0, 5]``: where row ``row`` (and entry ``entry`` along the class axis) lies in the caller's array."""
        index: list[int] = []
        for extent in reversed(self.row_shape):
            row, rest = divmod(row, extent)
            index.insert(0, rest)
        if entry is not None:
            index.insert(self.axis, entry)
        return f"[{', '.join(map(str, index))}]" if index else ""


layout_of = functools.lru_cache(maxsize=256)(Layout.of)  # for calls that nothing traces


# NumPy builds a dtype's name anew at every question, which takes longer than a small loss.
NAMES: dict[np.dtype, str] = {}


def dtype_name(array: Any) -> str:
    dtype = array.dtype
    if not isinstance(dtype, np.dtype):
        return str(getattr(dtype, "name", dtype)).removeprefix("torch.")
    name = NAMES.get(dtype)
    if name is None:
        name = NAMES[dtype] = dtype.name
    return name


LARGEST = sys.float_info.max
FLOATING = ("float64", "float32", "float16", "bfloat16")
INTEGER = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (64, 32, 16, 8, 4, 2))
REDUCED = ("float16", "bfloat16")  # their loss is float32


def is_floating(array: Any) -> bool:
    return dtype_name(array) in FLOATING


def is_integer(array: Any) -> bool:
    return dtype_name(array) in INTEGER


def is_boolean(array: Any) -> bool:
    return dtype_name(array) == "bool"


def is_sparse(target: Any) -> bool:
    """A tuple of two arrays. A tuple of two numbers is a person's way to write two labels."""
    return isinstance(target, tuple) and len(target) == 2 and all(hasattr(part, "__len__") for part in target)


def outside(xp: Any, array: Any) -> Any:
    """True where an entry is negative, NaN or infinite."""
    return ~(xp.isfinite(array) & (array >= 0))


def check_non_negative(xp: Any, name: str, array: Any, position: Callable[[int], str] | None = None) -> None:
    """ValueError with position and value of the first entry that is negative, NaN or infinite."""
    if not (is_floating(array) or is_integer(array) or is_boolean(array)):
        raise TypeError(f"{name} must hold numbers, got dtype {array.dtype}")
    bad = xp.reshape(outside(xp, array), (-1,))
    if known_any(xp, bad):
        first = int(xp.argmax(bad))
        value = float(xp.reshape(array, (-1,))[first])
        where = position(first) if position else unravel(first, tuple(array.shape))
        raise ValueError(f"{name}{where} = {value} must be finite and not negative")


def known_any(xp: Any, mask: Any, *, wait: bool = False) -> bool:
    """Is an entry True, as far as the values can be read? For checks, which a traced array passes.

    ``wait``: for values on a device too.
    """
    return (values_known(mask) or (wait and library_of(mask).values_readable(mask))) and bool(xp.any(mask))


def possible_any(xp: Any, mask: Any) -> bool:
    """May an entry be True? For data that a computation without any could leave out."""
    return not values_known(mask) or bool(xp.any(mask))


def values_known(array: Any) -> bool:
    """False for arrays without values (under a tracer), or whose values its library does not want to wait for."""
    return library_of(array).values_known(array)


def range_of(integers: Any) -> tuple[int, int]:
    """The least and the greatest number of the dtype."""
    name = dtype_name(integers)
    bits = int(name.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def equals(xp: Any, array: Any, number: int) -> Any:
    """array == number; False where the dtype has no such number: JAX would compare with what is left of it in there."""
    if is_integer(array):
        least, greatest = range_of(array)
        if not least <= number <= greatest:
            return xp.zeros_like(array, dtype=bool)
    elif number.bit_length() > 1023:  # more than a double holds
        return xp.zeros_like(array, dtype=bool)
    return array == number


def no_class(indices: Any, classes: int) -> Any:
    """Which integers are no class; where the dtype does not reach the number of classes, only negative ones."""
    return (indices < 0) | (indices >= classes) if classes <= range_of(indices)[1] else indices < 0


def check_indices(
    xp: Any, name: str, indices: Any, layout: Layout, hint_if_negative: str = "", *, wait: bool = False
) -> None:
    """IndexError with position, value and range for the first index, (rows,) or (rows, K), that is no class."""
    bad = no_class(indices, layout.classes)
    if not known_any(xp, bad, wait=wait):
        return
    first = int(xp.argmax(xp.reshape(bad, (-1,))))
    value = int(xp.reshape(indices, (-1,))[first])
    position = layout.position(*divmod(first, indices.shape[-1])) if indices.ndim == 2 else layout.position(first)
    hint = hint_if_negative.format(value=value) if value < 0 else ""
    if value == layout.classes:
        hint = "; are the classes counted from 1?"
    raise IndexError(f"{name}{position} = {value} is outside [0, {layout.classes}){hint}")


def check_unit_interval(xp: Any, name: str, array: Any) -> None:
    """ValueError with position and value of the first entry outside [0, 1]."""
    bad = xp.reshape((array < 0) | (array > 1), (-1,))
    if known_any(xp, bad):
        first = int(xp.argmax(bad))
        value = float(xp.reshape(array, (-1,))[first])
        raise ValueError(f"{name}{unravel(first, tuple(array.shape))} = {value} is outside [0, 1]")


def unravel(first: int, shape: tuple[int, ...]) -> str:
    """The position of flat index ``first`` in an array of this shape, as it is written in Python."""
    index: list[int] = []
    for extent in reversed(shape):
        first, rest = divmod(first, extent)
        index.insert(0, rest)
    return f"[{', '.join(map(str, index))}]" if index else ""


def probability_error(inputs: str, position: str, value: float) -> str:
    what = "outside [0, 1]" if inputs == "probs" else "no log-probability, which is at most 0"
    return f'logits{position} = {value} is {what}, and inputs={inputs!r}; for logits use inputs="logits"'


def check_single_places(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """ValueError for an ``out`` that is broadcast: what is written last would stand in all of its entries."""
    if any(stride == 0 and extent > 1 for stride, extent in zip(strides, shape, strict=True)):
        raise ValueError("out overlaps itself: several of its entries are one number in memory")


def check_apart(out: list[tuple[str, Any]]) -> None:
    """ValueError for two arrays of ``out``, (name, NumPy array), with a number in common."""
    for (name, array), (other_name, other) in itertools.combinations(out, 2):
        if np.shares_memory(array, other):
            raise ValueError(f"out: the arrays for {name} and {other_name} overlap in memory; each needs its own")
