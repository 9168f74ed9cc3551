"""What kind of tensor is this: traced, transformed, wrapped, or plain memory that Python may read?"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, _is_functional_tensor, strided
from torch._C import _are_functorch_transforms_active, _len_torch_dispatch_stack
from torch._C._functorch import is_legacy_batchedtensor
from torch.compiler import is_compiling

# Names of their own, since a small loss asks every one of these questions: each dot on the way takes 20 ns.
PLAIN_TYPES = (Tensor, torch.nn.Parameter)
# Under Triton's interpreter, tensors of the CPU stand for those of a device: what is decided, checked and launched is
# the same. ``native.forced`` refuses the name elsewhere.
IS_DEVICE_EMULATED = os.environ.get("CROSSENTROPY_KERNEL") == "triton"


def on_host(tensor: Any) -> bool:
    """Is its memory the CPU's, which Python reads without waiting?"""
    return tensor.is_cpu and not IS_DEVICE_EMULATED


def is_traced(*values: Any) -> bool:
    """Is someone recording operations, does a tensor of these answer for operators itself, or has it no values?"""
    if is_compiling() or _len_torch_dispatch_stack() > 0:
        return True
    for value in values:
        if isinstance(value, Tensor) and (
            value.is_meta
            or is_legacy_batchedtensor(value)
            or _is_functional_tensor(value)
            or (type(value) not in PLAIN_TYPES and has_own_operators(value))
        ):
            return True
    return False


def has_own_operators(tensor: Any) -> bool:
    """A subclass that takes every operator itself (a DTensor, say), and whose memory is not its values."""
    return type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__


def is_sliced(tensor: Any) -> bool:
    """One of the tensors of ``autograd.grad(is_grads_batched=True)``, which calls operators slice by slice."""
    return isinstance(tensor, Tensor) and is_legacy_batchedtensor(tensor)


def is_plain(value: Any) -> bool:
    """Values that Python can read and nobody can differentiate: a number, an array, a tensor in the CPU's memory."""
    return not is_traced(value) and is_memory(value)


def is_memory(value: Any) -> bool:
    """``is_plain``, of what is known not to be traced."""
    if not isinstance(value, Tensor):
        return True
    return (
        on_host(value)
        and value.layout is strided
        # A transform wraps what is made while it is active, plain memory or not.
        and not _are_functorch_transforms_active()
        and not differentiable(value)
    )


def values_known(tensor: Any) -> bool:
    """Can Python read the values now? Not while tracing, not under vmap, and on a device only by waiting for it."""
    return on_host(tensor) and values_readable(tensor)


def values_readable(tensor: Any) -> bool:
    """Can Python read the values at all, if only by waiting for a device?"""
    if is_traced(tensor):
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return False
        tensor = functorch.get_unwrapped(tensor)
    return True


def differentiable(value: Any) -> bool:
    """May someone ask for a derivative to this tensor?"""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    if value.requires_grad and torch.is_grad_enabled():
        return True
    if is_compiling():
        return False
    functorch = torch._C._functorch
    wrapped = value
    while functorch.is_functorch_wrapped_tensor(wrapped):
        if functorch.is_gradtrackingtensor(wrapped):
            return True
        wrapped = functorch.get_unwrapped(wrapped)
    forward_ad = torch.autograd.forward_ad
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(wrapped).tangent is not None


def primal(value: Any) -> Any:
    """Without the tangent of the innermost level of forward mode."""
    forward_ad = torch.autograd.forward_ad
    if not isinstance(value, Tensor) or forward_ad._current_level < 0 or is_sliced(value):
        return value
    return forward_ad.unpack_dual(value).primal
