"""The command line. Every import beyond the standard library waits until a command needs it: --help is immediate."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .log_loss_report import LogLossReport

# The packages of the `report` extra, by the names they are imported under.
EXTRA = ("pyarrow", "rich", "matplotlib", "sklearn")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
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
        help="log loss, baselines, loss by class and the most confidently wrong rows of a file",
        description="Report on saved predictions: a Parquet, CSV or Arrow file with one row per prediction, one column "
        "of probabilities per class and a label column; or an NPY array of probabilities with --labels.",
        epilog="A label matches a class name (the probability columns' names without their common prefix), else a "
        "position counted from 0. Columns are found by their usual names; the options below override that.",
    )
    report.add_argument("file", metavar="FILE", help="Parquet, CSV, Arrow IPC or NPY file")
    report.add_argument("--labels", metavar="FILE.npy", help="the labels of an NPY array of probabilities")
    report.add_argument("--label", metavar="COLUMN", help="the label column")
    report.add_argument("--classes", metavar="COLUMN", nargs="+", help="the probability columns, or patterns: 'p_*'")
    report.add_argument("--id", metavar="COLUMN", help="the column that names the rows")
    report.add_argument("--weight", metavar="COLUMN", help="the rows' weights")
    report.add_argument("--group", metavar="COLUMN", help="rows of one value belong together: intervals by cluster")
    report.add_argument("--by", metavar="COLUMN", nargs="+", default=(), help="split the loss by these columns")
    report.add_argument(
        "--label-kind",
        choices=("auto", "name", "position"),
        default="auto",
        help="what a label is, where it could be a class name and a position (default: %(default)s)",
    )
    report.add_argument(
        "--worst", metavar="N", type=_count, default=10, help="wrong rows to show (default: %(default)s)"
    )
    report.add_argument("--json", action="store_true", help="the same numbers as JSON")
    return top


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows, 0 or more")
    return value


def run_report(options: argparse.Namespace) -> None:
    from .commands import report

    result = report(
        options.file,
        worst=options.worst,
        labels=options.labels,
        label=options.label,
        classes=options.classes,
        id=options.id,
        weight=options.weight,
        group=options.group,
        by=options.by,
        label_kind=options.label_kind,
    )
    if options.json:
        print(result.to_json())
    else:
        _show(result)


def run_demo(options: argparse.Namespace) -> None:
    from pathlib import Path

    from rich.console import Console

    from . import demo
    from .commands import report

    output = Path(options.output)
    demo.run(output, Console(highlight=False))
    _show(report(output))


def _show(result: LogLossReport) -> None:
    from rich.console import Console

    from .terminal import plain_text, render

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(render(result))
    else:
        print(plain_text(result, console.width))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 for predictions that cannot be evaluated, 2 for a wrong call."""
    top = parser()
    options = top.parse_args(arguments)
    if options.version:
        from importlib.metadata import version

        print(f"crossentropy {version('crossentropy')}")
        return 0
    if options.command is None:
        top.print_help()
        return 2
    # a name in a file that the terminal's encoding lacks is written as an escape, not raised as an error
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    from .batches import PredictionError

    try:
        {"demo": run_demo, "report": run_report}[options.command](options)
        sys.stdout.flush()
    except PredictionError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # the reader (head, less) has seen enough; without this, Python complains again while it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    return 0


def _fail(problem: str, status: int = 1) -> int:
    # one line, whatever stands in the file that the message quotes
    print("crossentropy: error: " + " ".join(problem.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
