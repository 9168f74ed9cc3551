"""``python -m benchmarks --suite gpu``: the losses on a CUDA device beside PyTorch, Liger-Kernel, CCE and QuACK.

A contender takes part where it can be imported. Every loss is checked before it is timed. Times are medians of CUDA
events, taken in turns; the roofline is a copy and a product of the same run.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

import crossentropy as xe

F = torch.nn.functional
ROUNDS = 20


@dataclasses.dataclass(frozen=True)
class Case:
    """``what``: "value", "gradient" (with the value) or "linear" (forward + backward)."""

    what: str
    rows: int
    classes: int
    dtype: Any = torch.bfloat16
    width: int = 0
    in_place: bool = False

    @property
    def name(self) -> str:
        shape = [self.rows, *([self.width] if self.width else []), self.classes]
        return f"{self.what}{' into the logits' * self.in_place}, {' x '.join(f'{n:,}' for n in shape)} {self.dtype}"

    @property
    def bytes(self) -> int:
        """One read of the logits, and for a gradient one write."""
        return self.rows * self.classes * self.dtype.itemsize * (1 if self.what == "value" else 2)

    @property
    def flops(self) -> int:
        """Of the three products of the linear form."""
        return 3 * 2 * self.rows * self.width * self.classes


CASES = [
    Case("gradient", 8192, 128_256, in_place=True),
    *(Case("gradient", 8192, classes) for classes in (32_000, 50_257, 128_256, 262_144)),
    Case("gradient", 8192, 128_256, torch.float32),
    Case("gradient", 1_000_000, 100),
    Case("gradient", 8, 1_048_576),
    *(Case("value", 8192, classes) for classes in (32_000, 128_256)),
    Case("linear", 8192, 128_256, width=4096),
]


@dataclasses.dataclass
class Given:
    """The tensors of one case; ``labels`` holds some rows that are ignored."""

    case: Case
    labels: Any
    logits: Any = None
    features: Any = None
    weight: Any = None

    @classmethod
    def of(cls, case: Case, device: str) -> Given:
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int) -> Any:
            return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(case.dtype)

        labels = torch.randint(0, case.classes, (case.rows,), generator=generator, device=device)
        labels[::16] = -100
        if case.what != "linear":
            return cls(case, labels, logits=normal(case.rows, case.classes))
        features, weight = normal(case.rows, case.width), normal(case.classes, case.width) / case.width**0.5
        return cls(case, labels, features=features.requires_grad_(), weight=weight.requires_grad_())

    def forward_backward(self, function: Callable[..., Any]) -> Callable[[], Any]:
        """A call that gives the value, and where the case asks for it makes the gradients."""
        if self.case.what == "value":

            def value() -> Any:
                with torch.no_grad():
                    return function(self.logits, self.labels)

            return value
        leaves = [self.features, self.weight] if self.case.what == "linear" else [self.logits.requires_grad_()]

        def both() -> Any:
            result = function(*leaves, self.labels)
            torch.autograd.grad(result, leaves)
            return result.detach()

        return both


def ours(given: Given) -> Callable[[], Any]:
    if given.case.what == "linear":
        return given.forward_backward(lambda x, w, y: xe.linear_cross_entropy(x, w, y))
    if given.case.in_place:
        # The same place gets the gradient again and again: of the first call's gradient from the second on.
        logits = given.logits.clone()
        return lambda: xe.cross_entropy_value_and_grad(logits, given.labels, out=logits)[0]
    return given.forward_backward(xe.cross_entropy)


def eager(given: Given) -> Callable[[], Any]:
    if given.case.what == "linear":
        return given.forward_backward(lambda x, w, y: F.cross_entropy(F.linear(x, w).float(), y))
    return given.forward_backward(lambda x, y: F.cross_entropy(x.float(), y))


def compiled(given: Given) -> Callable[[], Any]:
    # For the sizes of this case alone: by the second one torch.compile would take them for unknown, and by the ninth
    # give up.
    torch.compiler.reset()
    if given.case.what == "linear":
        form = torch.compile(lambda x, w, y: F.cross_entropy(F.linear(x, w).float(), y), dynamic=False)
    else:
        form = torch.compile(lambda x, y: F.cross_entropy(x.float(), y), dynamic=False)
    return given.forward_backward(form)


def liger(given: Given) -> Callable[[], Any]:
    module = importlib.import_module("liger_kernel.transformers")
    if given.case.what == "linear":
        form = module.LigerFusedLinearCrossEntropyLoss()
        return given.forward_backward(lambda x, w, y: form(w, x, y))
    form = module.LigerCrossEntropyLoss()
    if given.case.what == "gradient":
        # It writes the gradient into the logits, which its callers make anew: so does this, and the copy is its time.
        return given.forward_backward(lambda x, y: form(x.clone(), y))
    return given.forward_backward(form)


def cce(given: Given) -> Callable[[], Any]:
    module = importlib.import_module("cut_cross_entropy")
    if given.case.what != "linear":
        raise NotImplementedError("computes the linear form alone")
    return given.forward_backward(lambda x, w, y: module.linear_cross_entropy(x, w, y))


def quack(given: Given) -> Callable[[], Any]:
    module = importlib.import_module("quack.cross_entropy")
    if given.case.what == "linear":
        raise NotImplementedError("its linear form is another function in every version")
    count = (given.labels != -100).sum()
    return given.forward_backward(lambda x, y: module.cross_entropy(x, y, reduction="sum") / count)


OTHERS = {"torch": eager, "torch.compile": compiled, "Liger-Kernel": liger, "Cut Cross-Entropy": cce, "QuACK": quack}
PACKAGES = {"Liger-Kernel": "liger-kernel", "Cut Cross-Entropy": "cut-cross-entropy", "QuACK": "quack-kernels"}


def contenders(given: Given) -> Iterator[tuple[str, Callable[[], Any] | str]]:
    """Every contender's call, or why there is none."""
    yield "ours", ours(given)
    for name, make in OTHERS.items():
        try:
            yield name, make(given)
        except (ImportError, NotImplementedError) as reason:
            yield name, str(reason)


def reference(given: Given) -> float:
    """The loss by float64, in blocks of rows."""
    total, count = 0.0, int((given.labels != -100).sum())
    for rows in torch.arange(given.case.rows).split(256):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        with torch.no_grad():
            logits = (
                given.logits[part]
                if given.logits is not None
                else given.features[part].float() @ given.weight.T.float()
            )
            total += float(F.cross_entropy(logits.double(), given.labels[part], reduction="sum"))
    return total / count


def agree(given: Given, name: str, call: Callable[[], Any]) -> None:
    """The loss within what float32 (ours) or 16 bits (theirs) may lose of it."""
    expected, found = reference(given), float(call())
    # In the linear form the logits of others have 16 bits.
    tolerance = 1e-5 if name == "ours" else 2e-2 if given.case.dtype.itemsize == 2 else 1e-4
    if given.case.what == "linear":
        tolerance = max(tolerance, 1e-3)
    if not abs(found - expected) <= tolerance * abs(expected):
        raise AssertionError(f"{given.case.name}: {name} gives {found!r}, float64 {expected!r}")


def seconds(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Medians of CUDA events, the calls in turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS + 3):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            if number >= 3:  # the first ones compile and fill the allocator
                taken[name].append(start.elapsed_time(end) / 1e3)
    return {name: statistics.median(times) for name, times in taken.items()}


def peak_memory(call: Callable[[], Any]) -> int:
    """Bytes above what lay there before, gradients among them."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def roofline(case: Case, device: str) -> Callable[[], Any]:
    """A copy of as many bytes as the case moves, or the three products of the linear form."""
    if case.what != "linear":
        source = torch.empty(
            case.rows * case.classes // (2 if case.what == "value" else 1), dtype=case.dtype, device=device
        )
        target = torch.empty_like(source)
        return lambda: target.copy_(source)
    x = torch.randn(case.rows, case.width, device=device).to(case.dtype)
    w = torch.randn(case.classes, case.width, device=device).to(case.dtype)
    g = torch.randn(case.rows, case.classes, device=device).to(case.dtype)

    def products() -> None:
        torch.mm(x, w.T, out=g)
        torch.mm(g, w)
        torch.mm(g.T, x)

    return products


def lines(case: Case, taken: dict[str, float], memory: dict[str, int], absent: dict[str, str]) -> Iterator[str]:
    """The table's lines for one case; ``taken`` holds the roofline by that name."""
    for name, time in taken.items():
        if name != "roofline":
            ratio = taken["roofline"] / time
            yield (
                f"| {case.name} | {name} | {time * 1e3:.3f} | {time / taken['ours']:.2f} | {ratio:.0%} | "
                f"{memory[name] / 1e6:,.0f} |"
            )
    for name, reason in absent.items():
        yield f"| {case.name} | {name} | | | | {reason} |"


HEAD = "| case | who | ms | over ours | of the roofline | peak memory, MB |\n|---|---|---|---|---|---|"


def measure(case: Case, device: str) -> Iterator[str]:
    given = Given.of(case, device)
    calls: dict[str, Callable[[], Any]] = {}
    absent: dict[str, str] = {}
    for name, call in contenders(given):
        if isinstance(call, str):
            absent[name] = call
            continue
        try:
            agree(given, name, call)
        except Exception as reason:  # whatever stops another's code does not stop the suite
            if name == "ours":
                raise
            first_line, *_ = [*str(reason).splitlines(), ""]
            absent[name] = f"{type(reason).__name__}: {first_line}"
            continue
        calls[name] = call
    memory = {name: peak_memory(call) for name, call in calls.items()}
    calls["roofline"] = roofline(case, device)
    yield from lines(case, seconds(calls), memory, absent)


def machine() -> str:
    versions = []
    for package in ("torch", "triton", *PACKAGES.values()):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {', '.join(versions)}"


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device here: the gpu suite measures nothing", file=sys.stderr)
        raise SystemExit(2)
    print(machine(), HEAD, sep="\n\n")
    for case in CASES:
        for line in measure(case, "cuda"):
            print(line, flush=True)
        torch.cuda.empty_cache()
