"""The loss of a linear classifier on JAX arrays: a scan over chunks of rows, whose logits alone exist.

A sum or a mean has its gradients taken in the forward pass, while a chunk's logits are there (``custom_vjp``): that is
three products, as many as with whole logits. Reduction "none", whose upstream gradient comes later, and derivatives to
targets and weights compute the logits of each chunk again (``checkpoint``); being plain code, they can be
differentiated as often as wanted, forward and backward.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crossentropy import linear_chunks
from crossentropy.kernels.xla.labels import is_plain
from crossentropy.libraries.jax.derivatives import Factors
from crossentropy.libraries.jax.derivatives import rows as row_losses
from crossentropy.libraries.jax.losses import (
    Rows,
    as_floating,
    no_probability,
    refuse_output,
    shaped_summary,
    summaries,
    xp,
)
from crossentropy.linear_chunks import MEMORY_BUDGET, linear_layout
from crossentropy.options import LinearOptions
from crossentropy.row_loss import RowCoefficients

# Arrays of a chunk's size that XLA holds at a time: logits and gradient; with other options than labels the
# transformed logits, their exponentials and the target's measure as well.
PLAIN_ARRAYS, ARRAYS = 2, 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """What the loss can be differentiated to: features (rows, D), weight (classes, D), bias (classes,) or None."""

    features: Any
    weight: Any
    bias: Any

    def features_of(self, rows: Any, c: RowCoefficients) -> Any:
        """Of these rows; 0 where one does not count, since nothing of it is read."""
        features = self.features[rows]
        return features if c.valid is None else jnp.where(c.valid[:, None], features, 0)

    def logits(self, features: Any, c: RowCoefficients) -> Any:
        dtype = working_dtype(self.features, self.weight)
        logits = jnp.matmul(features, self.weight.T, preferred_element_type=dtype)
        logits = logits if self.bias is None else logits + self.bias.astype(dtype)
        return no_probability(logits, c.inputs)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The ``rows`` in chunks of ``size``, the last of which begins in the one before.

    The weight's gradient is added up in blocks of ``block`` classes.
    """

    rows: int
    size: int
    block: int

    @property
    def count(self) -> int:
        return -(-self.rows // self.size) if self.rows else 0

    def part(self, number: Any, c: RowCoefficients) -> tuple[Any, RowCoefficients]:
        """The rows of a chunk, and their coefficients: those that the chunk before has already do not count."""
        first = number * self.size
        rows = jnp.minimum(first, self.rows - self.size) + jnp.arange(self.size)
        part = c.rows(rows)
        if self.rows % self.size:
            new = rows >= first
            part = dataclasses.replace(part, valid=new if part.valid is None else part.valid & new)
        return rows, part


def working_dtype(*arrays: Any) -> np.dtype:
    return np.dtype(np.float64 if any(array.dtype == np.float64 for array in arrays) else np.float32)


def chunks_within(budget: int, head: Head, c: RowCoefficients) -> Chunks:
    """The largest chunks whose temporary memory the budget holds, in bytes; ValueError where one row does not fit."""
    rows, (classes, width) = head.features.shape[0], head.weight.shape
    entry = working_dtype(head.features, head.weight).itemsize
    # The product that is added to the weight's gradient: in blocks of classes, if it would take most of the budget.
    whole = entry * classes * width
    parts = max(1, -(-whole // max(1, budget // 3)))
    block = -(-classes // parts)
    arrays = PLAIN_ARRAYS if is_plain(c) else ARRAYS
    chunk = linear_chunks.chunk_within(budget, rows, classes, entry * arrays, 4 * entry * width, entry * block * width)
    if chunk.classes < classes:
        needed = entry * (arrays * classes + 4 * width + block * width)
        raise ValueError(f"memory_budget={budget:,} is too small: JAX takes whole rows, of {needed:,} bytes")
    return Chunks(rows, chunk.rows, block)


def added(array: Any, start: Any, part: Any) -> Any:
    """The array with ``part`` added from ``start`` on: in place in a scan, where ``at[...].add`` is a slow scatter."""
    here = jax.lax.dynamic_slice_in_dim(array, start, part.shape[0])
    return jax.lax.dynamic_update_slice_in_dim(array, here + part, start, 0)


def losses_of(head: Head, c: RowCoefficients, chunks: Chunks) -> Any:
    """(rows,). Each chunk's logits are computed again for its derivatives."""

    @jax.checkpoint
    def losses(head: Head, c: RowCoefficients, number: Any) -> tuple[Any, Any]:
        rows, part = chunks.part(number, c)
        return rows, row_losses.value(head.logits(head.features_of(rows, part), part), part, Factors())

    def step(total: Any, number: Any) -> tuple[Any, None]:
        rows, part = losses(head, c, number)
        return added(total, rows[0], part), None

    none = jnp.zeros(chunks.rows, working_dtype(head.features, head.weight))
    return jax.lax.scan(step, none, jnp.arange(chunks.count))[0]


def losses_and_gradients(head: Head, c: RowCoefficients, upstream: Any, chunks: Chunks) -> tuple[Any, Head]:
    """(rows,) losses times ``upstream`` (rows,), and the gradients of their sum."""
    dtype = working_dtype(head.features, head.weight)
    classes = range(0, head.weight.shape[0], chunks.block)

    def step(sums: tuple[Any, Head], number: Any) -> tuple[tuple[Any, Head], None]:
        total, gradients = sums
        rows, part = chunks.part(number, c)
        features = head.features_of(rows, part)
        logits = head.logits(features, part)
        factor = upstream[rows]
        losses, slopes = row_losses.value_and_gradient(logits, part, Factors(row_weight=factor))
        losses = jnp.where(factor == 0, 0.0, losses)  # a row that counts nothing is not read: 0 x inf
        weight = gradients.weight
        for start in classes:
            own = jnp.matmul(slopes[:, start : start + chunks.block].T, features, preferred_element_type=dtype)
            weight = added(weight, start, own)
        back = jnp.matmul(slopes, head.weight, preferred_element_type=dtype)
        bias = None if head.bias is None else gradients.bias + xp.sum(slopes, axis=0)
        gradients = Head(added(gradients.features, rows[0], back), weight, bias)
        return (added(total, rows[0], losses), gradients), None

    none = jax.tree.map(lambda array: jnp.zeros(array.shape, dtype), head)
    sums, _ = jax.lax.scan(step, (jnp.zeros(chunks.rows, dtype), none), jnp.arange(chunks.count))
    losses, gradients = sums
    return losses, jax.tree.map(lambda gradient, array: gradient.astype(array.dtype), gradients, head)


def total_of(losses: Any, upstream: Any) -> Any:
    """A row that counts nothing is not read: 0 x inf."""
    return xp.sum(jnp.where(upstream == 0, 0.0, upstream * losses))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def total(head: Head, c: RowCoefficients, upstream: Any, chunks: Chunks) -> Any:
    """The sum of upstream_i loss_i."""
    return total_of(losses_of(head, c, chunks), upstream)


def forward(head: Any, c: Any, upstream: Any, chunks: Chunks) -> tuple[Any, Any]:
    others_move = any(leaf.perturbed for leaf in jax.tree.leaves((c, upstream), is_leaf=is_primal))
    head, c, upstream = jax.tree.map(lambda leaf: leaf.value, (head, c, upstream), is_leaf=is_primal)
    if others_move:
        return total_of(losses_of(head, c, chunks), upstream), (None, (head, c, upstream))
    losses, gradients = losses_and_gradients(head, c, upstream, chunks)
    return xp.sum(losses), (gradients, jax.tree.map(jnp.zeros_like, (c, upstream)))


def backward(chunks: Chunks, kept: Any, slope: Any) -> Any:
    gradients, rest = kept
    if isinstance(slope, jax.custom_derivatives.SymbolicZero):
        slope = jnp.zeros(slope.shape, slope.dtype)
    if gradients is None:

        def again(head: Head, c: RowCoefficients, upstream: Any) -> Any:
            return total_of(losses_of(head, c, chunks), upstream)

        return jax.vjp(again, *rest)[1](slope)
    scaled = jax.tree.map(lambda part: (slope * part).astype(part.dtype), gradients)
    return scaled, *jax.tree.map(no_slope, rest)


def is_primal(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.CustomVJPPrimal)


def no_slope(array: Any) -> Any:
    return array if jnp.issubdtype(array.dtype, jnp.floating) else np.zeros(array.shape, jax.dtypes.float0)


total.defvjp(forward, backward, symbolic_zeros=True)


# -- the library's functions -------------------------------------------------------------------------------------------


def problem(
    features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions, *, summary: bool = False
) -> tuple[Head, Rows, Chunks]:
    features, weight = as_floating("features", features), as_floating("weight", weight)
    bias = None if bias is None else as_floating("bias", bias)
    layout = linear_layout(features.shape, weight.shape, None if bias is None else bias.shape)
    logits = jax.ShapeDtypeStruct(layout.shape, working_dtype(features, weight))
    rows = Rows.unread(logits, target, options, summary=summary)
    head = Head(jnp.reshape(features, (layout.count, weight.shape[1])), weight, bias)
    budget = MEMORY_BUDGET if options.memory_budget is None else options.memory_budget
    return head, rows, chunks_within(budget, head, rows.coefficients)


def factors(rows: Rows) -> Any:
    """What each row counts in the value, (rows,)."""
    return jnp.broadcast_to(rows.upstream(), (rows.layout.count,))


def linear_cross_entropy(features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions) -> Any:
    head, rows, chunks = problem(features, weight, target, bias, options)
    if options.reduction != "none":
        return total(head, rows.coefficients, factors(rows), chunks)
    losses = losses_of(head, rows.coefficients, chunks)
    return rows.value(rows.factors().value(losses, rows.coefficients.valid))


def linear_cross_entropy_value_and_grad(
    features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions, out: Any
) -> tuple[Any, list[Any]]:
    refuse_output(out)
    head, rows, chunks = problem(features, weight, target, bias, options)
    upstream = factors(rows)
    losses, gradients = losses_and_gradients(head, rows.coefficients, upstream, chunks)
    # Row weight and unit are in the factors already, and so is the denominator.
    value = rows.value(losses if options.reduction == "none" else xp.sum(losses))
    parts = [jnp.reshape(gradients.features, jnp.shape(features)), gradients.weight]
    return value, parts if bias is None else [*parts, gradients.bias]


def linear_row_summary(features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions) -> Any:
    """lse, log-probability of the target (None without one), entropy, prediction; each of the shape of the rows."""
    head, rows, chunks = problem(features, weight, target, bias, options, summary=True)

    def step(_: None, number: Any) -> tuple[None, Any]:
        first = jnp.minimum(number * chunks.size, chunks.rows - chunks.size)
        place = first + jnp.arange(chunks.size)
        c = rows.coefficients.rows(place)
        # Features of rows without a target are read: lse, entropy and prediction are of every row.
        logits = head.logits(head.features[place], c)
        return None, (place, summaries(logits, c, has_target=target is not None))

    _, (place, parts) = jax.lax.scan(step, None, jnp.arange(chunks.count))

    def placed(part: Any) -> Any:
        return jnp.zeros(chunks.rows, part.dtype).at[jnp.ravel(place)].set(jnp.ravel(part))

    return shaped_summary(rows, jax.tree.map(placed, parts))
