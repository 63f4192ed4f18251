"""CSV: raw rows as strings, and the lines that are not rows.

A row ends with its line, unless the line ends inside a quoted field that closes properly later. A
line that is not a row is handed on as text, so rows and malformed lines together are the file.
Bytes that are not UTF-8 stay in the ids and times: who checks rows handles them.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from diffsasrec.formats import chunks
from diffsasrec.formats.chunks import RAW, RawChunk, blocks_of, refuse_endless, shown
from diffsasrec.formats.csv_layout import (
    ONE_BYTE,
    CsvStyle,
    Layout,
    find_layout,
    one_byte,
    patterns,
)

SAMPLE_BYTES = 64 * 2**10
_LINE = re.compile(rb"[^\r\n]*+(?:\r\n|[\r\n]|\Z)")


def csv_layout(file: Any, wanted: Sequence[str], style: CsvStyle) -> Layout | None:
    """The layout of a CSV file from its first block; None for a file without a line."""
    block = next(blocks_of(file, style.encoding))
    return find_layout(block, wanted, style, at_end=True)


def sample_rows(layout: Layout, columns: list[str], style: CsvStyle) -> pa.Table:
    """The first rows behind a header, as texts under the names of RAW."""
    reader = CsvReader(layout, columns, RAW, style)
    text = layout.body[:SAMPLE_BYTES]
    text, _ = reader.with_one_byte(text, at_end=len(layout.body) <= SAMPLE_BYTES)
    rows, _, _ = reader.split(text, at_end=len(layout.body) <= SAMPLE_BYTES)
    return reader.parse(rows, []).rows


def read_csv(
    file: Any,
    columns: list[str],
    *,
    names: Sequence[str] = RAW,
    style: CsvStyle = CsvStyle(),  # noqa: B008  # it is frozen
) -> Iterator[RawChunk]:
    """The rows of a CSV file, in chunks; `columns` are those of `names` under the file's names."""
    layout, text, half = None, b"", b""
    for block in blocks_of(file, style.encoding):
        text, half = text + half + block, b""
        if layout is None:
            layout = find_layout(text, columns, style, at_end=not block)
            if layout is None:
                refuse_endless(text)
                continue
            text = layout.body
            reader = CsvReader(layout, columns, names, style)
        text, half = reader.with_one_byte(text, at_end=not block)
        rows, malformed, text = reader.split(text, at_end=not block)
        refuse_endless(text)
        if rows or malformed:
            yield reader.parse(rows, malformed)


class CsvReader:
    """Reads the rows of one file of a known layout."""

    def __init__(
        self, layout: Layout, columns: list[str], names: Sequence[str], style: CsvStyle
    ) -> None:
        self._long = layout.separator
        self._separator = one_byte(layout.separator)
        self._quote = (style.quote or "").encode()
        self._escape = (style.escape or "").encode()
        self._patterns = patterns(self._separator, self._quote, self._escape)
        self._num_fields = len(layout.names)
        self._places = [f"f{layout.names.index(column)}" for column in columns]
        self._names, self._style = names, style
        self._is_border = np.zeros(256, bool)  # stands beside a quote that opens, closes, doubles
        self._is_border[list(self._separator + b"\r\n" + self._quote)] = True

    def with_one_byte(self, text: bytes, *, at_end: bool) -> tuple[bytes, bytes]:
        """The text with one byte for each separator, and what may be the half of one at its end."""
        if len(self._long) == 1:
            return text, b""
        half = b"" if at_end else text[len(text.rstrip(self._long[:1])) :][-len(self._long) + 1 :]
        return text[: len(text) - len(half)].replace(self._long, ONE_BYTE), half

    def split(self, text: bytes, *, at_end: bool) -> tuple[bytes, list[str], bytes]:
        """The complete rows, the lines that are not rows, and the unfinished row at the end."""
        end = len(text) if at_end else text.rfind(b"\n") + 1 or text.rfind(b"\r") + 1
        if not self._quote or text.find(self._quote, 0, end) < 0:
            return text[:end], [], text[end:]
        if self._pair_up(text[:end]):
            return text[:end], [], text[end:]
        return self._scan(text, at_end=at_end)

    def _pair_up(self, text: bytes) -> bool:
        """Whether each quote opens or closes a field or doubles another: newlines are clear."""
        if self._escape:
            text = re.sub(re.escape(self._escape) + rb"[^\r\n]", b"xx", text)
            if self._escape in text:  # before a newline
                return False
        padded = np.frombuffer(b"\n" + text + b"\n", np.uint8)
        quotes = np.flatnonzero(padded == ord(self._quote))
        if len(quotes) % 2:
            return False
        before, after = padded[quotes[::2] - 1], padded[quotes[1::2] + 1]
        return bool(self._is_border[before].all() and self._is_border[after].all())

    def _scan(self, text: bytes, *, at_end: bool) -> tuple[bytes, list[str], bytes]:
        """`split` where quotes don't pair up: a line whose quote never closes well is no row."""
        end = len(text) if at_end else text.rfind(b"\n") + 1
        region, position = text[:end], 0
        rows: list[bytes] = []
        malformed: list[str] = []
        while position < end:
            stop = self._patterns.rows.match(region, position).end()  # type: ignore[union-attr]
            rows.append(region[position:stop])
            may_go_on = not at_end and end - stop <= chunks.CHUNK_BYTES
            if stop < end and may_go_on and self._patterns.open_row.match(region, stop):
                return b"".join(rows), malformed, text[stop:]
            position = stop
            if stop < end:
                position = _LINE.match(region, stop).end()  # type: ignore[union-attr]
                malformed.append(shown(region[stop:position]))
        return b"".join(rows), malformed, text[end:]

    def parse(self, rows: bytes, malformed: list[str]) -> RawChunk:
        if not _is_text(rows):
            rows, ragged = self._drop_ragged_bytes(rows)
            malformed = malformed + ragged

        def collect(row: Any) -> str:
            malformed.append(row.text)
            return "skip"

        fields = [f"f{n}" for n in range(self._num_fields)]
        table = pa.csv.read_csv(
            pa.BufferReader(rows or b"\n"),
            read_options=pa.csv.ReadOptions(
                use_threads=False, block_size=len(rows) + 1, column_names=fields
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self._separator.decode(),
                quote_char=self._quote.decode() or False,
                escape_char=self._escape.decode() or False,
                invalid_row_handler=collect,
            ),
            convert_options=pa.csv.ConvertOptions(
                include_columns=list(dict.fromkeys(self._places)),
                column_types={place: pa.binary() for place in self._places},
                null_values=list(self._style.null_texts),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        # unchecked: one row that is not UTF-8 must not refuse the others
        strings = [table[place].cast(pa.string(), safe=False) for place in self._places]
        strings = [without_thousands(column, self._style.thousands) for column in strings]
        strings = [with_point(column, self._style.decimal) for column in strings]
        if len(self._long) > 1:
            malformed = [line.replace(ONE_BYTE.decode(), self._long.decode()) for line in malformed]
        return RawChunk(pa.table(strings, names=list(self._names)), malformed)

    def _drop_ragged_bytes(self, rows: bytes) -> tuple[bytes, list[str]]:
        """Drops ragged rows that are not UTF-8: Arrow can't name them, and gives up the file."""
        kept, ragged = [], []
        for match in self._patterns.one_row.finditer(rows):
            row = match[0]
            fields = self._patterns.field.findall(row.rstrip(b"\r\n"))
            if _is_text(row) or len(fields) == self._num_fields:
                kept.append(row)
            else:
                ragged.append(shown(row))
        return b"".join(kept), ragged


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
        return True
    except UnicodeDecodeError:
        return False


def without_thousands(column: pa.ChunkedArray, separator: str | None) -> pa.ChunkedArray:
    """The texts, those that are numbers in groups of three without the separator of the groups."""
    if separator is None:
        return column
    mark = re.escape(separator)
    is_grouped = pc.match_substring_regex(column, rf"^[+-]?[0-9]{{1,3}}({mark}[0-9]{{3}})+(\D|$)")
    return pc.if_else(is_grouped, pc.replace_substring(column, separator, ""), column)


def with_point(column: pa.ChunkedArray, decimal: str | None) -> pa.ChunkedArray:
    """The texts, those that are numbers with a point before their fraction."""
    if decimal is None:
        return column
    number = rf"^([ \t]*[+-]?[0-9]*){re.escape(decimal)}([0-9]+([eE][+-]?[0-9]+)?[ \t]*)$"
    return pc.replace_substring_regex(column, number, r"\1.\2")
