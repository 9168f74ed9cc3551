"""The loss of a linear classifier, features @ weight.T + bias, without the memory of its logits."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import crossentropy.libraries  # noqa: F401  (library_of loads its members)
from crossentropy.arrays import library_of
from crossentropy.losses import RowSummary, cross_entropy, row_statistics
from crossentropy.options import LinearOptions, make_options, takes_options_of

# The options of row_statistics that the linear form has too.
STATISTICS_OPTIONS = list(inspect.signature(row_statistics).parameters)[3:]  # after logits, target and axis


class LinearGradients(NamedTuple):
    """Gradients of ``linear_cross_entropy``; ``bias`` is None where none was given."""

    features: Any
    weight: Any
    bias: Any = None


@takes_options_of(cross_entropy, without=("axis",))
def linear_cross_entropy(
    features: Any, weight: Any, target: Any, *, bias: Any = None, memory_budget: int | None = None, **options: Any
) -> Any:
    """Softmax cross-entropy of the logits features @ weight.T + bias, which never exist all at once.

    The same result as ``cross_entropy(features @ weight.T + bias, target, **options)``, to the precision of the
    products: chunks of rows are multiplied into one buffer, whose loss is taken there. 8,192 tokens of a vocabulary of
    128,256 words have 4 GB of float32 logits, and as much gradient; here they need `memory_budget`.

    Parameters
    ----------
    features : array, shape (..., D), floating
        What the last layer of a model gets. Features of rows that are ignored are not read: NaN there reaches nothing.
    weight : array, shape (C, D), floating
        One row for each of the C classes, as in torch.nn.Linear.
    target : array or (indices, values)
        As in ``cross_entropy`` for logits of shape (..., C).
    bias : array (C,), floating, optional
    memory_budget : int, optional
        Bytes of working memory: the logits of a chunk, which become their own gradient, and what belongs to them.
        Default 256,000,000; on a GPU 1,000,000,000. Gradients, and the float32 sums that a 16-bit gradient is rounded
        from, come on top. Where it does not hold one row of logits, the classes come in blocks, at a cost in time.
    **options
        As in ``cross_entropy``, but for `axis`: the classes are last. `num_threads` is for the loss; the products use
        as many threads as their library is set to.

    Returns
    -------
    array, shape () for "mean" and "sum", that of features without D for "none"
        float64 where features or weight are float64, else float32: the products of 16-bit numbers are float32.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in ``cross_entropy``; shapes of features, weight and bias that do not fit; a memory_budget that does not hold
        one row of 256 classes.

    Examples
    --------
    >>> import crossentropy as xe
    >>> features, weight = [[1.0, 2.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    >>> float(xe.linear_cross_entropy(features, weight, [2, 0], bias=[0.0, 0.0, -1.0]))
    0.7711322373499928

    Source: Hsu et al. 2024, Liger Kernel, https://arxiv.org/abs/2410.10989 (chunks of rows); the row's loss is derived
    in ``row_loss``.
    """
    options = {"memory_budget": memory_budget, **options}
    return library_of(features, weight, target).linear_cross_entropy(
        features, weight, target, bias, make_options(LinearOptions, options)
    )


@takes_options_of(cross_entropy, without=("axis",))
def linear_cross_entropy_value_and_grad(
    features: Any,
    weight: Any,
    target: Any,
    *,
    bias: Any = None,
    memory_budget: int | None = None,
    out: Any = None,
    **options: Any,
) -> tuple[Any, LinearGradients]:
    """``linear_cross_entropy`` and its gradients with respect to features, weight and bias.

    With G the gradient to the logits: d features = G weight, d weight = G^T features, d bias = the sum of G's rows.

    Parameters
    ----------
    features, weight, target, bias, memory_budget, **options
        As in ``linear_cross_entropy``.
    out : (features, weight) or (features, weight, bias), optional
        Arrays that take the gradients, of their shapes and dtypes; None among them stands for a fresh one.

    Returns
    -------
    value : array
        ``linear_cross_entropy(features, weight, target, **options)``.
    gradients : LinearGradients(features, weight, bias)
        Of the value; of its sum for reduction "none". Each has the shape and dtype of its argument; sums are taken in
        float32 at least, and a 16-bit gradient is rounded once.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in ``linear_cross_entropy``.

    Examples
    --------
    >>> import crossentropy as xe
    >>> value, gradients = xe.linear_cross_entropy_value_and_grad([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [1])
    >>> gradients.features
    array([[ 0.26894142, -0.26894142]])
    >>> gradients.weight
    array([[ 0.26894142,  0.53788284],
           [-0.26894142, -0.53788284]])
    """
    options = {"memory_budget": memory_budget, **options}
    value, gradients = library_of(features, weight, target).linear_cross_entropy_value_and_grad(
        features, weight, target, bias, make_options(LinearOptions, options), out
    )
    return value, LinearGradients(*gradients)


@takes_options_of(row_statistics, without=("axis",))
def linear_row_statistics(
    features: Any,
    weight: Any,
    target: Any = None,
    *,
    bias: Any = None,
    memory_budget: int | None = None,
    **options: Any,
) -> RowSummary:
    """``row_statistics`` of the logits features @ weight.T + bias, which never exist all at once.

    The log-sum-exp, log-probability of the target, entropy and prediction of every token: what perplexity and
    reinforcement learning ask of a language model.

    Parameters
    ----------
    features, weight, target, bias, memory_budget
        As in ``linear_cross_entropy``; `target` may be left out.
    **options
        As in ``row_statistics``, but for `axis`: the classes are last.

    Returns
    -------
    RowSummary(lse, target_log_prob, entropy, prediction)
        As from ``row_statistics``.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in ``linear_cross_entropy``.

    Examples
    --------
    >>> import crossentropy as xe
    >>> summary = xe.linear_row_statistics([[1.0, 2.0], [3.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [1, 1])
    >>> summary.prediction
    array([1, 0])
    >>> summary.target_log_prob
    array([-0.31326169, -3.04858735])
    """
    unknown = options.keys() - STATISTICS_OPTIONS
    if unknown:
        names = ", ".join(STATISTICS_OPTIONS)
        raise TypeError(f"unknown option {min(unknown)!r}; the options are {names}, memory_budget")
    options = {"memory_budget": memory_budget, **options}
    return RowSummary(
        *library_of(features, weight, target).linear_row_summary(
            features, weight, target, bias, make_options(LinearOptions, options)
        )
    )
