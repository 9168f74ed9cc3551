"""Rows of JAX arrays through the C++ core, as a custom call of the compiled program, which hands over its own buffers.

The call is a primitive of JAX's, lowered for the CPU by XLA's foreign function interface and for every other device to
the form that XLA compiles (``kernels.xla``). That form also serves what the call cannot: a program that XLA's
partitioner spreads over several devices (it would gather the arguments of a call that it does not know), one that is
exported, a jaxlib with another version of the interface, and a build without the core. ``kernel_name`` says which one
runs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from crossentropy import reduction
from crossentropy.arrays import REDUCED, dtype_name, is_boolean, is_floating, outside, values_known
from crossentropy.kernels import generic, native
from crossentropy.kernels.xla.labels import is_plain, label_gradients, label_losses
from crossentropy.kernels.xla.namespace import namespace as xp
from crossentropy.row_loss import RowCoefficients, row_loss

TARGET = "crossentropy_rows"
# What XLA packs into less than a byte is converted first.
TAKEN = {np.dtype(name) for name in ("bool", "float64", "float32", "float16", "bfloat16")} | {
    np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
}

# Of the coefficients: arrays that a call may be given, and numbers with what the core takes them for unless told.
ARRAYS = ("class_bias", "class_mask", "indices", "index_weight", "dense", "class_weight", "valid")
NUMBERS = {
    "temperature": 1.0,
    "softcap": 0.0,
    "dense_scale": 1.0,
    "label_smoothing": 0.0,
    "z_loss": 0.0,
    "focal_gamma": 0.0,
}


def kernel_name() -> str:
    """Who computes the softmax loss of JAX arrays on one CPU: "xla", or the instruction set of the native core."""
    name = native.kernel_name()
    return "xla" if name == "generic" or not is_registered() else name


@functools.cache
def is_registered() -> bool:
    """Does this jaxlib take the core's handler? When one is registered it compares versions of the interface."""
    handler = native.xla_handler()
    if handler is None:
        return False
    try:
        jax.devices("cpu")  # before the device is there, a handler is only queued, and an error would come later
        jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    except (AttributeError, RuntimeError):
        return False
    return True


def result_dtype(array: Any) -> np.dtype:
    """The loss of 16-bit logits is float32. It is computed in the same precision."""
    return np.dtype(np.float32) if dtype_name(array) in REDUCED else array.dtype


def as_rows(logits: Any) -> Any:
    """(rows, classes) of (outer, classes, inner), or of what has that shape."""
    if logits.ndim == 2:
        return logits
    return jnp.reshape(jnp.moveaxis(logits, 1, -1), (-1, logits.shape[1]))


def like(rows: Any, logits: Any) -> Any:
    """The inverse of ``as_rows``."""
    if logits.ndim == 2:
        return rows
    outer, classes, inner = logits.shape
    return jnp.moveaxis(jnp.reshape(rows, (outer, inner, classes)), -1, 1)


def by_class(numbers: Any, logits: Any) -> Any:
    """(rows,) numbers in the shape of the logits, but for an extent of 1 in place of the classes."""
    return jnp.reshape(numbers, (logits.shape[0], 1, *logits.shape[2:]))


def compute(
    logits: Any, c: RowCoefficients, upstream: Any = None, row_weight: Any = None, *, adds_up: bool = False
) -> tuple[Any, Any]:
    """(rows,) losses of logits (rows, classes) or (outer, classes, inner), and upstream x derivative (None: without).

    ``upstream`` is a number or (rows,). The gradient has the shape of the logits; both are in the working precision.
    ``adds_up``: in place of the losses the sum of row_weight x loss, a number.
    """
    loss = "total" if adds_up else "loss"
    gives = (loss,) if upstream is None else (loss, "gradient")
    found = ask(gives, logits, c, upstream, row_weight)
    return found[0], found[1] if len(found) > 1 else None


def ask(
    gives: tuple[str, ...],
    logits: Any,
    c: RowCoefficients,
    upstream: Any = None,
    row_weight: Any = None,
    statistics: Any = None,
) -> list[Any]:
    """What ``gives`` names, of all rows (``native/xla_rows.hpp`` says what that is); "total" is one number.

    "statistics" are for a later call that is given them; XLA's form computes anew.
    """
    c, name = dataclasses.replace(c, target_mass=None), native.kernel_name()
    arguments = logits, c, upstream, row_weight
    if not logits.size or any(map(is_divided, jax.tree.leaves(arguments))):
        return xla_form(*arguments, totals=(), gives=gives)
    if name == "generic" and "total" in gives:
        # rows that are known not to count leave no trace in the bits of this sum
        each = tuple("loss" if what == "total" else what for what in gives)
        losses, *others = one_call(logits, c, upstream, None, None, totals=(), gives=each, kernel=name)
        return [added_up(losses, c, row_weight, ()), *others]
    return one_call(*arguments, statistics, totals=(), gives=gives, kernel=name)


def keeps_statistics(c: RowCoefficients, classes: int) -> bool:
    """Is it worth it to keep what one call finds of each row for the gradient that a later one computes?

    Of up to 128 classes the core computes everything anew in less time, and with the bits of one call.
    """
    is_of_labels = c.inputs == "logits" and c.indices is not None and c.dense is None and not c.label_smoothing
    return is_of_labels and classes > 128 and native.kernel_name() != "generic"


def is_divided(array: Any) -> bool:
    """Does the type say how devices share the array? Those of XLA's own operations know what becomes of that."""
    of = jax.typeof(array)
    varying = getattr(getattr(of, "mat", of), "varying", None) or getattr(of, "vma", None)
    spec = getattr(getattr(of, "sharding", None), "spec", ())
    return bool(varying) or any(part is not None for part in spec)


def xla_form(
    logits: Any, c: RowCoefficients, upstream: Any, row_weight: Any, _: Any = None, *, totals: Any, gives: Any
) -> list[Any]:
    rows, work, found = as_rows(logits), result_dtype(logits), {}
    if "mass" in gives:
        found["mass"] = plain_mass(c, work)
    if "statistics" in gives:
        found["statistics"] = jnp.zeros(kept_shape(rows.shape[0], c), np.uint32)
    if set(gives) <= set(found):
        return [found[what] for what in gives]
    if is_plain(c):
        rows = rows.astype(work)
        found["loss"] = label_losses(rows, c)
    else:
        c = with_undefined(c)
        statistics = generic.row_statistics(xp, rows, c, work)
        found["loss"] = row_loss(xp, statistics, c)
    if "total" in gives:
        found["total"] = added_up(found["loss"], c, row_weight, totals)
    if "gradient" in gives:
        if is_plain(c):
            factor = jnp.asarray(upstream, work)
            factor = factor[:, None] if factor.ndim else factor
            gradient = jnp.where(factor == 0, 0.0, factor * label_gradients(rows, c))
        else:
            gradient = generic.row_gradient(xp, rows, c, statistics, upstream, work)
        found["gradient"] = like(gradient, logits)
    return [found[what] for what in gives]


def with_undefined(c: RowCoefficients) -> RowCoefficients:
    """NaN in place of entries of a soft target that are negative or infinite, which nobody could refuse before."""
    if c.dense is None or is_boolean(c.dense) or values_known(c.dense):
        return c
    dense = c.dense if is_floating(c.dense) else c.dense.astype(xp.float64)
    return dataclasses.replace(c, dense=jnp.where(outside(xp, c.dense), jnp.nan, dense))


def plain_mass(c: RowCoefficients, work: Any) -> Any:
    """(rows,) sum_j class_weight_j dense_j; NaN where an entry of the row cannot be one."""
    return xp.sum(generic.dense_target(xp, with_undefined(c), work)[1], axis=-1)


def kept_shape(rows: int, c: RowCoefficients) -> tuple[int, int]:
    return rows, 2 * (3 + c.indices.shape[-1])


def added_up(losses: Any, c: RowCoefficients, row_weight: Any, totals: tuple[int, ...]) -> Any:
    """Sums of row_weight x loss, each over as many neighbouring rows."""
    weighted = losses if row_weight is None else losses * row_weight
    if not totals:
        return xp.sum(reduction.of_valid(weighted, c.valid))
    return jnp.reshape(xp.sum(jnp.reshape(weighted, (math.prod(totals), -1)), axis=-1), totals)


@functools.partial(jax.jit, static_argnames=("totals", "gives", "kernel"), inline=True)
def one_call(
    logits: Any,
    c: RowCoefficients,
    upstream: Any,
    row_weight: Any,
    statistics: Any,
    *,
    totals: tuple[int, ...],
    gives: tuple[str, ...],
    kernel: str,
) -> list[Any]:
    """``totals``: the shape of "total"."""
    leaves, tree = jax.tree.flatten((logits, c, upstream, row_weight, statistics))
    return primitive.bind(*leaves, tree=tree, totals=totals, gives=gives, kernel=kernel)


primitive = Primitive(TARGET)
primitive.multiple_results = True


@primitive.def_impl
def without_compiler(*leaves: Any, tree: Any, totals: Any, gives: Any, kernel: str) -> list[Any]:
    """XLA's form of the same arguments; reached one by one where ``jax.disable_jit`` is on."""
    return xla_form(*tree.unflatten(leaves), totals=totals, gives=gives)


@primitive.def_abstract_eval
def results(*leaves: Any, tree: Any, totals: Any, gives: Any, kernel: str) -> list[Any]:
    logits, c, *_ = tree.unflatten(leaves)
    return [jax.core.ShapedArray(*shape_of(what, logits, c, totals)) for what in gives]


def shape_of(what: str, logits: Any, c: RowCoefficients, totals: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of one of the results."""
    rows, work = logits.size // logits.shape[1], result_dtype(logits)
    if what == "statistics":
        return kept_shape(rows, c), np.dtype(np.uint32)
    return {"gradient": logits.shape, "total": totals}.get(what, (rows,)), work


def call(*leaves: Any, tree: Any, totals: Any, gives: Any, kernel: str) -> list[Any]:
    """The custom call: see native/xla_rows.hpp."""
    logits, c, upstream, row_weight, statistics = tree.unflatten(leaves)
    work = result_dtype(logits)
    cube = logits if logits.ndim == 3 else logits[:, :, None]
    arrays = {name: getattr(c, name) for name in ARRAYS} | {"upstream": upstream, "row_weight": row_weight}
    if c.label_smoothing and jnp.ndim(c.target_sum) and c.dense is None:
        arrays["target_sum"] = c.target_sum
    given = {name: a if a.dtype in TAKEN else a.astype(work) for name, a in arrays.items() if a is not None}
    given = {"logits": cube} | given | ({} if statistics is None else {"statistics": statistics})
    numbers = {name: np.float64(getattr(c, name) or 0.0) for name in NUMBERS}
    shapes = [shape_of(what, cube, c, totals) for what in gives]
    found = jax.ffi.ffi_call(TARGET, [jax.ShapeDtypeStruct(*shape) for shape in shapes])(
        *given.values(),
        given=" ".join(given),
        gives=" ".join(gives),
        inputs=c.inputs,
        instruction_set=kernel,
        **{name: number for name, number in numbers.items() if number != NUMBERS[name]},
    )
    return [
        jnp.reshape(part, logits.shape) if what == "gradient" else part for what, part in zip(gives, found, strict=True)
    ]


def lower_for_cpu(context: Any, *leaves: Any, **params: Any) -> Any:
    form = call if params["kernel"] != "generic" and can_call(context.module_context) else without_compiler
    return mlir.lower_fun(form, multiple_results=True)(context, *leaves, **params)


def can_call(module: Any) -> bool:
    """Will this process run the program, on one device or (within ``shard_map``) one program for each?"""
    axes = module.axis_context
    if hasattr(axes, "num_devices"):
        is_whole = axes.num_devices == 1
    else:
        is_whole = hasattr(axes, "mesh") and set(getattr(axes, "manual_axes", ())) == set(axes.mesh.axis_names)
    is_exported = getattr(getattr(module, "lowering_parameters", None), "for_export", False)
    return is_whole and not is_exported and is_registered()


mlir.register_lowering(primitive, mlir.lower_fun(without_compiler, multiple_results=True))
mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")


def batched(leaves: Any, axes: Any, *, tree: Any, totals: Any, gives: Any, kernel: str) -> tuple[list[Any], list[int]]:
    """A batch of problems is one with more rows, where each has logits of its own and shares what is by class."""
    size = next(leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None)
    leaves = [
        jnp.asarray(leaf) if axis is None else jnp.moveaxis(leaf, axis, 0)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]
    is_batched = [axis is not None for axis in axes]
    logits, c, upstream, row_weight, statistics = tree.unflatten(leaves)
    flag, flags, upstream_flag, weight_flag, statistics_flag = tree.unflatten(is_batched)
    if not flag or flags.class_weight or flags.class_bias:

        def single(*own: Any) -> list[Any]:
            return xla_form(*tree.unflatten(own), totals=totals, gives=gives)

        found = jax.vmap(single, [0 if b else None for b in is_batched])(*leaves)
        return found, [0] * len(found)
    rows = logits.size // logits.shape[2] // size

    def joined(array: Any, has_batch: Any, dimensions: int) -> Any:
        """(batch, rows, ...) or what all rows share -> (batch x rows, ...)."""
        if array is None:
            return None
        own = array.ndim - bool(has_batch)
        if not has_batch and (own < dimensions or array.shape[0] == 1 != rows):
            return array
        array = array if has_batch else array[None]
        array = array if own == dimensions else array[:, None]
        return jnp.reshape(jnp.broadcast_to(array, (size, rows, *array.shape[2:])), (size * rows, *array.shape[2:]))

    dimensions = {"class_mask": 2, "indices": 2, "index_weight": 2, "dense": 2, "target_sum": 1, "valid": 1}
    parts = {name: joined(getattr(c, name), getattr(flags, name), n) for name, n in dimensions.items()}
    cube = jnp.reshape(logits, (size * logits.shape[1], *logits.shape[2:]))
    found = one_call(
        cube,
        dataclasses.replace(c, **parts),
        joined(upstream, upstream_flag, 1),
        joined(row_weight, weight_flag, 1),
        joined(statistics, statistics_flag, 2),
        totals=(size, *totals),
        gives=gives,
        kernel=kernel,
    )
    one = jax.ShapeDtypeStruct(logits.shape[1:], logits.dtype)
    shapes = [shape_of(what, one, c, totals)[0] for what in gives]
    return [jnp.reshape(part, (size, *shape)) for part, shape in zip(found, shapes, strict=True)], [0] * len(found)


batching.primitive_batchers[primitive] = batched
