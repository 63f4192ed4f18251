"""The files of the interaction log, and what they hold."""

import lzma
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.files.urls import open_filesystem, resolve_path
from diffsasrec.formats.compression import open_text
from diffsasrec.formats.listing import InputFile, Listing, list_files
from diffsasrec.formats.partitions import DEFAULT, has_partitions, partition_of
from diffsasrec.inputs.text_rows import (
    CHUNK_BYTES,
    RAW,
    csv_columns,
    jsonl_columns,
)
from diffsasrec.schema import canonical_type, stored_type

AGAIN = "run the same command again, which takes the log as it is then"
# errors of a damaged file; ValueError: names and texts that are not UTF-8
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    pa.ArrowException,
)


@dataclass(frozen=True)
class Fragment:
    path: str
    row_group: int | None  # None: the whole file
    file: InputFile | None = field(default=None, compare=False)  # as it was listed, if known


@dataclass(frozen=True)
class Log:
    """A log whose files were inspected: what to read, and the types of its ids."""

    fragments: list[Fragment]
    user_type: pa.DataType  # as written to the output
    item_type: pa.DataType


def list_inputs(events: EventsConfig, *, run_date: date) -> list[InputFile]:
    """The files of `list_log`."""
    return list_log(events, run_date=run_date).files


def list_log(events: EventsConfig, *, run_date: date) -> Listing:
    """The input files, sorted by path, without later partitions and hidden files; and what is not.

    Raises:
        InputDataError: there are none, or a path has no date of a partition.
        ConfigError: nothing here reads the path, or a table format has the files.
    """
    url = resolve_path(events.path, "events.path")
    try:
        found = list_files(url, may_be_glob=True)
    except OSError as error:
        raise InputDataError(f"events.path={events.path} can't be listed: {error}") from error
    for file in found.files:
        if not file.path.encode(errors="replace").decode() == file.path:
            raise InputDataError(
                f"events.path={events.path}: the name of {file.path!r} is no UTF-8; rename the file"
            )
    if has_partitions(events):
        found = found.without((f, _out_of_range(f.path, events, run_date)) for f in found.files)
    if not found.files:
        raise InputDataError(
            f"events.path={events.path} holds no file"
            + (f" of a partition before {run_date}" if has_partitions(events) else "")
            + "".join(f"; left out: {left_out}" for left_out in found.left_out)
            + "; check the path, the glob and the permissions"
        )
    return found


def _out_of_range(path: str, events: EventsConfig, run_date: date) -> str | None:
    """Why the partition of a file is not read; None if it is."""
    day = partition_of(path, events)
    if day is None:
        return f"of {DEFAULT}, without a date"
    return None if day < run_date else f"of partitions from {run_date} on"


def inspect_inputs(files: list[InputFile], events: EventsConfig) -> Log:
    """Reads the head of every file and checks that all have the columns in one schema.

    Raises:
        InputDataError: names the file, the column and what is wrong with it.
        ConfigError: events.time_unit does not fit the time column.
    """
    # latency, not work: the footers of thousands of objects are read in a few seconds
    with ThreadPoolExecutor(16) as pool:
        heads = list(pool.map(lambda file: _inspect(file.path, events), files))
    first, fields = files[0].path, heads[0][1]
    for file, (_, other) in zip(files, heads, strict=True):
        for name, column in zip(RAW, columns_of(events), strict=True):
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
    fragments = [
        replace(fragment, file=file)
        for file, (found, _) in zip(files, heads, strict=True)
        for fragment in found
    ]
    if not fragments:
        raise InputDataError(
            f"events.path={events.path}: the {len(files)} files hold no row; "
            "bring a log with events"
        )
    return Log(fragments, user_type, item_type)


def columns_of(events: EventsConfig) -> list[str]:
    return [events.user_column, events.item_column, events.time_column]


def _comparable(column_type: pa.DataType) -> pa.DataType:
    return pa.string() if canonical_type(column_type) == pa.string() else column_type


def _inspect(path: str, events: EventsConfig) -> tuple[list[Fragment], pa.Schema]:
    try:
        if events.format == "parquet":
            return _inspect_parquet(path, events)
        names = text_columns(path, events)
    except BROKEN as error:
        raise unreadable(path, events, error) from error
    _require_columns(path, names, events)
    return [Fragment(path, None)], pa.schema([(name, pa.string()) for name in RAW])


def _inspect_parquet(path: str, events: EventsConfig) -> tuple[list[Fragment], pa.Schema]:
    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        parquet = pq.ParquetFile(file)
        _require_columns(path, parquet.schema_arrow.names, events)
        schema = pa.schema(
            [
                (name, parquet.schema_arrow.field(column).type)
                for name, column in zip(RAW, columns_of(events), strict=True)
            ]
        )
        for name, column in zip(RAW[:2], columns_of(events)[:2], strict=True):
            if canonical_type(schema.field(name).type) is None:
                raise InputDataError(
                    f"{path}: column {column} is {schema.field(name).type}; ids must be integers "
                    "or strings; cast the column in the job that writes the log"
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
            "timestamps; cast the column in the job that writes the log"
        )


def _require_columns(path: str, names: list[str], events: EventsConfig) -> None:
    keys = ("events.user_column", "events.item_column", "events.time_column")
    for key, column in zip(keys, columns_of(events), strict=True):
        if names.count(column) != 1:
            what = "has no column" if column not in names else "has more than one column"
            raise InputDataError(
                f"{path} {what} {column} ({key}); its columns: "
                f"{', '.join(names) or 'none'}; set {key} or write the file again"
            )


def unreadable(path: str, events: EventsConfig, error: Exception) -> InputDataError:
    if isinstance(error, FileNotFoundError):
        return InputDataError(f"{path} can't be read: it is gone since the run began; {AGAIN}")
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputDataError(
        f"{path} can't be read as {events.format}: {text}; write the file again or remove it"
    )


def text_columns(path: str, events: EventsConfig) -> list[str]:
    with open_text(path) as file:
        head = file.read(CHUNK_BYTES)
    if not head.strip():
        raise InputDataError(f"{path} is empty; remove it or write the file again")
    return csv_columns(head) if events.format == "csv" else jsonl_columns(head)
