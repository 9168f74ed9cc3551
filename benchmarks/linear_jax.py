"""The loss of a linear classifier on JAX arrays beside the plain form, both compiled: time, and XLA's count of memory.

``python -m benchmarks --suite linear --jax``. What is timed is the value with its gradients to features and weight. Of
memory, "temporary" is what the compiled program takes besides arguments and results.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import crossentropy as xe
from benchmarks.linear import MEGABYTE, SIZES, SMALLER
from benchmarks.timing import interleaved

HEAD = ["rows x D x classes", "form", "s", "plain / it", "temporary memory, MB"]
BUDGETS = {"ours": None, "ours, 64 MB": 64_000_000}


def table(quick: bool) -> list[str]:
    """The suite's part of RESULTS.md, printed as it is measured."""
    import jax
    import jax.numpy as jnp

    def plain(features: Any, weight: Any, labels: Any) -> Any:
        logits = features @ weight.T
        label = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
        return (jax.scipy.special.logsumexp(logits, axis=-1) - label).mean()

    def ours(budget: int | None) -> Any:
        return lambda *given: xe.linear_cross_entropy(*given, memory_budget=budget)

    print(" | ".join(HEAD))
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for rows, width, classes in SMALLER if quick else SIZES[:1]:
        random = np.random.default_rng(0)
        features = random.standard_normal((rows, width), np.float32) / np.float32(width**0.5)
        weight = random.standard_normal((classes, width), np.float32)
        given = tuple(map(jnp.asarray, (features, weight, random.integers(0, classes, rows))))
        forms = {"plain": plain} | {name: ours(budget) for name, budget in BUDGETS.items()}
        programs = {
            name: jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*given).compile() for name, loss in forms.items()
        }
        values = {name: program(*given)[0] for name, program in programs.items()}
        for name, value in values.items():
            if not abs(value - values["plain"]) <= 1e-5 * abs(values["plain"]):
                raise AssertionError(f"{name} gives {value!r}, the plain form {values['plain']!r}")

        def call(program: Any, given: Any = given) -> Any:
            return lambda: jax.block_until_ready(program(*given))

        calls = {name: call(program) for name, program in programs.items()}
        taken = interleaved(calls, 0.2 if quick else 20.0, runs=1)
        for name, seconds in taken.items():
            memory = programs[name].memory_analysis().temp_size_in_bytes / MEGABYTE
            ratio = f"{taken['plain'] / seconds:.2f}"
            cells = [f"{rows:,} x {width:,} x {classes:,}", name, f"{seconds:.2f}", ratio, f"{memory:,.0f}"]
            print(" | ".join(cells), flush=True)
            lines.append("| " + " | ".join(cells) + " |")
    return lines
