"""Our losses under optax's names: the same numbers on ordinary input, and every difference that the module lists."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
import jax.numpy as jnp  # noqa: E402

import crossentropy.optax as ours  # noqa: E402

theirs = optax.losses
RNG = np.random.default_rng(3)
LOGITS = jnp.asarray(RNG.normal(0, 3, (4, 3, 5)), jnp.float32)
SOFT = jnp.asarray(RNG.random((4, 3, 5)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 5, (4, 3)))
WHERE = jnp.asarray(RNG.random((4, 3, 5)) < 0.7).at[0, 0].set(False).at[0, 1].set(True)
LOG_P = jax.nn.log_softmax(LOGITS)

SAME = [
    ("softmax_cross_entropy", (LOGITS, SOFT), {}),
    ("softmax_cross_entropy", (LOGITS, SOFT), {"axis": 1}),
    ("softmax_cross_entropy", (LOGITS, SOFT), {"axis": (0, 2)}),
    ("softmax_cross_entropy", (LOGITS, SOFT), {"axis": None}),
    ("softmax_cross_entropy", (LOGITS, SOFT[:1, :1]), {}),
    ("softmax_cross_entropy", (LOGITS, SOFT), {"where": WHERE}),
    ("softmax_cross_entropy", (LOGITS, SOFT), {"where": LABELS > 1}),
    ("softmax_cross_entropy_with_integer_labels", (LOGITS, LABELS), {}),
    ("softmax_cross_entropy_with_integer_labels", (LOGITS, LABELS), {"where": LABELS > 1}),
    ("softmax_cross_entropy_with_integer_labels", (LOGITS, jnp.arange(4)), {"axis": (1, 2)}),
    ("safe_softmax_cross_entropy", (LOGITS, SOFT), {}),
    ("sigmoid_binary_cross_entropy", (LOGITS, SOFT), {}),
    ("sigmoid_binary_cross_entropy", (LOGITS, SOFT[0]), {}),
    ("sigmoid_focal_loss", (LOGITS, SOFT), {}),
    ("sigmoid_focal_loss", (LOGITS, jnp.round(SOFT)), {"alpha": 0.25, "gamma": 0.5}),
    ("kl_divergence", (LOG_P, SOFT), {}),
    ("kl_divergence", (LOG_P, SOFT), {"axis": (1, 2), "where": WHERE}),
    ("smooth_labels", (SOFT, 0.1), {}),
    ("smooth_labels", (SOFT, 0.1), {"axis": 1, "where": WHERE}),
]


@pytest.mark.parametrize(("name", "arguments", "options"), SAME)
def test_the_same_numbers_on_ordinary_input(name, arguments, options):
    """Values, and gradients to both arguments: optax's labels can be differentiated as well."""
    positions = [i for i, a in enumerate(arguments) if jnp.issubdtype(jnp.asarray(a).dtype, jnp.floating)]
    if name == "sigmoid_focal_loss" and arguments[1] is not SOFT:
        positions = [0]  # see test_a_hard_label_has_the_whole_derivative_of_the_focal_loss

    def both(module):
        def total(*arguments):
            value = getattr(module, name)(*arguments, **options)
            return (value * jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)).sum(), value

        return jax.jit(jax.grad(total, argnums=positions, has_aux=True))

    gradients, value = both(ours)(*arguments)
    their_gradients, expected = both(theirs)(*arguments)
    assert value.shape == expected.shape
    assert value.dtype == expected.dtype
    np.testing.assert_allclose(np.asarray(value), np.asarray(expected), rtol=3e-5, atol=1e-6)
    for found, wanted in zip(gradients, their_gradients, strict=True):
        same = ~np.isnan(np.asarray(wanted))  # optax's gradient of a row that `where` leaves out can be NaN under jit
        assert not np.isnan(np.asarray(found)).any()
        assert same.mean() > 0.4
        np.testing.assert_allclose(np.asarray(found)[same], np.asarray(wanted)[same], rtol=3e-4, atol=1e-5)


def test_every_name_is_optax_s():
    for name in ours.__all__:
        assert callable(getattr(theirs, name))


# -- the differences, in the order of the module's table ---------------------------------------------------------------


def test_small_losses_are_not_zero():
    logits, label = jnp.array([[20.0, 0.0, 0.0]]), jnp.array([0])
    assert theirs.softmax_cross_entropy_with_integer_labels(logits, label)[0] == 0
    loss = ours.softmax_cross_entropy_with_integer_labels
    value, gradient = jax.value_and_grad(lambda x: loss(x, label)[0])(logits)
    np.testing.assert_allclose(value, 4.122307e-09, rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0], -4.122307e-09, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_is_never_another_class(label):
    logits, labels = jnp.array([[1.0, 2.0, 4.0]]), jnp.array([label])
    loss = ours.softmax_cross_entropy_with_integer_labels
    with pytest.raises(IndexError, match=rf"target\[0\] = {label} is outside \[0, 3\)"):
        loss(logits, labels)
    assert np.isnan(jax.jit(loss)(logits, labels)[0])
    if label == -1:
        theirs_ = theirs.softmax_cross_entropy_with_integer_labels
        assert theirs_(logits, labels)[0] == theirs_(logits, jnp.array([2]))[0]


def test_an_impossible_class_counts_nothing():
    logits, labels = jnp.array([[0.0, 0.0, -jnp.inf]]), jnp.array([[1.0, 0.0, 0.0]])
    assert np.isnan(theirs.softmax_cross_entropy(logits, labels)[0])
    value, gradient = jax.value_and_grad(lambda x: ours.softmax_cross_entropy(x, labels)[0])(logits)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient[0], [-0.5, 0.5, 0.0], rtol=1e-6)


def test_labels_are_no_negative_numbers():
    labels = jnp.array([[1.5, -0.5, 0.0]])
    with pytest.raises(ValueError, match=r"target\[0, 1\] = -0.5"):
        ours.softmax_cross_entropy(jnp.zeros((1, 3)), labels)
    assert np.isnan(jax.jit(ours.softmax_cross_entropy)(jnp.zeros((1, 3)), labels)[0])


def test_the_loss_of_sixteen_bits_is_float32():
    logits = LOGITS.astype(jnp.bfloat16)
    assert theirs.softmax_cross_entropy_with_integer_labels(logits, LABELS).dtype == jnp.bfloat16
    value = ours.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    assert value.dtype == jnp.float32
    expected = theirs.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), LABELS)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_a_label_that_is_left_out_cannot_occur():
    where = jnp.array([[False, True, True]])
    loss = ours.softmax_cross_entropy_with_integer_labels(jnp.zeros((1, 3)), jnp.array([0]), where=where)
    assert loss[0] == np.inf


def test_a_small_focal_loss_keeps_its_digits():
    logits, labels = jnp.array([40.0]), jnp.array([1.0])
    tail = 4.248354255291589e-18
    np.testing.assert_allclose(ours.sigmoid_focal_loss(logits, labels, gamma=1.0)[0], tail**2, rtol=1e-6)
    gradient = jax.grad(lambda x: ours.sigmoid_focal_loss(x, labels, gamma=0.5)[0])(jnp.array([200.0]))
    assert gradient[0] == 0


def test_a_hard_label_has_the_whole_derivative_of_the_focal_loss():
    """Against finite differences of the formula; optax's logsumexp leaves out the terms of weight 0."""

    def loss(t, x=0.7):
        p = 1 / (1 + np.exp(-x))
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)) * (t * (1 - p) + (1 - t) * p) ** 2

    exact = (loss(1 + 1e-6) - loss(1 - 1e-6)) / 2e-6
    found = {m: float(jax.grad(lambda t, m=m: m.sigmoid_focal_loss(jnp.float32(0.7), t))(1.0)) for m in (ours, theirs)}
    np.testing.assert_allclose(found[ours], exact, rtol=1e-5)
    assert abs(found[theirs] - exact) > 0.05


def test_a_prediction_of_zero_off_the_target_counts_nothing():
    log_p, t = jnp.array([0.0, -jnp.inf]), jnp.array([1.0, 0.0])
    assert np.isnan(theirs.kl_divergence(log_p, t))
    assert ours.kl_divergence(log_p, t) == 0
    assert np.isfinite(np.asarray(jax.grad(lambda t: ours.kl_divergence(log_p, t))(t))).all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("softmax_cross_entropy_with_integer_labels", (LOGITS, SOFT), "labels must be integers"),
        ("smooth_labels", (LABELS, 0.1), "labels must be floating"),
    ],
)
def test_wrong_dtypes_are_refused(name, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(ours, name)(*arguments)
