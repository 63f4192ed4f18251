"""The files of the interaction log, and what they hold."""

import lzma
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from types import MappingProxyType

import pyarrow as pa

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.urls import resolve_path
from diffsasrec.formats.chunks import RAW, blocks_of
from diffsasrec.formats.compression import open_text
from diffsasrec.formats.conditions import check_condition
from diffsasrec.formats.csv_layout import CsvStyle
from diffsasrec.formats.csv_rows import csv_layout, sample_rows
from diffsasrec.formats.json_rows import jsonl_columns
from diffsasrec.formats.listing import InputFile, Listing, list_files
from diffsasrec.formats.parquet_rows import column_names, footer_of, type_at
from diffsasrec.formats.partitions import DEFAULT, end_of, has_partitions, partition_of
from diffsasrec.inputs.ids import number_texts
from diffsasrec.inputs.log_types import (
    FileTypes,
    check_times,
    check_type_column,
    columns_of,
    id_type_of,
    notes_of,
    type_columns,
)
from diffsasrec.progress import beating
from diffsasrec.read_log.log import Fragment, Head, Log
from diffsasrec.tables.data_files import DataFile
from diffsasrec.tables.rows import footer_of as footer_of_table
from diffsasrec.tables.versions import data_files

AGAIN = "run the same command again, which takes the log as it is then"
KEYS = ("events.user_column", "events.item_column", "events.time_column")
NOTHING: Mapping[str, Head] = MappingProxyType({})
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


def list_inputs(events: EventsConfig, *, run_date: date) -> list[InputFile]:
    """The files of `list_log`."""
    return list_log(events, run_date=run_date).files


def list_log(events: EventsConfig, *, run_date: date) -> Listing:
    """The input files, sorted by path, without later partitions and hidden files; and what is not.

    Raises:
        InputDataError: there are none, or a path has no date of a partition.
        ConfigError: nothing here reads the path, or a table format has the files.
    """
    if events.table is not None:
        return Listing([InputFile(f.path, f.size, f.version) for f in data_files(events)])
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
    if day >= run_date:
        return f"of partitions from {run_date} on"
    days = events.lookback_days
    start = None if days is None else run_date - timedelta(days=days)
    # a day more: partitions may be cut by local time
    if start is not None and end_of(day, events) <= start - timedelta(days=1):
        return f"of partitions before {start}, the start of events.lookback_days={days}"
    return None


def inspect_inputs(
    files: list[InputFile], events: EventsConfig, *, known: Mapping[str, Head] = NOTHING
) -> Log:
    """Reads the head of every file, and brings the columns of all to one type each.

    Args:
        known: the heads of files, by path, that an earlier night has read.

    Raises:
        InputDataError: names the file, the column and what is wrong with it; or no file has a row.
        ConfigError: events.time_unit or events.time_format does not fit the time column.
    """
    of_table = {} if events.table is None else {f.path: f for f in data_files(events)}

    def head_of(path: str) -> Head:
        return known[path] if path in known else _inspect(path, events, of_table.get(path))

    # latency, not work: the footers of thousands of objects are read in a few seconds
    with ThreadPoolExecutor(16) as pool:
        heads = list(beating(pool.map(head_of, (file.path for file in files))))
    return _log_of(files, heads, events, of_table)


def _log_of(
    files: list[InputFile],
    heads: list[Head],
    events: EventsConfig,
    of_table: Mapping[str, DataFile],
) -> Log:
    """A log by the heads of its files; raises as `inspect_inputs`."""
    filled = [(f, head) for f, head in zip(files, heads, strict=True) if head.row_groups]
    if not filled:
        raise InputDataError(
            f"{events.source}: the {len(files)} files hold no row; bring a log with events"
        )
    if events.format == "jsonl":  # a key may be missing in a line, and in all lines of a file
        everywhere = [name for _, head in filled for name in head.names]
        _require_columns(filled[0][0].path, list(dict.fromkeys(everywhere)), events)
    types = [FileTypes(file.path, head.types) for file, head in filled if head.types is not None]
    user_type, item_type = (id_type_of(types, place, events) for place in (0, 1))
    if events.format == "parquet":
        check_times(types, events)
    integral, notes = _integral_columns(filled, events)
    fragments = [
        # what a table has written stays as it is
        Fragment(
            file.path,
            group,
            file if events.table is None else None,
            of_table.get(file.path),
            integral,
        )
        for file, head in filled
        for group in head.row_groups
    ]
    notes = [*notes_of(types, events), *notes]
    return Log(fragments, user_type, item_type, tuple(notes), tuple(heads))


def _integral_columns(
    heads: Sequence[tuple[InputFile, Head]], events: EventsConfig
) -> tuple[tuple[str, ...], list[str]]:
    """The columns of ids whose texts are integers in all files, some perhaps as floats, and notes.

    Floats may begin anywhere: a program writes them from the first missing id on.
    """
    columns, notes = [], []
    for place, (name, column) in enumerate(zip(RAW[:2], columns_of(events), strict=False)):
        found = {f.path: head.texts[place] for f, head in heads if head.texts is not None}
        floats = [path for path, kind in found.items() if kind == "floats"]
        kinds = set(found.values()) - {"nothing"}
        if events.id_type != "as_read" or not kinds or "text" in kinds:
            continue
        columns.append(name)
        if floats:
            notes.append(
                f"column {column} has ids such as 17850.0 in {floats[0]}: they are read as 17850 "
                "in all files; set events.id_type to string to keep them as they are written"
            )
    return tuple(columns), notes


def _inspect(path: str, events: EventsConfig, of_table: DataFile | None) -> Head:
    try:
        is_text = events.format != "parquet"
        return _of_text(path, events) if is_text else _of_parquet(path, events, of_table)
    except BROKEN as error:
        raise unreadable(path, events, error) from error


def _of_parquet(path: str, events: EventsConfig, of_table: DataFile | None) -> Head:
    schema, filled = footer_of(path) if of_table is None else footer_of_table(of_table)
    if not filled:
        return Head()
    names = column_names(schema)
    names = [*schema.names, *(name for name in names if name not in schema.names)]
    _require_columns(path, names, events)
    for condition in events.conditions:
        check_condition(condition, type_at(schema, condition.column), path)
    for column in type_columns(events):
        check_type_column(type_at(schema, column), path, events)
    user, item, time = (type_at(schema, column) for column in columns_of(events))
    return Head(tuple(filled), (user, item, time), tuple(names))


def _of_text(path: str, events: EventsConfig) -> Head:
    columns, style = columns_of(events), CsvStyle.of(events)
    text = (pa.string(), pa.string(), pa.string())
    with open_text(path) as file:
        if events.format == "jsonl":
            head = next(blocks_of(file, events.encoding))
            keys = jsonl_columns(head, columns)
            return Head() if keys is None else Head((None,), text, tuple(keys))
        layout = csv_layout(file, columns, style)
    if layout is None:
        return Head()
    _require_columns(path, layout.names, events)
    if not layout.body.strip():
        return Head()
    sample = sample_rows(layout, columns, style)
    user, item = (number_texts(sample[name]) for name in RAW[:2])
    return Head((None,), text, tuple(layout.names), (user, item))


def _require_columns(path: str, names: Sequence[str], events: EventsConfig) -> None:
    for key, column in zip(KEYS, columns_of(events), strict=True):
        if names.count(column) != 1:
            what = "has no column" if column not in names else "has more than one column"
            raise InputDataError(
                f"{path} {what} {column} ({key}); its columns: "
                f"{', '.join(names) or 'none'}; set {key} or write the file again"
                + _hint_of_csv(names, events)
            )
    _require_others(path, names, events)


def _require_others(path: str, names: Sequence[str], events: EventsConfig) -> None:
    wanted = [(c.column, "events.where", "correct the condition") for c in events.conditions]
    wanted += [(c, "events.type_column", "correct the key") for c in type_columns(events)]
    for column, key, remedy in wanted:
        if column not in names:
            raise InputDataError(
                f"{path} has no column {column} ({key}); its columns: {', '.join(names)}; {remedy}"
            )


def _hint_of_csv(names: Sequence[str], events: EventsConfig) -> str:
    """What else may be wrong with the first line of a CSV."""
    if events.format != "csv":
        return ""
    hints = []
    if events.columns is None:
        hints.append("set events.columns if the file has no header line")
    if len(names) == 1:
        hints.append("set events.separator if its fields are not separated by any of , ; | tab ::")
    if names and names[0].startswith(("#", "--", "//")):
        hints.append("set events.skip_lines if its first lines are a comment")
    return "".join(f"; {hint}" for hint in hints)


def unreadable(path: str, events: EventsConfig, error: Exception) -> InputDataError:
    if isinstance(error, FileNotFoundError):
        return InputDataError(f"{path} can't be read: it is gone since the run began; {AGAIN}")
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    hint = ""
    if isinstance(error, UnicodeDecodeError):
        hint = "; set events.encoding to what the file is written in, as in latin-1 or cp1252"
    return InputDataError(
        f"{path} can't be read as {events.format}: {text}; write the file again or remove it{hint}"
    )
