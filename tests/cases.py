"""The tables of cases: every option one entry, from which singles, pairs, dtypes and derivatives follow.

All numbers have at most seven significant bits, so that bfloat16, float16, float32 and float64 hold the same ones and
share one run of the oracle. Full-length numbers are in test_exactness.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from typing import Any

import ml_dtypes
import numpy as np
import reference
from error_scales import ErrorScales
from tolerances import GRADIENT, gradient_bound

ROWS, CLASSES = 6, 5
DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def short_normal(rng: np.random.Generator, shape: Any, size: float = 3.0) -> np.ndarray:
    """Normal numbers on a grid of 1/8 within (-16, 16): seven bits."""
    return np.clip(np.round(rng.normal(0, size, shape) * 8), -127, 127) / 8


def short_positive(rng: np.random.Generator, shape: Any) -> np.ndarray:
    """Numbers from 1/64 to 63/64: six bits."""
    return rng.integers(1, 64, shape) / 64


@dataclass(frozen=True)
class Option:
    """One option: its arguments for a target, and what it has no joint meaning with."""

    name: str
    arguments: Callable[[np.random.Generator, np.ndarray], dict[str, Any]]
    argument: str = ""
    needs_logits: bool = False
    needs_hard_target: bool = False
    is_smoothing: bool = False

    @property
    def changes(self) -> str:
        return self.argument or self.name


def goes_with(a: Option, b: Option) -> bool:
    """Two options have a joint meaning, and are not two values of one argument."""
    from_given = {"inputs_probs", "inputs_log_probs"}
    return not (
        a.changes == b.changes
        or (a.name in from_given and b.needs_logits)
        or (b.name in from_given and a.needs_logits)
        or (a.needs_hard_target and b.is_smoothing)
        or (b.needs_hard_target and a.is_smoothing)
    )


def with_zero(values: np.ndarray) -> np.ndarray:
    values.flat[1] = 0
    return values


def rows_mask(rng: np.random.Generator, dense: np.ndarray) -> np.ndarray:
    """Of the classes that a row's target does not need about half cannot occur; class 0 always can."""
    mask = (dense > 0) | (rng.random(dense.shape) < 0.5)
    mask[:, 0] = True
    return mask


OPTIONS = [
    Option("inputs_log_probs", lambda rng, t: {"inputs": "log_probs"}, "inputs"),
    Option("inputs_probs", lambda rng, t: {"inputs": "probs"}, "inputs"),
    Option("class_weight", lambda rng, t: {"class_weight": with_zero(short_positive(rng, CLASSES) * 4)}),
    Option("row_weight", lambda rng, t: {"row_weight": with_zero(short_positive(rng, ROWS) * 4)}),
    Option("class_mask", lambda rng, t: {"class_mask": (t > 0).any(axis=0)}, needs_logits=True),
    Option("class_mask_rows", lambda rng, t: {"class_mask": rows_mask(rng, t)}, "class_mask", needs_logits=True),
    Option("ignore_index", lambda rng, t: {"ignore_index": 1}),
    Option("label_smoothing", lambda rng, t: {"label_smoothing": 0.125}, is_smoothing=True),
    Option("focal_gamma", lambda rng, t: {"focal_gamma": 2.0}, needs_hard_target=True),
    Option("focal_gamma_fraction", lambda rng, t: {"focal_gamma": 0.75}, "focal_gamma", needs_hard_target=True),
    Option("z_loss", lambda rng, t: {"z_loss": 0.0625}, needs_logits=True),
    Option("softcap", lambda rng, t: {"softcap": 5.0}, needs_logits=True),
    Option("temperature", lambda rng, t: {"temperature": 1.25}, needs_logits=True),
    Option("class_bias", lambda rng, t: {"class_bias": short_normal(rng, CLASSES)}, needs_logits=True),
    Option("reduction_none", lambda rng, t: {"reduction": "none"}, "reduction"),
    Option("reduction_sum", lambda rng, t: {"reduction": "sum"}, "reduction"),
    Option("normalizer_rows", lambda rng, t: {"normalizer": "rows"}, "normalizer"),
    Option("normalizer_number", lambda rng, t: {"normalizer": 24.0}, "normalizer"),
    Option("normalizer_array", lambda rng, t: {"normalizer": np.asarray(24.0)}, "normalizer"),
    Option("unit", lambda rng, t: {"unit": "bits"}),
    Option("num_threads", lambda rng, t: {"num_threads": 2}),
]

BINARY_OPTIONS = [
    Option("inputs_log_probs", lambda rng, t: {"inputs": "log_probs"}, "inputs"),
    Option("inputs_probs", lambda rng, t: {"inputs": "probs"}, "inputs"),
    Option("pos_weight", lambda rng, t: {"pos_weight": short_positive(rng, CLASSES) * 4}),
    Option("pos_weight_number", lambda rng, t: {"pos_weight": 2.5}, "pos_weight"),
    Option("row_weight", lambda rng, t: {"row_weight": with_zero(short_positive(rng, t.shape) * 4)}),
    Option("row_weight_rows", lambda rng, t: {"row_weight": with_zero(short_positive(rng, (ROWS, 1)))}, "row_weight"),
    Option("ignore_index", lambda rng, t: {"ignore_index": 1}),
    Option("label_smoothing", lambda rng, t: {"label_smoothing": 0.125}, is_smoothing=True),
    Option("focal_gamma", lambda rng, t: {"focal_gamma": 2.0}, needs_hard_target=True),
    Option("reduction_none", lambda rng, t: {"reduction": "none"}, "reduction"),
    Option("reduction_sum", lambda rng, t: {"reduction": "sum"}, "reduction"),
    Option("normalizer_rows", lambda rng, t: {"normalizer": "rows"}, "normalizer"),
    Option("normalizer_number", lambda rng, t: {"normalizer": 24.0}, "normalizer"),
    Option("unit", lambda rng, t: {"unit": "bits"}),
    Option("num_threads", lambda rng, t: {"num_threads": 2}),
]


# -- targets ----------------------------------------------------------------------------------------------------------


def labels(rng: np.random.Generator) -> np.ndarray:
    """Class 1 twice (the entry `ignore_index` ignores it), class 4 never (so a mask can leave it out)."""
    return rng.permutation([0, 1, 3, 3, 2, 1])


def soft(rng: np.random.Generator) -> np.ndarray:
    """Masses that need not sum to 1, with zeros; class 4 never; one row without any mass."""
    t = short_positive(rng, (ROWS, CLASSES))
    t[rng.random(t.shape) < 0.3] = 0
    t[:, 4] = 0
    t[2] = 0
    return t


def sparse(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two entries per row: an index twice; with the entry `ignore_index` one is skipped, and one row ignored."""
    indices = np.array([[0, 1], [3, 2], [3, 0], [2, 2], [1, 1], [0, 3]])
    return indices, short_positive(rng, indices.shape)


def one_hot(rng: np.random.Generator) -> np.ndarray:
    return np.eye(CLASSES, dtype=bool)[rng.permutation([0, 1, 3, 3, 2, 1])]


TARGETS = {"labels": labels, "soft": soft, "one_hot": one_hot, "sparse": sparse}


def binary_hard(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2, (ROWS, CLASSES))


def binary_soft(rng: np.random.Generator) -> np.ndarray:
    t = short_positive(rng, (ROWS, CLASSES))
    t.flat[[0, 3, 8]] = 0, 1, 1
    return t


BINARY_TARGETS = {"hard": binary_hard, "soft": binary_soft}
HARD_TARGETS = {"labels", "hard"}


def targets_of(function: str) -> dict[str, Callable[[np.random.Generator], Any]]:
    return BINARY_TARGETS if function == "binary_cross_entropy" else TARGETS


def options_of(function: str) -> list[Option]:
    return BINARY_OPTIONS if function == "binary_cross_entropy" else OPTIONS


# -- problems ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Problem:
    """One call of `function`, the same for every dtype and library, with its oracle."""

    function: str
    logits: np.ndarray
    target: Any
    options: dict[str, Any]

    def typed(self, dtype: np.dtype) -> tuple[np.ndarray, Any, dict[str, Any]]:
        """Logits and every floating argument in `dtype`; all numbers are short, so nothing is rounded."""

        def cast(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(cast(v) for v in value)
            floating = isinstance(value, np.ndarray) and value.dtype.kind == "f"
            return value.astype(dtype) if floating else value

        return cast(self.logits), cast(self.target), {name: cast(value) for name, value in self.options.items()}

    @cached_property
    def exact(self) -> reference.Losses:
        """One run of the oracle for all dtypes and libraries."""
        oracle = getattr(reference, self.function)
        return oracle(self.logits, self.target, **self.options)

    @cached_property
    def scales(self) -> ErrorScales:
        """What the errors of its results are measured against."""
        return ErrorScales(self.exact)

    @cached_property
    def vector(self) -> np.ndarray:
        """What the Hessian is multiplied with."""
        return short_normal(np.random.default_rng(1), self.logits.shape)

    @cached_property
    def exact_hvp(self) -> tuple[np.ndarray, np.ndarray]:
        """The Hessian-vector product and its scale."""
        return self.exact.hvp(self.vector), self.scales.hvp(self.vector)

    @cached_property
    def gradient_bound(self) -> np.ndarray:
        """In ulp, for every entry: from the transformed logits on."""
        if self.options.get("inputs", "logits") != "logits":
            return np.full(self.logits.shape, float(GRADIENT))
        if self.function == "binary_cross_entropy":
            return GRADIENT + np.abs(self.logits)
        z = self.logits / self.options.get("temperature", 1.0) + self.options.get("class_bias", 0.0)
        cap = self.options.get("softcap")
        z = z if cap is None else cap * np.tanh(z / cap)
        return gradient_bound(np.where(self.options.get("class_mask", True), z, -np.inf))


def inputs_for(options: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Logits, or probabilities or their logarithms, which are taken as they are and need not sum to 1."""
    shape = (ROWS, CLASSES)
    inputs = options.get("inputs", "logits")
    if inputs == "probs":
        return short_positive(rng, shape)
    return -short_positive(rng, shape) * 8 if inputs == "log_probs" else short_normal(rng, shape)


@cache
def problem(function: str, target: str, names: tuple[str, ...]) -> Problem:
    """The problem of these options (by name) and this kind of target.

    An option's numbers depend on its name, logits and target on their kinds alone, so that the oracle meets most rows
    often and works each out once.
    """
    table = {option.name: option for option in options_of(function)}
    made = targets_of(function)[target](seeded(function, target))
    dense = np.asarray(made) if function == "binary_cross_entropy" else dense_of(made)
    options: dict[str, Any] = {}
    for name in names:
        options |= table[name].arguments(seeded(name), dense)
    return Problem(function, inputs_for(options, seeded("logits")), made, options)


def seeded(*words: str) -> np.random.Generator:
    return np.random.default_rng(list(" ".join(words).encode()))


def dense_of(target: Any) -> np.ndarray:
    rows, _ = reference.dense_target(target, ROWS, CLASSES, -100)
    return np.array([[float(v) for v in row] if row else [0.0] * CLASSES for row in rows])


def combinations_of(function: str, size: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every set of `size` options that have a joint meaning, with each kind of target it has a meaning for."""
    for chosen in combinations(options_of(function), size):
        if all(goes_with(a, b) for a, b in combinations(chosen, 2)):
            for target in targets_of(function):
                if target in HARD_TARGETS or not any(option.needs_hard_target for option in chosen):
                    yield target, tuple(option.name for option in chosen)


def full_combinations(function: str, count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Random sets of as many options as have a joint meaning."""
    table = options_of(function)
    rng = np.random.default_rng(20)
    for _ in range(count):
        chosen: list[Option] = []
        for i in rng.permutation(len(table)):
            if all(goes_with(table[i], other) for other in chosen):
                chosen.append(table[i])
        needs_hard = any(option.needs_hard_target for option in chosen)
        kinds = [target for target in targets_of(function) if target in HARD_TARGETS or not needs_hard]
        yield str(rng.choice(kinds)), tuple(option.name for option in chosen)
