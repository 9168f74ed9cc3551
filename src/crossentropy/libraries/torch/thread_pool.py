"""PyTorch's threads, lent to the core.

To start a thread takes about 100 us; PyTorch's wait for work. They belong to the OpenMP runtime that it brings along:
GCC's ``GOMP_parallel``, which every compiler's runtime on Linux has under this name, runs a function in them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
import threading
from pathlib import Path

import torch

from crossentropy.kernels import native

# Its dependencies, and no other library of the process, are searched for the functions.
LIBRARY = "libtorch_cpu.so"
FUNCTIONS = ("GOMP_parallel", "omp_get_max_threads")
# PF_FORKNOEXEC of Linux's include/linux/sched.h.
FORKED_WITHOUT_EXEC = 0x40


def openmp() -> list[int]:
    """The functions' addresses; empty where PyTorch's threads are not to be had."""
    if sys.platform != "linux":
        return []
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / LIBRARY))
        functions = [getattr(library, name) for name in FUNCTIONS]
    except (OSError, AttributeError):
        return []
    return [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]


def lend() -> None:
    """The core uses them from now on where the main thread calls it; until a fork, which leaves the child without them.

    Another thread would get threads of its own from OpenMP, and with more of them than cores none waits awake any more:
    beside a second thread that borrows, PyTorch's own loss of 128 x 1,000 took 251 us instead of 70.
    """
    if threading.current_thread() is not threading.main_thread() or is_forked():
        return
    addresses = openmp()
    if addresses:
        native.lend_pool(*addresses)


def is_forked() -> bool:
    """Was this process forked, so that what its parent had of a pool is not here, and would be waited for in vain?"""
    if multiprocessing.parent_process() is not None:
        return True
    try:
        # The command's name, in parentheses, is the one field that may hold spaces.
        flags = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6]
    except (OSError, IndexError):
        return True
    return bool(int(flags) & FORKED_WITHOUT_EXEC)
