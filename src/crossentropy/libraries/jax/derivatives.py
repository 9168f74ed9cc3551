"""Values of the losses with derivative rules of their own (``custom_jvp``), which are the canonical gradients.

The rule is not the derivative of the code: so p_y - 1 keeps its digits, and infinite logits meet no 0 x inf. The value
and its gradient come from one call of the kernel, with everything that multiplies a row already in it; forward mode
multiplies by the gradient, reverse mode by a number. The gradient has such a rule again, the Hessian-vector product.
In targets and weights the loss is linear, and there the derivative of the plain form is exact.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from crossentropy import reduction
from crossentropy.arrays import values_known
from crossentropy.binary_loss import BinaryCoefficients
from crossentropy.kernels import generic
from crossentropy.kernels.xla.namespace import namespace as xp
from crossentropy.libraries.jax import core
from crossentropy.row_loss import RowCoefficients

# What is the same for every call of a compiled function, and what is an array (or None).
STATIC = ["inputs", "temperature", "softcap", "label_smoothing", "focal_gamma", "z_loss", "dense_scale"]
STATIC += ["reduction", "unit", "by_mass"]


def register(of: type) -> type:
    names = [field.name for field in dataclasses.fields(of)]
    arrays, static = [name for name in names if name not in STATIC], [name for name in names if name in STATIC]
    return jax.tree_util.register_dataclass(of, arrays, static)


for _type in (RowCoefficients, BinaryCoefficients):
    register(_type)


@register
@dataclasses.dataclass(frozen=True)
class Factors:
    """What each row counts in the value: see ``reduction``."""

    reduction: str = "none"
    unit: str = "nats"
    row_weight: Any = None
    denominator: Any = 1.0
    by_mass: bool = False  # divide by the weights of a soft target, which the kernel adds up: see ``with_mass``

    def with_mass(self, mass: Any, valid: Any) -> Factors:
        """Divided by the sum of row_weight x mass, (rows,), over the rows that count."""
        counts = mass if self.row_weight is None else self.row_weight * mass
        total = xp.sum(counts if valid is None else jnp.where(valid, counts, 0.0))
        return dataclasses.replace(self, denominator=finite(total), by_mass=False)

    def value(self, losses: Any, valid: Any) -> Any:
        """(rows,) for "none", else a number."""
        return reduction.reduce_rows(xp, losses, self, self.row_weight, valid, self.denominator)

    @property
    def adds_up(self) -> bool:
        """Is the value made of one sum, that of row_weight x loss?"""
        return self.reduction != "none" and jnp.ndim(self.denominator) == 0

    def value_of_total(self, total: Any) -> Any:
        return reduction.divide(xp, total, self.denominator) / reduction.NATS_PER_UNIT[self.unit]

    def upstream(self, work: Any) -> Any:
        """The factor of each row's gradient: a number or (rows,)."""
        return jnp.asarray(reduction.upstream(xp, self, self.row_weight, self.denominator), work)


def finite(total: Any) -> Any:
    """A denominator that overflowed: an error, or NaN where it cannot be read."""
    if isinstance(total, jax.Array) and total.ndim == 0:
        if values_known(total):
            reduction.finite(float(total))
        return jnp.where(jnp.isinf(total), jnp.nan, total)
    return total


class Loss:
    """One loss: ``value(logits, c, factors)`` and ``value_and_gradient``, which can be differentiated.

    * ``kernel(logits, c, factors, wants_gradient=...)``: value and gradient (or None).
    * ``plain(logits, c, upstream)``: the losses and, unless upstream is None, upstream x their derivative, in code
      whose own derivative to c and upstream is right.
    * ``second(logits, c, upstream, v)``: upstream x Hessian x v.
    * ``by_row`` adds up what belongs to a row.
    * ``slopes(logits, c)``: the losses, and v -> by_row(derivative x v), where what comes from above is to go into the
      kernel.
    """

    def __init__(
        self, kernel: Callable, plain: Callable, second: Callable, by_row: Callable, slopes: Callable | None = None
    ) -> None:
        self.kernel, self.plain, self.second, self.by_row, self.slopes = kernel, plain, second, by_row, slopes
        self.value = jax.custom_jvp(self.value_of)
        self.value.defjvp(self.value_rule, symbolic_zeros=True)
        self.value_and_gradient = jax.custom_jvp(self.value_and_gradient_of)
        self.value_and_gradient.defjvp(self.gradient_rule, symbolic_zeros=True)

    def value_of(self, logits: Any, c: Any, factors: Factors) -> Any:
        return self.kernel(logits, c, factors, wants_gradient=False)[0]

    def value_and_gradient_of(self, logits: Any, c: Any, factors: Factors) -> tuple[Any, Any]:
        return self.kernel(logits, c, factors, wants_gradient=True)

    def plain_value(self, logits: Any, c: Any, factors: Factors) -> Any:
        return factors.value(self.plain(logits, c, None)[0], flat(c.valid))

    def plain_gradient(self, logits: Any, c: Any, factors: Factors) -> Any:
        return self.plain(logits, c, factors.upstream(core.result_dtype(logits)))[1]

    def value_rule(self, primals: Any, tangents: Any) -> Any:
        primals, tangents = divided_by_mass(primals, tangents)
        directions, (logits, c, factors) = directions_of(primals, tangents), primals
        if not directions:
            value = self.value(*primals)
            return value, self.value_tangent(value, [], primals, tangents)
        if factors.reduction != "none" or self.slopes is None:
            value, gradient = self.value_and_gradient(*primals)
            each = [self.by_row(gradient * v) for v in directions]
        else:  # what multiplies each row is not known before its losses are used
            losses, slopes = self.slopes(logits, c)
            value, upstream = factors.value(losses, c.valid), factors.upstream(core.result_dtype(logits))
            each = [upstream * slopes(v) for v in directions]
        return value, self.value_tangent(value, each, primals, tangents)

    def gradient_rule(self, primals: Any, tangents: Any) -> Any:
        primals, tangents = divided_by_mass(primals, tangents)
        logits, c, factors = primals
        value, gradient = self.value_and_gradient(*primals)
        directions = directions_of(primals, tangents)
        upstream = factors.upstream(core.result_dtype(logits))
        parts = [self.second(logits, c, upstream, v) for v in directions]
        parts += along(self.plain_gradient, primals, tangents)
        tangent = sum(parts[1:], parts[0]) if parts else jnp.zeros_like(gradient)
        each = [self.by_row(gradient * v) for v in directions]
        return (value, gradient), (self.value_tangent(value, each, primals, tangents), tangent)

    def value_tangent(self, value: Any, each: list[Any], primals: Any, tangents: Any) -> Any:
        """``each``: the tangents of the rows, (rows,), one for each direction in which the logits move."""
        parts = each if primals[2].reduction == "none" else [jnp.sum(part) for part in each]
        parts += along(self.plain_value, primals, tangents)
        return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(value)


def flat(valid: Any) -> Any:
    return None if valid is None else jnp.reshape(valid, (-1,))


def moves(tangent: Any) -> bool:
    """Is there a change at all? Integers and constants have none."""
    return not (
        tangent is None
        or isinstance(tangent, (jax.custom_derivatives.SymbolicZero, ad.Zero))
        or getattr(tangent, "dtype", None) == jax.dtypes.float0
    )


def directions_of(primals: Any, tangents: Any) -> list[Any]:
    """The changes of the logits, like the logits in the working precision."""
    (logits, c, _), (change, changes, _) = primals, tangents
    work = core.result_dtype(logits)
    found = [change.astype(work)] if moves(change) else []
    # The class bias is added after the temperature: it moves all rows as logits do.
    if moves(bias := getattr(changes, "class_bias", None)):
        bias = (c.temperature * bias).astype(work)
        found.append(jnp.broadcast_to(bias if logits.ndim == 2 else bias[:, None], logits.shape))
    return found


def along(function: Callable, primals: Any, tangents: Any) -> list[Any]:
    """The derivative of ``function`` along the changes of everything but logits and class bias: one part, or none."""
    logits, *given = primals
    names = [
        (i, field.name)
        for i, part in enumerate(given)
        for field in dataclasses.fields(part)
        if field.name not in (*STATIC, "class_bias") and moves(getattr(tangents[1 + i], field.name))
    ]
    if not names:
        return []

    def moved(values: list[Any]) -> Any:
        parts = list(given)
        for (i, name), value in zip(names, values, strict=True):
            parts[i] = dataclasses.replace(parts[i], **{name: value})
        return function(logits, *parts)

    here = [jnp.asarray(getattr(given[i], name)) for i, name in names]
    return [jax.jvp(moved, (here,), ([getattr(tangents[1 + i], name) for i, name in names],))[1]]


def divided_by_mass(primals: Any, tangents: Any) -> tuple[Any, Any]:
    """The same problem with its denominator as a number, for the rules that need it before anything is divided."""
    (logits, c, factors), (change, changes, factors_change) = primals, tangents
    if not getattr(factors, "by_mass", False):
        return primals, tangents

    def denominator(logits: Any, c: RowCoefficients, factors: Factors) -> Any:
        return factors.with_mass(core.plain_mass(c, core.result_dtype(logits)), c.valid).denominator

    moved = along(denominator, primals, tangents)
    factors = factors.with_mass(core.ask(("mass",), logits, c)[0], c.valid)
    factors_change = dataclasses.replace(factors_change, denominator=moved[0] if moved else None, by_mass=False)
    return (logits, c, factors), (change, changes, factors_change)


def row_kernel(logits: Any, c: RowCoefficients, factors: Factors, *, wants_gradient: bool) -> tuple[Any, Any]:
    if factors.by_mass and not wants_gradient:  # one read of the target
        total, mass = core.ask(("total", "mass"), logits, c, None, factors.row_weight)
        return factors.with_mass(mass, c.valid).value_of_total(total), None
    if factors.by_mass:
        factors = factors.with_mass(core.ask(("mass",), logits, c)[0], c.valid)
    upstream = factors.upstream(core.result_dtype(logits)) if wants_gradient else None
    if factors.adds_up:
        total, gradient = core.compute(logits, c, upstream, factors.row_weight, adds_up=True)
        return factors.value_of_total(total), gradient
    losses, gradient = core.compute(logits, c, upstream)
    return factors.value(losses, c.valid), gradient


def plain_rows(logits: Any, c: RowCoefficients, upstream: Any) -> list[Any]:
    gives = ("loss",) if upstream is None else ("loss", "gradient")
    return core.xla_form(logits, c, upstream, None, totals=(), gives=gives)


def row_hessian_vector(logits: Any, c: RowCoefficients, upstream: Any, v: Any) -> Any:
    rows, work, c = core.as_rows(logits), core.result_dtype(logits), core.with_undefined(c)
    statistics = generic.row_statistics(xp, rows, c, work)
    return core.like(generic.row_hessian_vector(xp, rows, c, statistics, core.as_rows(v), upstream, work), logits)


def element_form(logits: Any, c: BinaryCoefficients, upstream: Any) -> tuple[Any, Any]:
    work = core.result_dtype(logits)
    losses = jnp.reshape(generic.binary_loss(xp, logits, c, work), (-1,))
    return losses, None if upstream is None else generic.binary_gradient(xp, logits, c, like(upstream, logits), work)


def element_kernel(logits: Any, c: BinaryCoefficients, factors: Factors, *, wants_gradient: bool) -> tuple[Any, Any]:
    losses, gradient = element_form(logits, c, factors.upstream(core.result_dtype(logits)) if wants_gradient else None)
    return factors.value(losses, flat(c.valid)), gradient


def element_curvature(logits: Any, c: BinaryCoefficients, upstream: Any, v: Any) -> Any:
    work = core.result_dtype(logits)
    return generic.binary_hessian_vector(xp, logits, c, jnp.ones_like(logits), like(upstream, logits), work) * v


def like(upstream: Any, logits: Any) -> Any:
    return jnp.reshape(upstream, logits.shape) if jnp.ndim(upstream) else upstream


# The gradient waits for what comes from above, where computing it twice costs more than multiplying it:
SMALL = 1 << 18  # logits, which stay in a cache
FEW = 8  # classes, whose rows cost more than their memory


def row_slopes(logits: Any, c: RowCoefficients) -> tuple[Any, Callable[[Any], Any]]:
    """(rows,) losses and v -> (rows,) their derivative along v.

    Its transpose is one call of the kernel, with a factor for each row. What the first call found of the rows is kept
    for it where that is worth it: the second then needs one exponential of each logit and no sum. The gradient itself
    is kept where it is ``SMALL`` or of ``FEW`` classes. (Of logits it is finite where it is defined; that of a
    probability 0 is not, and 0 times it would be NaN.)
    """
    statistics = gradient = None
    if (logits.size <= SMALL or logits.shape[1] <= FEW) and c.inputs == "logits":
        losses, gradient = rows.value_and_gradient(logits, c, Factors())
    elif core.keeps_statistics(c, logits.shape[1]):
        losses, statistics = core.ask(("loss", "statistics"), logits, c)
    else:
        losses = rows.value(logits, c, Factors())
    leaves, tree = jax.tree.flatten((logits, c, statistics, gradient))

    def along(v: Any) -> Any:
        if any(map(core.is_divided, (v, *leaves))):
            return explicit_slopes(v, *leaves, tree=tree)
        return slopes.bind(v, *leaves, tree=tree)

    return losses, along


def explicit_slopes(v: Any, *leaves: Any, tree: Any) -> Any:
    logits, c, _, gradient = tree.unflatten(leaves)
    if gradient is None:
        gradient = rows.value_and_gradient(logits, c, Factors())[1]
    return rows.by_row(gradient * v)


def slopes_rule(primals: Any, tangents: Any, *, tree: Any) -> tuple[Any, Any]:
    if any(map(moves, tangents[1:])):
        moved = tuple(map(ad.instantiate_zeros, tangents))
        return jax.jvp(functools.partial(explicit_slopes, tree=tree), tuple(primals), moved)
    return slopes.bind(*primals, tree=tree), slopes.bind(tangents[0], *primals[1:], tree=tree)


def slopes_transposed(from_above: Any, v: Any, *leaves: Any, tree: Any) -> list[Any]:
    logits, c, statistics, kept = tree.unflatten(leaves)
    if kept is not None:
        gradient = core.by_class(from_above, kept) * kept
    elif statistics is None:
        gradient = rows.value_and_gradient(logits, c, Factors(row_weight=from_above))[1]
    else:
        gradient = later_gradient(logits, c, from_above, statistics)
    return [gradient, *(None for _ in leaves)]


@jax.custom_jvp
def later_gradient(logits: Any, c: RowCoefficients, upstream: Any, statistics: Any) -> Any:
    """upstream (rows,) x derivative, of the statistics that the losses left."""
    return core.ask(("gradient",), logits, c, upstream, None, statistics)[0]


def later_gradient_rule(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (logits, c, upstream, _), (change, changes, upstream_change, _) = primals, tangents
    factors, factors_change = Factors(row_weight=upstream), Factors(row_weight=upstream_change, denominator=None)
    (_, gradient), (_, tangent) = rows.gradient_rule((logits, c, factors), (change, changes, factors_change))
    return gradient, tangent


later_gradient.defjvp(later_gradient_rule, symbolic_zeros=True)


slopes = Primitive("crossentropy_slopes")
slopes.def_impl(explicit_slopes)
slopes.def_abstract_eval(lambda v, *_, tree: jax.core.ShapedArray((v.size // v.shape[1],), v.dtype))
mlir.register_lowering(slopes, mlir.lower_fun(explicit_slopes, multiple_results=False))
batching.primitive_batchers[slopes] = lambda arrays, axes, *, tree: (
    jax.vmap(functools.partial(explicit_slopes, tree=tree), axes)(*arrays),
    0,
)
ad.primitive_jvps[slopes] = slopes_rule
ad.primitive_transposes[slopes] = slopes_transposed


def by_row(terms: Any) -> Any:
    return jnp.reshape(jnp.sum(terms, axis=1), (-1,))


rows = Loss(row_kernel, plain_rows, row_hessian_vector, by_row, row_slopes)
elements = Loss(element_kernel, element_form, element_curvature, lambda t: jnp.reshape(t, (-1,)))


def rows_rule(primals: Any, tangents: Any, *, tree: Any, totals: Any, gives: Any, kernel: str) -> Any:
    """For the call itself: JAX drops a ``custom_jvp`` when it splits a loop into what is known and what is linear."""
    logits, c, upstream, row_weight, _ = tree.unflatten(primals)
    change, changes, upstream_change, weight_change, _ = tree.unflatten(tangents)
    given, given_changes = (logits, c, Factors()), (change, changes, Factors(denominator=None))
    found: dict[str, tuple[Any, Any]] = {}
    if "loss" in gives or "total" in gives:
        found["loss"] = losses, losses_change = rows.value_rule(given, given_changes)
    if "total" in gives:
        weights, weight_changes = ([], []) if row_weight is None else ([row_weight], [weight_change])
        found["total"] = jax.jvp(
            lambda losses, *weight: core.added_up(losses, c, weight[0] if weight else None, totals),
            (losses, *weights),
            (losses_change, *map(ad.instantiate_zeros, weight_changes)),
        )
    if "gradient" in gives:
        factors, factors_change = Factors(row_weight=upstream), Factors(row_weight=upstream_change, denominator=None)
        (_, gradient), (_, slope) = rows.gradient_rule((logits, c, factors), (change, changes, factors_change))
        found["gradient"] = gradient, slope
    if "mass" in gives:
        mass = core.ask(("mass",), logits, c)[0]
        moved = along(lambda logits, c, _: core.plain_mass(c, mass.dtype), given, given_changes)
        found["mass"] = mass, moved[0] if moved else jnp.zeros_like(mass)
    if "statistics" in gives:
        kept = core.ask(("statistics",), logits, c)[0]
        found["statistics"] = kept, ad.Zero(jax.typeof(kept).to_tangent_aval())
    values, slopes_ = zip(*(found[what] for what in gives), strict=True)
    return list(values), list(slopes_)


ad.primitive_jvps[core.primitive] = rows_rule
