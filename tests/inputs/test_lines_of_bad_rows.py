"""A bad row of a text file is named with the number of its line."""

import json
from pathlib import Path
from typing import Any

import pytest
from checked_rows import read

from diffsasrec.config.data import EventsConfig
from diffsasrec.inputs.quarantine import Example, example_of
from diffsasrec.read_log.log import Fragment


def lines_of(path: Path, text: bytes, **settings: Any) -> list[str]:
    """`reason line` of each bad row of a file, in the order of quarantine.

    The rows go through JSON, as they do from the tasks of a night.
    """
    path.write_bytes(text)
    events = EventsConfig(path=str(path), **settings)
    fragment = Fragment(str(path), None)
    _, _, bad = read(path, **settings)
    examples = [(row["reason"], example_of(row, row["reason"], events, fragment)) for row in bad]
    found = [
        (reason, str(Example.from_json(json.loads(json.dumps(each.to_json())), events)))
        for reason, each in examples
    ]
    return [f"{reason} {says.removeprefix(str(path)).partition(':')[0]}" for reason, says in found]


def test_a_row_of_a_csv_has_its_line_behind_header_blanks_and_quoted_newlines(tmp_path: Path):
    text = b'user_id,item_id,note,timestamp\n\n1,2,"a\nb",5\n,2,,5\n3,4,"x",soon\n3,4,5\n'
    assert lines_of(tmp_path / "a.csv", text, format="csv", time_unit="s") == [
        "null_user_id , line 5",
        "unparsable_time , line 6",
        "malformed_row , line 7",
    ]


def test_the_same_values_in_other_columns_are_another_row(tmp_path: Path):
    text = b"x,user_id,item_id,timestamp\nsoon,1,2,5\nx,1,2,5 soon\nx,1,2,soon\n"
    found = lines_of(tmp_path / "a.csv", text, format="csv", time_unit="s")
    assert found == ["unparsable_time , line 3", "unparsable_time , line 4"]


def test_a_header_within_a_file_is_not_taken_for_the_first_line(tmp_path: Path):
    header = b"user_id,item_id,timestamp\n"
    text = header + b"1,2,5\n" + header
    assert lines_of(tmp_path / "a.csv", text, format="csv", time_unit="s") == [
        "unparsable_time , line 3"
    ]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (b"1::2::5\n1::::5\n", {"columns": ("user_id", "item_id", "timestamp")}),
        (b"user_id;item_id;timestamp\r\n;2;5\r\n", {"separator": ";"}),
        (b"user_id,item_id,timestamp\r1,2,5\r,2,5", {}),
        ("user_id,item_id,timestamp,note\n1,2,5,é\n,2,5,é".encode("latin-1"), {}),
        (b"user_id,item_id,timestamp,note\n1,2,5,a\n,\xff2,5,a", {}),
    ],
)
def test_it_is_found_by_any_separator_end_and_encoding(tmp_path: Path, text: bytes, settings):
    is_latin = b"\xe9" in text
    more = {"encoding": "latin-1"} if is_latin else {}
    found = lines_of(tmp_path / "a.csv", text, format="csv", time_unit="s", **settings, **more)
    number = {b"1": 2, b"u": len(text.splitlines())}[text[:1]]
    assert [each.partition(", ")[2] for each in found] == [f"line {number}"]


def test_a_row_of_json_lines_has_its_line(tmp_path: Path):
    text = b"""\
{"user": {"id": "a"}, "item_id": 1, "timestamp": 5}
{"item_id": 7, "timestamp": 5}

{"user": {"id": "a"}, "item_id": 1, "timestamp": "soon"}
{"user": {"id"
"""
    settings = {"format": "jsonl", "time_unit": "s", "user_column": "user.id"}
    assert lines_of(tmp_path / "a.jsonl", text, **settings) == [
        "null_user_id , line 2",
        "unparsable_time , line 4",
        "malformed_row , line 5",
    ]


def test_behind_the_first_block_a_line_is_found_too(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("diffsasrec.formats.chunks.CHUNK_BYTES", 64)  # a size, for some blocks
    text = b"user_id,item_id,timestamp\n" + b"1,2,5\n" * 100 + b",2,5\n"
    assert lines_of(tmp_path / "a.csv", text, format="csv", time_unit="s") == [
        "null_user_id , line 102"
    ]


def test_a_row_over_several_lines_and_a_file_that_is_gone_have_none(tmp_path: Path):
    text = b'user_id,note,item_id,timestamp\n,"a\nb",2,5\n'
    found = lines_of(tmp_path / "a.csv", text, format="csv", time_unit="s")
    assert found == ["null_user_id "]
    row = {"user_id": None, "item_id": "2", "timestamp": "5"}
    events = EventsConfig(path="gone.csv", format="csv")
    gone = example_of(row, "null_user_id", events, Fragment("gone.csv", None))
    assert str(gone).startswith("gone.csv: user_id null")
