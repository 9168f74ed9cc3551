"""optax's classification losses by name, arguments and results, computed by ``crossentropy``: one loss per example.

Import this module in place of ``optax.losses``. It needs JAX, not optax. What differs, and is meant to (each in
tests/jax/test_optax.py):

| case                                             | optax 0.2.8                    | here                            |
|--------------------------------------------------|--------------------------------|---------------------------------|
| small losses: logits [20, 0, 0], label 0         | 0                              | 4.122307e-09, gradient as exact |
| label -1, or beyond the last class               | the last class; NaN            | IndexError; NaN when traced     |
| a logit -inf without a share of the target       | NaN (not in the "safe" form)   | probability 0, counts nothing   |
| a negative label, or NaN                         | computed with                  | ValueError; NaN when traced     |
| 16-bit logits                                    | a 16-bit loss                  | a float32 loss of the 16 bits   |
| `where` leaves out the labelled class            | log-sum of the others - logit  | +inf: it cannot occur           |
| focal loss: derivative to a label that is 0 or 1 | without the focal weight's     | the derivative                  |
| prediction 0 (log -inf) where the target is 0    | `kl_divergence` NaN            | 0                               |
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from crossentropy.distributions import sigmoid
from crossentropy.losses import binary_cross_entropy, cross_entropy

__all__ = [
    "kl_divergence",
    "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]


def softmax_cross_entropy(logits: Any, labels: Any, axis: Any = -1, where: Any = None) -> Any:
    """-sum_j labels_j log softmax(logits)_j along `axis`.

    Parameters
    ----------
    logits : array (..., C), floating
    labels : array >= 0 that broadcasts to the shape of logits; rows need not sum to 1
    axis : int, tuple of ints or None
        The classes; several axes count as one, None as all.
    where : boolean array, optional
        Elements that take part: the shape of logits, or of the result for whole rows. A row of none costs 0.

    Returns
    -------
    array, shape of logits without `axis`; float32 for 16-bit logits

    Raises
    ------
    ValueError
        A label that is negative or NaN, with its position.

    Examples
    --------
    >>> import crossentropy.optax
    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.array([[20.0, 0.0, 0.0]]), jnp.array([[1.0, 0.0, 0.0]])
    >>> print(crossentropy.optax.softmax_cross_entropy(logits, labels))
    [4.1223074e-09]
    """
    logits = jnp.asarray(logits)
    where = whole_rows(logits, axis, where)
    labels = jnp.broadcast_to(jnp.asarray(labels), logits.shape)
    if where is not None:
        labels = jnp.where(where, labels, jnp.zeros_like(labels))
    return cross_entropy(classes_last(logits, axis), classes_last(labels, axis), **masked(where, axis))


def softmax_cross_entropy_with_integer_labels(logits: Any, labels: Any, axis: Any = -1, where: Any = None) -> Any:
    """-log softmax(logits) at the label, along `axis`.

    Parameters
    ----------
    logits : array (..., C), floating
    labels : integer array, shape of logits without `axis`, in [0, C); with several axes the index in their order
    axis : int or tuple of ints
    where : boolean array, optional
        As in ``softmax_cross_entropy``.

    Returns
    -------
    array, shape of labels; float32 for 16-bit logits

    Raises
    ------
    IndexError
        A label outside [0, C), with its position; NaN in loss and gradient where labels are traced.

    Examples
    --------
    >>> import crossentropy.optax
    >>> import jax.numpy as jnp
    >>> loss = crossentropy.optax.softmax_cross_entropy_with_integer_labels
    >>> print(loss(jnp.array([[0.0, 0.0], [0.0, jnp.inf * -1]]), jnp.array([1, 0])))
    [0.6931472 0.       ]
    """
    logits = jnp.asarray(logits)
    where = whole_rows(logits, axis, where)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels must be integers, got dtype {labels.dtype}; for one-hot ones use softmax_cross_entropy"
        )
    return cross_entropy(classes_last(logits, axis), labels, **masked(where, axis))


def safe_softmax_cross_entropy(logits: Any, labels: Any) -> Any:
    """``softmax_cross_entropy`` over the last axis. There is no other form here: 0 log 0 is 0 in both.

    Examples
    --------
    >>> import crossentropy.optax
    >>> import jax.numpy as jnp
    >>> print(crossentropy.optax.safe_softmax_cross_entropy(jnp.array([0.0, -jnp.inf]), jnp.array([1.0, 0.0])))
    0.0
    """
    return softmax_cross_entropy(logits, labels)


def sigmoid_binary_cross_entropy(logits: Any, labels: Any) -> Any:
    """-labels log sigmoid(logits) - (1 - labels) log sigmoid(-logits), elementwise.

    Parameters
    ----------
    logits : array, floating
    labels : array in [0, 1] that broadcasts with logits

    Returns
    -------
    array of the broadcast shape; float32 for 16-bit logits

    Raises
    ------
    ValueError
        A label outside [0, 1], with its position.

    Examples
    --------
    >>> import crossentropy.optax
    >>> import jax.numpy as jnp
    >>> print(crossentropy.optax.sigmoid_binary_cross_entropy(jnp.array([0.0, 40.0]), jnp.array([1, 1])))
    [6.931472e-01 4.248354e-18]
    """
    logits, labels = jnp.broadcast_arrays(jnp.asarray(logits), jnp.asarray(labels))
    return binary_cross_entropy(logits, labels, ignore_index=None, reduction="none")


def sigmoid_focal_loss(logits: Any, labels: Any, *, alpha: Any = None, gamma: Any = 2.0) -> Any:
    """``sigmoid_binary_cross_entropy`` times (1 - p_t)^gamma, 1 - p_t = labels (1 - p) + (1 - labels) p.

    Parameters
    ----------
    logits : array, floating
    labels : array in [0, 1] that broadcasts with logits; soft labels are allowed, as in optax
    alpha : float or array in [0, 1], optional
        Times alpha labels + (1 - alpha) (1 - labels).
    gamma : float or array >= 0

    Returns
    -------
    array of the broadcast shape; float32 for 16-bit logits

    Raises
    ------
    ValueError
        A label outside [0, 1], with its position.

    Examples
    --------
    >>> import crossentropy.optax
    >>> import jax.numpy as jnp
    >>> print(crossentropy.optax.sigmoid_focal_loss(jnp.array([0.0]), jnp.array([1.0]), alpha=0.25))
    [0.0433217]

    Source: Lin et al. 2017, https://arxiv.org/abs/1708.02002.
    """
    loss = sigmoid_binary_cross_entropy(logits, labels)
    x, t = jnp.asarray(logits).astype(loss.dtype), jnp.asarray(labels).astype(loss.dtype)
    # Two terms >= 0, where 1 - p_t would cancel.
    miss = t * sigmoid(-x) + (1.0 - t) * sigmoid(x)
    # A miss of 0 has no derivative as a power below 1: the loss beside it is 0 as well.
    weight = jnp.where(miss > 0, jnp.where(miss > 0, miss, 1.0) ** gamma, jnp.where(jnp.equal(gamma, 0), 1.0, 0.0))
    balance = 1.0 if alpha is None else alpha * t + (1.0 - alpha) * (1.0 - t)
    return loss * weight * balance


def kl_divergence(log_predictions: Any, targets: Any, axis: Any = -1, where: Any = None) -> Any:
    """sum_j targets_j (log targets_j - log_predictions_j) along `axis`; terms with target 0 are 0.

    Parameters
    ----------
    log_predictions, targets : floating arrays of one shape; log-probabilities, and probabilities
    axis : int, tuple of ints or None
    where : boolean array, optional
        Elements that take part.

    Returns
    -------
    array, shape of targets without `axis`

    Examples
    --------
    >>> import crossentropy.optax
    >>> import jax.numpy as jnp
    >>> print(crossentropy.optax.kl_divergence(jnp.array([0.0, -jnp.inf]), jnp.array([1.0, 0.0])))
    0.0
    """
    log_predictions, targets = jnp.asarray(log_predictions), jnp.asarray(targets)
    counts = targets != 0
    log_targets = jnp.log(jnp.where(counts, targets, 1.0))
    terms = targets * (log_targets - jnp.where(counts, log_predictions, 0.0))
    return jnp.sum(terms, axis=axis, where=where)


def smooth_labels(labels: Any, alpha: Any, *, axis: Any = -1, where: Any = None) -> Any:
    """(1 - alpha) labels + alpha / C, C the number of classes along `axis` (that take part, with `where`).

    Examples
    --------
    >>> import crossentropy.optax
    >>> import jax.numpy as jnp
    >>> print(crossentropy.optax.smooth_labels(jnp.array([1.0, 0.0]), 0.5))
    [0.75 0.25]
    """
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(f"labels must be floating, got dtype {labels.dtype}; use labels.astype(float)")
    classes = jnp.size(labels, axis) if where is None else jnp.sum(where, axis, keepdims=True)
    return (1.0 - alpha) * labels + alpha / classes


# -- optax's axes and `where` as ours ----------------------------------------------------------------------------------


def axes_of(axis: Any, ndim: int) -> tuple[int, ...]:
    given = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    for one in given:
        if not isinstance(one, int) or not -ndim <= one < ndim:
            raise ValueError(f"axis {axis!r} is out of range for logits of {ndim} dimensions")
    return tuple(one % ndim for one in given)


def classes_last(array: Any, axis: Any) -> Any:
    """The class axes, in their order, as one at the end."""
    axes = axes_of(axis, array.ndim)
    rows = [i for i in range(array.ndim) if i not in axes]
    shape = [array.shape[i] for i in rows]
    return jnp.reshape(jnp.transpose(array, (*rows, *axes)), (*shape, math.prod(array.shape[i] for i in axes)))


def whole_rows(logits: Any, axis: Any, where: Any) -> Any:
    """`where` in the shape of logits; given in the shape of the result, it takes whole rows."""
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.ndim != logits.ndim:
        where = jnp.expand_dims(where, axes_of(axis, logits.ndim))
    return jnp.broadcast_to(where, logits.shape)


def masked(where: Any, axis: Any) -> dict[str, Any]:
    """Options of ``cross_entropy``: per example, every label is a class, and a row of which nothing counts costs 0."""
    options: dict[str, Any] = {"ignore_index": None, "reduction": "none"}
    if where is not None:
        mask = classes_last(where, axis)
        options |= {"class_mask": mask, "row_weight": jnp.any(mask, axis=-1).astype(jnp.float32)}
    return options
