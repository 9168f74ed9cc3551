"""The two canonical forms, rows (softmax) and elements (sigmoid), as lists of arguments: tensors and numbers.

A PyTorch function sees tensors that are arguments, and no others. The coefficients of a form are therefore passed one
by one; or, where no transform needs to see them, as one object (``Held``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, is_grad_enabled

from crossentropy.binary_coefficients import explicit_elements
from crossentropy.binary_loss import BinaryCoefficients
from crossentropy.kernels import native
from crossentropy.row_coefficients import explicit
from crossentropy.row_loss import RowCoefficients

# What follows the coefficients: the class axis (None for elements), threads (None: torch's number), whether to sum.
SETTINGS = {"axis": "int?", "num_threads": "int?", "total": "bool"}


def view(tensor: Any) -> Any:
    """The tensor's memory as a NumPy array; what is no tensor stays as it is."""
    if not isinstance(tensor, Tensor):
        return tensor
    if tensor.requires_grad and is_grad_enabled():  # elsewhere NumPy is given the memory all the same
        tensor = tensor.detach()
    try:
        return tensor.numpy() if tensor.dtype is not torch.bfloat16 else bfloat16_view(tensor)
    except RuntimeError:  # which is seldom: to ask each tensor beforehand takes longer than a small loss has
        tensor = as_memory(tensor)
        return tensor.numpy() if tensor.dtype is not torch.bfloat16 else bfloat16_view(tensor)


def bfloat16_view(tensor: Any) -> Any:
    return tensor.view(torch.int16).numpy().view(native.BFLOAT16)


def as_memory(tensor: Any) -> Any:
    """A tensor whose memory is its values."""
    if tensor.is_neg():  # a view that is to be read with the other sign
        tensor = tensor.resolve_neg()
    if tensor._is_zerotensor():  # forward mode's tangent of what has none
        tensor = torch.zeros(tensor.shape, dtype=tensor.dtype)
    return tensor


def as_tensor(array: Any) -> Any:
    """The NumPy array's memory as a tensor; numbers and None stay as they are."""
    return torch.as_tensor(array) if hasattr(array, "shape") else array


@dataclasses.dataclass(eq=False)
class Held:
    """Coefficients as NumPy arrays, and the tensors whose memory they read."""

    coefficients: Any
    sources: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Form:
    """One of the two canonical forms."""

    name: str
    coefficients: type
    tensors: dict[str, int | None]  # name -> its dimensions when there is one entry per row, None if never per row
    numbers: dict[str, str]  # name -> type in an operator's schema
    defaults: dict[str, Any]  # what None in place of a tensor stands for, other than None
    cut: Callable[..., Any]  # (coefficients, block of rows) -> theirs

    def flat(self, c: Any) -> list[Any]:
        """The coefficients as arguments."""
        values = [getattr(c, name) for name in self.tensors]
        tensors = [value if isinstance(value, torch.Tensor) else None for value in values]
        return [*tensors, *(getattr(c, name) for name in self.numbers)]

    def whole(self, flat: Any, convert: Callable[[Any], Any]) -> Any:
        """The coefficients from the arguments, with ``convert`` of each array."""
        names = (*self.tensors, *self.numbers)
        given = {k: v for k, v in zip(names, flat, strict=True) if v is not None or k not in self.defaults}
        values = self.defaults | given
        return self.coefficients(**{k: convert(v) if k in self.tensors else v for k, v in values.items()})

    def as_arrays(self, flat: Any) -> Any:
        """The coefficients with NumPy arrays, which read the same memory."""
        return flat[0].coefficients if isinstance(flat[0], Held) else self.whole(flat, view)

    def as_tensors(self, flat: Any) -> Any:
        """The coefficients with tensors, which read the same memory."""
        if not isinstance(flat[0], Held):
            return self.whole(flat, lambda value: value)
        c = flat[0].coefficients
        c = explicit(np, c, np.float64) if self is ROWS else explicit_elements(c)
        arrays = {name: getattr(c, name) for name in self.tensors}
        if self is ELEMENTS:
            # (elements,), written out where it was broadcast.
            arrays = {k: a if a is None else np.require(a.reshape(-1), requirements="W") for k, a in arrays.items()}
        return dataclasses.replace(c, **{name: as_tensor(array) for name, array in arrays.items()})

    def spread(self, flat: Any) -> list[Any]:
        """The arguments one by one, whichever way they came."""
        return self.flat(self.as_tensors(flat)) if isinstance(flat[0], Held) else list(flat)

    # x has the shape that the caller gave it; its rows are counted in C order of the other axes than ``axis``, the
    # class axis. Elements have none: axis is None.

    def as_rows(self, x: Any, axis: int | None) -> Any:
        """(rows, classes) or (elements,); a view where the strides allow one."""
        if axis is None:
            return x.reshape(-1)
        return x.movedim(axis, -1).reshape(-1, x.shape[axis])

    def from_rows(self, rows: Any, x: Any, axis: int | None) -> Any:
        """The inverse of ``as_rows``, for an array of the shape of x."""
        if axis is None:
            return rows.reshape(x.shape)
        return rows.reshape(*x.shape[:axis], *x.shape[axis + 1 :], x.shape[axis]).movedim(-1, axis)

    def count(self, x: Any, axis: int | None) -> Any:
        return x.numel() if axis is None else x.numel() // x.shape[axis]

    def beside(self, rows: Any, x: Any, axis: int | None) -> Any:
        """Numbers (rows,) or () in a shape that multiplies x."""
        if getattr(rows, "ndim", 0) == 0:
            return rows
        if axis is None:
            return rows.reshape(x.shape)
        return rows.reshape(*x.shape[:axis], 1, *x.shape[axis + 1 :])

    def dot(self, a: Any, b: Any, axis: int | None) -> Any:
        """(rows,): sum of a_ij b_ij over the classes."""
        product = a.to(torch.float64) * b.to(torch.float64)
        return product.reshape(-1) if axis is None else product.sum(axis).reshape(-1)

    def scaled(self, factor: Any, x: Any, axis: int | None) -> Any:
        """A copy of x whose rows are multiplied by factor, (rows,) or ()."""
        return (self.beside(factor, x, axis) * x).to(x.dtype)


ROWS = Form(
    name="row",
    coefficients=RowCoefficients,
    tensors={
        "indices": 2,
        "index_weight": 2,
        "dense": 2,
        "class_weight": None,
        "class_mask": 2,
        "class_bias": None,
        "target_sum": 1,
        "valid": 1,
    },
    numbers={
        "inputs": "str",
        "temperature": "float",
        "softcap": "float?",
        "label_smoothing": "float",
        "focal_gamma": "float",
        "z_loss": "float",
        "dense_scale": "float",
    },
    defaults={"target_sum": 1.0},
    cut=RowCoefficients.rows,
)

ELEMENTS = Form(
    name="element",
    coefficients=BinaryCoefficients,
    tensors={"target": 1, "pos_weight": 1, "weight": 1, "valid": 1},
    numbers={"inputs": "str", "label_smoothing": "float", "focal_gamma": "float"},
    defaults={},
    cut=BinaryCoefficients.elements,
)
