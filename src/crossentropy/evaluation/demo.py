"""The demonstration: train on real data, predict what was held out, save the predictions, read the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits

from crossentropy import cross_entropy_value_and_grad, softmax

from .batches import PredictionError

# Written into the file, so that a second run replaces the demo's own file and never somebody else's.
MARK = b"crossentropy demo"
EPOCHS = 40
# Small batches: the products of one stay on one thread, 0.06 ms; those of all rows at once are split over threads and
# took 8 ms on a busy 2-core machine.
BATCH_ROWS = 64
LEARNING_RATE = 0.5


def train(
    images: np.ndarray, labels: np.ndarray, progress: Progress, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax regression, logits = images @ weight + bias: mean cross-entropy, gradient descent on batches of rows."""
    weight, bias = np.zeros((images.shape[1], 10)), np.zeros(10)
    task = progress.add_task("training", total=EPOCHS, loss="")
    for _ in range(EPOCHS):
        order, losses = generator.permutation(len(labels)), []
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            loss, gradient = cross_entropy_value_and_grad(images[rows] @ weight + bias, labels[rows])
            weight -= LEARNING_RATE * (images[rows].T @ gradient)
            bias -= LEARNING_RATE * gradient.sum(axis=0)
            losses.append(float(loss))
        progress.update(task, advance=1, loss=f"loss {sum(losses) / len(losses):.4f} nats")
    return weight, bias


def run(output: Path, console: Console) -> None:
    """Train on three quarters of scikit-learn's digits and write the predictions for the last quarter to `output`."""
    _check_writable(output)
    digits = load_digits()
    images, labels = digits.data / 16, digits.target
    generator = np.random.default_rng(0)
    order = generator.permutation(len(labels))
    fitted, held_out = np.split(order, [len(order) * 3 // 4])
    console.print(
        f"Softmax regression on scikit-learn's digits: 8 x 8 pixels, 10 classes, {len(fitted):,} rows to train on, "
        f"{len(held_out):,} held out"
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        weight, bias = train(images[fitted], labels[fitted], progress, generator)
    probabilities = softmax(images[held_out] @ weight + bias)
    table = pa.table(
        {
            "id": [f"digit-{row:04}" for row in held_out],
            "label": labels[held_out],
            **{f"p_{digit}": probabilities[:, digit] for digit in range(10)},
        },
        metadata={b"written by": MARK},
    )
    try:
        pa.parquet.write_table(table, output)
    except OSError as error:
        raise PredictionError(f"{output}: cannot be written: {error.strerror or error}") from None
    console.print(f"wrote {output}; its report, by: crossentropy report {output}", soft_wrap=True)
    console.print()


def _check_writable(output: Path) -> None:
    """Refuse before training what would fail, or destroy something, after it."""
    if not output.parent.is_dir():
        raise PredictionError(f"{output}: cannot be written: there is no folder {output.parent}")
    if not output.exists():
        return
    try:
        metadata = pa.parquet.read_schema(output).metadata or {}
    except (pa.ArrowException, OSError):
        metadata = {}
    if metadata.get(b"written by") != MARK:
        raise PredictionError(f"{output}: the file exists and the demo did not write it; choose another with --output")
