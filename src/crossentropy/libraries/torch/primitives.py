"""Loss, gradient and Hessian-vector product of rows (softmax) or elements (sigmoid), as PyTorch functions.

Each of the three exists twice, with the same formulas for its derivatives:

* as an ``autograd.Function``: backward, double backward, forward mode and every ``torch.func`` transform;
* as a dispatcher operator: what ``torch.compile``, ``torch.export`` and tracing see. (An operator alone would make
  ``torch.func.jvp`` silently 0; a Function alone would be traced through.)

All take ``(x, upstream, vector, *coefficients, axis, num_threads, total)``: x as the caller gave it; the factor of each
row's loss, (rows,) or (); the vector of the product, else None; the coefficients (``forms``); the class axis, None for
elements; the threads to use, None for as many as torch does; whether to sum. They are differentiable in x, upstream and
vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import is_grad_enabled

from crossentropy.libraries.torch import compute, memory
from crossentropy.libraries.torch.conversion import WORK, result_dtype
from crossentropy.libraries.torch.derivatives import Calls, derivatives, setup_context
from crossentropy.libraries.torch.forms import ELEMENTS, ROWS, SETTINGS, Form, Held
from crossentropy.libraries.torch.tensors import is_traced

# The hooks that whatever is saved goes through, if any.
top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)

NAMES = ("loss", "loss_and_gradient", "hessian_vector")
RULES = ("backward", "jvp", "vmap")


def implementations(form: Form) -> dict[str, Callable[..., Any]]:
    def loss(x: Any, upstream: Any, vector: Any, *rest: Any) -> Any:
        return compute.loss(form, x, upstream, rest)

    def loss_and_gradient(x: Any, upstream: Any, vector: Any, *rest: Any) -> tuple[Any, Any]:
        gradient = memory.empty_like(x)
        return compute.loss(form, x, upstream, rest, gradient), gradient

    def hessian_vector(x: Any, upstream: Any, vector: Any, *rest: Any) -> Any:
        return compute.hessian_vector(form, x, upstream, vector, rest)

    return {"loss": loss, "loss_and_gradient": loss_and_gradient, "hessian_vector": hessian_vector}


def shapes_of_results(form: Form, x: Any, *rest: Any) -> dict[str, Any]:
    *_, axis, _, total = rest
    value = torch.empty(() if total else (form.count(x, axis),), dtype=result_dtype(x), device=x.device)
    like = torch.empty_like(x)
    return {"loss": value, "loss_and_gradient": (value, like), "hessian_vector": like}


class Function(torch.autograd.Function):
    """Arguments by position alone."""

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        # torch's own apply first binds the arguments to the signature, which takes longer than a small loss.
        above: Any = super(torch.autograd.Function, cls) if not torch._C._are_functorch_transforms_active() else super()
        return above.apply(*arguments)


def register_function(form: Form, name: str, forward: Any, rules: dict[str, Any]) -> Any:
    members = {"forward": forward, "setup_context": setup_context, **{key: rules[key] for key in RULES}}
    return function_of(f"{form.name}_{name}", members).apply


def register_held_function(form: Form, name: str, forward: Any, rules: dict[str, Any]) -> Callable[..., Any]:
    """The same for ``Held`` coefficients and a number as upstream factor, outside of every transform.

    Two arguments, x and all others: each further one, and a context that is set up after the call, takes time that a
    small loss has not.
    """

    def held_forward(ctx: Any, x: Any, rest: Any) -> Any:
        output = forward(x, *rest)
        ctx.set_materialize_grads(False)
        ctx.rest = rest
        ctx.save_for_backward(x, output[1] if isinstance(output, tuple) else None, *rest[2].sources)
        return output

    apply = held_function(form, name, held_forward, rules)

    def call(x: Any, rest: Any) -> Any:
        return apply(x, rest) if x.requires_grad and is_grad_enabled() else forward(x, *rest)

    return call


def register_held_value(form: Form, forward: Any, rules: dict[str, Any], with_output: Any) -> Callable[..., Any]:
    """The loss, whose gradient is formed in the same read and kept beside it: a second output would take time.

    Where hooks ask for what is saved (a checkpoint, say), it is an output all the same (``with_output``).
    """

    def held_forward(ctx: Any, x: Any, rest: Any) -> Any:
        value, ctx.formed = forward(x, *rest)
        ctx.set_materialize_grads(False)
        ctx.rest = rest
        ctx.save_for_backward(x, *rest[2].sources)
        return value

    apply = held_function(form, "value", held_forward, rules)

    def call(x: Any, rest: Any) -> Any:
        return apply(x, rest) if top_hooks is not None and top_hooks(False) is None else with_output(x, rest)[0]

    return call


def held_function(form: Form, name: str, forward: Any, rules: dict[str, Any]) -> Callable[..., Any]:
    members = {"forward": forward, "backward": rules["backward_of_held"]}
    above: Any = super(torch.autograd.Function, function_of(f"held_{form.name}_{name}", members))
    return above.apply


def function_of(name: str, members: dict[str, Any]) -> Any:
    return type(name, (Function,), {key: staticmethod(member) for key, member in members.items()})


def register_operator(form: Form, name: str, forward: Any, rules: dict[str, Any]) -> Any:
    qualified = f"crossentropy::{form.name}_{name}"
    arguments = ["Tensor x", "Tensor upstream", "Tensor? vector", *(f"Tensor? {name}" for name in form.tensors)]
    arguments += [f"{kind} {name}" for name, kind in (form.numbers | SETTINGS).items()]
    result = "(Tensor, Tensor)" if name == "loss_and_gradient" else "Tensor"
    torch.library.define(qualified, f"({', '.join(arguments)}) -> {result}")
    torch.library.impl(qualified, "default", forward)
    torch.library.register_fake(qualified, lambda *inputs: shapes_of_results(form, *inputs)[name])
    torch.library.register_autograd(qualified, rules["backward"], setup_context=setup_context)
    torch.library.register_vmap(qualified, rules["vmap"])
    return getattr(torch.ops.crossentropy, f"{form.name}_{name}").default


def chosen(form: Form, forward: Any, function: Any, operator: Any) -> Callable[..., Any]:
    def call(x: Any, upstream: Any, vector: Any, *rest: Any) -> Any:
        traced = is_traced(x, upstream, vector)
        if not (traced or torch._C._are_functorch_transforms_active()):
            if isinstance(rest[0], Held) and not has_derivative(x, upstream, vector):
                return forward(x, upstream, vector, *rest)
            return function(x, upstream, vector, *rest)
        *flat, axis, num_threads, total = rest
        if not isinstance(upstream, torch.Tensor):
            upstream = torch.full((), upstream, dtype=WORK, device=x.device)
        arguments = (x, upstream, vector, *form.spread(flat), axis, num_threads, total)
        return operator(*arguments) if traced else function(*arguments)

    return call


def has_derivative(*values: Any) -> bool:
    """Outside ``torch.func``: does backward or forward mode follow one of them? Asked of a small loss, whose Function
    would take longer than the loss.
    """
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in values)


def register(form: Form) -> Calls:
    calls = Calls(form)
    rules, forwards = derivatives(calls), implementations(form)
    for name in NAMES:
        forward = forwards[name]
        both = (make(form, name, forward, rules[name]) for make in (register_function, register_operator))
        setattr(calls, name, chosen(form, forward, *both))
        if "backward_of_held" in rules[name]:
            calls.of_held[name] = register_held_function(form, name, forward, rules[name])
    name = "loss_and_gradient"
    calls.of_held["value"] = register_held_value(form, forwards[name], rules["value"], calls.of_held[name])
    return calls


CALLS = {form.name: register(form) for form in (ROWS, ELEMENTS)}
