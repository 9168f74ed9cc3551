"""The derivatives of the three functions of ``primitives``, written with the three themselves.

d loss     / d x = gradient,           d loss     / d upstream = loss at upstream 1
d gradient / d x = Hessian-vector,     d gradient / d upstream = gradient at upstream 1
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import is_grad_enabled
from torch._C import _are_functorch_transforms_active, _storage_Use_Count
from torch._C._autograd import _get_current_graph_task_keep_graph
from torch.autograd import forward_ad

from crossentropy.libraries.torch.batching import vmap
from crossentropy.libraries.torch.compute import scaled_in_place
from crossentropy.libraries.torch.conversion import WORK, result_dtype
from crossentropy.libraries.torch.forms import SETTINGS, Form, Held
from crossentropy.libraries.torch.tensors import is_traced, on_host, primal

THIRD = "crossentropy: third derivatives of the loss are not provided (value, gradient and Hessian-vector product are)"
# Who has the memory of an output that a backward pass unpacked, if nobody else: what was saved, what it was unpacked
# as, and the storage that is asked.
USES_OF_UNPACKED = 3


@dataclasses.dataclass
class Calls:
    """The three functions of one form: what a derivative may call.

    ``of_held`` has the first two and ``value`` once more, for a caller that knows that nothing traces or transforms.
    """

    form: Form
    loss: Any = None
    loss_and_gradient: Any = None
    hessian_vector: Any = None
    of_held: dict[str, Any] = dataclasses.field(default_factory=dict)

    def value(self, *arguments: Any) -> Any:
        """The loss alone, with the gradient for its backward pass formed in the same read."""
        return self.loss_and_gradient(*arguments)[0]


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    # The gradient that was formed with the loss is saved, so that a backward pass with upstream gradient 1 is free.
    formed = output[1] if isinstance(output, tuple) else None
    tensors: list[Any] = [None] * len(inputs)
    ctx.others = list(inputs)
    for position, value in enumerate(inputs):
        if isinstance(value, torch.Tensor):
            tensors[position], ctx.others[position] = value, None
    # What the coefficients read is saved for its version: a label that was changed meanwhile is an error, as elsewhere.
    sources = inputs[3].sources if isinstance(inputs[3], Held) else ()
    ctx.save_for_backward(*tensors, formed, *sources)
    if torch.autograd.forward_ad._current_level >= 0 and hasattr(ctx, "save_for_forward"):
        ctx.save_for_forward(*tensors, formed, *sources)


def saved_inputs(ctx: Any) -> tuple[list[Any], Any]:
    """The arguments of the call, and the gradient that was formed with it."""
    saved, count = ctx.saved_tensors, len(ctx.others)
    pairs = zip(saved[:count], ctx.others, strict=True)
    return [other if tensor is None else tensor for tensor, other in pairs], saved[count]


def refuse(form: Form, which: Any) -> None:
    """The derivative to a coefficient is not silently 0."""
    if any(which):
        names = [*form.tensors, *form.numbers, *SETTINGS]
        wanted = [name for name, is_wanted in zip(names, which, strict=True) if is_wanted]
        raise NotImplementedError(
            f"crossentropy: no derivative with respect to {', '.join(wanted)} in this combination of transforms; "
            "detach what the targets and weights are made of"
        )


def third_derivative(ctx: Any, inputs: range) -> None:
    """NotImplementedError where the pass that is running goes on to one of these tensors.

    PyTorch says that a gradient is needed wherever a tensor requires one. ``torch.autograd.functional.hvp`` asks for
    another one alone: that to the vector.
    """
    if any(is_reached(ctx.next_functions[position][0]) for position in inputs):
        raise NotImplementedError(THIRD)


def is_reached(node: Any) -> bool:
    """Does the pass that is running go on to this node of the graph?"""
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except RuntimeError:  # does not answer for a leaf that torch.autograd.grad was asked for
        return True


def to_shape(rows: Any, upstream: Any) -> Any:
    """The gradient (rows,) to ``upstream``."""
    rows = rows.to(WORK)
    return rows if upstream.ndim else rows.sum()


def product(a: Any, upstream: Any) -> Any:
    """a x upstream; a itself, which may be as large as the logits, where it is 1."""
    return a if isinstance(upstream, float) and upstream == 1.0 else a.to(WORK) * upstream


def is_one(factor: Any) -> bool:
    """Is the upstream gradient, which nobody traces, 1, as far as that can be read without waiting?"""
    return factor.ndim == 0 and on_host(factor) and factor.item() == 1.0


def in_own_memory(factor: Any, gradient: Any, *, is_output: bool = True) -> Any:
    """factor x gradient without a copy, of a gradient that was formed with its loss; None where there has to be one:

    somebody may use what was saved once more, or has the same memory (the result of ``value_and_grad``), or the factor
    has a derivative, or is neither known to be 1 nor applied by a kernel.
    """
    # Where a graph is made or kept, what was saved is used again; and the caller may add to his gradient.
    if is_grad_enabled() or _get_current_graph_task_keep_graph() or forward_ad._current_level >= 0:
        return None
    if _are_functorch_transforms_active() or is_traced(factor, gradient):
        return None
    if is_output and _storage_Use_Count(gradient.untyped_storage()._cdata) != USES_OF_UNPACKED:
        return None
    gradient = gradient.detach()  # without the graph that it was unpacked with
    return gradient if is_one(factor) or scaled_in_place(gradient, factor) else None


def derivatives(calls: Calls) -> dict[str, dict[str, Callable[..., Any]]]:
    form = calls.form

    def loss_gradients(inputs: Any, _: Any, wants: Any, a: Any) -> tuple[Any, Any]:
        """To x and upstream, where ``wants`` says so, for an upstream gradient a."""
        x, upstream, _, *rest = inputs
        to_x = to_upstream = None
        if a is not None and wants[0]:
            to_x = calls.loss_and_gradient(x, product(a, upstream), None, *rest[:-1], a.ndim > 0)[1]
        if a is not None and wants[1]:
            to_upstream = to_shape(a * calls.loss(x, 1.0, None, *rest[:-1], False), upstream)
        return to_x, to_upstream

    def loss_and_gradient_gradients(inputs: Any, gradient: Any, wants: Any, a: Any, v: Any) -> tuple[Any, Any]:
        x, upstream, _, *rest = inputs
        to_x = to_upstream = None
        if wants[0]:
            if a is not None:
                own = in_own_memory(a, gradient)
                to_x = form.scaled(a, gradient, rest[-3]) if own is None else own
            if v is not None:
                second = calls.hessian_vector(x, upstream, v, *rest)
                to_x = second if to_x is None else to_x + second
        if wants[1] and not (a is None and v is None):
            losses, slopes = calls.loss_and_gradient(x, 1.0, None, *rest[:-1], False)
            parts = [] if a is None else [a.to(WORK) * losses]
            parts += [] if v is None else [form.dot(v, slopes, rest[-3])]
            to_upstream = to_shape(sum(parts[1:], parts[0]), upstream)
        return to_x, to_upstream

    def backward_of(gradients: Callable[..., tuple[Any, Any]]) -> Callable[..., Any]:
        def backward(ctx: Any, *outer: Any) -> tuple[Any, ...]:
            refuse(form, ctx.needs_input_grad[3:])
            found = gradients(*saved_inputs(ctx), ctx.needs_input_grad, *outer)
            return (*found, *[None] * (len(ctx.others) - 2))

        return backward

    def backward_of_held(gradients: Callable[..., tuple[Any, Any]]) -> Callable[..., Any]:
        """The same where x alone has a derivative, and the rest came as one argument."""

        def backward(ctx: Any, *outer: Any) -> tuple[Any, Any]:
            x, formed, *_ = ctx.saved_tensors
            return gradients((x, *ctx.rest), formed, (True, False), *outer)[0], None

        return backward

    def backward_of_value(ctx: Any, a: Any) -> tuple[Any, Any]:
        """With the gradient that is kept beside the loss: nobody else has it, and no graph leads to it."""
        (x, *_), gradient = ctx.saved_tensors, ctx.formed
        if not _get_current_graph_task_keep_graph():
            ctx.formed = None  # freed with what was saved: the loss may live on
        if a is None:
            return None, None
        own = in_own_memory(a, gradient, is_output=False)
        if own is None and is_grad_enabled():
            own = loss_gradients((x, *ctx.rest), None, (True, False), a)[0]
        return form.scaled(a, gradient, ctx.rest[-3]) if own is None else own, None

    def hessian_vector_backward(ctx: Any, v: Any) -> tuple[Any, ...]:
        (x, upstream, vector, *rest), _ = saved_inputs(ctx)
        refuse(form, ctx.needs_input_grad[3:])
        grads: list[Any] = [None] * len(ctx.others)
        if v is None:
            return tuple(grads)
        if ctx.needs_input_grad[0]:
            third_derivative(ctx, range(1))
        if ctx.needs_input_grad[1]:
            grads[1] = to_shape(form.dot(v, calls.hessian_vector(x, 1.0, vector, *rest), rest[-3]), upstream)
        if ctx.needs_input_grad[2]:
            grads[2] = calls.hessian_vector(x, upstream, v, *rest)  # the Hessian is symmetric
        return tuple(grads)

    def loss_tangent(ctx: Any, x_t: Any, upstream_t: Any) -> Any:
        (x, upstream, _, *rest) = map(primal, saved_inputs(ctx)[0])
        parts = []
        if x_t is not None:
            slopes = calls.loss_and_gradient(x, upstream, None, *rest[:-1], False)[1]
            parts.append(form.dot(x_t, slopes, rest[-3]))
        if upstream_t is not None:
            parts.append(upstream_t * calls.loss(x, 1.0, None, *rest[:-1], False))
        if not parts:
            return None
        rows = sum(parts[1:], parts[0])
        return (rows.sum() if rest[-1] else rows).to(result_dtype(x))

    def loss_jvp(ctx: Any, x_t: Any, upstream_t: Any, _: Any, *rest_t: Any) -> Any:
        refuse(form, [t is not None for t in rest_t])
        return loss_tangent(ctx, x_t, upstream_t)

    def loss_and_gradient_jvp(ctx: Any, x_t: Any, upstream_t: Any, _: Any, *rest_t: Any) -> Any:
        refuse(form, [t is not None for t in rest_t])
        (x, upstream, _, *rest) = map(primal, saved_inputs(ctx)[0])
        parts = []
        if x_t is not None:
            parts.append(calls.hessian_vector(x, upstream, x_t, *rest))
        if upstream_t is not None:
            slopes = calls.loss_and_gradient(x, 1.0, None, *rest[:-1], False)[1]
            parts.append(form.scaled(upstream_t, slopes, rest[-3]))
        return loss_tangent(ctx, x_t, upstream_t), sum(parts[1:], parts[0]) if parts else None

    def hessian_vector_jvp(ctx: Any, x_t: Any, upstream_t: Any, vector_t: Any, *rest_t: Any) -> Any:
        refuse(form, [t is not None for t in rest_t])
        (x, upstream, vector, *rest) = map(primal, saved_inputs(ctx)[0])
        if x_t is not None:
            raise NotImplementedError(THIRD)
        parts = []
        if vector_t is not None:
            parts.append(calls.hessian_vector(x, upstream, vector_t, *rest))
        if upstream_t is not None:
            parts.append(form.scaled(upstream_t, calls.hessian_vector(x, 1.0, vector, *rest), rest[-3]))
        return sum(parts[1:], parts[0]) if parts else None

    def with_outer_tangents(rule: Callable[..., Any]) -> Callable[..., Any]:
        def jvp(ctx: Any, *tangents: Any) -> Any:
            # torch turns forward mode off in here, which makes forward over forward silently 0. On again, with this
            # level's tangents taken off, the rule is seen by the levels around it.
            with torch.autograd.forward_ad._set_fwd_grad_enabled(True):
                return rule(ctx, *map(primal, tangents))

        return jvp

    def vmap_of(name: str) -> Callable[..., Any]:
        return lambda info, in_dims, *inputs: vmap(calls, name, info.batch_size, in_dims, inputs)

    return {
        "loss": {
            "backward": backward_of(loss_gradients),
            "backward_of_held": backward_of_held(loss_gradients),
            "jvp": with_outer_tangents(loss_jvp),
            "vmap": vmap_of("loss"),
        },
        "loss_and_gradient": {
            "backward": backward_of(loss_and_gradient_gradients),
            "backward_of_held": backward_of_held(loss_and_gradient_gradients),
            "jvp": with_outer_tangents(loss_and_gradient_jvp),
            "vmap": vmap_of("loss_and_gradient"),
        },
        "value": {"backward_of_held": backward_of_value},
        "hessian_vector": {
            "backward": hessian_vector_backward,
            "jvp": with_outer_tangents(hessian_vector_jvp),
            "vmap": vmap_of("hessian_vector"),
        },
    }
