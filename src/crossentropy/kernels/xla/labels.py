"""The plain loss of class labels for XLA's compilers: one maximum, one sum, one write of the gradient.

A label's own class can be left out of the sum by its position, so that no entry is compared with the maximum and none
is counted. With r = z_y - m and A = sum_{j != y} exp(z_j - m):

    S = A where r = 0, else A + e^r - 1      everything but one maximum, so that sum_j exp(z_j - m) = 1 + S
    loss = log1p(S) - r,    p_j = exp(z_j - m) / (1 + S),    p_y - 1 = -A / (1 + S)

It is the form of ``row_loss`` with n = 1: a sum of non-negative terms, and no cancellation in p_y - 1. (Where r < 0 the
maximum is in A, so A >= 1, and what e^r - 1 rounds is nothing beside -r.)

What decides the cost is which operations XLA's CPU compiler takes into the loop of a sum (``total``), and that nothing
of the size of the logits is shared between the sum and the gradient, since what is shared is written to memory.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from crossentropy.kernels.xla.sums import add_in_pairs, pairwise_sum, stretches, without_first
from crossentropy.row_loss import RowCoefficients

FEW, MANY = 16, 8192  # classes


def is_plain(c: RowCoefficients) -> bool:
    """Labels alone, of the logits as they are; class weights and ignored rows change no sum."""
    return (
        c.inputs == "logits"
        and (c.indices is not None and c.indices.shape[-1] == 1)
        and (c.dense is None and c.class_bias is None and c.class_mask is None and c.softcap is None)
        and (c.temperature == 1.0 and not (c.label_smoothing or c.focal_gamma or c.z_loss))
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelStatistics:
    """Of each row, (rows,)."""

    maximum: Any  # m
    distance: Any  # r
    others: Any  # A
    defined: Any  # False where value and gradient are NaN

    @property
    def rest(self) -> Any:
        """S."""
        return self.others + jnp.where(self.distance == 0, 0.0, jnp.exp(self.distance) - 1.0)


@jax.jit
def label_statistics(x: Any, labels: Any) -> LabelStatistics:
    """Of (rows, classes) logits in the working precision and (rows,) labels."""
    maximum = jnp.max(x, axis=-1)
    found = (labels >= 0) & (labels < x.shape[-1])
    label_logit = jnp.take_along_axis(x, jnp.where(found, labels, 0)[:, None], axis=-1)[:, 0]
    # A product that the caller's logits are is not to be fused with the difference: r = 0 has to be seen.
    distance = jnp.where(label_logit == -jnp.inf, -jnp.inf, jnp.maximum(label_logit, jnp.finfo(x.dtype).min) - maximum)
    defined = found & jnp.isfinite(maximum)
    # The select also ends what a library computes of the sum.
    others = jnp.where(defined, total(x, maximum, labels), jnp.nan)
    return LabelStatistics(maximum, distance, others, defined)


def total(x: Any, maximum: Any, labels: Any) -> Any:
    """A.

    Up to ``FEW`` classes XLA's own loop is fast; from ``MANY`` on, sixteen stretches of the row are added as vectors,
    which is pairwise as well. Between them the terms are arithmetic alone, without a select: jaxlib 0.10 leaves the sum
    to a library (YNNPACK) that computes no other, and would have the terms written to memory first.
    """
    classes, dtype = x.shape[-1], x.dtype
    # Where the error of x - m is asked for, x is kept from so low that the difference is finite; e^(x - m) is 0 there.
    low = jnp.finfo(dtype).min
    floor = jnp.where(maximum >= 0, jnp.minimum(maximum - 800.0, 0.0), jnp.maximum(2.0 * maximum - 800.0, low))
    m, floor, labels = maximum[:, None], floor[:, None], labels[:, None]

    def terms(z: Any, columns: Any) -> Any:
        power = jnp.exp(z - m) * (1.0 + difference_error(jnp.maximum(z, floor), m))
        if classes >= MANY:  # as integers: float32 counts to 2^24 alone
            return jnp.where(columns == labels, 0.0, power)
        return power * jnp.minimum(jnp.abs(columns.astype(dtype) - labels.astype(dtype)), 1.0)

    columns = jnp.arange(classes, dtype=labels.dtype)
    if classes <= FEW:
        return jax.lax.reduce(terms(x, columns), jnp.zeros((), dtype), own_sum, (1,))
    if classes < MANY:
        return jnp.sum(terms(x, columns), axis=-1)
    parts = [without_first(terms(x[:, part], columns[part]), shared) for part, shared in stretches(classes)]
    return pairwise_sum(add_in_pairs(parts))


def difference_error(a: Any, b: Any) -> Any:
    """As ``row_loss.difference_error``, of finite numbers."""
    difference = a - b
    back = difference - a
    return (a - (difference - back)) - (b + back)


def own_sum(a: Any, b: Any) -> Any:
    """a + b of numbers >= 0, in a form that XLA does not leave to a library."""
    return jnp.maximum(a + b, 0.0)


def label_losses(x: Any, c: RowCoefficients) -> Any:
    """(rows,), in the dtype of x."""
    statistics = label_statistics(x, c.indices[:, 0])
    loss = jnp.log1p(statistics.rest) - statistics.distance
    weight = c.index_weight[:, 0]
    # 0 x inf: a class of weight 0 that cannot occur costs nothing.
    loss = jnp.where(statistics.defined, weight * jnp.where(weight == 0, 0.0, loss), jnp.nan)
    return loss if c.valid is None else jnp.where(c.valid, loss, 0.0)


def label_gradients(x: Any, c: RowCoefficients) -> Any:
    """b (p - e_y), (rows, classes)."""
    statistics = label_statistics(x, c.indices[:, 0])
    weight = c.index_weight[:, 0]
    scale = weight / (1.0 + statistics.rest)
    # x + (-m), since x - m would be shared with the sum.
    p = jnp.exp(x + (-statistics.maximum)[:, None]) * scale[:, None]
    own = jnp.arange(x.shape[-1]) == c.indices
    gradient = jnp.where(own, (-statistics.others * scale)[:, None], p)
    gradient = jnp.where(statistics.defined[:, None], gradient, jnp.nan)
    return gradient if c.valid is None else jnp.where(c.valid[:, None], gradient, 0.0)
