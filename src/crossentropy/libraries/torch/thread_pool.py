"""PyTorch's threads, lent to the core.

To start a thread takes about 100 us; PyTorch's wait for work. They belong to the OpenMP runtime that it brings along:
GCC's ``GOMP_parallel``, which every compiler's runtime on Linux has under this name, runs a function in them.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

from crossentropy.kernels import native

# Its dependencies, and no other library of the process, are searched for the function.
LIBRARY = "libtorch_cpu.so"


def gomp_parallel() -> int | None:
    """The function's address; None where PyTorch's threads are not to be had."""
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / LIBRARY)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value


def lend() -> None:
    """The core uses them from now on where this thread calls it; until a fork, which leaves the child without them.

    Another thread would get threads of its own from OpenMP, and with more of them than cores none waits awake any more:
    after JAX's threads had called the core, PyTorch's own loss of 128 x 1,000 took 270 us instead of 76.
    """
    address = gomp_parallel()
    if address is not None:
        native.lend_pool(address)
