"""The row kernels in Triton, for tensors on a CUDA device: statistics, losses and gradient of ``row_loss``.

Same inputs and results as ``generic``, which serves what ``refusal`` names. Nothing here waits for the device: sizes,
strides and options decide, never values. Under ``TRITON_INTERPRET=1`` the same code takes tensors in the CPU's memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs

from crossentropy.kernels.triton.row_kernels import loss_kernel, row_kernel
from crossentropy.kernels.triton.row_terms import FIELDS
from crossentropy.kernels.triton.scale import scale_kernel
from crossentropy.row_loss import RowCoefficients

# Entries of a step that one thread holds: registers. Float64 numbers and what is computed in them take two and more.
ENTRIES_PER_THREAD = {2: 16, 4: 16, 8: 4}
# Threads of a program: the fewer, the less the end of a row costs, and 256 read rows as wide as memory likes.
MOST_WARPS = 8
# Registers of a thread, with a gradient and without, where so few are enough (a plain loss in float32): 1,024 and 1,536
# threads of a multiprocessor.
FEW_REGISTERS = {True: 64, False: 40}
# Entries of a step of a program with many short rows.
SMALLEST_STEP = 1024
# Programs that keep a device busy: with fewer rows the classes are split.
PROGRAMS_PER_PROCESSOR = 4
LOSSES_PER_PROGRAM = 128
SCALED_PER_STEP = 4096


def is_interpreted() -> bool:
    return bool(knobs.runtime.interpret)


def refusal(x: Any, axis: int, c: RowCoefficients) -> str | None:
    """Why the kernels do not take this, in words; None where they do."""
    if c.inputs != "logits":
        return f"inputs={c.inputs!r}: nothing is normalised, so there is next to nothing to compute"
    if x.numel() == 0:
        return "no rows"
    if x.shape[axis] >= 1 << 30:  # classes are counted in 32 bits, by steps and parts beyond the last one
        return "2^30 classes or more"
    return None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How rows and classes are spread over programs: a function of sizes alone."""

    rows: int  # of one program
    columns: int  # of one step
    splits: int  # parts of the classes, each with its own program
    warps: int
    is_small: bool = False  # do FEW_REGISTERS do?

    @property
    def group(self) -> int:
        """Entries of a lane: what a thread has of one row in a step."""
        return max(1, min(self.columns, self.rows * self.columns // (32 * self.warps)))

    @classmethod
    def of(cls, rows: int, classes: int, itemsize: int, processors: int, warps: int, *, is_small: bool) -> Plan:
        """``warps``: at most."""
        per_warp = 32 * ENTRIES_PER_THREAD[itemsize]
        columns = min(triton.next_power_of_2(classes), per_warp * warps)
        per_program = max(1, SMALLEST_STEP // columns)
        steps = -(-classes // columns)
        programs = -(-rows // per_program)
        splits = min(steps, max(1, processors * PROGRAMS_PER_PROCESSOR // programs))
        # Short rows cost a thread the statistics of every row that it has a part of.
        per_warp = per_warp if per_program == 1 else 32 * 4
        return cls(
            per_program, columns, splits, max(1, per_program * columns // per_warp), is_small and per_program == 1
        )


def plan_of(x: Any, rows: int, classes: int, c: RowCoefficients, is_read_twice: bool) -> Plan:
    is_plain = not (is_transformed(c) or c.label_smoothing or c.dense is not None)
    itemsize = x.dtype.itemsize
    is_small = is_plain and itemsize < 8
    warps = MOST_WARPS
    if is_read_twice and is_small:
        # Fewer rows at a time, with more threads each, until the cache holds them until they are read again.
        while warps < 32 and processors(x) * classes * itemsize * 32 > cache_bytes(x) * warps:
            warps *= 2
    return Plan.of(rows, classes, itemsize, processors(x), warps, is_small=is_small)


def is_transformed(c: RowCoefficients) -> bool:
    return c.temperature != 1.0 or any(value is not None for value in (c.softcap, c.class_bias, c.class_mask))


def processors(x: Any) -> int:
    """Of the device: what has to be kept busy."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1


def cache_bytes(x: Any) -> int:
    """Of the second-level cache, which holds what a program reads twice."""
    return torch.cuda.get_device_properties(x.device).L2_cache_size if x.is_cuda else 0


def scale(x: Any, factor: Any) -> None:
    """x *= factor, a tensor of no dimensions, at no cost where that is 1; C order."""
    if is_interpreted() and x.dtype == torch.bfloat16:  # see ``writable``
        x.mul_(factor)
        return
    steps = -(-x.numel() // SCALED_PER_STEP)
    programs = min(steps, processors(x) * PROGRAMS_PER_PROCESSOR)
    with on(x):
        scale_kernel[(programs,)](
            x,
            factor,
            x.numel(),
            -(-steps // programs),
            WORK=tl.float64 if x.dtype == torch.float64 else tl.float32,
            STEP=SCALED_PER_STEP,
            num_warps=MOST_WARPS,
        )


class Rows:
    """One call of the kernels on logits ``x`` with the class axis ``axis``; every tensor on the device of x."""

    def __init__(self, x: Any, axis: int, c: RowCoefficients) -> None:
        self.axis, self.coefficients = axis, c
        self.classes = x.shape[axis]
        self.count = x.numel() // self.classes
        self.plan = plan_of(x, self.count, self.classes, c, False)
        self.work = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.x = cube(x, axis)
        mask = c.class_mask
        self.data = {
            "bias": per_class(c.class_bias, self.work),
            "mask": None if mask is None else mask.view(torch.uint8),
            "class_weight": per_class(c.class_weight, self.work),
            "dense": as_bytes(c.dense),
            "indices": None if c.indices is None else c.indices.contiguous(),
            "index_weight": None if c.indices is None else c.index_weight.contiguous(),
            "valid": None if c.valid is None else c.valid.contiguous().view(torch.uint8),
            "spread_mass": self.spread_mass(),
            "mask_row_stride": 0 if mask is None or mask.ndim == 1 or mask.shape[0] == 1 else mask.stride(0),
            "mask_class_stride": 0 if mask is None else mask.stride(-1),
            "dense_row_stride": 0 if c.dense is None else c.dense.stride(0),
            "dense_class_stride": 0 if c.dense is None else c.dense.stride(1),
            "entries": 0 if c.indices is None else c.indices.shape[1],
            "weight_stride": 0 if c.indices is None or c.index_weight.shape[0] == 1 else c.index_weight.shape[1],
        }
        self.options = {
            "label_smoothing": float(c.label_smoothing),
            "focal_gamma": float(c.focal_gamma),
            "z_loss": float(c.z_loss),
            "dense_scale": float(c.dense_scale),
            "PROFILE": bool(c.label_smoothing),
            "DENSE": c.dense is not None,
            "IGNORE": c.valid is not None,
        }
        self.statistics: Any = None

    def spread_mass(self) -> Any:
        """What label smoothing spreads, one number per row or one for all; a dense target's is a statistic."""
        c = self.coefficients
        if not c.label_smoothing or c.dense is not None:
            return None
        if isinstance(c.target_sum, torch.Tensor):
            return c.target_sum.reshape(-1).contiguous()
        return torch.full((1,), float(c.target_sum), dtype=torch.float64, device=self.x.device)

    def losses(self, upstream: Any = None, gradient: Any = None) -> Any:
        """(rows,) float64 losses; ``gradient``, of the shape of the logits, gets upstream x derivative.

        ``upstream``: float64, (rows,) or (). ``gradient`` may be the logits themselves.
        """
        if gradient is None:
            self.row_statistics()
        elif self.plan.splits == 1:
            self.plan = plan_of(self.x, self.count, self.classes, self.coefficients, True)
            self.row_statistics(upstream, gradient)
        else:
            self.row_statistics()
            losses = self.row_losses()  # all that is read of the logits has been read
            self.row_gradient(upstream, gradient)
            return losses
        return self.row_losses()

    def row_statistics(self, upstream: Any = None, gradient: Any = None) -> None:
        """Keep the statistics; with a gradient, write it from the logits while they are in the cache."""
        shape = (len(FIELDS), self.plan.splits, self.count)
        self.statistics = torch.empty(shape, dtype=torch.float64, device=self.x.device)
        self.launch(upstream, gradient, is_first=True)

    def row_gradient(self, upstream: Any, gradient: Any) -> None:
        """From the statistics that were kept."""
        self.launch(upstream, gradient, is_first=False)

    def launch(self, upstream: Any, gradient: Any, *, is_first: bool) -> None:
        c, plan = self.coefficients, self.plan
        target: Any = None if gradient is None else writable(gradient, self.axis)
        outer, inner, class_stride = strides(self.x)
        if upstream is not None:
            upstream = upstream.contiguous()
        with on(self.x):
            row_kernel[(-(-self.count // plan.rows), plan.splits)](
                self.x,
                target,
                self.statistics,
                upstream=upstream,
                upstream_stride=0 if upstream is None or upstream.ndim == 0 else 1,
                spread_stride=int(self.data["spread_mass"] is not None and self.data["spread_mass"].shape[0] > 1),
                rows=self.count,
                classes=self.classes,
                inner=self.x.shape[2],
                outer_stride=outer,
                class_stride=class_stride,
                inner_stride=inner,
                **gradient_strides(target),
                classes_per_part=self.classes_per_part(),
                splits=plan.splits,
                rate=1.0 / c.temperature,
                softcap=float(c.softcap or 0.0),
                **self.data,
                **self.options,
                WORK=tl.float64 if self.work == torch.float64 else tl.float32,
                SHORT=self.x.dtype.itemsize == 2,
                TRANSFORM=is_transformed(c),
                STATISTICS=is_first,
                GRADIENT=gradient is not None,
                ROWS=plan.rows,
                COLUMNS=plan.columns,
                GROUP=plan.group,
                VECTOR=min(plan.group, 16 // self.x.dtype.itemsize),
                num_warps=plan.warps,
                maxnreg=FEW_REGISTERS[gradient is not None] if plan.is_small else None,
                # z and z - max z must not be rounded together: see ``vector_math``.
                enable_fp_fusion=False,
            )
        if gradient is not None and target.data_ptr() != gradient.data_ptr():
            gradient.copy_(target.view(gradient.shape))

    def classes_per_part(self) -> int:
        """Whole steps, so that every part but the last is read without a remainder."""
        steps = -(-self.classes // self.plan.columns)
        return -(-steps // self.plan.splits) * self.plan.columns

    def row_losses(self) -> Any:
        losses = torch.empty(self.count, dtype=torch.float64, device=self.x.device)
        with on(self.x):
            loss_kernel[(-(-self.count // LOSSES_PER_PROGRAM),)](
                losses,
                self.statistics,
                self.data["valid"],
                self.data["spread_mass"],
                self.count,
                self.plan.splits,
                self.data["entries"],
                int(self.data["spread_mass"] is not None and self.data["spread_mass"].shape[0] > 1),
                **self.options,
                IN_PARTS=self.plan.splits > 1,
                ROWS=LOSSES_PER_PROGRAM,
                num_warps=LOSSES_PER_PROGRAM // 32,
                enable_fp_fusion=False,
            )
        return losses


def on(x: Any) -> Any:
    """The device of x as the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def cube(x: Any, axis: int) -> Any:
    """(outer, classes, inner): a view where the strides allow one."""
    shape = (math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))
    return x.detach().resolve_neg().reshape(shape)


def writable(gradient: Any, axis: int) -> Any:
    """The gradient's own memory as (outer, classes, inner), or a buffer of that shape where it cannot be seen so."""
    result = cube(gradient, axis)
    if is_interpreted() and gradient.dtype == torch.bfloat16:
        # Triton 3.7's interpreter cuts float32 off to bfloat16; there the kernel writes float32, which torch rounds.
        return torch.empty(result.shape, dtype=torch.float32)
    return result if result.data_ptr() == gradient.data_ptr() else torch.empty_like(result)


def strides(array: Any) -> tuple[int, int, int]:
    """Of outer, inner and classes; 1 entry has no stride, so that its multiples of 16 show."""
    outer, classes, inner = array.stride()
    return outer, 0 if array.shape[2] == 1 else inner, classes


def gradient_strides(target: Any) -> dict[str, int]:
    outer, inner, classes = (0, 0, 0) if target is None else strides(target)
    return {"gradient_outer_stride": outer, "gradient_inner_stride": inner, "gradient_class_stride": classes}


def per_class(array: Any, work: Any) -> Any:
    return None if array is None else array.to(work).contiguous()


def as_bytes(array: Any) -> Any:
    return array.view(torch.uint8) if array is not None and array.dtype == torch.bool else array
