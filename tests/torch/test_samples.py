"""Every sample that PyTorch ships for its losses, through ours: the same values and gradients in float64."""

import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # what torch.testing imports

import crossentropy.torch as ours  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

MODULES = ("BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "NLLLoss")
FUNCTIONS = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "nll_loss")

# What the samples hold and ours refuses, each with its reason: the error must come, and the mended sample must agree.
DIFFERENCES = {
    "negative weight": "a negative weight turns the loss into a reward without a word; refused by name and position",
    "positive log-probability": "log p > 0 is no log-probability (nll_loss samples are plain normal numbers); refused",
    "nothing counts": "a mean over nothing but ignored rows is 0 with a gradient of 0; torch.nn's are NaN",
}


def mended(name, tensors):
    """The sample without what ours refuses, and which of the differences that was."""
    found = set()
    fixed = dict(tensors)
    for key in ("weight", "pos_weight"):
        if tensors.get(key) is not None and bool((tensors[key] < 0).any()):
            fixed[key] = tensors[key].abs()
            found.add("negative weight")
    if name in ("nll_loss", "NLLLoss") and bool((tensors["input"] > 0).any()):
        axis = min(1, tensors["input"].ndim - 1)
        fixed["input"] = tensors["input"].detach().log_softmax(axis).requires_grad_()
        found.add("positive log-probability")
    return fixed, found


def compare(name, call, reference, input, target, options):
    fixed, found = mended(name, {"input": input, **options})
    if "negative weight" in found:
        with pytest.raises(ValueError, match=r"weight(\[.*\])? = -.* must be finite and not negative"):
            call(input, target, options)
    fixed_input = fixed.pop("input")
    value, expected = call(fixed_input, target, fixed), reference(fixed_input, target, fixed)
    assert value.shape == expected.shape
    if options.get("reduction", "mean") == "mean" and bool((target == options.get("ignore_index", -100)).all()):
        assert expected.isnan()
        assert value == 0
        (gradient,) = torch.autograd.grad(value, [fixed_input])
        assert not gradient.any()
        return found | {"nothing counts"}
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
    given = (fixed_input, target, *fixed.values())
    leaves = [t for t in given if isinstance(t, torch.Tensor) and t.requires_grad]
    upstream = torch.full_like(value, 0.75)
    gradients = (torch.autograd.grad(v, leaves, upstream, retain_graph=True) for v in (value, expected))
    for gradient, expected_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-13)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_sample_of_the_module(name):
    info = next(info for info in module_db if info.module_cls.__name__ == name)
    samples = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)
    for sample in samples:
        options = sample.constructor_input.kwargs
        assert not sample.constructor_input.args

        def module(package, input, target, options):
            return getattr(package, name)(**options)(input, target)

        compare(
            name,
            lambda *arguments: module(ours, *arguments),
            lambda *arguments: module(torch.nn, *arguments),
            *sample.forward_input.args,
            options,
        )
    assert len(samples) == {"CrossEntropyLoss": 105, "NLLLoss": 28, "BCELoss": 6, "BCEWithLogitsLoss": 6}[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_sample_of_the_function(name):
    op = next(op for op in op_db if op.name == f"nn.functional.{name}")
    found, count = set(), 0
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        (target,) = sample.args
        found |= compare(
            name,
            lambda input, target, options: getattr(ours, name)(input, target, **options),
            lambda input, target, options: getattr(torch.nn.functional, name)(input, target, **options),
            sample.input,
            target,
            sample.kwargs,
        )
        count += 1
    assert count > 10
    assert found <= set(DIFFERENCES)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_a_sample_where_nothing_counts_differs_as_said(name):
    """A random sample may ignore every row it has: two labels of three classes, both of the ignored one."""
    input = torch.randn(2, 3, dtype=torch.float64).log_softmax(1).requires_grad_()
    target, options = torch.tensor([1, 1]), {"ignore_index": 1, "reduction": "mean"}
    found = compare(
        name,
        lambda i, t, o: getattr(ours, name)(i, t, **o),
        lambda i, t, o: getattr(torch.nn.functional, name)(i, t, **o),
        input,
        target,
        options,
    )
    assert found == {"nothing counts"}


def test_a_positive_log_probability_is_refused():
    with pytest.raises(ValueError, match=r"is no log-probability"):
        ours.nll_loss(torch.ones(1, 3), torch.tensor([0]))


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_torch_nns(name):
    """isinstance, state and printing stay as they were."""
    module = getattr(ours, name)(reduction="sum")
    assert isinstance(module, getattr(torch.nn, name))
    assert repr(module) == repr(getattr(torch.nn, name)(reduction="sum"))
    assert module.state_dict() == getattr(torch.nn, name)(reduction="sum").state_dict()


@pytest.mark.parametrize(
    ("arguments", "reduction"),
    [({"size_average": False}, "sum"), ({"reduce": False}, "none"), ({"size_average": True, "reduce": True}, "mean")],
)
@pytest.mark.filterwarnings("ignore:size_average and reduce args")
def test_deprecated_arguments_mean_what_they_mean_there(arguments, reduction):
    input, target = torch.randn(3, 4), torch.tensor([0, 1, 2])
    expected = torch.nn.functional.cross_entropy(input, target, **arguments)
    torch.testing.assert_close(ours.cross_entropy(input, target, **arguments), expected)
    assert ours.CrossEntropyLoss(**arguments).reduction == reduction


def test_our_options_by_keyword_at_either_time():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0])
    module = ours.CrossEntropyLoss(z_loss=0.01)
    expected = ours.cross_entropy(logits, labels, z_loss=0.01, row_weight=weight)
    assert torch.equal(module(logits, labels, row_weight=weight), expected)
    with pytest.raises(TypeError, match="did you mean 'z_loss'"):
        ours.CrossEntropyLoss(zloss=0.01)
    with pytest.raises(ValueError, match="label_smoothing"):
        ours.CrossEntropyLoss(label_smoothing=-0.1)
