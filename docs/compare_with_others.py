"""Measure what crossentropy, PyTorch, optax, Keras and scikit-learn give for the inputs of "Defined results".

    python docs/compare_with_others.py            print the table, with the libraries that are installed
    python docs/compare_with_others.py --write    measure all of them and write the table into docs/defined_results.md,
                                                  and some of its rows into README.md
    python docs/compare_with_others.py --check    fail where a committed table differs from what is measured now

Every library gets the same float32 input and is called in the form that its own documentation shows; where it has no
such form, the cell is empty. `pip install ".[docs]"` installs all of them.
"""

import argparse
import importlib.metadata
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import crossentropy as xe

DOCUMENT = Path(__file__).with_name("defined_results.md")
README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- measured table: start -->", "<!-- measured table: end -->"
INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Case:
    """One row of the table: the input as a person would write it, for softmax or sigmoid ("binary") cross-entropy."""

    name: str
    logits: list
    target: list
    binary: bool = False
    in_readme: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Fresh arrays, so that a library that writes to its input is seen."""
        target = np.asarray(self.target)
        is_float = target.dtype.kind == "f" and target.size
        logits = np.asarray(self.logits, dtype=np.float32)
        return logits.reshape(-1, 3) if not logits.size else logits, target.astype(np.float32 if is_float else np.int64)

    def input(self) -> str:
        """The input as it stands in the table."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"`{self.logits}, {self.target}{options}`"


CASES = [
    Case("every row ignored", [[1, 2, 3], [3, 2, 1]], [-100, -100], in_readme=True),
    Case("no rows", [], []),
    Case("an ignored row that holds NaN", [[NAN, 0, 0], [2, 1, 0]], [-100, 0], in_readme=True),
    Case("an ignored row that holds inf", [[INF, 0, 0], [2, 1, 0]], [-100, 0]),
    Case("logit -inf beside the target", [[-INF, 0, 1]], [1]),
    Case("logit -inf beside a one-hot target", [[-INF, 0, 1]], [[0.0, 1.0, 0.0]], in_readme=True),
    Case("logit -inf under smoothing", [[-INF, 0, 1]], [1], options={"label_smoothing": 0.1}),
    Case("logit -inf on the target", [[-INF, 0, 1]], [0]),
    Case("probability 0 on the target", [[0, 0.5, 0.5]], [0], options={"inputs": "probs"}, in_readme=True),
    Case("probability 0 on the target, binary", [0], [1], binary=True, options={"inputs": "probs"}, in_readme=True),
    Case("NaN logit", [[NAN, 0, 0], [2, 1, 0]], [1, 0], options={"reduction": "none"}),
    Case("logit +inf", [[INF, 0, 0], [2, 1, 0]], [0, 0], options={"reduction": "none"}),
    Case("every logit -inf", [[-INF, -INF, -INF], [2, 1, 0]], [0, 0], options={"reduction": "none"}),
    Case("sigmoid, logit +inf, target 1", [INF], [1], binary=True, in_readme=True),
    Case("sigmoid, logit -inf, target 0", [-INF], [0], binary=True),
    Case("sigmoid, logit +inf, target 0", [INF], [0], binary=True),
    Case("label too large", [[1, 2, 3]], [5], in_readme=True),
    Case("label negative", [[1, 2, 3]], [-1], in_readme=True),
    Case("float class indices", [[1, 2, 3], [3, 2, 1]], [0.0, 1.0]),
    Case("labels of shape (N, 1)", [[1, 2, 3], [3, 2, 1]], [[0], [1]]),
    Case("more labels than rows", [[1, 2, 3], [3, 2, 1]], [0, 1, 2]),
    Case("smoothing outside [0, 1)", [[1, 2, 3]], [0], options={"label_smoothing": 1.5}, in_readme=True),
    Case("unknown option value", [[1, 2, 3]], [0], options={"reduction": "average"}),
    Case("focal and soft target", [[1, 2, 3]], [[0.5, 0.5, 0.0]], options={"focal_gamma": 2.0}),
    Case("focal and smoothing", [[1, 2, 3]], [0], options={"focal_gamma": 2.0, "label_smoothing": 0.1}),
    Case("a loss far below one ulp of 1", [[20, 0, 0]], [0], in_readme=True),
]


class NotOfferedError(Exception):
    """The library has no form for this case."""


# Each of these takes (case, logits, target) and returns (value, gradient); None where there is no gradient to ask for.


def ask_crossentropy(case: Case, logits: np.ndarray, target: np.ndarray) -> tuple[Any, Any]:
    function = xe.binary_cross_entropy_value_and_grad if case.binary else xe.cross_entropy_value_and_grad
    return function(logits, target, **case.options)


def ask_torch(case: Case, logits: np.ndarray, target: np.ndarray) -> tuple[Any, Any]:
    import torch
    import torch.nn.functional as F

    options = dict(case.options)
    probs = options.pop("inputs", "logits") == "probs"
    if "focal_gamma" in options:
        raise NotOfferedError
    x, t = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)
    if case.binary:
        value = (F.binary_cross_entropy if probs else F.binary_cross_entropy_with_logits)(x, t.to(x.dtype), **options)
    else:
        value = F.nll_loss(x.log(), t, **options) if probs else F.cross_entropy(x, t, **options)
    value.sum().backward()
    return value.detach().numpy(), x.grad.numpy()


def differentiate_with_jax(loss: Callable[[Any], Any], logits: np.ndarray) -> tuple[Any, Any]:
    import jax

    def total(x: Any) -> tuple[Any, Any]:
        value = loss(x)
        return value.sum(), value

    gradient, value = jax.grad(total, has_aux=True)(jax.numpy.asarray(logits))
    return value, gradient


def ask_optax(case: Case, logits: np.ndarray, target: np.ndarray) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp
    import optax

    smoothing, reduction = case.options.get("label_smoothing"), case.options.get("reduction", "mean")
    if reduction not in ("mean", "none") or "inputs" in case.options or "focal_gamma" in case.options:
        raise NotOfferedError
    t = jnp.asarray(target)

    def loss(x: Any) -> Any:
        if case.binary:
            rows = optax.sigmoid_binary_cross_entropy(x, t)
        elif smoothing is not None:
            rows = optax.softmax_cross_entropy(x, optax.smooth_labels(jax.nn.one_hot(t, x.shape[-1]), smoothing))
        elif t.shape == x.shape:
            rows = optax.softmax_cross_entropy(x, t)
        else:
            rows = optax.softmax_cross_entropy_with_integer_labels(x, t)
        if reduction == "none":
            return rows
        return rows.mean(where=t != -100) if (target == -100).any() else rows.mean()

    return differentiate_with_jax(loss, logits)


def ask_keras(case: Case, logits: np.ndarray, target: np.ndarray) -> tuple[Any, Any]:
    import keras

    options = dict(case.options)
    from_logits = options.pop("inputs", "logits") == "logits"
    reduction = options.pop("reduction", "sum_over_batch_size")
    settings = {"from_logits": from_logits, "reduction": None if reduction == "none" else reduction}
    if case.binary:
        loss = keras.losses.BinaryCrossentropy(**settings)
        logits, target = logits[:, None], target[:, None]  # Keras takes the mean over the last axis
    elif "focal_gamma" in options or "label_smoothing" in options:
        if target.ndim == 1:
            target = np.eye(logits.shape[-1], dtype=np.float32)[target]
        if gamma := options.pop("focal_gamma", 0):
            loss = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=gamma, **options, **settings)
        else:
            loss = keras.losses.CategoricalCrossentropy(**options, **settings)
    elif target.shape == logits.shape:
        loss = keras.losses.CategoricalCrossentropy(**settings)
    else:
        if (target == -100).any():
            settings["ignore_class"] = -100
        loss = keras.losses.SparseCategoricalCrossentropy(**settings)
    return differentiate_with_jax(lambda x: loss(target, x), logits)


def ask_sklearn(case: Case, logits: np.ndarray, target: np.ndarray) -> tuple[Any, Any]:
    from scipy.special import expit, softmax
    from sklearn.metrics import log_loss

    if set(case.options) - {"inputs"}:
        raise NotOfferedError  # one number from labels and probabilities is all there is
    probs = logits if "inputs" in case.options else expit(logits) if case.binary else softmax(logits, axis=-1)
    labels = None if target.shape == probs.shape and not case.binary else range(2 if case.binary else logits.shape[-1])
    ignored = target == -100
    weight = np.where(ignored, 0.0, 1.0) if ignored.any() else None
    return log_loss(np.where(ignored, 0, target), probs, labels=labels, sample_weight=weight), None


LIBRARIES: dict[str, Callable[[Case, np.ndarray, np.ndarray], tuple[Any, Any]]] = {
    "crossentropy": ask_crossentropy,
    "torch": ask_torch,
    "optax": ask_optax,
    "keras": ask_keras,
    "scikit-learn": ask_sklearn,
}


def number(x: float) -> str:
    return "NaN" if math.isnan(x) else f"{x:.6g}"


def describe_gradient(gradient: np.ndarray) -> str:
    """In a word where it is zero or finite everywhere, else with the rows that are not finite."""
    if np.isfinite(gradient).all():
        return "finite" if gradient.any() else "0"
    words = []
    for name, found in (("NaN", np.isnan(gradient)), ("inf", np.isposinf(gradient)), ("-inf", np.isneginf(gradient))):
        rows = np.flatnonzero(found.reshape(len(gradient), -1).any(axis=1))
        if rows.size:
            words.append(name if len(gradient) == 1 else f"{name} in row {', '.join(map(str, rows))}")
    return " and ".join(words)


def measure(ask: Callable[[Case, np.ndarray, np.ndarray], tuple[Any, Any]], case: Case) -> str:
    """One cell of the table."""
    logits, target = case.arrays()
    before = logits.copy(), target.copy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value, gradient = ask(case, logits, target)
    except NotOfferedError:
        return ""
    except Exception as error:
        return type(error).__name__
    for name, now, then in zip(("logits", "target"), (logits, target), before, strict=True):
        if not np.array_equal(now, then, equal_nan=now.dtype.kind == "f"):
            raise AssertionError(f"{ask.__name__} wrote to its {name} in case {case.name!r}")
    value = np.asarray(value)
    shown = ", ".join(number(x) for x in value.ravel().tolist())
    if value.ndim:
        shown = f"[{shown}]"
    return shown if gradient is None else f"{shown}; gradient {describe_gradient(np.asarray(gradient))}"


def installed_version(library: str) -> str | None:
    """Version without a local part ("+cpu"), or None where the library is not installed."""
    try:
        return importlib.metadata.version(library).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "in this tree" if library == "crossentropy" else None


def measure_table(libraries: Mapping[str, str]) -> list[list[str]]:
    """Header and rows for `libraries`, {name: version}."""
    header = ["case", "input", *(name if name == "crossentropy" else f"{name} {libraries[name]}" for name in libraries)]
    return [header, *([c.name, c.input(), *(measure(LIBRARIES[name], c) for name in libraries)] for c in CASES)]


def to_markdown(table: list[list[str]]) -> str:
    header, *rows = ("| " + " | ".join(cells) + " |" for cells in table)
    return "\n".join([header, "|---" * len(table[0]) + "|", *rows])


def from_markdown(text: str) -> list[list[str]]:
    header, _, *rows = text.strip().splitlines()
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in (header, *rows)]


def differences(committed: list[list[str]], measured: list[list[str]]) -> list[str]:
    """What the committed table says otherwise than the measured one, in the columns that both have."""
    (old_header, *old_rows), (new_header, *new_rows) = committed, measured
    for column in new_header:
        if column not in old_header:
            print(f"not compared: {column} (the committed table has {', '.join(old_header[2:])})")
    old = {row[0]: dict(zip(old_header, row, strict=True)) for row in old_rows}
    new = {row[0]: dict(zip(new_header, row, strict=True)) for row in new_rows}
    found = [f"{case}: in one of the two tables alone" for case in old.keys() ^ new.keys()]
    for case in old.keys() & new.keys():
        then, now = old[case], new[case]
        changed = [column for column in then.keys() & now.keys() if then[column] != now[column]]
        found += [f"{case}, {column}: the table says {then[column]!r}, measured {now[column]!r}" for column in changed]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="write the tables into the documents")
    action.add_argument("--check", action="store_true", help="fail where a committed table differs")
    arguments = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    versions = {name: installed_version(name) for name in LIBRARIES}
    missing = [name for name, version in versions.items() if version is None]
    print(f"not installed: {', '.join(missing)}" if missing else "all libraries are installed", file=sys.stderr)
    if arguments.write and missing:
        return 1
    table = measure_table({name: version for name, version in versions.items() if version is not None})
    shown = {case.name for case in CASES if case.in_readme}
    tables = {DOCUMENT: table, README: [table[0], *(row for row in table[1:] if row[0] in shown)]}
    if not (arguments.write or arguments.check):
        print(to_markdown(table))
    status = 0
    for document, measured in tables.items():
        before, _, rest = document.read_text("utf-8").partition(START)
        committed, _, after = rest.partition(END)
        if arguments.write:
            document.write_text(f"{before}{START}\n{to_markdown(measured)}\n{END}{after}", "utf-8", newline="\n")
        if arguments.check and (found := differences(from_markdown(committed), measured)):
            print(f"{document.name}:", *found, sep="\n  ")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
