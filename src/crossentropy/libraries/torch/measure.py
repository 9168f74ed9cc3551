"""The loss as a differentiable function of the target measure: for targets and class weights that require grad.

loss = -sum_j q_j log p_j + zeta lse^2 is linear in q, so that autograd needs nothing but the log-probabilities and
their derivative. It holds q and log p of every class; without such a derivative ``primitives`` is exact in less memory.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from crossentropy.binary_loss import BinaryCoefficients, binary_measure
from crossentropy.kernels import generic
from crossentropy.libraries.torch.conversion import WORK
from crossentropy.libraries.torch.distributions import mapped
from crossentropy.libraries.torch.forms import ELEMENTS
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.libraries.torch.primitives import CALLS
from crossentropy.row_loss import RowCoefficients, RowStatistics


def measured_row_losses(x: Any, c: RowCoefficients, upstream: Any) -> Any:
    """(rows,): upstream_i loss_i."""
    if c.focal_gamma:
        raise NotImplementedError(
            "focal_gamma: no derivative with respect to class_weight; use row_weight=class_weight[target] instead"
        )
    xp = Namespace(x.device)
    x = x.to(WORK)
    if c.valid is not None:
        x = torch.where(c.valid[:, None], x, {"logits": 0.0, "log_probs": -1.0, "probs": 1.0}[c.inputs])
    q = measure(xp, x, c)
    # 0 x -inf counts 0. The log is kept from it too: 0 times its infinite derivative would be NaN.
    if c.inputs == "probs":
        log_p = torch.log(torch.where((q == 0) & (x == 0), 1.0, x))
    elif c.inputs == "log_probs":
        log_p = x
    else:
        x = generic.transform(xp, x, dataclasses.replace(c, valid=None), WORK)
        log_p = mapped(x, "log_softmax")
    # Nothing of a row that does not count reaches the derivative to q, which would be 0 x log 0.
    counts = upstream != 0 if c.valid is None else c.valid & (upstream != 0)
    log_p = torch.where(torch.reshape(counts, (-1, 1)), log_p, 0.0)
    losses = -(q * torch.where((q == 0) & torch.isneginf(log_p), 0.0, log_p)).sum(-1)
    if c.z_loss:
        losses = losses + c.z_loss * torch.logsumexp(x, -1) ** 2
    # NaN is a factor: the gradient is NaN too.
    if c.indices is not None:
        found = ((c.indices >= 0) & (c.indices < x.shape[-1])).all(-1)
        losses = losses * torch.where(counts & ~found, torch.nan, 1.0)
    if c.inputs == "logits":
        losses = losses * torch.where(counts & ~torch.isfinite(torch.amax(x, -1)), torch.nan, 1.0)
    return upstream * torch.where(counts, losses, 0.0)


def measure(xp: Any, x: Any, c: RowCoefficients) -> Any:
    """q (rows, classes)."""
    rows = torch.zeros_like(x[:, 0])
    # One at least: a row without any is NaN by its logits, or is ignored.
    allowed = rows + x.shape[-1] if c.class_mask is None else rows + c.class_mask.to(WORK).sum(-1).clamp(min=1.0)
    target_sum = None if c.dense is None else generic.dense_target(xp, c, WORK)[0].sum(-1)
    statistics = RowStatistics(rows, rows, rows, allowed=allowed, target_sum=target_sum)
    return generic.target_measure(xp, statistics, c, x)


def measured_element_losses(x: Any, c: BinaryCoefficients, upstream: Any) -> Any:
    """(elements,): upstream_i [q+ f(-log p) + q- f(-log(1 - p))], the two terms being losses of certain targets."""
    xp, calls = Namespace(x.device), CALLS[ELEMENTS.name]
    x = x.to(WORK)
    losses = torch.zeros_like(x)
    for certain, weight in zip((1.0, 0.0), binary_measure(xp, c, x), strict=True):
        plain = dataclasses.replace(c, target=torch.full_like(x, certain), pos_weight=None, label_smoothing=0.0)
        loss = torch.where(upstream == 0, 0.0, calls.loss(x, 1.0, None, *ELEMENTS.flat(plain), None, None, False))
        losses = losses + weight * torch.where((weight == 0) & torch.isinf(loss), 0.0, loss)
    return upstream * losses
