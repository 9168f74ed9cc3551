"""Which column is what, and which class a label means."""

import pytest

from crossentropy.evaluation.batches import PredictionError
from crossentropy.evaluation.class_index import ClassIndex
from crossentropy.evaluation.columns import class_names, find_columns


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["p_cat", "p_car"], ["cat", "car"]),  # what they share is "p_ca", what they mean is not
        (["prob.cat", "prob.dog"], ["cat", "dog"]),
        (["p_new york", "p_new jersey"], ["york", "jersey"]),
        (["p0", "p1", "p10", "p11"], ["0", "1", "10", "11"]),
        (["class10", "class11"], ["10", "11"]),
        (["P(cat)", "P(dog)"], ["cat", "dog"]),
        (["pcat", "pdog"], ["cat", "dog"]),
        (["cat", "car"], ["cat", "car"]),
        (["cat", "dog"], ["cat", "dog"]),
        (["p_", "p_x"], ["p_", "p_x"]),  # a class would be left without a name
        (["p_ä", "p_日本"], ["ä", "日本"]),
    ],
)
def test_class_names_are_the_columns_without_their_shared_prefix(columns, names):
    assert class_names(columns) == tuple(names)


def test_columns_are_found_by_their_usual_names():
    kinds = {"": "integer", "Label": "text", "p_a": "float", "p_b": "float", "sample_weight": "float", "loss": "float"}
    columns = find_columns(kinds)
    assert (columns.labels, columns.predictions, columns.weight) == (("Label",), ("p_a", "p_b"), "sample_weight")
    assert columns.id == ""
    assert columns.unused == ("loss",)


def test_without_a_usual_prefix_all_floating_columns_are_classes():
    columns = find_columns({"cat": "float", "y": "text", "dog": "float", "fold": "integer"})
    assert columns.predictions == ("cat", "dog")
    assert columns.unused == ("fold",)


@pytest.mark.parametrize(
    ("kinds", "inputs", "layout", "classes"),
    [
        ({"p_a": "float", "p_b": "float", "logit_a": "float", "logit_b": "float"}, "probs", "wide", ("a", "b")),
        ({"logit_a": "float", "logit_b": "float"}, "logits", "wide", ("a", "b")),
        ({"log_prob_a": "float", "log_prob_b": "float"}, "log_probs", "wide", ("a", "b")),
        ({"p": "float"}, "probs", "single", ("0", "1")),
        ({"score": "float"}, "probs", "single", ("0", "1")),
        ({"logit": "float"}, "logits", "single", ("0", "1")),
        ({"probs": "list", "embedding": "list"}, "probs", "list", ()),
        ({"logits": "list"}, "logits", "list", ()),
        ({"softmax": "list"}, "probs", "list", ()),
    ],
)
def test_what_the_columns_hold_goes_by_their_names(kinds, inputs, layout, classes):
    columns = find_columns({"label": "integer", **kinds})
    assert (columns.inputs, columns.layout, columns.classes) == (inputs, layout, classes)
    assert find_columns({"label": "integer", **kinds}, classes=list(columns.predictions)).inputs == inputs
    if inputs == "probs" and len(kinds) == 4:
        assert find_columns({"label": "integer", **kinds}, inputs="logits").predictions == ("logit_a", "logit_b")


def test_named_columns_override_and_keep_their_order():
    kinds = {"y": "text", "p_a": "float", "p_b": "float", "q_b": "float", "q_a": "float", "key": "text", "k": "text"}
    assert find_columns(kinds).predictions == ("p_a", "p_b")
    assert find_columns(kinds, classes="q_*").classes == ("b", "a")
    assert find_columns(kinds, classes=["q_a", "q_b"], id="k", label="key").classes == ("a", "b")
    assert find_columns(kinds).id == "key"
    assert find_columns(kinds, id="k").id == "k"


@pytest.mark.parametrize(
    ("kinds", "options", "message"),
    [
        ({"p_a": "float", "p_b": "float"}, {}, "no label column among 'p_a', 'p_b'"),
        ({"0.1": "float", "0.9": "float"}, {}, "missing from the first line"),
        (
            {"label": "text", "target": "text", "p_a": "float", "p_b": "float"},
            {},
            "any of the columns 'label', 'target'",
        ),
        ({"label": "text"}, {}, "there are no predictions among"),
        ({"label": "text", "p_a": "float", "p_b": "text"}, {}, "is 'p_a' the one column of predictions\\? 'p_b'"),
        ({"label": "text", "p_a": "float", "p_b": "float"}, {"label": "labl"}, "no label column 'labl'.*'label' meant"),
        ({"label": "text", "p_a": "float", "p_b": "float"}, {"id": "nr"}, "no id column 'nr'"),
        ({"label": "text", "p_a": "float", "p_b": "float"}, {"classes": ["q_*"]}, "no column is named 'q_\\*'"),
        (
            {"label": "text", "p_a": "float", "p_b": "text"},
            {"classes": ["p_*"]},
            "'p_b' is meant to hold .* holds text",
        ),
        ({"y": "float", "p_a": "float", "p_b": "float"}, {"classes": ["*"]}, "'y' is the label"),
        ({"y": "text", "id": "float", "a": "float"}, {"classes": ["a", "id"]}, "'id' is the id and cannot hold pred"),
        ({"y": "text", "a": "float", "b": "float"}, {"classes": ["*"], "by": ["b"], "label": "y"}, "'y' is the label"),
        ({"y": "text", "a": "float", "b": "float"}, {"classes": ["a", "b"], "weight": "b"}, "'b' is the weight and"),
        ({"y": "text", "a": "float", "b": "float"}, {"classes": ["a", "b"], "by": ["b"]}, "'b' is the column to split"),
        ({"y": "float", "p_a": "float", "p_b": "float"}, {"weight": "y"}, "'y' cannot be the weight and the label"),
        (
            {"y": "text", "k": "float", "p_a": "float", "p_b": "float"},
            {"weight": "k", "id": "k"},
            "'k' cannot be the weight and the id",
        ),
        (
            {"y": "text", "k": "float", "p_a": "float", "p_b": "float"},
            {"weight": "k", "by": ["k"]},
            "'k' cannot be the weight and the column to split by",
        ),
        (
            {"y": "text", "weight": "text", "p_a": "float", "p_b": "float"},
            {},
            "'weight' is meant to hold weights and h",
        ),
    ],
)
def test_columns_that_cannot_be_told(kinds, options, message):
    with pytest.raises(PredictionError, match=message):
        find_columns(kinds, **options)


@pytest.mark.parametrize(
    ("label", "position"),
    [("cat", 0), ("p_cat", 0), ("dog", 1), (1, 1), ("1", 1), (1.0, 1), ("1.0", 1), (b"dog", 1), (0, 0)],
)
def test_a_label_is_a_class_name_else_a_position(label, position):
    assert ClassIndex(["cat", "dog"], ["p_cat", "p_dog"]).position(label) == position


@pytest.mark.parametrize(
    "label", ["cow", 2, -1, "-1", "01", 0.5, float("nan"), "", " cat", "٣", None, 10**30, "1" * 5000]
)
def test_a_label_without_a_class(label):
    with pytest.raises(PredictionError, match=r"is no class"):
        ClassIndex(["cat", "dog"]).position(label)


def test_a_column_with_a_named_role_is_not_found_for_another():
    kinds = {"label": "text", "id": "float", "weight": "float", "p_a": "float", "p_b": "float"}
    assert find_columns(kinds, weight="id").id is None
    assert find_columns(kinds, by=["weight"]).weight is None
    assert find_columns(kinds, group="weight").weight is None
    assert find_columns(kinds, id="weight").weight is None
    assert find_columns(kinds, by=["id"]).id == "id"  # a value to show and to split by is no contradiction


def test_all_labels_are_read_by_one_rule():
    index = ClassIndex(["1", "2", "3"])
    assert index.position("0", row=4) == 0  # by position alone
    with pytest.raises(
        PredictionError, match=r"'3' can only be the name of a class and label '0' in row 4 only the pos"
    ):
        index.position("3", row=7)
    index = ClassIndex(["0", "1", "dog"])
    assert index.position("1", row=0) == 1  # both, and the same: no evidence
    assert index.position("dog", row=1) == 2
    assert index.position("0", row=2) == 0
    with pytest.raises(PredictionError, match=r"'2' can only be the position of a class and label 'dog' in row 1"):
        index.position("2", row=3)
    index = ClassIndex(["cat", "dog"], ["p_cat", "p_dog"])
    assert [index.position(label) for label in ("cat", "p_dog")] == [0, 1]  # two names


def test_a_boolean_is_a_name_and_no_position():
    for label in (True, False):
        with pytest.raises(PredictionError, match=rf"label {label} is no class"):
            ClassIndex(["yes", "no"]).position(label)
        assert ClassIndex(["yes", "no"], kind="position").position(label) == label
        assert ClassIndex(["true", "false"]).position(label) == (not label)
        assert ClassIndex(["False", "True"]).position(label) == label
        assert ClassIndex(["1", "0"]).position(label) == (not label)


def test_a_close_name_is_suggested():
    with pytest.raises(PredictionError, match=r"was 'airplane' meant"):
        ClassIndex(["airplane", "ship"]).position("aeroplane")


def test_a_label_that_is_a_name_and_another_position():
    classes = ["1", "2", "3"]
    with pytest.raises(PredictionError, match=r"'1' is the name of class 0 and also the position of class '2'"):
        ClassIndex(classes).position("1")
    assert ClassIndex(classes).position(3) == 2  # no class has the position 3
    assert ClassIndex(classes).position(0) == 0  # no class has the name 0
    assert ClassIndex(classes, kind="name").position(1) == 0
    assert ClassIndex(classes, kind="position").position(1) == 1
    with pytest.raises(PredictionError, match=r"the classes are '1', '2', '3'$"):
        ClassIndex(classes, kind="name").position(0)
    assert [ClassIndex(["0", "1"]).position(i) for i in (0, 1)] == [0, 1]  # possible twice, and the same
