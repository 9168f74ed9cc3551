"""vmap: rows do not know of each other, so a batch of calls is one call on all their rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def vmap(calls: Any, name: str, size: int, in_dims: Any, inputs: Any) -> tuple[Any, Any]:
    """The function ``name`` of ``calls`` on a batch; arguments and result are those of ``autograd.Function.vmap``."""
    form, call = calls.form, getattr(calls, name)
    *given, axis, num_threads, total = inputs
    dims = in_dims[: len(given)]
    is_batched = [dim is not None and isinstance(value, torch.Tensor) for value, dim in zip(given, dims, strict=True)]
    batched = [
        value.movedim(dim, 0) if has_batch else value
        for value, dim, has_batch in zip(given, dims, is_batched, strict=True)
    ]
    shape = tuple(batched[0].shape)[1 if is_batched[0] else 0 :]
    rows = math.prod(shape) if axis is None else math.prod(shape[:axis]) * math.prod(shape[axis + 1 :])

    def folded(value: Any, has_batch: bool) -> Any:
        value = value if has_batch else value[None].expand(size, *value.shape)
        if value.shape[1] == 1 and rows != 1:  # the same for every row
            value = value.expand(size, rows, *value.shape[2:])
        return value.reshape(size * rows, *value.shape[2:])

    # Dimensions of an entry per row; those that are shared by all rows keep their shape.
    names = ["x", "upstream", "vector", *form.tensors, *form.numbers]
    per_row = {"upstream": 1, **form.tensors}
    arguments = list(batched)
    for position, (argument, value, has_batch) in enumerate(zip(names, batched, is_batched, strict=True)):
        if not isinstance(value, torch.Tensor):
            continue
        dimensions = value.ndim - has_batch
        if argument in ("x", "vector"):
            arguments[position] = value if has_batch else value.expand(size, *value.shape)
        elif argument == "upstream" and dimensions == 0:
            if has_batch:
                arguments[position] = value[:, None].expand(size, rows).reshape(-1)
        elif per_row[argument] is not None and dimensions == per_row[argument]:
            arguments[position] = folded(value, has_batch)
        elif has_batch:  # class weights, say, of each call's own
            return by_loop(lambda *parts: call(*parts, axis, num_threads, total), size, is_batched, batched)
    output = call(*arguments, None if axis is None else axis + 1, num_threads, False)
    if name == "hessian_vector":
        return output, 0
    values, *gradient = output if isinstance(output, tuple) else (output,)
    values = values.reshape(size, rows)
    values = values.sum(-1, dtype=torch.float64).to(values.dtype) if total else values
    return ((values, *gradient), (0, 0)) if gradient else (values, 0)


def by_loop(call: Callable[..., Any], size: int, is_batched: list[bool], inputs: list[Any]) -> tuple[Any, Any]:
    outputs = [
        call(*(value[i] if has_batch else value for value, has_batch in zip(inputs, is_batched, strict=True)))
        for i in range(size)
    ]
    if isinstance(outputs[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*outputs, strict=True)), (0,) * len(outputs[0])
    return torch.stack(outputs), 0
