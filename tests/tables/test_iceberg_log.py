"""A log that is an Iceberg table: its snapshots, its deletes, its renamed columns."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs
from diffsasrec.inputs.log_rows import read_fragment
from diffsasrec.tables.versions import pinned
from diffsasrec.times import microseconds

DAY = date(2030, 1, 1)


def events_of(directory: Path, **more: Any) -> EventsConfig:
    properties = {"type": "sql", "uri": f"sqlite:///{directory}/catalog.db"}
    properties["warehouse"] = f"file://{directory}/warehouse"
    return EventsConfig(
        table="shop.events", table_catalog="test", table_properties=properties, **more
    )


def rows(first: int, number: int) -> pa.Table:
    moments = [datetime(2024, 1, 1, n // 60, n % 60, tzinfo=UTC) for n in range(number)]
    return pa.table(
        {
            "user_id": pa.array([f"u{n % 3}" for n in range(number)]),
            "item_id": pa.array(range(first, first + number), pa.int64()),
            "timestamp": pa.array(moments, pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """A table with the items 0..9 in one file and 10..14 in another."""
    from pyiceberg.catalog import load_catalog

    settings = events_of(tmp_path)
    catalog = load_catalog("test", **settings.table_properties)
    catalog.create_namespace("shop")
    made = catalog.create_table("shop.events", rows(0, 1).schema)
    made.append(rows(0, 10))
    made.append(rows(10, 5))
    return made


def delete_rows(table: Any, directory: Path, positions: list[int], **other: Any) -> None:
    """Deletes rows of the file with ten rows by their positions, as merge-on-read writers do."""
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.typedef import Record

    (file,) = [t.file for t in table.scan().plan_files() if t.file.record_count == 10]
    path = directory / f"deletes-{len(positions)}.parquet"
    pq.write_table(
        pa.table({"file_path": [file.file_path] * len(positions), "pos": positions}), path
    )
    what = {"content": DataFileContent.POSITION_DELETES, "file_format": FileFormat.PARQUET, **other}
    nothing = ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts")
    deletes = DataFile.from_args(
        file_path=f"file://{path}",
        partition=Record(),
        record_count=len(positions),
        file_size_in_bytes=os.path.getsize(path),
        spec_id=0,
        **{name: {} for name in (*nothing, "lower_bounds", "upper_bounds")},
        **what,
    )
    with table.transaction() as change, change.update_snapshot().fast_append() as append:
        append.append_data_file(deletes)


def items(events: EventsConfig) -> list[int]:
    """The items that a night reads, sorted."""
    return sorted(item for chunk in chunks(events) for item in chunk["item_id"].to_pylist())


def chunks(events: EventsConfig) -> Iterator[pa.Table]:
    events = pinned(events)
    log = inspect_inputs(list_inputs(events, run_date=DAY), events)
    for fragment in log.fragments:
        yield from (chunk.rows for chunk in read_fragment(fragment, events))


def left_out(events: EventsConfig, **more: Any) -> Counter[str]:
    """The rows of row groups that were not read, by the reason."""
    events = pinned(events)
    log = inspect_inputs(list_inputs(events, run_date=DAY), events)
    found = [chunk for f in log.fragments for chunk in read_fragment(f, events, **more)]
    unread = [chunk.skipped for chunk in found if chunk.rows["user_id"].type == pa.null()]
    return sum(map(Counter, unread), Counter())


def test_every_row_of_the_newest_snapshot_is_read(table: Any, tmp_path: Path):
    assert items(events_of(tmp_path)) == list(range(15))


def test_deleted_rows_do_not_come_back(table: Any, tmp_path: Path):
    delete_rows(table, tmp_path, [0, 4])
    delete_rows(table, tmp_path, [4, 9, 1])
    assert items(events_of(tmp_path)) == [2, 3, 5, 6, 7, 8, *range(10, 15)]


def test_a_delete_of_a_row_in_a_later_row_group_finds_it(table: Any, tmp_path: Path):
    (file,) = [t.file for t in table.scan().plan_files() if t.file.record_count == 10]
    path = file.file_path.removeprefix("file://")
    pq.write_table(pq.read_table(path), path, row_group_size=4)
    delete_rows(table, tmp_path, [3, 4, 8])
    assert items(events_of(tmp_path)) == [0, 1, 2, 5, 6, 7, 9, *range(10, 15)]


def test_row_groups_without_a_row_that_counts_are_not_read_and_their_rows_are_counted(
    table: Any, tmp_path: Path
):
    (file,) = [t.file for t in table.scan().plan_files() if t.file.record_count == 10]
    path = file.file_path.removeprefix("file://")
    whole = pq.ParquetFile(path).read()  # with the ids of its columns
    pq.write_table(whole, path, row_group_size=4)  # minutes 0-3, 4-7, 8-9
    delete_rows(table, tmp_path, [0, 5])
    with table.update_schema() as change:
        change.rename_column("item_id", "sku")
    table.append(rows(7, 1).rename_columns(["user_id", "sku", "timestamp"]))
    events = events_of(tmp_path, item_column="sku", where=["sku < 8"])
    assert left_out(events) == {"filtered": 2 + 5}
    assert items(events) == [1, 2, 3, 4, 6, 7, 7]
    after = microseconds("2024-01-01T00:08")
    events = events_of(tmp_path, item_column="sku")
    assert left_out(events, after=after) == {"before_lookback": 3 + 3 + 5 + 1}
    assert left_out(events, after=microseconds("2024-01-01")) == {}


def test_an_older_snapshot_has_the_rows_of_its_time(table: Any, tmp_path: Path):
    first, second = [one.snapshot_id for one in table.snapshots()]
    delete_rows(table, tmp_path, [0])
    assert items(events_of(tmp_path, table_version=first)) == list(range(10))
    assert items(events_of(tmp_path, table_version=second)) == list(range(15))


def test_the_newest_snapshot_is_pinned_when_a_night_begins(table: Any, tmp_path: Path):
    events = pinned(events_of(tmp_path))
    assert events.table_version == table.current_snapshot().snapshot_id
    table.append(rows(15, 1))
    assert items(events) == list(range(15))
    assert pinned(events) == events


def test_a_file_is_another_input_once_rows_of_it_are_deleted(table: Any, tmp_path: Path):
    events = events_of(tmp_path)
    before = list_inputs(pinned(events), run_date=DAY)
    delete_rows(table, tmp_path, [0])
    after = list_inputs(pinned(events), run_date=DAY)
    assert [file.path for file in before] == [file.path for file in after]
    assert [a.version == b.version for a, b in zip(before, after, strict=True)].count(False) >= 1


def test_a_renamed_column_is_found_in_files_of_before(table: Any, tmp_path: Path):
    with table.update_schema() as change:
        change.rename_column("item_id", "sku")
    table.append(rows(20, 1).rename_columns(["user_id", "sku", "timestamp"]))
    assert items(events_of(tmp_path, item_column="sku")) == [*range(15), 20]
    with pytest.raises(InputDataError, match=r"has no column item_id \(events.item_column\)"):
        items(events_of(tmp_path))


def test_a_dropped_column_does_not_answer_to_the_name_of_a_new_one(table: Any, tmp_path: Path):
    from pyiceberg.types import LongType

    with table.update_schema() as change:
        change.delete_column("item_id")
    with table.update_schema() as change:
        change.add_column("item_id", LongType())
    table.append(rows(20, 1).select(["user_id", "timestamp", "item_id"]))
    with pytest.raises(InputDataError, match=r"has no column item_id .*item_id \(dropped\)"):
        items(events_of(tmp_path))


def test_a_column_that_is_younger_than_a_file_is_null_in_it(table: Any, tmp_path: Path):
    from pyiceberg.types import StringType

    with table.update_schema() as change:
        change.add_column("kind", StringType())
    table.append(rows(20, 2).append_column("kind", pa.array(["buy", "view"])))
    assert items(events_of(tmp_path, where=["kind = buy"])) == [20]
    assert items(events_of(tmp_path, where=["kind is null"])) == list(range(15))


def test_a_column_that_only_a_partition_has_is_read_from_it(table: Any, tmp_path: Path):
    with table.update_spec() as change:
        change.add_identity("user_id")
    table.append(rows(20, 3))
    for task in table.scan().plan_files():
        if task.file.record_count == 1:  # as Hive has written files that were added to a table
            path = task.file.file_path.removeprefix("file://")
            pq.write_table(pq.ParquetFile(path).read().drop_columns(["user_id"]), path)
    assert items(events_of(tmp_path)) == [*range(15), 20, 21, 22]
    found = {user for chunk in chunks(events_of(tmp_path)) for user in chunk["user_id"].to_pylist()}
    assert found == {"u0", "u1", "u2"}
    assert items(events_of(tmp_path, where=["user_id = u1", "item_id > 15"])) == [21]


def test_equality_deletes_are_refused(table: Any, tmp_path: Path):
    from pyiceberg.manifest import DataFileContent

    delete_rows(table, tmp_path, [0], content=DataFileContent.EQUALITY_DELETES, equality_ids=[1])
    with pytest.raises(InputDataError, match=r"events.table=shop.events has equality deletes"):
        items(events_of(tmp_path))


def test_deletion_vectors_are_refused(table: Any, tmp_path: Path):
    from pyiceberg.manifest import FileFormat

    delete_rows(table, tmp_path, [0], file_format=FileFormat.PUFFIN)
    with pytest.raises(InputDataError, match=r"deletes-1.parquet, .* is PUFFIN: .* come back"):
        items(events_of(tmp_path))


def test_a_file_of_deletes_that_is_gone_ends_the_night(table: Any, tmp_path: Path):
    delete_rows(table, tmp_path, [0])
    (tmp_path / "deletes-1.parquet").unlink()
    with pytest.raises(InputDataError, match=r"deletes-1.parquet, a file of deleted rows, can't"):
        items(events_of(tmp_path))


def test_a_table_or_snapshot_that_is_not_there_is_named(table: Any, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"events.table_version=7: .* has no such snapshot"):
        items(events_of(tmp_path, table_version=7))
    events = events_of(tmp_path).model_copy(update={"table": "shop.none"})
    with pytest.raises(ConfigError, match=r"events.table=shop.none: catalog test has no such"):
        items(events)


def test_a_catalog_that_can_t_be_reached_is_named_without_its_password(monkeypatch):
    uri = "http://user:sesame@127.0.0.1:9/catalog"
    monkeypatch.setenv("PYICEBERG_CATALOG__AWAY__URI", uri)
    events = EventsConfig(table="a.b", table_catalog="away", table_properties={"type": "rest"})
    with pytest.raises(ConfigError, match=r"events.table=a.b can't be opened") as caught:
        pinned(events)
    assert "sesame" not in str(caught.value)


def test_a_table_without_a_snapshot_has_no_events(tmp_path: Path):
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("test", **events_of(tmp_path).table_properties)
    catalog.create_namespace("shop")
    catalog.create_table("shop.events", rows(0, 1).schema)
    with pytest.raises(InputDataError, match="has no snapshot, and so no row"):
        pinned(events_of(tmp_path))


def test_without_pyiceberg_the_extra_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiceberg", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffsasrec\[iceberg\]'"):
        pinned(events_of(tmp_path))


def test_rows_that_are_older_than_a_column_have_its_default(table: Any, tmp_path: Path):
    from pyiceberg.types import StringType

    with table.update_schema() as schema:
        schema.add_column("kind", StringType(), default_value="buy")
    table.append(rows(20, 2).append_column("kind", pa.array(["buy", "view"])))
    assert items(events_of(tmp_path, where=["kind = buy"])) == [*range(15), 20]
