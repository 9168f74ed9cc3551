"""What PyTorch's threads save a loss of tensors, and why the main thread alone borrows them.

``python -m benchmarks.lab.thread_pool`` prints medians of calls taken in turns, microseconds, with every core.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import crossentropy as xe
from benchmarks.timing import interleaved
from crossentropy.kernels import native
from crossentropy.libraries.torch import thread_pool

SHAPES = [(32, 10), (128, 1_000), (256, 1_000), (512, 1_000), (2_000, 1_000)]
SECONDS = 5.0
POOL = thread_pool.openmp()
NO_POOL = [0, 0]


def forward_and_backward(loss: Callable[..., Any], shape: tuple[int, int], **options: Any) -> Callable[[], None]:
    rows, classes = shape
    logits, labels = torch.randn(rows, classes, requires_grad=True), torch.randint(0, classes, (rows,))

    def call() -> None:
        logits.grad = None
        loss(logits, labels, **options).backward()

    return call


def with_started_threads(call: Callable[[], None]) -> Callable[[], None]:
    def started() -> None:
        native.lend_pool(*NO_POOL)
        call()
        native.lend_pool(*POOL)

    return started


def contenders(shape: tuple[int, int]) -> dict[str, Callable[[], None]]:
    ours = forward_and_backward(xe.cross_entropy, shape)
    return {
        "PyTorch": forward_and_backward(F.cross_entropy, shape),
        "borrowed": ours,
        "started": with_started_threads(ours),
        "one thread": forward_and_backward(xe.cross_entropy, shape, num_threads=1),
    }


def print_medians(head: str, calls: dict[str, Callable[[], None]]) -> None:
    medians = interleaved(calls, SECONDS)
    print(f"{head:34s}" + "".join(f"{name} {seconds * 1e6:.0f}".ljust(18) for name, seconds in medians.items()))


def beside_another_borrower(measure: Callable[[], None]) -> None:
    """While a second thread, which has a team of its own from OpenMP, is alive: as JAX's threads were."""
    is_done, may_end = threading.Event(), threading.Event()

    def borrow() -> None:
        native.lend_pool(*POOL)
        forward_and_backward(xe.cross_entropy, SHAPES[-1])()
        is_done.set()
        may_end.wait()

    other = threading.Thread(target=borrow)
    other.start()
    is_done.wait()
    try:
        measure()
    finally:
        may_end.set()
        other.join()


def main() -> None:
    forward_and_backward(xe.cross_entropy, SHAPES[0])()
    for rows, classes in SHAPES:
        print_medians(f"{rows:,} x {classes:,}", contenders((rows, classes)))
    two = {name: call for name, call in contenders(SHAPES[1]).items() if name in ("PyTorch", "borrowed")}
    rows, classes = SHAPES[1]
    print_medians(f"{rows:,} x {classes:,}, alone", two)
    beside_another_borrower(lambda: print_medians(f"{rows:,} x {classes:,}, beside another", two))


if __name__ == "__main__":
    main()
