"""JAX arrays and tracers: conversion and values that cannot raise. The arithmetic is in ``kernels``.

A value that would raise cannot do so where it is not known (under ``jit`` or ``vmap``, or on a device that one would
have to wait for). There it makes its row NaN, in value and gradient.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crossentropy import arguments, reduction
from crossentropy.arrays import (
    FLOATING,
    Layout,
    equals,
    is_boolean,
    is_floating,
    is_integer,
    is_sparse,
    outside,
)
from crossentropy.binary_coefficients import binary_coefficients
from crossentropy.binary_loss import BinaryCoefficients
from crossentropy.kernels import generic
from crossentropy.kernels.xla.namespace import namespace as xp
from crossentropy.libraries.jax import core, derivatives
from crossentropy.libraries.jax.core import result_dtype
from crossentropy.libraries.jax.derivatives import Factors, finite
from crossentropy.options import BinaryOptions, LossOptions
from crossentropy.row_coefficients import check_dense_target, check_probabilities, row_coefficients
from crossentropy.row_loss import RowCoefficients, log_sum

namespace = xp


def values_known(array: Any) -> bool:
    return values_readable(array) and not (
        isinstance(array, jax.Array) and any(device.platform != "cpu" for device in array.devices())
    )


def values_readable(array: Any) -> bool:
    """Can Python read the values at all, if only by waiting for a device?"""
    if isinstance(array, jax.core.Tracer):
        return False
    return not isinstance(array, jax.Array) or array.is_fully_addressable


def as_array(name: str, value: Any) -> jax.Array:
    """A JAX array of real numbers, or TypeError."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers: {error}") from None
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.dtype.itemsize > array.dtype.itemsize:
        # JAX keeps the low 32 bits: label 2^32 + 1 would become class 1.
        narrow = np.iinfo(array.dtype)
        if np.any((value < narrow.min) | (value > narrow.max)):
            raise ValueError(f"{name} holds integers beyond {array.dtype}; set jax_enable_x64 for wider ones")
    if not (is_floating(array) or is_integer(array) or is_boolean(array)):
        raise TypeError(f"{name} must hold real numbers ({', '.join(FLOATING)} or integers), got dtype {array.dtype}")
    return array


def as_floating(name: str, value: Any) -> jax.Array:
    """A floating array; integers become JAX's default float."""
    return arguments.floating(as_array, name, value, xp.float64)


def as_options(options: Any) -> Any:
    """The same options with JAX arrays for whatever the caller gave as an array."""

    def as_option(name: str, value: Any) -> Any:
        array = as_array(name, value)
        return array if name in ("class_mask", "class_bias") else undefined_where(outside, array)

    return arguments.options(as_option, options)


def undefined_where(bad: Callable[..., Any], array: Any) -> Any:
    """NaN where the values cannot be read and would raise if they could."""
    if values_known(array) or is_boolean(array):
        return array
    floating = array if is_floating(array) else array.astype(xp.float64)
    return jnp.where(bad(xp, array), jnp.nan, floating)


# -- derivative rules of the distributions -----------------------------------------------------------------------------


@jax.custom_jvp
def softmax(z: Any) -> Any:
    return generic.softmax(xp, z)


@jax.custom_jvp
def log_softmax(z: Any) -> Any:
    return generic.log_softmax(xp, z)


@jax.custom_jvp
def sigmoid(x: Any) -> Any:
    return generic.sigmoid(xp, x)


@jax.custom_jvp
def log_sigmoid(x: Any) -> Any:
    return generic.log_sigmoid(xp, x)


@jax.custom_jvp
def divergence(t: Any, p: Any) -> Any:
    return generic.divergence(xp, t, p)


def mean_free(p: Any, v: Any) -> Any:
    return v - jnp.sum(p * v, axis=-1, keepdims=True)


softmax.defjvps(lambda v, p, z: p * mean_free(p, v))
log_softmax.defjvps(lambda v, _, z: mean_free(softmax(z), v))
sigmoid.defjvps(lambda v, p, x: p * sigmoid(-x) * v)
log_sigmoid.defjvps(lambda v, _, x: sigmoid(-x) * v)
# Only what t holds possible takes part.
divergence.defjvps(
    lambda v, _, t, p: jnp.sum(v * jnp.where(t > 0, jnp.log(t) - jnp.log(p) + 1.0, 0.0), axis=-1),
    lambda v, _, t, p: jnp.sum(-v * jnp.where(t > 0, t / p, 0.0), axis=-1),
)
RULED = {
    generic.softmax: softmax,
    generic.log_softmax: log_softmax,
    generic.sigmoid: sigmoid,
    generic.log_sigmoid: log_sigmoid,
    generic.divergence: divergence,
}


# -- the library's functions -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rows:
    """The softmax loss of one call: logits as ``in_place`` gives them and everything that belongs to them."""

    logits: Any
    layout: Layout
    coefficients: RowCoefficients
    row_weight: Any
    options: LossOptions

    @classmethod
    def unread(cls, logits: jax.ShapeDtypeStruct, target: Any, options: LossOptions, *, summary: bool = False) -> Rows:
        """What target and options mean, for logits of which shape and dtype alone are known."""
        layout, options = Layout.of(logits.shape, options.axis), as_options(options)
        if target is not None or not summary:
            target = arguments.target(as_array, target)
            if is_sparse(target):
                target = (target[0], undefined_where(outside, target[1]))
        coefficients, row_weight = row_coefficients(xp, target, layout, options, result_dtype(logits))
        check_dense_target(xp, coefficients, layout)
        return cls(logits, layout, coefficients, row_weight, options)

    @classmethod
    def of(cls, logits: Any, target: Any, options: LossOptions, *, summary: bool = False) -> Rows:
        unread = cls.unread(jax.ShapeDtypeStruct(logits.shape, logits.dtype), target, options, summary=summary)
        given = in_place(unread.layout, logits)
        if unread.options.inputs != "logits":
            check_probabilities(xp, core.as_rows(given), unread.coefficients, unread.layout, every=summary)
        return dataclasses.replace(unread, logits=no_probability(given, unread.options.inputs))

    def factors(self) -> Factors:
        c, work, options = self.coefficients, result_dtype(self.logits), self.options
        by_weight = isinstance(options.normalizer, str) and options.normalizer == "weight"
        if c.dense is not None and options.reduction == "mean" and by_weight:
            return Factors(options.reduction, options.unit, self.row_weight, by_mass=True)
        return factors_of(options, self.layout.row_shape, self.row_weight, c.valid, c.target_mass, work)

    def upstream(self) -> Any:
        """What each row counts in the value, a number or (rows,)."""
        c, work, factors = self.coefficients, result_dtype(self.logits), self.factors()
        return (factors.with_mass(core.plain_mass(c, work), c.valid) if factors.by_mass else factors).upstream(work)

    def value(self, value: Any) -> Any:
        """In the shape and dtype of the result."""
        shape = self.layout.row_shape if self.options.reduction == "none" else ()
        return jnp.reshape(value, shape).astype(result_dtype(self.logits))

    def gradient(self, gradient: Any) -> Any:
        return jnp.reshape(gradient, self.layout.shape).astype(self.logits.dtype)


def in_place(layout: Layout, logits: Any) -> Any:
    """(rows, classes), or (outer, classes, inner) where other axes follow that of the classes: nothing is moved."""
    if layout.axis == len(layout.shape) - 1:
        return jnp.reshape(logits, (layout.count, layout.classes))
    outer, inner = math.prod(layout.shape[: layout.axis]), math.prod(layout.shape[layout.axis + 1 :])
    return jnp.reshape(logits, (outer, layout.classes, inner))


def no_probability(logits: Any, inputs: str) -> Any:
    """NaN for what is read as a probability and cannot be one, where nobody could raise."""
    if inputs == "logits":
        return logits
    return undefined_where(lambda xp, x: (x > 0) if inputs == "log_probs" else (x < 0) | (x > 1), logits)


def factors_of(options: Any, shape: tuple[int, ...], row_weight: Any, valid: Any, mass: Any, work: Any) -> Factors:
    total = reduction.denominator(xp, options, shape, row_weight, valid, mass, work)
    return Factors(options.reduction, options.unit, row_weight, finite(total))


def refuse_output(out: Any) -> None:
    if out is not None:
        raise TypeError("out: JAX arrays cannot be written to; use the gradient that is returned")


def cross_entropy(logits: Any, target: Any, options: LossOptions) -> Any:
    rows = Rows.of(as_floating("logits", logits), target, options)
    return rows.value(derivatives.rows.value(rows.logits, rows.coefficients, rows.factors()))


def cross_entropy_value_and_grad(logits: Any, target: Any, options: LossOptions, out: Any) -> tuple[Any, Any]:
    refuse_output(out)
    rows = Rows.of(as_floating("logits", logits), target, options)
    value, gradient = derivatives.rows.value_and_gradient(rows.logits, rows.coefficients, rows.factors())
    return rows.value(value), rows.gradient(gradient)


def cross_entropy_hvp(logits: Any, target: Any, vector: Any, options: LossOptions) -> Any:
    logits, vector = as_floating("logits", logits), as_floating("vector", vector)
    if vector.shape != logits.shape:
        raise ValueError(f"vector must have the shape of logits, {logits.shape}, got {vector.shape}")
    rows = Rows.of(logits, target, options)
    upstream = rows.upstream()
    vector = in_place(rows.layout, vector)
    return rows.gradient(derivatives.row_hessian_vector(rows.logits, rows.coefficients, upstream, vector))


def row_summary(logits: Any, target: Any, options: LossOptions) -> tuple[Any, Any, Any, Any]:
    """lse, log-probability of the target (None without one), entropy, prediction; each of the shape of the rows."""
    rows = Rows.of(as_floating("logits", logits), target, options, summary=True)
    return shaped_summary(rows, summaries(core.as_rows(rows.logits), rows.coefficients, has_target=target is not None))


def summaries(logits: Any, c: RowCoefficients, *, has_target: bool) -> tuple[Any, Any, Any, Any]:
    """lse, log-probability of the target (or None), entropy and prediction of (rows, classes) logits."""
    # Ignoring concerns the target alone: lse, entropy and prediction are of every row.
    everywhere = dataclasses.replace(c, valid=None)
    statistics = generic.row_statistics(xp, logits, everywhere, result_dtype(logits), summary=True)
    is_defined = jnp.isfinite(statistics.maximum)
    lse = jnp.where(is_defined, statistics.maximum + log_sum(xp, statistics), jnp.nan)
    surprise = log_sum(xp, statistics) - statistics.entropy_sum / (statistics.ties + statistics.others)
    entropy = jnp.where(is_defined, surprise, jnp.nan)
    prediction = jnp.where(is_defined & ~jnp.isnan(entropy), statistics.prediction.astype(xp.int64), -1)
    # 0 - loss: a loss of 0 is the log-probability 0, not -0.
    return lse, 0.0 - derivatives.rows.value(logits, c, Factors()) if has_target else None, entropy, prediction


def shaped_summary(rows: Rows, parts: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
    """In the unit and the dtype of the result, in the shape of the rows."""
    *numbers, prediction = parts
    unit, shape, work = reduction.NATS_PER_UNIT[rows.options.unit], rows.layout.row_shape, result_dtype(rows.logits)
    lse, target_log_prob, entropy = (
        None if part is None else jnp.reshape(part / unit, shape).astype(work) for part in numbers
    )
    return lse, target_log_prob, entropy, jnp.reshape(prediction, shape)


def binary_cross_entropy(logits: Any, target: Any, options: BinaryOptions) -> Any:
    logits, c, factors = binary(logits, target, options)
    return shaped(derivatives.elements.value(logits, c, factors), logits)


def binary_cross_entropy_value_and_grad(logits: Any, target: Any, options: BinaryOptions, out: Any) -> tuple[Any, Any]:
    refuse_output(out)
    logits, c, factors = binary(logits, target, options)
    value, gradient = derivatives.elements.value_and_gradient(logits, c, factors)
    return shaped(value, logits), gradient.astype(logits.dtype)


def shaped(value: Any, logits: Any) -> Any:
    """The value of elements, one by one or in one number, in the shape and dtype of the result."""
    return jnp.reshape(value, logits.shape if value.ndim else ()).astype(result_dtype(logits))


def binary(logits: Any, target: Any, options: BinaryOptions) -> tuple[Any, BinaryCoefficients, Factors]:
    """Logits, coefficients and what each element counts."""
    logits, options = as_floating("logits", logits), as_options(options)
    work, shape = result_dtype(logits), tuple(logits.shape)

    def no_target(xp: Any, t: Any) -> Any:
        bad = (t != 0) & (t != 1) if options.focal_gamma else ~((t >= 0) & (t <= 1))
        return bad if options.ignore_index is None else bad & ~equals(xp, t, options.ignore_index)

    target = undefined_where(no_target, as_array("target", target))
    c, row_weight = binary_coefficients(xp, logits, target, options, work)
    flat_weight = None if row_weight is None else jnp.reshape(row_weight, (-1,))
    factors = factors_of(options, shape, flat_weight, derivatives.flat(c.valid), 1.0, work)
    return no_probability(logits, options.inputs), c, factors


def map_rows(
    function: Callable[..., Any], axis: int, keeps_classes: bool, *, probabilities: bool = False, **named: Any
) -> Any:
    """``function(xp, rows, ...)`` of (rows, classes); its result in the dtype of the arguments."""
    arrays, layout = arguments.rows(as_floating, axis, named, probabilities=probabilities)
    if probabilities:
        arrays = {name: no_probability(array, "probs") for name, array in arrays.items()}
    dtype = np.result_type(*map(result_dtype, arrays.values()))
    rows = [layout.to_rows(xp, array).astype(dtype) for array in arrays.values()]
    result = RULED.get(function, functools.partial(function, xp))(*rows)
    return layout.from_rows(xp, result) if keeps_classes else jnp.reshape(result, layout.row_shape)


def map_elements(function: Callable[..., Any], **named: Any) -> Any:
    """``function(xp, array)``, elementwise."""
    ((name, value),) = named.items()
    array = as_floating(name, value)
    return RULED.get(function, functools.partial(function, xp))(array.astype(result_dtype(array)))
