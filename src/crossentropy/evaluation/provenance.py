"""Where a result comes from: which bytes were read, by which versions, when."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .batches import PredictionError
from .formats import files_of

# What the numbers and the pictures depend on.
PACKAGES = ("numpy", "pyarrow", "scipy", "matplotlib")


@dataclass(frozen=True)
class SourceFile:
    """What was read: its name, its size in bytes and the SHA-256 of its bytes; None for what is in memory alone.

    Of a folder, or of a pattern of `files` files, the hash is that of the files' own hashes in the order of their
    names.
    """

    name: str
    files: int = 0
    size: int | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, source: Any, name: str = "") -> SourceFile:
        """Read the bytes of a path; `name` is what the source is called otherwise.

        Raises
        ------
        PredictionError : the file cannot be read
        """
        if not isinstance(source, (str, Path)):
            return cls(name or type(source).__name__)
        hashes, size = [], 0
        for path in (paths := files_of(source)):
            try:
                with path.open("rb") as file:
                    hashes.append(hashlib.file_digest(file, "sha256"))
                    size += file.tell()
            except OSError as error:
                raise PredictionError(f"{path}: cannot be read: {error.strerror or error}") from None
        whole = hashes[0] if len(hashes) == 1 else hashlib.sha256(b"".join(part.digest() for part in hashes))
        return cls(name or str(source), len(paths), size, whole.hexdigest())


@dataclass(frozen=True)
class Provenance:
    """The sources of a result, the versions that made it and the time, in UTC."""

    sources: tuple[SourceFile, ...]
    versions: dict[str, str]
    created: datetime

    @classmethod
    def of(cls, *sources: SourceFile) -> Provenance:
        from crossentropy import __version__

        versions = {"crossentropy": __version__, "Python": platform.python_version()}
        return cls(sources, versions | {name: metadata.version(name) for name in PACKAGES}, datetime.now(UTC))
