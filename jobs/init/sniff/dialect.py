"""What kind of file some bytes are, and how the rows of a text file are written."""

import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass

from .names import role_of

SEPARATORS = (",", "\t", ";", "|", "::", "\x01", "^", " ")
LINES = 200  # that are looked at
MOSTLY = 0.9  # of the lines have as many fields as a separator makes of them
BOM = "\ufeff"
MAGIC = {
    b"PAR1": "parquet",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"ARROW1": "an Arrow IPC file",
    b"PK\x03\x04": "a zip archive of several files",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"%PDF": "a PDF",
    b"<!DOCTYPE": "a web page",
    b"<?xml": "an XML file",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; run git lfs pull",
}


@dataclass(frozen=True)
class Dialect:
    """How a text file is written."""

    separator: str
    names: tuple[str, ...]  # of the columns; made up where there is no header
    has_header: bool
    encoding: str  # utf-8, or what decodes every byte
    lines: int  # that were looked at
    even: int  # of these, that have as many fields as there are names


def kind_of(head: bytes) -> str:
    """`parquet`, `jsonl`, `csv` or `json`; for any other file what it is, in words."""
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        return "empty"
    if text.startswith(b"["):
        return "json"
    if text.startswith(b"{"):
        return "jsonl" if _is_object(text.partition(b"\n")[0]) else "json"
    return "a binary file" if b"\x00" in head[:1000] and not _is_utf16(head) else "csv"


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _is_utf16(head: bytes) -> bool:
    return head.startswith((b"\xff\xfe", b"\xfe\xff"))


def encoding_of(data: bytes) -> str:
    """utf-8 where that fits, utf-16 where its mark stands in front, else cp1252 or latin-1."""
    if _is_utf16(data):
        return "utf-16"
    for encoding in ("utf-8", "cp1252"):
        try:
            # a sample may begin or end within a character
            data.strip(bytes(range(0x80, 0xC0)) if encoding == "utf-8" else b"").decode(encoding)
            return encoding
        except UnicodeDecodeError as error:
            if encoding == "utf-8" and error.start >= len(data) - 4:
                return encoding
    return "latin-1"


def text_of(data: bytes, encoding: str) -> str:
    return data.decode(encoding, "replace").removeprefix(BOM)


def sniff(data: bytes) -> Dialect:
    """The dialect of a CSV whose first bytes these are; the last line may be cut off."""
    encoding = encoding_of(data)
    lines = [line for line in text_of(data, encoding).splitlines() if line.strip()][: LINES + 1]
    lines = lines[:-1] if len(lines) > 1 and not data.endswith((b"\n", b"\r")) else lines
    separator = max(SEPARATORS, key=lambda one: _fit(lines, one))
    rows = split_lines(lines, separator)
    width = Counter(map(len, rows)).most_common(1)[0][0]
    even = [row for row in rows if len(row) == width]
    has_header = len(rows[0]) == width and is_header(rows[0], even[1:])
    names = rows[0] if has_header else [f"column_{number + 1}" for number in range(width)]
    return Dialect(separator, tuple(names), has_header, encoding, lines=len(rows), even=len(even))


def is_aligned(data: bytes) -> bool:
    """Whether blanks in runs of several part the fields of most lines, as in a printed table."""
    lines = [line for line in text_of(data, encoding_of(data)).splitlines() if line.strip()]
    runs = sum("  " in line.strip() for line in lines[:LINES])
    return runs > len(lines[:LINES]) / 2


def split_lines(lines: list[str], separator: str) -> list[list[str]]:
    """The fields of each line."""
    if len(separator) > 1:
        return [line.split(separator) for line in lines]
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator)
    try:
        return [row for row in reader if row]
    except csv.Error:
        return [line.split(separator) for line in lines]


def _fit(lines: list[str], separator: str) -> tuple[bool, bool, int, float]:
    """How well a separator explains some lines; the larger, the better."""
    widths = Counter(map(len, split_lines(lines, separator)))
    width, number = widths.most_common(1)[0]
    share = number / widths.total()
    is_blank = separator == " "  # stands in texts and times, too
    fits = share >= MOSTLY and width > 1
    return fits and width > 2, fits and not is_blank, width if fits else 0, share


_NUMBER = re.compile(r"\s*[-+]?[0-9][0-9.,:/ T-]*\s*")


def is_header(first: list[str], rest: list[list[str]]) -> bool:
    """Whether a first row names columns: a name that we know, or text above numbers."""
    if len({cell.strip() for cell in first}) < len(first) or any(map(_NUMBER.fullmatch, first)):
        return False
    if any(role_of(cell) for cell in first):
        return True
    columns = list(zip(*rest, strict=True)) if rest else [()] * len(first)
    for column in columns:
        filled = [cell for cell in column if cell.strip()]
        if filled and sum(map(bool, map(_NUMBER.fullmatch, filled))) >= MOSTLY * len(filled):
            return True
    return not rest
