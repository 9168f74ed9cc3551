"""Tensors of a device, played by tensors of the CPU under Triton's interpreter: what is launched, and what comes back.

Runs in the process that test_triton.py starts, beside a sample of the tables of options, defined results and bounds.
"""

import dataclasses
import os

import numpy as np
import pytest
import reference
import tolerances
from mpmath import mp
from tolerances import assert_within

torch = pytest.importorskip("torch")
if os.environ.get("CROSSENTROPY_KERNEL") != "triton":
    pytest.skip("runs under Triton's interpreter: test_triton.py starts it", allow_module_level=True)

import triton.language as tl  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

import crossentropy as xe  # noqa: E402
from crossentropy.kernels import triton as kernels  # noqa: E402
from crossentropy.kernels.triton import vector_math  # noqa: E402
from crossentropy.libraries.torch import compute  # noqa: E402

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def sample(shape=(4, 5), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(shape, generator=generator) * 3).to(dtype)
    return logits, torch.randint(0, shape[-1], shape[:-1], generator=generator)


def exact(logits, labels):
    rows = [
        reference.plain_row(tuple(row), int(label))
        for row, label in zip(reference.exact_array(logits.double().numpy()), labels, strict=True)
    ]
    return [loss for loss, _ in rows], np.array([gradient for _, gradient in rows], dtype=object)


@pytest.fixture
def calls(monkeypatch):
    """What the kernels computed; plain tensor code fails where it would compute rows or elements."""
    made, plain = [], kernels.Rows
    monkeypatch.setattr(kernels, "Rows", lambda *given: made.append(given) or plain(*given))
    monkeypatch.setattr(compute, "blockwise", None)
    return made


class NothingWaits(TorchFunctionMode):
    """Fails where Python asks a tensor for its values, or copies numbers from the host, and would wait for a device."""

    forbidden = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero", "unique")

    def __torch_function__(self, function, types, arguments=(), named=None):
        name = getattr(function, "__name__", "")
        assert name not in self.forbidden, name
        copies = name in ("as_tensor", "tensor") and not isinstance(arguments[0], torch.Tensor)
        assert not copies, f"{name} of {arguments[0]!r}"
        if name in ("__getitem__", "masked_select"):
            index = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
            assert not any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in index), name
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"label_smoothing": 0.1, "z_loss": 1e-3}])
def test_nothing_waits_for_the_device(options, calls):
    logits, labels = sample()
    leaf = logits.requires_grad_()
    weight, mask = torch.ones(4), torch.ones(5, dtype=torch.bool)
    with NothingWaits():
        value = xe.cross_entropy(leaf, labels, row_weight=weight, class_mask=mask, softcap=5.0, **options)
        value.sum().backward()
    assert len(calls) == (1 if value.ndim == 0 else 2)


def test_the_watch_sees_what_waits():
    for ask in (torch.Tensor.item, torch.Tensor.tolist, bool, lambda x: torch.as_tensor(1.0), lambda x: x[x > 0]):
        with NothingWaits(), pytest.raises(AssertionError):
            ask(torch.ones(1))


@pytest.mark.parametrize("bad", [5, -1, 2**31, -(2**63)])
def test_a_label_that_is_no_class_makes_its_row_nan(bad, calls):
    logits, labels = sample(dtype=torch.bfloat16)
    expected, slope = xe.cross_entropy_value_and_grad(logits, labels, reduction="none")
    labels[1] = bad
    value, gradient = xe.cross_entropy_value_and_grad(logits, labels, reduction="none")
    keep = [0, 2, 3]
    assert value[1].isnan()
    assert gradient[1].isnan().all()
    assert torch.equal(value[keep], expected[keep])
    assert torch.equal(gradient[keep], slope[keep])
    sparse = (torch.tensor([[0, 1], [2, bad], [0, 0], [1, 4]]), torch.full((4, 2), 0.5))
    value, gradient = xe.cross_entropy_value_and_grad(logits, sparse, reduction="none")
    assert value.isnan().tolist() == [False, True, False, False]
    assert gradient.isnan().any(1).tolist() == [False, True, False, False]


def test_check_labels_waits_and_raises():
    logits, labels = sample((2, 3, 5))
    labels[1, 2] = 7
    with pytest.raises(IndexError, match=r"target\[1, 2\] = 7 is outside \[0, 5\)"):
        xe.cross_entropy(logits, labels, check_labels=True)
    with pytest.raises(IndexError, match=r"target indices\[1, 2, 0\] = 7"):
        xe.cross_entropy(logits, (labels[..., None], torch.ones(2, 3, 1)), check_labels=True)
    labels[1, 2] = -100
    assert xe.cross_entropy(logits, labels, check_labels=True) > 0
    with pytest.raises(TypeError, match="check_labels must be True or False"):
        xe.cross_entropy(logits, labels, check_labels=1)


LAYOUTS = {
    "every second": lambda x: (x.repeat_interleave(2, 1)[:, ::2], 1),
    "classes first": lambda x: (x.T.contiguous(), 0),
    "transposed": lambda x: (x.T.contiguous().T, 1),
    "images": lambda x: (x.reshape(2, 2, 1, 5).movedim(-1, 1).contiguous(), 1),
    "channels last": lambda x: (x.reshape(2, 2, 1, 5).movedim(-1, 1), 1),
    "not collapsible": lambda x: (torch.stack([x, x], 2).reshape(2, 2, 5, 2)[..., 0].permute(1, 2, 0), 1),
    "one row": lambda x: (x[0], 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_and_axes(layout, calls):
    logits, labels = sample(dtype=torch.float16)
    expected, slope = xe.cross_entropy_value_and_grad(logits, labels, reduction="none")
    x, axis = LAYOUTS[layout](logits)
    order = [0] if x.ndim == 1 else [0, 2, 1, 3] if layout == "not collapsible" else [0, 1, 2, 3]
    rows = [n for position, n in enumerate(x.shape) if position != axis]
    before = x.clone()
    value, gradient = xe.cross_entropy_value_and_grad(x, labels[order].reshape(rows), axis=axis, reduction="none")
    assert torch.equal(value.reshape(-1), expected[order])
    assert torch.equal(gradient.movedim(axis, -1).reshape(-1, 5), slope[order])
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("plan", [(4, 2, 1), (4, 4, 2)])
def test_the_gradient_may_take_the_place_of_the_logits(dtype, plan, calls, monkeypatch):
    """Also where a row is read in steps, and where other programs read other parts of it."""
    monkeypatch.setattr(kernels, "plan_of", lambda *sizes: kernels.Plan(*plan, warps=1))
    logits, labels = sample(dtype=dtype)
    expected, slope = xe.cross_entropy_value_and_grad(logits, labels)
    value, gradient = xe.cross_entropy_value_and_grad(logits, labels, out=logits)
    assert gradient is logits
    assert torch.equal(gradient, slope)
    assert value == expected
    assert len(calls) == 2


@pytest.mark.parametrize("rows", [1, 200])
def test_rows_longer_than_a_step(rows, monkeypatch):
    """As on a device of 132 multiprocessors: few rows are split over programs, and no part is a multiple of a step."""
    monkeypatch.setattr(kernels, "processors", lambda x: 132)
    classes = 40_000 if rows == 1 else 3
    logits, labels = sample((rows, classes), torch.bfloat16, seed=rows)
    call = kernels.Rows(logits, 1, coefficients_of(labels))
    assert (call.plan.splits, call.plan.rows) == ((10, 1) if rows == 1 else (1, 256))
    losses = call.losses()
    # Few distinct values: the oracle's sum has one term for each.
    distinct, count = np.unique(logits.double().numpy(), return_counts=True)
    if rows == 1:
        total = sum(int(n) * mp.exp(reference.exact(v)) for v, n in zip(distinct, count, strict=True))
        expected = [mp.log(total) - reference.exact(float(logits[0, labels[0]]))]
    else:
        expected = exact(logits, labels)[0]
    assert_within(losses.float().numpy(), expected, tolerances.ROW_LOSS)


@pytest.fixture
def a_worst_exponential(monkeypatch):
    """2^x as far off as a device's may be (relative 2^-22.5), to the same side in a whole row."""
    plain = vector_math.device_exp2
    monkeypatch.setattr(vector_math, "device_exp2", lambda x: (plain(x).to(tl.float64) * (1 + 2**-22.5)).to(tl.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("depth", [3.0, 20.0, 60.0])
def test_small_losses_of_long_rows(dtype, depth, a_worst_exponential, monkeypatch):
    """The largest logit is near the end of a step, beside others of its lane, and once more in another lane or not."""
    monkeypatch.setattr(kernels, "processors", lambda x: 1)
    classes, step = 9000, 4096
    generator = torch.Generator().manual_seed(int(depth))
    logits = torch.randn((5, classes), generator=generator)
    logits[1] = -float("inf")  # of whose lanes nearly all are empty
    logits[2] = 2.75 * (logits[2] > 2)  # two values, whose errors do not cancel
    top, vector = step - 3, 16 // dtype.itemsize
    logits[:, [top - 1, (top + step) % classes, top - step // 2, 0, 8999]] = torch.tensor([0.3, -1.7, 0.9, 0.0, 0.25])
    logits[:, top] = depth
    logits[3, top - vector * 7] = depth  # in another lane
    logits[4, top + step] = depth  # in the same
    logits = logits.to(dtype)
    call = kernels.Rows(logits, 1, coefficients_of(torch.full((5,), top)))
    assert (call.plan.columns, call.plan.splits, call.plan.group) == (step, 1, 16)
    one, gradient = torch.ones((), dtype=torch.float64), torch.empty_like(logits)
    losses = call.losses(one, gradient)
    expected, certain = [], []
    for row in logits.double().numpy():
        values, counts = np.unique(row[row > -np.inf], return_counts=True)
        counts = counts - (values == row[top])
        rest = mp.fsum(
            int(n) * mp.exp(mp.mpf(float(v)) - mp.mpf(float(row[top]))) for v, n in zip(values, counts, strict=True)
        )
        expected.append(mp.log1p(rest))
        certain.append(-rest / (1 + rest))
    assert_within(losses.float().numpy(), expected, tolerances.ROW_LOSS)
    eps = float(torch.finfo(dtype).eps)
    bound = tolerances.GRADIENT * eps if dtype == torch.float32 else tolerances.ROUNDED_ONCE * eps
    for found, exact_one in zip(gradient[:, top].double().tolist(), certain, strict=True):
        assert abs(found - float(exact_one)) <= bound * abs(float(exact_one))


@pytest.mark.parametrize(("itemsize", "classes", "warps"), [(2, 32_000, 8), (2, 128_256, 32), (4, 262_144, 32)])
def test_rows_that_are_read_twice_fit_the_cache(itemsize, classes, warps, monkeypatch):
    """The more threads a program has, the fewer rows are read at a time."""
    monkeypatch.setattr(kernels, "processors", lambda x: 132)
    monkeypatch.setattr(kernels, "cache_bytes", lambda x: 50 << 20)
    x = torch.empty((8192, classes), dtype={2: torch.bfloat16, 4: torch.float32}[itemsize], device="meta")
    plain = coefficients_of(torch.zeros(8192, dtype=torch.int64))
    assert kernels.plan_of(x, 8192, classes, plain, False).warps == 8
    assert kernels.plan_of(x, 8192, classes, plain, True).warps == warps
    # With more to compute a thread takes more registers, of which a wide program would have too few.
    smoothed = dataclasses.replace(plain, label_smoothing=0.1)
    assert kernels.plan_of(x, 8192, classes, smoothed, True).warps == 8


def test_more_classes_than_are_counted_in_32_bits():
    x = torch.empty((1, 1 << 30), dtype=torch.float16, device="meta")
    assert kernels.refusal(x, 1, coefficients_of(torch.zeros(1, dtype=torch.int64))) == "2^30 classes or more"
    assert kernels.refusal(x[:, 1:], 1, coefficients_of(torch.zeros(1, dtype=torch.int64))) is None


def coefficients_of(labels):
    from crossentropy.row_loss import RowCoefficients

    return RowCoefficients(
        inputs="logits",
        temperature=1.0,
        softcap=None,
        label_smoothing=0.0,
        focal_gamma=0.0,
        z_loss=0.0,
        indices=labels[:, None],
        index_weight=torch.ones(1, 1, dtype=torch.float64),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_losses_of_sixteen_bits_whose_differences_round(dtype, calls):
    """z - max z is inexact in float32 where one of the two is 2^15 times the other, whichever it is."""
    near = [[top, top - 9.97, top - 12.3, -14.01] for top in (1e-5, -1e-5, 3e-4, 0.0, 0.0038)]
    # Nearly half an ulp of the difference.
    far = [[top, tiny, tiny, tiny] for top in (20.0, 31.5, 17.0) for tiny in (9e-7, -9e-7, 4.7e-7)]
    logits = torch.tensor(near + far, dtype=dtype)
    labels = torch.zeros(len(logits), dtype=torch.int64)
    losses, gradient = exact(logits, labels)
    value, slope = xe.cross_entropy_value_and_grad(logits, labels, reduction="none")
    assert_within(value.numpy(), losses, tolerances.ROW_LOSS)
    certain = [g[0] for g in gradient]
    slack = np.array([abs(g) * tolerances.GRADIENT * float(np.finfo(np.float32).eps) for g in certain], dtype=object)
    ours = slope[:, 0].float().numpy()
    eps = float(torch.finfo(dtype).eps)
    assert all(
        abs(o - float(g)) <= 0.51 * eps * abs(float(g)) + float(s) + 1e-7 * (dtype == torch.float16)
        for o, g, s in zip(ours, certain, slack, strict=True)
    )


def test_the_gradient_from_statistics_that_were_kept():
    logits, labels = sample(dtype=torch.float64)
    call, one = kernels.Rows(logits, 1, coefficients_of(labels)), torch.ones((), dtype=torch.float64)
    fused, later = torch.empty_like(logits), torch.empty_like(logits)
    losses = call.losses(one, fused)
    call.row_statistics()
    assert torch.equal(call.row_losses(), losses)
    call.row_gradient(one, later)
    assert torch.equal(later, fused)


NOT_TAKEN = {
    "log-probabilities": lambda x, y: xe.cross_entropy(x.log_softmax(1), y, inputs="log_probs"),
    "probabilities": lambda x, y: xe.cross_entropy(x.softmax(1), y, inputs="probs"),
    "sigmoid loss": lambda x, y: xe.binary_cross_entropy(x, (x > 0).float()),
    "Hessian-vector product": lambda x, y: xe.cross_entropy_hvp(x, y, x).sum(),
    "row_statistics": lambda x, y: xe.row_statistics(x, y).lse.sum(),
    "no rows": lambda x, y: xe.cross_entropy(x[:0], y[:0]),
    "a target that wants a derivative": lambda x, y: xe.cross_entropy(x, x.softmax(1).detach().requires_grad_()),
}


@pytest.mark.parametrize("case", NOT_TAKEN)
def test_what_plain_tensor_code_computes_on_a_device(case, monkeypatch):
    """All else goes to the kernels: the tables of options run with ``calls`` in the next test."""
    monkeypatch.setattr(kernels, "Rows", None)
    assert NOT_TAKEN[case](*sample()).isfinite()


@pytest.mark.parametrize(
    "options",
    [
        {"class_weight": torch.arange(5.0), "label_smoothing": 0.1},
        {"class_mask": torch.tensor([1, 1, 1, 1, 0], dtype=torch.bool), "softcap": 3.0, "temperature": 2.0},
        {"class_bias": torch.arange(5.0), "z_loss": 0.1, "focal_gamma": 1.5},
        {"temperature": torch.tensor(2.0), "ignore_index": 1},
    ],
)
@pytest.mark.parametrize("kind", ["labels", "soft", "sparse"])
def test_what_the_kernels_compute(kind, options, calls):
    logits, labels = sample()
    if kind != "labels" and "focal_gamma" in options:
        options = {name: value for name, value in options.items() if name != "focal_gamma"}
    target = {
        "labels": labels % 4,
        "soft": torch.nn.functional.one_hot(labels % 4, 5),
        "sparse": (torch.stack([labels % 4, labels % 3], 1), torch.full((4, 2), 0.5)),
    }[kind]
    assert xe.cross_entropy(logits, target, **options).isfinite()
    assert len(calls) == 1


@pytest.fixture
def scaled(monkeypatch):
    """What was scaled where it lies, and by what."""
    found, plain = [], kernels.scale
    monkeypatch.setattr(
        kernels, "scale", lambda x, factor: found.append((x.data_ptr(), float(factor))) or plain(x, factor)
    )
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 5), (90, 100)])
def test_the_upstream_gradient_costs_no_copy(shape, dtype, scaled):
    """Also in several steps and turns; nothing is scaled in place that is used again, or that the caller has."""
    logits, labels = sample(shape, dtype)
    leaf = logits.requires_grad_()
    value = xe.cross_entropy(leaf, labels)
    (expected,) = torch.autograd.grad(value, leaf, torch.tensor(3.0, dtype=value.dtype), retain_graph=True)
    assert not scaled
    (gradient,) = torch.autograd.grad(value, leaf, torch.tensor(3.0, dtype=value.dtype))
    assert scaled == [(gradient.data_ptr(), 3.0)]
    assert torch.equal(gradient, expected)
    assert not gradient.requires_grad

    value, kept = xe.cross_entropy_value_and_grad(leaf, labels)
    before = kept.clone()
    (gradient,) = torch.autograd.grad(value, leaf, torch.tensor(3.0, dtype=value.dtype))
    assert len(scaled) == 1
    assert torch.equal(kept, before)
    assert torch.equal(gradient, expected)


def test_a_factor_of_1_touches_nothing():
    x = torch.tensor([float("nan"), 1e-45, 3.0, -0.0])
    before = x.view(torch.int32).clone()
    kernels.scale(x, torch.ones(()))
    assert torch.equal(x.view(torch.int32), before)
    kernels.scale(x, torch.tensor(0.5))
    assert x[2:].tolist() == [1.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_linear_form_scales_without_a_copy(dtype, scaled):
    logits, labels = sample()
    features, weight = logits.to(dtype).requires_grad_(), torch.eye(5, dtype=dtype).requires_grad_()
    value = xe.linear_cross_entropy(features, weight, labels)
    expected = torch.autograd.grad(value, [features, weight], torch.tensor(3.0), retain_graph=True)
    found = torch.autograd.grad(value, [features, weight], torch.tensor(3.0))
    # 16-bit gradients are multiplied on their way from float32.
    assert [place for place, _ in scaled] == [g.data_ptr() for g in found if dtype == torch.float32]
    assert all(torch.equal(a, b) and a.dtype == dtype for a, b in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_derivatives_and_transforms():
    logits, labels = sample((3, 4), dtype=torch.float64)

    def loss(x, y=labels):
        return xe.cross_entropy(x, y, label_smoothing=0.1)

    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad((gradient * logits).sum(), leaf)
    assert torch.equal(torch.func.grad(loss)(logits), gradient)
    torch.testing.assert_close(torch.func.jvp(loss, (logits,), (logits,))[1], (gradient * logits).sum())
    torch.testing.assert_close(torch.func.jvp(torch.func.grad(loss), (logits,), (logits,))[1], second)
    batched = torch.func.vmap(loss)(torch.stack([logits, 2 * logits]), torch.stack([labels, labels]))
    torch.testing.assert_close(batched, torch.stack([loss(logits), loss(2 * logits)]))


def test_compiled_without_a_break(calls):
    logits, labels = sample()

    def loss(x, y):
        return xe.cross_entropy(x, y, z_loss=1e-3)

    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, labels), leaf)
    # The operators are traced; what code is made round them does not concern the kernels.
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value = compiled(leaf, labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert torch.equal(gradient, expected)
    assert value == loss(leaf, labels)
    assert calls


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows_of_a_chunk", [None, 2])
def test_the_linear_form_takes_chunks_of_rows(dtype, rows_of_a_chunk, monkeypatch):
    """The gradient takes the logits' place, or that of 16-bit factors; ignored rows are dropped; twice alike."""
    launched, plain = [], kernels.Rows.losses

    def losses(self, upstream=None, gradient=None):
        launched.append((self.count, gradient.dtype, gradient.data_ptr() == self.x.data_ptr()))
        return plain(self, upstream, gradient)

    monkeypatch.setattr(kernels.Rows, "losses", losses)
    generator = torch.Generator().manual_seed(3)
    features, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((6, 8), (11, 8), (11,)))
    labels, is_narrow = torch.tensor([0, 3, -100, 5, 10, 1]), dtype.itemsize == 2
    entry = 8 if dtype == torch.float64 else 4 + 2 * is_narrow
    # Two rows of logits, and of features and their gradient.
    budget = None if rows_of_a_chunk is None else 2 * (11 + 2 * 8) * entry + (entry * 8 * 11) // 4 * is_narrow
    given = {"bias": bias, "memory_budget": budget, "label_smoothing": 0.1, "softcap": 10.0}
    value, gradients = xe.linear_cross_entropy_value_and_grad(features, weight, labels, **given)
    chunks = [5] if rows_of_a_chunk is None else [2, 2, 1]
    assert launched == [(rows, dtype, not is_narrow) for rows in chunks]
    again, same = xe.linear_cross_entropy_value_and_grad(features, weight, labels, **given)
    assert value == again
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))

    leaves = [array.double().requires_grad_() for array in (features, weight, bias)]
    expected = xe.cross_entropy(leaves[0] @ leaves[1].T + leaves[2], labels, label_smoothing=0.1, softcap=10.0)
    # The factors have 16 bits in the products of the gradient too.
    tolerance = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(value.double(), expected.detach(), rtol=min(tolerance, 2e-6), atol=0)
    for gradient, exact_one in zip(gradients, torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(gradient.double(), exact_one, rtol=tolerance, atol=tolerance / 4)
