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
    """From now on the core uses them, for whatever arrays; until a fork, which leaves the child without them."""
    address = gomp_parallel()
    if address is not None:
        native.lend_pool(address)
