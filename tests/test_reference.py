"""The oracle itself, against values worked out by hand and against PyTorch in float64."""

import numpy as np
import pytest
import reference
from mpmath import mp, mpf

ALMOST = mpf(10) ** -35


def close(actual, expected, within=ALMOST):
    actual, expected = (np.ravel(np.asarray(values, dtype=object)) for values in (actual, expected))
    for a, e in zip(actual, expected, strict=True):
        assert abs(mpf(a) - mpf(e)) <= within * max(1, abs(mpf(e))), (mp.nstr(mpf(a), 40), mp.nstr(mpf(e), 40))


def test_two_equal_logits_lose_one_bit():
    exact = reference.cross_entropy([[1.5, 1.5]], [0])
    close(exact.value, mp.log(2))
    close(exact.gradient, [mpf(-1) / 2, mpf(1) / 2])
    close(reference.cross_entropy([[1.5, 1.5]], [0], unit="bits").value, 1)


def test_the_target_with_probability_three_quarters():
    """Odds 3 : 1, so p = 3/4: loss log(4/3), gradient p - t, Hessian [[p q, -p q], [-p q, p q]] = 3/16."""
    exact = reference.cross_entropy([[float(np.log(3.0)), 0.0]], [0])
    p = 1 / (1 + mp.exp(-mpf(float(np.log(3.0)))))
    close(exact.value, -mp.log(p))
    close(exact.gradient, [p - 1, 1 - p])
    close(exact.hvp(np.array([[1.0, 0.0]])), [p * (1 - p), -p * (1 - p)])
    assert abs(p - mpf("0.75")) < 1e-16


def test_a_tiny_loss_has_all_its_digits():
    """1 + e^-209 differs from 1 in the 91st digit."""
    exact = reference.cross_entropy([[209.0, 0.0]], [0])
    with mp.workdps(200):
        tiny = mp.exp(-209)
        close(exact.value / tiny, [1 - tiny / 2], mpf("1e-75"))
        close(exact.gradient / tiny, [-1 / (1 + tiny), 1 / (1 + tiny)])


def test_the_closed_form_of_a_plain_row_is_the_differentiated_loss():
    logits = np.array([[3.25, -1.5, 0.0, 700.0, 699.0], [-40.0, 0.5, 0.5, -np.inf, 0.25]])
    for row, label in zip(logits, [4, 2], strict=True):
        value, gradient = reference.plain_row(tuple(mpf(v) for v in row), label)
        exact = reference.cross_entropy([row], [label])
        close(value, exact.value)
        # A central difference has a relative error of STEP^2 / 6, the same at every size.
        for a, b in zip(gradient, exact.gradient[0], strict=True):
            assert abs(a - b) <= ALMOST * abs(a)


def test_smoothing_class_weights_and_the_denominator_by_hand():
    """p = (1/2, 1/4, 1/4), w = (1, 2, 4), label 1, e = 1/4: q = w (3/4 t + 1/12)."""
    logits = np.log2([[2.0, 1.0, 1.0]]) * float(np.log(2.0))
    p = [mp.exp(v) for v in reference.log_softmax([mpf(v) for v in logits[0]])]
    q = [mpf(1) / 12, 2 * (mpf(3) / 4 + mpf(1) / 12), mpf(4) / 12]
    exact = reference.cross_entropy(logits, [1], class_weight=[1.0, 2.0, 4.0], label_smoothing=0.25)
    close(exact.value, sum(-a * mp.log(b) for a, b in zip(q, p, strict=True)) / 2)
    close(exact.gradient, [(sum(q) * b - a) / 2 for a, b in zip(q, p, strict=True)])


def test_softcap_temperature_bias_mask_and_z_loss_by_hand():
    options = {"softcap": 2.0, "temperature": 0.5, "class_bias": [0.25, 0.0, 0.0], "z_loss": 0.5}
    exact = reference.cross_entropy([[0.5, -1.0, 3.0]], [0], class_mask=[True, True, False], **options)
    z = [2 * mp.tanh((mpf(1) + mpf("0.25")) / 2), 2 * mp.tanh(mpf(-2) / 2)]
    lse = mp.log(mp.exp(z[0]) + mp.exp(z[1]))
    close(exact.value, lse - z[0] + lse**2 / 2)
    slope = [2 * mp.sech(mpf("1.25") / 2) ** 2, 2 * mp.sech(1) ** 2]
    p = [mp.exp(v - lse) for v in z]
    close(exact.gradient, [slope[0] * ((1 + lse) * p[0] - 1), slope[1] * (1 + lse) * p[1], 0])


def test_focal_by_hand():
    """p = 1/4: loss (3/4)^2 log 4; d/dl of l (1 - e^-l)^2 at l = log 4 is 9/16 + 2 l (1/4) (3/4)."""
    exact = reference.cross_entropy([[0.0, 0.0, 0.0, 0.0]], [2], focal_gamma=2.0)
    close(exact.value, mpf(9) / 16 * mp.log(4))
    slope = mpf(9) / 16 + mp.log(4) * 3 / 8
    close(exact.gradient, [slope / 4, slope / 4, -3 * slope / 4, slope / 4])


def test_ignored_rows_masses_and_denominators_by_hand():
    logits, log2 = np.zeros((3, 2)), mp.log(2)
    close(reference.cross_entropy(logits, [0, -100, 1]).value, log2)
    close(reference.cross_entropy(logits, [0, 7, 1], ignore_index=7, reduction="none").value, [log2, 0, log2])
    close(reference.cross_entropy(logits, [-100] * 3).value, 0)
    t = [[0.5, 0.5], [2.0, 0.0], [0.0, 0.0]]
    close(reference.cross_entropy(logits, t, reduction="none").value, [log2, 2 * log2, 0])
    close(reference.cross_entropy(logits, t, normalizer="rows").value, log2)
    close(reference.cross_entropy(logits, t, row_weight=[4.0, 1.0, 0.0]).value, log2)
    close(reference.cross_entropy(logits, t, row_weight=[4.0, 1.0, 0.0], normalizer="rows").value, 3 * log2)
    sparse = (np.array([[0, 1], [1, -100], [-100, -100]]), np.array([[0.5, 0.5], [2.0, 9.0], [9.0, 9.0]]))
    close(reference.cross_entropy(logits, sparse, reduction="none").value, [log2, 2 * log2, 0])


def test_probabilities_are_taken_as_they_are():
    exact = reference.cross_entropy([[0.5, 0.25]], [[1.0, 2.0]], inputs="probs", reduction="sum")
    close(exact.value, 5 * mp.log(2))
    close(exact.gradient, [-2, -8])
    close(exact.hvp(np.array([[1.0, 1.0]])), [4, 32])
    exact = reference.cross_entropy([[-1.0, -2.0]], [1], inputs="log_probs")
    close(exact.value, 2)
    close(exact.gradient, [0, -1])


def test_an_infinite_loss_has_the_gradient_of_the_limit():
    exact = reference.cross_entropy([[-np.inf, 0.0, 0.0]], [0])
    assert exact.value == mp.inf
    close(exact.gradient, [-1, 0.5, 0.5])


def test_binary_by_hand():
    p = reference.sigmoid(mpf(2))
    exact = reference.binary_cross_entropy([2.0], [0.25], pos_weight=3.0, reduction="sum")
    close(exact.value, -mpf(3) / 4 * mp.log(p) - mpf(3) / 4 * mp.log(1 - p))
    close(exact.gradient, [-mpf(3) / 4 * (1 - p) + mpf(3) / 4 * p])
    close(
        reference.binary_cross_entropy([2.0], [1], label_smoothing=0.5).value, -0.75 * mp.log(p) - 0.25 * mp.log(1 - p)
    )
    close(reference.binary_cross_entropy([2.0], [0], focal_gamma=2.0).value, -(p**2) * mp.log(1 - p))
    close(reference.binary_cross_entropy([2.0, 5.0], [0, 3], ignore_index=3).value, -mp.log(1 - p))
    close(reference.binary_cross_entropy([0.25], [1], inputs="probs").gradient, [-4])
    close(reference.binary_cross_entropy([-1.0], [0], inputs="log_probs").value, -mp.log(1 - mp.exp(-1)))
    close(reference.binary_cross_entropy([1e4, -1e4], [0, 0], reduction="none").value, [10000, 0])


def test_distributions_by_hand():
    half = mpf(1) / 2
    close(reference.entropy([half, half / 2, half / 2, mpf(0)]), 1.5 * mp.log(2))
    close(reference.kl_divergence([half, half, mpf(0)], [half / 2, half, half / 2]), mp.log(2) / 2)
    assert reference.kl_divergence([mpf(1)], [mpf(0)]) == mp.inf
    close(reference.softmax([mpf(0), mp.log(3)]), [0.25, 0.75])


# -- against PyTorch, an implementation that shares nothing with ours -------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_agree_with_pytorch(torch, reduction, smoothing, weighted):
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(0, 4, (6, 5)), np.array([0, 4, -100, 2, 1, 1])
    weight = rng.random(5) if weighted else None
    x = torch.tensor(logits, requires_grad=True)
    value = torch.nn.functional.cross_entropy(
        x,
        torch.tensor(labels),
        weight=None if weight is None else torch.tensor(weight),
        label_smoothing=smoothing,
        reduction=reduction,
    )
    value.sum().backward()
    exact = reference.cross_entropy(logits, labels, class_weight=weight, label_smoothing=smoothing, reduction=reduction)
    close(value.detach().numpy(), exact.value, mpf("1e-14"))
    close(x.grad.numpy(), exact.gradient, mpf("1e-14"))


def test_hessian_vector_products_agree_with_pytorch(torch):
    rng = np.random.default_rng(4)
    logits, t, vector = rng.normal(0, 2, (3, 4)), rng.random((3, 4)), rng.normal(0, 1, (3, 4))

    def loss(x):
        z = 3.0 * torch.tanh(x / 3.0)
        return -(torch.tensor(t) * torch.log_softmax(z, -1)).sum() + 0.1 * (torch.logsumexp(z, -1) ** 2).sum()

    product = torch.autograd.functional.hvp(loss, torch.tensor(logits), torch.tensor(vector))[1]
    exact = reference.cross_entropy(logits, t, softcap=3.0, z_loss=0.1, reduction="sum")
    close(product.numpy(), exact.hvp(vector), mpf("1e-14"))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_binary_agrees_with_pytorch(torch, reduction):
    rng = np.random.default_rng(5)
    logits, t, pos_weight = rng.normal(0, 3, (4, 3)), rng.random((4, 3)), rng.random(3)
    x = torch.tensor(logits, requires_grad=True)
    value = torch.nn.functional.binary_cross_entropy_with_logits(
        x, torch.tensor(t), pos_weight=torch.tensor(pos_weight), reduction=reduction
    )
    value.sum().backward()
    exact = reference.binary_cross_entropy(logits, t, pos_weight=pos_weight, reduction=reduction)
    close(value.detach().numpy().ravel() if reduction == "none" else value.detach().numpy(), exact.value, mpf("1e-14"))
    close(x.grad.numpy().ravel(), exact.gradient.ravel(), mpf("1e-14"))
