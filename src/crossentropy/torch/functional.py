"""torch.nn.functional's losses; every option of ours is taken by keyword."""

from __future__ import annotations

from typing import Any

import torch

from crossentropy.libraries import torch as tensors
from crossentropy.options import BinaryOptions, LinearOptions, LossOptions, make_options


def reduction_name(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """What the two arguments say that PyTorch deprecated."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def check_tensor(input: Any) -> None:
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"input must be a tensor, got {type(input).__name__}; crossentropy's own functions take arrays")


def under_our_name(name: str, torch_name: str, value: Any, options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with PyTorch's argument in them, which has this name there."""
    if value is not None and options.get(name) is not None:
        raise TypeError(f"{torch_name} and {name} are two names of one argument; give one of them")
    return options if value is None else options | {name: value}


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    **options: Any,
) -> Any:
    """``torch.nn.functional.cross_entropy``: the softmax loss of logits (N, C, ...) or (C,).

    Parameters
    ----------
    input : tensor (N, C, d1, ...) or (C,), floating
        Logits.
    target : tensor
        Labels (N, d1, ...) or (), any integer dtype; or probabilities of the shape of input; or (indices, values).
    weight : tensor (C,), optional
        Class weights. The mean over labels divides by the sum of the labels' weights, that over probabilities by the
        number of rows, as PyTorch's do; ``normalizer`` changes both.
    size_average, reduce
        Deprecated by PyTorch; they mean what they mean there.
    ignore_index, reduction, label_smoothing, **options
        As in ``crossentropy.cross_entropy``.

    Returns
    -------
    tensor
        float32 for 16-bit input, else the dtype of input.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in ``crossentropy.cross_entropy``.

    Examples
    --------
    >>> import torch
    >>> from crossentropy.torch import cross_entropy
    >>> cross_entropy(torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor(4.1223e-09)
    """
    check_tensor(input)
    options.setdefault("axis", 1 if input.ndim > 1 else 0)
    options = under_our_name("class_weight", "weight", weight, options)
    options |= {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    options["reduction"] = reduction_name(size_average, reduce, reduction)
    if isinstance(target, torch.Tensor) and target.shape == input.shape:
        target, options = probabilities(target, options, LossOptions)
    return tensors.cross_entropy(input, target, make_options(LossOptions, options))


def probabilities(target: Any, options: dict[str, Any], options_type: type[Any]) -> tuple[Any, dict[str, Any]]:
    """A target of the shape of the logits, and options, such that the result is PyTorch's."""
    check = make_options(options_type, options)
    options = {"normalizer": "rows"} | options
    if check.label_smoothing and "class_mask" not in options:
        # PyTorch spreads label_smoothing over the classes, whatever the row's target sums to.
        spread = target * (1.0 - check.label_smoothing) + check.label_smoothing / target.shape[check.axis]
        target = torch.where(target >= 0, spread, target)  # what is no probability stays so, and is refused
        options["label_smoothing"] = 0.0
    return target, options


def linear_cross_entropy(
    input: Any,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    **more: Any,
) -> Any:
    """``torch.nn.functional.linear_cross_entropy``: the softmax loss of input @ linear_weight.T + linear_bias.

    Parameters
    ----------
    input : tensor (..., D), floating
        What torch.nn.Linear would get.
    linear_weight : tensor (C, D) or (C, d1, ..., D)
        With more dimensions every class has d1 x ... outputs, as in PyTorch; the logits are then made, all of them.
    target : tensor
        Labels (...) or (N, d1, ...), any integer dtype; or probabilities (..., C) or (N, C, d1, ...).
    linear_bias : tensor (C,) or (C, d1, ...), optional
    weight : tensor (C,), optional
        Class weights. What a mean divides by is PyTorch's, as in ``cross_entropy``.
    reduction, label_smoothing
        As in ``crossentropy.cross_entropy``.
    ignore_index : int, optional
        None stands for -100, as in PyTorch.
    options : torch.nn.LinearCrossEntropyOptions, optional
        Accepted, and not needed: `memory_budget` says how much memory a chunk may take.
    **more
        Options of ``crossentropy.linear_cross_entropy``.

    Returns
    -------
    tensor
        float32 for 16-bit input, else the dtype of input.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in ``crossentropy.linear_cross_entropy``.

    Examples
    --------
    >>> import torch
    >>> from crossentropy.torch import linear_cross_entropy
    >>> linear_cross_entropy(torch.tensor([[1.0, 2.0]]), torch.eye(2), torch.tensor([1]))
    tensor(0.3133)
    """
    check_tensor(input)
    given = under_our_name("class_weight", "weight", weight, more)
    given |= {"ignore_index": -100 if ignore_index is None else ignore_index}
    given |= {"label_smoothing": label_smoothing, "reduction": reduction}
    if linear_weight.ndim > 2:
        outputs = tuple(linear_weight.shape[:-1])
        bias = None if linear_bias is None else linear_bias.reshape(-1)
        logits = torch.nn.functional.linear(input, linear_weight.reshape(-1, linear_weight.shape[-1]), bias)
        given.pop("memory_budget", None)
        return cross_entropy(logits.reshape(*input.shape[:-1], *outputs), target, **given)
    if isinstance(target, torch.Tensor) and target.shape == (*input.shape[:-1], linear_weight.shape[0]):
        target, given = probabilities(target, given, LinearOptions)
    made = make_options(LinearOptions, given)
    return tensors.linear_cross_entropy(input, linear_weight, target, linear_bias, made)


def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    **options: Any,
) -> Any:
    """``torch.nn.functional.nll_loss``: as ``cross_entropy``, for log-probabilities.

    Raises
    ------
    ValueError
        A log-probability above 0 on a target.

    Examples
    --------
    >>> import torch
    >>> from crossentropy.torch import nll_loss
    >>> nll_loss(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([1]))
    tensor(0.6931)
    """
    return cross_entropy(
        input, target, weight, size_average, ignore_index, reduce, reduction, inputs="log_probs", **options
    )


def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Any = None,
    **options: Any,
) -> Any:
    """``torch.nn.functional.binary_cross_entropy_with_logits``: the sigmoid loss of every element.

    Parameters
    ----------
    input : tensor, floating
        Logits.
    target : tensor of the shape of input, in [0, 1]
    weight, pos_weight : tensor that broadcasts to input, >= 0, optional
        Factor of the element's loss; factor of its positive term. The mean divides by the number of elements.
    size_average, reduce
        Deprecated by PyTorch; they mean what they mean there.
    reduction, **options
        As in ``crossentropy.binary_cross_entropy``; no target is ignored unless ``ignore_index`` is given.

    Returns
    -------
    tensor
        float32 for 16-bit input, else the dtype of input.

    Raises
    ------
    ValueError, TypeError
        As in ``crossentropy.binary_cross_entropy``.

    Examples
    --------
    >>> import torch
    >>> from crossentropy.torch import binary_cross_entropy_with_logits
    >>> binary_cross_entropy_with_logits(torch.tensor([0.0, 40.0]), torch.tensor([1.0, 1.0]), reduction="none")
    tensor([6.9315e-01, 4.2484e-18])
    """
    check_tensor(input)
    options.setdefault("ignore_index", None)
    if options["ignore_index"] is None:
        options.setdefault("normalizer", float(input.numel()))
    options = under_our_name("row_weight", "weight", weight, options)
    options["pos_weight"] = pos_weight
    options["reduction"] = reduction_name(size_average, reduce, reduction)
    return tensors.binary_cross_entropy(input, target, make_options(BinaryOptions, options))


def binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **options: Any,
) -> Any:
    """``torch.nn.functional.binary_cross_entropy``: as the one with logits, for probabilities, and without a clamp.

    Raises
    ------
    ValueError
        A probability outside [0, 1].

    Examples
    --------
    >>> import torch
    >>> from crossentropy.torch import binary_cross_entropy
    >>> binary_cross_entropy(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 1.0]), reduction="none")
    tensor([0.6931,    inf])
    """
    return binary_cross_entropy_with_logits(
        input, target, weight, size_average, reduce, reduction, inputs="probs", **options
    )
