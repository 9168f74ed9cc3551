"""softmax, log_softmax, sigmoid and log_sigmoid as PyTorch functions with derivatives of any order.

As in ``primitives``, each is an ``autograd.Function`` and, for whoever traces, a dispatcher operator. The derivative is
written with the function's own result, and so can be differentiated again. (Autograd through the plain array code would
make NaN of a logit of -inf: 0 times the derivative of the branch that was not taken.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from crossentropy.kernels import generic
from crossentropy.libraries.torch.compute import blocks
from crossentropy.libraries.torch.conversion import WORK
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.libraries.torch.tensors import is_traced, primal

ROW_KERNELS = {"softmax": generic.softmax, "log_softmax": generic.log_softmax}
ELEMENT_KERNELS = {"sigmoid": generic.sigmoid, "log_sigmoid": generic.log_sigmoid}


def forward(x: Any, name: str) -> Any:
    """float64, shape of x; rows lie along the last axis."""
    xp = Namespace(x.device)
    if name in ELEMENT_KERNELS:
        return ELEMENT_KERNELS[name](xp, x.to(WORK))
    result = torch.empty(x.shape, dtype=WORK, device=x.device)
    x_rows, result_rows = x.reshape(-1, x.shape[-1]), result.view(-1, x.shape[-1])
    for block in blocks(x_rows):
        result_rows[block] = ROW_KERNELS[name](xp, x_rows[block].to(WORK))
    return result


def vector_jacobian(name: str, x: Any, y: Any, c: Any) -> Any:
    if name == "softmax":
        return y * (c - (y * c).sum(-1, keepdim=True))
    if name == "log_softmax":
        return c - torch.exp(y) * c.sum(-1, keepdim=True)
    other = mapped(-x, "sigmoid")  # 1 - sigmoid(x), which would cancel
    return c * y * other if name == "sigmoid" else c * other


def jacobian_vector(name: str, x: Any, y: Any, v: Any) -> Any:
    if name == "log_softmax":
        return v - (torch.exp(y) * v).sum(-1, keepdim=True)
    return vector_jacobian(name, x, y, v)  # symmetric


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, ctx.name = inputs
    ctx.save_for_backward(x, output)
    if hasattr(ctx, "save_for_forward"):
        ctx.save_for_forward(x, output)


def backward(ctx: Any, c: Any) -> tuple[Any, None]:
    x, y = ctx.saved_tensors
    return vector_jacobian(ctx.name, x, y, c).to(x.dtype), None


class Mapped(torch.autograd.Function):
    """One of the four functions, by name."""

    forward = staticmethod(forward)
    setup_context = staticmethod(setup_context)
    backward = staticmethod(backward)

    @staticmethod
    def jvp(ctx: Any, v: Any, _: None) -> Any:
        with torch.autograd.forward_ad._set_fwd_grad_enabled(True):  # as in primitives
            x = primal(ctx.saved_tensors[0])
            return jacobian_vector(ctx.name, x, mapped(x, ctx.name), primal(v).to(WORK))

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any, name: str) -> tuple[Any, int]:
        return Mapped.apply(x.movedim(in_dims[0], 0), name), 0


OPERATOR = "crossentropy::mapped"
torch.library.define(OPERATOR, "(Tensor x, str name) -> Tensor")
torch.library.impl(OPERATOR, "default", forward)
torch.library.register_fake(OPERATOR, lambda x, name: torch.empty(x.shape, dtype=WORK, device=x.device))
torch.library.register_autograd(OPERATOR, backward, setup_context=setup_context)
torch.library.register_vmap(OPERATOR, lambda info, in_dims, x, name: (mapped(x.movedim(in_dims[0], 0), name), 0))


def mapped(x: Any, name: str) -> Any:
    return torch.ops.crossentropy.mapped(x, name) if is_traced(x) else Mapped.apply(x, name)


def apply(function: Callable[..., Any], arrays: list[Any]) -> Any:
    """``function(xp, *arrays)`` of the kernels in float64, with its derivatives."""
    for name, kernel in {**ROW_KERNELS, **ELEMENT_KERNELS}.items():
        if function is kernel:
            return mapped(arrays[0], name)
    return function(Namespace(arrays[0].device), *(array.to(WORK) for array in arrays))
