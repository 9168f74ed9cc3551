"""The scales of errors: sums of absolute terms, worked out by hand, and never below the result itself."""

import numpy as np
import pytest
import reference
from error_scales import ErrorScales
from mpmath import mpf
from test_reference import ALMOST, close


def test_scales_are_sums_of_absolute_terms():
    logits, label = np.array([[1.0, -2.0, 0.5]]), [2]
    exact = reference.cross_entropy(logits, label, reduction="sum")
    scale = ErrorScales(exact)
    p = reference.softmax([mpf(v) for v in logits[0]])
    close(scale.value, exact.value)
    close(scale.gradient, [p[0], p[1], p[2] + 1])
    vector = np.array([[1.0, 1.0, -1.0]])
    close(scale.hvp(vector), [2 * v for v in p])
    capped = reference.cross_entropy(logits, label, softcap=2.0, z_loss=0.5)
    scale = ErrorScales(capped)
    assert (scale.gradient * (1 + ALMOST) >= abs(capped.gradient)).all()
    assert (scale.hvp(vector) * (1 + ALMOST) >= abs(capped.hvp(vector))).all()
    assert scale.value >= capped.value


@pytest.mark.parametrize("inputs", ["logits", "probs", "log_probs"])
def test_no_result_exceeds_its_scale(inputs):
    x = {"logits": [[3.0, -1.0, 0.5]], "probs": [[0.25, 0.5, 0.125]], "log_probs": [[-0.5, -2.0, -1.0]]}[inputs]
    for options in ({}, {"label_smoothing": 0.25}, {"focal_gamma": 2.0}, {"class_weight": [0.5, 2.0, 1.0]}):
        exact = reference.cross_entropy(x, [1], inputs=inputs, **options)
        scale = ErrorScales(exact)
        vector = np.array([[1.0, -2.0, 0.5]])
        slightly_more = 1 + ALMOST
        assert exact.value <= scale.value * slightly_more
        assert (abs(exact.gradient) <= scale.gradient * slightly_more + ALMOST).all()
        assert (abs(exact.hvp(vector)) <= scale.hvp(vector) * slightly_more + ALMOST).all()
