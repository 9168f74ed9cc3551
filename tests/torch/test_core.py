"""CPU tensors in the C++ core: read where they are, whatever their dtype, strides and kind."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import crossentropy as xe  # noqa: E402
from crossentropy.kernels import generic, native  # noqa: E402
from crossentropy.libraries.torch import compute, forms, memory  # noqa: E402
from crossentropy.libraries.torch import core as torch_core  # noqa: E402

F = torch.nn.functional
needs_core = pytest.mark.skipif(native.kernel_name() == "generic", reason="this build or run has no C++ core")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
LAYOUTS = {
    "rows": ((8, 5), lambda x: x, 1),
    "classes first": ((5, 8), lambda x: x, 0),
    "transposed": ((5, 8), lambda x: x.T, 1),
    "every second": ((16, 10), lambda x: x[::2, ::2], 1),
    "images": ((2, 5, 3, 4), lambda x: x, 1),
    "channels last": ((2, 5, 3, 4), lambda x: x.to(memory_format=torch.channels_last), 1),
    "expanded": ((1, 5), lambda x: x.expand(8, 5), 1),
    "one row": ((5,), lambda x: x, 0),
}


def sample(layout, dtype, seed=0):
    shape, view, axis = LAYOUTS[layout]
    logits = view((torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype))
    rows = [n for position, n in enumerate(logits.shape) if position != axis]
    labels = torch.randint(0, logits.shape[axis], rows, generator=torch.Generator().manual_seed(seed))
    return logits.detach(), labels, axis


def reference(logits, labels, axis, **options):
    """Value and gradient in float64 from torch's own form."""
    x = logits.double().requires_grad_()
    rows = x.movedim(axis, -1).reshape(-1, x.shape[axis])
    value = F.cross_entropy(rows, labels.long().reshape(-1), **options)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.fixture
def core_alone(monkeypatch):
    """Whatever does not go through the core fails, and what goes is written down."""
    given, plain = [], native.core
    monkeypatch.setattr(compute, "blockwise", None)
    monkeypatch.setattr(native, "core", lambda logits, *rest: given.append(logits) or plain(logits, *rest))
    return given


@needs_core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_read_where_they_are(layout, dtype, core_alone):
    logits, labels, axis = sample(layout, dtype)
    leaf = logits.requires_grad_()
    value = xe.cross_entropy(leaf, labels, axis=axis)
    gradient = torch.autograd.grad(value, leaf)[0]
    assert all(array.ctypes.data == logits.data_ptr() and array.shape == logits.shape for array in core_alone)
    assert len(core_alone) == (2 if dtype == torch.float16 else 1)
    expected, slope = reference(logits.detach(), labels, axis)
    torch.testing.assert_close(value.detach().double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slope.to(dtype), rtol=0.01 if dtype.itemsize == 2 else 1e-5, atol=1e-7)
    assert value.dtype == (torch.float32 if dtype.itemsize == 2 else dtype)
    assert gradient.dtype == dtype


@needs_core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_soft_targets_of_every_dtype(layout, dtype, core_alone):
    logits, _, axis = sample(layout, dtype)
    target = sample(layout, dtype, seed=1)[0].float().softmax(axis).to(dtype)
    leaf = logits.requires_grad_()
    value = xe.cross_entropy(leaf, target, axis=axis, reduction="sum")
    gradient = torch.autograd.grad(value, leaf)[0]
    x = logits.detach().double().requires_grad_()
    expected = -(target.double() * x.log_softmax(axis)).sum()
    slope = torch.autograd.grad(expected, x)[0]
    torch.testing.assert_close(value.detach().double(), expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slope.to(dtype), rtol=0.01 if dtype.itemsize == 2 else 1e-4, atol=1e-6)


@needs_core
def test_the_mass_of_a_soft_target_of_logits_that_train(core_alone, monkeypatch):
    """A mean divides by it; plain tensor code took four times as long as the loss and its gradient."""
    logits, _, _ = sample("rows", torch.float32)
    target = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1))
    expected = xe.cross_entropy_value_and_grad(logits, target)
    monkeypatch.setattr(generic, "dense_target", None)
    leaf = logits.clone().requires_grad_()
    value = xe.cross_entropy(leaf, target)
    assert torch.equal(value.detach(), expected[0])
    assert torch.equal(torch.autograd.grad(value, leaf)[0], expected[1])


@needs_core
@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_every_integer_dtype(dtype, core_alone):
    logits, labels, _ = sample("rows", torch.float32)
    assert torch.equal(xe.cross_entropy(logits, labels.to(dtype)), xe.cross_entropy(logits, labels))


@needs_core
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_binary_loss(dtype, reduction, core_alone):
    logits, _, _ = sample("every second", dtype)
    target = (sample("every second", dtype, seed=1)[0] > 0).to(dtype)
    leaf = logits.requires_grad_()
    value = xe.binary_cross_entropy(leaf, target, reduction=reduction)
    upstream = torch.ones_like(value)
    x = logits.detach().double().requires_grad_()
    expected = F.binary_cross_entropy_with_logits(x, target.double(), reduction=reduction)
    torch.testing.assert_close(value.detach().double(), expected.detach(), rtol=1e-6, atol=1e-12)
    slopes = torch.autograd.grad(value, leaf, upstream)[0], torch.autograd.grad(expected, x, upstream.double())[0]
    torch.testing.assert_close(slopes[0], slopes[1].to(dtype), rtol=0.01 if dtype.itemsize == 2 else 1e-5, atol=1e-7)


ELEMENT_OPTIONS = {
    "pos_weight": {"pos_weight": torch.linspace(0, 3, 23)},
    "row_weight": {"row_weight": torch.linspace(0, 3, 23), "ignore_index": -7},
    "all of both": {"row_weight": torch.linspace(0, 3, 23).expand(6, 23).contiguous(), "pos_weight": torch.tensor(2.0)},
    "focal_gamma": {"focal_gamma": 2.0},
    "normalizer": {
        "normalizer": 3.0,
        "unit": "bits",
        "row_weight": torch.linspace(0, 1, 6, dtype=torch.bfloat16)[:, None],
    },
    "ignored": {"ignore_index": 1},
}


@needs_core
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ELEMENT_OPTIONS)
@pytest.mark.parametrize("inputs", ["logits", "probs", "log_probs"])
def test_every_option_of_the_binary_loss_is_the_cores(name, inputs, reduction, monkeypatch):
    """The numbers that NumPy arrays give, without tensor code and, but for factors of each element, bit for bit."""
    options = {"inputs": inputs, "reduction": reduction, **ELEMENT_OPTIONS[name]}
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 23, generator=generator)
    if inputs != "logits":
        logits = logits.sigmoid() if inputs == "probs" else F.logsigmoid(logits)
    target = (torch.rand(6, 23, generator=generator) < 0.3).to(torch.int64)
    arrays = {k: v.float().numpy() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    expected = xe.binary_cross_entropy_value_and_grad(logits.numpy(), target.numpy(), **arrays)
    monkeypatch.setattr(generic, "binary_loss", None)
    leaf = logits.clone().requires_grad_()
    for given in (target, target.double(), target.bool()):
        if given.dtype == torch.bool and name == "ignored":
            continue
        value = xe.binary_cross_entropy(leaf, given, **options)
        gradient = torch.autograd.grad(value, leaf, torch.ones_like(value))[0]
        np.testing.assert_array_equal(value.detach().numpy(), expected[0])
        np.testing.assert_allclose(gradient.numpy(), expected[1], rtol=2e-7, atol=0)


@needs_core
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("name", ELEMENT_OPTIONS)
def test_second_derivatives_of_what_the_core_read(name, reduction):
    options = {"reduction": reduction, **ELEMENT_OPTIONS[name]}
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 23, generator=generator, dtype=torch.float64).requires_grad_()
    target = (torch.rand(6, 23, generator=generator) < 0.3).to(torch.int64)
    assert torch.autograd.gradgradcheck(lambda x: xe.binary_cross_entropy(x, target, **options), (logits,))


@needs_core
def test_a_changed_weight_of_the_binary_loss_is_an_error():
    """It is read once more by a backward pass through single losses."""
    leaf, weight = torch.zeros(3, requires_grad=True), torch.ones(3)
    losses = xe.binary_cross_entropy(leaf, torch.ones(3), row_weight=weight, reduction="none")
    weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()


def test_a_view_shares_the_tensors_memory():
    for dtype in (*DTYPES, *INTEGERS, torch.bool):
        tensor = torch.zeros(4, 6).to(dtype)[::2, 1:]
        array = forms.view(tensor)
        assert array.ctypes.data == tensor.data_ptr()
        assert array.strides == tuple(n * tensor.itemsize for n in tensor.stride())
        assert array.dtype.itemsize == tensor.itemsize


def test_numbers_of_a_negative_view():
    """The imaginary part of a conjugate is stored with the other sign."""
    negative = torch.complex(torch.randn(4, 3), torch.randn(4, 3)).conj().imag
    assert negative.is_neg()
    labels = torch.tensor([0, 1, 2, 0])
    assert torch.equal(xe.cross_entropy(negative, labels), xe.cross_entropy(negative.resolve_neg(), labels))
    assert torch.equal(torch.from_numpy(torch_core.values(negative)), negative)


def test_a_tensor_that_answers_for_operators_itself():
    """Each of a TwoTensor's halves gets the operator; a TwoTensor has no memory of its own."""
    from torch.testing._internal.two_tensor import TwoTensor

    logits, labels, _ = sample("rows", torch.float32)
    both = TwoTensor(logits, 2 * logits)
    value = xe.cross_entropy(both, labels)
    assert isinstance(value, TwoTensor)
    assert torch.equal(value.a, xe.cross_entropy(logits, labels))
    assert torch.equal(value.b, xe.cross_entropy(2 * logits, labels))


def test_fake_and_functional_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.randn(8, 5))
        value = xe.cross_entropy(fake, torch.zeros(8, dtype=torch.int64), reduction="none")
    assert (value.shape, value.dtype) == ((8,), torch.float32)
    meta = xe.cross_entropy(torch.randn(8, 5, device="meta"), torch.zeros(8, dtype=torch.int64, device="meta"))
    assert (meta.shape, meta.device.type) == ((), "meta")
    logits, labels, _ = sample("rows", torch.float32)
    functional = torch.func.functionalize(lambda x: xe.cross_entropy(x, labels))(logits)
    assert torch.equal(functional, xe.cross_entropy(logits, labels))


@pytest.mark.parametrize("soft", [False, True])
def test_plain_targets_under_a_transform(soft):
    """While a transform is active, even a view of plain memory is wrapped."""
    logits, labels, _ = sample("rows", torch.float64)
    target = F.one_hot(labels, 5).double()
    for loss, theirs in (
        (lambda x: xe.cross_entropy(x, target if soft else labels), lambda x: F.cross_entropy(x, labels)),
        (
            lambda x: xe.binary_cross_entropy(x, target if soft else target.bool()),
            lambda x: F.binary_cross_entropy_with_logits(x, target),
        ),
    ):
        torch.testing.assert_close(torch.func.grad(loss)(logits), torch.func.grad(theirs)(logits))


def test_parameters_and_subclasses_are_tensors():
    class Logits(torch.Tensor):
        pass

    logits, labels, _ = sample("rows", torch.float32)
    expected = xe.cross_entropy(logits, labels)
    assert torch.equal(xe.cross_entropy(torch.nn.Parameter(logits), labels), expected)
    assert torch.equal(xe.cross_entropy(logits.as_subclass(Logits), labels).as_subclass(torch.Tensor), expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_changes_before_the_backward_pass_is_an_error(reduction):
    logits, labels, _ = sample("rows", torch.float32)
    weight = torch.ones(5)
    for changed in (labels, weight):
        leaf = logits.clone().requires_grad_()
        value = xe.cross_entropy(leaf, labels, class_weight=weight, reduction=reduction).sum()
        changed.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


def test_threads_are_torchs(monkeypatch):
    found, plain = [], native.core
    monkeypatch.setattr(native, "core", lambda *given: found.append(given[-1]) or plain(*given))
    logits, labels, _ = sample("rows", torch.float32)
    xe.cross_entropy(logits, labels)
    xe.cross_entropy(logits, labels, num_threads=3)
    assert found == [torch.get_num_threads(), 3]


def test_large_gradients_have_the_strides_of_the_logits(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "madvise", lambda *given: asked.append(given))
    x = torch.empty(1100, 1000).T
    assert memory.empty_like(x).stride() == x.stride()
    assert memory.empty_like(torch.empty(3, 4)).shape == (3, 4)
    assert len(asked) == 1
    assert asked[0][1] <= x.nbytes


def test_the_gradient_of_a_large_weight_is_touched_at_the_start(monkeypatch):
    x = torch.ones(2, memory.LARGE // 8 // 4, 4)
    page = memory.mmap.PAGESIZE // 4
    assert memory.touched(x) is x
    assert (x.view(-1)[::page] == 0).all()
    assert x.sum() == x.numel() - len(range(0, x.numel(), page))
    assert (memory.touched(torch.ones(10)) == 1).all()

    asked = []
    monkeypatch.setattr(memory, "touched", lambda result: asked.append(tuple(result.shape)) or result)
    xe.linear_cross_entropy_value_and_grad(torch.ones(2, 3), torch.ones(5, 3), torch.tensor([0, 1]))
    assert asked == [(5, 3)]


def test_the_plain_code_takes_over_where_there_is_no_core(monkeypatch):
    results = []
    for kernel in (native.kernel_name(), "generic"):
        monkeypatch.setenv("CROSSENTROPY_KERNEL", kernel)
        for dtype in DTYPES:
            logits, labels, axis = sample("images", dtype)
            leaf = logits.requires_grad_()
            value = xe.cross_entropy(leaf, labels, axis=axis, label_smoothing=0.1)
            results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    for with_core, without in zip(results[:4], results[4:], strict=True):
        torch.testing.assert_close(with_core, without)


def test_numpys_and_torchs_losses_have_the_same_bits():
    logits, labels, _ = sample("rows", torch.float32)
    value, gradient = xe.cross_entropy_value_and_grad(logits, labels)
    expected, slope = xe.cross_entropy_value_and_grad(logits.numpy(), labels.numpy())
    assert value.item() == expected
    assert np.array_equal(gradient.numpy(), slope)


def test_a_gradient_is_a_plain_tensor_of_the_callers_own():
    """Not one with a graph behind it, nor the memory of another result."""
    (logits, labels, _), features = sample("rows", torch.float32), torch.ones(8, 3, requires_grad=True)
    leaf, weight = logits.clone().requires_grad_(), torch.ones(5, 3, requires_grad=True)
    linear = xe.linear_cross_entropy(features, weight, labels)
    (gradient,) = torch.autograd.grad(xe.cross_entropy(leaf, labels), leaf)
    assert not any(g.requires_grad for g in (gradient, *torch.autograd.grad(linear, [features, weight])))
    value, kept = xe.cross_entropy_value_and_grad(leaf, labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert torch.equal(gradient, kept)
    assert gradient.data_ptr() != kept.data_ptr()


@needs_core
def test_weights_of_elements_whose_products_leave_float():
    """In the sum of the losses, and with an upstream gradient for each of them."""
    x, ones = torch.tensor([-1e10, 20.0], dtype=torch.float64), torch.ones(2)
    value = xe.binary_cross_entropy(x, ones, row_weight=torch.tensor([1e300, 1e300], dtype=torch.float64))
    assert value.item() == 5e9
    leaf = torch.tensor([100.0, 1, 2], requires_grad=True)
    losses = xe.binary_cross_entropy(leaf, torch.ones(3), reduction="none", row_weight=1e10)
    losses.backward(torch.tensor([1e38, 1e20, -2]))
    slope = -torch.sigmoid(-leaf.detach().double()) * torch.tensor([1e48, 1e30, -2e10], dtype=torch.float64)
    torch.testing.assert_close(leaf.grad.double(), slope, rtol=1e-5, atol=0)
