"""What a caller may give, as arrays of one library; ``as_array`` is that library's own conversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crossentropy.arrays import FLOATING, Layout, check_unit_interval, is_floating, is_integer, is_sparse, namespace_of

AsArray = Callable[[str, Any], Any]
# The options that may be arrays.
ARRAYS = ("class_weight", "row_weight", "class_mask", "class_bias", "pos_weight", "normalizer")


def floating(as_array: AsArray, name: str, value: Any, default: Any) -> Any:
    """A floating array; integers, as a person writes them in a list, get the ``default`` dtype."""
    array = as_array(name, value)
    if is_integer(array) or (array.size == 0 and not is_floating(array)):
        array = array.astype(default)
    if not is_floating(array):
        raise TypeError(f"{name} must be floating ({', '.join(FLOATING)}), got dtype {array.dtype}")
    return array


def target(as_array: AsArray, value: Any) -> Any:
    if is_sparse(value):
        return as_array("target indices", value[0]), as_array("target values", value[1])
    return as_array("target", value)


def options(as_array: AsArray, given: Any) -> Any:
    """The same options with arrays for whatever the caller gave as one."""
    values = vars(given)
    if not values:
        return given
    arrays = {name: as_array(name, values[name]) for name in ARRAYS if not isinstance(values.get(name), str | None)}
    return given.replace(**arrays) if arrays else given


def rows(
    as_floating: AsArray, axis: int, named: dict[str, Any], *, probabilities: bool
) -> tuple[dict[str, Any], Layout]:
    """The arguments of a function of rows, by name: arrays of one shape, and its layout."""
    arrays = {name: as_floating(name, value) for name, value in named.items()}
    (first, *others) = arrays
    layout = Layout.of(tuple(arrays[first].shape), axis, first)
    for name in others:
        if tuple(arrays[name].shape) != layout.shape:
            raise ValueError(
                f"{first} and {name} must have one shape, got {layout.shape} and {tuple(arrays[name].shape)}"
            )
    if probabilities:
        for name, array in arrays.items():
            check_unit_interval(namespace_of(array), name, array)
    return arrays, layout
