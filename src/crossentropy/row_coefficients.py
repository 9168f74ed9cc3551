"""Targets and options of the softmax loss as the data of the canonical form (``row_loss``).

| option or target        | becomes                                                                          |
|-------------------------|----------------------------------------------------------------------------------|
| class label y           | idx = y, b = (1 - e) w_y                                                         |
| sparse soft target      | idx_k, b_k = (1 - e) w_{idx_k} v_k (mixup, top-k teachers)                       |
| dense soft target       | t, d = 1 - e                                                                     |
| class_weight w          | b and the dense target above; profile u = w, so smoothed weighted loss is PyTorch's |
| label_smoothing e       | g = e (mass of the row's target) / (number of allowed classes), profile u = w or 1 |
| class_mask              | z = -inf after the soft-cap; masked classes are not in the profile               |
| ignore_index, row_weight 0 | valid = False: the row is never read                                          |
| row_weight              | a factor of the row's loss: see ``reduction``                                     |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from crossentropy.arrays import (
    Layout,
    check_indices,
    check_non_negative,
    equals,
    is_boolean,
    is_floating,
    is_integer,
    is_sparse,
    known_any,
    no_class,
    outside,
    possible_any,
    probability_error,
)
from crossentropy.options import LossOptions
from crossentropy.row_loss import RowCoefficients

IGNORE_HINT = "; pass ignore_index={value} if that marks rows to ignore"


def row_coefficients(
    xp: Any,
    target: Any,
    layout: Layout,
    options: LossOptions,
    work_dtype: Any,
    scan_labels: Callable[..., Any] | None = None,
) -> tuple[RowCoefficients, Any]:
    """Coefficients and row weights (rows,) (or None) of a target (None: no target) for logits of this layout.

    ``scan_labels`` is a kernel's one look at class labels, for a caller whose kernels take them as they are given: the
    number of rows that count and their weight, or None where a label is no class; that is read here. ``explicit`` makes
    such coefficients those of any other target.

    Raises TypeError, ValueError or IndexError naming the argument, the position and the value.
    """
    class_weight, class_bias, mask = options.class_weight, options.class_bias, options.class_mask
    if class_weight is not None:
        class_weight = class_array(xp, "class_weight", class_weight, layout, work_dtype)
    if class_bias is not None:
        class_bias = class_array(xp, "class_bias", class_bias, layout, work_dtype)
    row_weight, valid = options.row_weight, None  # every row counts, and without one alike
    if row_weight is not None:
        row_weight, valid = row_weights(xp, row_weight, layout, work_dtype)
    parts: dict[str, Any]
    if target is None:
        parts = {"valid": valid}
    elif is_sparse(target):
        parts = sparse_target(xp, target, layout, options, class_weight, valid, work_dtype)
    else:
        target = xp.asarray(target)
        if is_dense(xp, target, layout):
            parts = dense_target(xp, target, layout, options, class_weight, valid, work_dtype)
        else:
            labels, totals = target if target.ndim == 1 else xp.reshape(target, (-1,)), None
            if scan_labels is not None:
                totals = scan_labels(labels, layout.classes, options.ignore_index, class_weight, row_weight)
            if totals is None:
                parts = label_target(xp, labels, layout, options, class_weight, valid, work_dtype)
            else:
                parts = {
                    "indices": labels,
                    "ignored_label": None if totals[0] == layout.count else options.ignore_index,
                    "index_weight": 1.0 - options.label_smoothing,
                    "valid": valid,
                    "totals": totals,
                }
    coefficients = RowCoefficients(
        inputs=options.inputs,
        temperature=options.temperature,
        softcap=options.softcap,
        label_smoothing=options.label_smoothing,
        focal_gamma=options.focal_gamma,
        z_loss=options.z_loss,
        class_bias=class_bias,
        class_mask=None if mask is None else class_mask(xp, layout, mask),
        class_weight=class_weight,
        **parts,
    )
    return coefficients, row_weight


def class_array(xp: Any, name: str, value: Any, layout: Layout, work_dtype: Any) -> Any:
    value = xp.asarray(value)
    if tuple(value.shape) != (layout.classes,):
        raise ValueError(f"{name} must have shape ({layout.classes},), one entry per class, got {tuple(value.shape)}")
    if name == "class_weight":
        check_non_negative(xp, name, value)
    elif known_any(xp, xp.isnan(value)):
        raise ValueError(f"{name}[{int(xp.argmax(xp.isnan(value)))}] is NaN")
    return xp.astype(value, work_dtype)


def row_weights(xp: Any, value: Any, layout: Layout, work_dtype: Any) -> tuple[Any, Any]:
    """Row weights (rows,) and which of them are not 0; None where every row counts."""
    value = xp.asarray(value)
    try:
        per_row = xp.broadcast_to(value, layout.row_shape)
    except ValueError:
        raise ValueError(
            f"row_weight must have the shape of the rows, {layout.row_shape}, or broadcast to it, "
            f"got {tuple(value.shape)}"
        ) from None
    check_non_negative(xp, "row_weight", value)
    per_row = xp.astype(xp.reshape(per_row, (-1,)), work_dtype)
    return per_row, per_row != 0 if possible_any(xp, value == 0) else None


def label_target(
    xp: Any, labels: Any, layout: Layout, options: LossOptions, class_weight: Any, valid: Any, work_dtype: Any
) -> dict[str, Any]:
    ignore = options.ignore_index
    # One look at the labels settles the usual case: all are classes, and none of these is the one to ignore.
    if possible_any(xp, no_class(labels, layout.classes)) or (ignore is not None and 0 <= ignore < layout.classes):
        labels, valid = without_ignored(xp, labels, ignore, valid)
        check_indices(xp, "target", labels, layout, IGNORE_HINT, wait=options.check_labels)
    return explicit_labels(xp, labels, 1.0 - options.label_smoothing, class_weight, valid, work_dtype)


def without_ignored(xp: Any, labels: Any, ignore: int | None, valid: Any) -> tuple[Any, Any]:
    """Labels, 0 where the row does not count, and which rows count."""
    if ignore is not None:
        ignored = equals(xp, labels, ignore)
        valid = both(valid, ~ignored) if possible_any(xp, ignored) else valid
    return labels if valid is None else xp.where(valid, labels, xp.zeros_like(labels)), valid


def explicit_labels(
    xp: Any, labels: Any, scale: float, class_weight: Any, valid: Any, work_dtype: Any
) -> dict[str, Any]:
    labels = xp.astype(labels, xp.int64)
    if class_weight is None:
        weight, mass = xp.ones((1, 1), dtype=work_dtype), 1.0
    else:
        weight = weight_of(xp, class_weight, labels)[:, None]
        mass = weight[:, 0]
    return {"indices": labels[:, None], "index_weight": scale * weight, "target_mass": mass, "valid": valid}


def explicit(xp: Any, c: RowCoefficients, work_dtype: Any) -> RowCoefficients:
    """Labels as given -> the indices, weights and rows that count of the canonical form."""
    if c.indices is None or c.indices.ndim == 2:
        return c
    labels, valid = without_ignored(xp, c.indices, c.ignored_label, c.valid)
    parts = explicit_labels(xp, labels, c.index_weight, c.class_weight, valid, work_dtype)
    return dataclasses.replace(c, **parts, ignored_label=None, totals=None)


def dense_target(
    xp: Any, target: Any, layout: Layout, options: LossOptions, class_weight: Any, valid: Any, work_dtype: Any
) -> dict[str, Any]:
    refuse_focal(options)
    # Neither converted nor weighted here: that would be a copy of what may be as large as the logits.
    return {"dense": layout.to_rows(xp, target), "dense_scale": 1.0 - options.label_smoothing, "valid": valid}


def sparse_target(
    xp: Any, target: Any, layout: Layout, options: LossOptions, class_weight: Any, valid: Any, work_dtype: Any
) -> dict[str, Any]:
    refuse_focal(options)
    indices, values = sparse_rows(xp, target, layout, work_dtype)
    if options.ignore_index is None:
        unread = xp.zeros_like(indices, dtype=bool)
    else:
        unread = equals(xp, indices, options.ignore_index)
        if possible_any(xp, unread):
            valid = both(valid, ~xp.all(unread, axis=-1))
    if valid is not None:
        unread = unread | ~valid[:, None]
    indices, values = xp.where(unread, xp.zeros_like(indices), indices), xp.where(unread, 0.0, values)
    check_indices(xp, "target indices", indices, layout, IGNORE_HINT, wait=options.check_labels)
    indices = xp.astype(indices, xp.int64)
    check_non_negative(xp, "target values", values, lambda first: layout.position(*divmod(first, values.shape[-1])))
    weight = values if class_weight is None else values * weight_of(xp, class_weight, indices)
    return {
        "indices": indices,
        "index_weight": (1.0 - options.label_smoothing) * weight,
        "target_sum": xp.sum(values, axis=-1),
        "target_mass": xp.sum(weight, axis=-1),
        "valid": valid,
    }


def sparse_rows(xp: Any, target: Any, layout: Layout, work_dtype: Any) -> tuple[Any, Any]:
    """Indices and values as (rows, k)."""
    indices, values = (xp.asarray(part) for part in target)
    shape = list(indices.shape)
    entries = shape.pop(layout.axis) if len(shape) == len(layout.shape) else None
    if entries is None or tuple(shape) != layout.row_shape or indices.shape != values.shape:
        raise ValueError(
            f"a sparse target is (indices, values), both of the shape of logits {layout.shape} with k entries in "
            f"place of the {layout.classes} classes; got shapes {tuple(indices.shape)} and {tuple(values.shape)}; "
            "for a dense target or labels pass an array or a list, not a tuple"
        )
    if entries == 0:
        raise ValueError("a sparse target needs at least one entry per row, got k = 0")
    if not (is_integer(indices) or 0 in indices.shape):
        raise TypeError(f"target indices must be integers, got dtype {indices.dtype}")
    if not (is_floating(values) or is_integer(values) or is_boolean(values)):
        raise TypeError(f"target values must be numbers, got dtype {values.dtype}")
    flat = (layout.count, entries)
    return (
        xp.reshape(xp.moveaxis(indices, layout.axis, -1), flat),
        xp.astype(xp.reshape(xp.moveaxis(values, layout.axis, -1), flat), work_dtype),
    )


def weight_of(xp: Any, class_weight: Any, indices: Any) -> Any:
    """Class weights at the indices. One whose values could not be checked may be no class: its row is NaN anyway."""
    return class_weight[xp.where((indices >= 0) & (indices < class_weight.shape[0]), indices, 0)]


def both(a: Any, b: Any) -> Any:
    """The conjunction of two optional masks, None = everywhere True."""
    return b if a is None else a if b is None else a & b


def refuse_focal(options: LossOptions) -> None:
    if options.focal_gamma:
        raise ValueError(
            f"focal_gamma={options.focal_gamma} and a soft target have no joint meaning: the focal loss weighs the "
            "probability of one certain class; pass class labels (for a one-hot: target.argmax(axis))"
        )


def is_dense(xp: Any, target: Any, layout: Layout) -> bool:
    """Dense target or class labels? The shape tells; anything else is refused with what was probably meant."""
    shape = tuple(target.shape)
    if shape == layout.shape:
        if not (is_floating(target) or is_integer(target) or is_boolean(target)):
            raise TypeError(f"a dense target must hold numbers or booleans, got dtype {target.dtype}")
        return True
    if shape == layout.row_shape:
        if is_integer(target) or 0 in shape:
            return False
        if is_boolean(target):
            raise TypeError(
                "target: boolean class labels; use target.astype(int), on a tensor target.long(), or "
                "binary_cross_entropy for one logit per row"
            )
        raise TypeError(
            f"target: class labels must be integers, got dtype {target.dtype}; use target.astype(int), on a "
            f"tensor target.long(), or pass soft targets of the shape of logits, {layout.shape}"
        )
    one_column = list(layout.shape)
    one_column[layout.axis] = 1
    if shape == tuple(one_column):
        hint = f"; did you mean target.squeeze({layout.axis}), labels without the class axis?"
    elif len(shape) == len(layout.shape):
        hint = "; a dense target has the shape of logits"
    else:
        hint = "; labels have the shape of logits without the class axis, soft targets the shape of logits"
    raise ValueError(
        f"target has shape {shape} for logits of shape {layout.shape} with class axis {layout.axis}: "
        f"expected {layout.row_shape} (labels) or {layout.shape} (soft){hint}"
    )


def class_mask(xp: Any, layout: Layout, mask: Any) -> Any:
    mask = xp.asarray(mask)
    if not is_boolean(mask):
        raise TypeError(
            f"class_mask must be boolean, True = the class can occur, got dtype {mask.dtype}; use mask.astype(bool), "
            "on a tensor mask.bool()"
        )
    if tuple(mask.shape) == (layout.classes,):
        return mask
    if tuple(mask.shape) == layout.shape:
        return layout.to_rows(xp, mask)
    raise ValueError(
        f"class_mask must have shape ({layout.classes},) or that of logits, {layout.shape}, got {tuple(mask.shape)}"
    )


def check_dense_target(xp: Any, coefficients: RowCoefficients, layout: Layout, first_row: int = 0) -> None:
    """ValueError for a negative or NaN entry of a dense target in a row that counts."""
    dense = coefficients.dense
    if dense is None or is_boolean(dense):
        return
    bad = outside(xp, dense)
    if coefficients.valid is not None:
        bad = bad & coefficients.valid[:, None]
    if known_any(xp, bad):
        first = int(xp.argmax(xp.reshape(bad, (-1,))))
        row, column = divmod(first, layout.classes)
        position, value = layout.position(first_row + row, column), float(dense[row, column])
        raise ValueError(
            f"target{position} = {value} is not a finite number >= 0; a target is a distribution over the classes"
        )


def check_probabilities(
    xp: Any, logits: Any, coefficients: RowCoefficients, layout: Layout, first_row: int = 0, *, every: bool = False
) -> None:
    """ValueError for a probability outside [0, 1] that is read: its class has a share of the target, or ``every``."""
    if coefficients.inputs == "logits":
        return
    checks = []  # (what is read, its columns)
    weight = True if coefficients.class_weight is None else coefficients.class_weight != 0
    if every:
        checks.append((logits, xp.ones_like(logits, dtype=bool), None))
    elif coefficients.label_smoothing:
        checks.append((logits, weight, None))
    elif coefficients.dense is not None:
        checks.append((logits, weight & (coefficients.dense != 0), None))
    if coefficients.indices is not None:
        value = xp.take_along_axis(logits, coefficients.indices, axis=-1)
        checks.append((value, coefficients.index_weight != 0, coefficients.indices))
    for value, read, columns in checks:
        bad = read & ((value > 0) if coefficients.inputs == "log_probs" else (value < 0) | (value > 1))
        if coefficients.valid is not None and not every:
            bad = bad & coefficients.valid[:, None]
        if known_any(xp, bad):
            row, column = divmod(int(xp.argmax(xp.reshape(bad, (-1,)))), bad.shape[-1])
            found = float(value[row, column])
            column = column if columns is None else int(columns[row, column])
            raise ValueError(probability_error(coefficients.inputs, layout.position(first_row + row, column), found))
