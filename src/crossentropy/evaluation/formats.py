"""The files that predictions are kept in. Each opener gives the columns' names and kinds, and reads some in batches."""

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from .batches import PredictionError

# One batch of numbers, about 10 MB in float64: small beside any machine's memory, large beside the cost of a call.
BATCH_VALUES = 1_310_720
MOST_ROWS = 131_072
READABLE = "Parquet, CSV, Arrow IPC and NPY files are readable"


@dataclass(frozen=True)
class Table:
    """A table with named columns.

    `read(numbers, texts, classes)` gives record batches of the columns in `numbers`, as they are stored, and of those
    in `texts`; a format without types of its own (CSV) reads the first as float64 and the second as text. The more
    `classes`, the fewer rows in a batch.
    """

    source: str
    kinds: dict[str, str]
    rows: int | None
    read: Callable[[Sequence[str], Sequence[str], int], Iterator[pa.RecordBatch]]


def batch_rows(classes: int) -> int:
    """Rows per batch, so that a batch of many classes takes no more memory than one of few."""
    return max(1, min(MOST_ROWS, BATCH_VALUES // max(classes, 1)))


def open_table(path: Path) -> Table:
    """Open a Parquet, Arrow IPC or CSV file, told by its first bytes rather than by its name.

    Raises
    ------
    PredictionError : no such file, not readable, not one of these formats, or two columns of one name
    """
    with _readable(path, "file"), path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PAR1"):
        table = _open_parquet(path)
    elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        table = _open_ipc(path, stream=not head.startswith(b"ARROW1"))
    else:
        suffixes = [suffix.lower() for suffix in path.suffixes]
        if not head:
            raise PredictionError(f"{path}: the file is empty")
        is_text = b"\0" not in head or head.startswith(b"\x1f\x8b")
        if not is_text or {".parquet", ".arrow", ".feather", ".npy", ".npz"} & set(suffixes[-1:]):
            raise PredictionError(f"{path}: the file is not what its name says, or is cut off; {READABLE}")
        table = _open_csv(path)
    return table


def files_of(source: str | Path) -> list[Path]:
    """The file that is meant; or all readable files of a folder or of a pattern, in the order of their names."""
    path = Path(source)
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".", "_")))
    elif not path.exists() and any(mark in str(source) for mark in "*?["):
        paths = sorted(Path(name) for name in glob.glob(str(source), recursive=True))
    else:
        return [path]
    if not paths:
        raise PredictionError(f"{source}: there are no files")
    return paths


def keep_inputs(output: str | Path | None, *sources: Any) -> None:
    """Refuse to write onto a file that is read.

    Raises
    ------
    PredictionError : `output` is one of the sources' files
    """
    output = None if output is None else Path(output)
    if output is None or not output.exists():
        return
    for source in sources:
        for part in files_of(source) if isinstance(source, (str, Path)) else ():
            if part.exists() and output.samefile(part):
                raise PredictionError(f"{output}: this is the file that is read; choose another name for the output")


def open_files(source: str | Path) -> Table:
    """Open a file; or all readable files of a folder or of a pattern, in the order of their names, as one table."""
    paths = files_of(source)
    tables = [open_table(part) for part in paths]
    if paths == [Path(source)]:
        return tables[0]
    kinds = tables[0].kinds
    for table in tables[1:]:
        if table.kinds.keys() != kinds.keys():
            name = next(iter(table.kinds.keys() ^ kinds.keys()))
            raise PredictionError(f"{table.source}: column {name!r} is in some files of {source} and not in others")

    def read(numbers: Sequence[str], texts: Sequence[str], classes: int) -> Iterator[pa.RecordBatch]:
        for table in tables:
            yield from table.read(numbers, texts, classes)

    rows = [table.rows for table in tables]
    total = None if None in rows else sum(count for count in rows if count is not None)
    return Table(f"{source} ({len(tables)} files)" if len(tables) > 1 else tables[0].source, kinds, total, read)


def open_stream(source: Any) -> Table:
    """Open a table in memory (pandas, Polars, PyArrow, ...) through Arrow's C stream interface."""
    name = f"{type(source).__module__.partition('.')[0]}.{type(source).__name__}"

    def stream() -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_stream(source)

    with _readable(Path(name), "an Arrow stream"):
        kinds = _kinds(Path(name), stream().schema)

    def read(numbers: Sequence[str], texts: Sequence[str], classes: int) -> Iterator[pa.RecordBatch]:
        with _readable(Path(name), "an Arrow stream"):
            yield from _pieces((batch.select([*numbers, *texts]) for batch in stream()), classes)

    return Table(name, kinds, len(source) if hasattr(source, "__len__") else None, read)


def load_npy(path: Path) -> np.ndarray:
    """Map an NPY file into memory; nothing is read until it is used."""
    with _readable(path, "NPY"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise PredictionError(f"{path}: an NPZ archive holds several arrays; save the one that is meant as NPY")
    return array


def is_npy(path: Path) -> bool:
    if not path.is_file():
        return False
    with _readable(path, "file"), path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY" or path.suffix.lower() in (".npy", ".npz")


@contextmanager
def _readable(path: Path, format: str) -> Iterator[None]:
    """Turn every way in which reading fails into one line that names the file."""
    try:
        yield
    except PredictionError:
        raise
    except FileNotFoundError:
        raise PredictionError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise PredictionError(f"{path}: this is a folder, not a file") from None
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise PredictionError(f"{path}: not readable as {format}: {reason}") from None


def _pieces(batches: Iterable[pa.RecordBatch], classes: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        # A damaged file can hold text that is no text and offsets that point outside: Arrow trusts both until told.
        batch.validate(full=True)
        for start in range(0, batch.num_rows, size := batch_rows(classes)):
            yield batch.slice(start, size)


def _kinds(path: Path, schema: pa.Schema) -> dict[str, str]:
    twice = next((name for name, times in Counter(schema.names).items() if times > 1), None)
    if twice is not None:
        raise PredictionError(f"{path}: two columns are named {twice!r}")
    return {field.name: _kind(field.type) for field in schema}


def _kind(type: pa.DataType) -> str:
    if pa.types.is_floating(type) or pa.types.is_decimal(type):
        return "float"
    if pa.types.is_integer(type):
        return "integer"
    if pa.types.is_boolean(type):
        return "boolean"
    if pa.types.is_null(type):
        return "nothing"
    if pa.types.is_dictionary(type):
        return _kind(type.value_type)
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        return "list" if _kind(type.value_type) in ("float", "integer") else "other"
    text = pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)
    return "text" if text else "other"


def _open_parquet(path: Path) -> Table:
    # pre_buffer=False: 187 MB at the peak instead of 635 MB on a large file
    with _readable(path, "Parquet"), pa.parquet.ParquetFile(path, pre_buffer=False) as file:
        kinds, rows = _kinds(path, file.schema_arrow), file.metadata.num_rows

    def read(numbers: Sequence[str], texts: Sequence[str], classes: int) -> Iterator[pa.RecordBatch]:
        with _readable(path, "Parquet"), pa.parquet.ParquetFile(path, pre_buffer=False) as file:
            yield from _pieces(file.iter_batches(batch_rows(classes), columns=[*numbers, *texts]), classes)

    return Table(str(path), kinds, rows, read)


def _open_ipc(path: Path, stream: bool) -> Table:
    def open_file() -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        source = pa.memory_map(str(path))
        if stream:
            reader = pa.ipc.open_stream(source)
            return reader.schema, iter(reader)
        file = pa.ipc.open_file(source)
        return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))

    with _readable(path, "Arrow IPC"):
        kinds = _kinds(path, open_file()[0])

    def read(numbers: Sequence[str], texts: Sequence[str], classes: int) -> Iterator[pa.RecordBatch]:
        with _readable(path, "Arrow IPC"):
            batches = (batch.select([*numbers, *texts]) for batch in open_file()[1])
            yield from _pieces(batches, classes)

    return Table(str(path), kinds, None, read)


def _open_csv(path: Path) -> Table:
    def open_file(convert: pa.csv.ConvertOptions | None = None) -> pa.csv.CSVStreamingReader:
        with pa.input_stream(str(path)) as file:
            header = file.read(1 << 20).split(b"\n", 1)[0]
        unquoted = re.sub(rb'"[^"]*"', b"", header)
        delimiter = max(b",;\t", key=lambda mark: unquoted.count(bytes([mark])))
        parse = pa.csv.ParseOptions(delimiter=chr(delimiter), newlines_in_values=True)
        return pa.csv.open_csv(pa.input_stream(str(path)), parse_options=parse, convert_options=convert)

    with _readable(path, "CSV"):
        schema = open_file().schema
        if all(pa.types.is_null(field.type) for field in schema):
            raise PredictionError(f"{path}: there are column names and there are no rows")
        kinds = _kinds(path, schema)

    def read(numbers: Sequence[str], texts: Sequence[str], classes: int) -> Iterator[pa.RecordBatch]:
        # Types are given, never guessed from the first block: a column that starts with 0 and 1 may go on with 0.5.
        convert = pa.csv.ConvertOptions(
            include_columns=[*numbers, *texts],
            column_types={name: pa.float64() for name in numbers} | {name: pa.string() for name in texts},
            null_values=["", "NA", "N/A", "null", "NULL", "None", "-"],
        )
        with _readable(path, "CSV"):
            yield from _pieces(open_file(convert), classes)

    return Table(str(path), kinds, None, read)
