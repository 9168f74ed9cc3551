"""Class axis, dimensions, strides, dtypes, lists and numbers: the same numbers in any form give the same result."""

import cases
import ml_dtypes
import numpy as np
import pytest
import tolerances
from tolerances import assert_same

import crossentropy as xe

EVERY_DTYPE = pytest.mark.parametrize("dtype", cases.DTYPES.values(), ids=cases.DTYPES)
FUNCTIONS = ["cross_entropy", "binary_cross_entropy"]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


def numbers(shape, dtype=np.float64, seed=0):
    return cases.short_normal(np.random.default_rng(seed), shape).astype(dtype)


def labels_for(shape, classes, seed=1):
    return np.random.default_rng(seed).integers(0, classes, shape)


# -- class axis and dimensions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3, -4])
def test_any_class_axis(library, axis):
    logits = numbers((3, 4, 2, 5))
    classes = logits.shape[axis]
    shape = tuple(np.delete(logits.shape, axis))
    labels = labels_for(shape, classes)
    labels.flat[1] = -100
    dense = np.moveaxis(np.arange(classes) == labels[..., None], -1, axis)
    soft = cases.short_positive(np.random.default_rng(2), logits.shape)
    sparse = np.stack([labels, labels], axis), cases.short_positive(np.random.default_rng(3), (*shape, 2))
    sparse = sparse[0], np.moveaxis(sparse[1], -1, axis)
    mask = np.moveaxis(np.random.default_rng(4).random((*shape, classes)) < 0.8, -1, axis) | dense
    rows = np.moveaxis(logits, axis, -1).reshape(-1, classes)
    weight = cases.short_positive(np.random.default_rng(5), shape)

    def flat(array):
        return np.ascontiguousarray(np.moveaxis(array, axis, -1)).reshape(len(rows), -1)

    for target, flat_target, options, flat_options in (
        (labels, labels.ravel(), {}, {}),
        (dense, flat(dense), {}, {}),
        (soft, flat(soft), {"label_smoothing": 0.125}, {"label_smoothing": 0.125}),
        (sparse, tuple(flat(a) for a in sparse), {}, {}),
        (labels, labels.ravel(), {"class_mask": mask}, {"class_mask": flat(mask)}),
        (labels, labels.ravel(), {"row_weight": weight}, {"row_weight": weight.ravel()}),
    ):
        for reduction in ("none", "mean"):
            call = "cross_entropy_value_and_grad"
            value, gradient = library.call(call, logits, target, axis=axis, reduction=reduction, **options)
            expected, slope = library.call(call, rows, flat_target, reduction=reduction, **flat_options)
            assert_same(value, expected.reshape(shape) if reduction == "none" else expected)
            assert_same(flat(gradient), slope)
            assert gradient.shape == logits.shape
            alone = library.call("cross_entropy", logits, target, axis=axis, reduction=reduction, **options)
            assert_same(alone, value)
        vector = numbers(logits.shape, seed=6)
        product = library.call("cross_entropy_hvp", logits, target, vector, axis=axis, **options)
        assert_same(flat(product), library.call("cross_entropy_hvp", rows, flat_target, flat(vector), **flat_options))


@EVERY_DTYPE
def test_one_row_without_dimensions(library, dtype):
    logits = numbers((5,), dtype)
    value, gradient = library.call("cross_entropy_value_and_grad", logits, np.array(2))
    expected, slope = library.call("cross_entropy_value_and_grad", logits[None], np.array([2]))
    assert_same(value, expected)
    assert_same(gradient, slope[0])
    value, gradient = library.call("cross_entropy_value_and_grad", logits, np.eye(5)[2], reduction="none")
    expected, slope = library.call("cross_entropy_value_and_grad", logits[None], np.eye(5)[[2]], reduction="none")
    assert value.shape == ()
    assert_same(value, expected[0])
    assert_same(gradient, slope[0])


def test_the_row_weight_broadcasts_to_the_rows(library):
    logits, labels = numbers((3, 4, 5)), labels_for((3, 4), 5)
    for weight in (np.float64(2.0), np.arange(4.0), np.arange(3.0)[:, None], np.full((3, 4), 0.5)):
        value = library.call("cross_entropy", logits, labels, row_weight=weight, reduction="none")
        plain = library.call("cross_entropy", logits, labels, reduction="none")
        np.testing.assert_allclose(value, plain * weight, rtol=1e-15)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4)])
def test_binary_of_any_shape(library, shape):
    logits = numbers(shape) if shape else np.float64(0.75)
    target = np.random.default_rng(7).random(shape)
    value, gradient = library.call("binary_cross_entropy_value_and_grad", logits, np.asarray(target), reduction="none")
    flat = library.call("binary_cross_entropy_value_and_grad", np.ravel(logits), np.ravel(target), reduction="none")
    assert_same(value, flat[0].reshape(shape))
    assert_same(gradient, flat[1].reshape(shape))


# -- strides, byte order, alignment -----------------------------------------------------------------------------------


def layouts(array):
    """The same numbers, laid out in every way that NumPy knows."""
    yield "contiguous", np.ascontiguousarray(array)
    yield "fortran", np.asfortranarray(array)
    wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    wide[tuple(slice(None, None, 2) for _ in array.shape)] = array
    yield "every second", wide[tuple(slice(None, None, 2) for _ in array.shape)]
    backwards = tuple(slice(None, None, -1) for _ in array.shape)
    yield "backwards", np.ascontiguousarray(array[backwards])[backwards]
    last = (..., slice(None, None, -1))
    yield "classes backwards", np.ascontiguousarray(array[last])[last]
    buffer = bytearray(array.nbytes + 1)
    shifted = np.frombuffer(buffer, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    shifted[...] = array
    yield "misaligned", shifted
    if array.dtype != tolerances.BFLOAT16:
        yield "other byte order", array.astype(array.dtype.newbyteorder())
    yield "a field of records", field_of(array)


def field_of(array):
    records = np.zeros(array.shape, [("before", "i1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


@EVERY_DTYPE
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("rows", [3, 700])
def test_any_strides(library, dtype, function, rows):
    logits = numbers((rows, 6), dtype)
    soft = cases.short_positive(np.random.default_rng(8), logits.shape).astype(dtype)
    weight = cases.short_positive(np.random.default_rng(9), rows).astype(dtype)
    weight = weight if function == "cross_entropy" else weight[:, None]
    call = function + "_value_and_grad"
    expected, slope = library.call(call, logits, soft, row_weight=weight, reduction="none")
    weights = dict(layouts(weight))
    targets = dict(layouts(soft))
    for name, given in layouts(logits):
        for target in (soft, targets[name]):
            value, gradient = library.call(call, given, target, row_weight=weights[name], reduction="none")
            assert_same(value, expected)
            assert_same(np.asarray(gradient, dtype=dtype), slope)
        assert_same(library.call(function, given, soft, row_weight=weight, reduction="none"), expected)


def test_repeated_rows_and_classes_by_stride_zero(library):
    row, column = numbers((5,)), numbers((4, 1), seed=3)
    labels = labels_for((4,), 5)
    for view in (np.broadcast_to(row, (4, 5)), np.broadcast_to(column, (4, 5))):
        value, gradient = library.call("cross_entropy_value_and_grad", view, labels, reduction="none")
        expected, slope = library.call("cross_entropy_value_and_grad", view.copy(), labels, reduction="none")
        assert_same(value, expected)
        assert_same(gradient, slope)
    one = np.broadcast_to(np.int64(3), (4,))
    expected = library.call("cross_entropy", np.broadcast_to(row, (4, 5)), np.full(4, 3))
    assert_same(library.call("cross_entropy", np.broadcast_to(row, (4, 5)), one), expected)


# -- dtypes -----------------------------------------------------------------------------------------------------------


@EVERY_DTYPE
def test_the_result_follows_the_logits_alone(library, dtype):
    """Other arguments are converted, whatever they are."""
    logits, labels = numbers((3, 4), dtype), labels_for((3,), 4)
    expected, slope = library.call("cross_entropy_value_and_grad", logits, np.eye(4)[labels].astype(dtype))
    for other in cases.DTYPES.values():
        options = {"class_weight": np.ones(4, other), "row_weight": np.ones(3, other), "class_bias": np.zeros(4, other)}
        value, gradient = library.call(
            "cross_entropy_value_and_grad", logits, np.eye(4)[labels].astype(other), **options
        )
        assert value.dtype == tolerances.result_dtype(dtype)
        assert gradient.dtype == dtype
        assert_same(value, expected)
        assert_same(gradient, slope)
        product = library.call("cross_entropy_hvp", logits, labels, np.ones((3, 4), other), **options)
        assert product.dtype == dtype
    for function in ("softmax", "log_softmax", "sigmoid", "log_sigmoid"):
        assert library.call(function, logits).shape == logits.shape


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("function", ["cross_entropy_value_and_grad", "row_statistics"])
def test_labels_of_any_integer_dtype(library, dtype, function):
    logits, labels = numbers((6, 5)), np.array([0, 4, 1, 2, 3, 0])
    expected = library.call(function, logits, labels)
    for actual, wanted in zip(library.call(function, logits, labels.astype(dtype)), expected, strict=True):
        assert_same(actual, wanted)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_ignored_labels_of_any_integer_dtype(library, dtype):
    """-100 does not fit an unsigned label; 255, which often stands for ignored there, can be named."""
    ignored = 255 if np.dtype(dtype).kind == "u" else -100
    logits = numbers((3, 5))
    labels = np.array([1, 0, 4]).astype(dtype)
    labels[1] = ignored
    expected, slope = library.call("cross_entropy_value_and_grad", logits[[0, 2]], np.array([1, 4]))
    value, gradient = library.call("cross_entropy_value_and_grad", logits, labels, ignore_index=ignored)
    assert_same(value, expected)
    assert_same(gradient[[0, 2]], slope)
    np.testing.assert_array_equal(gradient[1], 0)


def test_more_classes_than_the_label_dtype_holds(library):
    """int8 labels of 300 classes: nothing wraps."""
    logits = numbers((2, 300))
    expected = library.call("cross_entropy", logits, np.array([127, 3]))
    assert_same(library.call("cross_entropy", logits, np.array([127, 3], np.int8)), expected)


@pytest.mark.parametrize("dtype", [np.bool_, *INTEGERS, np.float16, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("logits_dtype", [np.float32, np.float64])
def test_one_hots_of_any_dtype(library, dtype, logits_dtype):
    logits = numbers((4, 5), logits_dtype)
    one_hot = np.eye(5)[[4, 0, 2, 2]]
    expected = library.call("cross_entropy_value_and_grad", logits, one_hot)
    for actual, wanted in zip(
        library.call("cross_entropy_value_and_grad", logits, one_hot.astype(dtype)), expected, strict=True
    ):
        assert_same(actual, wanted)


@pytest.mark.parametrize("dtype", [np.bool_, *INTEGERS, np.float16, np.float32, ml_dtypes.bfloat16])
def test_binary_targets_of_any_dtype(library, dtype):
    logits, target = numbers((4, 5)), np.eye(5)[:4]
    expected = library.call("binary_cross_entropy_value_and_grad", logits, target)
    for actual, wanted in zip(
        library.call("binary_cross_entropy_value_and_grad", logits, target.astype(dtype)), expected, strict=True
    ):
        assert_same(actual, wanted)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_sparse_indices_of_any_integer_dtype(library, dtype):
    logits, values = numbers((3, 5)), cases.short_positive(np.random.default_rng(10), (3, 2))
    indices = np.array([[0, 4], [2, 2], [3, 1]])
    expected = library.call("cross_entropy_value_and_grad", logits, (indices, values))
    for actual, wanted in zip(
        library.call("cross_entropy_value_and_grad", logits, (indices.astype(dtype), values)), expected, strict=True
    ):
        assert_same(actual, wanted)


def test_weights_may_be_integers_or_booleans(library):
    logits, labels = numbers((3, 4)), np.array([0, 2, 3])
    expected = library.call(
        "cross_entropy", logits, labels, class_weight=np.array([1.0, 2, 3, 1]), row_weight=np.array([1.0, 0, 1])
    )
    weights = {"class_weight": np.array([1, 2, 3, 1]), "row_weight": np.array([True, False, True])}
    assert_same(library.call("cross_entropy", logits, labels, **weights), expected)


# -- what a person would write ----------------------------------------------------------------------------------------


def test_lists_tuples_and_numbers():
    logits, labels = [[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]], [0, 2]
    expected, slope = xe.cross_entropy_value_and_grad(np.array(logits), np.array(labels))
    assert isinstance(expected, np.float64)
    for x in (logits, tuple(map(tuple, logits)), [[2, 1, 0], [0, 3, 0]], list(np.array(logits))):
        for t in (
            labels,
            (0, 2),
            [[1, 0, 0], [0, 0, 1]],
            [[1.0, 0, 0], [0, 0, 1.0]],
            [[True, False, False], [False, False, True]],
        ):
            value, gradient = xe.cross_entropy_value_and_grad(x, t)
            assert_same(value, expected)
            assert_same(gradient, slope)
    assert xe.cross_entropy([2.0, 1.0, 0.0], 0) == xe.cross_entropy([[2.0, 1.0, 0.0]], [0])
    assert xe.cross_entropy([2.0, 1.0, 0.0], [1, 0, 0]) == xe.cross_entropy([[2.0, 1.0, 0.0]], [0])
    weights = {
        "class_weight": [1, 2, 3],
        "row_weight": [1, 0.5],
        "class_mask": [True, True, True],
        "class_bias": [0, 0, 1],
    }
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    assert xe.cross_entropy(logits, labels, **weights) == xe.cross_entropy(np.array(logits), labels, **arrays)
    assert xe.cross_entropy(logits, ([[0, 1], [2, 2]], [[0.5, 0.5], [1, 0]])) == xe.cross_entropy(
        logits, (np.array([[0, 1], [2, 2]]), np.array([[0.5, 0.5], [1, 0]]))
    )
    assert_same(
        xe.cross_entropy_hvp(logits, labels, [[1, 0, 0], [0, 1, 0]]),
        xe.cross_entropy_hvp(np.array(logits), labels, np.eye(3)[:2]),
    )


def test_numbers_for_the_binary_loss():
    assert xe.binary_cross_entropy(0.0, 1) == np.log(2)
    assert xe.binary_cross_entropy(0, True) == np.log(2)
    assert xe.binary_cross_entropy([0.0, 0.0], [1, 0]) == np.log(2)
    value, gradient = xe.binary_cross_entropy_value_and_grad(0.0, 1)
    assert value == np.log(2)
    assert gradient == -0.5
    assert xe.binary_cross_entropy([2.0], [1], pos_weight=[3], row_weight=[0.5]) == pytest.approx(
        3 * np.log1p(np.exp(-2))
    )


def test_two_labels_in_a_tuple_are_labels():
    assert xe.cross_entropy([[2.0, 1.0], [0.0, 3.0]], (0, 1)) == xe.cross_entropy([[2.0, 1.0], [0.0, 3.0]], [0, 1])


def test_numbers_of_numpy_are_numbers():
    logits, labels = numbers((3, 4)), np.array([0, 1, 3])
    plain = xe.cross_entropy(
        logits, labels, label_smoothing=0.25, temperature=2.0, softcap=5.0, z_loss=0.5, normalizer=4
    )
    options = {
        "label_smoothing": np.float32(0.25),
        "temperature": np.float64(2),
        "softcap": np.int64(5),
        "z_loss": np.array(0.5),
    }
    assert xe.cross_entropy(logits, labels, **options, normalizer=np.float32(4), ignore_index=np.int32(-100)) == plain


def test_a_masked_array_is_refused():
    """Its mask would be lost silently."""
    with pytest.raises(TypeError, match="masked"):
        xe.cross_entropy(np.ma.masked_array(np.zeros((2, 3)), np.zeros((2, 3), bool)), [0, 1])


def test_results_are_plain_arrays_also_for_subclasses():
    class Sub(np.ndarray):
        pass

    logits = numbers((2, 3)).view(Sub)
    value, gradient = xe.cross_entropy_value_and_grad(logits, [0, 1], reduction="none")
    assert type(value) is np.ndarray
    assert type(gradient) is np.ndarray


# -- out --------------------------------------------------------------------------------------------------------------


@EVERY_DTYPE
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("rows", [3, 9000])
def test_out_takes_the_gradient(dtype, function, rows):
    logits, target = numbers((rows, 4), dtype), np.eye(4, dtype=bool)[labels_for((rows,), 4)]
    call = getattr(xe, function + "_value_and_grad")
    value, gradient = call(logits, target)
    for _, out in layouts(np.full_like(logits, np.nan)):
        if not out.dtype.isnative:
            continue
        again, same = call(logits, target, out=out)
        assert same is out
        assert_same(again, value)
        assert_same(np.array(out), gradient)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("rows", [3, 9000])
def test_out_may_overlap_an_input(function, rows):
    """The logits themselves, shifted by a row, backwards; the target; always as if it were elsewhere."""
    call = getattr(xe, function + "_value_and_grad")
    buffer = numbers((rows + 1, 4))
    target = np.abs(numbers((rows, 4), seed=2)) / 16
    for logits, out in (
        (lambda b: b[:-1], lambda b: b[:-1]),
        (lambda b: b[:-1], lambda b: b[1:]),
        (lambda b: b[1:], lambda b: b[:-1]),
        (lambda b: b[:-1], lambda b: b[:-1][::-1]),
        (lambda b: b[:-1], lambda b: b[:-1, ::-1]),
    ):
        memory = buffer.copy()
        expected, slope = call(logits(buffer), target)
        value, gradient = call(logits(memory), target, out=out(memory))
        assert_same(value, expected)
        assert_same(np.array(gradient), slope)
        assert_same(np.array(out(memory)), slope)
    memory = target.copy()
    expected, slope = call(buffer[:-1], target)
    value, gradient = call(buffer[:-1], memory, out=memory)
    assert_same(value, expected)
    assert_same(memory, slope)


def test_out_along_another_axis():
    logits, labels = numbers((3, 4, 5)), labels_for((3, 5), 4)
    _, gradient = xe.cross_entropy_value_and_grad(logits, labels, axis=1)
    out = np.empty((5, 4, 3)).T
    assert xe.cross_entropy_value_and_grad(logits, labels, axis=1, out=out)[1] is out
    assert_same(np.ascontiguousarray(out), np.ascontiguousarray(gradient))


def test_out_may_overlap_the_weights():
    logits, labels = numbers((3, 3)), np.array([0, 1, 2])
    weight = np.abs(numbers((3, 3), seed=3)) + 1
    _, slope = xe.cross_entropy_value_and_grad(
        logits, labels, class_weight=weight[0].copy(), row_weight=weight[1].copy()
    )
    _, gradient = xe.cross_entropy_value_and_grad(
        logits, labels, class_weight=weight[0], row_weight=weight[1], out=weight
    )
    assert_same(gradient, slope)


def test_out_may_overlap_the_weights_of_elements():
    """They are read block by block, of 2,048, where the gradient of the block before may stand."""
    logits, memory = numbers((10_000,)), np.abs(numbers((10_003,), seed=3)) + 1
    weight, target = memory[:10_000], (logits > 0).astype(float)
    expected, slope = xe.binary_cross_entropy_value_and_grad(
        logits, target, row_weight=weight.copy(), pos_weight=weight.copy()
    )
    value, gradient = xe.binary_cross_entropy_value_and_grad(
        logits, target, row_weight=weight, pos_weight=weight, out=memory[3:]
    )
    assert_same(value, expected)
    assert_same(gradient, slope)


# -- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5000, 10), (3, 100_000), (70_000, 2)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_same_bits_for_any_number_of_threads(library, shape, function):
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 5, shape)
    target = rng.integers(0, shape[1], shape[0]) if function == "cross_entropy" else rng.random(shape)
    expected, slope = library.call(function + "_value_and_grad", logits, target, num_threads=1)
    for threads in (2, 3, 8, None):
        value, gradient = library.call(function + "_value_and_grad", logits, target, num_threads=threads)
        assert_same(value, expected)
        assert_same(gradient, slope)


def test_rows_have_the_same_bits_alone_and_among_many(library):
    """Whatever blocks and lanes a kernel uses."""
    logits, labels = np.random.default_rng(12).normal(0, 5, (40_000, 7)), labels_for((40_000,), 7)
    value, gradient = library.call("cross_entropy_value_and_grad", logits, labels, reduction="none")
    for i in (0, 1, 4680, 4681, 32_768, 39_999):
        alone, slope = library.call(
            "cross_entropy_value_and_grad", logits[i : i + 1], labels[i : i + 1], reduction="none"
        )
        assert_same(alone, value[i : i + 1])
        assert_same(slope, gradient[i : i + 1])
