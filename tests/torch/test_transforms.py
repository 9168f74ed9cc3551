"""Derivatives of every kind, and everything that traces, against torch's own loss or against finite differences."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap  # noqa: E402

import crossentropy as xe  # noqa: E402

F = torch.nn.functional
DOUBLE = torch.float64
pytestmark = [
    # Batched gradients call an operator slice by slice, of which torch warns.
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    # What torch's own forward mode, compiler and exporter say of themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def positive(*shape, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.2, 0.9, size=shape)).requires_grad_()


X, V = normal(4, 3), normal(4, 3, seed=2)
LABELS = torch.tensor([0, 2, 1, 1])
SOFT = positive(4, 3).detach()
SPARSE = torch.tensor([[0, 1], [1, 1], [2, 0], [-100, 2]])


def check(function, arguments):
    assert gradcheck(
        function, arguments, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert gradgradcheck(function, arguments, check_batched_grad=True, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    ("target", "options"),
    [
        (LABELS, {}),
        (torch.tensor([0, -100, 1, 1]), {"label_smoothing": 0.1, "class_weight": torch.tensor([1.0, 2.0, 0.5])}),
        (SOFT, {"label_smoothing": 0.1, "softcap": 5.0, "z_loss": 0.01}),
        (LABELS, {"focal_gamma": 2.0, "row_weight": torch.tensor([1.0, 2.0, 0.5, 3.0])}),
        ((SPARSE, positive(4, 2).detach()), {"temperature": 2.0, "class_bias": torch.tensor([0.5, 0.0, -1.0])}),
        (LABELS.roll(1), {"class_mask": torch.tensor([True, True, True]), "unit": "bits"}),
    ],
    ids=["labels", "smoothed", "soft", "focal", "sparse", "masked"],
)
def test_derivatives_to_logits(target, options, reduction):
    logits = X.clone().requires_grad_()
    check(lambda x: xe.cross_entropy(x, target, reduction=reduction, **options), (logits,))
    both = lambda x: xe.cross_entropy_value_and_grad(x, target, reduction=reduction, **options)  # noqa: E731
    assert gradcheck(both, (logits,), check_forward_ad=True, check_batched_grad=True)


MEASURED = {
    "class_weight": lambda x, w, r: xe.cross_entropy(x, LABELS, class_weight=w, label_smoothing=0.1, reduction=r),
    "class_bias": lambda x, w, r: xe.cross_entropy(x, LABELS, class_bias=w, softcap=3.0, reduction=r),
    "temperature": lambda x, w, r: xe.cross_entropy(x, LABELS, temperature=w, reduction=r),
    "row_weight": lambda x, w, r: xe.cross_entropy(x, LABELS, row_weight=w, reduction=r),
    "normalizer": lambda x, w, r: xe.cross_entropy(x, LABELS, normalizer=w, reduction=r),
    "target": lambda x, w, r: xe.cross_entropy(x, w, label_smoothing=0.1, z_loss=0.1, reduction=r),
    "target values": lambda x, w, r: xe.cross_entropy(x, (SPARSE, w), reduction=r),
    "target of probs": lambda x, w, r: xe.cross_entropy(x.sigmoid(), w, inputs="probs", reduction=r),
    "binary target": lambda x, w, r: xe.binary_cross_entropy(x, w, label_smoothing=0.1, reduction=r),
    "pos_weight": lambda x, w, r: xe.binary_cross_entropy(x, SOFT, pos_weight=w, reduction=r),
    "binary row_weight": lambda x, w, r: xe.binary_cross_entropy(x, SOFT, row_weight=w, reduction=r),
}
SHAPES = {"class_weight": (3,), "class_bias": (3,), "temperature": (), "row_weight": (4,), "normalizer": ()}
SHAPES |= {"target": (4, 3), "target values": (4, 2), "target of probs": (4, 3), "binary target": (4, 3)}
SHAPES |= {"pos_weight": (3,), "binary row_weight": (4, 1)}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", MEASURED)
def test_derivatives_to_what_else_requires_grad(name, reduction):
    check(lambda x, w: MEASURED[name](x, w, reduction), (X.clone().requires_grad_(), positive(*SHAPES[name])))


@pytest.mark.parametrize("mask", [[False, True, True], [False, False, False]], ids=["its class", "all classes"])
@pytest.mark.parametrize("normalizer", ["weight", 0.0])
def test_nothing_of_a_row_that_does_not_count_reaches_class_weights(mask, normalizer):
    """An ignored row stands for class 0, which cannot occur there: its loss would be infinite, its slope NaN."""
    weight, labels, masks = positive(3), LABELS.clone(), torch.ones(4, 3, dtype=bool)
    labels[0], masks[0] = (0 if normalizer == 0.0 else -100), torch.tensor(mask)
    options = {"label_smoothing": 0.1, "normalizer": normalizer}
    value = xe.cross_entropy(X, labels, class_mask=masks, class_weight=weight, **options)
    expected = xe.cross_entropy(X[1:], labels[1:], class_weight=weight, **options)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, weight)[0] for v in (value, expected)))


def test_nothing_of_an_element_that_does_not_count_reaches_pos_weight():
    weight, logits = positive(3), torch.tensor([-torch.inf, 0.0, 1.0])
    value = xe.binary_cross_entropy(logits, torch.ones(3), pos_weight=weight, normalizer=0.0)
    value.backward()
    assert value == 0
    assert not weight.grad.any()


@pytest.mark.parametrize("name", ["target", "target of probs", "binary target"])
def test_derivatives_of_no_rows(name):
    arguments = X[:0].clone().requires_grad_(), positive(0, 3)
    value = MEASURED[name](*arguments, "mean")
    assert value == 0
    assert [g.shape for g in torch.autograd.grad(value, arguments)] == [(0, 3), (0, 3)]


@pytest.mark.parametrize(
    "call",
    [
        lambda w: xe.cross_entropy(X, LABELS, class_weight=w, focal_gamma=2.0),
        lambda w: xe.cross_entropy_value_and_grad(X, LABELS, class_weight=w)[1],
        lambda w: xe.cross_entropy_value_and_grad(X, LABELS, temperature=w[0])[1],
        lambda w: xe.cross_entropy_hvp(X, LABELS, V, class_weight=w),
        lambda w: xe.row_statistics(X * w).lse,
        lambda w: xe.row_statistics(X, LABELS, temperature=w[0]).lse,
        lambda w: xe.row_statistics(X, SOFT * w).target_log_prob,
        lambda w: xe.entropy(w),
    ],
    ids=["focal", "value_and_grad", "temperature", "hvp", "row_statistics", "its temperature", "its target", "entropy"],
)
def test_a_derivative_that_is_not_there_is_an_error(call):
    with pytest.raises(NotImplementedError, match="derivative"):
        call(positive(3)).sum().backward()


@pytest.mark.parametrize("name", ["hvp", "vhp"])
def test_products_by_torchs_own_functional(name):
    """hvp differentiates the gradient to the vector; that the logits require a gradient too is no third derivative."""
    weight = normal(5, 3, seed=3)
    for ours, theirs in (
        (lambda x: xe.cross_entropy(x, LABELS), lambda x: F.cross_entropy(x, LABELS)),
        (lambda x: xe.binary_cross_entropy(x, SOFT), lambda x: F.binary_cross_entropy_with_logits(x, SOFT)),
        (
            lambda x: xe.linear_cross_entropy(x, weight, LABELS),
            lambda x: F.cross_entropy(F.linear(x, weight), LABELS),
        ),
    ):
        product = getattr(torch.autograd.functional, name)
        torch.testing.assert_close(product(ours, X, V), product(theirs, X, V))


def test_a_third_derivative_is_an_error():
    with pytest.raises(NotImplementedError, match="third derivative"):
        grad(lambda x: grad(lambda x: grad(lambda x: xe.cross_entropy(x, LABELS))(x).square().sum())(x).sum())(X)
    logits = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(xe.cross_entropy(logits, LABELS), logits, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        second.sum().backward()


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ("logits", {}),
        ("logits", {"focal_gamma": 1.5}),
        ("probs", {"pos_weight": 2.0}),
        ("log_probs", {"focal_gamma": 2}),
    ],
)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_derivatives_of_the_binary_loss(inputs, options, reduction):
    point = {"logits": X, "probs": SOFT, "log_probs": -SOFT}[inputs].clone().requires_grad_()
    target = (V > 0).to(DOUBLE)
    check(lambda x: xe.binary_cross_entropy(x, target, inputs=inputs, reduction=reduction, **options), (point,))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sigmoid", "log_sigmoid", "perplexity"])
def test_derivatives_of_the_distributions(name):
    check(getattr(xe, name), (X.clone().requires_grad_(),))


def test_impossible_classes_have_finite_gradients():
    logits = torch.tensor([[1.0, -torch.inf, 0.0]], dtype=DOUBLE, requires_grad=True)
    for function in (xe.softmax, xe.log_softmax):
        (slope,) = torch.autograd.grad(function(logits)[0, 0], logits)
        assert torch.isfinite(slope).all()
    target = torch.tensor([[0.5, 0.0, 0.5]], dtype=DOUBLE, requires_grad=True)
    loss = xe.cross_entropy(logits, target)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (logits, target)))


# -- torch.func -------------------------------------------------------------------------------------------------------

UNIT = torch.tensor(2.0, dtype=DOUBLE)
TRANSFORMS = {
    "grad": grad,
    "grad of grad": lambda f: grad(lambda x: (grad(f)(x) * V).sum()),
    "hessian": hessian,
    "jacrev of jacrev": lambda f: jacrev(jacrev(f)),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f)),
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f)),
    "jvp": lambda f: lambda x: jvp(f, (x,), (V,)),
    "vjp": lambda f: lambda x: vjp(f, x)[1](UNIT),
    "jvp of grad": lambda f: lambda x: jvp(grad(f), (x,), (V,)),
    "grad of jvp": lambda f: grad(lambda x: jvp(f, (x,), (V,))[1]),
    "jvp of jvp": lambda f: lambda x: jvp(lambda y: jvp(f, (y,), (V,))[1], (x,), (V,)),
}


def assert_trees_close(ours, theirs):
    ours, theirs = (torch.utils._pytree.tree_leaves(tree) for tree in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_torch_func(name, reduction):
    ours = lambda x: xe.cross_entropy(x, LABELS, reduction=reduction).square().sum()  # noqa: E731
    theirs = lambda x: F.cross_entropy(x, LABELS, reduction=reduction).square().sum()  # noqa: E731
    assert_trees_close(TRANSFORMS[name](ours)(X), TRANSFORMS[name](theirs)(X))


BATCH, BATCH_LABELS = normal(5, 4, 3), torch.from_numpy(np.random.default_rng(3).integers(0, 3, (5, 4)))
BATCHED = {
    "vmap": vmap,
    "vmap of grad": lambda f: vmap(grad(lambda x, y: f(x, y).sum())),
    "vmap of hessian": lambda f: vmap(hessian(lambda x, y: f(x, y).sum())),
    "hessian of vmap": lambda f: hessian(lambda x, y: vmap(f)(x, y).square().sum()),
    "logits alone": lambda f: lambda x, y: vmap(f, (0, None))(x, y[0]),
    "labels alone": lambda f: lambda x, y: vmap(f, (None, 0))(x[0], y),
    "twice": lambda f: vmap(vmap(lambda x, y: f(x[None], y[None]))),
    "another axis": lambda f: lambda x, y: vmap(f, (1, 1))(x.transpose(0, 1).contiguous(), y.T),
    "vmap of jvp": lambda f: lambda x, y: vmap(lambda x, y: jvp(lambda x: f(x, y), (x,), (V,)))(x, y),
}


@pytest.mark.parametrize("options", [{}, {"reduction": "none"}], ids=["mean", "none"])
@pytest.mark.parametrize("name", BATCHED)
def test_vmap(name, options):
    ours = lambda x, y: xe.cross_entropy(x, y, **options)  # noqa: E731
    theirs = lambda x, y: F.cross_entropy(x, y, **options)  # noqa: E731
    assert_trees_close(BATCHED[name](ours)(BATCH, BATCH_LABELS), BATCHED[name](theirs)(BATCH, BATCH_LABELS))


def test_vmap_over_what_rows_share():
    weights = positive(5, 3).detach()
    ours = vmap(lambda x, y, w: xe.cross_entropy(x, y, class_weight=w))(BATCH, BATCH_LABELS, weights)
    theirs = torch.stack(
        [F.cross_entropy(x, y, weight=w) for x, y, w in zip(BATCH, BATCH_LABELS, weights, strict=True)]
    )
    assert_trees_close(ours, theirs)
    slopes = vmap(grad(lambda w, x, y: xe.cross_entropy(x, y, class_bias=w)))(weights, BATCH, BATCH_LABELS)
    expected = vmap(grad(lambda w, x, y: F.cross_entropy(x + w, y)))(weights, BATCH, BATCH_LABELS)
    assert_trees_close(slopes, expected)


def test_a_label_that_cannot_be_read_makes_its_row_nan():
    labels = BATCH_LABELS.clone()
    labels[2, 1] = 7
    value = vmap(lambda x, y: xe.cross_entropy(x, y, reduction="none"))(BATCH, labels)
    slope = vmap(grad(lambda x, y: xe.cross_entropy(x, y, reduction="sum")))(BATCH, labels)
    expected = torch.zeros(5, 4, dtype=torch.bool)
    expected[2, 1] = True
    assert torch.equal(value.isnan(), expected)
    assert torch.equal(slope.isnan(), expected[..., None].expand(5, 4, 3))


def test_eager_forward_mode():
    with forward_ad.dual_level():
        value = xe.cross_entropy(forward_ad.make_dual(X, V), LABELS)
        expected = F.cross_entropy(forward_ad.make_dual(X, V), LABELS)
        assert_trees_close(forward_ad.unpack_dual(value).tangent, forward_ad.unpack_dual(expected).tangent)


# -- tracing ----------------------------------------------------------------------------------------------------------

TRACED = {
    "labels": lambda x, y: xe.cross_entropy(x, y),
    "none": lambda x, y: xe.cross_entropy(x, y, reduction="none", ignore_index=1),
    "smoothed": lambda x, y: xe.cross_entropy(x, y, label_smoothing=0.1, z_loss=0.1, class_weight=SOFT[0]),
    "soft": lambda x, y: xe.cross_entropy(x, x.detach().softmax(-1), temperature=2.0),
    "images": lambda x, y: xe.cross_entropy(x.T[None], y[None], axis=1),
    "binary": lambda x, y: xe.binary_cross_entropy(x, (x.detach() > 0), focal_gamma=2.0),
    "module": lambda x, y: xe.torch.CrossEntropyLoss(label_smoothing=0.1)(x, y),
    "log_softmax": lambda x, y: xe.log_softmax(x),
    "value_and_grad": lambda x, y: sum(part.sum() for part in xe.cross_entropy_value_and_grad(x, y)),
}


COMPILERS = ("g++", "clang++", "c++", "cl")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "g++"), *COMPILERS))),
    reason="no C++ compiler, which inductor needs",
)
# Inductor takes seconds for each: what has operators of its own, a view ahead of them, and arithmetic around them.
BACKENDS = [pytest.param(name, "aot_eager", id=f"{name}-aot_eager") for name in TRACED]
BACKENDS += [
    pytest.param(name, "inductor", id=f"{name}-inductor", marks=needs_compiler)
    for name in ("labels", "images", "smoothed", "binary", "module")
]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_compile(name, backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(TRACED[name], fullgraph=True, dynamic=dynamic, backend=backend)
    for rows in (4, 7):
        logits, labels = normal(rows, 3, seed=rows), torch.arange(rows) % 3
        results = []
        for function in (compiled, TRACED[name]):
            x = logits.clone().requires_grad_()
            value = function(x, labels)
            results.append((value, torch.autograd.grad(value.sum(), x)[0]))
        assert_trees_close(*results)


@needs_compiler
def test_a_compiled_training_step():
    """The default backend, a layer ahead of the loss, and labels that are ignored."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer, criterion = torch.nn.Linear(8, 5), xe.torch.CrossEntropyLoss(label_smoothing=0.1)
    features, labels = torch.randn(6, 8), torch.tensor([0, -100, 4, 2, -100, 1])
    losses, slopes = [], []
    for compile_ in (lambda f: f, lambda f: torch.compile(f, fullgraph=True)):
        layer.zero_grad()
        loss = compile_(lambda x, y: criterion(layer(x), y) / 4)(features, labels)
        loss.backward()
        losses.append(loss.detach())
        slopes.append([p.grad.clone() for p in layer.parameters()])
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*slopes)


def test_compile_is_the_first_use():
    """In a process of its own: the library is not loaded yet when the first trace begins."""
    script = (
        "import warnings; warnings.simplefilter('error')\n"
        "import crossentropy as xe, torch\n"
        "f = torch.compile(lambda x, y: xe.cross_entropy(x, y), fullgraph=True, backend='eager')\n"
        "print(f(torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([0])).item())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(4.1223072e-09, rel=1e-6)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    class Model(torch.nn.Module):
        def forward(self, x, y):
            return xe.cross_entropy(x, y, label_smoothing=0.1)

    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(Model(), (X, LABELS), dynamic_shapes=({0: rows}, {0: rows}), strict=strict)
    logits, labels = normal(9, 3, seed=9), torch.arange(9) % 3
    assert_trees_close(program.module()(logits, labels), xe.cross_entropy(logits, labels, label_smoothing=0.1))


@pytest.mark.parametrize("name", ["row_loss", "row_loss_and_gradient", "row_hessian_vector", "element_loss"])
def test_operators_are_registered_as_torch_wants_them(name):
    xe.cross_entropy(X, LABELS)  # loads the operators
    operator = getattr(torch.ops.crossentropy, name).default
    x, upstream = X.clone().requires_grad_(), torch.tensor(0.25, dtype=DOUBLE)
    if name == "element_loss":
        weight = torch.ones(X.numel(), dtype=DOUBLE)
        arguments = (x.detach().reshape(-1).requires_grad_(), upstream, None, SOFT.reshape(-1), None, weight, None)
        arguments += ("logits", 0.0, 0.0, None, None, True)
    else:
        vector = V if name == "row_hessian_vector" else None
        weight = torch.ones(1, 1, dtype=DOUBLE)
        arguments = (x if vector is None else X, upstream, vector, LABELS[:, None], weight, *[None] * 6)
        arguments += ("logits", 1.0, None, 0.0, 0.0, 0.0, 1.0, 1, None, True)
    torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("loss", [xe.binary_cross_entropy, xe.cross_entropy])
def test_a_tensor_of_zeros_without_memory(loss):
    """Forward mode inside of reverse mode makes them."""
    x, u = torch.randn(6, 4, dtype=torch.float64), torch.rand((), dtype=torch.float64)
    target = torch.eye(4, dtype=torch.float64)[torch.arange(6) % 4]

    def tangent(y):
        return torch.func.jvp(lambda z: loss(z, target) * u, (y,), (torch.ones_like(x),))[1]

    expected = torch.autograd.functional.hvp(lambda z: loss(z, target) * u, x, torch.ones_like(x))[1]
    torch.testing.assert_close(torch.func.grad(tangent)(x), expected)
