"""Each library's best usual form of the same computation. What is not installed is left out."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np

import crossentropy as xe
from benchmarks.cases import Case

Call = Callable[[], object]


def has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def on(threads: int) -> dict[str, int]:
    """Every core is what we take unless told, as PyTorch does: nobody writes it down."""
    return {} if threads == os.cpu_count() else {"num_threads": threads}


def ours(case: Case, threads: int) -> dict[str, Call]:
    x, y, options = case.logits, case.target, {**case.options, **on(threads)}
    out = np.empty_like(x)
    if case.kind == "binary":
        return {
            "value": lambda: xe.binary_cross_entropy(x, y, **options),
            "gradient": lambda: xe.binary_cross_entropy_value_and_grad(x, y, **options),
            "gradient into out=": lambda: xe.binary_cross_entropy_value_and_grad(x, y, out=out, **options),
        }
    if case.kind == "log_loss":
        return {"value": lambda: xe.cross_entropy(x, y, inputs="probs", **options)}
    options["axis"] = case.axis
    return {
        "value": lambda: xe.cross_entropy(x, y, **options),
        "gradient": lambda: xe.cross_entropy_value_and_grad(x, y, **options),
        "gradient into out=": lambda: xe.cross_entropy_value_and_grad(x, y, out=out, **options),
    }


def arithmetic(case: Case, threads: int) -> dict[str, Call]:
    """Our value without the memory: every row is the first one, which stays in the cache."""
    x = np.broadcast_to(case.logits[:1], case.logits.shape)
    return {"arithmetic": lambda: xe.cross_entropy(x, case.target, num_threads=threads)}


def plain(case: Case, threads: int) -> dict[str, Call]:
    """Ours of the same logits with class labels and no option: what an option or a soft target costs."""
    if case.kind == "log_loss" or (case.kind != "soft" and not case.options):
        return {}
    x, y, loss, both = case.logits, case.target, xe.binary_cross_entropy, xe.binary_cross_entropy_value_and_grad
    if case.kind != "binary":
        y, loss, both = (
            np.random.default_rng(1).integers(0, x.shape[1], len(x)),
            xe.cross_entropy,
            xe.cross_entropy_value_and_grad,
        )
    out = np.empty_like(x)
    return {
        "plain value": lambda: loss(x, y, num_threads=threads),
        "plain gradient into out=": lambda: both(x, y, out=out, num_threads=threads),
    }


def tensor(array: np.ndarray) -> Any:
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def ours_on_tensors(case: Case, threads: int) -> dict[str, Call]:
    """Tensors in, tensors out: the value, forward + backward, and value with gradient into memory that is there."""
    if not has("torch") or case.kind == "log_loss":
        return {}
    import torch

    torch.set_num_threads(threads)
    x, y = tensor(case.logits), tensor(case.target)
    leaf, out = x.detach().clone().requires_grad_(), torch.empty_like(x)
    options = {name: tensor(v) if isinstance(v, np.ndarray) else v for name, v in case.options.items()}
    loss, both = xe.binary_cross_entropy, xe.binary_cross_entropy_value_and_grad
    if case.kind != "binary":
        loss, both, options["axis"] = xe.cross_entropy, xe.cross_entropy_value_and_grad, case.axis

    def backward() -> Any:
        leaf.grad = None
        value = loss(leaf, y, **options)
        value.backward()
        return value

    return {
        "value of tensors": lambda: loss(x, y, **options),
        "gradient of tensors": backward,
        "gradient of tensors into out=": lambda: both(x, y, out=out, **options),
    }


def ours_on_jax(case: Case, threads: int) -> dict[str, Call]:
    """JAX arrays in, JAX arrays out, compiled: the value, and the value with its gradient.

    "own mean": that of the losses of single rows, which is the habit of optax's users.
    """
    if not has("jax") or case.kind == "log_loss":
        return {}
    loss = xe.binary_cross_entropy if case.kind == "binary" else xe.cross_entropy
    arrays = {name: value for name, value in case.options.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in case.options.items() if name not in arrays}
    others |= {} if case.kind == "binary" else {"axis": case.axis}

    def mean(logits: Any, target: Any, given: Any) -> Any:
        return loss(logits, target, **given, **others)

    def own_mean(logits: Any, target: Any, given: Any) -> Any:
        return loss(logits, target, reduction="none", **given, **others).mean()

    calls = {f"{what} of JAX arrays": call for what, call in compiled(mean, case, arrays).items()}
    if not case.options:  # with ignored rows and class weights another denominator
        calls |= {f"{what} of JAX arrays, own mean": call for what, call in compiled(own_mean, case, arrays).items()}
    return calls


def compiled(loss: Callable[..., Any], case: Case, *others: Any) -> dict[str, Call]:
    """The value alone and with its gradient. Every array is an argument: constants would be folded at compilation."""
    import jax
    import jax.numpy as jnp

    given = jax.tree.map(jnp.asarray, (case.logits, case.target, *others))
    value, gradient = (jax.jit(f).lower(*given).compile() for f in (loss, jax.value_and_grad(loss)))
    return {
        "value": lambda: value(*given).block_until_ready(),
        "gradient": lambda: jax.block_until_ready(gradient(*given)),
    }


def torch(case: Case, threads: int) -> dict[str, Call]:
    """Tensors are made beforehand: what is timed is the loss alone."""
    known = {"class_weight", "label_smoothing", "pos_weight", "row_weight", "normalizer"}
    if not has("torch") or case.kind == "log_loss" or not set(case.options) <= known:
        return {}
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    x, y = tensor(case.logits), tensor(case.target)
    leaf = x.detach().clone().requires_grad_()
    if case.kind == "binary":
        weights = {
            theirs: tensor(case.options[ours])
            for theirs, ours in {"weight": "row_weight", "pos_weight": "pos_weight"}.items()
            if ours in case.options
        }

        def loss(logits: Any) -> Any:
            return F.binary_cross_entropy_with_logits(logits, y, **weights)
    else:
        weight = case.options.get("class_weight")
        options = {
            "label_smoothing": case.options.get("label_smoothing", 0.0),
            "weight": None if weight is None else torch.from_numpy(weight).to(x.dtype),
        }

        def loss(logits: Any) -> Any:
            return F.cross_entropy(logits, y, **options)

    def backward() -> Any:
        leaf.grad = None
        value = loss(leaf)
        value.backward()
        return value

    return {"value": lambda: loss(x), "gradient": backward}


def scikit_learn(case: Case, threads: int) -> dict[str, Call]:
    if not has("sklearn") or case.options or case.logits.dtype != np.float32:
        return {}
    from sklearn._loss import HalfMultinomialLoss
    from sklearn.metrics import log_loss

    if case.kind == "log_loss":
        labels = np.arange(case.logits.shape[1])
        return {"value": lambda: log_loss(case.target, case.logits, labels=labels)}
    if case.kind != "labels" or case.logits.ndim != 2 or case.logits.shape[1] not in (10, 100):
        return {}
    raw, y = np.ascontiguousarray(case.logits), case.target.astype(np.float32)
    loss = HalfMultinomialLoss(n_classes=raw.shape[1])
    total = len(y)

    def value_and_gradient() -> Any:
        losses, gradient = loss.loss_gradient(y, raw, n_threads=threads)
        return losses.mean(dtype=np.float64), gradient / total

    return {"gradient": value_and_gradient}


def jax(case: Case, threads: int) -> dict[str, Call]:
    """One thread count only: XLA's pool has the size of the machine."""
    plain = case.kind == "labels" and not case.options and case.axis == -1 and case.logits.dtype == np.float32
    if not has("jax") or not plain:
        return {}
    import jax
    import jax.numpy as jnp

    def loss(logits: Any, target: Any) -> Any:
        label = jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0]
        return (jax.scipy.special.logsumexp(logits, axis=-1) - label).mean()

    return compiled(loss, case)


def optax(case: Case, threads: int) -> dict[str, Call]:
    """As JAX, with optax's own functions."""
    if not has("optax") or case.options or case.kind == "log_loss":
        return {}
    import optax

    names = {
        "labels": "softmax_cross_entropy_with_integer_labels",
        "soft": "softmax_cross_entropy",
        "binary": "sigmoid_binary_cross_entropy",
    }
    each, axis = getattr(optax.losses, names[case.kind]), {} if case.kind == "binary" else {"axis": case.axis}
    return compiled(lambda logits, target: each(logits, target, **axis).mean(), case)


def scipy(case: Case, threads: int) -> dict[str, Call]:
    if not has("scipy") or case.kind != "labels" or case.options or case.axis != -1 or case.logits.size > 1 << 25:
        return {}
    from scipy.special import logsumexp

    x, y = case.logits, case.target
    rows = np.arange(len(y))
    return {"value": lambda: float((logsumexp(x, axis=-1) - x[rows, y]).mean())}


OTHERS = {"PyTorch": torch, "scikit-learn": scikit_learn, "JAX": jax, "optax": optax, "SciPy": scipy}
