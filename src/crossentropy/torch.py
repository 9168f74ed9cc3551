"""torch.nn's losses with torch.nn's arguments, computed by this package: change the import, nothing else.

Argument names, defaults, the class axis (1, or 0 without a batch) and what a mean divides by are PyTorch's; every
option of ``crossentropy.cross_entropy`` is accepted by keyword, when the module is made or when it is called. Results
differ where PyTorch gives NaN, clamps a logarithm, rounds a 16-bit loss or takes bad input in silence: the table is in
docs/torch.md.

>>> import torch
>>> from crossentropy.torch import CrossEntropyLoss
>>> criterion = CrossEntropyLoss(label_smoothing=0.1, z_loss=1e-4)
>>> logits = torch.tensor([[2.0, 1.0, 0.1]], requires_grad=True)
>>> criterion(logits, torch.tensor([0])).backward()
>>> logits.grad
tensor([[-0.2740,  0.2091,  0.0653]])
"""

from __future__ import annotations

from typing import Any

import torch

from crossentropy.libraries import torch as tensors
from crossentropy.options import BinaryOptions, LinearOptions, LossOptions, make_options

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "NLLLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
]


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


class TakesOptions(torch.nn.Module):
    """A module of torch.nn that calls ``function`` with its own attributes, ``own``, and our options."""

    function: Any
    own: tuple[str, ...]

    def keep(self, options: dict[str, Any], options_type: type[Any], **fixed: Any) -> None:
        # Wrong options speak up here, and not after the first batch.
        numbers = {name: getattr(self, name) for name in self.own if name not in ("weight", "pos_weight")}
        make_options(options_type, options | numbers | fixed)
        self.options = options

    def forward(self, input: Any, target: Any, **options: Any) -> Any:
        own = {name: getattr(self, name) for name in self.own}
        return self.function(input, target, **own, **self.options | options)


class CrossEntropyLoss(TakesOptions, torch.nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss``; see ``cross_entropy`` for what it computes.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        torch.nn's, with its defaults.
    **options
        Of ``crossentropy.cross_entropy``; a call may give them too (``criterion(logits, target, normalizer=count)``).

    Examples
    --------
    >>> import torch
    >>> from crossentropy.torch import CrossEntropyLoss
    >>> CrossEntropyLoss()(torch.zeros(2, 4), torch.tensor([-100, -100]))
    tensor(0.)
    """

    function = staticmethod(cross_entropy)
    own = ("weight", "ignore_index", "reduction", "label_smoothing")

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.keep(options, LossOptions)


class NLLLoss(TakesOptions, torch.nn.NLLLoss):
    """``torch.nn.NLLLoss``; see ``nll_loss`` for what it computes.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction
        torch.nn's, with its defaults.
    **options
        Of ``crossentropy.cross_entropy``.

    Examples
    --------
    >>> import torch
    >>> from crossentropy.torch import NLLLoss
    >>> NLLLoss()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0]))
    tensor(1.3863)
    """

    function = staticmethod(nll_loss)
    own = ("weight", "ignore_index", "reduction")

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        **options: Any,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction)
        self.keep(options, LossOptions, inputs="log_probs")


class BCEWithLogitsLoss(TakesOptions, torch.nn.BCEWithLogitsLoss):
    """``torch.nn.BCEWithLogitsLoss``; see ``binary_cross_entropy_with_logits`` for what it computes.

    Parameters
    ----------
    weight, size_average, reduce, reduction, pos_weight
        torch.nn's, with its defaults.
    **options
        Of ``crossentropy.binary_cross_entropy``.

    Examples
    --------
    >>> import torch
    >>> from crossentropy.torch import BCEWithLogitsLoss
    >>> BCEWithLogitsLoss(focal_gamma=2.0)(torch.tensor([0.0]), torch.tensor([1.0]))
    tensor(0.1733)
    """

    function = staticmethod(binary_cross_entropy_with_logits)
    own = ("weight", "reduction", "pos_weight")

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        self.keep(options, BinaryOptions)


class BCELoss(TakesOptions, torch.nn.BCELoss):
    """``torch.nn.BCELoss``; see ``binary_cross_entropy`` for what it computes.

    Parameters
    ----------
    weight, size_average, reduce, reduction
        torch.nn's, with its defaults.
    **options
        Of ``crossentropy.binary_cross_entropy``.

    Examples
    --------
    >>> import torch
    >>> from crossentropy.torch import BCELoss
    >>> BCELoss()(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.0]))
    tensor(0.4904)
    """

    function = staticmethod(binary_cross_entropy)
    own = ("weight", "reduction")

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        **options: Any,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.keep(options, BinaryOptions, inputs="probs")


# torch 2.13 has it; before, the function serves.
TorchLinear: Any = getattr(torch.nn, "LinearCrossEntropyLoss", None)
if TorchLinear is not None:

    class LinearCrossEntropyLoss(TorchLinear):
        """``torch.nn.LinearCrossEntropyLoss``; see ``linear_cross_entropy`` for what it computes.

        Parameters
        ----------
        in_features, num_classes, out_features, bias, device, dtype, reduction, weight, ignore_index, label_smoothing,
        options
            torch.nn's, with its defaults; the module owns its linear layer, ``linear``.
        **more
            Options of ``crossentropy.linear_cross_entropy``; a call may give them too.

        Examples
        --------
        >>> import torch
        >>> from crossentropy.torch import LinearCrossEntropyLoss
        >>> criterion = LinearCrossEntropyLoss(4, 10, bias=True, memory_budget=64_000_000)
        >>> criterion(torch.zeros(2, 4), torch.tensor([-100, -100]))
        tensor(0., grad_fn=<...>)
        """

        def __init__(
            self,
            in_features: int,
            num_classes: int,
            *,
            out_features: tuple[int, ...] = (),
            bias: bool = False,
            device: Any = None,
            dtype: Any = None,
            reduction: str = "mean",
            weight: Any = None,
            ignore_index: int | None = None,
            label_smoothing: float = 0.0,
            options: Any = None,
            **more: Any,
        ) -> None:
            super().__init__(
                in_features,
                num_classes,
                out_features=out_features,
                bias=bias,
                device=device,
                dtype=dtype,
                reduction=reduction,
                weight=weight,
                ignore_index=ignore_index,
                label_smoothing=label_smoothing,
                options=options,
            )
            # Wrong options speak up here, and not after the first batch.
            make_options(LinearOptions, {"reduction": reduction, "label_smoothing": label_smoothing, **more})
            self.more = more

        def forward(self, input: Any, target: Any, **more: Any) -> Any:
            outputs = (self.num_classes, *self.out_features)
            bias = self.linear.bias
            return linear_cross_entropy(
                input,
                self.linear.weight.reshape(*outputs, self.linear.in_features),
                target,
                linear_bias=None if bias is None else bias.reshape(outputs),
                weight=self.weight,
                reduction=self.reduction,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
                **self.more | more,
            )
