"""Text and JSON lines as Arrow tables of strings, for a look; bytes in, table out."""

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa

from diffsasrec.config.data import EventsConfig
from diffsasrec.formats.csv_layout import CsvStyle, Layout, find_layout
from diffsasrec.formats.csv_rows import CsvReader

from .dialect import Dialect
from .numbers import number_marks

DEEPEST = 4  # levels of a JSON object that become columns


def csv_rows(data: bytes, dialect: Dialect, *, from_start: bool) -> tuple[pa.Table, int]:
    """The rows of some bytes of a CSV as a night reads them, as strings, and how many lines are
    none.

    Args:
        data: whole lines, in UTF-8.
        from_start: of the file, with its header, which may have other names than the dialect.
    """
    style = style_of(dialect)
    found = find_layout(data, (), style, at_end=True) if from_start else None
    text = data if found is None else found.body
    has_names = found is not None and dialect.has_header
    names = found.names if found is not None and has_names else list(dialect.names)
    places = [str(number) for number in range(len(names))]  # names may be given twice
    layout = Layout(places, dialect.separator.encode(), b"")
    reader = CsvReader(layout, places, places, style)
    text, _ = reader.with_one_byte(text, at_end=True)
    rows, malformed, _ = reader.split(text, at_end=True)
    chunk = reader.parse(rows, malformed)
    return chunk.rows.rename_columns(names), len(chunk.malformed)


def style_of(dialect: Dialect) -> CsvStyle:
    """As the configuration of a night says it."""
    events = EventsConfig(
        path="any",
        separator=dialect.separator,
        columns=None if dialect.has_header else dialect.names,
        quote=dialect.quote,
        escape=dialect.escape,
        skip_lines=dialect.skip_lines,
        thousands=dialect.thousands,
        decimal=dialect.decimal,
    )
    return CsvStyle.of(events)


def json_rows(data: bytes) -> tuple[pa.Table, int]:
    """The objects of some JSON lines in UTF-8, and how many lines are none.

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
    """Integers, floats or strings as they are; all else as the JSON text that it was.

    Lists without their values: they stand for no user, item or time.
    """
    filled = [value for value in values if value is not None]
    kinds = {type(value) for value in filled}
    if kinds == {list}:
        return pa.array([value and [] for value in values], pa.list_(pa.null()))
    if kinds == {int} and all(abs(value) < 2**63 for value in filled):
        return pa.array(values, pa.int64())
    integers = [value for value in filled if type(value) is int]
    if kinds in ({float}, {int, float}) and all(abs(value) < 2**53 for value in integers):
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


def in_detail(text: bytes, dialect: Dialect) -> Dialect:
    """A dialect with what only its rows tell: an escape of quotes, and how numbers are written.

    Args:
        text: the whole lines at the beginning of a file, in UTF-8.
    """
    if b'\\"' in text:
        either = [replace(dialect, escape=escape) for escape in (None, "\\")]
        dialect = min(either, key=lambda one: csv_rows(text, one, from_start=True)[1])
    table, _ = csv_rows(text, dialect, from_start=True)
    thousands, decimal = number_marks(table, dialect.separator)
    return replace(dialect, thousands=thousands, decimal=decimal)
