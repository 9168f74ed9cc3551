"""The loss of a linear classifier of tensors: its arguments as a problem, and who computes it.

Where the classifier cannot be taken apart (a derivative to a soft target, to class weights or to the temperature;
forward mode; statistics under a tracer or vmap) the logits are made, all of them, and the loss is that of ``problem``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from crossentropy.arrays import check_apart
from crossentropy.libraries.torch import linear_rows, memory
from crossentropy.libraries.torch import summary as summary_module
from crossentropy.libraries.torch.compute import shares_memory
from crossentropy.libraries.torch.conversion import WORK, as_floating, check_out
from crossentropy.libraries.torch.linear_primitives import CALLS
from crossentropy.libraries.torch.problem import Problem, row_problem
from crossentropy.libraries.torch.tensors import differentiable, values_readable
from crossentropy.linear_chunks import linear_layout
from crossentropy.options import LinearOptions

# A logit that no check refuses, where the logits are asked for their shape alone.
STAND_IN = {"logits": 0.0, "probs": 0.5, "log_probs": -0.5}


class LinearProblem:
    """One call."""

    def __init__(
        self, features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions, *, summary: bool = False
    ) -> None:
        features = as_floating("features", features)
        weight = as_floating("weight", weight, features.device)
        bias = None if bias is None else as_floating("bias", bias, features.device)
        has_autocast = not (features.is_cpu or features.is_meta)
        if has_autocast and torch.is_autocast_enabled(features.device.type):
            dtype = torch.get_autocast_dtype(features.device.type)
            features, weight = features.to(dtype), weight.to(dtype)
        self.features, self.weight, self.bias, self.options = features, weight, bias, options
        self.given = [array for array in (features, weight, bias) if array is not None]
        bias_shape = None if bias is None else tuple(bias.shape)
        layout = linear_layout(tuple(features.shape), tuple(weight.shape), bias_shape)
        self.work = linear_rows.product_dtype(features, weight)
        stand_in = torch.full((), STAND_IN[options.inputs], dtype=self.work, device=features.device)
        stand_in = stand_in.expand(layout.shape)
        self.rows = row_problem(stand_in, target, options, summary=summary)
        self.whole: Problem | None = None
        is_apart = not (self.rows.measured or self.rows.transformed or differentiable(options.class_bias))
        # Statistics are no operator that whoever traces or batches could see.
        is_seen = summary and not all(map(values_readable, self.given))
        if not is_apart or is_seen or torch.autograd.forward_ad._current_level >= 0:
            self.whole = row_problem(self.logits(), target, options, summary=summary)

    def logits(self) -> Any:
        """All of them, by torch."""
        bias = None if self.bias is None else self.bias.to(self.work)
        return torch.nn.functional.linear(self.features.to(self.work), self.weight.to(self.work), bias)

    def arguments(self, *wants: bool) -> tuple[Any, ...]:
        options, budget = self.options, vars(self.options).get("memory_budget")
        settings = (options.num_threads, self.rows.total, budget, *wants)
        return (self.features, self.weight, self.bias, self.rows.upstream, *self.rows.flat(), *settings)

    def head(self) -> linear_rows.Head:
        """Every row's chunks, for values alone."""
        options, budget = self.options, vars(self.options).get("memory_budget")
        arrays = (self.features, self.weight, self.bias)
        return linear_rows.Head(*arrays, self.rows.flat(), options.num_threads, budget, every=True)

    def value(self) -> Any:
        if self.whole is not None:
            return self.whole.value()
        wanted = [array.requires_grad and torch.is_grad_enabled() for array in self.given]
        # With a scalar result the gradients are formed while the logits are at hand.
        if self.rows.total and any(wanted):
            return self.rows.finished(CALLS["loss_and_gradients"](*self.arguments(*wanted[:2]))[0])
        return self.rows.finished(CALLS["loss"](*self.arguments(False, False)))

    def value_and_gradients(self) -> tuple[Any, list[Any]]:
        self.refuse_whole()
        value, *gradients = CALLS["loss_and_gradients"](*self.arguments(True, True))
        return self.rows.finished(value), [g.to(x.dtype) for g, x in zip(gradients, self.given, strict=False)]

    def value_into(self, out: Any) -> tuple[Any, list[Any]]:
        """The gradients are formed in ``out`` where the products can write there, else copied."""
        names = ("features", "weight", "bias")[: len(self.given)]
        if not isinstance(out, tuple | list):
            raise TypeError(f"out must be ({', '.join(names)}), got {type(out).__name__}")
        if len(out) < len(self.given) or any(extra is not None for extra in out[len(self.given) :]):
            raise ValueError(f"out must be ({', '.join(names)}), got {len(out)} entries")
        for name, part, given in zip(names, out, self.given, strict=False):
            check_out(part, given, name)
        written = [(name, x) for name, x in zip(names, out, strict=False) if x is not None and not x.is_meta]
        check_apart([(name, np.asarray(memory.Place(x))) for name, x in written])
        self.refuse_whole()
        with torch.no_grad():
            made = linear_rows.empty_gradients(self.features, self.weight, self.bias, out[0] is None, out[1] is None)
            for name, part in zip(names[:2], out, strict=False):
                if part is not None:
                    is_free = part.dtype == self.work and part.is_contiguous()
                    is_free = is_free and not any(shares_memory(part, x) for x in [*self.given, *self.rows.sources()])
                    target = part.detach() if is_free else torch.empty(part.shape, dtype=self.work, device=part.device)
                    setattr(made, name, target.view(-1, target.shape[-1]))
            features, weight, bias, upstream, *rest = self.arguments(True, True)
            value = linear_rows.loss(features, weight, bias, upstream, rest, made)
            sums = linear_rows.as_outputs(made, self.features, self.weight)
            results = []
            for part, formed, given in zip(out, sums, self.given, strict=False):
                if part is None:
                    part = formed.to(given.dtype)
                elif not shares_memory(part, formed):
                    part.copy_(formed)
                results.append(part)
        return self.rows.finished(value), results

    def refuse_whole(self) -> None:
        if self.whole is not None:
            self.whole.refuse_measured("value_and_grad")
            what = "with respect to class_bias" if differentiable(self.options.class_bias) else "in forward mode"
            raise NotImplementedError(
                f"value_and_grad: no derivative {what}; use linear_cross_entropy and torch.autograd.grad, or detach"
            )


def linear_cross_entropy(features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions) -> Any:
    return LinearProblem(features, weight, target, bias, options).value()


def linear_cross_entropy_value_and_grad(
    features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions, out: Any
) -> tuple[Any, list[Any]]:
    problem = LinearProblem(features, weight, target, bias, options)
    if out is None:
        return problem.value_and_gradients()
    return problem.value_into(out)


def linear_row_summary(features: Any, weight: Any, target: Any, bias: Any, options: LinearOptions) -> Any:
    """lse, log-probability of the target (None without one), entropy, prediction; each of the shape of the rows."""
    problem = LinearProblem(features, weight, target, bias, options, summary=True)
    if any(map(differentiable, problem.given)):
        raise NotImplementedError(
            "linear_row_statistics has no derivatives; call it under torch.no_grad(), or on detached tensors. "
            "linear_cross_entropy has them"
        )
    if problem.whole is not None:
        return summary_module.of_problem(problem.whole, target is not None)
    head = problem.head()
    none = torch.empty(0, dtype=WORK, device=head.device)
    parts = list(head.summaries(target is not None)) or [(none, none, none, none.to(torch.int64))]
    return summary_module.shaped(problem.rows, map(torch.cat, zip(*parts, strict=True)), target is not None)
