"""The commands, run. Every import beyond the standard library waits until a command needs it: --help is immediate."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .command_line import WORSE, parser

if TYPE_CHECKING:
    from .batches import Batch
    from .forms import Forms
    from .tables import Predictions

# The packages of the `report` extra, by the names they are imported under.
EXTRA = ("pyarrow", "rich", "jinja2", "matplotlib", "sklearn")


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    names = ("labels", "label", "classes", "id", "weight", "group", "by", "inputs", "label_kind", "multi_label")
    return {name: getattr(options, name) for name in names}


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
        result = compare(options.a, options.b, options_b=for_b, watch=_with_progress, **own, **_reading(options))
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
    from .formats import keep_inputs

    keep_inputs(options.save, options.file, options.labels)
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
    from .formats import keep_inputs
    from .row_table import row_batches, worst_rows, write_rows
    from .tables import read_predictions

    keep_inputs(options.output, options.file, options.labels)
    if (texts := _texts(options)) is not None:
        from .language_model_row_table import text_row_batches, worst_by
        from .language_model_table import read_texts

        found = read_texts(options.file, **texts)
        batches, by = text_row_batches(found), worst_by(found)
    else:
        predictions = read_predictions(options.file, **_reading(options)).watched(_with_progress)
        batches, by = row_batches(predictions, options.label_errors), "loss"
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
