"""The raw rows of a fragment of a log file."""

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.event_types import EventTypes
from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.chunks import RAW, RawChunk, blocks_of, shown
from diffsasrec.formats.compression import open_text
from diffsasrec.formats.conditions import fulfilled, may_be_fulfilled
from diffsasrec.formats.csv_layout import CsvStyle, find_layout
from diffsasrec.formats.csv_rows import read_csv
from diffsasrec.formats.json_rows import read_jsonl
from diffsasrec.formats.listing import version_of
from diffsasrec.formats.parquet_rows import read_row_group
from diffsasrec.inputs.ids import type_names, without_point
from diffsasrec.inputs.log_files import AGAIN, BROKEN, unreadable
from diffsasrec.inputs.log_types import columns_of, time_kind, type_columns
from diffsasrec.inputs.moments import read_times
from diffsasrec.inputs.row_checks import BEFORE_LOOKBACK, FILTERED
from diffsasrec.read_log.log import Fragment
from diffsasrec.schema import TYPE
from diffsasrec.tables.rows import read_rows, statistics_of

MOST_OTHERS, REST = 20, "other ones"  # types of a chunk that are counted by name, and all others
MOST_BYTES = 2**30  # of a text file, in search of a line
RowTexts = tuple[str | None, str | None, str | None, str | None]  # of RAW, or a line that is no row


def read_fragment(
    fragment: Fragment, events: EventsConfig, *, after: int | None = None
) -> Iterator[RawChunk]:
    """The raw rows of a fragment that fulfil `events.where`, in chunks of bounded size.

    Args:
        after: rows before this time, microseconds, need not be read; None: all are.
    """
    try:
        if events.format == "parquet":
            yield from _read_parquet(fragment, events, after)
        else:
            yield from _read_text(fragment, events)
    except BROKEN as error:
        raise unreadable(fragment.path, events, error) from error


def refuse_changed(fragment: Fragment) -> None:
    """Raises if the file of a fragment, just read, has changed since it was listed.

    Raises:
        InputDataError: names the file.
    """
    listed = fragment.file
    if listed is None:
        return
    filesystem, inside = open_filesystem(listed.path)
    try:
        if listed.path.startswith("s3://"):
            stat = filesystem.info(inside)
            found = int(stat["size"]), str(stat["ETag"]).strip('"')
        else:
            found = version_of(os.stat(inside))
    except FileNotFoundError:
        raise InputDataError(f"{listed.path} is gone since the run began; {AGAIN}") from None
    if found != (listed.size, listed.version):
        raise InputDataError(f"{listed.path} has changed since the run began; {AGAIN}")


def _read_parquet(
    fragment: Fragment, events: EventsConfig, after: int | None
) -> Iterator[RawChunk]:
    assert fragment.row_group is not None
    columns, of_table = _columns(events), fragment.of_table
    skip = partial(_reason_to_skip, fragment=fragment, events=events, after=after)
    if of_table is None:
        chunks = read_row_group(fragment.path, fragment.row_group, columns, skip)
    else:
        chunks = read_rows(of_table, fragment.row_group, columns, skip)
    for found in chunks:
        if isinstance(found, pa.Table):
            yield _selected(RawChunk(found.rename_columns(_names(events)), []), events)
        else:
            nothing = pa.table([pa.nulls(0)] * len(RAW), names=list(RAW))
            if events.event_types is not None:
                nothing = nothing.append_column(TYPE, pa.nulls(0))
                nothing, _ = _of_types(nothing, events.event_types)
            yield RawChunk(nothing, [], {found[0]: found[1]})


def _reason_to_skip(
    parquet: pq.ParquetFile, *, fragment: Fragment, events: EventsConfig, after: int | None
) -> str | None:
    """Why no row of a row group would be read, by its statistics; None if some may be."""
    assert fragment.row_group is not None
    known_of = partial(statistics_of, fragment.of_table, parquet, fragment.row_group)
    for condition in events.conditions:
        known = known_of(condition.column)
        if known is not None and not may_be_fulfilled(condition, *known[:2]):
            return FILTERED
    known = None if after is None else known_of(events.time_column)
    if known is None or after is None:
        return None
    _, last, kind = known
    try:
        largest = pa.array([last]).cast(kind)
    except pa.ArrowException:
        return None
    times, wrong, out_of_range = read_times(largest, events.time_unit, events.time_format)
    is_known = time_kind(kind) != "text" and not wrong[0] and not out_of_range[0]
    return BEFORE_LOOKBACK if is_known and times[0] < after else None


def _names(events: EventsConfig) -> list[str]:
    """The names of the columns that are read: of RAW, of the conditions, and of the type."""
    conditions = [f"where {number}" for number in range(len(events.where))]
    return [*RAW, *conditions, *([TYPE] if events.types else [])]


def _columns(events: EventsConfig) -> list[str]:
    """The columns of the log under these names."""
    conditions = [each.column for each in events.conditions]
    return [*columns_of(events), *conditions, *type_columns(events)]


def _selected(chunk: RawChunk, events: EventsConfig) -> RawChunk:
    """The rows that fulfil the conditions, without the columns that only these need.

    Of a log with types, those of its types and those without any.
    """
    conditions, names = events.conditions, _names(events)[len(RAW) :]
    if not names:
        return chunk
    rows = chunk.rows
    if conditions:
        columns = {c.column: rows[n] for c, n in zip(conditions, names, strict=False)}
        rows = rows.filter(fulfilled(conditions, columns))
    rows = rows.select([*RAW, *([TYPE] if events.types else [])])
    other_types: Counter[str] = Counter()
    if events.event_types is not None:
        rows, other_types = _of_types(rows, events.event_types)
    skipped = {FILTERED: chunk.rows.num_rows - rows.num_rows}
    return RawChunk(rows, chunk.malformed, skipped, other_types)


def _of_types(rows: pa.Table, types: EventTypes) -> tuple[pa.Table, Counter[str]]:
    """The rows of the given types, as a dictionary of them, and of none; and those of others."""
    names = type_names(rows[TYPE])
    known = pa.array(types.names, pa.string())
    codes = pc.index_in(names, value_set=known, skip_nulls=True).cast(pa.int8())
    is_other = pc.and_(codes.is_null(), names.is_valid())
    others: Counter[str] = Counter()
    for pair in names.filter(is_other).cast(pa.binary()).value_counts().to_pylist():
        others[pair["values"].decode("utf-8", "backslashreplace")] += pair["counts"]
    common = Counter(dict(others.most_common(MOST_OTHERS)))
    if rest := others.total() - common.total():
        common[REST] += rest
    coded = pa.DictionaryArray.from_arrays(codes, known)
    rows = rows.set_column(rows.column_names.index(TYPE), TYPE, coded)
    return rows.filter(pc.invert(is_other)), common


def _read_text(fragment: Fragment, events: EventsConfig) -> Iterator[RawChunk]:
    columns, names = _columns(events), _names(events)
    with open_text(fragment.path) as file:
        if events.format == "csv":
            chunks = read_csv(file, columns, names=names, style=CsvStyle.of(events))
        else:
            is_text = events.time_unit is None
            chunks = read_jsonl(
                file, columns, names=names, time_is_text=is_text, encoding=events.encoding
            )
        for chunk in chunks:
            yield _with_integers(_selected(chunk, events), fragment.integral)


def line_of(
    path: str, texts: RowTexts, events: EventsConfig, integral: Sequence[str] = ()
) -> int | None:
    """The number of the line of a text file that a bad row stands in, counted from 1.

    None where it is not found: it goes over several lines, or stands behind MOST_BYTES.
    """
    try:
        with open_text(path) as file:
            blocks = blocks_of(file, events.encoding)
            first = next(blocks)
            read, header = _reader_of_a_line(first, events)
            for number, line in _numbered(first, blocks):
                if number <= header or not _may_be(line, texts, events):
                    continue
                if texts[-1] is not None or texts[:-1] in _texts_of(read(line), integral):
                    return number
    except BROKEN:  # it was read before: it is gone, or another file by now
        pass
    return None


def _numbered(first: bytes, blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines of the blocks of a text file, up to MOST_BYTES."""
    newline = _newline_of(first)
    number, num_bytes, rest = 0, 0, b""
    for block in chain([first], blocks):
        *lines, rest = (rest + block).split(newline) if block else (rest, b"")
        yield from enumerate(lines, number + 1)
        number, num_bytes = number + len(lines), num_bytes + len(block)
        if num_bytes > MOST_BYTES:
            return


def _newline_of(block: bytes) -> bytes:
    return b"\n" if b"\n" in block else b"\r"


def _reader_of_a_line(
    first: bytes, events: EventsConfig
) -> tuple[Callable[[bytes], Iterator[RawChunk]], int]:
    """What reads a line of a file alone, and how many lines its header has."""
    columns, style = columns_of(events), CsvStyle.of(events)
    if events.format == "jsonl":
        is_text = events.time_unit is None
        return lambda line: read_jsonl(io.BytesIO(line), columns, time_is_text=is_text), 0
    layout = find_layout(first, columns, style, at_end=True)
    if layout is None:
        raise ValueError("the file is empty")
    header = first.removesuffix(layout.body).count(_newline_of(first))
    separator, names = layout.separator.decode(), tuple(layout.names)
    alone = replace(style, separator=separator, columns=names, skip_lines=0, encoding="utf-8")
    return lambda line: read_csv(io.BytesIO(line), columns, style=alone), header


def _may_be(line: bytes, texts: RowTexts, events: EventsConfig) -> bool:
    """Whether a line is the broken one, or holds the texts that are written as they are; quick."""
    *values, text = texts
    if text is not None:
        return shown(line) == (text.splitlines() or [""])[0]
    as_it_is = r"[\w:+/-]+" if events.thousands is None else r"[A-Za-z_]+"
    return all(v.encode() in line for v in values if v and re.fullmatch(as_it_is, v, re.ASCII))


def _texts_of(chunks: Iterator[RawChunk], integral: Sequence[str]) -> list[tuple[str | None, ...]]:
    """The users, items and times of some rows, as quarantine has them."""
    found: list[tuple[str | None, ...]] = []
    for chunk in chunks:
        rows = _with_integers(chunk, integral).rows
        columns = [rows[name].cast(pa.binary()).to_pylist() for name in RAW]
        found += zip(*([None if v is None else shown(v) for v in c] for c in columns), strict=True)
    return found


def _with_integers(chunk: RawChunk, columns: Sequence[str]) -> RawChunk:
    rows = chunk.rows
    for name in columns:
        rows = rows.set_column(RAW.index(name), name, without_point(rows[name]))
    return replace(chunk, rows=rows) if columns else chunk
