"""The sigmoid losses of NumPy arrays, and functions of each number. The arithmetic is in ``kernels``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from crossentropy import arguments, reduction
from crossentropy.arrays import is_boolean
from crossentropy.binary_coefficients import binary_coefficients
from crossentropy.binary_loss import BinaryCoefficients
from crossentropy.kernels import generic, native
from crossentropy.libraries.numpy.conversion import WORK, as_array, as_floating, result_dtype, xp
from crossentropy.libraries.numpy.losses import BLOCK, as_result, blocks, quiet
from crossentropy.libraries.numpy.output import Output
from crossentropy.options import BinaryOptions
from crossentropy.reduction import Reduction, near_one


def binary_cross_entropy(logits: Any, target: Any, options: BinaryOptions) -> Any:
    return binary(as_floating("logits", logits), target, options, None)


def binary_cross_entropy_value_and_grad(logits: Any, target: Any, options: BinaryOptions, out: Any) -> tuple[Any, Any]:
    logits = as_floating("logits", logits)
    gradient = Output(out, logits, logits, target, *vars(options).values())
    return binary(logits, target, options, gradient.buffer), gradient.deliver()


@quiet
def binary(logits: np.ndarray, target: Any, options: BinaryOptions, gradient: np.ndarray | None) -> Any:
    """The reduced loss; its gradient is written into ``gradient`` where one is given."""
    options, target = arguments.options(as_array, options), as_array("target", target)
    c, _ = binary_coefficients(xp, logits, target, options, WORK, native.within, as_given=True)
    how = element_reduction(options, c, logits.shape)
    scale, dtype = 1.0, result_dtype(logits)
    if np.ndim(how.denominator):
        # Each element has its own factor, its weight; what is left is a sum.
        own = how.denominator.reshape(logits.shape)
        weight = None if c.weight is None else np.asarray(c.weight, WORK)
        c = dataclasses.replace(c, weight=reduction.upstream(xp, options, weight, own))
        how = Reduction(xp, options.replace(reduction="sum", unit="nats"), logits.shape, None, None, 1.0, WORK)
    elif c.weight is not None and options.reduction == "mean":
        # Weights as large, or as small, as a double can be: neither their sum nor its inverse leaves its range.
        scale = near_one(how.denominator)
        how.denominator *= scale
    factor = how.upstream()
    losses = np.empty(logits.size, dtype) if options.reduction == "none" else None
    total = native.binary_losses(
        logits, c, factor, scale=scale, losses=losses, gradient=gradient, num_threads=options.num_threads
    )
    if total is not None:
        return as_result(how.of_total(total), dtype) if losses is None else losses.reshape(logits.shape)[()]
    if c.weight is not None:
        c = dataclasses.replace(c, weight=np.asarray(c.weight, WORK) * scale)
    losses = np.empty(logits.shape)
    for index in element_blocks(logits.shape):
        part, piece = logits[index], c.elements(index)
        losses[index] = generic.binary_loss(xp, part, piece, WORK)
        if gradient is not None:
            gradient[index] = generic.binary_gradient(xp, part, piece, factor, WORK)
    how.valid = flat(c.valid)
    return as_result(how.of_losses(losses.reshape(-1)), dtype)


def element_reduction(options: BinaryOptions, c: BinaryCoefficients, shape: tuple[int, ...]) -> Reduction:
    """Of losses that their weights have multiplied already."""
    # Weights that one look has added up stay as they are, without a copy for every element.
    flat_weight = None if c.totals else flat(c.weight)
    how = Reduction(xp, options, shape, flat_weight, flat(c.valid), 1.0, WORK, c.totals)
    how.row_weight = None
    return how


def flat(array: Any) -> Any:
    """(elements,), in the working precision where it is no mask."""
    return None if array is None else np.reshape(array, (-1,)).astype(array.dtype if is_boolean(array) else WORK)


def element_blocks(shape: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """Indices that cut an array of this shape into blocks; views, whatever the strides."""
    inner = math.prod(shape[1:])
    if not shape or inner == 0:
        yield (...,)
    elif inner <= BLOCK:
        yield from ((block, ...) for block in blocks(shape[0], inner))
    else:
        for first in range(shape[0]):
            yield from ((first, *rest) for rest in element_blocks(shape[1:]))


@quiet
def map_elements(function: Callable[..., Any], **named: Any) -> Any:
    """``function(xp, array)`` in float64, elementwise."""
    ((name, value),) = named.items()
    array = as_floating(name, value)
    result = np.empty(array.shape, result_dtype(array))
    for index in element_blocks(array.shape):
        result[index] = function(xp, xp.astype(array[index], WORK))
    return result[()]
