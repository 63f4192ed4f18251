"""What kind of file some bytes are, and how the rows of a text file are written."""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .names import role_of

SEPARATORS = (",", "\t", ";", "|", "::", "\x01", "^", " ")
LINES = 200  # that are looked at
MOSTLY = 0.9  # of the lines have as many fields as a separator makes of them
MOST_ABOVE = 20  # lines above a header
MAGIC = {
    b"PAR1": "parquet",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"ARROW1": "an Arrow IPC file (feather)",
    b"FEA1": "a feather file",
    b"PK\x03\x04": "a zip archive of several files",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Excel workbook (xls)",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\xff\x06\x00\x00sNaPpY": "compressed by snappy",
    b"\x1f\x9d": "compressed by compress (.Z)",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"%PDF": "a PDF",
    b"<!DOCTYPE": "a web page",
    b"<?xml": "an XML file",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; run git lfs pull",
}
TAR = slice(257, 262), b"ustar"
_STATED = re.compile(r"sep=([^\r\n])")  # how spreadsheets state a separator
_NEWLINE = re.compile(r"\r\n|[\r\n]")


@dataclass(frozen=True)
class Dialect:
    """How a text file is written."""

    separator: str
    names: tuple[str, ...]  # of the columns; made up where there is no header
    has_header: bool
    encoding: str  # utf-8, or what decodes every byte
    lines: int  # that were looked at
    even: int  # of these, that have as many fields as there are names
    quote: str = '"'
    escape: str | None = None  # before a quote within a quoted field
    skip_lines: int = 0  # above the header
    thousands: str | None = None  # between groups of digits
    decimal: str | None = None  # before the fraction of a number; None: a point


def kind_of(head: bytes) -> str:
    """`parquet`, `jsonl`, `csv` or `json`; for any other file what it is, in words."""
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[TAR[0]] == TAR[1]:
        return "a tar archive; unpack it"
    encoding = encoding_of(head)
    text = text_of(head, encoding).lstrip()
    if not text:
        return "empty"
    if text.startswith("["):
        return "json"
    if text.startswith("{"):
        return "jsonl" if _is_object(text.partition("\n")[0]) else "json"
    return "a binary file" if b"\x00" in head[:1000] and not is_wide(encoding) else "csv"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def is_wide(encoding: str) -> bool:
    """Whether a letter takes more than one byte, so that a file can't be cut anywhere."""
    return encoding.startswith("utf-16")


def encoding_of(data: bytes) -> str:
    """utf-8 where that fits, utf-16 by its mark or its zeros, else cp1252 or latin-1."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if (wide := _wide_without_mark(data[:1000])) is not None:
        return wide
    for encoding in ("utf-8", "cp1252"):
        try:
            # a sample may begin or end within a character
            data.strip(bytes(range(0x80, 0xC0)) if encoding == "utf-8" else b"").decode(encoding)
            return encoding
        except UnicodeDecodeError as error:
            if encoding == "utf-8" and error.start >= len(data) - 4:
                return encoding
    return "latin-1"


def _wide_without_mark(data: bytes) -> str | None:
    """The form of UTF-16 in which most letters are of one byte, and the other is zero."""
    halves = data[::2], data[1::2]
    for letters, zeros, name in ((*halves, "utf-16-le"), (*halves[::-1], "utf-16-be")):
        is_text = not any(byte < ord(" ") and byte not in b"\t\r\n\x01" for byte in letters)
        if len(letters) > 3 and is_text and zeros.count(0) > 0.6 * len(zeros):
            return name
    return None


def text_of(data: bytes, encoding: str) -> str:
    return data.decode(encoding, "replace").removeprefix("\ufeff")


def sniff(data: bytes) -> Dialect:
    """The dialect of a CSV whose first bytes these are; the last line may be cut off."""
    encoding = encoding_of(data)
    text = text_of(data, encoding)
    numbered = [(n, line) for n, line in enumerate(_NEWLINE.split(text)) if line.strip()]
    numbered = numbered[: LINES + 1]
    if len(numbered) > 1 and not text.endswith(("\n", "\r")):
        numbered.pop()
    stated = _STATED.fullmatch(numbered[0][1]) if len(numbered) > 1 else None
    numbered = numbered[1:] if stated else numbered
    lines = [line for _, line in numbered]
    separators = (stated[1],) if stated else SEPARATORS
    separator, escape = _best(lines, separators, (None, "\\") if '\\"' in text else (None,))
    quote = "'" if _is_quoted(split_lines(lines, separator, escape), "'") else '"'
    rows = split_lines(lines, separator, escape, quote)
    width = Counter(map(len, rows)).most_common(1)[0][0]
    above = _lines_above(rows, width)
    first, even = rows[above], [row for row in rows if len(row) == width]
    has_header, names = _header(first, [row for row in even if row is not first], width)
    return Dialect(
        separator,
        tuple(names),
        has_header,
        encoding,
        lines=len(rows),
        even=len(even) + (len(first) < width),
        quote=quote,
        escape=escape,
        skip_lines=numbered[above][0] - numbered[0][0] if above else 0,
    )


def _best(
    lines: list[str], separators: Sequence[str], escapes: tuple[str | None, ...]
) -> tuple[str, str | None]:
    """The separator and the escape that explain some lines best.

    Without the first of them where none explains all: a title may stand above a table.
    """
    for some in (lines, lines[min(MOST_ABOVE, len(lines) // 2) :]):
        found = [
            max(((_fit(some, one, escape), one) for one in separators), key=lambda pair: pair[0])
            for escape in escapes
        ]
        place = max(range(len(found)), key=lambda n: (found[n][0][2] > 0, found[n][0][3], -n))
        if found[place][0][2]:
            return found[place][1], escapes[place]
    return max(separators, key=lambda one: _fit(lines, one)), None


def _lines_above(rows: list[list[str]], width: int) -> int:
    """How many rows stand above the first one that has as many fields as the others."""
    for number, row in enumerate(rows[: MOST_ABOVE + 1]):
        if len(row) == width or _is_one_short(row, rows[number + 1 :], width):
            return number
    return 0


def _is_one_short(row: list[str], rest: list[list[str]], width: int) -> bool:
    """Whether all other rows end with a separator that this one has not."""
    even = [other for other in rest if len(other) == width]
    return len(row) == width - 1 > 0 and bool(even) and not any(other[-1] for other in even)


def _header(first: list[str], rest: list[list[str]], width: int) -> tuple[bool, list[str]]:
    """Whether a first row names the columns, and their names, made up where it does not."""
    if len(first) <= width and is_header(first, [row[: len(first)] for row in rest]):
        return True, first + [""] * (width - len(first))
    return False, [f"column_{number + 1}" for number in range(width)]


def is_aligned(data: bytes) -> bool:
    """Whether blanks in runs of several part the fields of most lines, as in a printed table."""
    lines = [line for line in text_of(data, encoding_of(data)).splitlines() if line.strip()]
    runs = sum("  " in line.strip() for line in lines[:LINES])
    return runs > len(lines[:LINES]) / 2


def split_lines(
    lines: list[str], separator: str, escape: str | None = None, quote: str = '"'
) -> list[list[str]]:
    """The fields of each line."""
    if len(separator) > 1:
        return [line.split(separator) for line in lines]
    text = io.StringIO("\n".join(lines))
    reader = csv.reader(text, delimiter=separator, escapechar=escape, quotechar=quote)
    try:
        return [row for row in reader if row]
    except csv.Error:
        return [line.split(separator) for line in lines]


def _is_quoted(rows: list[list[str]], quote: str) -> bool:
    """Whether nearly all fields stand within quotes of a kind."""
    cells = [cell.strip() for row in rows for cell in row if cell.strip()]
    inside = sum(len(cell) > 1 and cell[0] == cell[-1] == quote for cell in cells)
    return inside > 0 and inside >= MOSTLY * len(cells)


def _fit(
    lines: list[str], separator: str, escape: str | None = None
) -> tuple[bool, bool, int, float]:
    """How well a separator explains some lines; the larger, the better."""
    widths = Counter(map(len, split_lines(lines, separator, escape)))
    width, number = widths.most_common(1)[0]
    share = number / widths.total()
    is_blank = separator == " "  # stands in texts and times, too
    fits = share >= MOSTLY and width > 1
    return fits and width > 2, fits and not is_blank, width if fits else 0, share


_NUMBER = re.compile(r"\s*[-+]?[0-9][0-9.,:/ T-]*\s*")


def is_header(first: list[str], rest: list[list[str]]) -> bool:
    """Whether a first row names columns: a name that we know, or text above numbers."""
    if any(map(_NUMBER.fullmatch, first)):
        return False
    roles = {role_of(cell) for cell in first} - {None}
    if len({cell.strip() for cell in first}) < len(first):  # a name may be given twice
        return len(roles) > 1
    if roles:
        return True
    columns = list(zip(*rest, strict=True)) if rest else [()] * len(first)
    for column in columns:
        filled = [cell for cell in column if cell.strip()]
        if filled and sum(map(bool, map(_NUMBER.fullmatch, filled))) >= MOSTLY * len(filled):
            return True
    return not rest
