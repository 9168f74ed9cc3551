"""Derivatives and transformations of JAX: the values are those of NumPy, whose exactness the other tests hold."""

import numpy as np
import pytest

import crossentropy as xe

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(0, 3, (4, 5))
LABELS = np.array([0, 4, 2, 2])
SOFT = RNG.random((4, 5)) * (RNG.random((4, 5)) > 0.3)
SPARSE = (np.array([[0, 1], [2, 2], [4, 0], [3, 1]]), RNG.random((4, 2)))
# One entry for each option that bends the loss, and all that go together.
PROBLEMS = {
    "labels": (LABELS, {}),
    "soft": (SOFT, {}),
    "sparse": (SPARSE, {}),
    "smoothed": (LABELS, {"label_smoothing": 0.1, "class_weight": np.arange(1.0, 6.0)}),
    "focal": (LABELS, {"focal_gamma": 1.5, "row_weight": np.array([1.0, 0.0, 2.0, 0.5])}),
    "z_loss": (SOFT, {"z_loss": 0.01, "softcap": 4.0, "temperature": 1.5, "class_bias": np.linspace(-1, 1, 5)}),
    "masked": (LABELS, {"class_mask": np.array([True, False, True, True, True]), "label_smoothing": 0.2}),
    "ignored": (LABELS, {"ignore_index": 2, "unit": "bits", "normalizer": "rows"}),
    "probs": (LABELS, {"inputs": "probs"}),
    "log_probs": (SOFT, {"inputs": "log_probs", "label_smoothing": 0.1}),
}
BINARY = {
    "soft": (SOFT, {}),
    "weighted": (SOFT, {"pos_weight": np.arange(1.0, 6.0), "label_smoothing": 0.1}),
    "focal": ((SOFT > 0.3).astype(float), {"focal_gamma": 2.0}),
    "probs": (SOFT, {"inputs": "probs"}),
    "log_probs": (SOFT, {"inputs": "log_probs"}),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def inputs_of(options):
    kind = options.get("inputs", "logits")
    p = np.asarray(xe.softmax(LOGITS))
    return {"logits": LOGITS, "probs": p, "log_probs": np.log(p)}[kind]


def close(actual, expected, tolerance=1e-11):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


problems = pytest.mark.parametrize("name", PROBLEMS)


def problem(name, reduction="mean"):
    target, options = PROBLEMS[name]
    logits = inputs_of(options)
    options = options | {"reduction": reduction}

    def loss(x, target=target):
        return xe.cross_entropy(x, target, **options)

    return loss, jnp.asarray(logits), (logits, target, options)


def derivatives(loss, x, v):
    """Every way to a first or second derivative; one function, so that it is compiled once."""
    value, gradient = jax.value_and_grad(loss)(x)
    slope = jax.grad(loss)
    return {
        "value": (loss(x), value),
        "gradient": (gradient, jax.vjp(loss, x)[1](jnp.ones_like(value))[0], jax.grad(jax.checkpoint(loss))(x)),
        "along": (jax.jvp(loss, (x,), (v,))[1],),
        "hessian": (
            jnp.einsum("ijkl,kl->ij", jax.hessian(loss)(x), v),  # forward over reverse
            jax.grad(lambda x: jnp.vdot(slope(x), v))(x),  # reverse over reverse
            jax.jvp(slope, (x,), (v,))[1],
        ),
    }


def check_derivatives(found, value, gradient, product, v):
    for one in found["value"]:
        close(one, value)
    for one in found["gradient"]:
        close(one, gradient)
    close(found["along"][0], (gradient * v).sum())
    for one in found["hessian"]:
        close(one, product, 1e-8)


@problems
def test_derivatives(name):
    loss, x, (logits, target, options) = problem(name)
    v = np.random.default_rng(2).normal(size=x.shape)
    value, gradient = xe.cross_entropy_value_and_grad(logits, target, **options)
    product = xe.cross_entropy_hvp(logits, target, v, **options)
    check_derivatives(jax.jit(lambda x, v: derivatives(loss, x, v))(x, jnp.asarray(v)), value, gradient, product, v)


def test_derivatives_without_jit():
    loss, x, (logits, target, options) = problem("smoothed")
    v = np.random.default_rng(2).normal(size=x.shape)
    value, gradient = xe.cross_entropy_value_and_grad(logits, target, **options)
    product = xe.cross_entropy_hvp(logits, target, v, **options)
    check_derivatives(derivatives(loss, x, jnp.asarray(v)), value, gradient, product, v)


def test_value_and_grad_can_be_differentiated():
    _, x, (logits, target, options) = problem("z_loss")
    v = np.random.default_rng(4).normal(size=x.shape)

    def gradient(x):
        return xe.cross_entropy_value_and_grad(x, target, **options)[1]

    product = xe.cross_entropy_hvp(logits, target, v, **options)
    close(jax.jit(lambda x, v: jax.jvp(gradient, (x,), (v,))[1])(x, jnp.asarray(v)), product, 1e-9)


@pytest.mark.parametrize("name", ["labels", "sparse", "z_loss", "focal", "ignored"])
def test_rows_in_every_loop(name):
    """vmap, lax.map and scan over rows give the rows of one call, and their gradient."""
    _, x, (logits, target, options) = problem(name, "none")
    values, gradient = xe.cross_entropy_value_and_grad(logits, target, **options)
    has_row_weight = "row_weight" in options
    parts = (jax.tree.map(jnp.asarray, target), jnp.asarray(options.get("row_weight", np.ones(4))))

    def single(x, t, w):
        return xe.cross_entropy(x, t, **(options | ({"row_weight": w} if has_row_weight else {})))

    def loops(x, parts):
        total = lambda x: jax.lax.scan(lambda c, p: (c + single(*p), None), 0.0, (x, *parts))[0]  # noqa: E731
        rows = jax.vmap(single)(x, *parts), jax.lax.map(lambda p: single(*p), (x, *parts))
        return rows, (jax.grad(total)(x), jax.vmap(jax.grad(single))(x, *parts))

    rows, gradients = jax.jit(loops)(x, parts)
    for one in rows:
        close(one, values)
    for one in gradients:
        close(one, gradient)


@pytest.mark.parametrize("name", BINARY)
def test_binary_derivatives(name):
    target, options = BINARY[name]
    p = np.asarray(xe.sigmoid(LOGITS))
    x = {"logits": LOGITS, "probs": p, "log_probs": np.log(p)}[options.get("inputs", "logits")]
    value, gradient = xe.binary_cross_entropy_value_and_grad(x, target, **options)
    v = np.random.default_rng(5).normal(size=x.shape) * 0.01

    def slope(step):
        return xe.binary_cross_entropy_value_and_grad(x + step * v, target, **options)[1]

    def loss(x):
        return xe.binary_cross_entropy(x, target, **options)

    product = (8 * (slope(1e-3) - slope(-1e-3)) - (slope(2e-3) - slope(-2e-3))) / 12e-3
    check_derivatives(
        jax.jit(lambda x, v: derivatives(loss, x, v))(jnp.asarray(x), jnp.asarray(v)), value, gradient, product, v
    )


def test_the_curvature_of_a_sigmoid_loss_at_zero():
    """The derivative of |x| at 0 would make it 0: a network's first logits are often 0."""
    hessian = jax.hessian(lambda x: xe.binary_cross_entropy(x, 1.0))(0.0)
    close(hessian, 0.25)
    close(jax.grad(xe.sigmoid)(0.0), 0.25)
    close(jax.grad(xe.log_sigmoid)(0.0), 0.5)


# -- derivatives to what is not the logits -----------------------------------------------------------------------------


def numeric(function, array, step=1e-6):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        moved = [array.copy(), array.copy()]
        moved[0][index] += step
        moved[1][index] += 3 * step  # one-sided: an entry at 0 cannot go below
        gradient[index] = (-8 * function(array) + 9 * function(moved[0]) - function(moved[1])) / (6 * step)
    return gradient


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("target", {}),
        ("target", {"label_smoothing": 0.1, "class_weight": np.arange(1.0, 6.0)}),
        ("class_weight", {"label_smoothing": 0.1}),
        ("row_weight", {}),
        ("class_bias", {"temperature": 2.0, "softcap": 4.0}),
    ],
)
def test_derivatives_to_the_other_arguments(name, options):
    start = {
        "target": SOFT,
        "class_weight": np.arange(1.0, 6.0),
        "row_weight": np.arange(1.0, 5.0),
        "class_bias": np.ones(5),
    }
    logits = np.asarray(LOGITS)

    def loss(value, logits=logits):
        arguments = {"target": SOFT} | options | {name: value}
        return xe.cross_entropy(logits, **arguments)

    traced = jax.grad(lambda value: loss(value, jnp.asarray(logits)))(jnp.asarray(start[name]))
    close(traced, numeric(loss, start[name]), 1e-7)


def test_a_one_hot_has_a_gradient_at_its_zeros():
    gradient = jax.grad(lambda t: xe.cross_entropy(jnp.asarray(LOGITS), t, reduction="sum"))(jnp.eye(5)[LABELS])
    close(gradient, -np.asarray(xe.log_softmax(LOGITS)))


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "sigmoid", "log_sigmoid", "entropy", "perplexity"])
def test_derivatives_of_distributions(function):
    x = np.asarray(xe.softmax(LOGITS)) if function == "entropy" else LOGITS
    weights = np.random.default_rng(6).normal(size=getattr(xe, function)(x).shape)
    total = lambda x: (getattr(xe, function)(x) * weights).sum()  # noqa: E731
    traced = jax.jit(jax.grad(total))(jnp.asarray(x))
    close(traced, numeric(lambda x: total(np.asarray(x)), x, 1e-6), 1e-5)


def test_derivatives_of_the_divergence():
    t, p = np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.3, 0.5])
    to_t, to_p = jax.grad(xe.kl_divergence, argnums=(0, 1))(jnp.asarray(t), jnp.asarray(p))
    close(to_t, [np.log(2.5) + 1, np.log(5 / 3) + 1, 0])
    close(to_p, [-2.5, -5 / 3, 0])


def test_derivatives_of_row_statistics():
    x = jnp.asarray(LOGITS)
    p = np.asarray(xe.softmax(LOGITS))
    close(jax.grad(lambda x: xe.row_statistics(x).lse.sum())(x), p)
    surprise = -np.log(p)
    h = (p * surprise).sum(1, keepdims=True)
    close(jax.grad(lambda x: xe.row_statistics(x).entropy.sum())(x), p * (surprise - h))
    close(jax.grad(lambda x: xe.row_statistics(x, LABELS).target_log_prob.sum())(x), np.eye(5)[LABELS] - p)


# -- the defined results under a trace ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bad"), [(jnp.float64, -1), (jnp.float32, 5), (jnp.bfloat16, 10**6)])
def test_a_traced_label_that_is_no_class_makes_its_row_nan(dtype, bad):
    x, labels = jnp.asarray(LOGITS, dtype), jnp.array([0, bad, 2, 2])
    with pytest.raises(IndexError, match=rf"target\[1\] = {bad} is outside \[0, 5\)"):
        xe.cross_entropy(x, labels)
    loss = lambda x, t: xe.cross_entropy(x, t, reduction="none")  # noqa: E731
    each, gradient, alone = jax.jit(
        lambda x, t: (loss(x, t), jax.grad(lambda x: loss(x, t).sum())(x), jax.vmap(xe.cross_entropy)(x, t))
    )(x, labels)
    assert gradient.dtype == dtype
    assert np.isnan(np.asarray(each, float)).tolist() == [False, True, False, False]
    assert np.isnan(np.asarray(alone, float)).tolist() == [False, True, False, False]
    assert np.isnan(np.asarray(gradient, float)).tolist() == [[row == 1] * 5 for row in range(4)]


@pytest.mark.parametrize(
    ("argument", "bad"),
    [
        ("target", -SOFT),
        ("row_weight", np.array([1.0, -1, 1, 1])),
        ("class_weight", np.array([1.0, np.nan, 1, 1, 1])),
        ("normalizer", np.asarray(-1.0)),
    ],
)
def test_what_would_raise_is_nan_when_traced(argument, bad):
    def loss(value):
        return xe.cross_entropy(jnp.asarray(LOGITS), **({"target": SOFT} | {argument: value}))

    with pytest.raises(ValueError, match=argument):
        loss(jnp.asarray(bad))
    assert np.isnan(float(jax.jit(loss)(jnp.asarray(bad))))


def test_labels_that_cannot_be_read_are_not_checked_even_where_that_is_asked_for():
    loss = jax.jit(lambda x, y: xe.cross_entropy(x, y, reduction="none", check_labels=True))
    np.testing.assert_array_equal(loss(jnp.zeros((2, 1)), jnp.array([0, 1])), [0.0, np.nan])


def test_a_probability_outside_the_unit_interval_is_nan_when_traced():
    p = jnp.array([[0.5, 1.5], [0.25, 0.75]])
    loss = lambda p: xe.cross_entropy(p, jnp.array([1, 1]), inputs="probs", reduction="none")  # noqa: E731
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        loss(p)
    close(jax.jit(loss)(p), [np.nan, -np.log(0.75)])


def test_an_ignored_row_leaks_nothing_into_a_traced_gradient():
    x = jnp.asarray(LOGITS).at[1].set(jnp.nan)
    labels = jnp.array([0, -100, 2, 2])
    value, gradient = jax.jit(jax.value_and_grad(lambda x, t: xe.cross_entropy(x, t)))(x, labels)
    kept = np.array([0, 2, 3])
    expected = xe.cross_entropy_value_and_grad(LOGITS[kept], LABELS[kept])
    close(value, expected[0])
    close(gradient[kept], expected[1])
    assert (np.asarray(gradient[1]) == 0).all()


def test_no_rows_stay_connected():
    value, gradient = jax.value_and_grad(lambda x: xe.cross_entropy(x, jnp.zeros(0, int)))(jnp.zeros((0, 3)))
    assert float(value) == 0
    assert gradient.shape == (0, 3)


def test_the_bits_of_a_product_are_not_mixed_with_the_difference():
    """XLA computes scale * x - m as one fused multiply-add: then no entry is the maximum, and log(0) the loss."""
    with jax.enable_x64(False):
        x = jnp.asarray(np.random.default_rng(7).normal(0, 3, (200, 16)), jnp.float32)
        labels = jnp.asarray(np.random.default_rng(8).integers(0, 16, 200))
        scale = jnp.float32(1.7)

        def compiled(x, scale):
            return xe.cross_entropy(x * scale, labels, reduction="none")

        fused = jax.jit(compiled)(x, scale)
        exact = xe.cross_entropy(np.asarray(x * scale, float), np.asarray(labels), reduction="none")
        np.testing.assert_allclose(np.asarray(fused), exact, rtol=5e-7)
        capped = jax.jit(lambda x: xe.cross_entropy(x, labels, softcap=5.0, reduction="none"))(x)
        exact = xe.cross_entropy(np.asarray(x, float), np.asarray(labels), softcap=5.0, reduction="none")
        np.testing.assert_allclose(np.asarray(capped), exact, rtol=2e-6)


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_numpy_arrays_beside_jax_arrays():
    assert isinstance(xe.cross_entropy(jnp.asarray(LOGITS), LABELS), jax.Array)
    assert isinstance(xe.cross_entropy(LOGITS, jnp.asarray(LABELS)), jax.Array)


def test_out_is_refused():
    with pytest.raises(TypeError, match="out: JAX arrays cannot be written to"):
        xe.cross_entropy_value_and_grad(jnp.asarray(LOGITS), LABELS, out=jnp.asarray(LOGITS))


def test_labels_that_32_bits_cannot_hold_are_refused():
    """JAX keeps the low half: 2^32 + 1 would be class 1."""
    with jax.enable_x64(False), pytest.raises(ValueError, match="beyond int32"):
        xe.cross_entropy(jnp.asarray(LOGITS, jnp.float32), np.array([0, 2**32 + 1, 2, 2]))


def test_complex_logits_are_refused():
    with pytest.raises(TypeError, match="logits must hold real numbers"):
        xe.cross_entropy(jnp.ones((2, 3), complex), jnp.array([0, 1]))
