"""The Iceberg table follows the chain: one snapshot per change, on a real catalog in SQLite."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import yaml
from catalogs import catalog_of, settings_in
from published import Published

import jobs.publish
from diffsasrec.config.load import load_config
from diffsasrec.config.serving import IcebergConfig
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import append_entry, append_rollback, newest_by_date, read_chain
from diffsasrec.lake.iceberg_sync import check_entry, follow_chain
from diffsasrec.lake.iceberg_table import load_table
from diffsasrec.lake.manifest import manifest_for
from diffsasrec.lake.prune import prune
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.schema import recommendations_schema
from jobs.faults.rig.nights import Nights, run_dir, tiny_config

DAY, NEXT_DAY = "2024-03-01", "2024-03-02"
SCHEMA = recommendations_schema(pa.int64(), pa.string())


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path / "lake"))


@pytest.fixture
def settings(tmp_path: Path) -> IcebergConfig:
    return settings_in(tmp_path / "catalog")


def publish(lake: Storage, run_id: str, ds: str = DAY, attempt: str = "first") -> RunDir:
    """A run of two users in two parts, with an entry in the chain; items are called as the run."""
    run = RunDir(lake, ds=ds, run_id=run_id, identity="i", attempt=attempt)
    files = []
    for number in range(2):
        row = {"user_id": number, "items": [{"item_id": run_id, "score": -1.5, "rank": 1}]}
        row |= {"source": "model", "history_len": 3, "model_version": "v"}
        part = pa.Table.from_pylist([row], SCHEMA)
        files.append(run.storage.write_table(f"recommendations/part-{number:05d}.parquet", part))
    _, digest = manifest_for(run, {"files": files, "model_version": "v"})
    append_entry(lake, run, digest)
    return run


def table_of(settings: IcebergConfig):
    return catalog_of(settings).load_table("shop.lists")


def shown(settings: IcebergConfig, snapshot_id: int | None = None) -> dict[str, set[str]]:
    """The items of each date, as pyiceberg reads them."""
    rows = table_of(settings).scan(snapshot_id=snapshot_id).to_arrow().to_pylist()
    dates: dict[str, set[str]] = {}
    for row in rows:
        dates.setdefault(str(row["ds"]), set()).update(i["item_id"] for i in row["items"])
    return dates


def num_snapshots(settings: IcebergConfig) -> int:
    return len(table_of(settings).metadata.snapshots)


def test_a_run_becomes_one_snapshot_that_names_it(lake: Storage, settings: IcebergConfig):
    publish(lake, "r1")
    assert follow_chain(lake, settings, ds=DAY) == [DAY]
    rows = table_of(settings).scan().to_arrow()
    assert rows["user_id"].to_pylist() == [0, 1]
    assert rows["items"].to_pylist()[0] == [{"item_id": "r1", "score": -1.5, "rank": 1}]
    assert rows["ds"].to_pylist() == [date(2024, 3, 1)] * 2
    (snapshot,) = table_of(settings).metadata.snapshots
    origin = snapshot.summary.additional_properties
    assert {k: v for k, v in origin.items() if k.startswith("diffsasrec.")} == {
        "diffsasrec.run_id": "r1",
        "diffsasrec.ds": DAY,
        "diffsasrec.chain_number": "1",
    }


def test_other_readers_find_plain_parquet_behind_the_scan(lake: Storage, settings: IcebergConfig):
    publish(lake, "r1")
    follow_chain(lake, settings, ds=DAY)
    plan = table_of(settings).scan(row_filter=f"ds == '{DAY}'").plan_files()
    paths = [task.file.file_path.removeprefix("file://") for task in plan]
    query = "select user_id, unnest(items, recursive := true), ds from read_parquet($1) order by 1"
    rows = duckdb.execute(query, [paths]).fetchall()
    assert rows == [(user, "r1", -1.5, 1, date(2024, 3, 1)) for user in (0, 1)]


def test_the_same_run_again_changes_nothing(lake: Storage, settings: IcebergConfig):
    publish(lake, "r1")
    follow_chain(lake, settings, ds=DAY)
    before = table_of(settings).metadata_location
    publish(lake, "r1", attempt="second")
    assert follow_chain(lake, settings, ds=DAY) == []
    assert table_of(settings).metadata_location == before


def test_another_run_replaces_its_date_alone_and_no_snapshot_is_mixed(
    lake: Storage, settings: IcebergConfig
):
    for run_id, ds in (("r1", DAY), ("r2", NEXT_DAY), ("r3", DAY)):
        publish(lake, run_id, ds)
        follow_chain(lake, settings, ds=ds)
    history = [entry.snapshot_id for entry in table_of(settings).history()]
    assert [shown(settings, snapshot_id) for snapshot_id in history] == [
        {DAY: {"r1"}},
        {DAY: {"r1"}, NEXT_DAY: {"r2"}},
        {DAY: {"r3"}, NEXT_DAY: {"r2"}},
    ]


def test_what_ended_between_chain_and_table_is_finished_by_the_same_command(
    lake: Storage, settings: IcebergConfig, monkeypatch
):
    publish(lake, "r1")
    follow_chain(lake, settings, ds=DAY)
    publish(lake, "r2")

    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("pyiceberg.catalog.sql.SqlCatalog.commit_table", full_disk)
        with pytest.raises(InfrastructureError, match=r"No space left .* run the same command"):
            follow_chain(lake, settings, ds=DAY)
    assert shown(settings) == {DAY: {"r1"}}
    publish(lake, "r2", attempt="second")
    assert follow_chain(lake, settings, ds=DAY) == [DAY]
    assert shown(settings) == {DAY: {"r2"}}


def test_who_publishes_next_finishes_it_too(lake: Storage, settings: IcebergConfig):
    publish(lake, "r1")
    follow_chain(lake, settings, ds=DAY)
    publish(lake, "r2")  # and ended here
    publish(lake, "r3", NEXT_DAY)
    assert follow_chain(lake, settings, ds=NEXT_DAY) == [DAY, NEXT_DAY]
    assert shown(settings) == {DAY: {"r2"}, NEXT_DAY: {"r3"}}


def test_a_new_table_starts_with_the_night_that_made_it(lake: Storage, settings: IcebergConfig):
    publish(lake, "r1")
    publish(lake, "r2", NEXT_DAY)
    assert follow_chain(lake, settings, ds=NEXT_DAY) == [NEXT_DAY]
    assert shown(settings) == {NEXT_DAY: {"r2"}}


def test_an_older_run_that_comes_late_does_not_win(lake: Storage, settings: IcebergConfig):
    publish(lake, "r1")
    publish(lake, "r2")
    follow_chain(lake, settings, ds=DAY)
    publish(lake, "r1", attempt="second")
    assert follow_chain(lake, settings, ds=DAY) == []
    assert shown(settings) == {DAY: {"r2"}}


def test_a_rollback_puts_the_partition_back(lake: Storage, settings: IcebergConfig):
    for run_id in ("r1", "r2"):
        publish(lake, run_id)
        follow_chain(lake, settings, ds=DAY)
    check_entry(lake, settings, 1)
    entry = append_rollback(lake, 1, attempt="third")
    assert follow_chain(lake, settings, ds=entry.ds) == [DAY]
    assert shown(settings) == {DAY: {"r1"}}
    origin = table_of(settings).current_snapshot().summary.additional_properties
    assert origin["diffsasrec.chain_number"] == "3"
    prune(lake, keep=1, grace=0)
    with pytest.raises(ConfigError, match="pruned"):
        append_rollback(lake, 2, attempt="fourth")


def test_a_rollback_is_refused_before_the_chain_when_the_table_does_not_fit(
    lake: Storage, settings: IcebergConfig
):
    publish(lake, "r1")
    load_table(settings, pa.string(), pa.string(), create=True)
    with pytest.raises(ConfigError, match="user_id is large_string, not int64"):
        check_entry(lake, settings, 1)


def commit_of_another(settings: IcebergConfig) -> None:
    """Another writer's commit to another date."""
    table = table_of(settings)
    row = {"user_id": 9, "items": [], "ds": date(2020, 1, 1)}
    fields = [SCHEMA.field("user_id"), SCHEMA.field("items"), pa.field("ds", pa.date32())]
    small = pa.Table.from_pylist([row], pa.schema(fields))
    ranks = table.schema().as_arrow()
    table.append(small.cast(pa.schema([ranks.field(name) for name in small.column_names])))


@pytest.mark.parametrize("times", [2, 100])
def test_a_faster_commit_of_another_is_seen_and_bears_so_many_repeats(
    lake: Storage, settings: IcebergConfig, monkeypatch, times: int
):
    publish(lake, "r1")
    load_table(settings, pa.int64(), pa.string(), create=True)
    monkeypatch.setattr("diffsasrec.lake.iceberg_sync.PAUSE", 0)  # seconds that no test waits for
    from pyiceberg.catalog.sql import SqlCatalog

    commit, left = SqlCatalog.commit_table, [times]

    def meets_another(self, *arguments, **named):
        with monkeypatch.context() as plain:
            plain.setattr(SqlCatalog, "commit_table", commit)
            if left[0] > 0:
                left[0] -= 1
                commit_of_another(settings)
            return commit(self, *arguments, **named)

    monkeypatch.setattr(SqlCatalog, "commit_table", meets_another)  # commits for real, too
    if times > 6:
        with pytest.raises(InfrastructureError, match="6 commits of 2024-03-01"):
            follow_chain(lake, settings, ds=DAY)
        assert DAY not in shown(settings)
    else:
        assert follow_chain(lake, settings, ds=DAY) == [DAY]
        rows = table_of(settings).scan().to_arrow()
        assert sorted(rows["user_id"].to_pylist()) == [0, 1, 9, 9]
    assert "commit.retry.num-retries" not in table_of(settings).properties


def test_publishers_at_once_leave_what_the_chain_says(lake: Storage, settings: IcebergConfig):
    load_table(settings, pa.int64(), pa.string(), create=True)

    def night(number: int) -> None:
        run = publish(lake, f"r{number}", (DAY, NEXT_DAY)[number % 2])
        follow_chain(lake, settings, ds=run.ds)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(night, range(4)))
    newest = newest_by_date(read_chain(lake))
    assert shown(settings) == {ds: {entry.run_id} for ds, entry in newest.items()}


def test_a_partition_that_another_has_emptied_is_filled_again(
    lake: Storage, settings: IcebergConfig
):
    publish(lake, "r1")
    follow_chain(lake, settings, ds=DAY)
    table_of(settings).delete(f"ds == '{DAY}'")
    assert follow_chain(lake, settings, ds=DAY) == [DAY]
    assert shown(settings) == {DAY: {"r1"}}


def test_a_part_that_was_changed_after_publishing_is_not_committed(
    lake: Storage, settings: IcebergConfig
):
    run = publish(lake, "r1")
    path = "recommendations/part-00001.parquet"
    part = run.storage.read_table(path)
    run.storage.write_table(path, pa.concat_tables([part, part]))
    with pytest.raises(InfrastructureError, match=r"part-00001\.parquet is not what its manifest"):
        follow_chain(lake, settings, ds=DAY)
    assert num_snapshots(settings) == 0


def test_files_of_an_earlier_partitioning_are_refused(lake: Storage, settings: IcebergConfig):
    from pyiceberg.transforms import IdentityTransform

    publish(lake, "r1")
    table = load_table(settings, pa.int64(), pa.string(), create=True)
    assert table is not None
    with table.update_spec() as update:
        update.remove_field("ds")
    table.append(pa.table({"ds": [date(2024, 3, 1), date(2024, 3, 2)]}))
    with table.update_spec() as update:
        update.add_field("ds", IdentityTransform(), "ds")
    with pytest.raises(ConfigError, match="earlier partitioning"):
        follow_chain(lake, settings, ds=DAY)


@pytest.mark.process
def test_a_rollback_from_the_command_line_puts_the_partition_back(
    lake: Storage, settings: IcebergConfig, tmp_path: Path
):
    for run_id in ("r1", "r2"):
        publish(lake, run_id)
        follow_chain(lake, settings, ds=DAY)
    config = tiny_config("no-log.parquet", lake.root) | {"iceberg": settings.model_dump()}
    rollback = ("--rollback-to", "1")
    code, last, log = Nights(tmp_path, {}).run(config, *rollback, date=None, job="publish")
    assert (code, last["counts"]) == (0, {"chain_number": 3}), log
    assert shown(settings) == {DAY: {"r1"}}


@pytest.mark.night
def test_a_night_publishes_to_the_table_too(
    published: Published, settings: IcebergConfig, tmp_path: Path
):
    values, lake = published.copied(tmp_path / "lake", before="publish")
    directory = run_dir(lake, "calm")
    config = load_config(yaml.safe_dump(values | {"iceberg": settings.model_dump()}))
    identity = json.loads((directory / "_stages/score.json").read_text())["identity"]
    run = RunDir(Storage.of(config.lake), DAY, "calm", identity, "first")
    assert jobs.publish.main(config, run).counts == {"rows": 60, "chain_number": 1}
    assert table_of(settings).scan().to_arrow().num_rows == 60
