"""CSV and JSON lines: raw rows as strings, and the lines that are not rows.

A row ends with its line, unless the line ends inside a quoted CSV field that closes properly later.
A line that is not a row is handed on as text, so rows and malformed lines together are the file.
Bytes that are not UTF-8 stay in the ids and times: `row_checks` handles them.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from diffsasrec.schema import canonical_type

RAW = ("user_id", "item_id", "timestamp")  # the raw columns, under our names
CHUNK_BYTES = 8 * 2**20
MAX_LINE_BYTES = 64 * 2**20  # a longer line is not a line of a log
MAX_BRACKETS = 500  # in a line, for Arrow's JSON parser: some thousand levels kill the process
BOM = b"\xef\xbb\xbf"

# a field in quotes ends there; a quote inside another field is a character like any other
_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"(?=[,\r\n]|\Z)|(?!")[^,\r\n]*+)'
_ROW = rb"(?!\Z)%s(?:,%s)*+(?:\r\n|[\r\n]|\Z)" % (_FIELD, _FIELD)
_ONE_ROW, _ROWS = re.compile(_ROW), re.compile(rb"(?:%s)*+" % _ROW)
_FIELDS = re.compile(rb"(?:^|,)%s" % _FIELD)
_OPEN_ROW = re.compile(rb'(?:%s,)*+"[^"]*+(?:""[^"]*+)*+"?\Z' % _FIELD)
_IS_BORDER, _BEGINS_LINE = np.zeros((2, 256), bool)
_IS_BORDER[list(b',\r\n"')] = True  # stands beside a quote that opens, closes or is doubled
_BEGINS_LINE[list(b"{\r\n")] = True
_LINE = re.compile(rb"[^\r\n]*+(?:\r\n|[\r\n]|\Z)")


@dataclass(frozen=True)
class RawChunk:
    rows: (
        pa.Table
    )  # columns user_id, item_id, timestamp, as read; for a table beside the log, its own
    malformed: list[str]  # lines that are not rows at all (CSV, JSON lines)


def csv_columns(head: bytes) -> list[str]:
    """The column names in the first line of a CSV file."""
    header, _ = _cut_header(head, at_end=True)
    return list(pa.csv.read_csv(io.BytesIO(header)).column_names)


def read_csv(file: Any, columns: list[str], *, names: Sequence[str] = RAW) -> Iterator[RawChunk]:
    """The rows of a CSV file, in chunks; `columns` are those of `names` under the file's names."""
    header, rest = b"", b""
    while True:
        block = file.read(CHUNK_BYTES)
        text = rest + block
        if not header:
            header, text = _cut_header(text, at_end=not block)
        rows, malformed, rest = split_csv(text, at_end=not block) if header else (b"", [], text)
        _refuse_endless(rest)
        if rows or malformed:
            yield _parse_csv(header, rows, malformed, columns, names)
        if not block:
            return


def _cut_header(text: bytes, *, at_end: bool) -> tuple[bytes, bytes]:
    """The first line that is not blank and what follows; no header while it is incomplete."""
    text = text.removeprefix(BOM).lstrip(b"\r\n")
    end = re.match(rb"[^\r\n]*", text).end()  # type: ignore[union-attr]  # it always matches
    return (text[:end] + b"\n", text[end:]) if at_end or end < len(text) else (b"", text)


def _refuse_endless(rest: bytes) -> None:
    if len(rest) > MAX_LINE_BYTES:
        raise ValueError(f"a line is longer than {MAX_LINE_BYTES >> 20} MiB")


def split_csv(text: bytes, *, at_end: bool) -> tuple[bytes, list[str], bytes]:
    """The complete rows, the lines that are not rows, and the unfinished row at the end."""
    end = len(text) if at_end else text.rfind(b"\n") + 1 or text.rfind(b"\r") + 1
    if text.find(b'"', 0, end) < 0:
        return text[:end], [], text[end:]
    if _pair_up(text[:end]):
        return text[:end], [], text[end:]
    return _scan_csv(text, at_end=at_end)


def _pair_up(text: bytes) -> bool:
    """Whether each quote opens or closes a field or doubles another: then newlines are clear."""
    padded = np.frombuffer(b"\n" + text + b"\n", np.uint8)
    quotes = np.flatnonzero(padded == ord('"'))
    if len(quotes) % 2:
        return False
    before, after = padded[quotes[::2] - 1], padded[quotes[1::2] + 1]
    return bool(_IS_BORDER[before].all() and _IS_BORDER[after].all())


def _scan_csv(text: bytes, *, at_end: bool) -> tuple[bytes, list[str], bytes]:
    """`split_csv` where quotes don't pair up: a line whose quote never closes well is not a row."""
    end = len(text) if at_end else text.rfind(b"\n") + 1
    region, position = text[:end], 0
    rows: list[bytes] = []
    malformed: list[str] = []
    while position < end:
        stop = _ROWS.match(region, position).end()  # type: ignore[union-attr]
        rows.append(region[position:stop])
        may_go_on = not at_end and end - stop <= CHUNK_BYTES
        if stop < end and may_go_on and _OPEN_ROW.match(region, stop):
            return b"".join(rows), malformed, text[stop:]
        position = stop
        if stop < end:
            position = _LINE.match(region, stop).end()  # type: ignore[union-attr]
            malformed.append(_shown(region[stop:position]))
    return b"".join(rows), malformed, text[end:]


def _shown(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")


def _parse_csv(
    header: bytes, rows: bytes, malformed: list[str], columns: list[str], names: Sequence[str]
) -> RawChunk:
    if not _is_text(rows):
        rows, ragged = _drop_ragged_bytes(rows, header)
        malformed = malformed + ragged

    def collect(row: Any) -> str:
        malformed.append(row.text)
        return "skip"

    text = header + rows
    table = pa.csv.read_csv(
        pa.BufferReader(text),
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=pa.csv.ParseOptions(invalid_row_handler=collect),
        convert_options=pa.csv.ConvertOptions(
            include_columns=columns,
            column_types={column: pa.binary() for column in columns},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    # unchecked: one row that is not UTF-8 must not refuse the others
    strings = [table[column].cast(pa.string(), safe=False) for column in columns]
    return RawChunk(pa.table(strings, names=list(names)), malformed)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
        return True
    except UnicodeDecodeError:
        return False


def _drop_ragged_bytes(rows: bytes, header: bytes) -> tuple[bytes, list[str]]:
    """Drops ragged rows that are not UTF-8: Arrow can't name them, and gives up the file."""
    num_fields = len(_FIELDS.findall(header.rstrip(b"\r\n")))
    kept, ragged = [], []
    for match in _ONE_ROW.finditer(rows):
        row = match[0]
        if _is_text(row) or len(_FIELDS.findall(row.rstrip(b"\r\n"))) == num_fields:
            kept.append(row)
        else:
            ragged.append(_shown(row))
    return b"".join(kept), ragged


def jsonl_columns(head: bytes) -> list[str]:
    """The keys in the first lines of a file of JSON lines."""
    names: dict[str, None] = {}
    for line in head.removeprefix(BOM).split(b"\n")[:100]:
        if isinstance(row := _parse_line(line), dict):
            names.update(dict.fromkeys(row))
    return list(names)


def read_jsonl(file: Any, columns: list[str], *, time_is_text: bool) -> Iterator[RawChunk]:
    """The rows of a file of JSON lines, in chunks; `columns` as for `read_csv`."""
    rest, is_first = b"", True
    while True:
        block = file.read(CHUNK_BYTES)
        if is_first:
            block, is_first = block.removeprefix(BOM), False
        text, newline, rest = (rest + block).rpartition(b"\n") if block else (rest, b"", b"")
        _refuse_endless(rest)
        if text.strip():
            yield _parse_json(text + newline, columns, time_is_text)
        if not block:
            return


def _parse_json(text: bytes, columns: list[str], time_is_text: bool) -> RawChunk:
    """Uses Arrow's parser for clean chunks; line by line only if Arrow can't type a row."""
    rows = _parse_clean_json(text, columns, time_is_text) if _is_safe(text) else None
    if rows is not None:
        return RawChunk(rows, [])
    values: list[list[str | None]] = []
    malformed = []
    for line in text.split(b"\n"):
        row = _parse_line(line)
        if isinstance(row, _Object) and _is_clear(row, columns):
            values.append([_scalar_text(row.get(column)) for column in columns])
        elif line.strip():
            malformed.append(_shown(line))
    arrays = [pa.array([row[i] for row in values], pa.string()) for i in range(len(RAW))]
    return RawChunk(pa.table(arrays, names=list(RAW)), malformed)


def _is_safe(text: bytes) -> bool:
    """Whether Arrow's JSON parser survives a text: each line is an object, and none is deep."""
    data = np.frombuffer(b"\n" + text + b"\n", np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if not _BEGINS_LINE[data[ends[:-1] + 1]].all():
        return False
    if np.diff(ends).max() <= MAX_BRACKETS:  # too short to be deep
        return True
    brackets = np.flatnonzero((data | 0x20) == ord("{"))  # [ and { differ in this bit
    lines = np.searchsorted(ends, brackets)
    return not (lines[MAX_BRACKETS:] == lines[:-MAX_BRACKETS]).any()


def _parse_clean_json(text: bytes, columns: list[str], time_is_text: bool) -> pa.Table | None:
    # by default, Arrow reads ISO strings as timestamps
    schema = pa.schema([(columns[2], pa.string())]) if time_is_text else None
    try:
        table = pa.json.read_json(
            pa.BufferReader(text),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pa.json.ParseOptions(explicit_schema=schema),
        )
        strings = [_as_strings(table[column]) for column in columns]
    except (pa.ArrowException, KeyError):
        return None  # a row is not like the others: the line parser finds it
    plain = [column for column in strings if column is not None]
    # for Arrow, an object over several lines is one row, and two in one line are two rows
    if len(plain) < len(columns) or table.num_rows != _num_lines(text):
        return None
    return pa.table(plain, names=list(RAW))


def _num_lines(text: bytes) -> int:
    if b"\n\n" in text:
        return sum(1 for line in text.split(b"\n") if line.strip())
    return text.count(b"\n") + (not text.endswith(b"\n"))


def _as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Integers and strings as strings; None if the line parser has to look at them."""
    if canonical_type(column.type) is None:
        return None
    column = column.cast(pa.string())
    column.validate(full=True)  # Arrow's parser lets invalid UTF-8 through
    return column


class _Object(dict[str, Any]):
    """A JSON object that remembers its duplicate keys."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        given = Counter(name for name, _ in pairs) if len(pairs) > len(self) else {}
        self.doubled = {name for name, times in given.items() if times > 1}


def _parse_line(line: bytes) -> Any:
    try:
        text = line.decode("utf-8", "surrogateescape")
        return json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError):
        return None


def _is_clear(row: _Object, columns: list[str]) -> bool:
    """Whether each column occurs at most once, as valid text, and ids have a plain type."""
    values = [row.get(column) for column in columns]
    ids_are_plain = all(v is None or isinstance(v, str) or type(v) is int for v in values[:2])
    return ids_are_plain and row.doubled.isdisjoint(columns) and _is_encodable(values)


def _is_encodable(values: list[Any]) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode()
        return True
    except (UnicodeEncodeError, RecursionError):
        return False


def _scalar_text(value: Any) -> str | None:
    # a type other than integer and string stays recognisable, and is not a valid time
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
