"""The command line. Every import beyond the standard library waits until a command needs it: --help is immediate."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .batches import Batch
    from .forms import Forms
    from .tables import Predictions

# The packages of the `report` extra, by the names they are imported under.
EXTRA = ("pyarrow", "rich", "jinja2", "matplotlib", "sklearn")
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
    report.add_argument("--html", metavar="OUT", help="write a page as well: one file, to mail or to keep")
    report.add_argument("--json", action="store_true", help="the same numbers as JSON")

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
    compare.add_argument("--html", metavar="OUT", help="write a page as well: one file, to mail or to keep")
    compare.add_argument("--json", action="store_true", help="the same numbers as JSON")

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


def _texts(options: argparse.Namespace) -> dict[str, Any] | None:
    """How to read a table of texts; None where the predictions are of classes."""
    own = ("log_prob", "tokens", "bytes")
    if not options.language_model and not any(getattr(options, name) for name in own):
        return None
    other = ("labels", "label", "classes", "multi_label", "baseline", "labels_b", "html", "label_errors")
    given = [name for name in other if getattr(options, name, None)]
    given += [name for name in ("inputs", "label_kind") if getattr(options, name) != "auto"]
    if given:
        flag = "--" + given[0].replace("_", "-")
        raise SystemExit(_fail(f"{flag} is for predictions of classes and has no meaning for texts", status=2))
    return {name: getattr(options, name) for name in (*own, "id", "weight", "group", "by")}


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    names = ("labels", "label", "classes", "id", "weight", "group", "by", "inputs", "label_kind", "multi_label")
    return {name: getattr(options, name) for name in names}


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows, 0 or more")
    return value


def run_version() -> int:
    from crossentropy import __version__

    print(f"crossentropy {__version__}")
    return 0


def run_report(options: argparse.Namespace) -> int:
    from .commands import report

    if (texts := _texts(options)) is not None:
        from .language_model_table import language_model_report

        return _show(language_model_report(options.file, worst=options.worst, **texts), options.json)
    own = {name: getattr(options, name) for name in ("worst", "baseline", "html")}
    _show(report(options.file, watch=_with_progress, **own, **_reading(options)), options.json)
    return _wrote(options)


def _wrote(options: argparse.Namespace) -> int:
    if options.html and not options.json:
        print(f"wrote {options.html}")
    return 0


def _with_progress(predictions: Predictions) -> Iterator[Batch]:
    """The batches, with a progress bar on the error stream where that is a terminal; gone when done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=predictions.rows)
        for batch in predictions:
            yield batch
            progress.advance(task, batch.seen)


def run_compare(options: argparse.Namespace) -> int:
    from .commands import compare

    if (texts := _texts(options)) is not None:
        from .language_model_comparison import compare_language_models

        result = compare_language_models(options.a, options.b, moved=options.moved, **texts)
    else:
        for_b = {"labels": options.labels_b} if options.labels_b else {}
        own = {"moved": options.moved, "html": options.html}
        result = compare(options.a, options.b, options_b=for_b, **own, **_reading(options))
    _show(result, options.json)
    _wrote(options)
    limit = options.fail_if_worse_than
    # "not <=" and not ">": a difference that is undefined is no proof of being good enough
    return WORSE if limit is not None and not result.difference.mean <= limit else 0


def run_calibrate(options: argparse.Namespace) -> int:
    if options.apply:
        return _apply_scaler(options)
    if options.output:
        return _fail("-o is written by --apply SCALER.json; a fit is kept by --save SCALER.json", status=2)
    from .commands import calibrate

    fit = calibrate(options.file, method=options.method or "temperature", watch=_with_progress, **_reading(options))
    if options.save:
        fit.scaler.save(options.save)
    _show(fit, options.json)
    if options.save and not options.json:
        print(f"saved {options.save}; apply it by: crossentropy calibrate FILE --apply {options.save} -o OUT")
    return 0


def _apply_scaler(options: argparse.Namespace) -> int:
    for name in ("method", "json"):
        if getattr(options, name):
            return _fail(f"--{name} belongs to a fit and has no meaning with --apply", status=2)
    if not options.output:
        return _fail("--apply needs -o OUT, the file to write", status=2)
    from .provenance import SourceFile
    from .scaled_predictions import apply_scaler
    from .scaler import Scaler

    scaler = Scaler.load(options.apply)
    rows = apply_scaler(scaler, options.file, options.output, **_reading(options))
    print(f"wrote {options.output}: {rows:,} row{'s' * (rows != 1)}, {scaler.describe()}")
    digest = (scaler.fitted_on or {}).get("sha256")
    if digest and digest == SourceFile.of(options.file).sha256:
        print("these are the rows that the scaler was fitted on: a report on them is no test of it")
    return 0


def run_rows(options: argparse.Namespace) -> int:
    from .row_table import row_batches, worst_rows, write_rows
    from .tables import read_predictions

    if (texts := _texts(options)) is not None:
        from .language_model_row_table import text_row_batches, worst_by
        from .language_model_table import read_texts

        found = read_texts(options.file, **texts)
        batches, by = text_row_batches(found), worst_by(found)
    else:
        batches, by = row_batches(read_predictions(options.file, **_reading(options)), options.label_errors), "loss"
    if options.worst is not None:
        batches = iter(worst_rows(batches, options.worst, by).to_batches())
    write_rows(batches, options.output)
    return 0


def run_demo(options: argparse.Namespace) -> int:
    from pathlib import Path

    from rich.console import Console

    from . import demo
    from .commands import report

    output = Path(options.output)
    demo.run(output, Console(highlight=False))
    return _show(report(output))


def _show(result: Forms, as_json: bool = False) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    if as_json:
        print(result.to_json())
    elif console.is_terminal:
        console.print(result)
    else:
        print(result.text(console.width))
    return 0


RUN = {
    "demo": run_demo,
    "report": run_report,
    "compare": run_compare,
    "calibrate": run_calibrate,
    "rows": run_rows,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0; 1 predictions that cannot be evaluated; 2 a wrong call; 3 B is worse."""
    top = parser()
    options = top.parse_args(arguments)
    if options.command is None and not options.version:
        top.print_help()
        return 2
    if sys.stdout is None:  # closed by the shell: >&-
        return _fail("there is no standard output to write to")
    # a name in a file that the terminal's encoding lacks is written as an escape, not raised as an error
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    from .batches import PredictionError

    status = 0
    try:
        status = run_version() if options.version else RUN[options.command](options)
        sys.stdout.flush()
    except PredictionError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader (head, less) has seen enough
        _discard_output()
    except OSError as error:  # of the output: what cannot be read is a PredictionError
        _discard_output()
        return _fail(f"the output cannot be written: {error.strerror or error}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in EXTRA:
            raise
        return _fail(f"{error.name} is not installed; python -m pip install 'crossentropy[report]'")
    except MemoryError:
        return _fail("not enough memory")
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    except Exception as error:
        if os.environ.get("CROSSENTROPY_TRACEBACK"):
            raise
        return _fail(
            f"this is a mistake in crossentropy, not in the file: {type(error).__name__}: {error} "
            "(set CROSSENTROPY_TRACEBACK=1 to see where, and please report it)"
        )
    return status


def _discard_output() -> None:
    # without this, Python complains again while it closes stdout
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(problem: str, status: int = 1) -> int:
    # one line, whatever stands in the file that the message quotes
    print("crossentropy: error: " + " ".join(problem.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
