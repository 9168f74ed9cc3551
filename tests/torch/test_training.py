"""What a training loop meets: retained graphs, upstream gradients, no_grad, autocast, accumulation, the examples."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import crossentropy as xe  # noqa: E402
from crossentropy.libraries.torch import compute, forms  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"


def problem(rows=6, classes=5, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator).to(dtype).requires_grad_()
    return logits, torch.randint(0, classes, (rows,), generator=generator)


def test_a_second_backward_through_a_retained_graph():
    logits, labels = problem()
    loss = xe.cross_entropy(logits, labels)
    loss.backward(retain_graph=True)
    first = logits.grad.clone()
    logits.grad.mul_(7)  # what the caller does with a gradient does not reach what is saved
    logits.grad = None
    loss.backward(retain_graph=True)
    assert torch.equal(logits.grad, first)
    (3 * loss).backward()
    torch.testing.assert_close(logits.grad, first * 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_upstream_gradient(dtype):
    logits, labels = problem(dtype=dtype)
    plain = torch.autograd.grad(xe.cross_entropy(logits, labels), logits)[0]
    for factor in (0.0, 1.0, -0.5, 1024.0):
        scaled = torch.autograd.grad(xe.cross_entropy(logits, labels) * factor, logits)[0]
        torch.testing.assert_close(scaled, plain * factor)
    upstream = torch.linspace(-1, 2, 6)
    rows = torch.autograd.grad(
        xe.cross_entropy(logits, labels, reduction="none"),
        logits,
        upstream.to(torch.float64 if dtype == torch.float64 else torch.float32),
    )[0]
    summed = torch.autograd.grad(xe.cross_entropy(logits, labels, reduction="sum"), logits)[0]
    torch.testing.assert_close(rows, (summed.double() * upstream[:, None]).to(dtype), rtol=0.01, atol=1e-7)


def test_a_gradient_with_a_graph_has_the_bits_of_one_without():
    """It is computed anew, since no graph leads to the one that was saved with the loss."""
    logits, labels = problem()
    for factor in (1.0, -3.0):
        plain, with_graph = (
            torch.autograd.grad(xe.cross_entropy(logits, labels) * factor, logits, create_graph=is_kept)[0]
            for is_kept in (False, True)
        )
        assert with_graph.requires_grad
        torch.testing.assert_close(plain, with_graph, rtol=0 if factor == 1.0 else 1e-6, atol=0)


def test_what_is_saved_may_be_kept_elsewhere():
    """By hooks, which a backward pass asks for what they were given; and by a checkpoint, which computes it again."""
    logits, labels = problem()
    expected = torch.autograd.grad(xe.cross_entropy(logits, labels), logits)[0]
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> int:
        kept.append(tensor.detach().clone())
        return len(kept) - 1

    with torch.autograd.graph.saved_tensors_hooks(keep, kept.__getitem__):
        loss = xe.cross_entropy(logits, labels)
    before = [tensor.clone() for tensor in kept]
    assert any(torch.equal(tensor, expected) for tensor in kept if tensor.shape == expected.shape)
    (gradient,) = torch.autograd.grad(3 * loss, logits)
    torch.testing.assert_close(gradient, 3 * expected)
    assert all(map(torch.equal, kept, before))
    (again,) = torch.autograd.grad(
        torch.utils.checkpoint.checkpoint(xe.cross_entropy, logits, labels, use_reentrant=False), logits
    )
    assert torch.equal(again, expected)


def test_a_gradient_is_nobody_elses_and_goes_with_the_graph():
    logits, labels = problem()
    for factor in (1.0, 0.5):
        loss = xe.cross_entropy(logits, labels)
        seen = [tensor for tensor in loss.grad_fn.saved_tensors if tensor is not None]
        before = [tensor.clone() for tensor in seen]
        (gradient,) = torch.autograd.grad(factor * loss, logits, retain_graph=True)
        assert loss.grad_fn.formed is not None
        (gradient,) = torch.autograd.grad(factor * loss, logits)
        gradient.zero_()
        assert all(map(torch.equal, seen, before))
        assert loss.grad_fn.formed is None  # though the loss lives on
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_the_tangent_of_an_upstream_gradient_of_one():
    logits, labels = problem()
    plain = torch.autograd.grad(xe.cross_entropy(logits, labels), logits)[0]
    loss = xe.cross_entropy(logits, labels)
    with torch.autograd.forward_ad.dual_level():
        upstream = torch.autograd.forward_ad.make_dual(torch.tensor(1.0), torch.tensor(2.0))
        found = torch.autograd.forward_ad.unpack_dual(torch.autograd.grad(loss, logits, upstream)[0])
        torch.testing.assert_close(found.primal, plain)
        torch.testing.assert_close(found.tangent, 2 * plain)


def test_a_loss_scale_reaches_float16_before_rounding():
    """2^-20 / 4096 is 0 in float16; 65,536 times it is not."""
    logits = torch.zeros(4096, 2, dtype=torch.float16)
    logits[:, 0] = 12.0
    logits.requires_grad_()
    labels = torch.zeros(4096, dtype=torch.int64)
    scaled = torch.autograd.grad(xe.cross_entropy(logits, labels) * 65536.0, logits)[0]
    expected = torch.autograd.grad(xe.cross_entropy(logits.double(), labels) * 65536.0, logits)[0]
    assert (scaled != 0).all()
    assert torch.equal(scaled, expected)


def test_an_upstream_gradient_of_one_is_free(monkeypatch):
    logits, labels = problem()
    loss = xe.cross_entropy(logits, labels)
    monkeypatch.setattr(compute, "loss", None)
    monkeypatch.setattr(forms.Form, "scaled", None)
    loss.backward()  # nothing is computed, nothing is copied: either would call None
    assert torch.isfinite(logits.grad).all()


MEMORY = """
import torch
import crossentropy as xe

def peak():
    # Of this process alone: what getrusage tells begins with the size of the process that started it.
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

xe.cross_entropy(torch.randn(8, 10, requires_grad=True), torch.zeros(8, dtype=torch.int64)).backward()
logits, labels = torch.randn(1024, 16_000).requires_grad_(), torch.randint(0, 16_000, (1024,))
before = peak()
xe.cross_entropy(logits, labels).backward()
print((peak() - before) / logits.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark that Linux keeps")
def test_forward_and_backward_need_the_memory_of_one_gradient():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) < 1.1


def test_no_grad_computes_no_gradient(monkeypatch):
    logits, labels = problem()
    computed, plain = [], compute.loss
    monkeypatch.setattr(compute, "loss", lambda *given: computed.append(len(given) > 4) or plain(*given))
    with torch.no_grad():
        assert not xe.cross_entropy(logits, labels).requires_grad
    assert torch.isfinite(xe.cross_entropy(logits.detach(), labels))
    assert computed == [False, False]
    xe.cross_entropy(logits, labels)
    assert computed == [False, False, True]


def test_autocast_gives_a_float32_loss_as_torchs_own():
    logits, labels = problem(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = xe.cross_entropy(logits, labels), torch.nn.functional.cross_entropy(logits, labels)
        inner = xe.cross_entropy(torch.nn.functional.linear(logits, torch.eye(5)), labels)
    assert ours.dtype == theirs.dtype == inner.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)


def test_out_takes_the_gradient():
    logits, labels = problem()
    value, gradient = xe.cross_entropy_value_and_grad(logits, labels)
    logits = logits.detach()
    for out in (torch.empty(6, 5), torch.empty(5, 6).T):
        again, same = xe.cross_entropy_value_and_grad(logits, labels, out=out)
        assert same is out
        assert torch.equal(again, value)
        assert torch.equal(out, gradient)
    in_place = logits.clone()
    xe.cross_entropy_value_and_grad(in_place, labels, out=in_place)
    assert torch.equal(in_place, gradient)
    with pytest.raises(ValueError, match="out does not support automatic differentiation"):
        xe.cross_entropy_value_and_grad(logits.clone().requires_grad_(), labels, out=torch.empty(6, 5))
    with pytest.raises(ValueError, match="out overlaps itself"):
        xe.cross_entropy_value_and_grad(logits, labels, out=torch.empty(1, 5).expand(6, 5))


@pytest.mark.parametrize("sizes", [(7, 1, 24), (16, 16), (31, 1)])
def test_accumulation_over_uneven_micro_batches_is_the_whole_batch(sizes):
    """The recipe of docs/torch.md: the denominator of the whole batch, known before the first micro-batch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 11)
    features, labels = torch.randn(sum(sizes), 8), torch.randint(0, 11, (sum(sizes),))
    labels[::3] = -100
    weight = torch.rand(11) + 0.5
    count = weight.double()[labels[labels != -100]].sum()

    def run(parts):
        model.zero_grad()
        slopes, total = [], 0.0
        for part in parts:
            logits = model(features)[part]  # one product, so that the logits have the same bits
            logits.retain_grad()
            loss = xe.cross_entropy(logits, labels[part], class_weight=weight, normalizer=count)
            loss.backward()
            slopes.append(logits.grad)
            total += loss.item()
        return total, torch.cat(slopes), [p.grad.clone() for p in model.parameters()]

    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    value, slope, parameters = run([slice(None)])
    parts = run([slice(start, start + size) for start, size in zip(starts, sizes, strict=True)])
    plain = xe.cross_entropy(model(features), labels, class_weight=weight)
    assert torch.equal(parts[1], slope)
    assert abs(parts[0] - value) <= 2 * torch.finfo(torch.float32).eps * abs(value)
    torch.testing.assert_close(torch.tensor(value), plain.detach(), rtol=3e-7, atol=0)
    for ours, whole in zip(parts[2], parameters, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["train_digits.py", "finetune_masked.py"])
def test_the_example_runs(name):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "loss" in done.stdout
    assert "nan" not in done.stdout
