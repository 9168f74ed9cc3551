"""The Triton kernels under Triton's interpreter, in a process that sees no device and has every launch interpreted."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
TESTS = Path(__file__).parents[1]
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed (it has wheels for Linux alone)", allow_module_level=True)


def run(*arguments, **environment):
    given = {"TRITON_INTERPRET": "1", "CROSSENTROPY_KERNEL": "triton", "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=TESTS.parent,
        env=os.environ | given | environment,
        capture_output=True,
        text=True,
    )


# What is run of the tables: conftest.py, class Triton. Two processes, which two workers share.
@pytest.mark.parametrize(
    ("files", "at_least"),
    [
        (["test_options.py", "test_exactness.py"], 45),
        (["test_defined_results.py", "torch/test_triton_interpreted.py"], 60),
    ],
    ids=["options and bounds", "defined results and launches"],
)
def test_the_tables_under_the_interpreter(files, at_least):
    # The interpreter computes with NumPy, which warns of infinities.
    quiet = ["-W", "ignore::RuntimeWarning", "-p", "no:cacheprovider", "-q", "--tb=short"]
    done = run("-m", "pytest", *quiet, "-k", "triton", *(str(TESTS / name) for name in files))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout[-2000:]
    assert int(passed[1]) >= at_least


def test_only_the_interpreter_takes_tensors_of_the_cpu():
    script = "import torch, crossentropy as xe; print(xe.cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=int)))"
    done = run("-c", script, TRITON_INTERPRET="")
    assert "CROSSENTROPY_KERNEL='triton': expected one of" in done.stderr
