"""The files of the interaction log: which there are, what they hold, and their raw rows.

Three formats (Parquet, CSV, JSON lines), three places (local, s3://, pkg://package/file). A file is
read in fragments: a row group of a Parquet file, a whole text file. Everything that is wrong with a
file as a whole (missing column, other schema, truncated) is an error that names it; everything
that is wrong with a row is left to `events`.
"""

import importlib.util
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from diffsasrec.config import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.schema import canonical_type, stored_type
from diffsasrec.storage import open_filesystem

ROWS_PER_CHUNK = 256 * 1024
TEXT_CHUNK_BYTES = 8 * 2**20
BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException)  # what a damaged file raises
RAW = ("user_id", "item_id", "timestamp")  # the raw columns, under our names


@dataclass(frozen=True)
class InputFile:
    path: str  # local path or s3:// URL
    size: int
    version: str  # ETag or modification time


@dataclass(frozen=True)
class Fragment:
    path: str
    row_group: int | None  # None: the whole file


@dataclass(frozen=True)
class Log:
    """A log whose files were looked at: what to read, and the types of its ids."""

    fragments: list[Fragment]
    user_type: pa.DataType  # as written to the output
    item_type: pa.DataType


@dataclass(frozen=True)
class RawChunk:
    rows: pa.Table  # columns user_id, item_id, timestamp, as read
    malformed: list[str]  # lines that are no rows at all (CSV, JSON lines)


def list_inputs(events: EventsConfig, *, run_date: date) -> list[InputFile]:
    """The input files, sorted by path, later partitions and hidden files left out.

    Raises:
        InputDataError: when there are none.
        ConfigError: when pkg:// names nothing that is installed.
    """
    url = _resolve_package(events.path)
    filesystem, path = open_filesystem(url)
    try:
        if any(character in path for character in "*?["):
            found = filesystem.glob(path, detail=True)
        else:
            found = filesystem.find(path, detail=True)
    except FileNotFoundError:
        found = {}
    except OSError as error:
        raise InputDataError(f"events.path={events.path} can't be listed: {error}") from error
    scheme = "s3://" if url.startswith("s3://") else ""
    base = re.split(r"[*?\[]", path, maxsplit=1)[0]
    files = []
    for name, stat in sorted(found.items()):
        if _is_hidden(name.removeprefix(base)):
            continue
        if scheme and stat["type"] == "file":
            files.append(InputFile(scheme + name, int(stat["size"]), stat["ETag"].strip('"')))
        if not scheme and os.path.isfile(name):  # or a link to one
            status = os.stat(name)
            files.append(InputFile(name, status.st_size, str(status.st_mtime_ns)))
    if events.partition_column is not None:
        files = [f for f in files if _partition(f.path, events.partition_column) < run_date]
    if not files:
        raise InputDataError(
            f"events.path={events.path} holds no file"
            + (f" of a partition before {run_date}" if events.partition_column else "")
            + "; check the path, the glob and the permissions"
        )
    return files


def _resolve_package(path: str) -> str:
    if not path.startswith("pkg://"):
        return path
    package, _, inside = path.removeprefix("pkg://").partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # the parent of a dotted name is missing; no name at all
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"events.path={path}: package {package} is not installed; pip install it")
    return str(Path(spec.submodule_search_locations[0]) / inside)


def _is_hidden(path: str) -> bool:
    # a path that ends in a slash is an empty object that stands for a directory on S3
    return path.endswith("/") or any(part.startswith(("_", ".")) for part in path.split("/"))


def _partition(path: str, column: str) -> date:
    for part in path.split("/"):
        key, separator, value = part.partition("=")
        if separator and key == column:
            try:
                return date.fromisoformat(value)
            except ValueError:
                raise InputDataError(
                    f"{path}: {part} is no date; events.partition_column={column} needs "
                    f"{column}=YYYY-MM-DD"
                ) from None
    raise InputDataError(
        f"{path} has no {column}=YYYY-MM-DD in its path; unset events.partition_column or move it"
    )


def inspect_inputs(files: list[InputFile], events: EventsConfig) -> Log:
    """Looks at the head of every file: the columns are there and of one schema.

    Raises:
        InputDataError: names the file, the column and what is wrong with it.
        ConfigError: events.time_unit does not go with the time column.
    """
    # latency, not work: the footers of thousands of objects are read in a few seconds
    with ThreadPoolExecutor(16) as pool:
        heads = list(pool.map(lambda file: _inspect(file.path, events), files))
    first, fields = files[0].path, heads[0][1]
    for file, (_, other) in zip(files, heads, strict=True):
        for name, column in zip(RAW, _columns(events), strict=True):
            if _comparable(other.field(name).type) != _comparable(fields.field(name).type):
                raise InputDataError(
                    f"{file.path}: column {column} is {other.field(name).type}, but "
                    f"{fields.field(name).type} in {first}; rewrite one of the files"
                )
    if events.format == "parquet":
        _check_time(fields.field("timestamp").type, events, first)
    id_types = {"int64": pa.int64(), "string": pa.string()}
    user_type, item_type = (
        id_types.get(events.id_type, stored_type(fields.field(name).type))
        for name in ("user_id", "item_id")
    )
    fragments = [fragment for fragments, _ in heads for fragment in fragments]
    if not fragments:
        raise InputDataError(f"events.path={events.path}: the {len(files)} files hold no row")
    return Log(fragments, user_type, item_type)


def _columns(events: EventsConfig) -> list[str]:
    return [events.user_column, events.item_column, events.time_column]


def _comparable(column_type: pa.DataType) -> pa.DataType:
    return pa.string() if canonical_type(column_type) == pa.string() else column_type


def _inspect(path: str, events: EventsConfig) -> tuple[list[Fragment], pa.Schema]:
    try:
        if events.format == "parquet":
            return _inspect_parquet(path, events)
        names = _text_columns(path, events)
    except (*BROKEN, ValueError) as error:
        raise _unreadable(path, events, error) from error
    _require_columns(path, names, events)
    return [Fragment(path, None)], pa.schema([(name, pa.string()) for name in RAW])


def _unreadable(path: str, events: EventsConfig, error: Exception) -> InputDataError:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputDataError(
        f"{path} can't be read as {events.format}: {text}; write the file again or remove it"
    )


def _inspect_parquet(path: str, events: EventsConfig) -> tuple[list[Fragment], pa.Schema]:
    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        parquet = pq.ParquetFile(file)
        _require_columns(path, parquet.schema_arrow.names, events)
        schema = pa.schema(
            [
                (name, parquet.schema_arrow.field(column).type)
                for name, column in zip(RAW, _columns(events), strict=True)
            ]
        )
        for name, column in zip(RAW[:2], _columns(events)[:2], strict=True):
            if canonical_type(schema.field(name).type) is None:
                raise InputDataError(
                    f"{path}: column {column} is {schema.field(name).type}; ids must be integers "
                    "or strings"
                )
        return [Fragment(path, group) for group in range(parquet.num_row_groups)], schema


def _check_time(time_type: pa.DataType, events: EventsConfig, path: str) -> None:
    column = events.time_column
    if pa.types.is_timestamp(time_type) and events.time_unit is not None:
        raise ConfigError(
            f"events.time_unit={events.time_unit}, but column {column} is {time_type} in {path}, "
            "which has its own unit; remove events.time_unit"
        )
    if pa.types.is_integer(time_type) and events.time_unit is None:
        raise ConfigError(
            f"events.time_unit is not set, but column {column} is {time_type} in {path}; set it to "
            "s, ms, us or ns"
        )
    readable = pa.types.is_timestamp(time_type) or pa.types.is_integer(time_type)
    if not readable and canonical_type(time_type) != pa.string():
        raise InputDataError(
            f"{path}: column {column} is {time_type}; times must be integers, ISO strings or "
            "timestamps"
        )


def _require_columns(path: str, names: list[str], events: EventsConfig) -> None:
    keys = ("events.user_column", "events.item_column", "events.time_column")
    for key, column in zip(keys, _columns(events), strict=True):
        if names.count(column) != 1:
            what = "has no column" if column not in names else "has more than one column"
            raise InputDataError(
                f"{path} {what} {column} ({key}); its columns: {', '.join(names) or 'none'}"
            )


def _open_text(path: str) -> Any:
    filesystem, inside = open_filesystem(path)
    return filesystem.open(inside, "rb", compression="infer")


def _text_columns(path: str, events: EventsConfig) -> list[str]:
    with _open_text(path) as file:
        head = file.read(TEXT_CHUNK_BYTES)
    if not head.strip():
        raise InputDataError(f"{path} is empty; remove it or write the file again")
    if events.format == "csv":
        header = pa.csv.read_csv(io.BytesIO(head.splitlines()[0] + b"\n"))
        return list(header.column_names)
    names: dict[str, None] = {}
    for line in head.splitlines()[:100]:
        if isinstance(row := _parse_line(line), dict):
            names.update(dict.fromkeys(row))
    return list(names)


def read_fragment(fragment: Fragment, events: EventsConfig) -> Iterator[RawChunk]:
    """The raw rows of a fragment, in chunks of bounded size."""
    readers = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_jsonl}
    try:
        yield from readers[events.format](fragment, events)
    except BROKEN as error:
        raise _unreadable(fragment.path, events, error) from error


def _read_parquet(fragment: Fragment, events: EventsConfig) -> Iterator[RawChunk]:
    filesystem, inside = open_filesystem(fragment.path)
    columns = _columns(events)
    with filesystem.open(inside, "rb") as file:
        batches = pq.ParquetFile(file).iter_batches(
            batch_size=ROWS_PER_CHUNK, row_groups=[fragment.row_group], columns=columns
        )
        for batch in batches:
            rows = pa.Table.from_batches([batch]).select(columns).rename_columns(RAW)
            yield RawChunk(rows, [])


def _read_csv(fragment: Fragment, events: EventsConfig) -> Iterator[RawChunk]:
    malformed: list[str] = []

    def collect(row: Any) -> str:
        malformed.extend(row.text.splitlines())  # an unclosed quote swallows the lines behind it
        return "skip"

    columns = _columns(events)
    with _open_text(fragment.path) as file:
        reader = pa.csv.open_csv(
            file,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=TEXT_CHUNK_BYTES),
            parse_options=pa.csv.ParseOptions(invalid_row_handler=collect),
            convert_options=pa.csv.ConvertOptions(
                include_columns=columns,
                column_types={column: pa.string() for column in columns},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        for batch in reader:
            yield RawChunk(pa.Table.from_batches([batch]).rename_columns(RAW), malformed[:])
            malformed.clear()
    if malformed:
        yield RawChunk(pa.schema([(name, pa.string()) for name in RAW]).empty_table(), malformed)


def _read_jsonl(fragment: Fragment, events: EventsConfig) -> Iterator[RawChunk]:
    with _open_text(fragment.path) as file:
        rest = b""
        while True:
            block = file.read(TEXT_CHUNK_BYTES)
            text, newline, rest = (rest + block).rpartition(b"\n") if block else (rest, b"", b"")
            if text.strip():
                yield _parse_json(text + newline, events)
            if not block:
                return


def _parse_json(text: bytes, events: EventsConfig) -> RawChunk:
    """Arrow's parser for clean chunks; line by line only where it meets a row it can't type."""
    columns = _columns(events)
    try:
        table = pa.json.read_json(
            io.BytesIO(text),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=2 * TEXT_CHUNK_BYTES),
            parse_options=pa.json.ParseOptions(explicit_schema=_json_types(events)),
        )
        as_strings = [_as_strings(table[column]) for column in columns]
        if all(column is not None for column in as_strings):
            return RawChunk(pa.table(as_strings, names=list(RAW)), [])
    except (pa.ArrowException, KeyError):
        pass  # a row is not like the others: the lines below say which
    values: list[list[str | None]] = []
    malformed = []
    for line in text.splitlines():
        row = _parse_line(line)
        if isinstance(row, dict) and _has_plain_ids(row, columns):
            values.append([_scalar_text(row.get(column)) for column in columns])
        elif line.strip():
            malformed.append(line.decode("utf-8", "replace"))
    arrays = [pa.array([row[i] for row in values], pa.string()) for i in range(len(RAW))]
    return RawChunk(pa.table(arrays, names=list(RAW)), malformed)


def _json_types(events: EventsConfig) -> pa.Schema | None:
    # left to itself Arrow reads ISO strings as timestamps
    return pa.schema([(events.time_column, pa.string())]) if events.time_unit is None else None


def _as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Integers and strings as strings; None for what the line parser has to look at."""
    if canonical_type(column.type) is None:
        return None
    column = column.cast(pa.string())
    column.validate(full=True)  # Arrow's parser lets through what is no UTF-8
    return column


def _parse_line(line: bytes) -> Any:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return row
    except ValueError:
        return None


def _has_plain_ids(row: dict[str, Any], columns: list[str]) -> bool:
    ids = (row.get(column) for column in columns[:2])
    return all(v is None or isinstance(v, str) or type(v) is int for v in ids)


def _scalar_text(value: Any) -> str | None:
    # another type than an integer or a string stays recognisable, and is no valid time
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
