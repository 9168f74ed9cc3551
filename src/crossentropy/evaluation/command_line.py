"""The grammar of the command line: every command, its options and their help."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

# The exit status of a comparison that was asked to fail; errors have 1 and wrong calls 2.
WORSE = 3
READING = (
    "A label matches a class name (the prediction columns' names without their common prefix), else a position counted "
    "from 0. Columns are found by their usual names; the options above override that. "
    "--classes and --by take every name that follows: put the file before them, or after --."
)


class Parser(argparse.ArgumentParser):
    """Argparse, that says where the file went that a list of names took for one of them."""

    last_name = ""

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required") and self.last_name:
            message += f" ({self.last_name!r} was read as a column; put the file first, or after --)"
        super().error(message)


class Names(argparse.Action):
    """Collect every name that follows the option, which may be repeated."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), *values])
        parser.last_name = values[-1]


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="crossentropy",
        description="Judge saved predictions by their cross-entropy (log loss).",
        epilog="Start with: crossentropy demo",
    )
    top.add_argument("--version", action="store_true", help="print the version and end")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train on real data, save the predictions, show their report",
        description="Train a softmax regression on scikit-learn's digits, save the held-out predictions as Parquet "
        "and show the report of that file. Takes a few seconds.",
    )
    demo.add_argument("--output", metavar="FILE", default="predictions.parquet", help="default: %(default)s")

    report = commands.add_parser(
        "report",
        help="log loss, interval, calibration, loss by class and the most confidently wrong rows of a file",
        description="Report on saved predictions: a Parquet, CSV or Arrow file with one row per prediction, one column "
        "of probabilities per class and a label column; or an NPY array of probabilities with --labels.",
        epilog=READING,
    )
    report.add_argument("file", metavar="FILE", help="file, folder or 'pattern*': Parquet, CSV, Arrow IPC or NPY")
    _add_reading(report)
    report.add_argument(
        "--worst", metavar="N", type=_count, default=10, help="wrong rows to show (default: %(default)s)"
    )
    report.add_argument("--baseline", metavar="FILE", help="predictions for the same rows to measure the skill against")
    _add_texts(report)
    _add_forms(report)

    compare = commands.add_parser(
        "compare",
        help="which of two models is better on the same rows, by how much, and how sure that is",
        description="Compare the predictions of two models for the same rows, aligned by id, or checked to be the same "
        "labels in the same order. Differences are B - A: below 0, B is better.",
        epilog=READING,
    )
    compare.add_argument("a", metavar="A", help="predictions of the first model, as for report")
    compare.add_argument("b", metavar="B", help="predictions of the second model")
    _add_reading(compare)
    compare.add_argument("--labels-b", metavar="FILE.npy", help="the labels of B, where they are not in A's file")
    compare.add_argument(
        "--moved", metavar="N", type=_count, default=5, help="rows that moved most (default: %(default)s)"
    )
    compare.add_argument(
        "--fail-if-worse-than",
        metavar="NATS",
        type=float,
        help=f"end with status {WORSE} where B's mean loss (per token for texts) is more than NATS above A's",
    )
    _add_texts(compare)
    _add_forms(compare)

    calibrate = commands.add_parser(
        "calibrate",
        help="fit the temperature that repairs over- or under-confidence, or apply a fitted one to a file",
        description="Fit a scaler to saved predictions with labels, show what it is worth on rows it was not fitted "
        "on, and keep it with --save; or calibrate the predictions of a file with --apply.",
        epilog=READING,
    )
    calibrate.add_argument("file", metavar="FILE", help="predictions, as for report; --apply needs no labels")
    _add_reading(calibrate)
    calibrate.add_argument(
        "--method",
        choices=("temperature", "affine"),
        help="divide the logits by a temperature (default), or for two classes: slope times the logit + intercept",
    )
    what = calibrate.add_mutually_exclusive_group()
    what.add_argument("--save", metavar="SCALER.json", help="keep the fitted scaler")
    what.add_argument("--apply", metavar="SCALER.json", help="calibrate the file with a scaler that was saved")
    calibrate.add_argument("-o", "--output", metavar="OUT", help="with --apply: the .parquet, .csv or .npy to write")
    calibrate.add_argument("--json", action="store_true", help="the fit's numbers as JSON")

    rows = commands.add_parser(
        "rows",
        help="every row's loss, entropy and prediction, as Parquet or CSV",
        description="Write every row's loss, entropy and prediction: as CSV to the screen, or to a file.",
        epilog=READING,
    )
    rows.add_argument("file", metavar="FILE", help="predictions, as for report")
    _add_reading(rows)
    rows.add_argument("--worst", metavar="N", type=_count, help="only so many rows, the largest losses first")
    _add_texts(rows)
    rows.add_argument("--label-errors", action="store_true", help="only rows whose label is suspected to be wrong")
    rows.add_argument("--output", metavar="FILE", help="write a .parquet or .csv file")
    return top


def _add_reading(command: argparse.ArgumentParser) -> None:
    reading = command.add_argument_group("how to read")
    reading.add_argument("--labels", metavar="FILE.npy", help="the labels of an NPY array of predictions")
    reading.add_argument(
        "--label", metavar="COLUMN", help="the label column, or one per class, as a pattern: 'label_*'"
    )
    reading.add_argument(
        "--multi-label", action="store_true", help="rows may have several labels, or none: 0 or 1 by class"
    )
    reading.add_argument(
        "--classes", metavar="COLUMN", nargs="+", action=Names, help="the prediction columns, or patterns: 'p_*'"
    )
    reading.add_argument("--id", metavar="COLUMN", help="the column that names the rows")
    reading.add_argument("--weight", metavar="COLUMN", help="the rows' weights")
    reading.add_argument("--group", metavar="COLUMN", help="rows of one value belong together: intervals by cluster")
    reading.add_argument(
        "--by", metavar="COLUMN", nargs="+", action=Names, default=(), help="split the loss by these columns"
    )
    reading.add_argument(
        "--inputs",
        choices=("auto", "probs", "log_probs", "logits"),
        default="auto",
        help="what the predictions are (default: by the columns' names, else probabilities)",
    )
    reading.add_argument(
        "--label-kind",
        choices=("auto", "name", "position"),
        default="auto",
        help="what a label is, where it could be a class name and a position (default: %(default)s)",
    )


def _add_texts(command: argparse.ArgumentParser) -> None:
    texts = command.add_argument_group("language models", "rows that hold the log-probability of a text")
    texts.add_argument("--language-model", action="store_true", help="loss per token, perplexity and bits per byte")
    texts.add_argument("--log-prob", metavar="COLUMN", help="the log-probability of the whole text")
    texts.add_argument("--tokens", metavar="COLUMN", help="the number of tokens of the text")
    texts.add_argument(
        "--bytes", metavar="COLUMN", help="the number of bytes of the text; each of these three implies the first"
    )


def _add_forms(command: argparse.ArgumentParser) -> None:
    command.add_argument("--html", metavar="OUT", help="write a page as well: one file, to mail or to keep")
    command.add_argument("--json", action="store_true", help="the same numbers as JSON")


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows, 0 or more")
    return value
