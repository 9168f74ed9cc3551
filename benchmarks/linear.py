"""The loss of a linear classifier: time beside the bare matrix products and PyTorch's own forms, and memory.

``python -m benchmarks --suite linear``. What is timed is forward + backward to features and weight, on tensors, with as
many threads as there are cores. "bare products" are the three that nobody can leave out: features @ weight.T, its
gradient @ weight, its gradient transposed @ features. In one line they write memory that is there, as "ours, NumPy"
does with ``out=``; in the other into fresh results, as every form on tensors does.

Memory is the high-water mark of a process of its own, beyond inputs and gradients, which are there before.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.timing import interleaved

SIZES = [(1_024, 768, 50_257), (2_048, 1_024, 128_256)]
SMALLER = [(64, 768, 50_257)]
# PyTorch's plain bfloat16 form took 40 s a step with 512 rows of 16,384 classes.
SIZE_IN_BFLOAT16 = (256, 768, 8_192)
MEGABYTE = 1_000_000
HEAD = ["rows x D x classes", "dtype", "form", "s", "/ bare products", "memory, MB"]

# Each is an expression for the loss; the names are those of SETUP.
FORMS = {
    "ours": "xe.linear_cross_entropy(features, weight, labels)",
    "ours, 64 MB": "xe.linear_cross_entropy(features, weight, labels, memory_budget=64_000_000)",
    "ours, half of the rows ignored": "xe.linear_cross_entropy(features, weight, half)",
    "ours, NumPy": "xe.linear_cross_entropy_value_and_grad(arrays[0], arrays[1], arrays[2], out=out)[0]",
    "torch, plain": "F.cross_entropy(F.linear(features, weight), labels)",
    "torch, chunked": "F.linear_cross_entropy(features, weight, labels, options=torch.nn.LinearCrossEntropyOptions())",
}
# Of the larger size; torch's chunked form would take a minute a step.
OF_LARGER = ("ours", "ours, half of the rows ignored", "ours, NumPy", "torch, plain")
# In 16 bits: the bare products are taken in float32 where torch's are several times slower in bfloat16.
IN_BFLOAT16 = ("ours", "torch, plain", "torch, chunked")

SETUP = """
import warnings
import numpy as np
import torch
import torch.nn.functional as F
import crossentropy as xe

warnings.simplefilter("ignore")
torch.manual_seed(0)
width, classes, dtype = {width}, {classes}, torch.{dtype}
weight = torch.randn(classes, width).to(dtype).requires_grad_()

def prepare(rows):
    global features, labels, half, arrays, out
    features = (torch.randn(rows, width) / width**0.5).to(dtype).requires_grad_()
    labels = torch.randint(0, classes, (rows,))
    half = labels.clone()
    half[::2] = -100
    arrays = out = None
    if dtype == torch.float32:
        arrays = [t.detach().numpy() for t in (features, weight, labels)]
        out = [np.ones_like(a) for a in arrays[:2]]

def step(loss):
    features.grad = weight.grad = None
    value = loss()
    if isinstance(value, torch.Tensor):
        value.backward()
    return float(value)

prepare({rows})
"""

CHILD = """
def memory(what):
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))

loss = lambda: {form}
prepare(512)
step(loss)  # libraries keep what they need for the life of a process
prepare({rows})
weight.grad = None
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins again
before = memory("VmRSS")
step(loss)
formed = 0 if features.grad is None else features.nbytes + weight.nbytes
print(memory("VmHWM") - before - formed)
"""


@dataclasses.dataclass
class Line:
    size: tuple[int, int, int]
    dtype: str
    form: str
    seconds: float
    ratio: float
    memory: float | None  # bytes

    def cells(self) -> list[str]:
        memory = "" if self.memory is None else f"{self.memory / MEGABYTE:,.0f}"
        size = " x ".join(f"{n:,}" for n in self.size)
        return [size, self.dtype, self.form, f"{self.seconds:.2f}", f"{self.ratio:.2f}", memory]


def made(size: tuple[int, int, int], dtype: str) -> dict[str, Any]:
    """The names of SETUP."""
    rows, width, classes = size
    names: dict[str, Any] = {}
    exec(SETUP.format(rows=rows, width=width, classes=classes, dtype=dtype), names)
    return names


def calls_of(names: dict[str, Any], forms: tuple[str, ...]) -> dict[str, Callable[[], float]]:
    return {form: eval(f"lambda: step(lambda: {FORMS[form]})", names) for form in forms}


def bare_products(names: dict[str, Any]) -> dict[str, Callable[[], object]]:
    torch = names["torch"]
    features, weight = (names[name].detach().float() for name in ("features", "weight"))
    logits = torch.empty(len(features), len(weight))
    to_features, to_weight = torch.empty_like(features), torch.empty_like(weight)

    def products() -> None:
        torch.mm(features, weight.T, out=logits)
        torch.mm(logits, weight, out=to_features)
        torch.mm(logits.T, features, out=to_weight)

    def fresh() -> None:
        logits = torch.mm(features, weight.T)
        _ = torch.mm(logits, weight), torch.mm(logits.T, features)

    return {"bare products": products, "bare products, fresh results": fresh}


def check(names: dict[str, Any], forms: tuple[str, ...], dtype: str) -> None:
    """The same value and gradients, before anything is timed; of 16-bit forms, which round their logits, roughly."""
    torch, tolerance = names["torch"], 1e-4 if dtype == "float32" else 0.05
    expected: dict[bool, Any] = {}
    for form, call in calls_of(names, forms).items():
        value = call()
        if form == "ours, NumPy":
            gradients = [torch.from_numpy(a) for a in names["out"]]
        else:
            gradients = [names[name].grad.float() for name in ("features", "weight")]
        value_, gradients_ = expected.setdefault("half" in form, (value, gradients))
        errors = [abs(value / value_ - 1)]
        errors += [float((a - b).norm() / b.norm()) for a, b in zip(gradients, gradients_, strict=True)]
        if not max(errors) <= tolerance:
            raise AssertionError(f"{form}, {dtype}: value and gradients are off by {errors}")


def error_of_weight_gradient(size: tuple[int, int, int]) -> dict[str, float]:
    """Of each bfloat16 form: |error| / |gradient|, against the same numbers in float64."""
    names = made(size, "bfloat16")
    wide = [names[name].detach().double() for name in ("features", "weight")]
    xe = names["xe"]
    exact = xe.linear_cross_entropy_value_and_grad(*wide, names["labels"])[1].weight
    errors = {}
    for form, call in calls_of(names, IN_BFLOAT16).items():
        call()
        errors[form] = float((names["weight"].grad.double() - exact).norm() / exact.norm())
    errors["the exact one, rounded"] = float((exact.bfloat16().double() - exact).norm() / exact.norm())
    return errors


def memory_of(size: tuple[int, int, int], dtype: str, form: str) -> float | None:
    """Bytes at the peak beyond inputs and gradients; None where the system does not tell."""
    rows, width, classes = size
    script = SETUP.format(rows=rows, width=width, classes=classes, dtype=dtype) + CHILD.format(
        form=FORMS[form], rows=rows
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def measured(size: tuple[int, int, int], dtype: str, seconds: float) -> list[Line]:
    """The lines of one size; the first is the bare products."""
    names = made(size, dtype)
    forms = IN_BFLOAT16 if dtype != "float32" else OF_LARGER if size == SIZES[-1] else tuple(FORMS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(names, forms, dtype)
        calls: dict[str, Callable[[], object]] = {**bare_products(names), **calls_of(names, forms)}
        taken = interleaved(calls, seconds, runs=1)  # a call takes seconds
    bare = taken["bare products"]
    return [
        Line(size, dtype, form, time, time / bare, memory_of(size, dtype, form) if form in FORMS else None)
        for form, time in taken.items()
    ]


def table(quick: bool) -> list[str]:
    """The suite's part of RESULTS.md, printed as it is measured."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    print(" | ".join(HEAD))
    sizes = [(size, "float32") for size in (SMALLER if quick else SIZES)]
    for size, dtype in [*sizes, (SIZE_IN_BFLOAT16, "bfloat16")]:
        for line in measured(size, dtype, 0.2 if quick else 20.0):
            print(" | ".join(line.cells()), flush=True)
            lines.append("| " + " | ".join(line.cells()) + " |")
    errors = error_of_weight_gradient((256, 64, 1_000) if quick else (4_096, 256, 8_192))
    text = "; ".join(f"{form} {error:.5f}" for form, error in errors.items())
    print(text)
    return [*lines, "", "Relative error of the bfloat16 gradient to the weight (in the Euclidean norm): " + text + "."]
