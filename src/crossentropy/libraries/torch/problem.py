"""One call as a problem: the logits, their coefficients, and the factor of each row in the result.

Where everything but the logits is plain memory of the CPU, coefficients are worked out and held as NumPy arrays; where
something is traced, batched, on a device or wants a derivative, as tensors, by the same lines.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import forward_ad

from crossentropy import reduction
from crossentropy.arrays import LARGEST, Layout, is_sparse, layout_of, load_library
from crossentropy.kernels import generic, native
from crossentropy.libraries.torch import core
from crossentropy.libraries.torch.compute import blocks
from crossentropy.libraries.torch.conversion import (
    CONVERTED,
    WORK,
    as_array,
    as_options,
    as_target,
    result_dtype,
)
from crossentropy.libraries.torch.forms import ELEMENTS, ROWS, Held
from crossentropy.libraries.torch.measure import measured_element_losses, measured_row_losses
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.libraries.torch.primitives import CALLS
from crossentropy.libraries.torch.tensors import differentiable, is_memory, is_plain, is_traced, on_host, values_known
from crossentropy.options import LossOptions
from crossentropy.row_coefficients import RowCoefficients, check_dense_target, check_probabilities, row_coefficients

NUMPY = load_library("numpy").namespace


@dataclasses.dataclass
class Problem:
    """``coefficients`` are of tensors, or ``Held``."""

    x: Any  # the logits as given, or transformed
    axis: int | None  # of the classes; None: every element is a row
    coefficients: Any
    upstream: Any  # (rows,), () or a number
    options: Any
    shape: tuple[int, ...]  # of the result with reduction "none"
    dtype: torch.dtype  # of the result
    measured: bool = False  # is a derivative to the target or to class weights wanted?
    transformed: bool = False  # is x logits that were divided by a tensor?

    @property
    def form(self) -> Any:
        return ELEMENTS if self.axis is None else ROWS

    @property
    def total(self) -> bool:
        return self.options.reduction != "none"

    def flat(self) -> list[Any]:
        """The coefficients as arguments."""
        return [self.coefficients] if isinstance(self.coefficients, Held) else self.form.flat(self.coefficients)

    def arguments(self) -> tuple[Any, ...]:
        """What follows x, upstream and vector in the calls."""
        c, options = self.coefficients, self.options
        settings = (self.axis, options.num_threads, options.reduction != "none")
        return (c, *settings) if isinstance(c, Held) else (*self.form.flat(c), *settings)

    def call(self, name: str, vector: Any = None) -> Any:
        """One of ``primitives``."""
        calls, upstream = CALLS["element" if self.axis is None else "row"], self.upstream
        # Held coefficients are those of a call that nothing traces or transforms; forward mode remains.
        is_plain_call = isinstance(self.coefficients, Held) and isinstance(upstream, float) and vector is None
        arguments = (upstream, vector, *self.arguments())
        if is_plain_call and forward_ad._current_level < 0:
            return calls.of_held[name](self.x, arguments)
        return getattr(calls, name)(self.x, *arguments)

    def sources(self) -> list[Any]:
        """The tensors that are read, but for x."""
        held = self.coefficients.sources if isinstance(self.coefficients, Held) else self.flat()
        return [value for value in held if isinstance(value, torch.Tensor)]

    def finished(self, value: Any) -> Any:
        if value.ndim and len(self.shape) != 1:
            value = torch.reshape(value, self.shape)
        return value if value.dtype == self.dtype else value.to(self.dtype)

    def value(self) -> Any:
        if self.measured:
            losses = (measured_element_losses if self.axis is None else measured_row_losses)(
                self.form.as_rows(self.x, self.axis), self.coefficients, self.upstream
            )
            return self.finished(losses.sum() if self.total else losses)
        # With a scalar result the gradient is formed while the rows are at hand. Not for float16, whose range needs
        # the upstream gradient (a loss scale) before rounding; nor for "none", whose rows have one each.
        wanted = self.x.requires_grad and is_grad_enabled() and self.total and self.x.dtype is not torch.float16
        return self.finished(self.call("value" if wanted else "loss"))

    def value_and_gradient(self) -> tuple[Any, Any]:
        self.refuse_measured("value_and_grad")
        value, gradient = self.call("loss_and_gradient")
        return self.finished(value), gradient

    def hessian_vector(self, vector: Any) -> Any:
        self.refuse_measured("hvp")
        return self.call("hessian_vector", vector)

    def refuse_measured(self, what: str) -> None:
        if self.measured or self.transformed:
            which = "temperature" if self.transformed else "the target, class_weight or pos_weight"
            raise NotImplementedError(
                f"{what}: no derivative with respect to {which}; detach it, or use cross_entropy and "
                "torch.autograd.grad"
            )


def row_problem(logits: Any, target: Any, options: LossOptions, *, summary: bool = False) -> Problem:
    """The softmax loss. ``summary``: a target may be absent, and every row is read."""
    sources = held_parts(logits, target, options)
    if sources:
        layout = layout_of(logits.shape, options.axis)
        return held_row_problem(logits, target, layout, options, summary, sources)
    layout = Layout.of(tuple(logits.shape), options.axis)
    xp, device = Namespace(logits.device), logits.device
    options = as_options(options, device)
    if target is not None or not summary:
        target = as_target(target, layout, device)
    x, transformed = logits, False
    if isinstance(options.temperature, torch.Tensor) or differentiable(options.class_bias):
        # The kernels take both as constants; ahead of them, in the working precision, autograd takes them as they are.
        transformed = isinstance(options.temperature, torch.Tensor)
        x = x.to(WORK) / options.temperature
        if options.class_bias is not None:
            x = x + options.class_bias.to(WORK).reshape(-1, *[1] * (x.ndim - layout.axis - 1))
        options = options.replace(temperature=1.0, class_bias=None)
    coefficients, upstream = row_parts(xp, logits, target, layout, options, WORK, summary)
    return Problem(
        x=x,
        axis=layout.axis,
        coefficients=coefficients,
        upstream=xp.asarray(upstream, dtype=WORK),
        options=options,
        shape=layout.row_shape,
        dtype=result_dtype(logits),
        measured=any(map(differentiable, (*(target if is_sparse(target) else (target,)), options.class_weight))),
        transformed=transformed,
    )


def row_parts(
    xp: Any, logits: Any, target: Any, layout: Layout, options: LossOptions, work: Any, summary: bool, scan: Any = None
) -> tuple[RowCoefficients, Any]:
    """Coefficients and the factor of each row, of the arrays of ``xp``; checked. ``scan``: see ``row_coefficients``."""
    coefficients, row_weight = row_coefficients(xp, target, layout, options, work, scan)
    if coefficients.class_mask is not None:  # in C order, like everything that meets the logits
        mask = xp.astype(coefficients.class_mask, bool)
        coefficients = dataclasses.replace(coefficients, class_mask=mask)
    mass, is_good = coefficients.target_mass, False
    if coefficients.dense is not None and options.reduction == "mean" and is_weight(options.normalizer):
        mass = dense_mass(xp, logits, layout, coefficients)
        is_read = options.inputs == "logits" and values_known(mass)
        is_read = is_read and native.reads_every_digit(coefficients.dense, logits)
        is_good = is_read and bool(xp.all(xp.isfinite(mass)))
    if (coefficients.dense is not None or options.inputs != "logits") and values_known(logits) and not is_good:
        check_rows(logits, coefficients, layout, summary)
    divisor = reduction.denominator(
        xp, options, layout.row_shape, row_weight, coefficients.valid, mass, work, coefficients.totals
    )
    return coefficients, factor_of_rows(xp, options, row_weight, divisor)


quiet_row_parts = np.errstate(all="ignore")(row_parts)


def held_parts(logits: Any, target: Any, options: LossOptions) -> tuple[Any, ...]:
    """Labels or a sparse target, and the options that are tensors, if all is plain memory of the CPU; else nothing."""
    if isinstance(target, Tensor):
        parts: tuple[Any, ...] = (target,)
        if target.is_floating_point() or (target.ndim == logits.ndim and target.shape == logits.shape):
            return ()
    elif is_sparse(target) and all(map(is_tensor, target)):
        parts = target
    else:
        return ()
    given = vars(options)
    if given:
        parts = (*parts, *filter(is_tensor, given.values()))
    return parts if on_host(logits) and not is_traced(logits, *parts) and all(map(is_memory, parts)) else ()


def held_row_problem(
    logits: Any, target: Any, layout: Layout, options: LossOptions, summary: bool, sources: tuple[Any, ...]
) -> Problem:
    parts = row_parts
    if isinstance(target, Tensor):
        target = core.view(target)
    else:
        names = ("target indices", "target values")
        target = tuple(core.values(as_array(name, t, logits.device)) for name, t in zip(names, target, strict=True))
    if not CONVERTED.isdisjoint(vars(options)):
        options = as_options(options, logits.device)
        options = options.replace(**{name: core.values(v) for name, v in vars(options).items() if is_tensor(v)})
        parts = quiet_row_parts  # arithmetic with weights may overflow, or divide 0 by 0
    scan = None if summary else native.label_scan()
    coefficients, upstream = parts(NUMPY, logits, target, layout, options, np.float64, summary, scan)
    return Problem(
        x=logits,
        axis=layout.axis,
        coefficients=Held(coefficients, sources),
        upstream=torch.from_numpy(upstream) if getattr(upstream, "ndim", 0) else float(upstream),
        options=options,
        shape=layout.row_shape,
        dtype=result_dtype(logits),
    )


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def is_weight(normalizer: Any) -> bool:
    return isinstance(normalizer, str) and normalizer == "weight"


def check_rows(logits: Any, c: RowCoefficients, layout: Layout, summary: bool) -> None:
    """ValueError for a dense target or a probability that is none."""
    if c.inputs == "logits" and is_plain(c.dense) and core.within(c.dense, 0.0, LARGEST) is not None:
        return
    xp, x = Namespace(logits.device), ROWS.as_rows(logits, layout.axis)
    c = ROWS.as_tensors([Held(c, ())])
    for block in blocks(x):
        piece = c.rows(block)
        check_dense_target(xp, piece, layout, block.start)
        check_probabilities(xp, x[block], piece, layout, block.start, every=summary)


def factor_of_rows(xp: Any, options: Any, row_weight: Any, divisor: Any) -> Any:
    if isinstance(divisor, torch.Tensor) and divisor.ndim == 0 and values_known(divisor):
        reduction.finite(divisor.item())
    return reduction.upstream(xp, options, row_weight, divisor)


def dense_mass(xp: Any, logits: Any, layout: Layout, coefficients: RowCoefficients) -> Any:
    """m_i of a dense target."""
    mass = core.dense_mass(logits, layout.axis, coefficients)
    if mass is not None:
        return mass
    if not values_known(coefficients.dense) or differentiable(coefficients.dense):
        return generic.dense_target(xp, coefficients, WORK)[1].sum(-1)
    pieces = [
        generic.dense_target(xp, coefficients.rows(block), WORK)[1].sum(-1) for block in blocks(coefficients.dense)
    ]
    return torch.cat(pieces) if pieces else coefficients.dense.new_zeros(0, dtype=WORK)
