"""Loss, gradients and Hessian-vector product of a linear classifier, as PyTorch functions with their derivatives.

As in ``primitives`` each exists twice, as an ``autograd.Function`` and as a dispatcher operator. All take ``(features,
weight, bias, upstream, *vectors, *coefficients, num_threads, total, memory_budget, wants_features, wants_weight)``; the
vectors, of the shapes of features, weight and bias, are those of the Hessian-vector product alone. Gradients have the
dtype of the products; those that are not wanted are empty.

d loss      / d (features, weight, bias) = gradients,         d loss      / d upstream = loss at upstream 1
d gradients / d (features, weight, bias) = Hessian-vector,    d gradients / d upstream = gradient . v at upstream 1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from crossentropy.libraries.torch import linear_rows
from crossentropy.libraries.torch.batching import by_loop
from crossentropy.libraries.torch.conversion import WORK
from crossentropy.libraries.torch.derivatives import in_own_memory, is_one, third_derivative, to_shape
from crossentropy.libraries.torch.forms import ROWS, Held
from crossentropy.libraries.torch.primitives import Function
from crossentropy.libraries.torch.tensors import is_sliced, is_traced

INPUTS = ("features", "weight", "bias", "upstream")
VECTORS = ("v_features", "v_weight", "v_bias")
# What follows the coefficients.
SETTINGS = {
    "num_threads": "int?",
    "total": "bool",
    "memory_budget": "int?",
    "wants_features": "bool",
    "wants_weight": "bool",
}


def loss(features: Any, weight: Any, bias: Any, upstream: Any, *rest: Any) -> Any:
    return linear_rows.loss(features, weight, bias, upstream, rest)


FORWARDS = {
    "loss": loss,
    "loss_and_gradients": linear_rows.loss_and_gradients,
    "hessian_vector": linear_rows.hessian_vector,
}


def shapes_of_results(name: str, features: Any, weight: Any, bias: Any, *rest: Any) -> Any:
    *_, total, _, wants_features, wants_weight = rest
    work = linear_rows.product_dtype(features, weight)

    def empty(*shape: Any, dtype: Any = work) -> Any:
        return features.new_empty(shape, dtype=dtype)

    rows = math.prod(features.shape[:-1])
    value = empty() if total else empty(rows)
    if name == "loss":
        return value
    every = name == "hessian_vector"
    return (
        empty(rows, dtype=WORK) if every else value,
        empty(*features.shape) if wants_features or every else empty(0),
        empty(*weight.shape) if wants_weight or every else empty(0),
        empty(0) if bias is None else empty(*bias.shape),
    )


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    formed = output[1:] if isinstance(output, tuple) else ()
    tensors = [value if isinstance(value, torch.Tensor) else None for value in inputs]
    ctx.others = [None if isinstance(value, torch.Tensor) else value for value in inputs]
    # What the coefficients read is saved for its version: a label that was changed meanwhile is an error, as elsewhere.
    sources = [source for value in inputs if isinstance(value, Held) for source in value.sources]
    ctx.save_for_backward(*tensors, *formed, *sources)


def saved(ctx: Any) -> tuple[list[Any], list[Any]]:
    """The arguments of the call, and the gradients that were formed with it."""
    tensors, count = ctx.saved_tensors, len(ctx.others)
    inputs = [other if t is None else t for t, other in zip(tensors[:count], ctx.others, strict=True)]
    return inputs, list(tensors[count : count + 3])


def refuse(which: Any) -> None:
    """The derivative to a coefficient is not silently 0."""
    if any(which):
        raise NotImplementedError(
            "crossentropy: no derivative with respect to what targets and weights are made of, in this combination of "
            "transforms; detach it"
        )


def rows_alone(rest: list[Any], wants: Any = (True, True)) -> list[Any]:
    """The same settings without the sum."""
    *coefficients, num_threads, _, budget, _, _ = rest
    return [*coefficients, num_threads, False, budget, *map(bool, wants)]


def in_dtype_of(inputs: list[Any], gradients: Any, needed: Any) -> list[Any]:
    return [
        gradient.to(given.dtype) if is_needed and gradient is not None else None
        for given, gradient, is_needed in zip(inputs, gradients, needed, strict=True)
    ]


def loss_backward(ctx: Any, a: Any) -> tuple[Any, ...]:
    inputs, _ = saved(ctx)
    (features, weight, bias, upstream), rest, needed = inputs[:4], inputs[4:], ctx.needs_input_grad
    refuse(needed[4:])
    grads: list[Any] = [None] * len(inputs)
    if a is None:
        return tuple(grads)
    if any(needed[:3]):
        settings = rows_alone(rest, needed[:2])
        gradients = CALLS["loss_and_gradients"](features, weight, bias, a.to(WORK) * upstream, *settings)[1:]
        grads[:3] = in_dtype_of(inputs[:3], gradients, needed[:3])
    if needed[3]:
        grads[3] = to_shape(a * CALLS["loss"](features, weight, bias, 1.0, *rows_alone(rest)), upstream)
    return tuple(grads)


def scaled(factor: Any, gradient: Any, like: Any) -> Any:
    """factor x gradient, in the dtype of ``like`` or still to be converted, with no more memory than the result needs.

    The gradient to the weight in float32 takes more than the memory budget of the chunks.
    """
    if gradient.dtype == like.dtype:
        own = in_own_memory(factor, gradient)
        return factor * gradient if own is None else own
    if (
        torch.is_grad_enabled()
        or is_traced(factor)
        or is_traced(gradient)
        or torch._C._are_functorch_transforms_active()
    ):
        return factor * gradient
    if is_one(factor):
        return gradient
    return torch.mul(gradient, factor, out=torch.empty_like(gradient, dtype=like.dtype))


def loss_and_gradients_backward(ctx: Any, a: Any, *vectors: Any) -> tuple[Any, ...]:
    inputs, formed = saved(ctx)
    (features, weight, bias, upstream), rest, needed = inputs[:4], inputs[4:], ctx.needs_input_grad
    refuse(needed[4:])
    grads: list[Any] = [None] * len(inputs)
    total = rest[-4]
    if any(needed[:3]) and a is not None:
        if not total:  # rows have one upstream gradient each
            settings = rows_alone(rest, needed[:2])
            formed = CALLS["loss_and_gradients"](features, weight, bias, a.to(WORK) * upstream, *settings)[1:]
        else:
            formed = [scaled(a, x, x if given is None else given) for x, given in zip(formed, inputs[:3], strict=True)]
        grads[:3] = in_dtype_of(inputs[:3], formed, needed[:3])
    if any(vector is not None for vector in vectors):
        exists = (rest[-2], rest[-1], bias is not None)  # the others are gradients that were not wanted
        v = [vector if there else None for vector, there in zip(vectors, exists, strict=True)]
        dots, *second = CALLS["hessian_vector"](features, weight, bias, upstream, *v, *rest)
        for position, part in enumerate(in_dtype_of(inputs[:3], second, needed[:3])):
            if part is not None:
                grads[position] = part if grads[position] is None else grads[position] + part
        if needed[3]:
            dots = CALLS["hessian_vector"](features, weight, bias, 1.0, *v, *rest)[0]
            grads[3] = to_shape(dots, upstream)
    if needed[3] and a is not None:
        losses = a.to(WORK) * CALLS["loss"](features, weight, bias, 1.0, *rows_alone(rest))
        part = to_shape(losses, upstream)
        grads[3] = part if grads[3] is None else grads[3] + part
    return tuple(grads)


def hessian_vector_backward(ctx: Any, a: Any, *vectors: Any) -> tuple[Any, ...]:
    inputs, _ = saved(ctx)
    (features, weight, bias, upstream), v, rest = inputs[:4], inputs[4:7], inputs[7:]
    needed = ctx.needs_input_grad
    refuse(needed[7:])
    grads: list[Any] = [None] * len(inputs)
    if a is None and all(vector is None for vector in vectors):
        return tuple(grads)
    if any(needed[:4]):
        third_derivative(ctx, range(sum(isinstance(value, torch.Tensor) for value in inputs[:4])))
    if any(needed[4:7]):  # the Hessian is symmetric
        parts = []
        if any(vector is not None for vector in vectors):
            parts.append(CALLS["hessian_vector"](features, weight, bias, upstream, *vectors, *rest)[1:])
        if a is not None:
            settings = rows_alone(rest)
            parts.append(CALLS["loss_and_gradients"](features, weight, bias, a * upstream, *settings)[1:])
        sums = [sum(part[1:], part[0]) for part in zip(*parts, strict=True)]
        grads[4:7] = [s if is_needed else None for s, is_needed in zip(sums, needed[4:7], strict=True)]
        grads[4:7] = [None if g is None else g.to(x.dtype) for g, x in zip(grads[4:7], v, strict=True)]
    return tuple(grads)


BACKWARDS = {
    "loss": loss_backward,
    "loss_and_gradients": loss_and_gradients_backward,
    "hessian_vector": hessian_vector_backward,
}


def vmap_of(name: str) -> Callable[..., Any]:
    """One call after the other: a gradient to the weight is a sum over the rows of each call."""

    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
        is_batched = [dim is not None and isinstance(x, torch.Tensor) for x, dim in zip(inputs, in_dims, strict=True)]
        first = [
            x.movedim(dim, 0) if has_batch else x for x, dim, has_batch in zip(inputs, in_dims, is_batched, strict=True)
        ]
        return by_loop(CALLS[name], info.batch_size, is_batched, first)

    return vmap


def register_function(name: str) -> Any:
    members: dict[str, Any] = {
        "forward": FORWARDS[name],
        "setup_context": setup_context,
        "backward": BACKWARDS[name],
        "vmap": vmap_of(name),
    }
    function: Any = type(f"linear_{name}", (Function,), {key: staticmethod(member) for key, member in members.items()})
    return function.apply


def register_operator(name: str) -> Any:
    qualified = f"crossentropy::linear_{name}"
    arguments = ["Tensor features", "Tensor weight", "Tensor? bias", "Tensor upstream"]
    arguments += [f"Tensor? {name}" for name in VECTORS] if name == "hessian_vector" else []
    arguments += [f"Tensor? {name}" for name in ROWS.tensors]
    arguments += [f"{kind} {name}" for name, kind in (ROWS.numbers | SETTINGS).items()]
    result = "Tensor" if name == "loss" else "(Tensor, Tensor, Tensor, Tensor)"
    torch.library.define(qualified, f"({', '.join(arguments)}) -> {result}")
    torch.library.impl(qualified, "default", FORWARDS[name])
    torch.library.register_fake(qualified, lambda *inputs: shapes_of_results(name, *inputs))
    torch.library.register_autograd(qualified, BACKWARDS[name], setup_context=setup_context)
    torch.library.register_vmap(qualified, vmap_of(name))
    return getattr(torch.ops.crossentropy, f"linear_{name}").default


def chosen(name: str) -> Callable[..., Any]:
    function, operator = register_function(name), register_operator(name)
    vectors = 3 if name == "hessian_vector" else 0

    def call(features: Any, weight: Any, bias: Any, upstream: Any, *rest: Any) -> Any:
        tensors = (features, weight, upstream, *rest[:vectors])
        traced = is_traced(features) or is_traced(weight) or any(map(is_sliced, tensors))
        if not (traced or torch._C._are_functorch_transforms_active()):
            return function(features, weight, bias, upstream, *rest)
        if not isinstance(upstream, torch.Tensor):
            upstream = torch.full((), upstream, dtype=WORK, device=features.device)
        flat, settings = rest[vectors : -len(SETTINGS)], rest[-len(SETTINGS) :]
        arguments = (features, weight, bias, upstream, *rest[:vectors], *ROWS.spread(flat), *settings)
        return operator(*arguments) if traced else function(*arguments)

    return call


CALLS: dict[str, Callable[..., Any]] = {}
CALLS |= {name: chosen(name) for name in FORWARDS}
