"""The linear form on JAX: derivatives, transformations and memory; its values are those of NumPy."""

import numpy as np
import pytest

import crossentropy as xe

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

RNG = np.random.default_rng(5)
ROWS, WIDTH, CLASSES = 23, 5, 11
FEATURES = RNG.standard_normal((ROWS, WIDTH)).astype(np.float32)
WEIGHT = RNG.standard_normal((CLASSES, WIDTH)).astype(np.float32)
BIAS = RNG.standard_normal(CLASSES).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, ROWS)
LABELS[3] = -100
SOFT = RNG.random((ROWS, CLASSES)).astype(np.float32)
ARGUMENTS = tuple(map(jnp.asarray, (FEATURES, WEIGHT, BIAS)))
SMALL = 4000  # bytes: several chunks, the last of which overlaps the one before, and blocks of the weight's gradient
PROBLEMS = {
    "labels": (LABELS, {}),
    "soft": (SOFT, {"label_smoothing": 0.1, "z_loss": 0.01}),
    "none": (LABELS, {"reduction": "none", "softcap": 3.0}),
}


def close(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_in_chunks(name):
    target, options = PROBLEMS[name]
    value, gradients = xe.linear_cross_entropy_value_and_grad(FEATURES, WEIGHT, target, bias=BIAS, **options)

    def loss(features, weight, bias):
        each = xe.linear_cross_entropy(features, weight, target, bias=bias, memory_budget=SMALL, **options)
        return each.sum(), each

    found, each = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*ARGUMENTS)
    close(each, value)
    for one, expected in zip(found, gradients, strict=True):
        close(one, expected)


def test_the_budget_makes_chunks():
    """Else the test above would compare one chunk with one."""
    from crossentropy.libraries.jax import linear
    from crossentropy.options import LinearOptions

    _, _, chunks = linear.problem(FEATURES, WEIGHT, LABELS, BIAS, LinearOptions(memory_budget=SMALL))
    assert chunks.count > 1
    assert chunks.rows % chunks.size
    assert chunks.block < CLASSES or chunks.size * chunks.count > ROWS
    assert linear.problem(FEATURES, WEIGHT, LABELS, BIAS, LinearOptions())[2].count == 1
    with pytest.raises(ValueError, match="memory_budget=100 is too small"):
        xe.linear_cross_entropy(*ARGUMENTS[:2], LABELS, memory_budget=100)


def test_an_ignored_row_leaks_nothing():
    features = ARGUMENTS[0].at[3].set(jnp.nan)
    loss = jax.value_and_grad(lambda *a: xe.linear_cross_entropy(*a, LABELS, memory_budget=SMALL), (0, 1))
    value, (to_features, to_weight) = jax.jit(loss)(features, ARGUMENTS[1])
    expected, gradients = xe.linear_cross_entropy_value_and_grad(FEATURES, WEIGHT, LABELS)
    close(value, expected)
    close(to_features, gradients.features)
    close(to_weight, gradients.weight)


def test_a_traced_label_that_is_no_class_makes_the_mean_nan():
    loss = jax.jit(lambda labels: xe.linear_cross_entropy(*ARGUMENTS[:2], labels, reduction="none"))
    assert np.isnan(loss(jnp.asarray(LABELS).at[5].set(CLASSES))).tolist() == [row == 5 for row in range(ROWS)]


def test_derivatives_to_a_soft_target():
    slope = jax.grad(lambda t: xe.linear_cross_entropy(*ARGUMENTS[:2], t, reduction="sum", memory_budget=SMALL))
    close(slope(jnp.asarray(SOFT)), -xe.log_softmax(FEATURES @ WEIGHT.T), 1e-4)


def test_transformations():
    """vmap over models, and forward mode where the rows' losses are asked for."""
    weights = jnp.stack([ARGUMENTS[1], 2 * ARGUMENTS[1]])
    loss = jax.value_and_grad(lambda w: xe.linear_cross_entropy(ARGUMENTS[0], w, LABELS, memory_budget=SMALL))
    values, slopes = jax.jit(jax.vmap(loss))(weights)
    for weight, value, slope in zip(weights, values, slopes, strict=True):
        expected, gradients = xe.linear_cross_entropy_value_and_grad(FEATURES, np.asarray(weight), LABELS)
        close(value, expected)
        close(slope, gradients.weight)
    total = lambda w: xe.linear_cross_entropy(ARGUMENTS[0], w, LABELS, reduction="none", memory_budget=SMALL).sum()  # noqa: E731
    along = jax.jvp(total, (ARGUMENTS[1],), (ARGUMENTS[1],))[1]
    close(along, jnp.vdot(jax.grad(total)(ARGUMENTS[1]), ARGUMENTS[1]), 1e-3)
    mean = lambda w: xe.linear_cross_entropy(ARGUMENTS[0], w, LABELS)  # noqa: E731
    small = jnp.asarray(WEIGHT[:3]), jnp.asarray(LABELS[:3] % 3)
    of_linear = jax.hessian(lambda w: xe.linear_cross_entropy(ARGUMENTS[0][:3], w, small[1], memory_budget=600))(
        small[0]
    )
    of_logits = jax.hessian(lambda w: xe.cross_entropy(ARGUMENTS[0][:3] @ w.T, small[1]))(small[0])
    close(of_linear, of_logits)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(mean, (ARGUMENTS[1],), (ARGUMENTS[1],))


def test_temporary_memory_stays_within_the_budget():
    """By XLA's own account, of value and gradients; the logits alone would take 41 MB."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1024, 64), (10_000, 64))]
    for options in ({}, {"label_smoothing": 0.1}, {"softcap": 30.0}):
        both = lambda f, w, options=options: xe.linear_cross_entropy_value_and_grad(  # noqa: E731
            f, w, jnp.zeros(1024, int), memory_budget=16_000_000, **options
        )
        memory = jax.jit(both).lower(*shapes).compile().memory_analysis()
        assert 0 < memory.temp_size_in_bytes <= 16_000_000, options
