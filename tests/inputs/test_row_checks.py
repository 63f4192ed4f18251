"""Rows: every kind of bad one has its reason, and ids of every type are the same ids."""

from decimal import Decimal

import pyarrow as pa
import pytest
from checked_rows import RUN_DATE, check, users_of
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.inputs.row_checks import check_rows
from diffsasrec.schema import id_hash

# --- one bad row of every kind ---


def test_every_kind_of_bad_row_has_its_reason():
    rows = [
        ("u", "i", "5", None),
        (None, "i", "5", "null_user_id"),
        ("u", None, "5", "null_item_id"),
        ("u", "i", None, "null_time"),
        ("", "i", "5", "empty_user_id"),
        ("u", "", "5", "empty_item_id"),
        ("u", "i", "soon", "unparsable_time"),
        ("u", "i", "99999999999999", "time_out_of_range"),
        ("u", "i", "-5", "negative_time"),
    ]
    users, items, times, reasons = (list(column) for column in zip(*rows, strict=True))
    checked = check(pa.array(users), pa.array(items), pa.array(times), time_unit="s")
    assert checked.bad["reason"].to_pylist() == reasons[1:]
    assert checked.events.to_pylist() == [{"user_id": "u", "item_id": "i", "timestamp": 5_000_000}]
    assert checked.counts == {"rows": 9, "kept": 1, **dict.fromkeys(reasons[1:], 1)}


def test_an_id_of_the_wrong_type_has_its_reason():
    users, items = pa.array(["1", "x", "3"]), pa.array(["1", "2", "3.5"])
    checked = check(users, items, pa.array([1, 1, 1]), ids=pa.int64())
    assert checked.bad["reason"].to_pylist() == ["wrong_type_user_id", "wrong_type_item_id"]
    assert checked.counts == {
        "rows": 3,
        "kept": 1,
        "wrong_type_user_id": 1,
        "wrong_type_item_id": 1,
    }


def test_a_row_that_is_bad_in_several_ways_is_counted_once():
    none = pa.array([None], pa.string())
    checked = check(none, none, none, time_unit="s")
    assert checked.counts == {"rows": 1, "null_user_id": 1}
    assert checked.bad.num_rows == 1


def test_bad_rows_keep_their_raw_values():
    users = pa.array([7, None], pa.int16())
    checked = check(users, users, pa.array(["soon", "5"]), time_unit="s", ids=pa.int64())
    assert checked.bad.to_pylist() == [
        {"user_id": 7, "item_id": 7, "timestamp": "soon", "reason": "unparsable_time"},
        {"user_id": None, "item_id": None, "timestamp": "5", "reason": "null_user_id"},
    ]
    assert checked.bad.schema.field("user_id").type == pa.int16()


VALUES = st.sampled_from(["5", "-5", "x", "", "2024-01-01", "99999999999999", None])
TIMES = st.sampled_from(["5", "86400", "999999999999", "-5", "x", "", "99999999999999", None])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(VALUES, VALUES, TIMES), max_size=30), st.sampled_from(["int", "string"]))
def test_every_row_is_kept_or_counted_under_one_reason(rows, kind):
    columns = [pa.array([row[i] for row in rows], pa.string()) for i in range(3)]
    ids = pa.int64() if kind == "int" else pa.string()
    checked = check(*columns, time_unit="s", ids=ids, before=RUN_DATE)
    reasons = sum(checked.counts.values()) - checked.counts["rows"] - checked.counts["kept"]
    assert checked.counts["rows"] == len(rows)
    assert checked.counts["kept"] == checked.events.num_rows
    assert checked.counts["kept"] + reasons == len(rows)
    assert checked.bad.num_rows + checked.counts["after_run_date"] == reasons


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(VALUES, VALUES, TIMES), min_size=1, max_size=20))
def test_the_fate_of_a_row_does_not_depend_on_its_neighbours(rows):
    def reasons(some):
        columns = [pa.array([row[i] for row in some], pa.string()) for i in range(3)]
        return check(*columns, time_unit="s").bad["reason"].to_pylist()

    assert reasons(rows) == [reason for row in rows for reason in reasons([row])]


def test_no_rows_are_no_events():
    none = pa.array([], pa.string())
    checked = check(none, none, none, time_unit=None)
    assert checked.events.num_rows == checked.bad.num_rows == 0
    assert checked.counts["rows"] == 0


def test_rows_may_come_in_several_chunks():
    ids = pa.chunked_array([["a"], ["b", None]])
    checked = check(ids, ids, pa.chunked_array([[1, 2], [3]]))
    assert checked.events["user_id"].to_pylist() == ["a", "b"]


# --- ids ---


@pytest.mark.parametrize("width", [pa.int8(), pa.int16(), pa.int32(), pa.int64()])
def test_signed_ids_of_every_width_are_the_same_ids(width):
    ids = pa.array([-1, 0, 100], width)
    checked = check(ids, ids, pa.array([1, 2, 3]), ids=pa.int64())
    assert checked.events["user_id"].to_pylist() == [-1, 0, 100]
    assert checked.events.schema.field("user_id").type == pa.int64()


@pytest.mark.parametrize("width", [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()])
def test_unsigned_ids_of_every_width_are_the_same_ids(width):
    ids = pa.array([0, 100], width)
    checked = check(ids, ids, pa.array([1, 2]), ids=pa.uint64())
    assert checked.events["item_id"].to_pylist() == [0, 100]
    assert checked.events.schema.field("item_id").type == pa.uint64()


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()])
def test_strings_of_every_kind_are_the_same_ids(text):
    ids = pa.array(["a", "b"]).cast(text)
    checked = check(ids, ids, pa.array([1, 2]))
    assert checked.events["user_id"].to_pylist() == ["a", "b"]
    assert checked.events.schema.field("user_id").type == pa.string()


def test_dictionaries_of_strings_and_of_integers_are_decoded():
    users, items = pa.array(["a", None, "a"]).dictionary_encode(), pa.array([1, 2, 3], pa.int8())
    raw = pa.table({"user_id": users, "item_id": items.dictionary_encode(), "timestamp": [1, 2, 3]})
    checked = check_rows(
        raw, time_unit="us", user_type=pa.string(), item_type=pa.int64(), before=RUN_DATE
    )
    assert checked.events["user_id"].to_pylist() == ["a", "a"]
    assert checked.events["item_id"].to_pylist() == [1, 3]
    assert checked.counts["null_user_id"] == 1


def test_integers_can_be_read_as_strings():
    ids = pa.array([-5, 2**40])
    assert users_of(check(ids, ids, pa.array([1, 2])).events.to_pylist()) == ["-5", str(2**40)]


def test_unsigned_ids_beyond_int64_do_not_fit_it():
    ids = pa.array([1, 2**63 - 1, 2**63], pa.uint64())
    checked = check(ids, pa.array([1, 1, 1]), pa.array([1, 2, 3]), ids=pa.int64())
    assert users_of(checked.events.to_pylist()) == [1, 2**63 - 1]
    assert checked.bad["reason"].to_pylist() == ["wrong_type_user_id"]
    assert checked.bad["user_id"].to_pylist() == [2**63]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("+7", 7),
        ("007", 7),
        ("-7", -7),
        ("999999999999999999", 10**18 - 1),
        ("1000000000000000000", 10**18),
        ("-1000000000000000000", -(10**18)),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
    ],
)
def test_a_decimal_number_of_64_bits_is_an_integer_id(text, number):
    checked = check(pa.array([text]), pa.array(["1"]), pa.array([1]), ids=pa.int64())
    assert users_of(checked.events.to_pylist()) == [number]


def test_decimals_of_any_number_of_digits_are_texts():
    users = pa.array([Decimal(10**25)], pa.decimal128(38, 0))
    checked = check(users, pa.array(["1"]), pa.array([1]), ids=pa.string())
    assert users_of(checked.events.to_pylist()) == [str(10**25)]


@pytest.mark.parametrize(
    "text",
    ["9223372036854775808", "-9223372036854775809", "99999999999999999999", "1.5", "1e3", "1 1",
     ".0", "1_000", "0x1", "abc", "-", "+", "١٢"],
)  # fmt: skip
def test_anything_else_is_no_integer_id(text):
    checked = check(pa.array([text, "1"]), pa.array(["1", "1"]), pa.array([1, 1]), ids=pa.int64())
    assert checked.bad["reason"].to_pylist() == ["wrong_type_user_id"]
    assert checked.bad["user_id"].to_pylist() == [text]


def test_an_id_that_is_no_text_is_a_bad_row():
    # a Parquet writer may call bytes a string; nothing later can hash or print them
    broken = pa.array([b"good", b"\xff"]).view(pa.string())
    checked = check(broken, pa.array(["i", "i"]), pa.array([1, 2]))
    assert checked.counts == {"rows": 2, "kept": 1, "invalid_utf8_user_id": 1}
    assert checked.bad["user_id"].to_pylist() == ["\\xff"]
    assert len(id_hash(checked.events["user_id"].combine_chunks())) == 1
