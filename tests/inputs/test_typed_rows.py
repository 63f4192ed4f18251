"""Rows with a type: read from files of every format, filtered, quarantined and counted."""

import pyarrow as pa
import pytest
from checked_rows import read, read_csv, read_jsonl
from written_logs import config, inspected, write

from diffsasrec.errors import InputDataError
from diffsasrec.inputs.quarantine import example_of
from diffsasrec.inputs.row_checks import by_type
from diffsasrec.read_log.log import Fragment

TYPES = {"purchase": {"weight": 1.0}, "view": {"weight": 0.1, "target": False}}
TYPED = {"type_column": "kind", "types": TYPES, "time_unit": "s"}
VIEW, PURCHASE = 0, 1
KINDS = ["purchase", "view", "refund", None, "refund", "view"]


def written(tmp_path, kinds=KINDS, **columns):
    numbers = list(range(len(kinds)))
    table = {"user_id": ["u"] * len(kinds), "item_id": numbers, "timestamp": numbers}
    return write(tmp_path / "log.parquet", pa.table(table | {"kind": kinds} | columns))


def test_rows_of_other_types_are_filtered_and_rows_of_none_are_bad(tmp_path):
    kept, counts, bad = read(written(tmp_path), **TYPED)
    assert [(row["item_id"], row["type"]) for row in kept] == [(0, PURCHASE), (1, VIEW), (5, VIEW)]
    plain, types = by_type(counts)
    assert plain == {"rows": 6, "kept": 3, "filtered": 2, "null_type": 1}
    assert types == {"kept": {"purchase": 1, "view": 2}, "filtered": {"refund": 2}}
    (row,) = bad
    assert (row["kind"], row["item_id"], row["reason"]) == (None, 3, "null_type")


def test_a_bad_row_shows_its_type(tmp_path):
    path = written(tmp_path, ["view", "view"], user_id=["u", None])
    _, _, (row,) = read(path, **TYPED)
    assert (row["kind"], row["reason"]) == ("view", "null_user_id")


def test_a_row_without_a_type_is_shown_with_the_way_out(tmp_path):
    path = written(tmp_path, ["view", None])
    _, _, (row,) = read(path, **TYPED)
    text = str(example_of(row, "null_type", config(path, **TYPED), Fragment(str(path), 0)))
    assert "timestamp 1, kind null; leave such events out by" in text
    assert text.endswith("events.where: [kind is not null]")


def test_types_are_read_from_csv_and_json_lines(tmp_path):
    csv = b"user_id,item_id,timestamp,kind\nu,a,1,view\nu,b,2,\nu,c,3,refund\nbroken\n"
    csv += b"u,d,4,purchase\n"
    lines = (
        b'{"user_id": "u", "item_id": "a", "timestamp": 1, "kind": "view"}\n'
        b'{"user_id": "u", "item_id": "b", "timestamp": 2}\n'
        b'{"user_id": "u", "item_id": "c", "timestamp": 3, "kind": "refund"}\n'
        b"broken\n"
        b'{"user_id": "u", "item_id": "d", "timestamp": 4, "kind": "purchase"}\n'
    )
    for kept, counts, bad in (
        read_csv(tmp_path, csv, **TYPED),
        read_jsonl(tmp_path, lines, **TYPED),
    ):
        assert [(row["item_id"], row["type"]) for row in kept] == [("a", VIEW), ("d", PURCHASE)]
        plain, _ = by_type(counts)
        assert plain == {"rows": 5, "kept": 2, "filtered": 1, "null_type": 1, "malformed_row": 1}
        assert {row["reason"]: row["text"] for row in bad}["malformed_row"] == "broken"


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (pa.array([1, 2, 7, None]), ("1", "2")),
        (pa.array([1.0, 2.0, 7.0, None]), ("1", "2")),
        (pa.array(["1", "2", "7", None]).dictionary_encode(), ("1", "2")),
        (pa.array(["1", "2", "7", ""], pa.large_string()), ("1", "2")),
    ],
)
def test_types_may_be_numbers_and_dictionaries(tmp_path, kinds, names):
    settings = {**TYPED, "types": dict(zip(names, TYPES.values(), strict=True))}
    kept, counts, _ = read(written(tmp_path, kinds), **settings)
    assert [row["type"] for row in kept] == [PURCHASE, VIEW]
    assert counts["filtered"] == 1 and counts["null_type"] == 1
    assert by_type(counts)[1]["filtered"] == {"7": 1}


def test_booleans_are_types(tmp_path):
    settings = {**TYPED, "types": {"true": {}, "false": {"target": False, "weight": 0.5}}}
    kept, _, _ = read(written(tmp_path, [True, False, True]), **settings)
    assert [row["type"] for row in kept] == [1, 0, 1]


def test_conditions_come_first_and_may_be_on_the_type(tmp_path):
    kept, counts, _ = read(written(tmp_path), **TYPED, where=["kind is not null", "item_id < 5"])
    assert [row["item_id"] for row in kept] == [0, 1]
    plain, types = by_type(counts)
    assert plain == {"rows": 6, "kept": 2, "filtered": 4} and types["filtered"] == {"refund": 2}


def test_a_row_group_that_conditions_skip_has_typed_rows_too(tmp_path):
    kept, counts, _ = read(written(tmp_path), **TYPED, where=["item_id > 100"])
    assert kept == [] and by_type(counts)[0] == {"rows": 6, "filtered": 6}


def test_a_type_that_is_no_text_is_counted_in_an_escaped_spelling(tmp_path):
    kinds = pa.array([b"view", b"caf\xe9", b"view"], pa.binary()).cast(pa.string(), safe=False)
    kept, counts, _ = read(written(tmp_path, kinds), **TYPED)
    assert len(kept) == 2 and by_type(counts)[1]["filtered"] == {"caf\\xe9": 1}


def test_only_the_commonest_other_types_are_counted_by_name(tmp_path):
    kinds = ["view", "t0", "t0", *(f"t{number}" for number in range(1, 100))]
    _, counts, _ = read(written(tmp_path, kinds), **TYPED)
    found = by_type(counts)[1]["filtered"]
    assert len(found) == 21 and found["t0"] == 2 and sum(found.values()) == 101
    assert found["other ones"] == 80


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type_column": "sort"}, r"no column sort \(events.type_column\)"),
        ({"type_column": "lists"}, "column lists is list<.*types of events must be texts"),
    ],
)
def test_a_column_that_is_not_there_or_holds_no_types_is_refused(tmp_path, change, says):
    path = written(tmp_path, ["view"], lists=[[1]])
    with pytest.raises(InputDataError, match=says):
        inspected(path, **{**TYPED, **change})
