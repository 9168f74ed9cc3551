"""Every sample that PyTorch ships for its linear loss, through ours: the same values and gradients in float64."""

import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # what torch.testing imports

import crossentropy.torch as ours  # noqa: E402

if not hasattr(torch.nn, "LinearCrossEntropyLoss"):
    pytest.skip("torch.nn has no LinearCrossEntropyLoss before 2.13", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

NAME = "linear_cross_entropy"
BUDGET = 250  # bytes: a few rows of four or five classes


def assert_same(value, expected, leaves, expected_leaves):
    assert value.shape == expected.shape
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
    upstream = torch.full_like(value, 0.75)
    gradients = (
        torch.autograd.grad(v, ls, upstream, retain_graph=True)
        for v, ls in ((value, leaves), (expected, expected_leaves))
    )
    for gradient, expected_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-13)


@pytest.fixture(autouse=True)
def seeded():
    """On one thread: for products of a few numbers torch's threads wait for each other."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:linear_cross_entropy")  # what torch says where it leaves its own chunks
def test_every_sample_of_the_module():
    (info,) = (info for info in module_db if info.module_cls is torch.nn.LinearCrossEntropyLoss)
    samples = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)
    for sample in samples:
        arguments, options = sample.constructor_input.args, sample.constructor_input.kwargs
        theirs = torch.nn.LinearCrossEntropyLoss(*arguments, **options | {"options": None})
        module = ours.LinearCrossEntropyLoss(*arguments, **options, memory_budget=BUDGET)
        module.load_state_dict(theirs.state_dict())
        input, target = sample.forward_input.args
        pairs = ((m(input, target), [input, *m.parameters()]) for m in (module, theirs))
        (value, leaves), (expected, expected_leaves) = pairs
        assert_same(value, expected, leaves, expected_leaves)
    assert len(samples) == 857


@pytest.mark.parametrize(
    "op", [op for op in op_db if op.name == f"nn.functional.{NAME}"], ids=lambda op: op.variant_test_name
)
def test_every_sample_of_the_function(op):
    count = 0
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        linear_weight, target = sample.args
        plain = sample.kwargs | {"options": None}
        value = ours.linear_cross_entropy(sample.input, linear_weight, target, **sample.kwargs, memory_budget=BUDGET)
        expected = torch.nn.functional.linear_cross_entropy(sample.input, linear_weight, target, **plain)
        given = (sample.input, linear_weight, target, sample.kwargs.get("linear_bias"))
        leaves = [t for t in given if isinstance(t, torch.Tensor) and t.requires_grad]
        assert_same(value, expected, leaves, leaves)
        count += 1
    assert count > 70


def test_the_module_is_torch_nns():
    """isinstance, state and printing stay as they were."""
    module = ours.LinearCrossEntropyLoss(3, 5, bias=True, reduction="sum")
    theirs = torch.nn.LinearCrossEntropyLoss(3, 5, bias=True, reduction="sum")
    assert isinstance(module, torch.nn.LinearCrossEntropyLoss)
    assert repr(module) == repr(theirs)
    assert module.state_dict().keys() == theirs.state_dict().keys()


def test_our_options_by_keyword_at_either_time():
    features, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    row_weight = torch.tensor([1.0, 0.0, 2.0, 1.0])
    module = ours.LinearCrossEntropyLoss(3, 5, z_loss=0.01)
    expected = ours.cross_entropy(module.linear(features), labels, z_loss=0.01, row_weight=row_weight)
    torch.testing.assert_close(module(features, labels, row_weight=row_weight), expected)
    with pytest.raises(TypeError, match="did you mean 'z_loss'"):
        ours.LinearCrossEntropyLoss(3, 5, zloss=0.01)
