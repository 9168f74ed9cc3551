"""The cases where torch.nn is wrong or silent, and what is given here: the table of docs/torch.md, row by row."""

import re

import pytest

torch = pytest.importorskip("torch")

import crossentropy as xe  # noqa: E402
from crossentropy.torch import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss  # noqa: E402

F = torch.nn.functional
INF = float("inf")


def slope(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


def test_a_batch_that_is_all_ignored():
    logits, labels = torch.randn(3, 4, requires_grad=True), torch.full((3,), -100)
    assert torch.isnan(F.cross_entropy(logits, labels))
    loss = CrossEntropyLoss()(logits, labels)
    assert loss == 0
    assert torch.equal(slope(loss, logits), torch.zeros(3, 4))


@pytest.mark.parametrize("rows", [0, 2])
def test_a_mean_over_nothing(rows):
    logits, labels, weight = torch.zeros(rows, 3, requires_grad=True), torch.zeros(rows).long(), torch.zeros(3)
    assert torch.isnan(F.cross_entropy(logits, labels, weight))
    loss = CrossEntropyLoss(weight)(logits, labels)
    assert loss == 0
    assert torch.equal(slope(loss, logits), torch.zeros(rows, 3))
    if rows == 0:
        empty = torch.zeros(0, requires_grad=True)
        assert torch.isnan(F.binary_cross_entropy_with_logits(empty, empty.detach()))
        assert BCEWithLogitsLoss()(empty, empty.detach()) == 0


def test_infinite_logits_that_are_right():
    logits, target = torch.tensor([INF, -INF], requires_grad=True), torch.tensor([1.0, 0.0])
    assert torch.isnan(F.binary_cross_entropy_with_logits(logits, target))
    loss = BCEWithLogitsLoss()(logits, target)
    assert loss == 0
    assert torch.equal(slope(loss, logits), torch.zeros(2))
    assert BCEWithLogitsLoss()(logits, 1 - target) == INF


@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_nan_in_an_ignored_row_does_not_reach_its_gradient(bad):
    logits = torch.tensor([[0.0, 1.0], [bad, 0.0]], requires_grad=True)
    labels = torch.tensor([0, -100])
    assert torch.isnan(slope(F.cross_entropy(logits, labels), logits)[1]).any()
    gradient = slope(CrossEntropyLoss()(logits, labels), logits)
    assert torch.equal(gradient[1], torch.zeros(2))
    assert torch.equal(gradient[:1], slope(CrossEntropyLoss()(logits[:1], labels[:1]), logits)[:1])


def test_a_class_that_cannot_occur_and_has_no_target():
    logits = torch.tensor([[1.0, -INF, 0.0]], requires_grad=True)
    target = torch.tensor([[0.5, 0.0, 0.5]])
    assert torch.isnan(F.cross_entropy(logits, target))
    loss = CrossEntropyLoss()(logits, target)
    assert loss.item() == pytest.approx(0.8132617, rel=1e-6)
    assert torch.isfinite(slope(loss, logits)).all()


def test_a_small_loss_keeps_its_digits():
    logits, labels = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([0])
    assert F.cross_entropy(logits, labels) == 0
    assert CrossEntropyLoss()(logits, labels).item() == pytest.approx(4.1223072e-09, rel=1e-7)


def test_a_mean_of_16_bit_logits_is_not_rounded_to_16_bits():
    logits = torch.linspace(-8, 8, 64).reshape(8, 8).to(torch.bfloat16)
    labels = torch.arange(8)
    exact = F.cross_entropy(logits.double(), labels)
    assert abs(F.cross_entropy(logits, labels).double() - exact) > 1e-3
    loss = CrossEntropyLoss()(logits, labels)
    assert loss.dtype == torch.float32
    assert abs(loss.double() - exact) < 1e-6


def test_a_bfloat16_mean_of_many_rows():
    """torch gives 5.125 for 5.1508: every row's loss, and the mean, have 8 bits there."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1024, 100, generator=generator).bfloat16()
    labels = torch.randint(0, 100, (1024,), generator=generator)
    exact = F.cross_entropy(logits.double(), labels)
    assert abs(F.cross_entropy(logits, labels).double() - exact) > 0.005
    assert abs(CrossEntropyLoss()(logits, labels).double() - exact) < 1e-6


def test_a_float16_sum_does_not_overflow():
    logits, labels = torch.full((1000, 2), 100.0, dtype=torch.float16), torch.zeros(1000, dtype=torch.int64)
    logits[:, 0] = 0
    assert F.cross_entropy(logits, labels, reduction="sum") == INF
    assert CrossEntropyLoss(reduction="sum")(logits, labels) == 100_000


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_one_hots_of_integers_and_booleans(dtype):
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    hot = F.one_hot(labels, 3).to(dtype)
    with pytest.raises(RuntimeError):
        F.cross_entropy(logits, hot)
    torch.testing.assert_close(CrossEntropyLoss()(logits, hot), CrossEntropyLoss()(logits, labels))


def test_bad_weights_are_refused():
    logits, labels = torch.randn(2, 3), torch.tensor([0, 1])
    for bad in (-1.0, float("nan")):
        weight = torch.tensor([1.0, bad, 1.0])
        F.cross_entropy(logits, labels, weight)  # says nothing
        with pytest.raises(ValueError, match=r"class_weight\[1\] = .* must be finite and not negative"):
            CrossEntropyLoss(weight)(logits, labels)


def test_the_gradient_of_16_bit_logits_has_their_dtype():
    for dtype in (torch.bfloat16, torch.float16):
        logits = torch.randn(3, 4).to(dtype).requires_grad_()
        assert slope(CrossEntropyLoss()(logits, torch.tensor([0, 1, 2])), logits).dtype == dtype


def test_the_weighted_mean_of_a_label_and_of_its_one_hot_agree():
    logits, labels, weight = torch.randn(4, 3), torch.tensor([0, 2, 1, 2]), torch.tensor([1.0, 2.0, 5.0])
    hot = F.one_hot(labels, 3).float()
    assert not torch.isclose(F.cross_entropy(logits, labels, weight), F.cross_entropy(logits, hot, weight))
    ours = [xe.cross_entropy(logits, target, class_weight=weight) for target in (labels, hot)]
    torch.testing.assert_close(*ours)


def test_negative_smoothing_is_refused():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    assert F.cross_entropy(logits, labels, label_smoothing=-0.1) == F.cross_entropy(logits, labels)
    with pytest.raises(ValueError, match=re.escape("label_smoothing must be a number in [0, 1), got -0.1")):
        CrossEntropyLoss(label_smoothing=-0.1)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_every_integer_dtype_is_a_label(dtype):
    logits, labels = torch.randn(3, 4), torch.tensor([0, 3, 1])
    assert torch.equal(CrossEntropyLoss()(logits, labels.to(dtype)), CrossEntropyLoss()(logits, labels))


def test_8_bit_labels_of_many_classes():
    """torch compares 8-bit integers in 8 bits: -100 is 156 there, and 300 classes are 44."""
    logits, labels = torch.randn(2, 300), torch.tensor([156, 200], dtype=torch.uint8)
    assert torch.equal(CrossEntropyLoss()(logits, labels), CrossEntropyLoss()(logits, labels.long()))


def test_a_probability_of_zero_costs_infinity():
    p, target = torch.tensor([0.0]), torch.tensor([1.0])
    assert torch.nn.BCELoss()(p, target) == 100
    assert BCELoss()(p, target) == INF


def test_bad_targets_are_refused():
    logits = torch.randn(2, 3)
    with pytest.raises(ValueError, match=re.escape("target[0, 1] = -1.0")):
        CrossEntropyLoss()(logits, torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]]))
    with pytest.raises(IndexError, match=re.escape("target[1] = 3 is outside [0, 3); are the classes counted from 1?")):
        CrossEntropyLoss()(logits, torch.tensor([0, 3]))
    assert torch.nn.BCEWithLogitsLoss()(torch.zeros(1), torch.tensor([7.0])) < 1
    with pytest.raises(ValueError, match=re.escape("target[0] = 7.0 is outside [0, 1]")):
        xe.torch.BCEWithLogitsLoss()(torch.zeros(1), torch.tensor([7.0]))


def test_a_target_below_zero_is_refused_under_smoothing_too():
    """Smoothed, 0.9 x -0.01 + 0.1 / 4 would be a probability."""
    logits, target = torch.randn(2, 4), torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.51, -0.01, 0.5, 0.0]])
    for call in (CrossEntropyLoss(label_smoothing=0.1), smoothed_linear):
        with pytest.raises(ValueError, match=r"target\[1, 1\] = -0.0099"):
            call(logits, target)


def smoothed_linear(logits, target):
    return xe.torch.linear_cross_entropy(logits, torch.eye(4), target, label_smoothing=0.1)


# -- torch.nn's names and ours -----------------------------------------------------------------------------------------


def test_weights_by_our_name_are_torchs_weights():
    logits, labels, weight = torch.randn(4, 3), torch.tensor([0, 2, 1, 2]), torch.tensor([1.0, 2.0, 5.0])
    expected = F.cross_entropy(logits, labels, weight)
    for loss in (
        CrossEntropyLoss(class_weight=weight)(logits, labels),
        CrossEntropyLoss()(logits, labels, class_weight=weight),
        xe.torch.NLLLoss(class_weight=weight)(logits.log_softmax(-1), labels),
        xe.torch.linear_cross_entropy(logits, torch.eye(3), labels, class_weight=weight),
    ):
        torch.testing.assert_close(loss, expected)
    hot = F.one_hot(labels, 3).float()
    expected = F.binary_cross_entropy_with_logits(logits, hot, weight)
    torch.testing.assert_close(xe.torch.BCEWithLogitsLoss(row_weight=weight)(logits, hot), expected)
    torch.testing.assert_close(BCELoss(row_weight=weight)(logits.sigmoid(), hot), expected)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x, y, w: CrossEntropyLoss(w)(x, y, class_weight=w), "class_weight"),
        (lambda x, y, w: xe.torch.linear_cross_entropy(x, torch.eye(3), y, weight=w, class_weight=w), "class_weight"),
        (lambda x, y, w: xe.torch.BCEWithLogitsLoss(w, row_weight=w)(x, x.sigmoid()), "row_weight"),
    ],
)
def test_one_argument_by_two_names_is_refused(call, name):
    with pytest.raises(TypeError, match=f"weight and {name} are two names of one argument"):
        call(torch.randn(2, 3), torch.tensor([0, 2]), torch.ones(3))


def test_what_is_no_tensor_is_named():
    for call in (xe.torch.cross_entropy, xe.torch.binary_cross_entropy_with_logits):
        with pytest.raises(TypeError, match="input must be a tensor, got list"):
            call([[1.0, 2.0]], torch.tensor([0]))
