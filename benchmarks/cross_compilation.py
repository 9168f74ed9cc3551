"""The Triton kernels as they would be compiled for a device that is not here: registers, memory, machine instructions.

The launches are the package's own, with tensors that have sizes and strides and no memory; only the step from the
compiled kernel to the device is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from crossentropy.kernels import triton as kernels
from crossentropy.row_loss import RowCoefficients

# Streaming multiprocessors of an A100 and of an H100 or H200.
PROCESSORS = {80: 108, 90: 132}
# Bytes of their second-level caches.
CACHE_BYTES = {80: 40 << 20, 90: 50 << 20}
# Bytes of a stack that the assembler may take: it spills a number for the sake of one more resident program.
A_NUMBER_OR_TWO = 16


class AbsentDevice:
    """What Triton asks a driver before it launches."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # the key of the kernels' caches

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One launch: the kernel, how many programs, and what the assembler made of it."""

    name: str
    grid: tuple[int, ...]
    warps: int
    entries_of_step: int
    assembly: Any

    @property
    def ptx(self) -> str:
        return self.assembly["ptx"]

    def inspected(self, *options: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.assembly["cubin"])
            file.flush()
            command = [knobs.nvidia.cuobjdump.path, *options, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def resources(self) -> dict[str, int]:
        """REG per thread, STACK (spills among it) and SHARED bytes, as the assembler states them."""
        return {
            name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED):(\d+)", self.inspected("-res-usage"))
        }

    def instructions(self) -> list[tuple[int, str]]:
        """(address, text) of every machine instruction."""
        found = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.+?)\s*;", self.inspected("-sass"), re.MULTILINE)
        return [(int(address, 16), text) for address, text in found]


@contextlib.contextmanager
def for_device(capability: int) -> Iterator[list[Compiled]]:
    """Launches inside compile for this compute capability (times ten), are not run, and are listed."""
    compiled: list[Compiled] = []

    def instead_of(function: Any) -> Any:
        plain = function.run

        def run(*arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            kernel = plain(*arguments, grid=grid, warmup=True, **named)
            step = named["STEP"] if "STEP" in named else named["ROWS"] * named.get("COLUMNS", 1)
            compiled.append(Compiled(function.__name__, grid, named["num_warps"], step, kernel.asm))

        return mock.patch.object(function, "run", run)

    before = driver._active
    driver.set_active(AbsentDevice(capability))
    try:
        with (
            instead_of(kernels.row_kernel),
            instead_of(kernels.loss_kernel),
            instead_of(kernels.scale_kernel),
            mock.patch.object(kernels, "processors", return_value=PROCESSORS[capability]),
            mock.patch.object(kernels, "cache_bytes", return_value=CACHE_BYTES[capability]),
        ):
            yield compiled
    finally:
        driver._active = before


def tensor(shape: tuple[int, ...], dtype: Any) -> Any:
    """Sizes and strides without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def coefficients(
    rows: int,
    classes: int,
    *,
    transform: bool = False,
    profile: bool = False,
    dense: bool = False,
    ignore: bool = True,
    entries: int = 1,
) -> RowCoefficients:
    """Those of a call that uses everything behind the given flags."""
    return RowCoefficients(
        inputs="logits",
        temperature=1.25 if transform else 1.0,
        softcap=30.0 if transform else None,
        label_smoothing=0.1 if profile else 0.0,
        focal_gamma=0.0,
        z_loss=1e-4,
        class_bias=tensor((classes,), torch.float64) if transform else None,
        class_mask=tensor((rows, classes), torch.bool) if transform else None,
        class_weight=tensor((classes,), torch.float64) if profile or dense else None,
        indices=None if dense else tensor((rows, entries), torch.int64),
        index_weight=None if dense else tensor((1, 1) if entries == 1 else (rows, entries), torch.float64),
        dense=tensor((rows, classes), torch.float32) if dense else None,
        valid=tensor((rows,), torch.bool) if ignore else None,
    )


def launches(
    capability: int, shape: tuple[int, ...], dtype: Any, *, axis: int = -1, gradient: bool = True, **flags: Any
) -> list[Compiled]:
    """What value (and gradient) of logits of this shape would launch."""
    axis %= len(shape)
    classes = shape[axis]
    rows = tensor(shape, dtype).numel() // classes
    with for_device(capability) as compiled:
        x = tensor(shape, dtype)
        call = kernels.Rows(x, axis, coefficients(rows, classes, **flags))
        if gradient:
            call.losses(tensor((), torch.float64), tensor(shape, dtype))
        else:
            call.losses()
    return compiled


def number_of_kernels(capability: int) -> int:
    """How many variants have been compiled for this device."""
    return sum(len(kernel.device_caches[capability][0]) for kernel in (kernels.row_kernel, kernels.loss_kernel))


def check(kernel: Compiled) -> None:
    """AssertionError where a kernel needs memory for its registers, or leaves a multiprocessor to one small program."""
    found = kernel.resources()
    assert found["STACK"] <= A_NUMBER_OR_TWO, f"{kernel.name} spills: {found}"
    threads = kernel.warps * 32
    # 65,536 registers a multiprocessor, handed out by 8 a thread.
    resident = 65_536 // (-(-found["REG"] // 8) * 8 * threads)
    assert resident * threads >= 256, f"{kernel.name} runs {resident} programs of {threads} threads at once: {found}"
