"""The C++ core inside compiled programs: which kernel runs, and that batches, loops and axes reach it unchanged."""

import ctypes
import functools

import ml_dtypes
import numpy as np
import pytest

import crossentropy as xe
from crossentropy.kernels import native

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import export  # noqa: E402

from crossentropy.libraries.jax import core, derivatives  # noqa: E402

RNG = np.random.default_rng(11)
LOGITS = RNG.normal(0, 3, (6, 5)).astype(np.float32)
LABELS = np.array([0, 4, -100, 2, 1, 3])
needs_core = pytest.mark.skipif(
    native.kernel_name() == "generic", reason="this build has no core, or it is switched off"
)


def text(function, *arguments):
    return jax.jit(function).lower(*arguments).as_text()


def close(actual, expected, tolerance=2e-6):
    np.testing.assert_allclose(np.asarray(actual, float), np.asarray(expected, float), rtol=tolerance, atol=1e-7)


# -- which kernel runs ------------------------------------------------------------------------------------------------


@needs_core
def test_the_core_computes_compiled_programs():
    assert core.kernel_name() == native.kernel_name()
    program = text(jax.value_and_grad(xe.cross_entropy), LOGITS, LABELS)
    assert program.count("custom_call @crossentropy_rows") == 1  # value and gradient in one


def test_the_environment_switches_to_the_form_of_xla(monkeypatch):
    monkeypatch.setenv("CROSSENTROPY_KERNEL", "generic")
    assert core.kernel_name() == "xla"
    assert "crossentropy_rows" not in text(jax.value_and_grad(xe.cross_entropy), LOGITS, LABELS)


@needs_core
def test_a_bias_near_the_end_of_floats_is_added_as_for_numpy():
    logits, bias = np.array([[2e38, 0, 0], [1, 2, 3]], np.float32), np.array([2e38, 0, 0], np.float32)
    expected = xe.cross_entropy(logits, LABELS[:2] % 3, class_bias=bias, reduction="none")
    loss = functools.partial(xe.cross_entropy, reduction="none")
    actual = jax.jit(lambda x, b: loss(x, LABELS[:2] % 3, class_bias=b))(logits, bias)
    np.testing.assert_array_equal(np.asarray(actual), expected)
    assert expected[0] == 0


@needs_core
@pytest.mark.parametrize(("major", "minor"), [(1, 0), (0, 99)])
def test_another_version_of_the_interface_is_left_alone(monkeypatch, major, minor):
    """A handler that says it is of such a version is refused by jaxlib: no error, XLA's own form."""

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    def handler(frame):
        extension = ctypes.c_void_p.from_address(frame + 8).value
        metadata = ctypes.c_void_p.from_address(extension + 24).value
        ctypes.c_int32.from_address(metadata + 24).value = major
        ctypes.c_int32.from_address(metadata + 28).value = minor

    capsule = jax.ffi.pycapsule(ctypes.cast(handler, ctypes.c_void_p).value)
    monkeypatch.setattr(native, "xla_handler", lambda: capsule)
    monkeypatch.setattr(core, "TARGET", f"crossentropy_rows_{major}_{minor}")
    monkeypatch.setattr(core, "is_registered", functools.cache(core.is_registered.__wrapped__))
    assert core.kernel_name() == "xla"
    assert "custom_call @crossentropy" not in text(xe.cross_entropy, LOGITS, LABELS)
    close(jax.jit(xe.cross_entropy)(LOGITS, LABELS), xe.cross_entropy(LOGITS, LABELS))


@needs_core
def test_other_platforms_and_processes_get_the_form_of_xla():
    traced = jax.jit(jax.value_and_grad(xe.cross_entropy)).trace(LOGITS, LABELS)
    assert "crossentropy_rows" not in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "crossentropy_rows" in traced.lower(lowering_platforms=("cpu",)).as_text()
    exported = export.export(jax.jit(xe.cross_entropy), platforms=("cpu", "cuda"))(LOGITS, LABELS)
    close(exported.call(LOGITS, LABELS), xe.cross_entropy(LOGITS, LABELS))


@needs_core
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_rows_have_the_bits_of_numpy(dtype):
    """XLA's threads take denormal numbers for 0; the core does not, wherever it runs."""
    logits = np.concatenate([LOGITS, LOGITS - 300, np.full((1, 5), 1e-39), [[0, -95, -97, -99, -101]]]).astype(dtype)
    labels = np.concatenate([LABELS, LABELS, [1, 2]])
    expected, slope = xe.cross_entropy_value_and_grad(logits, labels, reduction="none")
    with jax.enable_x64(dtype == np.float64):
        function = functools.partial(xe.cross_entropy_value_and_grad, reduction="none")
        value, gradient = jax.jit(function)(jnp.asarray(logits), labels)
        np.testing.assert_array_equal(np.asarray(value), expected)
        if dtype in (np.float64, np.float32):
            np.testing.assert_array_equal(np.asarray(gradient), slope)


# -- batches and axes -------------------------------------------------------------------------------------------------


STACK = RNG.normal(0, 2, (3, 6, 5)).astype(np.float32)
WEIGHTS = RNG.random((3, 5)).astype(np.float32)
ROW_WEIGHTS = RNG.random((3, 6)).astype(np.float32)
STACKED_LABELS = np.stack([LABELS, np.roll(LABELS, 1), np.roll(LABELS, 2)])
# What each problem of a batch has of its own; the rest is shared.
BATCHES = {
    "logits": ({"logits": STACK}, {}),
    "labels": ({"target": STACKED_LABELS}, {}),
    "both": ({"logits": STACK, "target": STACKED_LABELS}, {"label_smoothing": 0.1}),
    "class weights": ({"logits": STACK, "class_weight": WEIGHTS}, {}),
    "row weights": ({"logits": STACK, "row_weight": ROW_WEIGHTS}, {"z_loss": 0.01}),
    "normalizers": ({"logits": STACK, "normalizer": np.array([1.0, 2.0, 3.0], np.float32)}, {}),
    "masks": (
        {"logits": STACK, "class_mask": np.eye(5, dtype=bool)[:3] | (np.arange(5) != 1)},
        {"label_smoothing": 0.1},
    ),
    "soft": ({"logits": STACK, "target": RNG.random((3, 6, 5)).astype(np.float32)}, {}),
}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", BATCHES)
def test_batches(name, reduction):
    batched, options = BATCHES[name]
    shared = {"logits": LOGITS, "target": LABELS} | options | {"reduction": reduction}

    def loss(own):
        return xe.cross_entropy(**(shared | own))

    def both(own):
        def total(logits):
            each = loss(own | {"logits": logits})
            return (each * jnp.arange(1.0, 1 + each.size).reshape(each.shape)).sum(), each

        slope, each = jax.grad(total, has_aux=True)(own.get("logits", LOGITS))
        return each, slope

    values, gradients = jax.jit(jax.vmap(both))(batched)
    for i in range(3):
        value, gradient = both({name: jnp.asarray(array[i]) for name, array in batched.items()})
        close(values[i], value)
        close(gradients[i], gradient)
        close(value, loss({name: array[i] for name, array in batched.items()}))


def test_batches_of_batches():
    x, labels = jnp.asarray(STACK), jnp.asarray(STACKED_LABELS)
    expected, slope = xe.cross_entropy_value_and_grad(STACK, STACKED_LABELS, reduction="none")
    single = jax.value_and_grad(lambda x, t: xe.cross_entropy(x, t, reduction="none"))
    values, gradients = jax.jit(jax.vmap(jax.vmap(single)))(x, labels)
    close(values, expected)
    close(gradients, slope)
    pairs = jax.jit(jax.vmap(jax.vmap(xe.cross_entropy, (None, 0)), (0, None)))(x, labels)
    close(pairs, [[xe.cross_entropy(a, t) for t in STACKED_LABELS] for a in STACK])


def test_a_class_axis_in_the_middle():
    x, labels = STACK.reshape(3, 5, 6), np.arange(18).reshape(3, 6) % 5
    mask = RNG.random(x.shape) < 0.8
    options = {"axis": 1, "class_mask": mask, "label_smoothing": 0.1, "normalizer": "rows"}
    mask[np.arange(3)[:, None], labels, np.arange(6)] = True
    value, gradient = xe.cross_entropy_value_and_grad(x, labels, **options)
    found = jax.jit(jax.value_and_grad(lambda x: xe.cross_entropy(x, labels, **options)))(x)
    close(found[0], value)
    close(found[1], gradient)
    vector = RNG.normal(size=x.shape).astype(np.float32)
    product = jax.jvp(jax.grad(lambda x: xe.cross_entropy(x, labels, **options)), (jnp.asarray(x),), (vector,))[1]
    close(product, xe.cross_entropy_hvp(x, labels, vector, **options), 1e-4)


@needs_core
def test_a_class_axis_in_the_middle_is_not_moved():
    program = text(jax.value_and_grad(functools.partial(xe.cross_entropy, axis=1)), STACK, np.zeros((3, 5), int))
    assert "transpose" not in program


# -- second derivatives where JAX drops the rules ----------------------------------------------------------------------


def test_the_call_itself_can_be_differentiated():
    """Without the rules around it, as in the known part of a loop."""
    c = xe.libraries.jax.losses.Rows.of(jnp.asarray(LOGITS), LABELS, xe.options.LossOptions()).coefficients
    weight = jnp.arange(1.0, 7.0)

    def bare(x, w):
        value, gradient = core.compute(x, c, w, w, adds_up=True)
        return value + jnp.vdot(gradient, gradient)

    def ruled(x, w):
        rows = derivatives.rows.value_and_gradient
        value, gradient = rows(x, c, derivatives.Factors("sum", row_weight=w))
        return value + jnp.vdot(gradient, gradient)

    x = jnp.asarray(LOGITS)
    for one, other in zip(jax.grad(bare, (0, 1))(x, weight), jax.grad(ruled, (0, 1))(x, weight), strict=True):
        close(one, other, 1e-5)


def test_second_derivatives_in_a_loop():
    x, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)

    def looped(x):
        single = lambda c, p: (c + xe.cross_entropy(*p, reduction="none") ** 2, None)  # noqa: E731
        return jax.lax.scan(single, 0.0, (x, labels))[0]

    def plain(x):
        return (xe.cross_entropy(x, labels, reduction="none") ** 2).sum()

    close(jax.jit(jax.hessian(looped))(x), jax.jit(jax.hessian(plain))(x), 1e-5)


@pytest.mark.parametrize("small", [0, derivatives.SMALL])
def test_second_derivatives_of_ones_own_reduction(monkeypatch, small):
    """Of few logits the gradient is kept, of more what was found of the rows."""
    monkeypatch.setattr(derivatives, "SMALL", small)
    x, labels = jnp.asarray(RNG.normal(size=(5, 40)), jnp.float32), jnp.arange(5)
    v = jnp.asarray(RNG.normal(size=x.shape), jnp.float32)
    squares = jax.grad(lambda x: jnp.sum(xe.cross_entropy(x, labels, reduction="none") ** 2))
    p, t = jax.nn.softmax(x), jax.nn.one_hot(labels, 40)
    along, losses = jnp.sum((p - t) * v, 1, keepdims=True), xe.cross_entropy(x, labels, reduction="none")[:, None]
    product = 2 * ((p - t) * along + losses * (p * v - p * jnp.sum(p * v, 1, keepdims=True)))
    close(jax.jit(lambda x: jax.jvp(squares, (x,), (v,))[1])(x), product, 1e-4)


@pytest.mark.parametrize("classes", [3, 40, 140])
@pytest.mark.parametrize("small", [0, 1 << 18])
def test_a_mean_of_ones_own_moves_with_its_direction(monkeypatch, classes, small):
    """Forward mode first: the direction is part of what is differentiated then."""
    monkeypatch.setattr(derivatives, "SMALL", small)
    x, v, u = jnp.asarray(RNG.normal(size=(3, 9, classes)), jnp.float32)
    mean = lambda x: xe.cross_entropy(x, np.arange(9) % classes, reduction="none").mean()  # noqa: E731
    p = jax.nn.softmax(x)
    product = (p * v - p * jnp.sum(p * v, 1, keepdims=True)) / 9
    slope = lambda x: jax.jvp(mean, (x,), (v,))[1]  # noqa: E731
    close(jax.jit(jax.grad(slope))(x), product, 1e-4)
    close(jax.jvp(slope, (x,), (u,))[1], jnp.sum(u * product), 1e-4)


# -- what comes after the losses ---------------------------------------------------------------------------------------


LATER = {
    "plain": {},
    "weights and ignored rows": {"class_weight": RNG.random(140).astype(np.float32), "ignore_index": 3},
    "temperature and z-loss": {"temperature": 1.7, "z_loss": 0.01},
    "soft-cap, mask and focal": {"softcap": 5.0, "class_mask": np.arange(140) % 7 != 6, "focal_gamma": 1.5},
}
WIDE = np.concatenate([RNG.normal(0, 4, (8, 140)), np.eye(8, 140) * 40]).astype(np.float32)
WIDE_LABELS = np.concatenate([np.arange(8) % 6, np.arange(8) % 6])
FACTORS = np.linspace(0, 3, 16).astype(np.float32)


@needs_core
@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", LATER)
def test_a_mean_of_ones_own_has_the_gradient_of_one_call(monkeypatch, name, dtype):
    """Of the statistics that the losses left; of small logits the gradient itself is kept."""
    loss = functools.partial(xe.cross_entropy, target=WIDE_LABELS, reduction="none", **LATER[name])
    with jax.enable_x64(dtype == np.float64):
        x = jnp.asarray(WIDE.astype(dtype))
        slope = jax.jit(lambda x: xe.cross_entropy_value_and_grad(x, WIDE_LABELS, row_weight=FACTORS, reduction="none",
                                                                  **LATER[name])[1])(x)  # fmt: skip
        for small in (0, x.size):
            monkeypatch.setattr(derivatives, "SMALL", small)
            # A function of its own each time: compiled ones are kept.
            total = jax.value_and_grad(lambda x: (loss(x) * FACTORS).sum())
            assert ("statistics" in text(total, x)) == (small == 0)
            ulp = float(jnp.finfo(x.dtype).eps)
            error = np.abs(np.asarray(jax.jit(total)(x)[1], float) - np.asarray(slope, float))
            assert (error <= 4 * ulp * np.abs(np.asarray(slope, float)) + 1e-38).all()


@needs_core
def test_statistics_that_no_core_left_are_not_used():
    c = xe.libraries.jax.losses.Rows.of(jnp.asarray(WIDE), WIDE_LABELS, xe.options.LossOptions()).coefficients
    kept = core.ask(("loss", "statistics"), WIDE, c)[1]
    expected = core.ask(("gradient",), WIDE, c, FACTORS)[0]
    for statistics in (kept, jnp.zeros_like(kept)):
        np.testing.assert_array_equal(core.ask(("gradient",), WIDE, c, FACTORS, None, statistics)[0], expected)


@pytest.mark.parametrize("small", [0, 1 << 18])
def test_an_undefined_row_leaks_into_no_other(monkeypatch, small):
    monkeypatch.setattr(derivatives, "SMALL", small)
    labels, counts = jnp.asarray(WIDE_LABELS).at[2].set(199), jnp.arange(16) != 2
    total = lambda x, t: jnp.where(counts, xe.cross_entropy(x, t, reduction="none"), 0.0).sum()  # noqa: E731
    gradient = np.asarray(jax.jit(jax.grad(total))(WIDE, labels))
    assert np.isnan(gradient).all(axis=1).tolist() == (~np.asarray(counts)).tolist()
    assert np.isfinite(np.delete(gradient, 2, axis=0)).all()


SHARES = RNG.random(LOGITS.shape).astype(np.float32)


@needs_core
def test_a_soft_target_is_read_once_for_its_loss():
    program = text(lambda x, t: xe.cross_entropy(x, t), LOGITS, SHARES)
    assert program.count("custom_call @crossentropy_rows") == 1
    assert "is_finite" not in program  # nor looked at before
    both = text(jax.value_and_grad(lambda x, t: xe.cross_entropy(x, t)), LOGITS, SHARES)
    assert both.count("custom_call @crossentropy_rows") == 2  # its mass has to be known before the gradient


@pytest.mark.parametrize("kernel", ["", "generic"])
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_traced_target_that_is_none_makes_its_row_nan(monkeypatch, bad, kernel):
    monkeypatch.setenv("CROSSENTROPY_KERNEL", kernel)
    target, weight = SHARES.copy(), np.array([1, 2, 0, 1, 1, 1], np.float32)
    target[1, 2] = target[2, 2] = bad  # the second does not count

    def each(x, t, reduction="none"):
        return xe.cross_entropy(x, t, row_weight=weight, reduction=reduction)

    losses = np.asarray(jax.jit(each)(LOGITS, target))
    assert np.isnan(losses).tolist() == [False, True, False, False, False, False]
    close(losses[3:], each(LOGITS, SHARES)[3:])
    slope = np.asarray(jax.jit(jax.grad(lambda x, t: each(x, t).sum()))(LOGITS, target))
    assert np.isnan(slope).all(axis=1).tolist() == np.isnan(losses).tolist()
    assert np.isfinite(slope[[0, 2, 3, 4, 5]]).all()
    value, gradient = jax.jit(jax.value_and_grad(lambda x, t: each(x, t, "mean")))(LOGITS, target)
    assert np.isnan(value)
    assert np.isnan(gradient[1]).all()


@pytest.mark.parametrize("name", ["generic", ""])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
def test_labels_are_not_compared_in_their_own_dtype(monkeypatch, name, dtype):
    """JAX takes -100 for 156 beside labels of 8 bits, and 256 classes for none."""
    monkeypatch.setenv("CROSSENTROPY_KERNEL", name)
    span = np.iinfo(dtype)
    classes = min(span.max + 1, 300)
    logits = RNG.normal(0, 1, (4, classes)).astype(np.float32)
    labels = np.array([1, min(156, classes - 1), classes - 1, 0], dtype)
    loss = functools.partial(xe.cross_entropy, reduction="none")
    expected = loss(logits, labels)
    assert (expected > 0).all()
    close(loss(jnp.asarray(logits), jnp.asarray(labels)), expected)
    close(jax.jit(loss)(logits, labels), expected)
    sparse = jax.jit(lambda x, i: loss(x, (i, jnp.ones(i.shape))))
    close(sparse(logits, labels[:, None]), expected)
    close(xe.one_hot(jnp.asarray(labels), classes).sum(), 4)
    if (wrong := span.max - 99) < classes or span.min < 0:
        return
    labels[1] = wrong  # what is left of -100 in this dtype
    with pytest.raises(IndexError, match=rf"target\[1\] = {wrong} is outside"):
        loss(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_array_equal(np.isnan(jax.jit(loss)(logits, labels)), [False, True, False, False])


def test_an_ignored_element_is_not_what_is_left_of_its_number():
    target = np.array([0, 1, 156, 1], np.uint8)
    loss = functools.partial(xe.binary_cross_entropy, ignore_index=-100, reduction="none")
    np.testing.assert_array_equal(np.isnan(jax.jit(loss)(np.zeros(4, np.float32), target)), [False, False, True, False])
    with pytest.raises(ValueError, match="156"):
        loss(jnp.zeros(4), jnp.asarray(target))
