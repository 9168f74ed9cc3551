"""Where a gradient goes: the caller's ``out``, or a fresh array."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossentropy.arrays import Layout, check_single_places, is_sparse
from crossentropy.libraries.numpy.conversion import xp


class Output:
    """The gradient's array: the caller's ``out`` or a fresh one, filled row by row.

    ``out`` may be the logits themselves (each block is read before it is written); any other overlap with an input goes
    through a buffer.
    """

    def __init__(self, out: Any, logits: np.ndarray, *inputs: Any, name: str = "logits") -> None:
        """``name``: of what ``logits`` is to the caller."""
        if out is None:
            self.array = self.buffer = np.empty_like(logits, subok=False)
            return
        if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
            raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
        if out.shape != logits.shape or out.dtype.newbyteorder("=") != logits.dtype:
            raise ValueError(
                f"out must have the shape and dtype of {name}, {logits.shape} {logits.dtype}, "
                f"got {out.shape} {out.dtype}"
            )
        if not out.flags.writeable:
            raise ValueError("out is read-only")
        check_single_places(out.shape, out.strides)
        same = out.__array_interface__["data"] == logits.__array_interface__["data"] and out.strides == logits.strides
        others = [
            part
            for value in inputs
            if not (same and value is logits)
            for part in (value if is_sparse(value) else (value,))
        ]
        overlaps = any(isinstance(part, np.ndarray) and np.may_share_memory(out, part) for part in others)
        self.array = out
        self.buffer = np.empty_like(logits) if overlaps or not out.dtype.isnative else out

    def replaces(self, logits: np.ndarray) -> bool:
        """Is the gradient written where the logits stand?"""
        return np.may_share_memory(self.buffer, logits)

    def rows(self, layout: Layout) -> np.ndarray:
        """(rows, classes) to be filled; a view of the buffer where the strides allow one."""
        return layout.to_rows(xp, self.buffer)

    def fill(self, layout: Layout, rows: np.ndarray) -> None:
        """From what ``rows`` gave, where that is no view."""
        if not np.may_share_memory(rows, self.buffer):
            self.buffer[...] = layout.from_rows(xp, rows)

    def deliver(self) -> np.ndarray:
        if self.buffer is not self.array:
            self.array[...] = self.buffer
        return self.array
