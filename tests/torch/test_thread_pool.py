"""PyTorch's threads in the core: they are used, compute as the caller does, and a fork is left without them."""

import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import crossentropy as xe  # noqa: E402
from crossentropy.kernels import native  # noqa: E402
from crossentropy.libraries.torch import thread_pool  # noqa: E402

pytestmark = pytest.mark.skipif(
    not thread_pool.openmp() or native.kernel_name() == "generic",
    reason="PyTorch's threads are not to be had, or there is no core to lend them to",
)

SETUP = """
import os
import torch
import crossentropy as xe

logits = torch.randn(4_000, 1_000, generator=torch.Generator().manual_seed(0))
labels = torch.arange(4_000) % 1_000

def loss(threads):
    return float(xe.cross_entropy(logits, labels, num_threads=threads))
"""


def run(code):
    """What the code prints; a child that hangs is killed."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_threads_remain():
    """Those that are started for a call do not."""
    before, after, again = map(
        int,
        run("""
torch.set_num_threads(3)
threads = lambda: len(os.listdir("/proc/self/task"))
print(threads())
for _ in range(2):
    loss(3)
    print(threads())
"""),
    )
    assert after == again == before + 2


def test_another_thread_starts_its_own():
    """A second team would have more threads than cores wait, and then PyTorch's, too, no longer wait awake."""
    before, there = run("""
import threading

torch.set_num_threads(3)

threads = lambda: len(os.listdir("/proc/self/task"))
loss(3)
print(threads())
other = threading.Thread(target=lambda: (loss(3), print(threads() - 1)))
other.start()
other.join()
""")
    assert there == before


def test_a_fork_starts_its_own():
    """The pool's threads are not in the child, which would wait for them for ever."""
    parent, child = run("""
torch.set_num_threads(2)
print(loss(2), flush=True)
pid = os.fork()
if pid == 0:
    print(loss(2), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
""")
    assert child == parent


def test_nothing_is_borrowed_after_a_fork():
    """PyTorch's threads were the parent's, and the first loss is the child's."""
    value, workers = run("""
from torch.utils.data import DataLoader, Dataset

class Losses(Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, i):
        return loss(2)

torch.set_num_threads(3)
torch.randn(2_000, 2_000).exp()
if (pid := os.fork()) == 0:
    print(loss(2), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(*(float(value) for value in DataLoader(Losses(), num_workers=1, multiprocessing_context="fork")))
""")
    assert value == workers


def test_pytorchs_threads_are_not_ended():
    """OpenMP ends what a smaller team has too many, and PyTorch's next operator would start them again."""
    (count,) = run("""
torch.set_num_threads(6)
x = torch.randn(2_000, 2_000)
seen = set()
for _ in range(10):
    x.exp()
    for threads in (2, 3, 12):
        loss(threads)
    seen |= set(os.listdir("/proc/self/task"))
x.exp()
print(len(seen ^ set(os.listdir("/proc/self/task"))))
""")
    assert count == "0"


def test_more_threads_than_pytorch_has_are_started():
    """``torch.set_num_threads(1)`` is not for arrays, nor for who asks for more."""
    before, during = map(
        int,
        run("""
import threading

torch.set_num_threads(1)
threads = lambda: len(os.listdir("/proc/self/task"))
before, most, done = threads(), 0, False

def watch():
    global most
    while not done:
        most = max(most, threads() - 1)

watcher = threading.Thread(target=watch)
watcher.start()
for _ in range(2_000):
    loss(3)
    if most > before:
        break
done = True
watcher.join()
print(before, most)
"""),
    )
    assert during > before


@pytest.mark.parametrize("flush", [True, False])
def test_denormal_numbers_are_the_callers(flush):
    """As many bits for any number of threads: gradients of 1e-40 are 0 in every thread or in none."""
    logits = torch.zeros(4_000, 1_000)
    logits[:, ::2] = -92.0
    logits[0] = torch.linspace(-100, 0, 1_000)
    labels = torch.arange(4_000) % 1_000
    xe.cross_entropy(logits, labels, num_threads=3)  # the threads exist, with the mode of the process
    if not torch.set_flush_denormal(flush):
        pytest.skip("this processor has no such mode")
    try:
        found = [
            xe.cross_entropy_value_and_grad(logits, labels, reduction="sum", num_threads=threads)[1].numpy()
            for threads in (1, 2, 3)
        ]
    finally:
        torch.set_flush_denormal(False)
    # By their bits: with the mode on, a comparison takes a denormal number for 0.
    tiny = found[0].view(np.uint32) & 0x7FFFFFFF
    assert bool(((tiny > 0) & (tiny < 0x00800000)).any()) != flush
    for gradient in found[1:]:
        np.testing.assert_array_equal(gradient.view(np.uint32), found[0].view(np.uint32))


def test_tensors_and_arrays_have_the_same_bits():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3_000, 700)).astype(np.float32), rng.integers(0, 700, 3_000)
    expected = xe.cross_entropy_value_and_grad(logits, labels, num_threads=1)
    for threads in (2, 3, os.cpu_count()):
        value, gradient = xe.cross_entropy_value_and_grad(
            torch.from_numpy(logits), torch.from_numpy(labels), num_threads=threads
        )
        assert float(value) == float(expected[0])
        np.testing.assert_array_equal(gradient.numpy(), expected[1])
