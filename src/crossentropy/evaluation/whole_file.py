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

    Raises
    ------
    PredictionError : the file cannot be written
    """
    # the same ending, which tells the writers the format
    unfinished = output.with_name(f".{output.stem}.{os.getpid()}{output.suffix}")
    try:
        yield unfinished
        unfinished.replace(output)
    except OSError as error:
        raise PredictionError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
