"""lse, log-probability of the target, entropy and prediction of rows of tensors."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from crossentropy import reduction
from crossentropy.kernels import generic
from crossentropy.libraries.torch.compute import blocks
from crossentropy.libraries.torch.conversion import WORK
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.libraries.torch.tensors import differentiable
from crossentropy.row_coefficients import RowCoefficients
from crossentropy.row_loss import RowStatistics, log_sum, row_loss


def of_problem(problem: Any, has_target: bool) -> tuple[Any, Any, Any, Any]:
    """The results for all logits of a ``problem.Problem``."""
    if differentiable(problem.x) or problem.measured:
        raise NotImplementedError(
            "row_statistics has no derivatives, neither to logits nor to a target or options; call it under "
            "torch.no_grad(), or on detached tensors. cross_entropy, log_softmax and softmax have them"
        )
    xp, x = Namespace(problem.x.device), problem.form.as_rows(problem.x, problem.axis)
    c = problem.form.as_tensors(problem.flat())
    # One block of no rows gives the results their dtypes.
    parts = [of_logits(xp, x[block], c.rows(block), has_target) for block in list(blocks(x)) or [slice(0, 0)]]
    return shaped(problem, map(torch.cat, zip(*parts, strict=True)), has_target)


def of_logits(xp: Any, x: Any, c: RowCoefficients, has_target: bool) -> tuple[Any, Any, Any, Any]:
    """lse, loss, entropy, prediction. Ignoring concerns the target alone: the others are of every row."""
    statistics = generic.row_statistics(xp, x, dataclasses.replace(c, valid=None), WORK, summary=True)
    return of_statistics(xp, statistics, c, has_target)


def of_statistics(xp: Any, statistics: RowStatistics, c: RowCoefficients, has_target: bool) -> Any:
    undefined = ~xp.isfinite(statistics.maximum)
    total = log_sum(xp, statistics)
    lse = xp.where(undefined, xp.nan, statistics.maximum + total)
    entropy = total - statistics.entropy_sum / (statistics.ties + statistics.others)
    entropy = xp.where(undefined, xp.nan, entropy)
    loss = row_loss(xp, statistics, c) if has_target else xp.zeros_like(lse)
    return lse, loss, entropy, xp.where(xp.isnan(entropy), -1, statistics.prediction)


def shaped(problem: Any, parts: Any, has_target: bool) -> tuple[Any, Any, Any, Any]:
    """The results from (rows,) lse, loss, entropy and prediction: in the problem's unit, shape and dtype."""
    lse, loss, entropy, prediction = parts
    unit = reduction.NATS_PER_UNIT[problem.options.unit]

    def result(value: Any) -> Any:
        return torch.reshape(value / unit, problem.shape).to(problem.dtype)

    # 0 - loss: a loss of 0 is the log-probability 0, not -0.
    target_log_prob = result(0.0 - loss) if has_target else None
    return result(lse), target_log_prob, result(entropy), torch.reshape(prediction, problem.shape)
