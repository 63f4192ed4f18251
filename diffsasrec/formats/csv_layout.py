"""How a CSV file is laid out: its separator, and the names of its columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from diffsasrec.config.data import EventsConfig
from diffsasrec.formats import chunks

SEPARATORS = (",", "\t", ";", "|", "::", "\x01")  # tried in this order; the last one is Hive's
ONE_BYTE = b"\x1f"  # stands for a separator of several characters
_STATED = re.compile(rb"sep=([^\r\n])\r?\n")  # how spreadsheets state it
_LINE = re.compile(rb"[^\r\n]*+(?:\r\n|[\r\n]|\Z)")


@dataclass(frozen=True)
class CsvStyle:
    """How CSV files are written, as far as it is known."""

    separator: str | None = None  # None: found by the names of the columns
    columns: tuple[str, ...] | None = None  # of files without a header
    quote: str | None = '"'
    escape: str | None = None
    skip_lines: int = 0
    null_texts: tuple[str, ...] = ("",)
    thousands: str | None = None
    decimal: str | None = None  # before the fraction of a number; None: a point
    encoding: str = "utf-8"

    @classmethod
    def of(cls, events: EventsConfig) -> "CsvStyle":
        return cls(
            separator=events.separator,
            columns=events.columns,
            quote=events.quote,
            escape=events.escape,
            skip_lines=events.skip_lines,
            null_texts=("", *events.null_texts),
            thousands=events.thousands,
            decimal=events.decimal,
            encoding=events.encoding,
        )


@dataclass(frozen=True)
class Layout:
    names: list[str]  # of the columns; one that has no name has ""
    separator: bytes
    body: bytes  # what follows the header, as far as it was read


@dataclass(frozen=True)
class Patterns:
    """What rows of one separator, quote and escape look like; all of them of one byte."""

    one_row: re.Pattern[bytes]
    rows: re.Pattern[bytes]
    field: re.Pattern[bytes]
    open_row: re.Pattern[bytes]  # that ends within quotes


@cache
def patterns(separator: bytes, quote: bytes, escape: bytes) -> Patterns:
    s, q, e = re.escape(separator), re.escape(quote), re.escape(escape)
    plain = rb"[^%s\r\n%s]*+" % (s, e)
    if escape:
        plain = rb"(?:[^%s\r\n%s]|%s[^\r\n])*+" % (s, e, e)
    pair = rb"%s%s|%s[\s\S]" % (q, q, e) if escape else q + q
    inside = rb"[^%s%s]*+(?:(?:%s)[^%s%s]*+)*+" % (q, e, pair, q, e) if quote else b""
    # a field in quotes ends there; a quote inside another field is a character like any other
    quoted = rb"%s%s%s(?=[%s\r\n]|\Z)|(?!%s)" % (q, inside, q, s, q) if quote else b""
    field = rb"(?:%s%s)" % (quoted, plain)
    row = rb"(?!\Z)%s(?:%s%s)*+(?:\r\n|[\r\n]|\Z)" % (field, s, field)
    open_row = rb"(?:%s%s)*+%s%s%s?\Z" % (field, s, q, inside, q) if quote else rb"(?!)"
    return Patterns(
        one_row=re.compile(row),
        rows=re.compile(rb"(?:%s)*+" % row),
        field=re.compile(rb"(?:^|%s)(%s)" % (s, field)),
        open_row=re.compile(open_row),
    )


def find_layout(
    text: bytes, wanted: Sequence[str], style: CsvStyle, *, at_end: bool
) -> Layout | None:
    """The layout of a file from its beginning; None while that is too short, or if it is empty.

    It takes the first line, and the first row where columns are named by that line.

    The separator is the first of `SEPARATORS` by which the first line has all wanted columns, or
    as many fields as `style.columns`; a comma where none of them does.
    """
    text = text.lstrip(b"\r\n")
    separators = SEPARATORS if style.separator is None else (style.separator,)
    if stated := _STATED.match(text):
        found, text = stated[1].decode("latin-1"), text[stated.end() :]
        separators = (found,) if style.separator is None else separators
    for _ in range(style.skip_lines):
        text = text[_LINE.match(text).end() :]  # type: ignore[union-attr]  # it always matches
    text = text.lstrip(b"\r\n")
    end = _LINE.match(text).end()  # type: ignore[union-attr]
    if not text.strip() or (end == len(text) and not at_end):
        return None
    first = text[:end].rstrip(b"\r\n")
    for separator in separators:
        fields = fields_of(first, separator, style)
        names = _names(fields, wanted, style)
        if names is not None:
            break
    else:
        separator = separators[0]
        names = list(style.columns or fields_of(first, separator, style))
    if style.columns is not None:
        return Layout(names, separator.encode(), text)
    body = text[end:]
    row = _first_row(body, separator, style, at_end=at_end)
    if row is None:
        return None
    if _has_one_more(row, len(names), separator, style):
        names = [*names, ""]
    return Layout(names, separator.encode(), body)


def _names(fields: list[str], wanted: Sequence[str], style: CsvStyle) -> list[str] | None:
    """The columns of a first line with these fields; None where they are not the wanted ones."""
    if style.columns is not None:
        return list(style.columns) if len(fields) == len(style.columns) else None
    for names in (fields, [field.strip() for field in fields]):
        if all(names.count(name) == 1 for name in wanted):
            return names
    return None


def fields_of(line: bytes, separator: str, style: CsvStyle) -> list[str]:
    """The fields of a line without its end, unquoted."""
    quote, escape = (style.quote or "").encode(), (style.escape or "").encode()
    line = line.replace(separator.encode(), one_byte(separator.encode()))
    found = patterns(one_byte(separator.encode()), quote, escape).field.findall(line)
    texts = [field.decode("utf-8", "backslashreplace") for field in found]
    q = style.quote
    if not q:
        return texts
    return [t[1:-1].replace(q + q, q) if len(t) > 1 and t[0] == t[-1] == q else t for t in texts]


def one_byte(separator: bytes) -> bytes:
    return separator if len(separator) == 1 else ONE_BYTE


def _first_row(body: bytes, separator: str, style: CsvStyle, *, at_end: bool) -> bytes | None:
    """The first row, with one byte for each separator; b"" if it is none; None while it is cut.

    A row that is cut could have any number of fields.
    """
    single = one_byte(separator.encode())
    body = body.replace(separator.encode(), single)
    found = patterns(single, (style.quote or "").encode(), (style.escape or "").encode())
    row = found.one_row.match(body)
    if at_end or (row is not None and row[0].endswith((b"\r", b"\n"))):
        return b"" if row is None else row[0]
    may_go_on = len(body) <= chunks.CHUNK_BYTES and found.open_row.match(body)
    is_whole = b"\n" in body or b"\r" in body
    return None if row is not None or may_go_on or not is_whole else b""


def _has_one_more(row: bytes, num: int, separator: str, style: CsvStyle) -> bool:
    """Whether a row ends with a separator that the header has not."""
    fields = fields_of(row.rstrip(b"\r\n"), separator, style)
    return len(fields) == num + 1 and fields[-1] == ""
