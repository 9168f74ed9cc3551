"""The linear form's products: by ``torch.mm``, and in parts by oneDNN; what oneDNN keeps of the shapes it has seen.

``python -m benchmarks.lab.matrix_products`` prints medians of calls taken in turns, seconds, for a chunk of 512 rows,
D = 1,024 and 128,256 classes, and megabytes after 800 steps with as many numbers of rows. ``ONEDNN_MAX_CPU_ISA=AVX2``
in the environment takes AVX-512 from oneDNN.
"""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch

import crossentropy as xe
from benchmarks.timing import interleaved
from crossentropy.libraries.torch import matrix_products

ROWS, WIDTH, CLASSES = 512, 1_024, 128_256
STEPS = 800
SECONDS = 30.0


def products() -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Both factors and the result."""
    features, weight = torch.randn(ROWS, WIDTH), torch.randn(CLASSES, WIDTH)
    logits, to_features, to_weight = torch.randn(ROWS, CLASSES), torch.empty(ROWS, WIDTH), torch.empty(CLASSES, WIDTH)
    return {
        "logits": (features, weight.T, torch.empty(ROWS, CLASSES)),
        "to features": (logits, weight, to_features),
        "to weight": (logits.T, features, to_weight),
    }


def contenders() -> dict[str, Callable[[], object]]:
    calls: dict[str, Callable[[], object]] = {}
    for name, (a, b, out) in products().items():
        calls[f"{name}: torch.mm"] = lambda a=a, b=b, out=out: torch.mm(a, b, out=out)
        calls[f"{name}: ours"] = lambda a=a, b=b, out=out: matrix_products.product(a, b, out)
    return calls


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def print_kept(sizes: str) -> None:
    """In a process of its own, since what is kept is never given back."""
    if sizes == "of their own":
        matrix_products.rounded = lambda extent: extent  # type: ignore[assignment]
    features = torch.randn(1_000, 256, requires_grad=True)
    weight = torch.randn(8_192, 256, requires_grad=True)
    labels = torch.randint(0, 8_192, (1_000,))

    def step(counted: int) -> None:
        features.grad = weight.grad = None
        target = labels.clone()
        target[counted:] = -100
        xe.linear_cross_entropy(features, weight, target).backward()

    for _ in range(5):
        step(1_000)
    before = resident_bytes()
    for counted in range(1_000, 1_000 - STEPS, -1):
        step(counted)
    print(f"{STEPS} numbers of rows, sizes {sizes}: {(resident_bytes() - before) / 1e6:.0f} MB kept", flush=True)


def main() -> None:
    for name, seconds in interleaved(contenders(), SECONDS).items():
        print(f"{name:26s}{seconds:.3f}", flush=True)
    for sizes in ("of their own", "filled up"):
        process = multiprocessing.get_context("spawn").Process(target=print_kept, args=(sizes,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
