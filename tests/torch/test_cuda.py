"""What only a CUDA device can show: no waiting, graphs, streams, 64-bit offsets, memory. The tables run there too."""

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device here; Triton's interpreter runs the kernels in test_triton.py", allow_module_level=True)

import crossentropy as xe  # noqa: E402
from crossentropy.libraries.torch import compute  # noqa: E402

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def sample(shape=(64, 1000), dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    logits = (torch.randn(shape, generator=generator, device="cuda") * 3).to(dtype)
    return logits, torch.randint(0, shape[-1], shape[:-1], generator=generator, device="cuda")


@pytest.fixture
def kernels_alone(monkeypatch):
    monkeypatch.setattr(compute, "blockwise", None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [10, 1000, 50_257, 200_000])
def test_value_and_gradient(dtype, classes, kernels_alone):
    logits, labels = sample((32, classes), dtype)
    labels[3] = -100
    value, gradient = xe.cross_entropy_value_and_grad(logits, labels, label_smoothing=0.1, z_loss=1e-4)
    exact, slope = xe.cross_entropy_value_and_grad(
        logits.cpu().double(), labels.cpu(), label_smoothing=0.1, z_loss=1e-4
    )
    torch.testing.assert_close(value.cpu().double(), exact, rtol=5e-7, atol=0)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5}.get(dtype, 0.6 * torch.finfo(dtype).eps)
    # Most of float16's entries are below its normal numbers: half of the smallest one there is.
    atol = 2**-25 * 1.01 if dtype == torch.float16 else 1e-9
    torch.testing.assert_close(gradient.cpu().double(), slope, rtol=tolerance, atol=atol)


def test_nothing_waits_for_the_device(kernels_alone):
    logits, labels = sample()
    leaf, weight = logits.requires_grad_(), torch.rand(1000, device="cuda")
    xe.cross_entropy(leaf, labels, class_weight=weight, label_smoothing=0.1).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        xe.cross_entropy(leaf, labels, class_weight=weight, label_smoothing=0.2).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_replays_with_other_numbers(kernels_alone):
    logits, labels = sample()
    gradient = torch.empty_like(logits)
    xe.cross_entropy_value_and_grad(logits, labels, out=gradient)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, _ = xe.cross_entropy_value_and_grad(logits, labels, out=gradient)
    others, other_labels = sample(seed=1)
    logits.copy_(others)
    labels.copy_(other_labels)
    graph.replay()
    expected, slope = xe.cross_entropy_value_and_grad(others, other_labels)
    assert value == expected
    assert torch.equal(gradient, slope)


def test_a_graph_of_a_training_step(kernels_alone):
    """Backward too; replayed with other weights of the rows, labels and loss scale."""
    logits, labels = sample()
    leaf, row_weight, scale = logits.requires_grad_(), torch.rand(64, device="cuda"), torch.ones((), device="cuda")

    def step():
        value = xe.cross_entropy(leaf * 1, labels, row_weight=row_weight, label_smoothing=0.1, normalizer="rows")
        return value, *torch.autograd.grad(value, leaf, scale)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, gradient = step()
    row_weight[::2] = 0.0
    labels[5] = -100
    for factor in (4.0, 1.0):  # the formed gradient is made anew by each replay
        scale.fill_(factor)
        graph.replay()
        expected, slope = step()
        assert value == expected
        assert torch.equal(gradient, slope)


def test_the_current_stream_is_used(kernels_alone):
    logits, labels = sample((4096, 32_000), torch.bfloat16)
    expected = xe.cross_entropy(logits, labels)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        made = logits * 1
        value = xe.cross_entropy(made, labels)
    stream.synchronize()
    assert value == expected


@pytest.mark.parametrize("bad", [1000, -1, 2**31, -(2**63)])
def test_a_label_that_is_no_class(bad, kernels_alone):
    logits, labels = sample()
    labels[5] = bad
    value, gradient = xe.cross_entropy_value_and_grad(logits, labels, reduction="none")
    assert value.isnan().nonzero().tolist() == [[5]]
    assert gradient.isnan().any(1).nonzero().tolist() == [[5]]
    with pytest.raises(IndexError, match=rf"target\[5\] = {bad}"):
        xe.cross_entropy(logits, labels, check_labels=True)


def test_more_than_two_to_the_31_entries(kernels_alone):
    rows, classes = 17_000, 128_256
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("the device has less than 12 GB free")
    logits = torch.zeros((rows, classes), dtype=torch.bfloat16, device="cuda")
    logits[-1, 7] = 20
    value, gradient = xe.cross_entropy_value_and_grad(
        logits, torch.full((rows,), 7, device="cuda"), reduction="none", out=logits
    )
    torch.testing.assert_close(value[-2].item(), 11.761783, rtol=1e-6, atol=0)
    torch.testing.assert_close(value[-1].item(), 2.64318e-4, rtol=1e-3, atol=0)
    assert gradient[-2, 7] == -1
    assert gradient[-1, 7] < 0


def test_the_same_bits_again(kernels_alone):
    for shape in ((4096, 1000), (3, 1_000_003)):
        logits, labels = sample(shape, torch.bfloat16)
        first, second = (xe.cross_entropy_value_and_grad(logits, labels) for _ in range(2))
        assert first[0] == second[0]
        assert torch.equal(first[1], second[1])


def test_the_linear_form_keeps_to_its_budget(kernels_alone):
    features, weight = sample((4096, 512), torch.bfloat16)[0], sample((32_000, 512), torch.bfloat16)[0]
    labels = torch.randint(0, 32_000, (4096,), device="cuda")
    budget = 100_000_000
    xe.linear_cross_entropy_value_and_grad(features, weight, labels, memory_budget=budget)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    value, gradients = xe.linear_cross_entropy_value_and_grad(features, weight, labels, memory_budget=budget)
    torch.cuda.synchronize()
    kept = sum(g.nbytes for g in gradients)
    accumulators = 4 * (features.numel() + weight.numel())
    assert torch.cuda.max_memory_allocated() - before <= budget + kept + accumulators
    expected = torch.nn.functional.cross_entropy(features.double() @ weight.double().T, labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_a_backward_pass_takes_no_memory(factor, kernels_alone):
    logits, labels = sample((1024, 50_257), torch.bfloat16)
    made = logits.requires_grad_() * 1  # as a network makes them
    value = xe.cross_entropy(made, labels)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    (gradient,) = torch.autograd.grad(value, made, torch.tensor(factor, device="cuda"))
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < gradient.nbytes / 10
    expected = xe.cross_entropy_value_and_grad(logits.detach(), labels)[1].double() * factor
    torch.testing.assert_close(gradient.double(), expected, rtol=2**-8, atol=0)


def test_compiled_without_a_break(kernels_alone):
    logits, labels = sample()
    leaf = logits.requires_grad_()
    compiled = torch.compile(xe.cross_entropy, fullgraph=True)
    (gradient,) = torch.autograd.grad(compiled(leaf, labels), leaf)
    (expected,) = torch.autograd.grad(xe.cross_entropy(leaf, labels), leaf)
    assert torch.equal(gradient, expected)
