"""The columns of a log: which must be there, of which types, and the same in every file."""

from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checked_rows import CSV_HEADER, NEW_YEAR, RUN_DATE, read
from written_logs import COLUMNS, CSV, JSONL, inspected, raw_rows, refusal, write

from diffsasrec.errors import ConfigError
from diffsasrec.read_log.log import Fragment

# --- columns ---


@pytest.mark.parametrize(
    ("column", "key"),
    [
        ("user_id", "events.user_column"),
        ("item_id", "events.item_column"),
        ("timestamp", "events.time_column"),
    ],
)
def test_a_missing_column_is_named_with_its_key_and_the_columns_that_are_there(
    tmp_path, column, key
):
    path = write(tmp_path / "log.parquet", pa.table({**COLUMNS, "price": [1, 2]}).drop(column))
    message = refusal(path)
    assert f"{path} has no column {column} ({key})" in message
    assert "price" in message


def test_a_missing_column_is_named_for_csv_and_json_lines_too(tmp_path):
    csv, jsonl = tmp_path / "log.csv", tmp_path / "log.jsonl"
    csv.write_bytes(CSV)
    jsonl.write_bytes(JSONL)
    expected = "has no column when (events.time_column); its columns: user_id, item_id, timestamp"
    assert expected in refusal(csv, format="csv", time_column="when")
    assert expected in refusal(jsonl, format="jsonl", time_column="when")


def test_the_file_that_misses_a_column_is_the_one_that_is_named(tmp_path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", pa.table(COLUMNS).drop("item_id"))
    assert refusal(tmp_path).startswith(f"{tmp_path / 'b.parquet'} has no column item_id")


def test_a_file_of_another_kind_beside_the_log_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(CSV_HEADER + b"u,i,5\n")
    (tmp_path / "README.md").write_text("# this log\n")
    says = refusal(tmp_path, format="csv")
    assert f"{tmp_path}/README.md has no column user_id" in says


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    arrays = [pa.array(["u"]), pa.array([1]), pa.array([5]), pa.array(["v"])]
    names = ["user_id", "item_id", "timestamp", "user_id"]
    path = write(tmp_path / "log.parquet", pa.table(arrays, names=names))
    assert "has more than one column user_id" in refusal(path)
    csv = tmp_path / "log.csv"
    csv.write_bytes(b"user_id,item_id,timestamp,user_id\nu,1,5,v\n")
    assert "has more than one column user_id" in refusal(csv, format="csv")


def test_another_column_may_be_there_twice(tmp_path):
    arrays = [*map(pa.array, COLUMNS.values()), pa.array([1, 2]), pa.array([1, 2])]
    path = write(tmp_path / "log.parquet", pa.table(arrays, names=[*COLUMNS, "x", "x"]))
    assert [row["user_id"] for row in raw_rows(path)] == ["u", "v"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("item_id", pa.array([True, False])),
        ("user_id", pa.array([None, None], pa.null())),
        ("user_id", pa.array([b"u", b"v"])),
    ],
)
def test_an_id_column_of_another_type_is_refused(tmp_path, column, values):
    path = write(tmp_path / "log.parquet", {**COLUMNS, column: values})
    message = refusal(path)
    assert f"{path}: column {column} is {values.type}" in message
    assert "ids must be integers or strings" in message


# --- the schema over several files ---


@pytest.mark.parametrize(
    ("column", "values", "type_name"),
    [
        ("item_id", pa.array(["1", "2"]), "string"),
        ("timestamp", pa.array([5, 6], pa.timestamp("ms")), "timestamp[ms]"),
        ("user_id", pa.array([1, 2]), "int64"),
    ],
)
def test_a_file_of_another_schema_is_named_with_both_types(tmp_path, column, values, type_name):
    write(tmp_path / "a.parquet")
    other = write(tmp_path / "b.parquet", {**COLUMNS, column: values})
    message = refusal(tmp_path)
    assert message.startswith(f"{other}: column {column} is {type_name}, but ")
    assert str(tmp_path / "a.parquet") in message


def test_strings_of_every_kind_go_together(tmp_path):
    for n, kind in enumerate([pa.string(), pa.large_string()]):
        users = pa.array(COLUMNS["user_id"]).cast(kind)
        write(tmp_path / f"{n}.parquet", {**COLUMNS, "user_id": users})
    users = pa.array(COLUMNS["user_id"]).dictionary_encode()
    write(tmp_path / "2.parquet", {**COLUMNS, "user_id": users})
    assert inspected(tmp_path).user_type == pa.string()
    assert [row["user_id"] for row in raw_rows(tmp_path)] == ["u", "v"] * 3


def test_other_columns_may_differ_between_files(tmp_path):
    write(tmp_path / "a.parquet", {"price": [1.5, 2.5], **COLUMNS})
    write(tmp_path / "b.parquet", {**COLUMNS, "price": ["x", "y"]})
    assert len(raw_rows(tmp_path)) == 4


def test_ids_keep_the_type_of_the_log(tmp_path):
    users = pa.array([1, 2], pa.uint16())
    log = inspected(write(tmp_path / "log.parquet", {**COLUMNS, "user_id": users}))
    assert (log.user_type, log.item_type) == (pa.uint16(), pa.int64())


@pytest.mark.parametrize(("id_type", "expected"), [("int64", pa.int64()), ("string", pa.string())])
def test_the_type_of_ids_can_be_set(tmp_path, id_type, expected):
    log = inspected(write(tmp_path / "log.parquet"), id_type=id_type)
    assert (log.user_type, log.item_type) == (expected, expected)


@pytest.mark.parametrize(("name", "text"), [("csv", CSV), ("jsonl", JSONL)])
def test_text_ids_are_strings_unless_set(tmp_path, name, text):
    path = tmp_path / f"log.{name}"
    path.write_bytes(text)
    assert inspected(path, format=name).item_type == pa.string()
    assert inspected(path, format=name, id_type="int64").item_type == pa.int64()


# --- the time column ---


def test_integer_times_without_a_unit_are_a_config_error(tmp_path):
    message = refusal(write(tmp_path / "log.parquet"), ConfigError, time_unit=None)
    assert "events.time_unit is not set" in message
    assert "timestamp is int64" in message


def test_timestamps_with_a_unit_are_a_config_error(tmp_path):
    path = write(
        tmp_path / "log.parquet", {**COLUMNS, "timestamp": pa.array([5, 6], pa.timestamp("ms"))}
    )
    assert "remove events.time_unit" in refusal(path, ConfigError, time_unit="ms")
    assert inspected(path, time_unit=None).fragments == [Fragment(str(path), 0)]


@pytest.mark.parametrize(
    "times", [pa.array([5, 6], pa.time64("us")), pa.array([b"5", b"6"]), pa.array([True, False])]
)
def test_a_time_column_of_another_type_is_refused(tmp_path, times):
    path = write(tmp_path / "log.parquet", {**COLUMNS, "timestamp": times})
    assert f"column timestamp is {times.type}; times must be" in refusal(path)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([pa.int32(), pa.int64()], pa.int64()),
        ([pa.uint8(), pa.uint32()], pa.uint32()),
        ([pa.int8(), pa.int16(), pa.null()], pa.int16()),
        ([pa.uint64(), pa.int8()], pa.int64()),
        ([pa.int16(), pa.float64()], pa.int64()),
        ([pa.decimal128(38, 0)], pa.int64()),
        ([pa.null(), pa.string(), pa.large_string()], pa.string()),
    ],
)
def test_ids_of_several_types_are_brought_to_one(tmp_path, types, expected):
    for number, kind in enumerate(types):
        users = pa.nulls(2) if kind == pa.null() else pa.array([1, 2]).cast(kind)
        write(tmp_path / f"{number}.parquet", {**COLUMNS, "user_id": users})
    assert inspected(tmp_path).user_type == expected


def test_floats_are_said_to_be_integers(tmp_path):
    path = write(tmp_path / "a.parquet", {**COLUMNS, "user_id": [17850.0, None]})
    [note] = inspected(path).notes
    assert note.startswith(f"column user_id is double in {path}: its ids are read as integers")


def test_times_of_several_units_and_zones_go_together(tmp_path):
    for number, kind in enumerate([pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.date32()]):
        write(tmp_path / f"{number}.parquet", {**COLUMNS, "timestamp": pa.nulls(2, kind)})
    assert len(inspected(tmp_path, time_unit=None).fragments) == 3


def test_times_in_int96_are_their_moments_in_any_year(tmp_path):
    years = [2024, 9999, 1000, 2567]  # the nanoseconds of far years wrap into ours
    times = pa.array([datetime(year, 1, 1) for year in years], pa.timestamp("us"))
    ids = [str(year) for year in years]
    table = pa.table({"user_id": ids, "item_id": ids, "timestamp": times})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    kept, counts, _ = read(tmp_path / "a.parquet", before=RUN_DATE)
    assert kept == [{"user_id": "2024", "item_id": "2024", "timestamp": NEW_YEAR}]
    assert counts == {"rows": 4, "kept": 1, "after_run_date": 2, "negative_time": 1}


def test_a_column_may_lie_within_others(tmp_path):
    users = pa.StructArray.from_arrays([pa.array(["u", "v"])], ["id"])
    columns = {"user": users, "item_id": [1, 2], "timestamp": [5, 6]}
    path = write(tmp_path / "a.parquet", columns)
    assert [row["user_id"] for row in raw_rows(path, user_column="user.id")] == ["u", "v"]
    assert "its columns: user, item_id, timestamp, user.id" in refusal(path)
    # a column of that name comes first
    path = write(tmp_path / "a.parquet", {**columns, "user.id": ["x", "y"]})
    assert [row["user_id"] for row in raw_rows(path, user_column="user.id")] == ["x", "y"]


def test_a_key_may_lie_within_others(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"user": {"id": "u"}, "item_id": 1, "timestamp": 5}',
        b'{"user": {"id": 2}, "item_id": 1, "timestamp": 5}',
        b'{"user": null, "item_id": 1, "timestamp": 5}',
        b'{"user": {"id": "u", "id": "v"}, "item_id": 1, "timestamp": 5}',
    ]
    for some, users in ((lines, ["u", "2", None]), (lines[:1], ["u"]), (lines[1:3], ["2", None])):
        path.write_bytes(b"\n".join(some))
        found = raw_rows(path, format="jsonl", user_column="user.id")
        assert [row["user_id"] for row in found] == users


def test_a_key_that_comes_late_or_not_in_every_file_is_read(tmp_path):
    beat = b'{"user_id": "u", "timestamp": 5}\n'
    (tmp_path / "a.jsonl").write_bytes(beat * 200 + JSONL)
    (tmp_path / "b.jsonl").write_bytes(beat)
    (tmp_path / "c.jsonl").write_bytes(b'{"user_id": "u", "item_')
    items = [row["item_id"] for row in raw_rows(tmp_path, format="jsonl")]
    assert items == [None] * 200 + ["1", None]
    (tmp_path / "a.jsonl").unlink()
    assert "has no column item_id" in refusal(tmp_path, format="jsonl")


@pytest.mark.parametrize("unit", [None, "s"])
def test_string_times_go_with_a_unit_and_without(tmp_path, unit):
    path = write(tmp_path / "log.parquet", {**COLUMNS, "timestamp": ["5", "6"]})
    assert len(inspected(path, time_unit=unit).fragments) == 1
