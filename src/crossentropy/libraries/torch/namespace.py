"""The array namespace of PyTorch, as far as the package's plain array code uses one.

The names and argument names are those of the Python array API standard. New arrays lie on the namespace's device.
"""

from __future__ import annotations

import math
from typing import Any

import torch

# Up to this many terms torch.sum uses one thread, and so one order.
SUM_BLOCK = 1 << 15
DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}


def torch_dtype(dtype: Any) -> Any:
    """PyTorch's for Python's bool, int and float, and for NumPy's dtypes of the same name."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    return DTYPES[dtype] if dtype in DTYPES else getattr(torch, getattr(dtype, "name", None) or dtype.__name__)


def ordered_sum(terms: Any) -> Any:
    """The sum in an order that does not depend on the number of threads."""
    if torch.compiler.is_compiling() or not terms.is_cpu:
        return torch.sum(terms)
    while terms.numel() > SUM_BLOCK:
        terms = torch.stack([torch.sum(block) for block in torch.reshape(terms, (-1,)).split(SUM_BLOCK)])
    return torch.sum(terms)


class Namespace:
    """``Namespace(device)`` is what the core calls ``xp``."""

    inf, nan, pi = math.inf, math.nan, math.pi
    int64, float32, float64 = torch.int64, torch.float32, torch.float64

    # The same word and the same meaning in both.
    reshape, moveaxis, where = torch.reshape, torch.moveaxis, torch.where
    exp, exp2, expm1, log, log1p, tanh, abs = (
        torch.exp,
        torch.exp2,
        torch.expm1,
        torch.log,
        torch.log1p,
        torch.tanh,
        torch.abs,
    )
    isfinite, isinf, isnan = torch.isfinite, torch.isinf, torch.isnan

    def __init__(self, device: Any) -> None:
        self.device = device

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        if type(value) in DTYPES:
            # Filled in on the device: a copy from the host's memory would wait, and break the capture of a graph.
            return torch.full((), value, dtype=torch_dtype(dtype), device=self.device)
        return torch.as_tensor(value, dtype=torch_dtype(dtype), device=self.device)

    def ones(self, shape: Any, dtype: Any = None) -> Any:
        return torch.ones(shape, dtype=torch_dtype(dtype), device=self.device)

    def arange(self, stop: int) -> Any:
        return torch.arange(stop, device=self.device)

    def eye(self, count: int, dtype: Any = None) -> Any:
        return torch.eye(count, dtype=torch_dtype(dtype), device=self.device)

    @staticmethod
    def astype(array: Any, dtype: Any) -> Any:
        # In C order: a sum over classes that are not contiguous has other bits.
        return array.to(torch_dtype(dtype)).contiguous()

    @staticmethod
    def zeros_like(array: Any, dtype: Any = None) -> Any:
        if not isinstance(array, torch.Tensor):
            return type(array)(0)
        return torch.zeros_like(array, dtype=torch_dtype(dtype))

    @staticmethod
    def ones_like(array: Any, dtype: Any = None) -> Any:
        return torch.ones_like(array, dtype=torch_dtype(dtype))

    @staticmethod
    def broadcast_to(array: Any, shape: Any) -> Any:
        try:
            return torch.broadcast_to(array, shape)
        except RuntimeError as error:  # the standard's error, which the core turns into one that names the argument
            raise ValueError(str(error)) from None

    @staticmethod
    def sum(array: Any, axis: Any = None) -> Any:
        return ordered_sum(array) if axis is None else torch.sum(array, dim=axis)

    @staticmethod
    def max(array: Any, axis: int) -> Any:
        return torch.amax(array, dim=axis)

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        return torch.maximum(a, b) if isinstance(b, torch.Tensor) else torch.clamp(a, min=b)

    @staticmethod
    def any(array: Any, axis: Any = None) -> Any:
        return torch.any(array) if axis is None else torch.any(array, dim=axis)

    @staticmethod
    def all(array: Any, axis: Any = None) -> Any:
        return torch.all(array) if axis is None else torch.all(array, dim=axis)

    @staticmethod
    def argmax(array: Any, axis: Any = None) -> Any:
        return torch.argmax(array.to(torch.int8) if array.dtype == torch.bool else array, dim=axis)

    @staticmethod
    def take_along_axis(array: Any, indices: Any, axis: int) -> Any:
        return torch.take_along_dim(array, indices, dim=axis)
