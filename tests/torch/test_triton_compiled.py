"""The Triton kernels, compiled for devices that are not here: what the assembler says of registers and loads.

The sample: plain, every flag alone, and all at once, in every dtype; both architectures; short rows, class axis in the
middle, few long rows, several sparse entries; value alone for the first two. All combinations of flags, dtypes and
architectures: ``python -m benchmarks.gpu_prediction --every-variant``.
"""

import importlib.util
import os
import re

import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed (it has wheels for Linux alone)", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton is told to interpret its kernels", allow_module_level=True)

from benchmarks import cross_compilation, gpu_prediction  # noqa: E402
from crossentropy.kernels import triton as kernels  # noqa: E402

LONG, SHORT, IMAGES, FEW = (8192, 128_256), (4096, 10), (8, 21, 64, 64), (4, 1_048_576)
EVERYTHING = {"transform": True, "profile": True, "ignore": True}
VARIANTS = [
    (90, torch.bfloat16, LONG, {}),
    (80, torch.bfloat16, LONG, {"ignore": False}),
    (90, torch.float16, LONG, {"transform": True}),
    (80, torch.float16, LONG, {"profile": True, "ignore": False}),
    (90, torch.float32, LONG, {"ignore": False}),
    (80, torch.float32, LONG, {"dense": True}),
    (90, torch.float64, LONG, {}),
    (80, torch.float64, LONG, EVERYTHING | {"dense": True}),
    (90, torch.bfloat16, LONG, EVERYTHING | {"entries": 3}),
    (90, torch.float32, LONG, EVERYTHING | {"dense": True}),
    (90, torch.bfloat16, SHORT, {}),
    (80, torch.float32, IMAGES, {"axis": 1}),
    (90, torch.bfloat16, FEW, {"profile": True}),
]


@pytest.mark.parametrize(
    ("capability", "dtype", "shape", "flags", "gradient"),
    [(*variant, True) for variant in VARIANTS] + [(*variant, False) for variant in VARIANTS[:2]],
)
def test_registers_spills_and_loads(capability, dtype, shape, flags, gradient):
    compiled = cross_compilation.launches(capability, shape, dtype, gradient=gradient, **flags)
    in_parts = shape == FEW
    assert [kernel.name for kernel in compiled] == (
        ["row_kernel", "loss_kernel", "row_kernel"] if gradient and in_parts else ["row_kernel", "loss_kernel"]
    )
    for kernel in compiled:
        assert f"sm_{capability}" in kernel.ptx
        cross_compilation.check(kernel)
    if shape != IMAGES and shape != SHORT:
        assert re.search(r"ld\.global\S*\.(v4\.b32|v2\.b64)", compiled[0].ptx)  # 16 bytes at once
        if gradient:
            kernel = compiled[2 if in_parts else 0]
            assert re.search(r"st\.global\S*\.(v4\.b32|v2\.b64)", kernel.ptx)
    if in_parts:
        assert compiled[0].grid[1] > 1


@pytest.mark.parametrize("shape", [LONG, (17_000, 128_256)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_gradient_is_scaled_16_bytes_at_once(dtype, shape):
    with cross_compilation.for_device(90) as compiled:
        kernels.scale(cross_compilation.tensor(shape, dtype), cross_compilation.tensor((), torch.float32))
    (kernel,) = compiled
    cross_compilation.check(kernel)
    assert kernel.grid == (528,)
    assert re.search(r"ld\.global\S*\.(v4\.b32|v2\.b64)", kernel.ptx)
    assert re.search(r"st\.global\S*\.(v4\.b32|v2\.b64)", kernel.ptx)


@pytest.mark.parametrize("shape", [LONG, FEW])
def test_an_options_value_is_data(shape):
    """New values of options, sums and numbers of rows reuse what was compiled."""

    def call(rows, smoothing, **options):
        x = cross_compilation.tensor((rows, *shape[1:]), torch.bfloat16)
        c = cross_compilation.coefficients(rows, shape[1], transform=True, profile=True)
        c = c.__class__(**vars(c) | {"label_smoothing": smoothing} | options)
        kernels.Rows(x, 1, c).losses(cross_compilation.tensor((), torch.float64), x)

    with cross_compilation.for_device(90):
        call(shape[0], 0.1)
        kernels_before = cross_compilation.number_of_kernels(90)
        call(shape[0], 0.25, temperature=0.5, softcap=15.0, z_loss=0.0, focal_gamma=0.0)
        call(shape[0], 1e-300, z_loss=1e-3, focal_gamma=2.0)
        call(shape[0] - 1, 0.1)
        assert cross_compilation.number_of_kernels(90) == kernels_before


@pytest.mark.parametrize(("gradient", "least", "most"), [(True, 0.95, 0.88), (False, 0.95, 0.95)])
def test_what_is_predicted_for_an_h200(gradient, least, most):
    """Of one read and one write (one read) at the bandwidth of a copy: 8,192 x 128,256 bfloat16, all as good as can be,
    and all that scatters.
    """
    found = gpu_prediction.predict(gpu_prediction.H200, *LONG, torch.bfloat16, gradient=gradient)
    roofline = LONG[0] * LONG[1] * 2 * (2 if gradient else 1) / gpu_prediction.H200.copy_bytes
    assert roofline / found.least >= least
    assert roofline / found.most >= most


def test_offsets_have_64_bits():
    """2^31 entries and more: products of rows and strides are taken in 64 bits."""
    for axis, shape in ((1, (40_000, 128_256)), (0, (128_256, 40_000))):
        kernel = cross_compilation.launches(90, shape, torch.bfloat16, axis=axis, gradient=False)[0]
        assert "mul.wide" in kernel.ptx or "mul.lo.s64" in kernel.ptx or "mad.lo.s64" in kernel.ptx
        ttir = kernel.assembly["ttir"]
        # The offsets that are added to the logits' pointer.
        assert "tensor<1x" in ttir
        assert "xi64>" in ttir
