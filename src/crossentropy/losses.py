"""The loss functions: signature, docstring, and a body that hands over to the array's library."""

from __future__ import annotations

from typing import Any, NamedTuple

import crossentropy.libraries  # noqa: F401  (library_of loads its members)
from crossentropy.arrays import library_of
from crossentropy.options import BinaryOptions, LossOptions, make_options, reader_of, takes_options_of


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    axis: int = -1,
    inputs: str = "logits",
    class_weight: Any = None,
    row_weight: Any = None,
    class_mask: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    class_bias: Any = None,
    reduction: str = "mean",
    normalizer: Any = "weight",
    unit: str = "nats",
    num_threads: int | None = None,
    check_labels: bool = False,
) -> Any:
    """Softmax cross-entropy between logits and a target.

    For one row with logits z and target q (q = one-hot for a class label):

        loss = log(sum_j exp(z_j)) sum_j q_j - sum_j q_j z_j

    which is -log p_y for a label y, p = softmax(z). It is computed as a sum of non-negative terms, so that a small loss
    keeps all its digits: logits [20, 0, 0] with target 0 cost 4.122307e-09 in float32, not 0.

    Parameters
    ----------
    logits : array, shape (..., C) with the C classes along `axis`, floating
        Any scale; -inf is a class that cannot occur. Never written to.
    target : array or (indices, values)
        Class labels: integers, the shape of logits without the class axis. Or a dense target of the shape of logits:
        floats >= 0 whose rows need not sum to 1, or an integer or boolean one-hot. Or a sparse soft target: two arrays
        with k entries in place of the C classes.
    axis : int
        The class axis of logits.
    inputs : {"logits", "log_probs", "probs"}
        What `logits` holds. Log-probabilities and probabilities are taken as they are, loss = -sum_j q_j log p_j: no
        clipping, no renormalising; a probability of 0 on the target costs +inf.
    class_weight : array (C,), >= 0, optional
        w: the target's mass of class j counts w_j times.
    row_weight : array, broadcastable to the rows, >= 0, optional
        Factor of the row's loss. 0 means ignored: the row is not read.
    class_mask : boolean array, (C,) or the shape of logits, optional
        True = the class can occur.
    ignore_index : int or None
        Rows with this label are ignored; so are sparse entries with this index.
    label_smoothing : float in [0, 1)
        Share of the row's target mass that is spread evenly over the allowed classes.
    focal_gamma : float >= 0
        Labels only: the loss l becomes l (1 - exp(-l))^gamma.
    z_loss : float >= 0
        Adds z_loss * lse^2, lse = log sum_j exp(z_j).
    softcap : float > 0, optional
        Logits become softcap * tanh(logits / softcap), after temperature and bias.
    temperature : float > 0
        Logits are divided by it.
    class_bias : array (C,), optional
        Added to the logits after the temperature (logit adjustment).
    reduction : {"mean", "sum", "none"}
    normalizer : {"weight", "rows"}, number or array
        What "mean" divides by: the sum of row_weight * sum_j class_weight_j t_j over the rows that count; their number;
        or what is given (the total over all micro-batches, say). A denominator of 0 gives 0.
    unit : {"nats", "bits"}
    num_threads : int, optional
        At most this many threads; None = every core. The result has the same bits for any number.
    check_labels : bool
        Wait for labels on a device, and raise if one is no class. Without it they are not waited for, and value and
        gradient of such a row are NaN. Labels in the CPU's memory are always checked, those under a tracer or vmap
        never.

    Returns
    -------
    array, shape () for "mean" and "sum", that of the rows for "none"
        float32 for 16-bit logits, else the dtype of logits. An ignored row costs 0; no rows, or only ignored ones, give
        0. A row with a NaN or +inf logit, or with no class that can occur, is NaN.

    Raises
    ------
    IndexError
        A label outside [0, C) that is not `ignore_index`; with position, value and range.
    ValueError, TypeError
        Shapes that do not fit, float labels, negative or NaN weights and targets, probabilities outside [0, 1], options
        without a joint meaning.

    Examples
    --------
    >>> import crossentropy as xe
    >>> float(xe.cross_entropy([[2.0, 1.0, 0.1], [0.0, 3.0, 0.0]], [0, 2]))
    1.7559764863493972
    >>> xe.cross_entropy([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], [0, 2], inputs="probs", reduction="none")
    array([0.35667494,        inf])

    Source: Bishop 2006, Pattern Recognition and Machine Learning, section 4.3.4; the options' sources are in
    ``row_loss``.
    """
    options = loss_options(
        axis,
        inputs,
        class_weight,
        row_weight,
        class_mask,
        ignore_index,
        label_smoothing,
        focal_gamma,
        z_loss,
        softcap,
        temperature,
        class_bias,
        reduction,
        normalizer,
        unit,
        num_threads,
        check_labels,
    )
    return library_of(logits, target).cross_entropy(logits, target, options)


loss_options = reader_of(LossOptions, cross_entropy)


@takes_options_of(cross_entropy)
def cross_entropy_value_and_grad(logits: Any, target: Any, *, out: Any = None, **options: Any) -> tuple[Any, Any]:
    """``cross_entropy`` and its gradient with respect to `logits`, from one pass.

    For one row with softmax p and target q of mass s: gradient = s p - q, which is p - t for a distribution t.

    Parameters
    ----------
    logits, target, **options
        As in ``cross_entropy``.
    out : array, optional
        Takes the gradient: shape and dtype of logits. May be `logits` itself, which is then overwritten.

    Returns
    -------
    value : array
        ``cross_entropy(logits, target, **options)``.
    gradient : array, shape and dtype of logits
        Of the value; of its sum for reduction "none". With respect to the array given: -q for `inputs` "log_probs", -q
        / p for "probs". 0 for ignored rows.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in ``cross_entropy``, before `out` is written.

    Examples
    --------
    >>> import crossentropy as xe
    >>> value, gradient = xe.cross_entropy_value_and_grad([[20.0, 0.0, 0.0]], [0])
    >>> float(value)
    4.1223072363804075e-09
    >>> gradient
    array([[-4.12230723e-09,  2.06115361e-09,  2.06115361e-09]])
    """
    return library_of(logits, target).cross_entropy_value_and_grad(
        logits, target, make_options(LossOptions, options), out
    )


@takes_options_of(cross_entropy)
def cross_entropy_hvp(logits: Any, target: Any, vector: Any, **options: Any) -> Any:
    """The Hessian of ``cross_entropy`` to the logits, times a vector.

    For one row of a plain loss: H v = p (v - p.v), the Hessian being diag(p) - p p^T, which is positive semi-definite.

    Parameters
    ----------
    logits, target, **options
        As in ``cross_entropy``.
    vector : array, shape of logits

    Returns
    -------
    array, shape and dtype of logits

    Raises
    ------
    IndexError, ValueError, TypeError
        As in ``cross_entropy``; a vector of another shape.

    Examples
    --------
    >>> import crossentropy as xe
    >>> xe.cross_entropy_hvp([[0.0, 0.0]], [0], [[1.0, 0.0]])
    array([[ 0.25, -0.25]])
    """
    return library_of(logits, target).cross_entropy_hvp(logits, target, vector, make_options(LossOptions, options))


class RowSummary(NamedTuple):
    """What ``row_statistics`` returns; each of the shape of the rows."""

    lse: Any
    target_log_prob: Any
    entropy: Any
    prediction: Any


def row_statistics(
    logits: Any,
    target: Any = None,
    *,
    axis: int = -1,
    inputs: str = "logits",
    class_mask: Any = None,
    ignore_index: int | None = -100,
    softcap: float | None = None,
    temperature: float = 1.0,
    class_bias: Any = None,
    unit: str = "nats",
    num_threads: int | None = None,
) -> RowSummary:
    """Log-sum-exp, log-probability of the target, entropy and prediction of every row, from one read of the logits.

        lse = log sum_j exp(z_j),  target_log_prob = sum_j t_j log p_j,  entropy = -sum_j p_j log p_j,  prediction =
        argmax_j z_j

    Parameters
    ----------
    logits, target, axis, inputs, class_mask, ignore_index, softcap, temperature, class_bias, unit, num_threads
        As in ``cross_entropy``; `target` may be left out.

    Returns
    -------
    RowSummary(lse, target_log_prob, entropy, prediction)
        Arrays of the shape of the rows. `target_log_prob` is None without a target, and 0 where the target is ignored;
        the other three are of every row. `prediction` is the first of equal maxima, int64; -1 for an undefined row,
        whose numbers are NaN.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in ``cross_entropy``.

    Examples
    --------
    >>> import crossentropy as xe
    >>> summary = xe.row_statistics([[0.0, 0.0, 0.0], [20.0, 0.0, 0.0]], [1, 0])
    >>> summary.target_log_prob
    array([-1.09861229e+00, -4.12230724e-09])
    >>> summary.prediction
    array([0, 0])
    """
    options = statistics_options(
        axis,
        inputs,
        class_mask,
        ignore_index,
        softcap,
        temperature,
        class_bias,
        unit,
        num_threads,
    )
    return RowSummary(*library_of(logits, target).row_summary(logits, target, options))


statistics_options = reader_of(LossOptions, row_statistics)


def binary_cross_entropy(
    logits: Any,
    target: Any,
    *,
    inputs: str = "logits",
    pos_weight: Any = None,
    row_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    reduction: str = "mean",
    normalizer: Any = "weight",
    unit: str = "nats",
    num_threads: int | None = None,
) -> Any:
    """Sigmoid cross-entropy: one independent yes or no per element (binary and multi-label classification).

    For one element with logit x and target t, and sp(x) = log(1 + exp(x)):

        loss = pos_weight t sp(-x) + (1 - t) sp(x) = -pos_weight t log p - (1 - t) log(1 - p),  p = sigmoid(x)

    Parameters
    ----------
    logits : array, any shape, floating
        +-inf is the limit: a certain prediction costs 0 where it is right and +inf where it is wrong. Never written to.
    target : array of the shape of logits, in [0, 1], boolean or integer 0 / 1
    inputs : {"logits", "log_probs", "probs"}
        What `logits` holds: logits, or the (log-)probability of the positive class, taken as it is.
    pos_weight, row_weight : array >= 0 that broadcasts to the shape of logits, optional
        Factor of the positive term; factor of the element's loss, where 0 means ignored.
    ignore_index : int or None
        Elements with this target are ignored.
    label_smoothing : float in [0, 1)
        The target becomes t (1 - label_smoothing) + label_smoothing / 2.
    focal_gamma : float >= 0
        Targets 0 and 1 only: each term l becomes l (1 - exp(-l))^gamma.
    reduction : {"mean", "sum", "none"}
    normalizer : {"weight", "rows"}, number or array
        What "mean" divides by: the sum of row_weight over the elements that count; their number; or what is given.
    unit : {"nats", "bits"}
    num_threads : int, optional

    Returns
    -------
    array, shape () for "mean" and "sum", that of logits for "none"
        float32 for 16-bit logits, else the dtype of logits.

    Raises
    ------
    ValueError, TypeError
        Shapes that differ (nothing is broadcast but weights), targets or probabilities outside [0, 1], negative or NaN
        weights.

    Examples
    --------
    >>> import crossentropy as xe
    >>> float(xe.binary_cross_entropy([0.0, 40.0], [1, 1], reduction="sum"))
    0.6931471805599453
    >>> xe.binary_cross_entropy([40.0, -40.0], [1, 1], reduction="none")
    array([4.24835426e-18, 4.00000000e+01])

    Source: Bishop 2006, Pattern Recognition and Machine Learning, section 4.3.2.
    """
    options = binary_options(
        inputs,
        pos_weight,
        row_weight,
        ignore_index,
        label_smoothing,
        focal_gamma,
        reduction,
        normalizer,
        unit,
        num_threads,
    )
    return library_of(logits, target).binary_cross_entropy(logits, target, options)


binary_options = reader_of(BinaryOptions, binary_cross_entropy)


@takes_options_of(binary_cross_entropy)
def binary_cross_entropy_value_and_grad(
    logits: Any, target: Any, *, out: Any = None, **options: Any
) -> tuple[Any, Any]:
    """``binary_cross_entropy`` and its gradient with respect to `logits`, which is p - t for a plain loss.

    Parameters
    ----------
    logits, target, **options
        As in ``binary_cross_entropy``.
    out : array, optional
        Takes the gradient: shape and dtype of logits. May be `logits` itself, which is then overwritten.

    Returns
    -------
    value : array
        ``binary_cross_entropy(logits, target, **options)``.
    gradient : array, shape and dtype of logits
        Of the value; of its sum for reduction "none". 0 for ignored elements.

    Raises
    ------
    ValueError, TypeError
        As in ``binary_cross_entropy``.

    Examples
    --------
    >>> import crossentropy as xe
    >>> value, gradient = xe.binary_cross_entropy_value_and_grad([0.0, 0.0], [1, 0], reduction="sum")
    >>> gradient
    array([-0.5,  0.5])
    """
    return library_of(logits, target).binary_cross_entropy_value_and_grad(
        logits, target, make_options(BinaryOptions, options), out
    )
