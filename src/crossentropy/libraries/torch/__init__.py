"""PyTorch tensors: conversion, devices, dtypes of results, and what requires grad. The arithmetic is in ``kernels``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from crossentropy import arguments
from crossentropy.libraries.torch import compute, distributions, summary, thread_pool
from crossentropy.libraries.torch.conversion import WORK, as_array, as_floating, check_out, result_dtype
from crossentropy.libraries.torch.element_problem import element_problem
from crossentropy.libraries.torch.linear import (
    linear_cross_entropy,
    linear_cross_entropy_value_and_grad,
    linear_row_summary,
)
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.libraries.torch.problem import Problem, row_problem
from crossentropy.libraries.torch.tensors import differentiable, values_known, values_readable
from crossentropy.options import BinaryOptions, LossOptions

namespace = Namespace
thread_pool.lend()


def cross_entropy(logits: Any, target: Any, options: LossOptions) -> Any:
    return row_problem(as_floating("logits", logits), target, options).value()


def cross_entropy_value_and_grad(logits: Any, target: Any, options: LossOptions, out: Any) -> tuple[Any, Any]:
    logits = as_floating("logits", logits)
    check_out(out, logits, "logits")
    return value_and_gradient(row_problem(logits, target, options), logits.dtype, out)


def cross_entropy_hvp(logits: Any, target: Any, vector: Any, options: LossOptions) -> Any:
    logits = as_floating("logits", logits)
    vector = as_floating("vector", vector, logits.device)
    if vector.shape != logits.shape:
        raise ValueError(f"vector must have the shape of logits, {tuple(logits.shape)}, got {tuple(vector.shape)}")
    return row_problem(logits, target, options).hessian_vector(vector).to(logits.dtype)


def binary_cross_entropy(logits: Any, target: Any, options: BinaryOptions) -> Any:
    return element_problem(as_floating("logits", logits), target, options).value()


def binary_cross_entropy_value_and_grad(logits: Any, target: Any, options: BinaryOptions, out: Any) -> tuple[Any, Any]:
    logits = as_floating("logits", logits)
    check_out(out, logits, "logits")
    return value_and_gradient(element_problem(logits, target, options), logits.dtype, out)


def value_and_gradient(problem: Problem, dtype: torch.dtype, out: Any) -> tuple[Any, Any]:
    if out is not None:
        return value_into(problem, out)
    value, gradient = problem.value_and_gradient()
    return value, gradient.to(dtype)


def value_into(problem: Problem, out: Any) -> tuple[Any, Any]:
    """The gradient is written into ``out`` itself where no input but the logits, in the same places, shares it."""
    problem.refuse_measured("out=")
    x = problem.x
    is_logits = x.data_ptr() == out.data_ptr() and x.stride() == out.stride()
    inputs = [*problem.sources(), *(() if is_logits else (x,))]
    direct = out.dtype == x.dtype and not any(compute.shares_memory(part, out) for part in inputs)
    with torch.no_grad():
        buffer = out if direct else torch.empty_like(x)
        value = compute.loss(problem.form, x, problem.upstream, problem.arguments(), buffer)
        if not direct:
            out.copy_(buffer)
        return problem.finished(value), out


def row_summary(logits: Any, target: Any, options: LossOptions) -> tuple[Any, Any, Any, Any]:
    """lse, log-probability of the target (None without one), entropy, prediction; each of the shape of the rows."""
    problem = row_problem(as_floating("logits", logits), target, options, summary=True)
    return summary.of_problem(problem, target is not None)


def map_rows(
    function: Callable[..., Any], axis: int, keeps_classes: bool, *, probabilities: bool = False, **named: Any
) -> Any:
    """``function(xp, rows, ...)`` of float64 (rows, classes); its result in the dtype of the arguments."""
    arrays, layout = arguments.rows(as_floating, axis, named, probabilities=probabilities)
    if not keeps_classes and any(map(differentiable, arrays.values())):
        raise NotImplementedError(
            f"no derivative with respect to {' and '.join(arrays)}: use cross_entropy, which has it, or .detach()"
        )
    xp = Namespace(next(iter(arrays.values())).device)
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
