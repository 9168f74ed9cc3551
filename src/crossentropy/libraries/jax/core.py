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
from crossentropy.arrays import REDUCED, dtype_name
from crossentropy.kernels import generic, native
from crossentropy.kernels.xla.labels import is_plain, label_gradients, label_losses
from crossentropy.kernels.xla.namespace import namespace as xp
from crossentropy.row_loss import RowCoefficients, row_loss

TARGET = "crossentropy_rows"
# What XLA packs into less than a byte is converted first.
TAKEN = {np.dtype(name) for name in ("bool", "float64", "float32", "float16", "bfloat16")} | {
    np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
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


def compute(
    logits: Any, c: RowCoefficients, upstream: Any = None, row_weight: Any = None, *, adds_up: bool = False
) -> tuple[Any, Any]:
    """(rows,) losses of logits (rows, classes) or (outer, classes, inner), and upstream x derivative (None: without).

    ``upstream`` is a number or (rows,). The gradient has the shape of the logits; both are in the working precision.
    ``adds_up``: in place of the losses the sum of row_weight x loss, a number.
    """
    c, name = dataclasses.replace(c, target_mass=None), native.kernel_name()
    arguments = logits, c, upstream, row_weight
    totals: tuple[int, ...] | None = () if adds_up else None
    if not logits.size or any(map(is_divided, jax.tree.leaves(arguments))):
        found = xla_form(*arguments, totals=totals)
    elif (
        name == "generic" and totals is not None
    ):  # rows that are known not to count leave no trace in the bits of this sum
        losses, *gradient = one_call(logits, c, upstream, None, totals=None, kernel=name)
        found = [added_up(losses, c, row_weight, totals), *gradient]
    else:
        found = one_call(*arguments, totals=totals, kernel=name)
    return found[0], found[1] if len(found) > 1 else None


def is_divided(array: Any) -> bool:
    """Does the type say how devices share the array? Those of XLA's own operations know what becomes of that."""
    of = jax.typeof(array)
    varying = getattr(getattr(of, "mat", of), "varying", None) or getattr(of, "vma", None)
    spec = getattr(getattr(of, "sharding", None), "spec", ())
    return bool(varying) or any(part is not None for part in spec)


def xla_form(logits: Any, c: RowCoefficients, upstream: Any, row_weight: Any, *, totals: Any) -> list[Any]:
    rows, work = as_rows(logits), result_dtype(logits)
    if is_plain(c):
        rows = rows.astype(work)
        losses = label_losses(rows, c)
    else:
        statistics = generic.row_statistics(xp, rows, c, work)
        losses = row_loss(xp, statistics, c)
    value = losses if totals is None else added_up(losses, c, row_weight, totals)
    if upstream is None:
        return [value]
    if is_plain(c):
        factor = jnp.asarray(upstream, work)
        factor = factor[:, None] if factor.ndim else factor
        gradient = jnp.where(factor == 0, 0.0, factor * label_gradients(rows, c))
    else:
        gradient = generic.row_gradient(xp, rows, c, statistics, upstream, work)
    return [value, like(gradient, logits)]


def added_up(losses: Any, c: RowCoefficients, row_weight: Any, totals: tuple[int, ...]) -> Any:
    """Sums of row_weight x loss, each over as many neighbouring rows."""
    weighted = losses if row_weight is None else losses * row_weight
    if not totals:
        return xp.sum(reduction.of_valid(weighted, c.valid))
    return jnp.reshape(xp.sum(jnp.reshape(weighted, (math.prod(totals), -1)), axis=-1), totals)


@functools.partial(jax.jit, static_argnames=("totals", "kernel"), inline=True)
def one_call(logits: Any, c: RowCoefficients, upstream: Any, row_weight: Any, *, totals: Any, kernel: str) -> list[Any]:
    """``totals``: the shape of the sums, or None for the losses themselves."""
    leaves, tree = jax.tree.flatten((logits, c, upstream, row_weight))
    return primitive.bind(*leaves, tree=tree, totals=totals, kernel=kernel)


primitive = Primitive(TARGET)
primitive.multiple_results = True


@primitive.def_impl
def without_compiler(*leaves: Any, tree: Any, totals: Any, kernel: str) -> list[Any]:
    """XLA's form of the same arguments; reached one by one where ``jax.disable_jit`` is on."""
    return xla_form(*tree.unflatten(leaves), totals=totals)


@primitive.def_abstract_eval
def results(*leaves: Any, tree: Any, totals: Any, kernel: str) -> list[Any]:
    logits, _, upstream, _ = tree.unflatten(leaves)
    work = result_dtype(logits)
    losses = jax.core.ShapedArray((logits.size // logits.shape[1],) if totals is None else totals, work)
    return [losses] if upstream is None else [losses, jax.core.ShapedArray(logits.shape, work)]


def call(*leaves: Any, tree: Any, totals: Any, kernel: str) -> list[Any]:
    """The custom call: see native/xla_rows.hpp."""
    logits, c, upstream, row_weight = tree.unflatten(leaves)
    work = result_dtype(logits)
    cube = logits if logits.ndim == 3 else logits[:, :, None]
    spread = c.target_sum if c.label_smoothing and jnp.ndim(c.target_sum) and c.dense is None else None
    arrays = [c.class_bias, c.class_mask, c.indices, c.index_weight, c.dense, c.class_weight, spread, c.valid]
    arrays = [a if a is None or a.dtype in TAKEN else a.astype(work) for a in (*arrays, upstream, row_weight)]
    shapes = [(cube.size // cube.shape[1],) if totals is None else totals, cube.shape]
    results = [jax.ShapeDtypeStruct(shape, work) for shape in shapes[: 1 if upstream is None else 2]]
    found = jax.ffi.ffi_call(TARGET, results)(
        cube,
        *(jnp.zeros(0, work) if a is None else a for a in arrays),
        adds_up=totals is not None,
        has_softmax=c.inputs == "logits",
        are_probabilities=c.inputs == "probs",
        temperature=np.float64(c.temperature),
        softcap=np.float64(c.softcap or 0.0),
        dense_scale=np.float64(c.dense_scale),
        label_smoothing=np.float64(c.label_smoothing),
        z_loss=np.float64(c.z_loss),
        focal_gamma=np.float64(c.focal_gamma),
        threads=np.int64(native.EVERY_CORE),
        instruction_set=kernel,
    )
    return [found[0], *(jnp.reshape(gradient, logits.shape) for gradient in found[1:])]


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


def batched(leaves: Any, axes: Any, *, tree: Any, totals: Any, kernel: str) -> tuple[list[Any], list[int]]:
    """A batch of problems is one with more rows, where each has logits of its own and shares what is by class."""
    size = next(leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None)
    leaves = [
        jnp.asarray(leaf) if axis is None else jnp.moveaxis(leaf, axis, 0)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]
    is_batched = [axis is not None for axis in axes]
    logits, c, upstream, row_weight = tree.unflatten(leaves)
    flag, flags, upstream_flag, weight_flag = tree.unflatten(is_batched)
    if not flag or flags.class_weight or flags.class_bias:

        def single(*own: Any) -> list[Any]:
            return xla_form(*tree.unflatten(own), totals=totals)

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
        totals=None if totals is None else (size, *totals),
        kernel=kernel,
    )
    shapes = [(size, rows) if totals is None else (size, *totals), logits.shape]
    return [jnp.reshape(part, shape) for part, shape in zip(found, shapes, strict=False)], [0] * len(found)


batching.primitive_batchers[primitive] = batched
