"""CSV and JSON lines: where rows end, and what becomes of lines that are none."""

import csv
import io
import json

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffsasrec.formats import chunks as sizes
from diffsasrec.formats.chunks import BOM, RAW
from diffsasrec.formats.csv_layout import CsvStyle, Layout
from diffsasrec.formats.csv_rows import CsvReader, csv_layout, read_csv
from diffsasrec.formats.json_rows import jsonl_columns, read_jsonl

HEADER = b"user_id,item_id,timestamp\n"
NOTED = b"user_id,item_id,timestamp,note\n"


def in_chunks(read, data, size, **more):
    """The rows as tuples of bytes and the malformed lines, read in chunks of a size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "CHUNK_BYTES", size)
        chunks = list(read(io.BytesIO(data), list(RAW), **more))
    rows = [
        row
        for chunk in chunks
        for row in zip(*(chunk.rows[n].cast(pa.binary()).to_pylist() for n in RAW), strict=True)
    ]
    return rows, [line for chunk in chunks for line in chunk.malformed]


def csv_of(data, size=2**20):
    rows, malformed = in_chunks(read_csv, data, size)
    return [b"|".join(value or b"" for value in row).decode() for row in rows], malformed


def jsonl_of(data, size=2**20):
    return in_chunks(read_jsonl, data, size, time_is_text=False)


# --- CSV ---


FIELDS = st.text(st.sampled_from('ab",\n\ré\x00 '), max_size=6)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(100, 400),
)
def test_what_a_csv_writer_wrote_is_read_whatever_the_chunks(rows, end, size):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([RAW, *rows])
    found, malformed = in_chunks(read_csv, text.getvalue().encode(), size)
    assert [tuple((value or b"").decode() for value in row) for row in found] == rows
    assert malformed == []


@pytest.mark.parametrize("size", range(28, 40))
def test_the_first_row_has_all_its_fields_wherever_a_chunk_cuts_it(size: int):
    assert in_chunks(read_csv, HEADER + b"a,b,5,c\n", size) == ([], ["a,b,5,c"])
    assert csv_of(HEADER + b"a,b,5,\n", size) == (["a|b|5"], [])
    assert csv_of(HEADER + b'"a\n,",b,5,\n', size) == (["a\n,|b|5"], [])


def test_a_first_row_over_several_lines_with_a_field_too_many_is_malformed():
    data = HEADER + b'a,b,5,"c,\n"\nd,e,6\n'
    assert csv_of(data) == (["d|e|6"], ['a,b,5,"c,\n"'])


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from('ab",,\n\n\xe9'), max_size=120), st.integers(16, 200))
@example("aaaaaaa,,,a", 18)
@example(',,,"a,\n"', 16)
def test_no_line_of_a_broken_csv_file_is_lost(text, size):
    data = HEADER + text.encode("latin-1")
    rows, malformed = in_chunks(read_csv, data, size)
    in_rows = sum(1 + sum((value or b"").count(b"\n") for value in row) for row in rows)
    in_malformed = sum(1 + line.count("\n") for line in malformed)
    blank = in_rows + in_malformed - len(data.removesuffix(b"\n").split(b"\n")[1:])
    assert -text.count("\n\n") - text.startswith("\n") - text.count("\n") <= blank <= 0
    letters = b"".join(value or b"" for row in rows for value in row).decode("latin-1")
    for letter in "ab":
        assert letters.count(letter) + "".join(malformed).count(letter) == text.count(letter)


@pytest.mark.parametrize(
    ("text", "rows", "malformed"),
    [
        (b'a,i,5,"oops\nb,i,5,x\n', ["b|i|5"], ['a,i,5,"oops']),
        (b'a,i,5,"oops\nb,i,5,x\nc,i,5,"y"\n', ["b|i|5", "c|i|5"], ['a,i,5,"oops']),
        (b'a,i,5,"x\ny"\nb,i,5,"oops\nc,i,5,z\n', ["a|i|5", "c|i|5"], ['b,i,5,"oops']),
        (b'"a"b,i,5,x\nc,i,5,x\n', ["c|i|5"], ['"a"b,i,5,x']),
        (b'a,i,5,a 5" disk\nb,i,5,"x\ny"\n', ["a|i|5", "b|i|5"], []),
        (b'a,i,5,""\nb,"i,""i",5,"""x"""\n', ["a|i|5", 'b|i,"i|5'], []),
    ],
)
@pytest.mark.parametrize("size", [2**20, 50])
def test_a_quote_holds_a_newline_only_where_it_closes_a_field(text, rows, malformed, size):
    assert csv_of(NOTED + text, size) == (rows, malformed)


def test_a_row_with_a_newline_lies_whole_in_one_chunk():
    text = b'a,i,5\n"b\nb",i,5\nc,i,5\n'
    for size in range(16, len(HEADER + text) + 1):
        assert csv_of(HEADER + text, size) == (["a|i|5", "b\nb|i|5", "c|i|5"], [])


def test_the_begun_row_waits_for_the_next_block():
    split_csv = CsvReader(Layout(list(RAW), b",", b""), list(RAW), RAW, CsvStyle()).split
    assert split_csv(b"a,i,5\nb,i", at_end=False) == (b"a,i,5\n", [], b"b,i")
    assert split_csv(b'a,i,5\n"b\n', at_end=False) == (b"a,i,5\n", [], b'"b\n')
    assert split_csv(b"a,i,5\nb,i", at_end=True) == (b"a,i,5\nb,i", [], b"")


def test_ragged_rows_that_are_no_utf_8_are_lines_with_their_bytes_escaped():
    rows, malformed = csv_of(HEADER + b"caf\xe9,i\na,i,5\n\xff\n")
    assert rows == ["a|i|5"]
    assert malformed == ["caf\\xe9,i", "\\xff"]


def test_a_header_may_stand_behind_a_byte_order_mark_and_blank_lines():
    data = b"\xef\xbb\xbf\r\n\n" + HEADER + b"a,i,5\n"
    layout = csv_layout(io.BytesIO(data), RAW, CsvStyle())
    assert layout is not None and layout.names == list(RAW)
    assert csv_of(data, 16) == (["a|i|5"], [])


@pytest.mark.parametrize("read", [csv_of, jsonl_of])
def test_a_line_without_end_is_refused(read, monkeypatch):
    monkeypatch.setattr(sizes, "MAX_LINE_BYTES", 1000)  # a size, so that a small file passes it
    with pytest.raises(ValueError, match="a line is longer than"):
        read(HEADER + b"x" * 5000, 100)


# --- JSON lines ---

LINES = [
    '{"user_id": "u", "item_id": "i", "timestamp": 5}',
    '{"user_id": 7, "item_id": 8, "timestamp": "5", "x": [{"y": null}]}',
    '{"user_id": "u", "item_id": "i", "timestamp": 5}{"user_id": "v"}',
    '{"user_id": "u", "user_id": "v", "item_id": "i", "timestamp": 5}',
    '{"user_id": "u", "item_id": "i", "timestamp": 5, "x": 1, "x": 2}',
    '{"user_id": 1.5, "item_id": "i", "timestamp": 5}',
    '{"user_id": "u",',
    '"item_id": "i", "timestamp": 5}',
    "null",
    "[1, 2]",
    "{}",
    "",
    "  ",
    '{"user_id": "\xff", "item_id": "i", "timestamp": 5}',
    '{"user_id": "u", "item_id": "i", "timestamp": 5, "x": "\xff"}',
    '{"user_id": "\\ud800", "item_id": "i", "timestamp": 5}',
    '{"user_id": "u", "item_id": "i", "timestamp": 5, "x": ' + "[" * 600 + "]" * 600 + "}",
]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(LINES), max_size=12), st.integers(16, 3000))
@example(["", LINES[2]], 66)  # as many rows as lines for Arrow, and yet not a row of each
@example(["\r", LINES[2]], 3000)
@example(['{"user_id": "u", "x":', '{"y": 1}}', LINES[2]], 3000)
def test_the_fate_of_a_json_line_does_not_depend_on_its_neighbours_or_the_chunks(lines, size):
    data = [line.encode("latin-1") + b"\n" for line in lines]
    alone = [jsonl_of(line) for line in data]
    rows, malformed = jsonl_of(b"".join(data), size)
    assert rows == [row for one, _ in alone for row in one]
    assert malformed == [line for _, one in alone for line in one]
    assert len(rows) + len(malformed) == sum(1 for line in lines if line.strip())


@pytest.mark.parametrize("depth", [400, 900, 20_000])
def test_a_line_of_any_depth_is_a_row_or_malformed(depth):
    good = {"user_id": "u", "item_id": "i", "timestamp": 5}
    deep = json.dumps(good)[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}\n"
    rows, malformed = jsonl_of(json.dumps(good).encode() + b"\n" + deep.encode())
    assert len(rows) + len(malformed) == 2
    assert rows[0] == (b"u", b"i", b"5")


def test_keys_are_found_behind_a_byte_order_mark_and_broken_lines():
    data = b'\xef\xbb\xbf{"user_id": 1, "x": 2}\nbroken\n{"item_id": 1}\n'
    assert jsonl_columns(data.removeprefix(BOM), ["item_id"]) == ["user_id", "x", "item_id"]
