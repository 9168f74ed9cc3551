"""The loss of a linear classifier of tensors with values: value, gradients and Hessian-vector product, in chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from crossentropy.libraries.torch import compute, core, matrix_products, memory, summary
from crossentropy.libraries.torch.conversion import WORK
from crossentropy.libraries.torch.forms import ROWS, Held
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.libraries.torch.tensors import on_host, values_known
from crossentropy.linear_chunks import MEMORY_BUDGET, ChosenRows, Chunk, Gradients, LinearRows, linear_layout
from crossentropy.row_coefficients import check_probabilities, explicit
from crossentropy.row_loss import RowCoefficients, times

DEVICE_MEMORY_BUDGET = 1_000_000_000


def product_dtype(*arrays: Any) -> torch.dtype:
    """Of the logits: float32 for 16-bit features and weight."""
    return torch.float64 if any(array.dtype == torch.float64 for array in arrays) else torch.float32


class Head(LinearRows):
    """The chunks of one call."""

    work_float64 = WORK

    def __init__(
        self,
        features: Any,
        weight: Any,
        bias: Any,
        flat: Any,
        num_threads: int | None,
        budget: int | None,
        *,
        every: bool = False,
    ) -> None:
        """``every``: rows that do not count are computed too."""
        self.xp, self.device = Namespace(features.device), features.device
        if not features.is_cpu:  # where every chunk is a round of launches
            self.enough_rows = None
        self.work, self.num_threads = product_dtype(features, weight), num_threads
        self.held = isinstance(flat[0], Held)
        c = ROWS.as_arrays(flat) if self.held else ROWS.as_tensors(flat)
        layout = linear_layout(tuple(features.shape), tuple(weight.shape), None if bias is None else tuple(bias.shape))
        self.narrow = narrow_dtype(features, weight)
        if budget is None:
            budget = MEMORY_BUDGET if on_host(features) else DEVICE_MEMORY_BUDGET
        if on_host(features):
            shape = (layout.count, features.shape[-1], layout.classes)
            self.scratch = matrix_products.scratch_of(budget, self.work, *shape)
        rows = features.reshape(layout.count, features.shape[-1])
        super().__init__(rows, weight, bias, c, layout, None if every else counted_rows(c), budget)
        if self.narrow is not None:
            self.block = layout.classes  # nothing is widened

    def entry_bytes(self) -> int:
        """With the gradient of a logit, where that has 16 bits and no place among the logits."""
        return self.work.itemsize + (0 if self.narrow is None else self.narrow.itemsize)

    def empty(self, rows: int, columns: int) -> Any:
        return torch.empty((rows, columns), dtype=self.work, device=self.device)

    def ones(self, rows: int, columns: int) -> Any:
        return torch.ones((rows, columns), dtype=self.narrow or self.work, device=self.device)

    def wide(self, array: Any) -> Any:
        return array if array.dtype == self.narrow else array.to(self.work)

    def slopes(self, logits: Any) -> Any:
        return logits if self.narrow is None else torch.empty_like(logits, dtype=self.narrow)

    def product(self, a: Any, b: Any, out: Any, *, add: bool = False) -> None:
        if not a.dtype == b.dtype == self.narrow:
            a, b = a.to(out.dtype), b.to(out.dtype)
        matrix_products.product(a, b, out, add=add, scratch=self.scratch)

    def coefficient(self, array: Any) -> Any:
        return core.values(array).astype(np.float64) if self.held else array.to(WORK)

    def explicit(self, c: RowCoefficients) -> RowCoefficients:
        self.held, held = False, self.held
        return ROWS.as_tensors([Held(c, ())]) if held else c

    def arguments(self, c: RowCoefficients) -> tuple[Any, ...]:
        """What follows in the calls of ``compute``, for rows of logits."""
        return (*([Held(c, ())] if self.held else ROWS.flat(c)), 1, self.num_threads, False)

    def kernel(self, logits: Any, c: RowCoefficients, rows: Any, upstream: Any, gradient: Any) -> Any:
        """upstream_i loss_i."""
        self.check_inputs(logits, c, rows)
        return compute.loss(ROWS, logits, upstream, self.arguments(c), gradient)

    def finished(self, losses: Any, upstream: Any) -> Any:
        return times(self.xp, upstream, losses).to(self.work)

    def check_inputs(self, logits: Any, c: RowCoefficients, rows: Any, *, every: bool = False) -> None:
        if c.inputs != "logits" and values_known(logits):
            c = ROWS.as_tensors([Held(c, ())]) if self.held else c
            check_probabilities(self.xp, logits, c, ChosenRows(self.layout, rows, len(logits)), every=every)

    def summaries(self, has_target: bool) -> Iterator[tuple[Any, Any, Any, Any]]:
        """lse, loss, entropy and prediction of chunk after chunk."""
        buffer = self.empty(min(self.chunk.rows, self.count), self.chunk.classes)
        for rows, c, features in self.chunks():
            as_tensors = ROWS.as_tensors([Held(c, ())]) if self.held else c
            statistics = None
            if not self.holds_whole_rows:
                statistics = self.merged(dataclasses.replace(c, valid=None), features, buffer, summary=True)
            else:
                logits = self.logits(features, buffer)
                self.check_inputs(logits, c, rows, every=True)
                if logits.is_cpu:
                    arrays = c if self.held else ROWS.as_arrays(ROWS.flat(c))
                    statistics = core.row_statistics(logits, arrays, self.num_threads)
            if statistics is not None:
                yield summary.of_statistics(self.xp, statistics, as_tensors, has_target)
                continue
            for block in compute.blocks(logits):
                yield summary.of_logits(self.xp, logits[block], as_tensors.rows(block), has_target)


def narrow_dtype(features: Any, weight: Any) -> torch.dtype | None:
    """Of the factors of all products on a device whose factors are of 16 bits, where float32 is ten times slower."""
    is_narrow = features.dtype == weight.dtype and features.dtype in (torch.bfloat16, torch.float16)
    return features.dtype if is_narrow and matrix_products.HAS_MIXED_PRODUCTS and not on_host(features) else None


def counted_rows(c: RowCoefficients) -> Any:
    """The indices of the rows that count; None for all. On a device this waits for it."""
    if isinstance(c.valid, torch.Tensor):
        return None if c.valid.all() else torch.nonzero(c.valid).reshape(-1)
    if c.valid is None and c.ignored_label is None:
        return None
    valid = explicit(np, c, np.float64).valid
    return None if valid is None or valid.all() else np.flatnonzero(valid)


def loss(features: Any, weight: Any, bias: Any, upstream: Any, rest: Any, gradients: Gradients | None = None) -> Any:
    """upstream_i loss_i, or their sum; ``gradients`` are filled."""
    *flat, num_threads, total, budget, _, _ = rest
    head = Head(features, weight, bias, flat, num_threads, budget)
    if gradients is not None:
        prepare(gradients, head)
    losses = torch.zeros(head.layout.count, dtype=head.work, device=head.device)
    for rows, part in head.losses(upstream, gradients):
        losses[rows] = part
    if not total:
        return losses
    return head.xp.sum(losses.to(WORK) if head.counted is None else losses[head.counted].to(WORK)).to(head.work)


def prepare(gradients: Gradients, head: Head) -> None:
    if gradients.features is not None and head.counted is not None:
        gradients.features.zero_()
    if gradients.weight is not None and not head.count:
        gradients.weight.zero_()


def empty_gradients(features: Any, weight: Any, bias: Any, wants_features: bool, wants_weight: bool) -> Gradients:
    """In the dtype of the products: what is rounded to 16 bits is scaled by the upstream gradient first.

    Not in huge pages (``memory``): between steps of seconds each, a virtual machine hands free huge pages back to its
    host, and writing them again took 1.7 s of a step. Small pages that the first product wrote took 0.3 to 2.2 s of the
    system's time (525 MB, eight steps, median 1.0), and 0.3 s in each step when touched before the first product.
    """
    work = product_dtype(features, weight)
    return Gradients(
        features.new_empty((features.shape[:-1].numel(), features.shape[-1]), dtype=work) if wants_features else None,
        memory.touched(weight.new_empty(weight.shape, dtype=work)) if wants_weight else None,
        None if bias is None else bias.new_zeros(bias.shape, dtype=WORK),
    )


def as_outputs(gradients: Gradients, features: Any, weight: Any) -> tuple[Any, Any, Any]:
    """Tensors; what was not wanted is empty."""
    work = product_dtype(features, weight)
    none = features.new_empty
    return (
        none(0, dtype=work) if gradients.features is None else gradients.features.view(features.shape),
        none(0, dtype=work) if gradients.weight is None else gradients.weight,
        none(0, dtype=work) if gradients.bias is None else gradients.bias.to(work),
    )


def loss_and_gradients(features: Any, weight: Any, bias: Any, upstream: Any, *rest: Any) -> tuple[Any, Any, Any, Any]:
    gradients = empty_gradients(features, weight, bias, *rest[-2:])
    value = loss(features, weight, bias, upstream, rest, gradients)
    return value, *as_outputs(gradients, features, weight)


def hessian_vector(
    features: Any, weight: Any, bias: Any, upstream: Any, v_features: Any, v_weight: Any, v_bias: Any, *rest: Any
) -> tuple[Any, Any, Any, Any]:
    """(rows,) upstream_i gradient_i . v, and the second derivative times v, of features, weight and bias.

    With G the gradient to the logits, H their Hessian, and U = v_features weight^T + features v_weight^T + v_bias, what
    v moves the logits by:

        gradient . v = sum of G U over the classes
        features: H U weight + G v_weight,  weight: (H U)^T features + G^T v_features,  bias: (H U)^T 1
    """
    *flat, num_threads, _, budget, _, _ = rest
    head = Head(features, weight, bias, flat, num_threads, budget)
    # Whole rows, and four times their logits: the second derivative needs the mean of U over a row's classes.
    head.chunk = Chunk(max(1, head.chunk.rows // 4) if head.holds_whole_rows else 1, head.layout.classes)
    products = empty_gradients(features, weight, bias, True, True)
    prepare(products, head)
    products.weight.zero_()
    dots = torch.zeros(head.layout.count, dtype=WORK, device=head.device)
    v_features = None if v_features is None else v_features.reshape(-1, features.shape[-1])
    for rows, c, part in head.chunks():
        shape = (len(part), head.layout.classes)
        logits = head.logits(part, head.empty(*shape))
        head.check_inputs(logits, c, rows)
        moved = torch.zeros(shape, dtype=head.work, device=head.device)
        if v_features is not None:
            head.multiply(head.wide(v_features[rows]), weight, moved, add=True)
        if v_weight is not None:
            head.multiply(part, v_weight, moved, add=True)
        if v_bias is not None:
            moved += v_bias
        share, arguments = upstream[rows] if getattr(upstream, "ndim", 0) else upstream, head.arguments(c)
        slopes = torch.empty_like(logits)
        compute.loss(ROWS, logits, share, arguments, slopes)
        second = compute.hessian_vector(ROWS, logits, share, moved, arguments)
        dots[rows] = (slopes.to(WORK) * moved).sum(-1)
        product = head.empty(*part.shape)
        head.multiply_back(second, weight, product)
        if v_weight is not None:
            head.multiply_back(slopes, v_weight, product, add=True)
        products.features[rows] = product
        head.product(second.T, part, products.weight, add=True)
        if v_features is not None:
            head.product(slopes.T, head.wide(v_features[rows]), products.weight, add=True)
        if products.bias is not None:
            products.bias += second.sum(0, dtype=WORK)
    return dots, *as_outputs(products, features, weight)
