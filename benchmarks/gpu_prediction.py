"""``python -m benchmarks.gpu_prediction``: what the Triton kernels should take on an H200, by their machine code.

Three times, each for a whole launch: bytes over the bandwidth of a copy; instructions over what the busiest unit of the
processors starts per cycle; bytes between processors and second-level cache. The largest is the least that a launch can
take. The most is that of queues (``Prediction.most``). No device is needed. ``--every-variant`` compiles every
combination of flags, dtypes and architectures instead, and checks registers and spills (10 minutes).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import re
from collections import Counter
from typing import Any

import torch

from benchmarks.cross_compilation import CACHE_BYTES, PROCESSORS, Compiled, check, launches


@dataclasses.dataclass(frozen=True)
class Device:
    """What is assumed of a device; ``python -m benchmarks --suite gpu`` measures the first two."""

    name: str
    capability: int
    copy_bytes: float  # read and written per second
    product_flops: float  # of 16-bit matrices, per second
    clock: float  # per second, under load
    cache_read_bytes: float  # per second, from the second-level cache
    latency: float  # seconds from a load to its data, memory not busy
    cache_latency: float  # the same, where the second-level cache has them
    row_latency: float  # seconds for which a program waits for its own last reductions, and to be replaced by the next


# The data sheet has 4.8 TB/s and 989 TFLOP/s; a copy and a large product are taken to reach nine and eight tenths.
H200 = Device("H200", 90, 4.3e12, 0.79e15, 1.75e9, 5.5e12, 0.8e-6, 0.35e-6, 3e-6)
SCHEDULERS, REGISTERS, THREADS = 4, 65_536, 2048  # of a multiprocessor

# Cycles for which one instruction of 32 threads keeps a scheduler's unit, by the throughputs of the CUDA C++
# programming guide for compute capability 9.0; what is not listed keeps none but the scheduler itself, for one cycle.
UNITS = {
    # 2^x, conversions to and from float64, rounding to integers: 16 a cycle and multiprocessor
    "special": (8, ("MUFU", "FRND", "F2F", "F2I", "I2F", "POPC", "FLO")),
    # comparisons, selections, integers, shifts, bits: 64
    "integer": (2, ("FMNMX", "FSETP", "FSEL", "ISETP", "LOP3", "PRMT", "SHF", "LEA", "VIADD", "IADD3", "SEL", "F2FP")),
    # float32: 128, but for integer products, which half of the unit does
    "float32": (1, ("FADD", "FMUL", "FFMA")),
    "product": (2, ("IMAD",)),
    "float64": (2, ("DADD", "DMUL", "DFMA", "DSETP")),
    # between threads and memory: 32
    "memory": (4, ("LDG", "STG", "SHFL", "LDS", "STS")),
}


def cycles(code: list[str]) -> Counter[str]:
    """Of a scheduler's units, for the instructions of one warp."""
    result: Counter[str] = Counter(scheduler=len(code))
    for text in code:
        name = re.sub(r"^@!?U?P\d+ ", "", text).split()[0].split(".")[0]
        for unit, (cost, names) in UNITS.items():
            if name in names:
                result[unit] += cost
    return result


@dataclasses.dataclass(frozen=True)
class Loop:
    """Instructions of one turn, on the usual way through it."""

    code: list[str]
    is_lane: bool  # over one lane of a row, by all threads together; else over all classes
    steps: int  # of classes, in one turn

    @classmethod
    def of(cls, code: list[str], entries: int) -> Loop:
        """``entries`` of a thread in a step: each has an exponential."""
        exponentials = sum("MUFU.EX2" in text for text in code)
        return cls(code, any("SHFL" in text for text in code), max(1, exponentials // entries))


@dataclasses.dataclass(frozen=True)
class Code:
    """A kernel's code: the loops over classes, and what comes once per row."""

    loops: list[Loop]
    once: list[str]

    @classmethod
    def of(cls, kernel: Compiled) -> Code:
        code = kernel.instructions()
        branch = re.compile(r"(@!?U?P\d+ )?BRA\S*\s.*?0x([0-9a-f]+)")
        jumps = [(at, int(m[2], 16), bool(m[1])) for at, text in code if (m := branch.match(text))]
        # What a condition jumps over is rare: a label, an option that is 0, the long way of a division. Not a loop.
        loops = [(to, at) for at, to, _ in jumps if to < at and any("LDG" in text for a, text in code if to <= a <= at)]
        rare = [
            (at, to)
            for at, to, is_conditional in jumps
            if is_conditional and at < to and not any(at < first and last < to for first, last in loops)
        ]
        # Out-of-line code follows the last way out, and the last loop.
        end = max(at for at, text in code if "EXIT" in text or any(at == last for _, last in loops))

        def usual(first: int, last: int, but: list[tuple[int, int]]) -> list[str]:
            skipped = [(a, b) for a, b in rare if first <= a and b <= last]
            return [
                text
                for at, text in code
                if first <= at <= last
                and not any(a < at < b for a, b in skipped)
                and not any(a <= at <= b for a, b in but)
            ]

        entries = kernel.entries_of_step // (kernel.warps * 32)
        bodies = [usual(*loop, []) for loop in loops]
        return cls([Loop.of(body, entries) for body in bodies], usual(0, end, loops))

    def turns(self, steps: int) -> list[tuple[Loop, int]]:
        """How often each loop is gone through for one row; of steps that an unrolled loop leaves, the next one's."""
        found, left = [], steps
        for loop in self.loops:
            if loop.is_lane:
                found.append((loop, math.ceil(steps / 8)))
                left = steps  # the gradient begins
            else:
                found.append((loop, left // loop.steps))
                left %= loop.steps
        return found


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of one launch."""

    kernel: Compiled
    resident: int  # programs on a multiprocessor
    traffic: float  # bytes, where the cache keeps what was read last
    memory: float
    memory_at_most: float  # where it keeps no row that it does not hold whole
    units: dict[str, float]  # by name
    cache: float
    warps: int  # resident on a multiprocessor
    turns: float  # of loops, that a scheduler's warps take together
    latency: float  # seconds that a warp waits per turn, nobody else being there

    @property
    def busiest(self) -> str:
        return max(self.units, key=self.units.__getitem__)

    @property
    def least(self) -> float:
        """Where reading and computing overlap entirely."""
        return max(self.memory, self.units[self.busiest], self.cache)

    @property
    def most(self) -> float:
        """Where they meet at random: a closed network of queues, whose customers are a multiprocessor's warps.

        A turn of a warp's loop waits ``latency``, then for memory (the multiprocessor's share of the bandwidth, which
        no other uses), then for the busiest unit of a scheduler; times of service scatter as exponential ones do
        (Reiser and Lavenberg 1980, mean value analysis). Both are worse than the device: memory is one queue for all
        multiprocessors, which takes from one what another leaves, and neither bytes nor instructions of a turn scatter.
        Reading and computing one after the other, their sum, is what one warp alone would do.
        """
        memory = max(self.memory_at_most, self.cache) / (self.turns * SCHEDULERS)
        unit = self.units[self.busiest] / self.turns
        at_memory, at_unit, rate = 0.0, 0.0, 0.0  # queues, and turns per second
        for customers in range(1, self.warps + 1):
            waits = memory * (1 + at_memory), unit * (1 + at_unit)
            rate = customers / (self.latency + sum(waits))
            at_memory, at_unit = rate * waits[0], rate * waits[1] / SCHEDULERS
        return self.turns * SCHEDULERS / rate


def predict(device: Device, rows: int, classes: int, dtype: Any, *, gradient: bool, **flags: Any) -> Prediction:
    kernel = launches(device.capability, (rows, classes), dtype, gradient=gradient, **flags)[0]
    resources, threads = kernel.resources(), kernel.warps * 32
    resident = min(REGISTERS // (-(-resources["REG"] // 8) * 8 * threads), THREADS // threads)
    size, row_bytes = rows * classes * dtype.itemsize, classes * dtype.itemsize
    processors = PROCESSORS[device.capability]
    # A row is read again from its end, so that of a longer one the cache has what was read last.
    cached = min(1.0, CACHE_BYTES[device.capability] / (resident * processors * row_bytes))
    traffic = size * (3 - cached if gradient else 1)
    at_most = size * (3 - int(cached) if gradient else 1)
    code = Code.of(kernel)
    turns = code.turns(math.ceil(classes / kernel.entries_of_step))
    used = cycles(code.once)
    for loop, count in turns:
        for unit, cost in cycles(loop.code).items():
            used[unit] += cost * count
    warps = rows * kernel.warps / (processors * SCHEDULERS)  # that a scheduler sees, one after the other
    waits = [count for loop, count in turns if not loop.is_lane]
    again = waits[-1] if gradient and cached == 1.0 else 0
    latency = (sum(waits) - again) * device.latency + again * device.cache_latency + device.row_latency
    return Prediction(
        kernel,
        resident,
        traffic,
        traffic / device.copy_bytes,
        at_most / device.copy_bytes,
        {unit: warps * count / device.clock for unit, count in used.items()},
        size * (2 if gradient else 1) / device.cache_read_bytes,
        resident * kernel.warps,
        warps * sum(waits),
        latency / sum(waits),
    )


CASES = [
    ("loss + gradient", (8192, 128_256), torch.bfloat16, True),
    ("loss + gradient", (8192, 32_000), torch.bfloat16, True),
    ("loss + gradient", (8192, 262_144), torch.bfloat16, True),
    ("loss + gradient", (8192, 128_256), torch.float32, True),
    ("value only", (8192, 128_256), torch.bfloat16, False),
    ("value only", (8192, 32_000), torch.bfloat16, False),
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
        f"{p.units['scheduler'] * 1e3:.2f} ms",
        f"{p.busiest}, {p.units[p.busiest] * 1e3:.2f} ms",
        f"{p.cache * 1e3:.2f} ms",
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
    kernel_time = max(kernel.memory * 0.75, kernel.units[kernel.busiest]) * share
    moved = rows * classes * (4 + 2 * 2) / device.copy_bytes  # logits written, slopes read by two products
    total = products + kernel_time + moved
    return (
        f"The linear form, {rows:,} x {width:,} x {classes:,} bfloat16, forward + backward: "
        f"products {products * 1e3:.1f} ms, row kernels {kernel_time * 1e3:.1f} ms, "
        f"other traffic {moved * 1e3:.1f} ms (in part hidden in the products):"
        f" {(products + kernel_time) / products:.2f} to {total / products:.2f} times the bare products"
    )


HEAD = [
    *("what", "logits", "registers", "traffic", "at copy bandwidth", "instructions", "busiest unit", "from the cache"),
    *("predicted", "of one read (+ one write)"),
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
