"""A file that is there when it is whole, and else as it was before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .batches import PredictionError


@contextmanager
def whole_file(output: Path) -> Iterator[Path]:
    """A name to write to, which becomes `output` when all is written; after an error nothing is left of it.

    A link stays one: the file that it leads to is replaced. A device or a pipe (/dev/stdout) is written to as it is.

    Raises
    ------
    PredictionError : the file cannot be written
    """
    is_stream = output.exists() and not output.is_file() and not output.is_dir()
    target = output.resolve()
    # the same ending, which tells the writers the format
    unfinished = output if is_stream else target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        if not is_stream:
            unfinished.touch()  # where the folder takes no file, the error is found here and names the output
        yield unfinished
        if not is_stream:
            unfinished.replace(target)
    except OSError as error:
        raise PredictionError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        if not is_stream:
            unfinished.unlink(missing_ok=True)
