"""A log that is a Delta table: its versions, its deletes, its deletion vectors."""

import base64
import json
import struct
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs
from diffsasrec.inputs.log_rows import read_fragment
from diffsasrec.tables.versions import pinned
from diffsasrec.times import microseconds

DAY = date(2030, 1, 1)


def events_of(path: Path | str, **more: Any) -> EventsConfig:
    return EventsConfig(table=str(path), table_format="delta", time_unit="s", **more)


def rows(first: int, number: int) -> pa.Table:
    return pa.table(
        {
            "user_id": [f"u{n % 3}" for n in range(number)],
            "item_id": pa.array(range(first, first + number), pa.int64()),
            "timestamp": pa.array([1704067200 + n for n in range(number)], pa.int64()),
            "kind": ["a b", "c/d"] * (number // 2) + ["a b"] * (number % 2),
        }
    )


def write(path: Path | str, table: pa.Table, **more: Any) -> None:
    from deltalake import write_deltalake

    write_deltalake(str(path), table, mode="append", **more)


def items(events: EventsConfig) -> list[int]:
    """The items that a night reads, sorted."""
    events = pinned(events)
    log = inspect_inputs(list_inputs(events, run_date=DAY), events)
    chunks = [chunk.rows for f in log.fragments for chunk in read_fragment(f, events)]
    return sorted(item for chunk in chunks for item in chunk["item_id"].to_pylist())


def num_unread(events: EventsConfig, why: str = "filtered", **more: Any) -> int:
    """The rows of row groups that were not read."""
    events = pinned(events)
    log = inspect_inputs(list_inputs(events, run_date=DAY), events)
    chunks = [chunk for f in log.fragments for chunk in read_fragment(f, events, **more)]
    return sum(c.skipped.get(why, 0) for c in chunks if c.rows["user_id"].type == pa.null())


def commit(path: Path, version: int, *actions: dict[str, Any]) -> None:
    """A version as another writer would leave it."""
    text = "\n".join(map(json.dumps, actions))
    (path / "_delta_log" / f"{version:020}.json").write_text(text)


def deletion_vector(positions: list[int]) -> dict[str, Any]:
    """A vector within the log itself: a portable Roaring bitmap in one container, as Z85."""
    values = struct.pack(f"<{len(positions)}H", *positions)
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(positions) - 1, 16) + values
    data = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    text = z85(data + b"\0" * (-len(data) % 4))
    what = {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data)}
    return {**what, "cardinality": len(positions)}


def z85(data: bytes) -> str:
    """Base 85 with the letters of ZeroMQ in place of Python's own."""
    mine = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    other = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    return base64.b85encode(data).decode().translate(str.maketrans(mine, other))


def test_deleted_rows_do_not_come_back(tmp_path: Path):
    from deltalake import DeltaTable

    write(tmp_path / "t", rows(0, 10))
    write(tmp_path / "t", rows(10, 5))
    DeltaTable(str(tmp_path / "t")).delete("item_id < 3")
    assert items(events_of(tmp_path / "t")) == list(range(3, 15))
    assert items(events_of(tmp_path / "t", table_version=1)) == list(range(15))
    assert items(events_of(tmp_path / "t", table_version=0)) == list(range(10))


def test_rows_of_a_deletion_vector_do_not_come_back(tmp_path: Path):
    from deltalake import DeltaTable

    path = tmp_path / "t"
    write(path, rows(0, 10), configuration={"delta.enableDeletionVectors": "true"})
    write(path, rows(10, 5))
    before = list_inputs(pinned(events_of(path)), run_date=DAY)
    actions = [pa.table(DeltaTable(str(path)).get_add_actions()).to_pylist()]
    (old,) = [one for one in actions[0] if one["num_records"] == 10]
    common = {"path": old["path"], "partitionValues": {}, "dataChange": True}
    stamp = {"size": old["size_bytes"], "modificationTime": 1704067200000}
    stamp["stats"] = json.dumps({"numRecords": 10})
    commit(
        path,
        2,
        {"remove": {**common, "deletionTimestamp": 1704067200000}},
        {"add": {**common, **stamp, "deletionVector": deletion_vector([0, 4, 9])}},
    )
    assert items(events_of(path)) == [1, 2, 3, 5, 6, 7, 8, *range(10, 15)]
    assert num_unread(events_of(path, where=["item_id >= 10"])) == 7
    assert num_unread(events_of(path, where=["item_id >= 5"])) == 0
    after = list_inputs(pinned(events_of(path)), run_date=DAY)
    assert [file.path for file in before] == [file.path for file in after]
    assert len({file.version for file in before} & {file.version for file in after}) == 1


def test_partitions_with_any_value_are_read(tmp_path: Path):
    write(tmp_path / "t", rows(0, 10), partition_by=["kind"])
    assert items(events_of(tmp_path / "t")) == list(range(10))


def test_a_column_that_only_partitions_have_is_read_from_them(tmp_path: Path):
    write(tmp_path / "t", rows(0, 10), partition_by=["kind"])
    assert items(events_of(tmp_path / "t", user_column="kind")) == list(range(10))
    assert items(events_of(tmp_path / "t", where=["kind = c/d"])) == [1, 3, 5, 7, 9]
    assert num_unread(events_of(tmp_path / "t", where=["kind = c/d"])) == 5
    types = {"a b": {"target": True}, "c/d": {"weight": 0.5}}
    assert items(events_of(tmp_path / "t", type_column="kind", types=types)) == list(range(10))


def test_the_day_of_a_partition_may_be_the_time(tmp_path: Path):
    days = [date(2024, 1, 1 + n // 5) for n in range(10)]
    table = rows(0, 10).drop_columns(["timestamp"]).append_column("day", pa.array(days))
    write(tmp_path / "t", table, partition_by=["day"])
    events = EventsConfig(table=str(tmp_path / "t"), table_format="delta", time_column="day")
    assert items(events) == list(range(10))
    assert num_unread(events, "before_lookback", after=microseconds("2024-01-02")) == 5


def test_a_column_that_is_younger_than_a_file_is_null_in_it(tmp_path: Path):
    write(tmp_path / "t", rows(0, 4).drop_columns(["kind"]))
    write(tmp_path / "t", rows(10, 4), schema_mode="merge")
    assert items(events_of(tmp_path / "t", where=["kind is null"])) == [0, 1, 2, 3]
    assert items(events_of(tmp_path / "t", where=["kind = a b"])) == [10, 12]
    assert items(events_of(tmp_path / "t")) == [0, 1, 2, 3, 10, 11, 12, 13]
    with pytest.raises(InputDataError, match=r"has no column kind \(events.user_column\)"):
        items(events_of(tmp_path / "t", user_column="kind"))


def renamed(number: int, name: str, kind: str) -> dict[str, Any]:
    """A column of a table that its files call c1, c2, ..."""
    mapping = {"id": number, "physicalName": f"c{number}"}
    metadata = {f"delta.columnMapping.{key}": value for key, value in mapping.items()}
    return {"name": name, "type": kind, "nullable": True, "metadata": metadata}


def test_a_renamed_column_is_found_by_its_name_in_the_files(tmp_path: Path):
    path = tmp_path / "t"
    (path / "_delta_log").mkdir(parents=True)
    pq.write_table(rows(0, 4).rename_columns(["c1", "c2", "c3", "c4"]), path / "one.parquet")
    columns = [("user_id", "string"), ("item_id", "long"), ("timestamp", "long")]
    fields = [renamed(n, *column) for n, column in enumerate(columns, 1)]
    metadata = {
        "id": "7b8b0a1c-6c9e-4f0e-9d0c-000000000000",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": [],
        "configuration": {"delta.columnMapping.mode": "name"},
    }
    size = (path / "one.parquet").stat().st_size
    add = {"path": "one.parquet", "partitionValues": {}, "size": size, "dataChange": True}
    commit(
        path,
        0,
        {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}},
        {"metaData": metadata},
        {"add": {**add, "modificationTime": 1704067200000}},
    )
    assert items(events_of(path)) == list(range(4))
    assert num_unread(events_of(path, where=["item_id > 3"])) == 4


def test_a_version_that_is_not_there_and_a_directory_without_a_log_are_named(tmp_path: Path):
    write(tmp_path / "t", rows(0, 10))
    with pytest.raises(ConfigError, match=r"events.table=.*/t can't be opened"):
        items(events_of(tmp_path / "t", table_version=9))
    with pytest.raises(ConfigError, match=r"/none is no Delta table"):
        items(events_of(tmp_path / "none"))


def test_a_table_without_rows_is_no_log(tmp_path: Path):
    from deltalake import DeltaTable

    write(tmp_path / "t", rows(0, 10))
    DeltaTable(str(tmp_path / "t")).delete()
    with pytest.raises(InputDataError, match="holds no row at version 1"):
        items(events_of(tmp_path / "t"))


def test_a_table_in_a_store_is_read_with_the_credentials_of_the_log(tmp_path: Path, s3: str):
    write(tmp_path / "t", rows(0, 10))
    store = Storage.of(f"{s3}/{tmp_path.name}")
    for file in (tmp_path / "t").rglob("*"):
        if file.is_file():
            store.write_bytes(f"t/{file.relative_to(tmp_path / 't')}", file.read_bytes())
    assert items(events_of(f"{s3}/{tmp_path.name}/t")) == list(range(10))


def test_a_table_in_a_store_that_is_not_read_is_refused_in_words():
    for table, says in {
        "gs://bucket/t": "gs:// is not read; copy the files",
        "abfss://c@account.dfs.core.windows.net/t": "abfss:// is not read",
        "s3a://bucket/t": "write it as s3://bucket/t",
    }.items():
        with pytest.raises(ConfigError, match=f"events.table={table}: {says}"):
            pinned(events_of(table))


# --- the configuration ---


def test_a_log_lies_in_one_place():
    for settings in ({}, {"path": "log", "table": "a.b"}):
        with pytest.raises(ValueError, match=r"events.path"):
            EventsConfig(**settings)
    with pytest.raises(ValueError, match=r"events.table_version=3 needs events.table"):
        EventsConfig(path="log", table_version=3)
    with pytest.raises(ValueError, match=r"are for the files of events.path"):
        EventsConfig(table="a.b", partition_column="dt")


def test_a_secret_among_the_properties_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match=r"events.table_properties.s3.secret-key") as caught:
        EventsConfig(table="a.b", table_properties={"s3": {"secret-key": "sesame"}})
    assert "sesame" not in str(caught.value).split("[type=")[0]
