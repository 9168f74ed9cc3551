"""The linear loss of tensors: derivatives of every kind, what a training loop does with them, what traces."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402
from torch.func import grad, hessian, jacrev, jvp, vmap  # noqa: E402

import crossentropy as xe  # noqa: E402
from crossentropy import linear_chunks  # noqa: E402
from crossentropy.libraries.torch import compute, linear_rows  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_language_model.py"
F = torch.nn.functional
DOUBLE = torch.float64
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LABELS = torch.tensor([0, 2, -100, 1, 3, 2])


def normal(*shape, seed=0, dtype=DOUBLE):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def leaves(dtype=DOUBLE):
    """Features, weight and bias."""
    return [normal(*s, seed=i, dtype=dtype).requires_grad_() for i, s in enumerate(((6, 3), (4, 3), (4,)))]


@pytest.fixture(autouse=True)
def two_rows_at_a_time(monkeypatch):
    within = linear_chunks.chunk_within
    monkeypatch.setattr(
        linear_chunks,
        "chunk_within",
        lambda budget, count, classes, *rest: (
            linear_chunks.Chunk(2, classes)
            if budget == linear_chunks.ENOUGH_MEMORY
            else within(budget, count, classes, *rest)
        ),
    )


def ours(features, weight, bias, target=LABELS, **options):
    return xe.linear_cross_entropy(features, weight, target, bias=bias, **options)


def of_logits(features, weight, bias, target=LABELS, **options):
    return xe.cross_entropy(F.linear(features, weight, bias), target, **options)


OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1, "class_weight": torch.tensor([1.0, 2.0, 0.5, 1.0])},
    "focal": {"focal_gamma": 2.0, "row_weight": torch.tensor([1.0, 2.0, 1.0, 0.5, 0.0, 3.0])},
    "transformed": {"softcap": 5.0, "z_loss": 0.01, "temperature": 2.0},
}


CHECKED = [(name, "none") for name in OPTIONS] + [("plain", "mean"), ("transformed", "mean")]


@pytest.mark.parametrize(("name", "reduction"), CHECKED)
def test_first_and_second_derivatives(name, reduction):
    small = [
        array.detach()[:rows, :width].clone() for array, rows, width in zip(leaves()[:2], (4, 3), (2, 2), strict=True)
    ]
    small = [array.requires_grad_() for array in (*small, leaves()[2].detach()[:3].clone())]
    options = {
        key: v[: 3 if key == "class_weight" else 4] if hasattr(v, "shape") else v for key, v in OPTIONS[name].items()
    }
    function = lambda *arrays: ours(*arrays, LABELS[:4], reduction=reduction, **options)  # noqa: E731
    assert gradcheck(function, small, check_batched_grad=name == "plain")
    assert gradgradcheck(function, small, check_batched_grad=(name, reduction) == ("plain", "mean"))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_second_derivatives_are_those_of_the_logits(reduction):
    """With soft targets, and to row weights as well."""
    target, row_weight = normal(6, 4, seed=5).softmax(-1), normal(6, seed=6).exp()
    results = []
    for function in (ours, of_logits):
        arrays = [*leaves(), row_weight.clone().requires_grad_()]
        value = function(*arrays[:3], target, row_weight=arrays[3], reduction=reduction)
        first = torch.autograd.grad(value, arrays, torch.ones_like(value), create_graph=True)
        second = torch.autograd.grad(sum((g * normal(*g.shape, seed=7)).sum() for g in first), arrays)
        results.append([value, *first, *second])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_third_derivative_is_an_error():
    arrays = leaves()
    first = torch.autograd.grad(ours(*arrays), arrays, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), arrays[0], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="third derivative"):
        second.sum().backward()


@pytest.mark.parametrize(
    "changed",
    [{"class_weight": normal(4).exp()}, {"temperature": torch.tensor(1.5)}, {"class_bias": normal(4)}],
    ids=str,
)
def test_derivatives_to_options(changed):
    ((name, value),) = changed.items()
    results = []
    for function in (ours, of_logits):
        arrays = [*leaves(), value.to(DOUBLE).requires_grad_()]
        results.append(torch.autograd.grad(function(*arrays[:3], **{name: arrays[3]}), arrays))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["class_weight", "temperature", "class_bias"])
def test_value_and_grad_names_the_derivative_that_it_has_not(name):
    features, weight, bias = (array.detach() for array in leaves())
    option = (normal(4).exp()[0] if name == "temperature" else normal(4).exp()).requires_grad_()
    with pytest.raises(NotImplementedError, match=name):
        xe.linear_cross_entropy_value_and_grad(features, weight, LABELS, bias=bias, **{name: option})


# -- a training loop ---------------------------------------------------------------------------------------------------


def test_a_second_backward_through_a_retained_graph():
    arrays = leaves(torch.float32)
    loss = ours(*arrays)
    loss.backward(retain_graph=True)
    first = [array.grad.clone() for array in arrays]
    for array in arrays:
        array.grad.mul_(7)  # what the caller does with a gradient does not reach what is saved
        array.grad = None
    loss.backward(retain_graph=True)
    assert all(torch.equal(array.grad, g) for array, g in zip(arrays, first, strict=True))
    (3 * loss).backward()
    for array, g in zip(arrays, first, strict=True):
        torch.testing.assert_close(array.grad, g * 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_upstream_gradient(dtype):
    """In 16 bits too a gradient is rounded once, after it was scaled: 2^-24 is the smallest number of float16."""
    arrays = leaves(dtype)
    wide = [a.detach().to(DOUBLE).requires_grad_() for a in arrays]
    plain = torch.autograd.grad(ours(*wide), wide)
    for factor in (0.0, 1.0, -0.5, 2.0**-12):
        scaled = torch.autograd.grad(ours(*arrays) * factor, arrays)
        for a, b in zip(scaled, plain, strict=True):
            tolerance = {"rtol": 1e-5, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 0.005, "atol": 2.0**-24}
            torch.testing.assert_close(a, (b * factor).to(dtype), **tolerance)


def test_an_upstream_gradient_of_one_is_free(monkeypatch):
    arrays = leaves(torch.float32)
    loss = ours(*arrays)
    monkeypatch.setattr(compute, "loss", None)
    loss.backward()  # nothing is computed: that would call None
    assert all(torch.isfinite(array.grad).all() for array in arrays)


def test_under_no_grad_no_gradient_is_formed(monkeypatch):
    asked = []
    original = compute.loss
    monkeypatch.setattr(compute, "loss", lambda *given: asked.append(given[4] is not None) or original(*given))
    with torch.no_grad():
        ours(*leaves())
    ours(*(array.detach() for array in leaves()))
    assert asked
    assert not any(asked)


@pytest.mark.parametrize("wanted", [0, 1, 2])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_is_frozen_costs_no_product(wanted, reduction, monkeypatch):
    arrays = [a if i == wanted else a.detach() for i, a in enumerate(leaves())]
    reference = leaves()
    expected = torch.autograd.grad(of_logits(*reference, reduction=reduction).sum(), reference[wanted])[0]
    made = []
    original = linear_rows.empty_gradients
    monkeypatch.setattr(linear_rows, "empty_gradients", lambda *given: made.append(original(*given)) or made[-1])
    (found,) = torch.autograd.grad(ours(*arrays, reduction=reduction).sum(), arrays[wanted])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    (gradients,) = made
    assert (gradients.features is not None) == (wanted == 0)
    assert (gradients.weight is not None) == (wanted == 1)


def test_a_label_that_is_changed_before_backward_is_an_error():
    arrays, labels = leaves(), LABELS.clone()
    loss = ours(*arrays, labels, reduction="none")
    labels[0] = 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()


def test_dtypes_that_differ_meet_in_the_wider():
    features, weight, bias = leaves(torch.float32)
    features16 = features.detach().bfloat16().requires_grad_()
    value = ours(features16, weight, bias)
    assert value.dtype == torch.float32
    slopes = torch.autograd.grad(value, (features16, weight, bias))
    assert [g.dtype for g in slopes] == [torch.bfloat16, torch.float32, torch.float32]
    expected = of_logits(features16.detach().float(), weight, bias)
    torch.testing.assert_close(value, expected)


# -- torch.func, tracing ----------------------------------------------------------------------------------------------

TRANSFORMS = {
    "grad": lambda f: lambda *a: grad(f, argnums=(0, 1, 2))(*a),
    "grad of grad": lambda f: grad(lambda *a: sum(g.square().sum() for g in grad(f, argnums=(0, 1, 2))(*a)), (0, 1, 2)),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f, argnums=1), argnums=1),
    "hessian": lambda f: hessian(f, argnums=1),
    "jvp": lambda f: lambda *a: jvp(f, a, tuple(map(torch.ones_like, a))),
    "jvp of grad": lambda f: lambda *a: jvp(grad(f, (0, 1, 2)), a, tuple(map(torch.ones_like, a))),
}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_torch_func(name, reduction):
    arrays = [array.detach() for array in leaves()]
    results = [
        TRANSFORMS[name](lambda *a, function=function: function(*a, reduction=reduction).square().sum())(*arrays)
        for function in (ours, of_logits)
    ]
    for a, b in zip(*map(torch.utils._pytree.tree_leaves, results), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_vmap():
    features, (_, weight, bias) = normal(5, 6, 3, seed=9), (array.detach() for array in leaves())
    labels = torch.stack([LABELS.roll(i) for i in range(5)])
    for transform in (
        lambda f: vmap(f, (0, None, None, 0)),
        lambda f: vmap(grad(f, argnums=(0, 1)), (0, None, None, 0)),
    ):
        results = [
            transform(lambda *a, function=function: function(*a))(features, weight, bias, labels)
            for function in (ours, of_logits)
        ]
        for a, b in zip(*map(torch.utils._pytree.tree_leaves, results), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_eager_forward_mode():
    with forward_ad.dual_level():
        features, weight, bias = leaves()
        tangents = []
        for function in (ours, of_logits):
            value = function(forward_ad.make_dual(features.detach(), torch.ones_like(features)), weight, bias)
            tangents.append(forward_ad.unpack_dual(value).tangent)
        torch.testing.assert_close(*tangents)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compile(reduction):
    torch._dynamo.reset()
    function = lambda *arrays: ours(*arrays, label_smoothing=0.1, reduction=reduction)  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for call in (compiled, function):
        arrays = leaves()
        value = call(*arrays)
        results.append([value, *torch.autograd.grad(value.sum(), arrays)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("transform", ["compile", "vmap"])
def test_statistics_that_are_seen(transform):
    torch._dynamo.reset()
    features, weight, bias = (array.detach() for array in leaves())
    function = lambda f: tuple(xe.linear_row_statistics(f, weight, LABELS, bias=bias))  # noqa: E731
    if transform == "compile":
        results = [torch.compile(function, fullgraph=True, backend="aot_eager")(features)]
    else:
        results = list(zip(*vmap(function)(torch.stack([features, features])), strict=True))
    for result in results:
        for a, b in zip(result, function(features), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("width", [3, 0])
def test_tensors_without_values(width):
    """Also what a compiler learns of the results: their shapes."""
    arrays = [torch.empty(*shape, device="meta", requires_grad=True) for shape in ((6, width), (4, width))]
    labels = torch.empty(6, dtype=torch.int64, device="meta")
    assert xe.linear_cross_entropy(*arrays, labels, reduction="none").shape == (6,)
    value = xe.linear_cross_entropy(*arrays, labels)
    assert (value.shape, value.device.type) == ((), "meta")
    assert [g.shape for g in torch.autograd.grad(value, arrays)] == [(6, width), (4, width)]


@pytest.mark.parametrize("name", ["loss", "loss_and_gradients", "hessian_vector"])
def test_operators_are_registered_as_torch_wants_them(name):
    ours(*leaves())  # loads the operators
    operator = getattr(torch.ops.crossentropy, f"linear_{name}").default
    arrays = [array.detach().requires_grad_(name != "hessian_vector") for array in leaves()]
    upstream = torch.tensor(0.25, dtype=DOUBLE)
    vectors = tuple(map(torch.ones_like, leaves())) if name == "hessian_vector" else ()
    labels, weight = LABELS.clamp(0)[:, None], torch.ones(1, 1, dtype=DOUBLE)
    coefficients = (labels, weight, *[None] * 6, "logits", 1.0, None, 0.0, 0.0, 0.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(operator, (*arrays, upstream, *vectors, *coefficients, None, True, None, True, True))


def test_the_example_learns_the_same_model_in_less_memory():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = {line[:22].strip(): line[22:].split() for line in done.stdout.splitlines()}
    for name in ("loss, nats per token", "perplexity", "bits per byte"):
        all_logits, in_chunks = map(float, lines[name])
        assert in_chunks == pytest.approx(all_logits, rel=1e-3), name
        assert 0 < in_chunks < 1_000, name
    if Path("/proc/self/clear_refs").exists():
        all_logits, in_chunks = map(float, lines["memory, MB"])
        assert in_chunks < all_logits / 2
