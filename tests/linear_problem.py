"""A problem of the table as a linear classifier's: features, weight and bias whose product is the problem's logits.

Exactly, in every dtype: all numbers are short, and so are the products and their sums. What the tests of the logits
know about value and gradient therefore holds here; the gradients to features and weight are that gradient, multiplied.
"""

from typing import Any

import cases
import numpy as np
import tolerances
from mpmath import mpf
from tolerances import assert_within

FEATURES = cases.CLASSES + 2


class LinearProblem:
    def __init__(self, problem: cases.Problem) -> None:
        self.problem = problem
        rng = cases.seeded("linear")
        # logits = a P^T + b Q^T + bias: P permutes, scales and flips; b and Q are small, and a takes what is left.
        permutation = np.eye(cases.CLASSES)[rng.permutation(cases.CLASSES)] * [1, -1, 2, 0.5, -1]
        small = rng.choice([-1.0, 0.0, 1.0], (cases.CLASSES, 2))
        beside = rng.choice([-0.5, 0.5], (cases.ROWS, 2))
        self.bias = rng.integers(-4, 5, cases.CLASSES) / 8
        rest = problem.logits - self.bias - beside @ small.T
        self.features = np.hstack([rest @ np.linalg.inv(permutation).T, beside])
        self.weight = np.hstack([permutation, small])
        assert np.array_equal(self.features @ self.weight.T + self.bias, problem.logits)

    def typed(self, dtype: np.dtype) -> tuple[list[Any], dict[str, Any]]:
        _, target, options = self.problem.typed(dtype)
        arrays = [array.astype(dtype) for array in (self.features, self.weight, self.bias)]
        for typed, array in zip(arrays, (self.features, self.weight, self.bias), strict=True):
            assert np.array_equal(typed.astype(np.float64), array)  # not rounded
        return [*arrays[:2], target], {**options, "bias": arrays[2]}

    def check_gradients(self, library: Any, gradients: Any, dtype: np.dtype) -> None:
        problem, rows, classes = self.problem, cases.ROWS, cases.CLASSES
        slopes, scales = problem.exact.gradient, problem.scales.gradient
        # What a product magnifies is the error that check_entries allows for the logits' gradient.
        working = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        eps = mpf(float(np.finfo(working).eps))
        transform = problem.scales.transform_size * tolerances.TRANSFORM * mpf(float(library.working_eps(dtype)))
        allowed = scales * (problem.gradient_bound * eps + transform)
        one = np.ones((rows, 1))
        factors = ((None, self.weight), (None, self.features), (None, one))
        for name, gradient, (_, factor), transposed in zip(
            ("features", "weight", "bias"), gradients, factors, (False, True, True), strict=True
        ):
            assert gradient.dtype == dtype, name
            with problem.exact.precision():
                exact_factor = factor.astype(object) * mpf(1)
                expected, scale, slack = (
                    (a.T if transposed else a) @ (f if signed else abs(f))
                    for a, f, signed in (
                        (slopes, exact_factor, 1),
                        (scales, exact_factor, 0),
                        (allowed, exact_factor, 0),
                    )
                )
            expected, scale, slack = (a[:, 0] if name == "bias" else a for a in (expected, scale, slack))
            terms = rows if transposed else classes
            slack = slack + scale * eps * tolerances.product_bound(terms)
            bound = tolerances.ROUNDED_ONCE if dtype.itemsize == 2 else 0
            assert_within(gradient, expected, bound, scale=None if bound else scale, slack=slack + library.flushed)
