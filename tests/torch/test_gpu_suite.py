"""``python -m benchmarks --suite gpu`` as far as it goes without a device: its cases, its checks, its table."""

import dataclasses
import functools
import subprocess
import sys
import unittest.mock
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from benchmarks import gpu  # noqa: E402

ROOT = Path(__file__).parents[2]
needs_no_device = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here, which is measured")


@needs_no_device
def test_without_a_device_it_says_so():
    command = [sys.executable, "-m", "benchmarks", "--suite", "gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == "no CUDA device here: the gpu suite measures nothing"
    assert done.stdout == ""


def small(case):
    return dataclasses.replace(case, rows=40, classes=17, width=8 if case.width else 0)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in gpu.CASES])
def test_every_case_is_checked_before_it_is_timed(case, monkeypatch):
    """On the CPU, small: all that is left out is the clock, the memory of a device, and what does not import here."""
    monkeypatch.setattr(gpu, "seconds", lambda calls: {name: 1.0 + (name != "roofline") for name in calls})
    monkeypatch.setattr(gpu, "peak_memory", lambda call: 3_000_000)
    monkeypatch.setattr(gpu, "compiled", gpu.eager)
    monkeypatch.setitem(gpu.OTHERS, "torch.compile", gpu.eager)
    lines = list(gpu.measure(small(case), "cpu"))
    who = [line.split(" | ")[1] for line in lines]
    assert sorted(who) == sorted(["ours", *gpu.OTHERS])
    timed = {name: line for name, line in zip(who, lines, strict=True) if "50%" in line}
    assert {"ours", "torch", "torch.compile"} <= set(timed)
    assert timed["ours"].split(" | ")[2:] == ["2000.000", "1.00", "50%", "3 |"]
    for name in set(who) - set(timed):
        assert "No module named" in lines[who.index(name)] or "linear form" in lines[who.index(name)]


def test_a_wrong_loss_is_not_timed():
    given = gpu.Given.of(small(gpu.CASES[1]), "cpu")
    call = gpu.ours(given)
    gpu.agree(given, "ours", call)
    with pytest.raises(AssertionError, match="torch gives"):
        gpu.agree(given, "torch", lambda: call() * 1.1)


def test_what_stops_another_does_not_stop_the_suite(monkeypatch):
    def broken(given):
        def call():
            raise RuntimeError("no kernel for this\nand much more")

        return call

    monkeypatch.setattr(gpu, "seconds", lambda calls: dict.fromkeys(calls, 1.0))
    monkeypatch.setattr(gpu, "peak_memory", lambda call: 0)
    monkeypatch.setattr(gpu, "OTHERS", {"theirs": broken})
    ours, theirs = gpu.measure(small(gpu.CASES[1]), "cpu")
    assert "| ours | 1000.000 |" in ours
    assert theirs.endswith("| theirs | | | | RuntimeError: no kernel for this |")
    monkeypatch.setattr(gpu, "ours", broken)
    with pytest.raises(RuntimeError, match="no kernel"):
        list(gpu.measure(small(gpu.CASES[1]), "cpu"))


def test_torch_compile_knows_the_sizes_of_every_case():
    """Of as many cases as there are, which share a function's code: not for unknown sizes, and not given up."""
    found = []

    def backend(graph, inputs):
        found.append([tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)])
        return graph

    with unittest.mock.patch.object(torch, "compile", functools.partial(torch.compile, backend=backend)):
        for rows in range(2, 14):
            case = dataclasses.replace(gpu.CASES[-2], rows=rows, classes=17)
            gpu.compiled(gpu.Given.of(case, "cpu"))()
    assert [shapes[0] for shapes in found] == [(rows, 17) for rows in range(2, 14)]
    assert all(type(n) is int for shapes in found for shape in shapes for n in shape)


def test_what_a_case_moves():
    read, both, linear = gpu.CASES[-2], gpu.CASES[0], gpu.CASES[-1]
    assert read.bytes == 8192 * 128_256 * 2
    assert both.bytes == 2 * read.bytes
    assert linear.flops == 3 * 2 * 8192 * 4096 * 128_256
