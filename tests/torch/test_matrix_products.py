"""The products of the linear form: exact where the sums are short, in whatever strides, by MKL and by oneDNN."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from crossentropy.libraries.torch import matrix_products  # noqa: E402

NEEDS_ONEDNN = pytest.mark.skipif(
    not (matrix_products.ONEDNN and torch.backends.mkldnn.is_available()), reason="this PyTorch has no oneDNN"
)


@pytest.fixture(autouse=True)
def one_thread():
    """For products of a few numbers PyTorch's threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


STEPS = [(1, 1), (1, 1), (1, 1), (2, 1), (1, 2), (2, 3)]


def strided(draw, rows, columns):
    """A float32 matrix of short numbers: a view of a larger one, every so many rows and columns, transposed or not."""
    shape, steps, transposed = (rows, columns), draw(st.sampled_from(STEPS)), draw(st.booleans())
    extents = [n * step + draw(st.sampled_from((0, 0, 1))) for n, step in zip(shape, steps, strict=True)]
    whole = torch.randint(-8, 9, extents[::-1] if transposed else extents).float()
    whole = whole.T if transposed else whole
    return whole[:: steps[0], :: steps[1]][:rows, :columns]


@st.composite
def products(draw):
    rows, inner, columns = (draw(st.integers(1, 70)) for _ in range(3))
    torch.manual_seed(draw(st.integers(0, 99)))
    return strided(draw, rows, inner), strided(draw, inner, columns), strided(draw, rows, columns)


@pytest.fixture
def every_size(monkeypatch):
    monkeypatch.setattr(matrix_products, "MULTIPLICATIONS_AT_LEAST", 0)
    monkeypatch.setattr(matrix_products, "LINES_AT_LEAST", 16)


@NEEDS_ONEDNN
@pytest.mark.usefixtures("every_size")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(products(), st.booleans(), st.sampled_from([15_000, 25_000, matrix_products.SCRATCH]))
def test_a_product_in_parts_is_the_product(problem, add, scratch):
    a, b, out = problem
    before = [x.clone() for x in (a, b)]
    expected = a.double() @ b.double() + (out.double() if add else 0)
    matrix_products.product(a, b, out, add=add, scratch=scratch)
    assert torch.equal(out.double(), expected)
    assert all(torch.equal(x, y) for x, y in zip((a, b), before, strict=True))


@NEEDS_ONEDNN
@pytest.mark.usefixtures("every_size")
@pytest.mark.parametrize(
    ("axis", "inner", "columns", "entries"),
    [("rows", 8, 30, 1_500), ("columns", 8, 60, 1_500), ("inner", 70, 30, 3_000)],
)
def test_a_nan_stays_in_its_row(axis, inner, columns, entries):
    a, b, out = torch.ones(40, inner), torch.ones(columns, inner).T, torch.empty(40, columns)
    a[3, 2], a[7, 1] = float("nan"), float("inf")
    assert matrix_products.cut_of(a, b, entries) == (axis, {"rows": 32, "columns": 16, "inner": 16}[axis])
    matrix_products.product(a, b, out, scratch=8 * entries)
    assert out.isnan().all(1).nonzero().tolist() == [[3]]
    assert out.isinf().all(1).nonzero().tolist() == [[7]]
    assert (out[[0, 1, 2, 4, 39]] == inner).all()


@NEEDS_ONEDNN
@pytest.mark.usefixtures("every_size")
def test_few_shapes_are_compiled(monkeypatch):
    """oneDNN keeps what it compiles: with 300 batches of as many sizes 700 MB were kept."""
    shapes, linear = set(), matrix_products.linear
    monkeypatch.setattr(
        matrix_products, "linear", lambda a, b: shapes.add((a.shape, b.shape, b.stride())) or linear(a, b)
    )
    classes, width = 2_000, 20
    weight, buffer = torch.randn(classes, width), torch.empty(600, classes)
    for rows in range(300, 600):
        features, logits = torch.randn(rows, width), buffer[:rows]
        matrix_products.product(features, weight.T, logits)
        matrix_products.product(logits, weight, torch.empty(rows, width))
        matrix_products.product(logits.T, features, torch.empty(classes, width))
    assert 5 < len(shapes) < 60


@NEEDS_ONEDNN
def test_onednn_multiplies_where_it_is_faster(monkeypatch):
    made = []
    linear = matrix_products.linear
    monkeypatch.setattr(matrix_products, "linear", lambda *factors: made.append(factors) or linear(*factors))
    a, b = torch.randint(-8, 9, (600, 700)).float(), torch.randint(-8, 9, (700, 650)).float()
    expected = a.double() @ b.double()

    def product(*dtypes, rows=600):
        made.clear()
        given = [x.to(dtype) for x, dtype in zip((a[:rows], b), dtypes, strict=False)]
        out = torch.zeros(rows, 650, dtype=dtypes[-1])
        for add in (False, True):
            matrix_products.product(*given, out, add=add)
        assert torch.equal(out.double(), 2 * expected[:rows])
        return bool(made)

    assert product(torch.float32, torch.float32, torch.float32)
    assert not product(torch.float32, torch.float32, torch.float32, rows=500)  # too small to compile a product for
    assert not product(torch.float64, torch.float64, torch.float64)
    assert not product(torch.bfloat16, torch.bfloat16, torch.float32)
    torch.backends.mkldnn.set_flags(False)
    try:
        assert not product(torch.float32, torch.float32, torch.float32)
    finally:
        torch.backends.mkldnn.set_flags(True)
    monkeypatch.setattr(matrix_products, "ONEDNN", None)  # a PyTorch without it
    assert not product(torch.float32, torch.float32, torch.float32)


LAYOUTS = """
import torch
import crossentropy as xe

def step(features, weight):
    features, weight = features.detach().requires_grad_(), weight.detach().requires_grad_()
    xe.linear_cross_entropy(features, weight, labels).backward()
    return features.grad, weight.grad

features, weight, labels = torch.randn(700, 300), torch.randn(4_000, 300), torch.randint(0, 4_000, (700,))
expected = step(features, weight)
other = {
    "columns": lambda x: torch.cat([x, x], 1)[:, :300],
    "rows": lambda x: x.repeat_interleave(2, 0)[::2],
    "transposed": lambda x: x.T.contiguous().T,
}
for change in other.values():
    for given in ((change(features), weight), (features, change(weight)), (change(features), change(weight))):
        assert all(map(torch.equal, given, (features, weight)))
        for gradient, same in zip(step(*given), expected):
            torch.testing.assert_close(gradient, same, rtol=1e-4, atol=1e-7)
"""


@NEEDS_ONEDNN
def test_no_layout_takes_the_plain_loop():
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    command = [sys.executable, "-c", LAYOUTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    products = [line.split(",")[6] for line in done.stdout.splitlines() if ",exec,cpu,inner_product," in line]
    assert len(products) > 20
    assert not [implementation for implementation in products if implementation.startswith("ref")]


MEMORY = """
import torch
import crossentropy as xe

def memory(what):
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))

def step(rows):
    global features
    features = torch.randn(rows, 100, requires_grad=True)
    weight.grad = None
    labels = torch.randint(0, 5_000, (rows,))
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    xe.linear_cross_entropy(features, weight, labels, memory_budget=40_000_000).backward()
    return memory("VmHWM") - before - features.nbytes - weight.nbytes

weight = torch.randn(5_000, 100, requires_grad=True)
step(20_000)  # libraries keep what they need for the life of a process
print(step(20_000))
"""


@NEEDS_ONEDNN
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its high-water mark")
def test_parts_and_copies_are_within_the_budget():
    """Chunks of 1,500 rows: their logits transposed, of which the weight's gradient is made, would be 30 MB more."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 20_000_000 < int(done.stdout) <= 44_000_000
