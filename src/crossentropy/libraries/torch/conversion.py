"""Arguments as tensors of one device, with errors that name the argument."""

from __future__ import annotations

from typing import Any

import torch

from crossentropy import arguments
from crossentropy.arrays import FLOATING, REDUCED, Layout, check_single_places, is_integer, is_sparse
from crossentropy.libraries.torch.tensors import differentiable, values_known
from crossentropy.options import LossOptions

WORK = torch.float64
# Not NumPy's, of which some are Python's too and keep their dtype.
PYTHON_NUMBERS = (bool, int, float)
# Their dtypes are compared, not names, which PyTorch builds anew at every question.
FLOATS = tuple(getattr(torch, name) for name in FLOATING)
OF_16_BITS = tuple(getattr(torch, name) for name in REDUCED)
KEPT = (*FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
CONVERTED = frozenset((*arguments.ARRAYS, "temperature"))


def as_array(name: str, value: Any, device: Any = None) -> Any:
    """A strided tensor of real numbers on the device, or an error that names the argument."""
    if not isinstance(value, torch.Tensor):
        try:
            if type(value) in PYTHON_NUMBERS:
                # Filled in on the device: a copy from the host's memory would wait for it.
                return torch.full((), value, device=device)
            return torch.as_tensor(value, device=device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} is not an array of numbers: {error}") from None
    if value.layout is torch.strided and value.dtype in KEPT and (device is None or value.device == device):
        return value
    if value.layout != torch.strided or value.is_quantized:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}; use .to_dense() or .dequantize()")
    if value.is_complex():
        raise TypeError(f"{name} must hold real numbers of at most 64 bits, got dtype {value.dtype}")
    if device is not None and value.device != device:
        if value.ndim:
            raise ValueError(f"{name} is on {value.device} and logits on {device}; move it with .to({str(device)!r})")
        value = value.to(device)
    # torch has next to no arithmetic for the wide unsigned integers.
    return value if value.dtype in KEPT or not is_integer(value) else value.to(torch.int64)


def as_floating(name: str, value: Any, device: Any = None) -> Any:
    """A floating tensor; integers, as a person writes them in a list, become float64."""
    array = as_array(name, value, device)
    if array.dtype in FLOATS:
        return array
    if not is_integer(array):
        raise TypeError(f"{name} must be floating ({', '.join(FLOATING)}), got dtype {array.dtype}")
    return array.to(WORK)


def as_target(target: Any, layout: Layout, device: Any) -> Any:
    if not is_sparse(target):
        target = as_array("target", target, device)
        return target if tuple(target.shape) == layout.shape else widened(target)
    return widened(as_array("target indices", target[0], device)), as_array("target values", target[1], device)


def widened(integers: Any) -> Any:
    """int64: torch would compare an 8-bit label with the number of classes in 8 bits."""
    return integers.to(torch.int64) if is_integer(integers) else integers


def as_options(options: Any, device: Any) -> Any:
    """The same options with tensors on the device for whatever the caller gave as an array."""
    options = arguments.options(lambda name, value: as_array(name, value, device), options)
    if isinstance(vars(options).get("temperature"), torch.Tensor):
        return options.replace(temperature=as_temperature(options.temperature, device))
    return options


def as_temperature(value: Any, device: Any) -> Any:
    """A number where nobody wants a derivative to it."""
    if values_known(value):
        number = LossOptions(temperature=value.detach().item()).temperature
        if not differentiable(value):
            return number
    return torch.reshape(as_floating("temperature", value, device), ()).to(WORK)


def result_dtype(array: Any) -> torch.dtype:
    """The loss of 16-bit logits is float32."""
    return torch.float32 if array.dtype in OF_16_BITS else array.dtype


def check_out(out: Any, like: Any, name: str) -> None:
    """Can ``out`` take the gradient to ``like``, which the caller knows by this name?"""
    if out is None:
        return
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out must be a tensor, got {type(out).__name__}")
    if out.shape != like.shape or out.dtype != like.dtype or out.device != like.device:
        raise ValueError(
            f"out must have shape, dtype and device of {name}, {tuple(like.shape)} {like.dtype} {like.device}, "
            f"got {tuple(out.shape)} {out.dtype} {out.device}"
        )
    check_single_places(tuple(out.shape), out.stride())
    if torch.is_grad_enabled() and (out.requires_grad or like.requires_grad):
        raise ValueError("out does not support automatic differentiation; use torch.no_grad(), or leave it out")
