"""``python -m benchmarks.gpu_prediction``: what the Triton kernels should take on an H200, by their machine code.

Bytes over the bandwidth of a copy, machine instructions over what the processors issue; registers decide how many
programs are resident, and these whether a row is still in the second-level cache when it is read again. No device is
needed. ``--every-variant`` compiles every combination of flags, dtypes and architectures instead, and checks registers
and spills (10 minutes).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
from typing import Any

import torch

from benchmarks.cross_compilation import PROCESSORS, Compiled, check, launches


@dataclasses.dataclass(frozen=True)
class Device:
    """What is assumed of a device; ``python -m benchmarks --suite gpu`` measures the first two."""

    name: str
    capability: int
    copy_bytes: float  # read and written per second
    product_flops: float  # of 16-bit matrices, per second
    clock: float  # per second, under load
    cache_bytes: float  # of the second level, as far as it holds what was read last


# The data sheet has 4.8 TB/s and 989 TFLOP/s; a copy and a large product are taken to reach nine and eight tenths.
H200 = Device("H200", 90, 4.3e12, 0.79e15, 1.75e9, 50e6)
SCHEDULERS, REGISTERS, THREADS = 4, 65_536, 2048  # of a multiprocessor


@dataclasses.dataclass(frozen=True)
class Loop:
    """One loop of a kernel: machine instructions of a step, all of them and those of the usual way through it."""

    every: int
    usual: int


def loops(kernel: Compiled) -> list[Loop]:
    """The loops that read the logits, in the order of the code."""
    code = kernel.instructions()
    branch = re.compile(r"(@!?U?P\d+ )?BRA\S*\s.*?0x([0-9a-f]+)")
    jumps = [(at, int(m[2], 16), bool(m[1])) for at, text in code if (m := branch.match(text))]
    found = []
    for end, start, _ in jumps:
        if start >= end:
            continue
        body = [(at, text) for at, text in code if start <= at <= end]
        if len(body) < 60 or not any("LDG" in text for _, text in body):
            continue
        # What a condition jumps over is rare: a maximum that grows, a label.
        skipped = [(at, to) for at, to, is_conditional in jumps if is_conditional and start <= at < to <= end]
        usual = sum(not any(a < at < b for a, b in skipped) for at, _ in body)
        found.append(Loop(len(body), usual))
    return found


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of one launch."""

    kernel: Compiled
    resident: int  # programs on a multiprocessor
    traffic: float  # bytes
    memory: float
    issue: float

    @property
    def least(self) -> float:
        """Where reading and computing overlap entirely."""
        return max(self.memory, self.issue)

    @property
    def most(self) -> float:
        """Where they take turns."""
        return self.memory + self.issue


def predict(device: Device, rows: int, classes: int, dtype: Any, *, gradient: bool, **flags: Any) -> Prediction:
    kernel = launches(device.capability, (rows, classes), dtype, gradient=gradient, **flags)[0]
    resources, threads = kernel.resources(), kernel.warps * 32
    resident = min(REGISTERS // (-(-resources["REG"] // 8) * 8 * threads), THREADS // threads)
    size = rows * classes * dtype.itemsize
    row_bytes = classes * dtype.itemsize
    processors = PROCESSORS[device.capability]
    is_cached = resident * processors * row_bytes <= device.cache_bytes
    traffic = size * ((2 if is_cached else 3) if gradient else 1)
    entries = kernel.entries_of_step / threads
    per_entry = sum(loop.usual for loop in loops(kernel)) / entries
    issue = rows * classes / 32 * per_entry / (processors * SCHEDULERS * device.clock)
    return Prediction(kernel, resident, traffic, traffic / device.copy_bytes, issue)


CASES = [
    ("loss + gradient", (8192, 128_256), torch.bfloat16, True),
    ("loss + gradient", (8192, 32_000), torch.bfloat16, True),
    ("loss + gradient", (8192, 262_144), torch.bfloat16, True),
    ("loss + gradient", (8192, 128_256), torch.float32, True),
    ("value only", (8192, 128_256), torch.bfloat16, False),
    ("value only", (8192, 128_256), torch.float32, False),
]


def line(name: str, shape: tuple[int, int], dtype: Any, prediction: Prediction) -> str:
    p = prediction
    roofline = shape[0] * shape[1] * dtype.itemsize * (2 if name.startswith("loss") else 1) / H200.copy_bytes
    cells = [
        name,
        f"{shape[0]:,} x {shape[1]:,} {str(dtype).removeprefix('torch.')}",
        f"{p.kernel.resources()['REG']} x {p.kernel.warps * 32} threads, {p.resident} resident",
        f"{p.traffic / 1e9:.1f} GB",
        f"{p.memory * 1e3:.2f} ms",
        f"{p.issue * 1e3:.2f} ms",
        f"{p.least * 1e3:.2f} to {p.most * 1e3:.2f} ms",
        f"{roofline / p.most:.0%} to {roofline / p.least:.0%}",
    ]
    return "| " + " | ".join(cells) + " |"


def linear_form(device: Device, rows: int, width: int, classes: int) -> str:
    """Products, and what chunks move beside them: float32 logits and 16-bit slopes, each written and read."""
    products = 3 * 2 * rows * width * classes / device.product_flops
    kernel = predict(device, 1280, classes, torch.float32, gradient=True)
    share = rows / 1280
    # The gradient has 16 bits: half of what a float32 kernel would write.
    kernel_time = max(kernel.memory * 0.75, kernel.issue) * share
    moved = rows * classes * (4 + 2 * 2) / device.copy_bytes  # logits written, slopes read by two products
    total = products + kernel_time + moved
    return (
        f"linear form, {rows:,} x {width:,} x {classes:,} bfloat16, forward + backward: "
        f"products {products * 1e3:.1f} ms, row kernels {kernel_time * 1e3:.1f} ms, "
        f"other traffic {moved * 1e3:.1f} ms (in part hidden in the products):"
        f" {(products + kernel_time) / products:.2f} to {total / products:.2f} times the bare products"
    )


HEAD = [
    *("what", "logits", "registers", "traffic", "at copy bandwidth", "instructions alone", "predicted"),
    "of one read (+ one write)",
]


def every_variant() -> None:
    flags = ("transform", "profile", "dense", "ignore")
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    worst: dict[str, int] = {}
    count = 0
    for capability, dtype, gradient, values in itertools.product(
        (80, 90), dtypes, (True, False), itertools.product((False, True), repeat=4)
    ):
        for kernel in launches(
            capability, (8192, 128_256), dtype, gradient=gradient, **dict(zip(flags, values, strict=True))
        ):
            check(kernel)
            key = f"sm_{capability} {kernel.name} {dtype}"
            worst[key] = max(worst.get(key, 0), kernel.resources()["REG"])
            count += 1
    for key, registers in worst.items():
        print(f"{key}: at most {registers} registers")
    print(f"{count} launches compiled")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_prediction", description=__doc__)
    parser.add_argument("--every-variant", action="store_true")
    if parser.parse_args().every_variant:
        every_variant()
        return
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for name, shape, dtype, gradient in CASES:
        print(line(name, shape, dtype, predict(H200, *shape, dtype, gradient=gradient)))
    print("\n" + linear_form(H200, 8192, 4096, 128_256))


if __name__ == "__main__":
    main()
