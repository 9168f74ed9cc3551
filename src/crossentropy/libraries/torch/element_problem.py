"""The sigmoid loss of tensors as a ``Problem``: every element is a row."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from crossentropy import reduction
from crossentropy.arrays import load_library
from crossentropy.binary_coefficients import binary_coefficients
from crossentropy.kernels import native
from crossentropy.libraries.torch import core
from crossentropy.libraries.torch.conversion import CONVERTED, WORK, as_array, as_options, result_dtype, widened
from crossentropy.libraries.torch.forms import Held
from crossentropy.libraries.torch.namespace import Namespace
from crossentropy.libraries.torch.problem import Problem, factor_of_rows, is_tensor
from crossentropy.libraries.torch.tensors import differentiable, is_memory, is_plain, is_traced, on_host
from crossentropy.options import BinaryOptions


def element_problem(logits: Any, target: Any, options: BinaryOptions) -> Problem:
    """The sigmoid loss."""
    if are_held(logits, target, options):
        problem = held_element_problem(logits, target, options)
        if problem is not None:
            return problem
    xp, device, shape = Namespace(logits.device), logits.device, tuple(logits.shape)
    options, target = as_options(options, device), widened(as_array("target", target, device))
    within = core.within if is_plain(target) else None
    coefficients, row_weight = binary_coefficients(xp, logits, target, options, WORK, within)
    divisor = reduction.denominator(xp, options, shape, row_weight, coefficients.valid, 1.0, WORK)
    upstream = factor_of_rows(xp, options, flat(row_weight), divisor)
    coefficients = dataclasses.replace(
        coefficients,
        target=flat(coefficients.target),
        pos_weight=flat(coefficients.pos_weight),
        valid=flat(coefficients.valid),
    )
    return Problem(
        x=logits,
        axis=None,
        coefficients=coefficients,
        upstream=xp.asarray(upstream, dtype=WORK),
        options=options,
        shape=shape,
        dtype=result_dtype(logits),
        measured=differentiable(target) or differentiable(options.pos_weight),
    )


def are_held(logits: Any, target: Any, options: BinaryOptions) -> bool:
    """Targets and options that are plain memory of the CPU?"""
    if not on_host(logits) or not is_tensor(target) or not isinstance(options.normalizer, (str, float, int)):
        return False
    parts = [target, *(vars(options)[name] for name in CONVERTED & vars(options).keys())]
    return not is_traced(logits, *parts) and all(map(is_memory, parts))


@np.errstate(all="ignore")  # arithmetic with weights may overflow, or divide 0 by 0
def held_element_problem(logits: Any, target: Any, options: BinaryOptions) -> Problem | None:
    """None where elements need a factor each, which is left to tensor code."""
    device, shape = logits.device, tuple(logits.shape)
    options, target = as_options(options, device), widened(as_array("target", target, device))
    sources = (target, *filter(is_tensor, vars(options).values()))
    arrays = {name: core.values(value) for name, value in vars(options).items() if is_tensor(value)}
    xp, target = load_library("numpy").namespace, core.values(target)
    seen = logits if options.inputs == "logits" else core.values(logits)  # of logits the shape alone
    c, _ = binary_coefficients(xp, seen, target, options.replace(**arrays), np.float64, native.within, as_given=True)
    if c.totals is None:
        return None
    divisor = reduction.denominator(xp, options, shape, None, None, 1.0, np.float64, c.totals)
    factor = reduction.upstream(xp, options, None, divisor)
    if not math.isfinite(factor):
        return None
    return Problem(
        x=logits,
        axis=None,
        coefficients=Held(c, sources),
        upstream=float(factor),
        options=options,
        shape=shape,
        dtype=result_dtype(logits),
    )


def flat(value: Any) -> Any:
    return None if value is None else torch.reshape(value, (-1,))
