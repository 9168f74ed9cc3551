"""What is measured: shapes, dtypes, targets and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

SHAPES = [
    (1_000_000, 2),
    (1_000_000, 3),
    (1_000_000, 10),
    (500_000, 32),
    (200_000, 100),
    (20_000, 1_000),
    (4_096, 32_000),
    (1_024, 128_256),
    (4, 1_000_000),
    (128, 1_000),
    (32, 10),
]
OTHER_DTYPES = [(1_000_000, 10), (200_000, 100), (20_000, 1_000), (4_096, 32_000)]
WITH_OPTIONS = [(200_000, 100), (20_000, 1_000)]
SOFT = [(200_000, 100), (20_000, 1_000)]
SEGMENTATION = (64, 21, 128, 128)
SUITES = ("shapes", "dtypes", "options", "soft", "axis", "binary", "log_loss")


@dataclasses.dataclass(frozen=True)
class Case:
    """One computation; ``kind`` is "labels", "soft", "binary" or "log_loss" (probabilities in)."""

    suite: str
    name: str
    kind: str
    logits: np.ndarray
    target: np.ndarray
    options: dict[str, Any]
    axis: int = -1

    @property
    def bytes(self) -> int:
        """One read of the logits."""
        return self.logits.nbytes


def label(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape)


def cases(suites: tuple[str, ...], shrink: int) -> Iterator[Case]:
    """``shrink`` divides the number of rows of the large shapes."""
    random = np.random.default_rng(0)

    def logits(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        return (random.standard_normal(shape, dtype=np.float32) * 3).astype(dtype)

    def smaller(shape: tuple[int, int]) -> tuple[int, int]:
        return (max(shape[0] // shrink, min(shape[0], 32)), shape[1]) if shape[0] > 32 else shape

    def labelled(suite: str, name: str, shape: tuple[int, int], dtype: Any = np.float32, **options: Any) -> Case:
        return Case(suite, name, "labels", logits(shape, dtype), random.integers(0, shape[1], shape[0]), options)

    for shape in map(smaller, SHAPES):
        if "shapes" in suites:
            yield labelled("shapes", label(shape), shape)
    for shape in map(smaller, OTHER_DTYPES):
        if "dtypes" in suites:
            for dtype in (np.float64, ml_dtypes.bfloat16, np.float16):
                yield labelled("dtypes", f"{label(shape)} {np.dtype(dtype).name}", shape, dtype)
    for shape in map(smaller, WITH_OPTIONS):
        if "options" in suites:
            weight = random.random(shape[1]) + 0.5
            case = labelled("options", label(shape), shape, class_weight=weight, label_smoothing=0.1)
            case.target[::10] = -100
            yield case
            for name, value in {"temperature": 1.5, "z_loss": 1e-4, "softcap": 30.0}.items():
                yield labelled("options", f"{label(shape)} {name}", shape, **{name: value})
    for shape in map(smaller, SOFT):
        if "soft" in suites:
            target = random.random(shape, dtype=np.float32)
            target /= target.sum(axis=1, keepdims=True)
            yield Case("soft", label(shape), "soft", logits(shape), target, {})
    if "axis" in suites:
        shape = (max(SEGMENTATION[0] // shrink, 1), *SEGMENTATION[1:])
        target = random.integers(0, shape[1], (shape[0], *shape[2:]))
        images = logits(shape)
        yield Case("axis", f"{label(shape)}, axis 1", "labels", images, target, {}, axis=1)
        rows = np.ascontiguousarray(np.moveaxis(images, 1, -1)).reshape(-1, shape[1])
        yield Case("axis", f"{label(rows.shape)}, the same, axis -1", "labels", rows, target.reshape(-1), {})
    if "binary" in suites:
        count = 10_000_000 // shrink
        yield Case("binary", label((count,)), "binary", logits((count,)), random.integers(0, 2, count).astype("f"), {})
        shape = (count // 100, 100)
        weights = {"row_weight": random.random(shape, np.float32) + np.float32(0.5), "normalizer": "rows"}
        for name, options in {
            "pos_weight": {"pos_weight": random.random(100, np.float32) + np.float32(0.5)},
            "row_weight": weights,
            "focal_gamma": {"focal_gamma": 2.0},
        }.items():
            hard = random.integers(0, 2, shape).astype("f")
            yield Case("binary", f"{label(shape)} {name}", "binary", logits(shape), hard, options)
    if "log_loss" in suites:
        rows = 200_000 // shrink
        p = random.random((rows, 100), dtype=np.float32) + np.float32(0.01)
        p /= p.sum(axis=1, keepdims=True)
        yield Case("log_loss", f"{label((rows, 100))} probabilities", "log_loss", p, random.integers(0, 100, rows), {})
