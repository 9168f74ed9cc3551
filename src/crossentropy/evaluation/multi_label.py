"""Several labels per row: every class of a row is a prediction of its own, that the row has the label or not.

The loss of a row and a class with the probability p is -log p where the row has the label, else -log(1 - p): a model
with a sigmoid per class is trained on their mean. The row's classes belong together: they are a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute

from crossentropy import binary_cross_entropy

from .batches import Batch, Categories, PredictionError

CLASSES = ("absent", "present")


def two_classes(values: np.ndarray, inputs: str) -> tuple[np.ndarray, str]:
    """From the probability of one thing (its logarithm, its logit), any shape, to those of its absence and presence.

    Gives an array with one axis more, of length 2, and what it holds.
    """
    values = values.astype(np.float64)
    if inputs == "logits":
        return np.stack([np.zeros_like(values), values], axis=-1), "logits"
    # log(1 - p) from the binary loss itself: 1 - p in a column of its own would lose what is below 1e-16
    p = np.exp(values) if inputs == "log_probs" else values
    log_q = -binary_cross_entropy(p, np.zeros_like(p), inputs="probs", reduction="none")
    log_p = values
    if inputs == "probs":
        log_p = -binary_cross_entropy(p, np.ones_like(p), inputs="probs", reduction="none")
    return np.stack([log_q, log_p], axis=-1), "log_probs"


def by_class(rows: Batch, present: np.ndarray, classes: Sequence[str]) -> Batch:
    """From rows with the predictions of every class to a batch with one row for each class of each row.

    Parameters
    ----------
    rows : the checked rows; their labels have no meaning
    present : shape (rows, classes), 0 or 1, of all rows seen
    classes : the classes' names

    Raises
    ------
    PredictionError : a value of `present` is not 0 or 1
    """
    kept = np.arange(rows.seen) if rows.positions is None else rows.positions
    count, present = len(classes), present[kept]
    bad = (present != 0) & (present != 1)
    if bad.any():
        row, place = (int(i) for i in np.argwhere(bad)[0])
        raise PredictionError(
            f"{rows.where(row)}: the label of class {classes[place]!r} is {present[row, place]:g}; "
            "0 or 1 says whether the row has it"
        )
    values, inputs = two_classes(rows.predictions, rows.inputs)
    places = rows.first_row + kept
    if rows.ids is None:
        names = pa.compute.binary_join_element_wise("row", pa.array(places).cast(pa.string()), " ")
    else:
        ids = rows.ids if isinstance(rows.ids, pa.Array) else pa.array(rows.ids)
        names = ids.take(pa.array(kept)).cast(pa.string()).fill_null("(missing)")
    which, class_of = np.repeat(np.arange(rows.rows), count), np.tile(np.arange(count), rows.rows)
    ids = pa.compute.binary_join_element_wise(
        names.take(pa.array(which)), pa.array(classes).take(pa.array(class_of)), ": "
    )
    own = Categories(np.arange(rows.rows), tuple(str(place) for place in places))
    slices: Mapping[str, Categories] = {name: column.take(which) for name, column in rows.slices.items()}
    question = Categories(class_of, tuple(classes))
    return Batch(
        values.reshape(-1, 2),
        present.astype(np.int64).ravel(),
        inputs=inputs,
        ids=ids,
        weights=None if rows.weights is None else rows.weights[which],
        groups=(rows.groups or own).take(which),
        slices={"label": question, **slices},
        questions=question,
        source=rows.source,
        first_row=rows.first_row * count,
    )
