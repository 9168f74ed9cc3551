"""Holding the results of one problem to its oracle."""

import cases
import numpy as np
import tolerances
from tolerances import assert_within


def check_value(library, problem, value, dtype):
    exact = problem.exact
    is_reduced = problem.options.get("reduction", "mean") != "none"
    expected, scale, moved = exact.value, problem.scales.value, problem.scales.transformed_value
    if not is_reduced:
        shape = value.shape
        assert shape == (problem.logits.shape if problem.function == "binary_cross_entropy" else (cases.ROWS,))
        expected, scale, moved = (a.reshape(shape) for a in (expected, scale, moved))
    assert value.dtype == tolerances.result_dtype(dtype)
    bound = tolerances.REDUCED if is_reduced else tolerances.ROW_LOSS
    assert_within(value, expected, bound, scale=scale, slack=moved * tolerances.TRANSFORM * library.working_eps(dtype))


def check_entries(library, problem, entries, dtype, expected, scale, bound):
    """A gradient or a Hessian-vector product: in the dtype of the logits, rounded once to 16 bits."""
    assert entries.dtype == dtype
    assert entries.shape == problem.logits.shape
    shape = problem.logits.shape
    expected, scale, size = (a.reshape(shape) for a in (expected, scale, problem.scales.transform_size))
    slack = scale * size * tolerances.TRANSFORM * library.working_eps(dtype)
    if dtype.itemsize == 2:
        # Float32 errors of a cancelling sum come on top of the one rounding of the result.
        slack = slack + scale * bound * float(np.finfo(np.float32).eps) + library.flushed
        assert_within(entries, expected, tolerances.ROUNDED_ONCE, slack=slack)
    else:
        assert_within(entries, expected, bound, scale=scale, slack=slack)


def check_problem(library, problem, dtypes, with_hvp):
    for dtype in dtypes:
        logits, target, options = problem.typed(dtype)
        value = library.call(problem.function, logits, target, **options)
        check_value(library, problem, value, dtype)
        again, gradient = library.call(problem.function + "_value_and_grad", logits, target, **options)
        tolerances.assert_same(again, value)
        bound = problem.gradient_bound
        check_entries(library, problem, gradient, dtype, problem.exact.gradient, problem.scales.gradient, bound)
        if with_hvp:
            vector = problem.vector.astype(dtype)
            product = library.call("cross_entropy_hvp", logits, target, vector, **options)
            bound = bound - tolerances.GRADIENT + tolerances.HVP
            check_entries(library, problem, product, dtype, *problem.exact_hvp, bound)
