"""The primitives in C++ (``native/``) for NumPy arrays: statistics, losses and gradient of ``row_loss`` in one read.

Same inputs and results as ``generic``, which serves what the core cannot take. The environment variable
``CROSSENTROPY_KERNEL`` forces ``generic``, or one of ``instruction_sets()``; ``kernel_name()`` says which one runs.
Under Triton's interpreter it may be ``triton``, which concerns tensors alone.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from crossentropy.arrays import Layout, dtype_name
from crossentropy.binary_loss import BinaryCoefficients
from crossentropy.row_loss import RowCoefficients, RowStatistics

try:
    _native: Any = importlib.import_module("crossentropy.kernels._native")
except ModuleNotFoundError:  # a build without the core; a broken one says so
    _native = None

INPUTS = ("logits", "probs", "log_probs")  # ElementProblem::Inputs
NUMBERS = "dflqihbB"  # NumPy's characters of the dtypes that ``within`` reads
EVERY_CORE = 0  # as a number of threads: those that this process may use
# The dtype of another library's bfloat16 numbers, where NumPy has none for them: their bits, marked as such.
BFLOAT16 = np.dtype((np.uint16, [("bfloat16", np.uint16)]))


def instruction_sets() -> list[str]:
    """What the core can compute with here, best first; empty without the core."""
    return [] if _native is None else _native.instruction_sets()


def forced() -> str:
    """What the environment asks for: "generic", an instruction set, or "" for the best."""
    # os.environ encodes and decodes at every question, which takes longer than a small loss.
    name = os.environ.get("CROSSENTROPY_KERNEL", "") if _native is None else _native.environment("CROSSENTROPY_KERNEL")
    if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if name and name != "generic" and name not in instruction_sets():
        raise ValueError(f"CROSSENTROPY_KERNEL={name!r}: expected one of {', '.join(['generic', *instruction_sets()])}")
    return name


def kernel_name() -> str:
    """Who computes NumPy arrays: "generic", or the instruction set of the native core."""
    return forced() or next(iter(instruction_sets()), "generic")


def xla_handler() -> Any:
    """The core as a handler of XLA's foreign function interface, a capsule; None without the core."""
    return None if _native is None or not hasattr(_native, "xla_rows") else _native.xla_rows()


def lend_pool(gomp_parallel: int, omp_get_max_threads: int) -> None:
    """Threads that wait for work, instead of ones that are started for a call, where this thread calls the core.

    The addresses of the functions that run something in them, and say how many they are.
    """
    if _native is not None:
        _native.lend_pool(gomp_parallel, omp_get_max_threads)


def label_scan() -> Callable[..., tuple[int, float] | None] | None:
    """The core's look at labels (rows,), where it computes: ``row_coefficients`` says what it is."""
    return None if _native is None or forced() == "generic" else _native.labels


def within(
    array: np.ndarray,
    low: float,
    high: float,
    ignored: float | None = None,
    *,
    nan: bool = False,
    ends: bool = False,
) -> int | None:
    """How many entries are ``ignored``, if all others lie in [low, high], or are NaN (``nan``), or are one (``ends``).

    None where one lies outside, or where the core cannot tell: then array code looks, and says where.
    """
    if _native is None or forced() == "generic" or array.dtype.char not in NUMBERS or not array.flags.forc:
        return None
    return _native.within(array.ravel(order="K"), low, high, ignored, nan, ends)


def reads_every_digit(target: Any, logits: Any) -> bool:
    """Does the core see a soft target as it is? A double becomes a float beside float logits: -1e-50 becomes 0."""
    return dtype_name(target) != "float64" or dtype_name(logits) == "float64"


def core(logits: np.ndarray, layout: Layout, coefficients: RowCoefficients, num_threads: int | None) -> Core | None:
    """The core for one call; None where ``generic`` has to compute it."""
    instruction_set = "generic" if _native is None else forced()
    if instruction_set == "generic" or layout.count == 0:
        return None
    return Core(cube(logits, layout), layout, coefficients, num_threads or EVERY_CORE, instruction_set)


class Core:
    """One call of the core. ``given``: the logits as (outer, classes, inner), or with two dimensions as they are."""

    def __init__(
        self, given: np.ndarray, layout: Layout, coefficients: RowCoefficients, num_threads: int, instruction_set: str
    ) -> None:
        self.given, self.layout, self.coefficients = given, layout, coefficients
        self.num_threads, self.instruction_set = num_threads, instruction_set

    def losses(self, losses: np.ndarray, upstream: Any = None, gradient: np.ndarray | None = None) -> None:
        """Fill ``losses`` (rows,) and, where one is given, ``gradient``: upstream x derivative, like the logits."""
        self.compute({"loss": losses}, self.coefficients, None, upstream, gradient)

    def total(
        self,
        row_weight: Any = None,
        upstream: Any = None,
        gradient: np.ndarray | None = None,
        dense_mass: np.ndarray | None = None,
    ) -> float:
        """Sum of row_weight x loss over the rows that count alone, in a fixed order; ``gradient`` as for ``losses``.

        ``dense_mass`` is filled where it is given.
        """
        results = {} if dense_mass is None else {"dense_mass": dense_mass}
        return self.compute(results, self.coefficients, row_weight, upstream, gradient, wants_total=True)

    def dense_mass(self, mass: np.ndarray) -> None:
        """Fill ``mass`` (rows,) with sum_j w_j t_j: 0 where a row does not count, NaN for a negative entry or NaN."""
        self.compute({"dense_mass": mass}, self.coefficients)

    def labelled(self, low: float, high: float) -> Core | None:
        """A core that reads the entries at the labels alone, gathered once, for values without a gradient.

        None where one of them is outside [low, high] (NaN is not), or where the core cannot tell.
        """
        c, layout = self.coefficients, self.layout
        if c.indices is None or c.indices.ndim != 1 or self.given.dtype.char not in "df":
            return None
        values = np.empty(layout.count)
        if not _native.labelled(
            self.given, layout.axis, c.indices, c.ignored_label, low, high, values, self.num_threads
        ):
            return None
        # Whatever the label, it is the row's own entry.
        entries = np.broadcast_to(values[:, None], (layout.count, layout.classes))
        return Core(entries, Layout(entries.shape, 1), c, self.num_threads, self.instruction_set)

    def row_statistics(self) -> RowStatistics | None:
        """Statistics of every row, ignored ones too, with what entropy and prediction need.

        None for log-probabilities of which a row has NaN or no possible class.
        """
        c = dataclasses.replace(self.coefficients, valid=None, ignored_label=None)
        names = ["maximum", "ties", "others", "entropy_sum"]
        if c.label_smoothing:
            names += ["profile", "profile_mass", "allowed"]
        if c.dense is not None:
            names += ["dense", "dense_mass", "target_sum"]
        results = {name: np.empty(self.layout.count) for name in names}
        results["prediction"] = np.empty(self.layout.count, np.int64)
        found = None
        if c.indices is not None:
            results["target_logit"] = np.empty(c.indices.shape)
            found = (c.indices >= 0) & (c.indices < self.layout.classes)
        self.compute(results, c, has_softmax=True)
        statistics = RowStatistics(**results, found=found)
        if c.inputs == "logits":
            return statistics
        return as_given(statistics) if np.isfinite(statistics.maximum).all() else None

    def compute(
        self,
        results: dict[str, np.ndarray],
        c: RowCoefficients,
        row_weight: Any = None,
        upstream: Any = None,
        gradient: np.ndarray | None = None,
        *,
        wants_total: bool = False,
        has_softmax: bool | None = None,
    ) -> Any:
        """Fill ``results``, float64 arrays by their name in ``RowStatistics`` or "loss", and ``gradient``.

        ``has_softmax``: by default, of logits alone. The result is the sum of row_weight x loss over the rows that
        count, if ``wants_total``.
        """
        layout, given, indices, index_weight, spread = self.layout, self.given, c.indices, c.index_weight, None
        slope: Any = None if gradient is None else cube(gradient, layout)
        as_given = indices is not None and indices.ndim == 1
        if not as_given and indices is not None:
            indices, index_weight = np.require(indices, requirements="A"), float64(np.atleast_2d(index_weight))
            spread = c.target_sum if c.label_smoothing and np.ndim(c.target_sum) else None
        in_bfloat16 = is_bfloat16(given)
        if gradient is None:
            upstream = None
        elif not (upstream is None or isinstance(upstream, float)):
            upstream = np.atleast_1d(float64(upstream))
        class_weight = c.class_weight
        total = _native.rows(
            bits(given) if in_bfloat16 else given,
            layout.axis,
            in_bfloat16,
            c.inputs == "logits" if has_softmax is None else has_softmax,
            c.inputs == "probs",
            c.temperature,
            c.softcap or 0.0,
            None if c.class_bias is None or not c.class_bias.any() else float64(c.class_bias),  # zeros are no transform
            None if c.class_mask is None else rows_cube(c.class_mask, layout),
            indices,
            c.ignored_label,
            index_weight,
            as_given and class_weight is not None,
            None if c.dense is None else bits(rows_cube(c.dense, layout)),
            c.dense is not None and is_bfloat16(c.dense),
            c.dense_scale,
            None if class_weight is None else float64(class_weight),
            c.label_smoothing,
            None if spread is None else float64(spread),
            c.z_loss,
            c.focal_gamma,
            c.valid,
            None if row_weight is None else float64(row_weight),
            upstream,
            results,
            wants_total,
            bits(slope) if in_bfloat16 and slope is not None else slope,
            self.num_threads,
            self.instruction_set,
        )
        if gradient is not None and slope is not gradient and not np.may_share_memory(slope, gradient):
            gradient[...] = slope.reshape(gradient.shape)
        return total


def as_given(s: RowStatistics) -> RowStatistics:
    """Statistics of log-probabilities as they are, where nothing is relative to the maximum m, from those of logits.

    All that is added up is <= 0, so that nothing cancels.
    """

    def moved(total: Any, mass: Any) -> Any:
        return None if total is None else total + mass * s.maximum

    return dataclasses.replace(
        s,
        maximum=np.zeros_like(s.maximum),
        ties=np.ones_like(s.maximum),
        others=np.zeros_like(s.maximum),
        target_logit=None if s.target_logit is None else np.where(s.found, s.target_logit + s.maximum[:, None], 0.0),
        profile=moved(s.profile, s.profile_mass),
        dense=moved(s.dense, s.dense_mass),
        entropy_sum=np.exp(s.maximum) * moved(s.entropy_sum, s.ties + s.others),
    )


def binary_losses(
    logits: np.ndarray,
    c: BinaryCoefficients,
    factor: float,
    *,
    scale: float = 1.0,
    losses: np.ndarray | None = None,
    gradient: np.ndarray | None = None,
    num_threads: int | None,
) -> float | None:
    """The sum of weight x sigmoid loss, in a fixed order; or ``losses``, filled with factor x weight x loss.

    ``gradient`` takes factor x weight x derivative. An element of weight 0 is not read. ``scale``, a power of two,
    multiplies the weights everywhere. None, with nothing written, where ``generic`` has to compute it.
    """
    instruction_set = "generic" if _native is None else forced()
    if instruction_set == "generic" or logits.size == 0:
        return None
    x, target, slope = flat(logits), flat(c.target), flat(gradient)
    sums = np.empty(_native.element_blocks(logits.size)) if losses is None else None
    _native.binary(
        bits(x),
        is_bfloat16(logits),
        INPUTS.index(c.inputs),
        bits(target),
        is_bfloat16(c.target),
        None if c.ignored_label is None else float(c.ignored_label),
        flat(c.valid),
        *own_entries(c.pos_weight),
        *own_entries(c.weight),
        scale,
        c.label_smoothing,
        c.focal_gamma,
        factor,
        losses,
        sums,
        None if slope is None else bits(slope),
        num_threads or EVERY_CORE,
        instruction_set,
    )
    if gradient is not None and not np.may_share_memory(slope, gradient):
        gradient[...] = slope.reshape(gradient.shape)
    return 0.0 if sums is None else float(sums.sum())


def flat(array: Any) -> Any:
    return None if array is None else np.require(array, requirements=["C", "A"]).reshape(-1)


def own_entries(array: Any) -> tuple[Any, int]:
    """The entries that an array had before it was broadcast, and how many elements each of them serves in turn.

    The elements then begin with the first entry again.
    """
    if array is None:
        return None, 1
    repeats = [stride == 0 or extent == 1 for stride, extent in zip(array.strides, array.shape, strict=True)]
    first = next((axis for axis, repeated in enumerate(repeats) if not repeated), array.ndim)
    end = array.ndim - next((axis for axis, repeated in enumerate(reversed(repeats)) if not repeated), array.ndim)
    own = array[(0,) * first + (slice(None),) * (end - first) + (0,) * (array.ndim - max(first, end))]
    return flat(own if own.dtype.char in NUMBERS else float64(own)), math.prod(array.shape[max(first, end) :])


def row_scores(
    values: np.ndarray,
    labels: np.ndarray,
    inputs: str,
    results: dict[str, np.ndarray],
    weights: np.ndarray | None = None,
    inverse_temperatures: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Score rows of predictions, shape (rows, classes), against int64 ``labels`` in one read.

    Fills ``results``, float64 (int64: "prediction") of shape (rows,), by their names in
    ``native/score_problem.hpp``. With 9
    ``inverse_temperatures``, each twice the one before, also gives sums over the rows of finite loss: by fold
    the weight, the losses and their two derivatives, shape (folds, 1 + 3 x 9), and the gap with its variance.

    None, with nothing written, where the core does not compute.
    """
    instruction_set = "generic" if _native is None else forced()
    if instruction_set == "generic" or not len(labels):
        return None
    at, blocks = inverse_temperatures, _native.score_blocks(len(labels))
    by_temperature = np.empty((blocks, _native.folds, _native.sums_per_fold) if at is not None else 0)
    gap = np.empty((blocks, 2) if at is not None else 0)
    _native.scores(
        values if values.flags.aligned else values.copy(),
        ("probs", "log_probs", "logits").index(inputs),
        np.ascontiguousarray(labels, np.int64),
        float64(weights),
        results,
        [] if at is None else at.tolist(),
        None if at is None else by_temperature.ravel(),
        None if at is None else gap.ravel(),
        EVERY_CORE,
        instruction_set,
    )
    return by_temperature.sum(axis=0), gap.sum(axis=0)


def float64(array: Any) -> Any:
    return None if array is None else np.ascontiguousarray(array, dtype=np.float64)


def bits(array: Any) -> Any:
    """bfloat16 as the uint16 that holds it: it has no place in NumPy's buffers."""
    return array.view(np.uint16) if is_bfloat16(array) else array


def is_bfloat16(array: Any) -> bool:
    dtype = array.dtype
    return dtype.char not in NUMBERS and (dtype.names == BFLOAT16.names or dtype_name(array) == "bfloat16")


def cube(array: np.ndarray, layout: Layout) -> np.ndarray:
    """An array of the logits' shape as (outer, classes, inner): a view, or a copy where no view is possible."""
    if not array.flags.aligned:
        array = array.copy()
    if array.ndim == 2:
        return array
    shape = layout.shape
    return array.reshape(math.prod(shape[: layout.axis]), layout.classes, math.prod(shape[layout.axis + 1 :]))


def rows_cube(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """(rows, classes), or (classes,) for every row, as (outer, classes, inner)."""
    if not rows.flags.aligned:
        rows = rows.copy()
    if rows.ndim == 1:
        return rows[None, :, None]
    return rows.reshape(math.prod(layout.shape[: layout.axis]), -1, layout.classes).transpose(0, 2, 1)
