"""JSON lines: raw rows as strings, and the lines that are not rows."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from diffsasrec.formats.chunks import RAW, RawChunk, blocks_of, refuse_endless, shown
from diffsasrec.schema import canonical_type

MAX_BRACKETS = 500  # in a line, for Arrow's JSON parser: some thousand levels kill the process
MOST_LEVELS = 3  # of objects whose keys are named
HEAD_LINES = 100  # whose keys a message names
_BEGINS_LINE = np.zeros(256, bool)
_BEGINS_LINE[list(b"{\r\n")] = True
_TWO_IN_A_LINE = re.compile(rb"\}[ \t\r]*\{")  # or in a text, which the line parser finds out


def jsonl_columns(head: bytes, wanted: Sequence[str]) -> list[str] | None:
    """The keys in the first lines of a file, and those of `wanted` that stand in its later ones.

    None for a file without a line. A key within objects is written with dots: user.id.

    Raises:
        ValueError: the file is one array, and not an object per line.
    """
    lines = [line for line in head.split(b"\n") if line.strip()]
    if not lines:
        return None
    rows = [_parse_line(line) for line in lines[:HEAD_LINES]]
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects and lines[0].lstrip().startswith(b"[") and _is_document(rows[0]):
        raise ValueError("it is one array, and not an object per line")
    names = dict.fromkeys(name for row in objects for name in _paths(row))
    late = [name for name in wanted if b'"%s"' % name.rpartition(".")[2].encode() in head]
    return list(names | dict.fromkeys(late))


def _is_document(first: Any) -> bool:
    """Whether what was read of the first line goes on in the next, or holds rows."""
    return first is None or (isinstance(first, list) and any(isinstance(v, dict) for v in first))


def _paths(row: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in row.items():
        yield f"{above}{name}"
        if isinstance(value, dict) and above.count(".") < MOST_LEVELS:
            yield from _paths(value, f"{above}{name}.")


def read_jsonl(
    file: Any,
    columns: list[str],
    *,
    time_is_text: bool,
    names: Sequence[str] = RAW,
    encoding: str = "utf-8",
) -> Iterator[RawChunk]:
    """The rows of a file of JSON lines, in chunks; `columns` and `names` as for `read_csv`.

    Columns behind those of RAW may hold anything: they are handed on as texts.
    """
    rest = b""
    for block in blocks_of(file, encoding):
        text, newline, rest = (rest + block).rpartition(b"\n") if block else (rest, b"", b"")
        refuse_endless(rest)
        if text.strip():
            rows, malformed = _parse_json(text + newline, columns, time_is_text)
            yield RawChunk(pa.table(rows, names=list(names)), malformed)


def _parse_json(text: bytes, columns: list[str], time_is_text: bool) -> tuple[list[Any], list[str]]:
    """Uses Arrow's parser for clean chunks; line by line only if Arrow can't type a row."""
    rows = _parse_clean_json(text, columns, time_is_text) if _is_safe(text) else None
    if rows is not None:
        return rows, []
    values: list[list[str | None]] = []
    malformed = []
    for line in text.split(b"\n"):
        row = _parse_line(line)
        if isinstance(row, _Object) and _is_clear(row, columns):
            user, item, *more = (_value(row, column) for column in columns)
            values.append([_id_text(user), _id_text(item), *map(_scalar_text, more)])
        elif line.strip():
            malformed.append(shown(line))
    return [
        pa.array([row[i] for row in values], pa.string()) for i in range(len(columns))
    ], malformed


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


def _parse_clean_json(
    text: bytes, columns: list[str], time_is_text: bool
) -> list[pa.ChunkedArray] | None:
    # by default, Arrow reads ISO strings as timestamps
    is_plain = time_is_text and "." not in columns[2]
    schema = pa.schema([(columns[2], pa.string())]) if is_plain else None
    try:
        table = pa.json.read_json(
            pa.BufferReader(text),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pa.json.ParseOptions(explicit_schema=schema),
        )
        found = [_column(table, column) for column in columns]
        strings = [_as_strings(column) for column in found[: len(RAW)]]
        strings += [_as_text(column) for column in found[len(RAW) :]]
    except pa.ArrowException:
        return None  # a row is not like the others: the line parser finds it
    plain = [column for column in strings if column is not None]
    # for Arrow, an object over several lines is one row, and two in one line are two rows
    num_lines = text.count(b"\n{") + text.startswith(b"{")  # others are empty: `_is_safe`
    if len(plain) < len(columns) or table.num_rows != num_lines or _TWO_IN_A_LINE.search(text):
        return None
    return plain


def _column(table: pa.Table, path: str) -> pa.ChunkedArray | None:
    """The values of a key, or of one within objects; None if the line parser has to look."""
    first, *rest = path.split(".")
    if path in table.column_names:
        return None if rest and first in table.column_names else table[path]
    # a key that stands in no line
    missing = pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    if first not in table.column_names:
        return missing
    column = table[first]
    for name in rest:
        if not pa.types.is_struct(column.type):
            return None
        if column.type.get_field_index(name) < 0:
            return missing
        column = pc.struct_field(column, name)
    return column


def _as_text(column: pa.ChunkedArray | None) -> pa.ChunkedArray | None:
    """Any plain values as texts; None if the line parser has to look at them."""
    if column is not None and (
        pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
    ):
        return column.cast(pa.string())
    return _as_strings(column)


def _as_strings(column: pa.ChunkedArray | None) -> pa.ChunkedArray | None:
    """Integers and strings as strings; None if the line parser has to look at them."""
    if column is None:
        return None
    if canonical_type(column.type) is None and not pa.types.is_null(column.type):
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


def _value(row: dict[str, Any], path: str) -> Any:
    """The value of a key, or of one within objects, as in user.id; None without one."""
    first, dot, rest = path.partition(".")
    if path in row or not dot:
        return row.get(path)
    inner = row.get(first)
    return _value(inner, rest) if isinstance(inner, dict) else None


def _is_doubled(row: Any, path: str) -> bool:
    """Whether a key, or one of the objects that it is within, is there twice."""
    first, dot, rest = path.partition(".")
    if not isinstance(row, _Object) or path in row.doubled or first in row.doubled:
        return isinstance(row, _Object)
    return bool(dot) and path not in row and _is_doubled(row.get(first), rest)


def _is_clear(row: _Object, columns: list[str]) -> bool:
    """Whether each column occurs at most once, as valid text, and ids have a plain type."""
    values = [_value(row, column) for column in columns]
    ids_are_plain = all(v is None or isinstance(v, str) or _is_integer(v) for v in values[:2])
    doubled = any(_is_doubled(row, column) for column in columns)
    return ids_are_plain and not doubled and _is_encodable(values)


def _is_integer(value: Any) -> bool:
    """Whether a JSON value is an integer, or a float that is one."""
    return type(value) is int or (
        type(value) is float and value.is_integer() and abs(value) < 2**53
    )


def _is_encodable(values: list[Any]) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode()
        return True
    except (UnicodeEncodeError, RecursionError):
        return False


def _id_text(value: Any) -> str | None:
    return _scalar_text(int(value) if isinstance(value, float) else value)


def _scalar_text(value: Any) -> str | None:
    # a type other than integer and string stays recognisable, and is not a valid time
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
