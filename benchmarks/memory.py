"""``python -m benchmarks.memory``: the most memory that forward + backward took, beyond what was there before.

Each form runs in a process of its own, whose high-water mark Linux keeps; in units of the logits' size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

FORMS = {
    "torch.nn.functional.cross_entropy": "F.cross_entropy(logits, labels)",
    "crossentropy": "xe.cross_entropy(logits, labels)",
    "crossentropy, loss / 2": "xe.cross_entropy(logits, labels) / 2",
    "crossentropy, reduction='none'": "xe.cross_entropy(logits, labels, reduction='none').sum()",
    "crossentropy, out=logits": "xe.cross_entropy_value_and_grad(logits.detach(), labels, out=logits.detach())[0]",
}

CHILD = """
import torch
import torch.nn.functional as F
import crossentropy as xe

def run(logits, labels):
    loss = {form}
    if loss.requires_grad:
        loss.backward()

def peak():
    # Of this process alone: what getrusage tells begins with the size of the process that started it.
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

run(torch.randn(8, 10, requires_grad=True), torch.zeros(8, dtype=torch.int64))
logits = torch.randn({rows}, {classes}, dtype=torch.{dtype}).requires_grad_()
labels = torch.randint(0, {classes}, ({rows},))
before = peak()
run(logits, labels)
print((peak() - before) / logits.nbytes)
"""


def extra(form: str, rows: int, classes: int, dtype: str) -> float:
    """Peak memory of the form's forward + backward pass over the size of the logits."""
    script = CHILD.format(form=form, rows=rows, classes=classes, dtype=dtype)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--rows", type=int, default=4_096)
    parser.add_argument("--classes", type=int, default=32_000)
    parser.add_argument("--dtype", default="float32", choices=("float64", "float32", "bfloat16", "float16"))
    given = parser.parse_args()
    print(f"logits of {given.rows:,} x {given.classes:,}, {given.dtype}: extra memory at the peak, in logits")
    for name, form in FORMS.items():
        print(f"{extra(form, given.rows, given.classes, given.dtype):6.2f}  {name}", flush=True)


if __name__ == "__main__":
    main()
