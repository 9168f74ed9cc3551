"""Loss, gradient and Hessian-vector product of rows (softmax) or elements (sigmoid), as PyTorch functions.

Each of the three exists twice, with the same formulas for its derivatives:

* as an ``autograd.Function``: backward, double backward, forward mode and every ``torch.func`` transform;
* as a dispatcher operator: what ``torch.compile``, ``torch.export`` and tracing see. (An operator alone would make
  ``torch.func.jvp`` silently 0; a Function alone would be traced through.)

All take ``(x, upstream, vector, *tensors, *numbers, total)``: x of (rows, classes) or (elements,); the factor of each
row's loss, (rows,) or (); the vector of the product, else None; the coefficients; whether to sum. They are
differentiable in x, upstream and vector. The derivatives only combine the three with each other:

    d loss     / d x = gradient,           d loss     / d upstream = loss at upstream 1
    d gradient / d x = Hessian-vector,     d gradient / d upstream = gradient at upstream 1
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from crossentropy.binary_loss import BinaryCoefficients
from crossentropy.kernels import generic
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.reduction import of_valid
from crossentropy.row_loss import RowCoefficients, row_loss, times

WORK = torch.float64
# Elements per block on the CPU: the float64 temporaries of one block (256 kB each) stay in a core's cache.
BLOCK = 1 << 15


@dataclasses.dataclass(frozen=True)
class Form:
    """One of the two canonical forms: its coefficients and what the kernels compute of it."""

    name: str
    coefficients: type
    tensors: dict[str, int | None]  # name -> its dimensions when there is one entry per row, None if never per row
    numbers: dict[str, str]  # name -> type in an operator's schema
    defaults: dict[str, Any]  # what None in place of a tensor stands for, other than None
    cut: Callable[..., Any]  # (coefficients, block of rows) -> theirs
    loss: Callable[..., Any]
    loss_and_gradient: Callable[..., Any]
    hessian_vector: Callable[..., Any]

    def flat(self, c: Any) -> list[Any]:
        """The coefficients as arguments of the functions."""
        values = [getattr(c, name) for name in self.tensors]
        tensors = [value if isinstance(value, torch.Tensor) else None for value in values]
        return [*tensors, *(getattr(c, name) for name in self.numbers)]

    def whole(self, flat: Any) -> Any:
        names = [*self.tensors, *self.numbers]
        given = {k: v for k, v in zip(names, flat, strict=True) if v is not None or k not in self.defaults}
        return self.coefficients(**self.defaults | given)

    def per_row(self, name: str, dimensions: int) -> bool:
        return self.tensors[name] == dimensions


def row_losses(xp: Any, x: Any, c: Any) -> Any:
    return row_loss(xp, generic.row_statistics(xp, x, c, WORK), c)


def row_losses_and_gradient(xp: Any, x: Any, c: Any, upstream: Any) -> tuple[Any, Any]:
    statistics = generic.row_statistics(xp, x, c, WORK)
    return row_loss(xp, statistics, c), generic.row_gradient(xp, x, c, statistics, upstream, WORK)


def row_hessian_vector(xp: Any, x: Any, c: Any, vector: Any, upstream: Any) -> Any:
    return generic.row_hessian_vector(xp, x, c, generic.row_statistics(xp, x, c, WORK), vector, upstream, WORK)


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
    loss=row_losses,
    loss_and_gradient=row_losses_and_gradient,
    hessian_vector=row_hessian_vector,
)

ELEMENTS = Form(
    name="element",
    coefficients=BinaryCoefficients,
    tensors={"target": 1, "pos_weight": 1, "valid": 1},
    numbers={"inputs": "str", "label_smoothing": "float", "focal_gamma": "float"},
    defaults={},
    cut=BinaryCoefficients.elements,
    loss=lambda xp, x, c: generic.binary_loss(xp, x, c, WORK),
    loss_and_gradient=lambda xp, x, c, upstream: (
        generic.binary_loss(xp, x, c, WORK),
        generic.binary_gradient(xp, x, c, upstream, WORK),
    ),
    hessian_vector=lambda xp, x, c, vector, upstream: generic.binary_hessian_vector(xp, x, c, vector, upstream, WORK),
)


# ---- who computes: tensors with values ----


def blocks(x: Any) -> Iterator[slice]:
    """Blocks of rows that fit a core's cache; one block on a device, where a launch costs more than memory."""
    rows, width = x.shape[0], x[:1].numel()
    step = max(1, BLOCK // max(1, width)) if x.device.type == "cpu" else max(1, rows)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def compute(form: Form, x: Any, c: Any, upstream: Any, gradient: Any = None) -> Any:
    """Losses (rows,) in the working precision; the gradient is written where one is given."""
    xp = Namespace(x.device)
    losses = torch.empty(x.shape[0], dtype=WORK, device=x.device)
    # A core for the CPU, or a kernel for a device, takes over here: the whole of x, one call.
    for block in blocks(x):
        piece = form.cut(c, block)
        if gradient is None:
            losses[block] = form.loss(xp, x[block], piece)
        else:
            share = upstream[block] if upstream.ndim else upstream
            losses[block], gradient[block] = form.loss_and_gradient(xp, x[block], piece, share)
    return losses


def compute_hessian_vector(form: Form, x: Any, c: Any, vector: Any, upstream: Any) -> Any:
    xp = Namespace(x.device)
    product = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for block in blocks(x):
        share = upstream[block] if upstream.ndim else upstream
        product[block] = form.hessian_vector(xp, x[block], form.cut(c, block), vector[block], share)
    return product


def value_of(losses: Any, upstream: Any, c: Any, total: bool) -> Any:
    """upstream_i loss_i, or their sum, which has the bits of the rows that count alone."""
    xp = Namespace(losses.device)
    if not total:
        return times(xp, upstream, losses)
    if upstream.ndim == 0:
        return times(xp, upstream, xp.sum(of_valid(losses, c.valid)))
    # The largest factor last, so that rows of equal weight have the bits of rows without weights.
    top = torch.amax(upstream) if upstream.numel() else upstream.sum()
    share = torch.where(top > 0, upstream / torch.where(top > 0, top, 1.0), upstream)
    return times(xp, torch.where(top > 0, top, 1.0), xp.sum(of_valid(times(xp, share, losses), c.valid)))


def contiguous_like(x: Any) -> Any:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


# ---- the three functions, their results without values, and their derivatives ----


def implementations(form: Form) -> dict[str, Callable[..., Any]]:
    def loss(x: Any, upstream: Any, vector: Any, *rest: Any) -> Any:
        *flat, total = rest
        c = form.whole(flat)
        return value_of(compute(form, x, c, upstream), upstream, c, total)

    def loss_and_gradient(x: Any, upstream: Any, vector: Any, *rest: Any) -> tuple[Any, Any]:
        *flat, total = rest
        c, gradient = form.whole(flat), contiguous_like(x)
        return value_of(compute(form, x, c, upstream, gradient), upstream, c, total), gradient

    def hessian_vector(x: Any, upstream: Any, vector: Any, *rest: Any) -> Any:
        *flat, _ = rest
        return compute_hessian_vector(form, x, form.whole(flat), vector, upstream)

    return {"loss": loss, "loss_and_gradient": loss_and_gradient, "hessian_vector": hessian_vector}


def shapes_of_results(x: Any, upstream: Any, vector: Any, *rest: Any) -> dict[str, Any]:
    value = torch.empty(() if rest[-1] else (x.shape[0],), dtype=WORK, device=x.device)
    return {"loss": value, "loss_and_gradient": (value, contiguous_like(x)), "hessian_vector": contiguous_like(x)}


@dataclasses.dataclass
class Calls:
    """The three functions of one registration: what a derivative may call."""

    form: Form
    loss: Any = None
    loss_and_gradient: Any = None
    hessian_vector: Any = None

    def dot(self, a: Any, b: Any) -> Any:
        """(rows,): sum of a_ij b_ij over the classes."""
        product = a.to(WORK) * b.to(WORK)
        return product.sum(-1) if self.form is ROWS else product

    def scaled(self, factor: Any, array: Any) -> Any:
        """A copy of array whose rows are multiplied by factor, (rows,) or ()."""
        if factor.ndim and self.form is ROWS:
            factor = factor[:, None]
        return (factor * array).to(array.dtype)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    # The gradient that was formed with the loss is saved, so that a backward pass with upstream gradient 1 is free.
    formed = output[1] if isinstance(output, tuple) else None
    tensors = [value if isinstance(value, torch.Tensor) else None for value in inputs]
    ctx.others = [None if isinstance(value, torch.Tensor) else value for value in inputs]
    ctx.save_for_backward(*tensors, formed)
    if hasattr(ctx, "save_for_forward"):
        ctx.save_for_forward(*tensors, formed)


def primal(value: Any) -> Any:
    """Without the tangent of the innermost level of forward mode."""
    forward_ad = torch.autograd.forward_ad
    if not isinstance(value, torch.Tensor) or forward_ad._current_level < 0 or is_sliced(value):
        return value
    return forward_ad.unpack_dual(value).primal


def saved_inputs(ctx: Any) -> tuple[list[Any], Any]:
    """The arguments of the call, and the gradient that was formed with it."""
    *tensors, formed = ctx.saved_tensors
    pairs = zip(tensors, ctx.others, strict=True)
    return [other if tensor is None else tensor for tensor, other in pairs], formed


def refuse(form: Form, which: Any) -> None:
    """The derivative to a coefficient is not silently 0."""
    names = [*form.tensors, *form.numbers, "total"]
    wanted = [name for name, is_wanted in zip(names, which, strict=True) if is_wanted]
    if wanted:
        raise NotImplementedError(
            f"crossentropy: no derivative with respect to {', '.join(wanted)} in this combination of transforms; "
            "detach what the targets and weights are made of"
        )


def third_derivative() -> None:
    raise NotImplementedError(
        "crossentropy: third derivatives of the loss are not provided (value, gradient and Hessian-vector product are)"
    )


def to_shape(rows: Any, upstream: Any) -> Any:
    return rows if upstream.ndim else rows.sum()


def is_last_use() -> bool:
    """Is what was saved freed after this backward? Else the caller, who may add to his gradient, gets a copy."""
    return not torch.is_grad_enabled() and not torch._C._autograd._get_current_graph_task_keep_graph()


def is_one(factor: Any) -> bool:
    """Is the upstream gradient 1, as far as that can be read without waiting?"""
    return factor.ndim == 0 and values_known(factor) and factor.item() == 1.0


def derivatives(calls: Calls) -> dict[str, dict[str, Callable[..., Any]]]:
    form = calls.form

    def one(x: Any) -> Any:
        return torch.ones((), dtype=WORK, device=x.device)

    def nothing(inputs: Any) -> list[Any]:
        return [None] * len(inputs)

    def loss_backward(ctx: Any, a: Any) -> tuple[Any, ...]:
        (x, upstream, _, *rest), _ = saved_inputs(ctx)
        refuse(form, ctx.needs_input_grad[3:])
        grads = nothing(ctx.others)
        if a is not None and ctx.needs_input_grad[0]:
            grads[0] = calls.loss_and_gradient(x, a * upstream, None, *rest[:-1], False)[1]
        if a is not None and ctx.needs_input_grad[1]:
            grads[1] = to_shape(a * calls.loss(x, one(x), None, *rest[:-1], False), upstream)
        return tuple(grads)

    def loss_and_gradient_backward(ctx: Any, a: Any, v: Any) -> tuple[Any, ...]:
        (x, upstream, _, *rest), gradient = saved_inputs(ctx)
        refuse(form, ctx.needs_input_grad[3:])
        grads = nothing(ctx.others)
        if ctx.needs_input_grad[0]:
            if a is not None:
                grads[0] = gradient if is_last_use() and is_one(a) else calls.scaled(a, gradient)
            if v is not None:
                second = calls.hessian_vector(x, upstream, v, *rest)
                grads[0] = second if grads[0] is None else grads[0] + second
        if ctx.needs_input_grad[1] and not (a is None and v is None):
            losses, slopes = calls.loss_and_gradient(x, one(x), None, *rest[:-1], False)
            parts = [] if a is None else [a * losses]
            parts += [] if v is None else [calls.dot(v, slopes)]
            grads[1] = to_shape(sum(parts[1:], parts[0]), upstream)
        return tuple(grads)

    def hessian_vector_backward(ctx: Any, v: Any) -> tuple[Any, ...]:
        (x, upstream, vector, *rest), _ = saved_inputs(ctx)
        refuse(form, ctx.needs_input_grad[3:])
        grads = nothing(ctx.others)
        if v is None:
            return tuple(grads)
        if ctx.needs_input_grad[0]:
            third_derivative()
        if ctx.needs_input_grad[1]:
            grads[1] = to_shape(calls.dot(v, calls.hessian_vector(x, one(x), vector, *rest)), upstream)
        if ctx.needs_input_grad[2]:
            grads[2] = calls.hessian_vector(x, upstream, v, *rest)  # the Hessian is symmetric
        return tuple(grads)

    def loss_tangent(ctx: Any, x_t: Any, upstream_t: Any) -> Any:
        (x, upstream, _, *rest) = map(primal, saved_inputs(ctx)[0])
        parts = []
        if x_t is not None:
            parts.append(calls.dot(x_t, calls.loss_and_gradient(x, upstream, None, *rest[:-1], False)[1]))
        if upstream_t is not None:
            parts.append(upstream_t * calls.loss(x, one(x), None, *rest[:-1], False))
        if not parts:
            return None
        rows = sum(parts[1:], parts[0])
        return rows.sum() if rest[-1] else rows

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
            slopes = calls.loss_and_gradient(x, one(x), None, *rest[:-1], False)[1]
            parts.append(calls.scaled(upstream_t, slopes))
        return loss_tangent(ctx, x_t, upstream_t), sum(parts[1:], parts[0]) if parts else None

    def hessian_vector_jvp(ctx: Any, x_t: Any, upstream_t: Any, vector_t: Any, *rest_t: Any) -> Any:
        refuse(form, [t is not None for t in rest_t])
        (x, upstream, vector, *rest) = map(primal, saved_inputs(ctx)[0])
        if x_t is not None:
            third_derivative()
        parts = []
        if vector_t is not None:
            parts.append(calls.hessian_vector(x, upstream, vector_t, *rest))
        if upstream_t is not None:
            parts.append(calls.scaled(upstream_t, calls.hessian_vector(x, one(x), vector, *rest)))
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
        "loss": {"backward": loss_backward, "jvp": with_outer_tangents(loss_jvp), "vmap": vmap_of("loss")},
        "loss_and_gradient": {
            "backward": loss_and_gradient_backward,
            "jvp": with_outer_tangents(loss_and_gradient_jvp),
            "vmap": vmap_of("loss_and_gradient"),
        },
        "hessian_vector": {
            "backward": hessian_vector_backward,
            "jvp": with_outer_tangents(hessian_vector_jvp),
            "vmap": vmap_of("hessian_vector"),
        },
    }


def vmap(calls: Calls, name: str, size: int, in_dims: Any, inputs: Any) -> tuple[Any, Any]:
    """Rows do not know of each other: a batch of calls is one call on all their rows."""
    form, call = calls.form, getattr(calls, name)
    batched = [
        value if dim is None or value is None else value.movedim(dim, 0)
        for value, dim in zip(inputs, in_dims, strict=True)
    ]
    is_batched = [dim is not None and value is not None for value, dim in zip(inputs, in_dims, strict=True)]
    x = batched[0]
    rows = x.shape[1 if is_batched[0] else 0]

    def folded(value: Any, has_batch: bool) -> Any:
        value = value if has_batch else value[None].expand(size, *value.shape)
        if value.shape[1] == 1 and rows != 1:  # the same for every row
            value = value.expand(size, rows, *value.shape[2:])
        return value.reshape(size * rows, *value.shape[2:])

    names = ["x", "upstream", "vector", *form.tensors]
    # Dimensions of an entry per row; those that are shared by all rows keep their shape.
    per_row = [x.ndim - is_batched[0], 1, x.ndim - is_batched[0], *form.tensors.values()]
    arguments = list(batched)
    for position, (argument, dimensions) in enumerate(zip(names, per_row, strict=True)):
        value, has_batch = batched[position], is_batched[position]
        if value is None:
            continue
        if argument == "upstream" and value.ndim - has_batch == 0:
            if has_batch:
                arguments[position] = value[:, None].expand(size, rows).reshape(-1)
        elif dimensions is not None and value.ndim - has_batch == dimensions:
            arguments[position] = folded(value, has_batch)
        elif has_batch:  # class weights, say, of each call's own
            return vmap_by_loop(call, size, is_batched, batched)
    total = inputs[-1]
    output = call(*arguments[:-1], False)
    values, *others = output if isinstance(output, tuple) else (output,)

    def unfolded(value: Any) -> Any:
        return value.reshape(size, rows, *value.shape[1:])

    values = unfolded(values)
    if name != "hessian_vector" and total:
        values = values.sum(-1)
    results = (values, *map(unfolded, others))
    return (results, (0,) * len(results)) if isinstance(output, tuple) else (values, 0)


def vmap_by_loop(call: Callable[..., Any], size: int, is_batched: list[bool], inputs: list[Any]) -> tuple[Any, Any]:
    outputs = [
        call(*(value[i] if has_batch else value for value, has_batch in zip(inputs, is_batched, strict=True)))
        for i in range(size)
    ]
    if isinstance(outputs[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*outputs, strict=True)), (0,) * len(outputs[0])
    return torch.stack(outputs), 0


# ---- the two registrations ----

NAMES = ("loss", "loss_and_gradient", "hessian_vector")


def register_function(form: Form, name: str, forward: Any, rules: dict[str, Any]) -> Any:
    members = {"forward": forward, "setup_context": setup_context, **rules}
    static = {key: staticmethod(member) for key, member in members.items()}
    function: Any = type(f"{form.name}_{name}", (torch.autograd.Function,), static)
    return function.apply


def register_operator(form: Form, name: str, forward: Any, rules: dict[str, Any]) -> Any:
    qualified = f"crossentropy::{form.name}_{name}"
    arguments = ["Tensor x", "Tensor upstream", "Tensor? vector", *(f"Tensor? {name}" for name in form.tensors)]
    arguments += [f"{kind} {name}" for name, kind in form.numbers.items()] + ["bool total"]
    result = "(Tensor, Tensor)" if name == "loss_and_gradient" else "Tensor"
    torch.library.define(qualified, f"({', '.join(arguments)}) -> {result}")
    torch.library.impl(qualified, "default", forward)
    torch.library.register_fake(qualified, lambda *inputs: shapes_of_results(*inputs)[name])
    torch.library.register_autograd(qualified, rules["backward"], setup_context=setup_context)
    torch.library.register_vmap(qualified, rules["vmap"])
    return getattr(torch.ops.crossentropy, f"{form.name}_{name}").default


def chosen(function: Any, operator: Any) -> Callable[..., Any]:
    def call(x: Any, upstream: Any, vector: Any, *rest: Any) -> Any:
        traced = is_traced(x) or is_sliced(upstream) or is_sliced(vector)
        return (operator if traced else function)(x, upstream, vector, *rest)

    return call


def register(form: Form) -> Calls:
    calls = Calls(form)
    rules, forwards = derivatives(calls), implementations(form)
    for name in NAMES:
        both = (make(form, name, forwards[name], rules[name]) for make in (register_function, register_operator))
        setattr(calls, name, chosen(*both))
    return calls


def is_traced(x: Any) -> bool:
    """Is someone recording the operations on x, or is it a tensor without values?"""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or x.is_meta or is_sliced(x)


def is_sliced(tensor: Any) -> bool:
    """One of the tensors of ``autograd.grad(is_grads_batched=True)``, which calls operators slice by slice."""
    return tensor is not None and torch._C._functorch.is_legacy_batchedtensor(tensor)


CALLS = {form.name: register(form) for form in (ROWS, ELEMENTS)}


def values_known(tensor: Any) -> bool:
    """Can Python read the values now? Not while tracing, not under vmap, and on a device only by waiting for it."""
    if is_traced(tensor) or tensor.device.type != "cpu":
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return False
        tensor = functorch.get_unwrapped(tensor)
    return True
