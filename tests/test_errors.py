"""Bad input: which error, and that its message names the argument, the position, the value and what was meant."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import crossentropy as xe

LOGITS = np.zeros((3, 4))
LABELS = np.array([0, 1, 3])
SOFT = np.full((3, 4), 0.25)
NAN, INF = np.nan, np.inf


def replaced(array: np.ndarray, position: Any, value: Any) -> np.ndarray:
    array = np.array(array, dtype=float if isinstance(value, float) else None)
    array[position] = value
    return array


@dataclass
class Wrong:
    """A call that must fail, and the words that its message must hold."""

    name: str
    error: Any
    words: list[str]
    logits: Any = field(default_factory=lambda: LOGITS)
    target: Any = field(default_factory=lambda: LABELS)
    options: dict[str, Any] = field(default_factory=dict)


WRONG = [
    # labels
    Wrong("label too large", IndexError, ["target[1]", "4", "[0, 4)"], target=np.array([0, 4, 1])),
    Wrong("label negative", IndexError, ["target[2]", "-1", "[0, 4)"], target=np.array([0, 0, -1])),
    Wrong("label in a grid", IndexError, ["target[1, 0]", "9"], np.zeros((2, 2, 4)), np.array([[0, 1], [9, 0]])),
    Wrong("label of a single row", IndexError, ["target", "7", "[0, 4)"], np.zeros(4), np.array(7)),
    Wrong(
        "label on another axis",
        IndexError,
        ["target[1, 2]", "5", "[0, 4)"],
        np.zeros((2, 4, 3)),
        np.array([[0, 1, 2], [3, 2, 5]]),
        {"axis": 1},
    ),
    Wrong("float labels", (TypeError, ValueError), ["target", "float64", "integer", "astype(int)"], target=np.ones(3)),
    Wrong("boolean labels", (TypeError, ValueError), ["target", "bool"], target=np.array([True, False, True])),
    Wrong("column of labels", ValueError, ["target", "(3, 1)", "(3,)", "squeeze"], target=LABELS[:, None]),
    Wrong("column of float labels", ValueError, ["target", "(3, 1)"], target=np.ones((3, 1))),
    Wrong("too few labels", ValueError, ["target", "(2,)", "(3, 4)"], target=np.array([0, 1])),
    Wrong("no label axis", ValueError, ["target", "(3, 4, 1)", "(3, 4)"], target=np.zeros((3, 4, 1), int)),
    # dense targets
    Wrong("soft target of another shape", ValueError, ["target", "(3, 5)", "(3, 4)"], target=np.zeros((3, 5))),
    Wrong("negative target", ValueError, ["target[1, 2]", "-0.5"], target=replaced(SOFT, (1, 2), -0.5)),
    Wrong("nan target", ValueError, ["target[2, 0]", "nan"], target=replaced(SOFT, (2, 0), NAN)),
    Wrong("infinite target", ValueError, ["target[0, 3]", "inf"], target=replaced(SOFT, (0, 3), INF)),
    Wrong(
        "negative integer target",
        ValueError,
        ["target[0, 0]", "-1"],
        target=replaced(np.zeros((3, 4), int), (0, 0), -1),
    ),
    Wrong("strings", (TypeError, ValueError), ["target"], target=["cat", "dog", "cat"]),
    # sparse targets
    Wrong(
        "sparse index too large",
        IndexError,
        ["target indices[1, 0]", "4"],
        target=(np.array([[0], [4], [1]]), np.ones((3, 1))),
    ),
    Wrong(
        "sparse index negative",
        IndexError,
        ["target indices[1, 0]", "-2"],
        target=(np.array([[0], [-2], [1]]), np.ones((3, 1))),
    ),
    Wrong(
        "sparse value negative",
        ValueError,
        ["target values[0, 0]", "-1"],
        target=(np.zeros((3, 1), int), -np.ones((3, 1))),
    ),
    Wrong(
        "sparse value nan",
        ValueError,
        ["target values[0, 0]", "nan"],
        target=(np.zeros((3, 1), int), np.full((3, 1), NAN)),
    ),
    Wrong(
        "sparse float indices", TypeError, ["indices", "float64", "integer"], target=(np.zeros((3, 1)), np.ones((3, 1)))
    ),
    Wrong(
        "sparse shapes that differ",
        ValueError,
        ["indices", "values", "(3, 2)", "(3, 1)"],
        target=(np.zeros((3, 2), int), np.ones((3, 1))),
    ),
    Wrong("sparse rows that differ", ValueError, ["sparse", "(2, 1)"], target=(np.zeros((2, 1), int), np.ones((2, 1)))),
    # logits
    Wrong("complex logits", TypeError, ["logits", "complex"], LOGITS.astype(complex)),
    Wrong("strings as logits", (TypeError, ValueError), ["logits"], [["a", "b"]], [0]),
    Wrong("ragged logits", ValueError, ["logits"], [[1.0, 2.0], [1.0]], [0, 1]),
    Wrong("boolean logits", TypeError, ["logits", "bool"], np.ones((3, 4), bool)),
    Wrong("a number as logits", ValueError, ["logits", "class axis"], np.float64(1.0), np.int64(0)),
    Wrong("no classes", ValueError, ["logits", "classes"], np.zeros((3, 0)), LABELS),
    Wrong("axis out of range", (ValueError, IndexError), ["axis", "2", "(3, 4)"], options={"axis": 2}),
    Wrong("axis not an integer", TypeError, ["axis", "0.5"], options={"axis": 0.5}),
    # numbers
    Wrong("smoothing 1", ValueError, ["label_smoothing", "1.0", "[0, 1)"], options={"label_smoothing": 1.0}),
    Wrong("smoothing negative", ValueError, ["label_smoothing", "-0.1"], options={"label_smoothing": -0.1}),
    Wrong("smoothing nan", ValueError, ["label_smoothing", "nan"], options={"label_smoothing": NAN}),
    Wrong("smoothing as text", TypeError, ["label_smoothing", "0.1"], options={"label_smoothing": "0.1"}),
    Wrong("gamma negative", ValueError, ["focal_gamma", "-2"], options={"focal_gamma": -2.0}),
    Wrong("gamma infinite", ValueError, ["focal_gamma", "inf"], options={"focal_gamma": INF}),
    Wrong("z-loss negative", ValueError, ["z_loss", "-1"], options={"z_loss": -1.0}),
    Wrong("soft-cap 0", ValueError, ["softcap", "0", "positive"], options={"softcap": 0.0}),
    Wrong("soft-cap negative", ValueError, ["softcap", "-30"], options={"softcap": -30.0}),
    Wrong("temperature 0", ValueError, ["temperature", "0", "positive"], options={"temperature": 0.0}),
    Wrong("temperature negative", ValueError, ["temperature", "-1"], options={"temperature": -1.0}),
    Wrong("temperature nan", ValueError, ["temperature", "nan"], options={"temperature": NAN}),
    Wrong("temperature by row", (TypeError, ValueError), ["temperature"], options={"temperature": np.ones(3)}),
    Wrong("threads 0", ValueError, ["num_threads", "0"], options={"num_threads": 0}),
    Wrong("ignore_index a float", TypeError, ["ignore_index", "0.5"], options={"ignore_index": 0.5}),
    # weights and masks
    Wrong("class weights too few", ValueError, ["class_weight", "(4,)", "(3,)"], options={"class_weight": np.ones(3)}),
    Wrong(
        "class weight negative",
        ValueError,
        ["class_weight[2]", "-1"],
        options={"class_weight": np.array([1, 1, -1, 1.0])},
    ),
    Wrong(
        "class weight nan", ValueError, ["class_weight[0]", "nan"], options={"class_weight": np.array([NAN, 1, 1, 1.0])}
    ),
    Wrong("row weights too many", ValueError, ["row_weight", "(4,)", "(3,)"], options={"row_weight": np.ones(4)}),
    Wrong("row weight negative", ValueError, ["row_weight[1]", "-2"], options={"row_weight": np.array([1, -2, 1.0])}),
    Wrong("row weight nan", ValueError, ["row_weight[2]", "nan"], options={"row_weight": np.array([1, 1, NAN])}),
    Wrong("row weight infinite", ValueError, ["row_weight[0]", "inf"], options={"row_weight": np.array([INF, 1, 1])}),
    Wrong(
        "mask of numbers", TypeError, ["class_mask", "boolean", "int64"], options={"class_mask": np.array([1, 1, 1, 0])}
    ),
    Wrong("mask too short", ValueError, ["class_mask", "(4,)", "(3,)"], options={"class_mask": np.ones(3, bool)}),
    Wrong("bias too short", ValueError, ["class_bias", "(4,)", "(2,)"], options={"class_bias": np.zeros(2)}),
    Wrong("bias nan", ValueError, ["class_bias", "NaN"], options={"class_bias": np.array([0, NAN, 0, 0])}),
    # words
    Wrong(
        "unknown reduction",
        ValueError,
        ["reduction", "'avg'", "'none'", "'sum'", "'mean'"],
        options={"reduction": "avg"},
    ),
    Wrong("reduction nearly", ValueError, ["reduction", "'men'", "did you mean 'mean'"], options={"reduction": "men"}),
    Wrong("unknown inputs", ValueError, ["inputs", "'probabilities'", "'probs'"], options={"inputs": "probabilities"}),
    Wrong("unknown unit", ValueError, ["unit", "'bit'", "did you mean 'bits'"], options={"unit": "bit"}),
    Wrong("unknown normalizer", ValueError, ["normalizer", "'samples'", "'rows'"], options={"normalizer": "samples"}),
    Wrong("normalizer negative", ValueError, ["normalizer", "-1"], options={"normalizer": -1.0}),
    Wrong("normalizer nan", ValueError, ["normalizer", "nan"], options={"normalizer": NAN}),
    Wrong("normalizer of another shape", ValueError, ["normalizer", "(2,)"], options={"normalizer": np.ones(2)}),
    Wrong("reduction None", (TypeError, ValueError), ["reduction", "None", "'none'"], options={"reduction": None}),
    # options with no joint meaning: both are named
    Wrong(
        "focal and smoothing",
        ValueError,
        ["focal_gamma", "2", "label_smoothing", "0.1"],
        options={"focal_gamma": 2.0, "label_smoothing": 0.1},
    ),
    Wrong(
        "focal and soft targets", ValueError, ["focal_gamma", "soft target"], target=SOFT, options={"focal_gamma": 2.0}
    ),
    Wrong(
        "focal and sparse targets",
        ValueError,
        ["focal_gamma", "soft target"],
        target=(np.zeros((3, 1), int), np.ones((3, 1))),
        options={"focal_gamma": 2.0},
    ),
    *(
        Wrong(
            f"{name} and {inputs}",
            ValueError,
            [name, "inputs", inputs],
            np.full((3, 4), -0.5 if inputs == "log_probs" else 0.5),
            options={name: value, "inputs": inputs},
        )
        for inputs in ("probs", "log_probs")
        for name, value in {
            "temperature": 2.0,
            "softcap": 30.0,
            "class_bias": np.zeros(4),
            "class_mask": np.ones(4, bool),
            "z_loss": 0.1,
        }.items()
    ),
    # probabilities
    Wrong(
        "probability above 1",
        ValueError,
        ["logits[1, 1]", "1.5", "probs"],
        replaced(SOFT, (1, 1), 1.5),
        options={"inputs": "probs"},
    ),
    Wrong(
        "probability below 0",
        ValueError,
        ["logits[0, 0]", "-0.5"],
        replaced(SOFT, (0, 0), -0.5),
        options={"inputs": "probs"},
    ),
    Wrong(
        "log-probability above 0",
        ValueError,
        ["logits[0, 0]", "0.25", "log_probs"],
        SOFT,
        options={"inputs": "log_probs"},
    ),
]

FUNCTIONS = ["cross_entropy", "cross_entropy_value_and_grad", "cross_entropy_hvp"]


def check(call: Any, error: Any, words: list[str]) -> None:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    assert "\n" not in message


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("wrong", WRONG, ids=[w.name for w in WRONG])
def test_a_wrong_call_says_what_is_wrong(function, wrong):
    is_floating = isinstance(wrong.logits, (np.ndarray, np.generic)) and wrong.logits.dtype.kind == "f"
    vector = np.zeros_like(wrong.logits) if is_floating else LOGITS
    more = [vector] if function == "cross_entropy_hvp" else []
    check(lambda: getattr(xe, function)(wrong.logits, wrong.target, *more, **wrong.options), wrong.error, wrong.words)


WRITABLE = [w for w in WRONG if isinstance(w.logits, np.ndarray) and w.logits.dtype == np.float64]


@pytest.mark.parametrize("wrong", WRITABLE, ids=[w.name for w in WRITABLE])
def test_nothing_is_written_where_the_call_fails(wrong):
    """out= may be the logits themselves: the check comes first."""
    out = wrong.logits.copy()
    with pytest.raises(wrong.error):
        xe.cross_entropy_value_and_grad(out, wrong.target, out=out, **wrong.options)
    np.testing.assert_array_equal(out, wrong.logits)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("smoothing", "label_smoothing"), ("label_smoothng", "label_smoothing"), ("class_weights", "class_weight")],
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_option_that_does_not_exist(function, name, meant):
    more = [LOGITS] if function == "cross_entropy_hvp" else []
    with pytest.raises(TypeError, match=name) as caught:
        getattr(xe, function)(LOGITS, LABELS, *more, **{name: 0.1})
    if function != "cross_entropy":  # Python's own message, there
        assert meant in str(caught.value)


def test_a_probability_that_is_not_read_is_not_checked():
    """A label reads its own class alone."""
    p = np.array([[0.5, 7.0], [-3.0, 0.25]])
    value = xe.cross_entropy(p, [0, 1], inputs="probs", reduction="none")
    np.testing.assert_allclose(value, np.log([2.0, 4.0]))
    assert xe.cross_entropy(p, np.array([[1.0, 0.0], [0.0, 1.0]]), inputs="probs") == value.mean()
    with pytest.raises(ValueError, match=re.escape("logits[0, 1]")):
        xe.cross_entropy(p, np.array([[1.0, 0.5], [0.0, 1.0]]), inputs="probs")


BINARY = [
    Wrong("target above 1", ValueError, ["target[1]", "2", "[0, 1]"], target=np.array([0, 2])),
    Wrong("target below 0", ValueError, ["target[0]", "-1", "[0, 1]"], target=np.array([-1, 0])),
    Wrong("target nan", ValueError, ["target[1]", "nan"], target=np.array([0.5, NAN])),
    Wrong("target in a grid", ValueError, ["target[1, 0]", "1.5"], np.zeros((2, 2)), np.array([[0, 1], [1.5, 0]])),
    Wrong("target of another shape", ValueError, ["target", "(3,)", "(2,)"], target=np.zeros(3)),
    Wrong("target that would broadcast", ValueError, ["target", "()", "(2,)"], target=np.array(1)),
    Wrong("pos_weight negative", ValueError, ["pos_weight", "-1"], options={"pos_weight": -1.0}),
    Wrong("pos_weight nan", ValueError, ["pos_weight[1]", "nan"], options={"pos_weight": np.array([1.0, NAN])}),
    Wrong(
        "pos_weight of another shape", ValueError, ["pos_weight", "(3,)", "(2,)"], options={"pos_weight": np.ones(3)}
    ),
    Wrong("row_weight negative", ValueError, ["row_weight[0]", "-1"], options={"row_weight": np.array([-1.0, 1.0])}),
    Wrong(
        "row_weight of another shape", ValueError, ["row_weight", "(3,)", "(2,)"], options={"row_weight": np.ones(3)}
    ),
    Wrong(
        "focal and smoothing",
        ValueError,
        ["focal_gamma", "label_smoothing"],
        options={"focal_gamma": 2.0, "label_smoothing": 0.1},
    ),
    Wrong(
        "focal and soft targets",
        ValueError,
        ["focal_gamma", "soft target", "target[1]", "0.5"],
        target=np.array([1, 0.5]),
        options={"focal_gamma": 2.0},
    ),
    Wrong("smoothing 1", ValueError, ["label_smoothing", "1"], options={"label_smoothing": 1}),
    Wrong("unknown reduction", ValueError, ["reduction", "'avg'"], options={"reduction": "avg"}),
    Wrong(
        "probability above 1",
        ValueError,
        ["logits[1]", "1.5", "probs"],
        np.array([0.5, 1.5]),
        options={"inputs": "probs"},
    ),
    Wrong(
        "log-probability above 0",
        ValueError,
        ["logits[0]", "0.5"],
        np.array([0.5, -1.0]),
        options={"inputs": "log_probs"},
    ),
    Wrong("complex logits", TypeError, ["logits", "complex"], np.zeros(2, complex)),
    Wrong("target of strings", (TypeError, ValueError), ["target"], target=["yes", "no"]),
]
for wrong in BINARY:
    if wrong.logits is LOGITS:
        wrong.logits = np.zeros(2)
    if wrong.target is LABELS:
        wrong.target = np.array([0, 1])


@pytest.mark.parametrize("function", ["binary_cross_entropy", "binary_cross_entropy_value_and_grad"])
@pytest.mark.parametrize("wrong", BINARY, ids=[w.name for w in BINARY])
def test_a_wrong_binary_call_says_what_is_wrong(function, wrong):
    check(lambda: getattr(xe, function)(wrong.logits, wrong.target, **wrong.options), wrong.error, wrong.words)


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (np.zeros((3, 5)), ValueError, ["out", "(3, 4)", "(3, 5)"]),
        (np.zeros((3, 4), np.float32), (TypeError, ValueError), ["out", "float64", "float32"]),
        ([[0.0] * 4] * 3, TypeError, ["out", "list"]),
    ],
)
def test_an_output_that_does_not_fit(out, error, words):
    check(lambda: xe.cross_entropy_value_and_grad(LOGITS, LABELS, out=out), error, words)


def test_a_read_only_output():
    out = np.zeros((3, 4))
    out.flags.writeable = False
    check(lambda: xe.cross_entropy_value_and_grad(LOGITS, LABELS, out=out), ValueError, ["out", "read-only"])
    out = np.zeros(2)
    out.flags.writeable = False
    check(
        lambda: xe.binary_cross_entropy_value_and_grad(np.zeros(2), [0, 1], out=out), ValueError, ["out", "read-only"]
    )


def test_a_vector_of_another_shape():
    check(lambda: xe.cross_entropy_hvp(LOGITS, LABELS, np.zeros((3, 5))), ValueError, ["vector", "(3, 4)", "(3, 5)"])


DISTRIBUTIONS = [
    ("entropy", [np.array([[0.5, 1.5]])], {}, ValueError, ["p[0, 1]", "1.5"]),
    ("entropy", [np.array([0.5, 0.5])], {"unit": "bit"}, ValueError, ["unit", "'bit'", "'bits'"]),
    ("entropy", [np.float64(0.5)], {}, ValueError, ["p", "class axis"]),
    ("entropy", [np.array([0.5, 0.5])], {"axis": 1}, (ValueError, IndexError), ["axis", "1"]),
    ("kl_divergence", [np.array([0.5, -0.5]), np.array([0.5, 0.5])], {}, ValueError, ["t[1]", "-0.5"]),
    ("kl_divergence", [np.array([0.5, 0.5]), np.array([0.5, 2.0])], {}, ValueError, ["p[1]", "2"]),
    ("kl_divergence", [np.zeros((2, 3)), np.zeros(3)], {}, ValueError, ["t", "p", "(2, 3)", "(3,)"]),
    ("softmax_jacobian", [np.array([0.5, 1.5])], {}, ValueError, ["p[1]", "1.5"]),
    ("softmax_jacobian", [np.float64(0.5)], {}, ValueError, ["p", "class axis"]),
    ("softmax", [np.zeros((2, 3))], {"axis": 2}, (ValueError, IndexError), ["axis", "2"]),
    ("softmax", [np.zeros(3, bool)], {}, TypeError, ["logits", "bool"]),
    ("log_softmax", [np.zeros(3, complex)], {}, TypeError, ["logits", "complex"]),
    ("sigmoid", [np.array(["a"])], {}, TypeError, ["logits"]),
    ("log_sigmoid", [np.zeros(3, complex)], {}, TypeError, ["logits", "complex"]),
    ("one_hot", [np.array([0, 3])], {"num_classes": 3}, IndexError, ["labels[1]", "3", "[0, 3)"]),
    ("one_hot", [np.array([[0, 1], [-1, 0]])], {"num_classes": 3}, IndexError, ["labels[1, 0]", "-1"]),
    ("one_hot", [np.array([0.0, 1.0])], {"num_classes": 3}, TypeError, ["labels", "float64", "astype(int)"]),
    ("one_hot", [np.array([0])], {"num_classes": 0}, ValueError, ["num_classes", "0"]),
    ("one_hot", [np.array([0])], {"num_classes": 2, "axis": 3}, (ValueError, IndexError), ["axis", "3"]),
    ("perplexity", [1.0], {"unit": "nat"}, ValueError, ["unit", "'nat'"]),
    ("row_statistics", [LOGITS, np.array([0, 1, 9])], {}, IndexError, ["target[2]", "9", "[0, 4)"]),
    ("row_statistics", [LOGITS], {"temperature": 0.0}, ValueError, ["temperature"]),
]


@pytest.mark.parametrize(("function", "arguments", "options", "error", "words"), DISTRIBUTIONS)
def test_a_wrong_distribution_says_what_is_wrong(function, arguments, options, error, words):
    check(lambda: getattr(xe, function)(*arguments, **options), error, words)
