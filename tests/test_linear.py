"""The linear form against the oracle of the logits: the same table of options, in chunks of every kind."""

import cases
import numpy as np
import pytest
from checks import check_value
from linear_problem import LinearProblem
from tolerances import assert_same

from crossentropy import linear_chunks

FUNCTION = "cross_entropy"


def named(combinations):
    return [pytest.param(*c, id="-".join((c[0], *c[1]))) for c in combinations]


SINGLES = named([(target, ()) for target in cases.TARGETS]) + named(cases.combinations_of(FUNCTION, 1))
FULL = named(dict.fromkeys(cases.full_combinations(FUNCTION, 40)))


def chunk_of(monkeypatch, rows, classes):
    """Whatever the budget: chunks of so many rows, in blocks of so many classes."""

    def chunk(budget, count, all_classes, *rest):
        return linear_chunks.Chunk(max(1, min(rows, count)), min(classes, all_classes))

    monkeypatch.setattr(linear_chunks, "chunk_within", chunk)


def check(library, problem, dtypes):
    linear = LinearProblem(problem)
    for dtype in dtypes:
        given, options = linear.typed(dtype)
        value = library.call("linear_cross_entropy", *given, **options)
        check_value(library, problem, value, dtype)
        again, gradients = library.call("linear_cross_entropy_value_and_grad", *given, **options)
        assert_same(again, value)
        linear.check_gradients(library, gradients, dtype)


@pytest.mark.parametrize(("target", "names"), SINGLES)
def test_each_option_alone(library, target, names, monkeypatch):
    chunk_of(monkeypatch, rows=4, classes=cases.CLASSES)
    check(library, cases.problem(FUNCTION, target, names), cases.DTYPES.values())


@pytest.mark.parametrize(("target", "names"), FULL)
def test_as_many_options_as_go_together(library, target, names, monkeypatch):
    chunk_of(monkeypatch, rows=3, classes=cases.CLASSES)
    check(library, cases.problem(FUNCTION, target, names), cases.DTYPES.values())


@pytest.mark.parametrize(("target", "names"), [p for p in SINGLES + FULL if "inputs" not in p.id])
def test_blocks_of_classes(library, target, names, monkeypatch):
    chunk_of(monkeypatch, rows=2, classes=2)
    check(library, cases.problem(FUNCTION, target, names), [np.dtype(np.float64), np.dtype(np.float32)])
