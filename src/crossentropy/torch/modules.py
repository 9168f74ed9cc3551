"""torch.nn's loss modules, which keep their options and call ``functional``."""

from __future__ import annotations

from typing import Any

import torch

from crossentropy.options import BinaryOptions, LinearOptions, LossOptions, make_options
from crossentropy.torch.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    linear_cross_entropy,
    nll_loss,
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


# torch 2.13 has it.
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
