"""Distributions and their numbers: softmax, sigmoid, one-hot, entropy, KL divergence, perplexity.

Computed in float64 and returned in the dtype of the argument (float32 for 16-bit ones). In a function of two
distributions the true one comes first, as in H(t, p).
"""

from __future__ import annotations

from typing import Any

import crossentropy.libraries  # noqa: F401  (library_of loads its members)
from crossentropy.arrays import Layout, check_indices, check_unit_interval, is_integer, library_of, namespace_of
from crossentropy.kernels import generic
from crossentropy.options import integer, one_of
from crossentropy.reduction import NATS_PER_UNIT


def softmax(logits: Any, *, axis: int = -1) -> Any:
    """p_j = exp(z_j) / sum_k exp(z_k) along `axis`.

    Parameters
    ----------
    logits : array, shape (..., C), floating; any scale, -inf gives probability 0
    axis : int

    Returns
    -------
    array, shape of logits
        NaN along the axis for a NaN or +inf logit, or where all are -inf.

    Raises
    ------
    TypeError, ValueError
        Not floating; no class axis.

    Examples
    --------
    >>> import crossentropy as xe
    >>> xe.softmax([1000.0, 1001.0])
    array([0.26894142, 0.73105858])

    Source: Bridle 1990, Probabilistic interpretation of feedforward classification network outputs.
    """
    return library_of(logits).map_rows(generic.softmax, integer("axis", axis), True, logits=logits)


def log_softmax(logits: Any, *, axis: int = -1) -> Any:
    """log p_j = z_j - log sum_k exp(z_k) along `axis`, with all digits where p_j is close to 1.

    Parameters, results and errors as in ``softmax``.

    Examples
    --------
    >>> import crossentropy as xe
    >>> xe.log_softmax([0.0, 40.0])
    array([-4.00000000e+01, -4.24835426e-18])
    """
    return library_of(logits).map_rows(generic.log_softmax, integer("axis", axis), True, logits=logits)


def sigmoid(logits: Any) -> Any:
    """1 / (1 + exp(-x)), elementwise, exact in both tails.

    Parameters
    ----------
    logits : array, any shape, floating

    Returns
    -------
    array, shape of logits

    Examples
    --------
    >>> import crossentropy as xe
    >>> xe.sigmoid([-40.0, 0.0, 40.0])
    array([4.24835426e-18, 5.00000000e-01, 1.00000000e+00])
    """
    return library_of(logits).map_elements(generic.sigmoid, logits=logits)


def log_sigmoid(logits: Any) -> Any:
    """log(sigmoid(x)) = -log(1 + exp(-x)), elementwise, exact in both tails.

    Parameters
    ----------
    logits : array, any shape, floating

    Returns
    -------
    array, shape of logits

    Examples
    --------
    >>> import crossentropy as xe
    >>> xe.log_sigmoid([-1000.0, 40.0])
    array([-1.00000000e+03, -4.24835426e-18])
    """
    return library_of(logits).map_elements(generic.log_sigmoid, logits=logits)


def one_hot(labels: Any, num_classes: int, *, axis: int = -1, dtype: Any = None) -> Any:
    """1 at the label's class and 0 elsewhere, along a new axis.

    Parameters
    ----------
    labels : array, any shape, any integer dtype
    num_classes : int >= 1
        Never guessed from the labels: the largest class may be missing from them.
    axis : int
        Where the new axis stands in the result.
    dtype : dtype, optional
        float64 if not given.

    Returns
    -------
    array

    Raises
    ------
    IndexError
        A label outside [0, num_classes), with its position.
    TypeError, ValueError
        Labels that are no integers; num_classes below 1; an axis out of range.

    Examples
    --------
    >>> import crossentropy as xe
    >>> xe.one_hot([2, 0], 3)
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    library = library_of(labels)
    labels = library.as_array("labels", labels)
    xp = namespace_of(labels)
    num_classes, axis = integer("num_classes", num_classes), integer("axis", axis)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if not is_integer(labels) and 0 not in labels.shape:
        raise TypeError(
            f"labels must be integers, got dtype {labels.dtype}; use labels.astype(int), on a tensor labels.long()"
        )
    if not -labels.ndim - 1 <= axis <= labels.ndim:
        raise ValueError(f"axis {axis} is out of range for a result of {labels.ndim + 1} dimensions")
    layout = Layout((*labels.shape, num_classes), labels.ndim)
    check_indices(xp, "labels", xp.reshape(labels, (-1,)), layout)
    hot = labels[..., None] == xp.arange(num_classes)
    return xp.astype(xp.moveaxis(hot, -1, axis), xp.float64 if dtype is None else dtype)


def entropy(p: Any, *, axis: int = -1, unit: str = "nats") -> Any:
    """H(p) = -sum_j p_j log p_j along `axis`, 0 log 0 = 0: the least cross-entropy that a target p allows.

    Parameters
    ----------
    p : array, shape (..., C), in [0, 1]
    axis : int
    unit : {"nats", "bits"}

    Returns
    -------
    array, shape of p without the axis

    Raises
    ------
    ValueError
        An entry outside [0, 1], with its position.

    Examples
    --------
    >>> import crossentropy as xe
    >>> float(xe.entropy([0.5, 0.25, 0.25], unit="bits"))
    1.5

    Source: Shannon 1948, A mathematical theory of communication.
    """
    one_of(*NATS_PER_UNIT)("unit", unit)

    def rows(xp: Any, p: Any) -> Any:
        return (0.0 - xp.sum(p * xp.log(xp.where(p == 0, 1.0, p)), axis=-1)) / NATS_PER_UNIT[unit]

    return library_of(p).map_rows(rows, integer("axis", axis), False, probabilities=True, p=p)


def kl_divergence(t: Any, p: Any, *, axis: int = -1, unit: str = "nats") -> Any:
    """KL(t || p) = sum_j t_j log(t_j / p_j) along `axis`: what is paid for believing p where t is true.

    cross-entropy H(t, p) = H(t) + KL(t || p). The divergence of two close distributions keeps its digits.

    Parameters
    ----------
    t, p : arrays of one shape (..., C), in [0, 1]
        The true distribution first.
    axis : int
    unit : {"nats", "bits"}

    Returns
    -------
    array, shape of t without the axis
        +inf where p is 0 on something that t holds possible.

    Raises
    ------
    ValueError
        An entry outside [0, 1], with its position; shapes that differ.

    Examples
    --------
    >>> import crossentropy as xe
    >>> float(xe.kl_divergence([1.0, 0.0], [0.25, 0.75], unit="bits"))
    2.0

    Source: Kullback and Leibler 1951, On information and sufficiency.
    """
    one_of(*NATS_PER_UNIT)("unit", unit)

    divergence = library_of(t, p).map_rows(
        generic.divergence, integer("axis", axis), False, probabilities=True, t=t, p=p
    )
    return divergence if unit == "nats" else divergence / NATS_PER_UNIT[unit]


def perplexity(loss: Any, *, unit: str = "nats") -> Any:
    """exp(loss) for a loss in nats, 2^loss in bits: the number of equally likely classes that would cost as much.

    Parameters
    ----------
    loss : array, any shape
    unit : {"nats", "bits"}
        Of the loss.

    Returns
    -------
    array, shape of loss

    Examples
    --------
    >>> import crossentropy as xe
    >>> float(xe.perplexity(3.0, unit="bits"))
    8.0

    Source: Jelinek et al. 1977, Perplexity - a measure of the difficulty of speech recognition tasks.
    """
    one_of(*NATS_PER_UNIT)("unit", unit)
    return library_of(loss).map_elements(lambda xp, x: xp.exp(x) if unit == "nats" else xp.exp2(x), loss=loss)


def softmax_jacobian(p: Any) -> Any:
    """d p_i / d z_j = p_i (delta_ij - p_j) of softmax, from the probabilities.

    Parameters
    ----------
    p : array, shape (..., C), in [0, 1]

    Returns
    -------
    array, shape (..., C, C)
        C^2 numbers per row: for understanding and small cases. ``cross_entropy_hvp`` multiplies by it without forming
        it.

    Raises
    ------
    ValueError
        An entry outside [0, 1], with its position.

    Examples
    --------
    >>> import crossentropy as xe
    >>> xe.softmax_jacobian([0.25, 0.75])
    array([[ 0.1875, -0.1875],
           [-0.1875,  0.1875]])
    """
    library = library_of(p)
    p = library.as_floating("p", p)
    xp = namespace_of(p)
    if p.ndim == 0:
        raise ValueError("p must have a class axis, got a single number")
    check_unit_interval(xp, "p", p)
    work = xp.astype(p, library.WORK)
    one_hot_ = xp.astype(xp.eye(p.shape[-1], dtype=bool), library.WORK)
    jacobian = work[..., :, None] * (one_hot_ - work[..., None, :])
    return xp.astype(jacobian, library.result_dtype(p))
