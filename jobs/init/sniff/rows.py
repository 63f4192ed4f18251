"""Text and JSON lines as Arrow tables of strings, for a look; bytes in, table out."""

import json
import re
from typing import Any

import pyarrow as pa

from diffsasrec.config.data import EventsConfig
from diffsasrec.formats.csv_layout import CsvStyle, Layout
from diffsasrec.formats.csv_rows import CsvReader

from .dialect import Dialect, text_of

_LINE = re.compile(rb"\A[^\r\n]*(?:\r\n|[\r\n]|\Z)")
DEEPEST = 4  # levels of a JSON object that become columns


def csv_rows(data: bytes, dialect: Dialect, *, with_header: bool) -> tuple[pa.Table, int]:
    """The rows of some bytes of a CSV as a night reads them, as strings, and how many lines are
    none.

    Args:
        data: whole lines.
        with_header: the first line is the header.
    """
    text = text_of(data, dialect.encoding).encode()
    if with_header:
        text = _LINE.sub(b"", text, count=1)
    places = [str(number) for number in range(len(dialect.names))]  # names may be given twice
    layout = Layout(places, dialect.separator.encode(), b"")
    reader = CsvReader(layout, places, places, CsvStyle.of(EventsConfig(path="any")))
    text, _ = reader.with_one_byte(text, at_end=True)
    rows, malformed, _ = reader.split(text, at_end=True)
    chunk = reader.parse(rows, malformed)
    return chunk.rows.rename_columns(list(dialect.names)), len(chunk.malformed)


def json_rows(data: bytes) -> tuple[pa.Table, int]:
    """The objects of some JSON lines, and how many lines are none.

    A nested key has the keys above it before it, with dots: `user.id`.
    """
    rows, broken = [], 0
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(dict(_leaves(row, "", DEEPEST)))
        else:
            broken += 1
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    return pa.table(columns), broken


def _leaves(values: dict[str, Any], path: str, levels: int) -> Any:
    for name, value in values.items():
        if isinstance(value, dict) and levels:
            yield from _leaves(value, f"{path}{name}.", levels - 1)
        else:
            yield f"{path}{name}", value


def _column(values: list[Any]) -> pa.Array:
    """Integers or strings as they are; all else as the JSON text that it was."""
    filled = [value for value in values if value is not None]
    if filled and all(type(value) is int and abs(value) < 2**63 for value in filled):
        return pa.array(values, pa.int64())
    if filled and all(type(value) in (int, float) for value in filled):
        return pa.array(values, pa.float64())
    texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return pa.array([None if t is None else t.encode(errors="replace") for t in texts]).cast(
        pa.string()
    )


def whole_lines(data: bytes, *, from_start: bool, to_end: bool) -> bytes:
    """Some bytes of a file without the lines that are cut off at their ends."""
    newline = b"\n" if b"\n" in data else b"\r"  # alone as old spreadsheets write it
    if not from_start:
        data = data.partition(newline)[2]
    return data if to_end else data[: data.rfind(newline) + 1]
