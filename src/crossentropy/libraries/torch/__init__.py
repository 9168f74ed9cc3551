"""PyTorch tensors: conversion, devices, dtypes of results, and what requires grad. The arithmetic is in ``kernels``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from crossentropy import reduction
from crossentropy.arrays import (
    FLOATING,
    REDUCED,
    Layout,
    check_unit_interval,
    dtype_name,
    is_floating,
    is_integer,
    is_sparse,
)
from crossentropy.binary_coefficients import binary_coefficients, check_binary_probabilities
from crossentropy.kernels import generic
from crossentropy.libraries.torch import distributions
from crossentropy.libraries.torch.measure import measured_element_losses, measured_row_losses
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.libraries.torch.primitives import (
    CALLS,
    ELEMENTS,
    ROWS,
    WORK,
    blocks,
    compute,
    contiguous_like,
    value_of,
    values_known,
)
from crossentropy.options import BinaryOptions, LossOptions
from crossentropy.row_coefficients import RowCoefficients, check_dense_target, check_probabilities, row_coefficients
from crossentropy.row_loss import log_sum, row_loss

__all__ = [
    "WORK",
    "as_array",
    "as_floating",
    "binary_cross_entropy",
    "binary_cross_entropy_value_and_grad",
    "cross_entropy",
    "cross_entropy_hvp",
    "cross_entropy_value_and_grad",
    "map_elements",
    "map_rows",
    "namespace",
    "result_dtype",
    "row_summary",
    "values_known",
]

namespace = Namespace
SMALL_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def as_array(name: str, value: Any, device: Any = None) -> Any:
    """A strided tensor of real numbers on the device, or an error that names the argument."""
    if not isinstance(value, torch.Tensor):
        try:
            return torch.as_tensor(value, device=device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} is not an array of numbers: {error}") from None
    if value.layout != torch.strided or value.is_quantized:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}; use .to_dense() or .dequantize()")
    if value.is_complex():
        raise TypeError(f"{name} must hold real numbers of at most 64 bits, got dtype {value.dtype}")
    if device is not None and value.device != device:
        if value.ndim:
            raise ValueError(f"{name} is on {value.device} and logits on {device}; move it with .to({str(device)!r})")
        value = value.to(device)
    # torch has next to no arithmetic for the wide unsigned integers.
    return value.to(torch.int64) if is_integer(value) and value.dtype not in SMALL_INTEGERS else value


def as_floating(name: str, value: Any, device: Any = None) -> Any:
    """A floating tensor; integers, as a person writes them in a list, become float64."""
    array = as_array(name, value, device)
    if is_integer(array):
        array = array.to(WORK)
    if not is_floating(array):
        raise TypeError(f"{name} must be floating ({', '.join(FLOATING)}), got dtype {array.dtype}")
    return array


def as_target(target: Any, layout: Layout, device: Any) -> Any:
    if not is_sparse(target):
        target = as_array("target", target, device)
        return target if tuple(target.shape) == layout.shape else widened(target)
    return widened(as_array("target indices", target[0], device)), as_array("target values", target[1], device)


def widened(integers: Any) -> Any:
    """int64: torch would compare an 8-bit label with the number of classes in 8 bits."""
    return integers.to(torch.int64) if is_integer(integers) else integers


ARRAY_OPTIONS = ("class_weight", "row_weight", "class_mask", "class_bias", "pos_weight", "normalizer")


def as_options(options: Any, device: Any) -> Any:
    """The same options with tensors on the device for whatever the caller gave as an array."""
    given = vars(options)
    arrays = {n: as_array(n, given[n], device) for n in ARRAY_OPTIONS if n in given and not isinstance(given[n], str)}
    if isinstance(given.get("temperature"), torch.Tensor):
        arrays["temperature"] = as_temperature(options.temperature, device)
    return options.replace(**arrays) if arrays else options


def as_temperature(value: Any, device: Any) -> Any:
    """A number where nobody wants a derivative to it."""
    if values_known(value):
        number = LossOptions(temperature=value.detach().item()).temperature
        if not differentiable(value):
            return number
    return torch.reshape(as_floating("temperature", value, device), ()).to(WORK)


def result_dtype(array: Any) -> torch.dtype:
    """The loss of 16-bit logits is float32."""
    return torch.float32 if dtype_name(array) in REDUCED else array.dtype


def differentiable(value: Any) -> bool:
    """May someone ask for a derivative to this tensor?"""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    if value.requires_grad and torch.is_grad_enabled():
        return True
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    wrapped = value
    while functorch.is_functorch_wrapped_tensor(wrapped):
        if functorch.is_gradtrackingtensor(wrapped):
            return True
        wrapped = functorch.get_unwrapped(wrapped)
    forward_ad = torch.autograd.forward_ad
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(wrapped).tangent is not None


def to_rows(logits: Any, layout: Layout) -> Any:
    """(rows, classes), without the two views that change nothing in the plain case."""
    if logits.ndim == 2 and layout.axis == 1:
        return logits
    return layout.to_rows(torch, logits)


def from_rows(rows: Any, layout: Layout) -> Any:
    if len(layout.shape) == 2 and layout.axis == 1:
        return rows
    return layout.from_rows(torch, rows)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One call: x of (rows, classes) or (elements,), its coefficients, and the factor of each row in the result."""

    x: Any
    coefficients: Any
    upstream: Any  # (rows,) or ()
    options: Any
    shape: tuple[int, ...]  # of the result with reduction "none"
    dtype: torch.dtype  # of the result
    measured: bool  # is a derivative to the target or to class weights wanted?
    transformed: bool = False  # is x logits that were divided by a tensor?

    @property
    def form(self) -> Any:
        return ROWS if isinstance(self.coefficients, RowCoefficients) else ELEMENTS

    @property
    def total(self) -> bool:
        return self.options.reduction != "none"

    def arguments(self) -> tuple[Any, ...]:
        return (*self.form.flat(self.coefficients), self.total)

    def finished(self, value: Any) -> Any:
        return torch.reshape(value, () if self.total else self.shape).to(self.dtype)

    def value(self) -> Any:
        if self.measured:
            losses = (measured_row_losses if self.form is ROWS else measured_element_losses)(
                self.x, self.coefficients, self.upstream
            )
            return self.finished(losses.sum() if self.total else losses)
        calls = CALLS[self.form.name]
        # With a scalar result the gradient is formed while the rows are at hand. Not for float16, whose range needs
        # the upstream gradient (a loss scale) before rounding; nor for "none", whose rows have one each.
        wanted = self.x.requires_grad and torch.is_grad_enabled()
        if wanted and self.total and self.x.dtype != torch.float16:
            return self.finished(calls.loss_and_gradient(self.x, self.upstream, None, *self.arguments())[0])
        return self.finished(calls.loss(self.x, self.upstream, None, *self.arguments()))

    def value_and_gradient(self) -> tuple[Any, Any]:
        self.refuse_measured("value_and_grad")
        calls = CALLS[self.form.name]
        value, gradient = calls.loss_and_gradient(self.x, self.upstream, None, *self.arguments())
        return self.finished(value), gradient

    def hessian_vector(self, vector: Any) -> Any:
        self.refuse_measured("hvp")
        return CALLS[self.form.name].hessian_vector(self.x, self.upstream, vector, *self.arguments())

    def refuse_measured(self, what: str) -> None:
        if self.measured or self.transformed:
            which = "temperature" if self.transformed else "the target, class_weight or pos_weight"
            raise NotImplementedError(
                f"{what}: no derivative with respect to {which}; detach it, or use cross_entropy and "
                "torch.autograd.grad"
            )


def row_problem(logits: Any, target: Any, options: LossOptions, *, summary: bool = False) -> tuple[Problem, Layout]:
    layout = Layout.of(tuple(logits.shape), options.axis)
    xp, device = Namespace(logits.device), logits.device
    options = as_options(options, device)
    if target is not None or not summary:
        target = as_target(target, layout, device)
    x, transformed = to_rows(logits, layout), False
    if isinstance(options.temperature, torch.Tensor) or differentiable(options.class_bias):
        # The kernels take both as constants; ahead of them, in the working precision, autograd takes them as they are.
        transformed = isinstance(options.temperature, torch.Tensor)
        x = x.to(WORK) / options.temperature
        x = x if options.class_bias is None else x + options.class_bias.to(WORK)
        options = options.replace(temperature=1.0, class_bias=None)
    coefficients, row_weight = row_coefficients(xp, target, layout, options, WORK)
    if coefficients.class_mask is not None:  # in C order, like everything that meets the logits
        coefficients = dataclasses.replace(coefficients, class_mask=coefficients.class_mask.contiguous())
    if values_known(logits) and (coefficients.dense is not None or options.inputs != "logits"):
        for block in blocks(x):
            piece = coefficients.rows(block)
            check_dense_target(xp, piece, layout, block.start)
            check_probabilities(xp, x[block], piece, layout, block.start, every=summary)
    mass = coefficients.target_mass
    if coefficients.dense is not None and options.reduction == "mean" and isinstance(options.normalizer, str):
        mass = dense_mass(xp, coefficients)
    divisor = reduction.denominator(xp, options, layout.row_shape, row_weight, coefficients.valid, mass, WORK)
    upstream = factor_of_rows(xp, options, row_weight, divisor)
    measured = any(map(differentiable, (*(target if is_sparse(target) else (target,)), options.class_weight)))
    dtype = result_dtype(logits)
    return Problem(x, coefficients, upstream, options, layout.row_shape, dtype, measured, transformed), layout


def factor_of_rows(xp: Any, options: Any, row_weight: Any, divisor: Any) -> Any:
    if isinstance(divisor, torch.Tensor) and divisor.ndim == 0 and values_known(divisor):
        reduction.finite(divisor.item())
    return xp.asarray(reduction.upstream(xp, options, row_weight, divisor), dtype=WORK)


def dense_mass(xp: Any, coefficients: RowCoefficients) -> Any:
    """m_i of a dense target."""
    if not values_known(coefficients.dense) or differentiable(coefficients.dense):
        return generic.dense_target(xp, coefficients, WORK)[1].sum(-1)
    pieces = [
        generic.dense_target(xp, coefficients.rows(block), WORK)[1].sum(-1) for block in blocks(coefficients.dense)
    ]
    return torch.cat(pieces) if pieces else coefficients.dense.new_zeros(0, dtype=WORK)


def element_problem(logits: Any, target: Any, options: BinaryOptions) -> Problem:
    xp, device, shape = Namespace(logits.device), logits.device, tuple(logits.shape)
    options, target = as_options(options, device), widened(as_array("target", target, device))
    coefficients, row_weight = binary_coefficients(xp, target, shape, options, WORK)
    if values_known(logits):
        check_binary_probabilities(xp, logits, coefficients)
    divisor = reduction.denominator(xp, options, shape, row_weight, coefficients.valid, 1.0, WORK)
    flat_weight = None if row_weight is None else torch.reshape(row_weight, (-1,))
    upstream = factor_of_rows(xp, options, flat_weight, divisor)
    measured = differentiable(target) or differentiable(options.pos_weight)

    def flat(value: Any) -> Any:
        return None if value is None else torch.reshape(value, (-1,))

    coefficients = dataclasses.replace(
        coefficients,
        target=flat(coefficients.target),
        pos_weight=flat(coefficients.pos_weight),
        valid=flat(coefficients.valid),
    )
    return Problem(flat(logits), coefficients, upstream, options, shape, result_dtype(logits), measured)


def cross_entropy(logits: Any, target: Any, options: LossOptions) -> Any:
    return row_problem(as_floating("logits", logits), target, options)[0].value()


def cross_entropy_value_and_grad(logits: Any, target: Any, options: LossOptions, out: Any) -> tuple[Any, Any]:
    logits = as_floating("logits", logits)
    check_out(out, logits)
    problem, layout = row_problem(logits, target, options)
    if out is not None:
        return value_into(problem, out, lambda rows: from_rows(rows, layout), to_rows(out, layout))
    value, gradient = problem.value_and_gradient()
    return value, from_rows(gradient, layout).to(logits.dtype)


def cross_entropy_hvp(logits: Any, target: Any, vector: Any, options: LossOptions) -> Any:
    logits = as_floating("logits", logits)
    vector = as_floating("vector", vector, logits.device)
    if vector.shape != logits.shape:
        raise ValueError(f"vector must have the shape of logits, {tuple(logits.shape)}, got {tuple(vector.shape)}")
    problem, layout = row_problem(logits, target, options)
    return from_rows(problem.hessian_vector(to_rows(vector, layout)), layout).to(logits.dtype)


def binary_cross_entropy(logits: Any, target: Any, options: BinaryOptions) -> Any:
    return element_problem(as_floating("logits", logits), target, options).value()


def binary_cross_entropy_value_and_grad(logits: Any, target: Any, options: BinaryOptions, out: Any) -> tuple[Any, Any]:
    logits = as_floating("logits", logits)
    check_out(out, logits)
    problem = element_problem(logits, target, options)
    if out is not None:
        return value_into(problem, out, lambda x: torch.reshape(x, logits.shape), torch.reshape(out, (-1,)))
    value, gradient = problem.value_and_gradient()
    return value, torch.reshape(gradient, logits.shape)


def check_out(out: Any, logits: Any) -> None:
    if out is None:
        return
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out must be a tensor, got {type(out).__name__}")
    if out.shape != logits.shape or out.dtype != logits.dtype or out.device != logits.device:
        raise ValueError(
            f"out must have shape, dtype and device of logits, {tuple(logits.shape)} {logits.dtype} {logits.device}, "
            f"got {tuple(out.shape)} {out.dtype} {out.device}"
        )
    if torch.is_grad_enabled() and (out.requires_grad or logits.requires_grad):
        raise ValueError("out does not support automatic differentiation; use torch.no_grad(), or leave it out")


def value_into(problem: Problem, out: Any, shaped: Callable[[Any], Any], out_rows: Any) -> tuple[Any, Any]:
    """The gradient is written into ``out`` itself where it is a view of rows that no other input shares."""
    inputs = [problem.coefficients.dense if problem.form is ROWS else problem.coefficients.target]
    direct = shares_memory(out_rows, out) and out.dtype == problem.x.dtype
    direct = direct and not any(shares_memory(part, out) for part in inputs if part is not None)
    direct = direct and (not shares_memory(problem.x, out) or same_view(problem.x, out_rows))
    with torch.no_grad():
        buffer = out_rows if direct else contiguous_like(problem.x)
        losses = compute(problem.form, problem.x, problem.coefficients, problem.upstream, buffer)
        if not direct:
            out.copy_(shaped(buffer))
        return problem.finished(value_of(losses, problem.upstream, problem.coefficients, problem.total)), out


def shares_memory(a: Any, b: Any) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def same_view(a: Any, b: Any) -> bool:
    return a.data_ptr() == b.data_ptr() and a.stride() == b.stride()


def row_summary(logits: Any, target: Any, options: LossOptions) -> tuple[Any, Any, Any, Any]:
    """lse, log-probability of the target (None without one), entropy, prediction; each of the shape of the rows."""
    logits = as_floating("logits", logits)
    if differentiable(logits):
        raise NotImplementedError(
            "row_statistics has no derivatives; call it under torch.no_grad(), or on logits.detach(). "
            "cross_entropy, log_softmax and softmax have them"
        )
    problem, layout = row_problem(logits, target, options, summary=True)
    xp, c = Namespace(logits.device), problem.coefficients
    # One block of no rows gives the results their dtypes.
    parts = [
        summarize(xp, problem.x[block], c.rows(block), target is not None)
        for block in list(blocks(problem.x)) or [slice(0, 0)]
    ]
    lse, loss, entropy, prediction = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    unit = reduction.NATS_PER_UNIT[options.unit]

    def shaped(value: Any) -> Any:
        return torch.reshape(value / unit, layout.row_shape).to(problem.dtype)

    # 0 - loss: a loss of 0 is the log-probability 0, not -0.
    target_log_prob = None if target is None else shaped(0.0 - loss)
    return shaped(lse), target_log_prob, shaped(entropy), torch.reshape(prediction, layout.row_shape)


def summarize(xp: Any, x: Any, c: RowCoefficients, has_target: bool) -> tuple[Any, Any, Any, Any]:
    """Ignoring concerns the target alone: lse, entropy and prediction are of every row."""
    statistics = generic.row_statistics(xp, x, dataclasses.replace(c, valid=None), WORK, summary=True)
    undefined = ~xp.isfinite(statistics.maximum)
    total = log_sum(xp, statistics)
    lse = xp.where(undefined, xp.nan, statistics.maximum + total)
    entropy = total - statistics.entropy_sum / (statistics.ties + statistics.others)
    entropy = xp.where(undefined, xp.nan, entropy)
    loss = row_loss(xp, statistics, c) if has_target else xp.zeros_like(lse)
    return lse, loss, entropy, xp.where(xp.isnan(entropy), -1, statistics.prediction)


def map_rows(
    function: Callable[..., Any], axis: int, keeps_classes: bool, *, probabilities: bool = False, **named: Any
) -> Any:
    """``function(xp, rows, ...)`` of float64 (rows, classes); its result in the dtype of the arguments."""
    arrays = {name: as_floating(name, value) for name, value in named.items()}
    (first, *others) = arrays
    layout = Layout.of(tuple(arrays[first].shape), axis, first)
    for name in others:
        if tuple(arrays[name].shape) != layout.shape:
            raise ValueError(
                f"{first} and {name} must have one shape, got {layout.shape} and {tuple(arrays[name].shape)}"
            )
    xp = Namespace(arrays[first].device)
    if not keeps_classes and any(map(differentiable, arrays.values())):
        raise NotImplementedError(
            f"no derivative with respect to {' and '.join(arrays)}: use cross_entropy, which has it, or .detach()"
        )
    if probabilities:
        for name, array in arrays.items():
            check_unit_interval(xp, name, array)
    dtypes = [result_dtype(array) for array in arrays.values()]
    dtype = torch.promote_types(dtypes[0], dtypes[-1])
    rows = [layout.to_rows(xp, array) for array in arrays.values()]
    result = distributions.apply(function, rows).to(dtype)
    return layout.from_rows(xp, result) if keeps_classes else torch.reshape(result, layout.row_shape)


def map_elements(function: Callable[..., Any], **named: Any) -> Any:
    """``function(xp, array)`` in float64, elementwise."""
    ((name, value),) = named.items()
    array = as_floating(name, value)
    return distributions.apply(function, [array]).to(result_dtype(array))
