"""Every option alone, with each other, and with as many as go together: value, gradient and Hessian-vector product."""

import inspect

import cases
import numpy as np
import pytest
from checks import check_problem

import crossentropy as xe

BOTH = ["cross_entropy", "binary_cross_entropy"]


def named(function, combinations):
    return [pytest.param(function, *c, id="-".join((function[:6], c[0], *c[1]))) for c in combinations]


SINGLES = [p for f in BOTH for p in named(f, [(t, ()) for t in cases.targets_of(f)])]
SINGLES += [p for f in BOTH for p in named(f, cases.combinations_of(f, 1))]
PAIRS = [p for f in BOTH for p in named(f, cases.combinations_of(f, 2))]
FULL = [p for f in BOTH for p in named(f, dict.fromkeys(cases.full_combinations(f, 40)))]


@pytest.mark.parametrize("dtype", cases.DTYPES.values(), ids=cases.DTYPES)
@pytest.mark.parametrize(("function", "target", "names"), SINGLES)
def test_each_option_alone(library, function, target, names, dtype):
    check_problem(library, cases.problem(function, target, names), [dtype], with_hvp=function == "cross_entropy")


@pytest.mark.parametrize(("function", "target", "names"), PAIRS)
def test_each_option_with_each_other(library, function, target, names):
    """All dtypes in one test: they share the run of the oracle."""
    is_soft = function == "cross_entropy"
    check_problem(library, cases.problem(function, target, names), cases.DTYPES.values(), with_hvp=is_soft)


@pytest.mark.parametrize(("function", "target", "names"), FULL)
def test_as_many_options_as_go_together(library, function, target, names):
    is_soft = function == "cross_entropy"
    check_problem(library, cases.problem(function, target, names), cases.DTYPES.values(), with_hvp=is_soft)


def test_the_table_holds_every_option():
    """An option without an entry would be tested by nothing."""
    for function in BOTH:
        parameters = inspect.signature(getattr(xe, function)).parameters.values()
        keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"axis"}
        # What check_labels does shows on a device alone: tests/torch/test_triton_interpreted.py.
        keywords -= {"check_labels"}
        assert keywords == {option.changes for option in cases.options_of(function)}


@pytest.mark.parametrize("function", BOTH)
def test_the_pairs_hold_every_option_and_target(function):
    """The rule for what goes together must not empty the table."""
    pairs = list(cases.combinations_of(function, 2))
    table = cases.options_of(function)
    for option in table:
        assert sum(option.name in names for _, names in pairs) >= len(table) // 2, option.name
    assert {target for target, _ in pairs} == set(cases.targets_of(function))


@pytest.mark.parametrize("function", BOTH)
def test_every_entry_changes_a_result(function):
    """An entry that changes nothing, alone or beside another, would test nothing."""
    still = {option.name: option.changes for option in cases.options_of(function) if option.name != "num_threads"}
    for size in (1, 2):
        for target, names in cases.combinations_of(function, size):
            for name in still.keys() & set(names):
                problem = cases.problem(function, target, names)
                others = {key: value for key, value in problem.options.items() if key != still[name]}
                without = cases.Problem(function, problem.logits, problem.target, others)
                if np.any(np.asarray(problem.exact.value != without.exact.value)):
                    del still[name]
    assert not still
