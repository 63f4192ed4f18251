"""The copy that consumers read: whole at every moment, whatever happens beside or before it."""

import json
import os
from pathlib import Path

import pytest
from lakes import (
    DAY,
    LONG,
    NEXT_DAY,
    append,
    made,
    meanwhile,
    missing,
    parts,
    run_of,
    shown,
    snapshot,
    success,
)

from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import FileInfo, Storage, sha256
from diffsasrec.lake.chain import (
    CHAIN,
    append_rollback,
    read_chain,
)
from diffsasrec.lake.consumer_copy import copy_to_lake, number_of, settle
from diffsasrec.lake.run_dir import run_path


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


# --- the copy ---


def test_a_copy_shows_the_parts_and_success(lake: Storage):
    copy_to_lake(lake, made(lake, "r1"))
    assert shown(lake) == ["_SUCCESS", *parts("r1", 1)]


def test_success_says_what_is_shown(lake: Storage):
    copy_to_lake(lake, made(lake, "r1"))
    content = success(lake)
    assert [file["path"] for file in content.pop("files")] == parts("r1", 1)
    assert content == {"ds": DAY, "run_id": "r1", "rows": 3, "model_version": "model of r1"}


def test_the_files_of_success_have_the_rows_and_bytes_it_names(lake: Storage):
    copy_to_lake(lake, made(lake, "r1"))
    for file, rows in zip(success(lake)["files"], (2, 1), strict=True):
        path = f"recommendations/ds={DAY}/{file['path']}"
        assert file["sha256"] == sha256(lake.read_bytes(path))
        assert file["rows"] == lake.read_table(path).num_rows == rows


def test_settling_an_empty_lake_does_nothing(lake: Storage):
    assert settle(lake, grace=0) == []
    assert lake.list() == []


def test_settling_copies_where_nothing_was_copied(lake: Storage):
    made(lake, "r1")
    assert settle(lake, grace=0) == [DAY]
    assert shown(lake) == ["_SUCCESS", *parts("r1", 1)]


@pytest.mark.parametrize("lost", [["_SUCCESS"], ["_SUCCESS", "part-r1-00000001-00001.parquet"]])
def test_settling_finishes_a_copy_that_was_interrupted(lake: Storage, lost: list[str]):
    copy_to_lake(lake, made(lake, "r1"))
    whole = success(lake)
    lake.delete([f"recommendations/ds={DAY}/{name}" for name in lost])
    assert settle(lake, grace=0) == [DAY]
    assert shown(lake) == ["_SUCCESS", *parts("r1", 1)]
    assert success(lake) == whole


def test_settling_finishes_a_replacement_that_was_interrupted(lake: Storage):
    copy_to_lake(lake, made(lake, "r1"))
    made(lake, "r2")
    source = f"{run_of(lake, 'r2').path}/recommendations/part-00000.parquet"
    lake.copy(source, f"recommendations/ds={DAY}/part-r2-00000002-00000.parquet")
    assert success(lake)["run_id"] == "r1"
    assert settle(lake, grace=0) == [DAY]
    assert shown(lake) == ["_SUCCESS", *parts("r2", 2)]


def test_success_names_the_old_parts_until_all_new_ones_are_there(lake: Storage):
    copy_to_lake(lake, made(lake, "r1"))
    entry = made(lake, "r2")
    lake.delete([f"{run_of(lake, 'r2').path}/recommendations/part-00001.parquet"])
    with pytest.raises(FileNotFoundError):  # what a copy that dies halfway leaves behind
        copy_to_lake(lake, entry)
    assert success(lake)["run_id"] == "r1"
    assert shown(lake) == ["_SUCCESS", *parts("r1", 1), "part-r2-00000002-00000.parquet"]


def test_settling_shows_every_date(lake: Storage):
    made(lake, "r1", DAY)
    made(lake, "r2", NEXT_DAY)
    assert settle(lake, grace=0) == [DAY, NEXT_DAY]
    assert shown(lake, DAY) == ["_SUCCESS", *parts("r1", 1)]
    assert shown(lake, NEXT_DAY) == ["_SUCCESS", *parts("r2", 2)]


def test_settling_twice_changes_nothing(lake: Storage):
    for run_id, ds in (("r1", DAY), ("r2", DAY), ("r3", NEXT_DAY)):
        made(lake, run_id, ds)
        settle(lake, grace=0)
    before = snapshot(lake)
    assert settle(lake, grace=0) == []
    assert snapshot(lake) == before


def test_a_second_publication_of_a_date_replaces_the_first(lake: Storage):
    for run_id in ("r1", "r2"):
        made(lake, run_id)
        settle(lake, grace=0)
    assert success(lake)["run_id"] == "r2"
    assert shown(lake) == ["_SUCCESS", *parts("r2", 2)]


def test_a_replacement_with_fewer_parts_leaves_none_of_the_old(lake: Storage):
    copy_to_lake(lake, made(lake, "r1", rows=(2, 1)))
    copy_to_lake(lake, made(lake, "r2", rows=(3,)))
    settle(lake, grace=0)
    assert shown(lake) == ["_SUCCESS", "part-r2-00000002-00000.parquet"]


def test_replaced_parts_stay_during_the_grace_time(lake: Storage):
    for run_id in ("r1", "r2"):
        made(lake, run_id)
        settle(lake, grace=LONG)
    assert success(lake)["run_id"] == "r2"
    assert shown(lake) == ["_SUCCESS", *parts("r1", 1), *parts("r2", 2)]


def test_replaced_parts_go_once_the_grace_time_is_over(lake: Storage):
    for run_id in ("r1", "r2"):
        made(lake, run_id)
        settle(lake, grace=LONG)
    assert settle(lake, grace=0) == []
    assert shown(lake) == ["_SUCCESS", *parts("r2", 2)]


def test_the_grace_time_counts_from_the_replacement(lake: Storage, tmp_path: Path):
    for run_id in ("r1", "r2"):
        copy_to_lake(lake, made(lake, run_id))
    path = tmp_path / f"recommendations/ds={DAY}/_SUCCESS"
    hour_ago = path.stat().st_mtime - 3600
    os.utime(path, (hour_ago, hour_ago))
    settle(lake, grace=4000)
    assert shown(lake) == ["_SUCCESS", *parts("r1", 1), *parts("r2", 2)]
    settle(lake, grace=3000)
    assert shown(lake) == ["_SUCCESS", *parts("r2", 2)]


def test_the_grace_time_counts_from_a_replacement_that_happens_after_the_listing(
    lake: Storage, tmp_path: Path
):
    published(lake, "r1")
    os.utime(tmp_path / f"recommendations/ds={DAY}/_SUCCESS", (0, 0))
    entry = made(lake, "r2")
    for number in (0, 1):  # another publisher is about to replace _SUCCESS
        source = f"{run_of(lake, 'r2').path}/recommendations/part-{number:05d}.parquet"
        lake.copy(source, f"recommendations/ds={DAY}/{parts('r2', 2)[number]}")
    chains = []

    class Slow(Storage):
        def list(self, directory: str = "") -> list[FileInfo]:
            chains.extend([directory] * (directory == CHAIN))
            if len(chains) == 2:  # the second is read after the date was listed
                copy_to_lake(lake, entry)
                chains.append("")
            return super().list(directory)

    assert settle(Slow(lake.root), grace=3600) == []
    assert shown(lake) == ["_SUCCESS", *parts("r1", 1), *parts("r2", 2)]


def test_parts_of_a_run_that_never_was_shown_go_too(lake: Storage):
    copy_to_lake(lake, made(lake, "r1"))
    lake.delete([f"recommendations/ds={DAY}/_SUCCESS"])
    made(lake, "r2")
    settle(lake, grace=0)
    assert shown(lake) == ["_SUCCESS", *parts("r2", 2)]


def published(lake: Storage, run_id: str, ds: str = DAY) -> None:
    made(lake, run_id, ds)
    settle(lake, grace=0)


def test_a_slow_publisher_does_not_bring_the_old_version_back(lake: Storage):
    old = made(lake, "r1")
    published(lake, "r2")
    assert not copy_to_lake(lake, old)
    assert success(lake)["run_id"] == "r2"


@pytest.mark.parametrize("verb", ["copy", "list", "replace"])
def test_success_names_what_is_there_whenever_another_run_is_published(lake: Storage, verb: str):
    # list: of the chain, right before it replaces _SUCCESS
    path = {"copy": "-00001.parquet", "list": CHAIN, "replace": "_SUCCESS"}[verb]
    published(lake, "r0")
    old = made(lake, "r1")
    slow = meanwhile(lake, verb, path, lambda: published(lake, "r2"))
    assert not copy_to_lake(slow, old)
    assert success(lake)["run_id"] == "r2" and missing(lake) == []


def test_a_publisher_that_is_overtaken_while_it_copies_shows_the_newer_run(lake: Storage):
    made(lake, "r1")
    settle(meanwhile(lake, "copy", "part-r1-", lambda: published(lake, "r2")), grace=LONG)
    assert success(lake)["run_id"] == "r2"


@pytest.mark.parametrize("part", [0, 1])
def test_a_rollback_while_the_same_run_is_deleted_shows_it_whole(lake: Storage, part: int):
    published(lake, "r1")
    published(lake, "r2")
    copy_to_lake(lake, made(lake, "r3"))

    def roll_back() -> None:
        append_rollback(lake, 2, attempt="back")
        settle(lake, grace=LONG)

    settle(meanwhile(lake, "delete", parts("r2", 2)[part], roll_back), grace=0)
    assert success(lake)["run_id"] == "r2" and missing(lake) == []
    assert [file["path"] for file in success(lake)["files"]] == parts("r2", 4)


def test_a_date_that_has_lost_a_file_is_repaired_by_the_next_publication(lake: Storage):
    published(lake, "r1")
    lake.delete([f"recommendations/ds={DAY}/{parts('r1', 1)[1]}"])
    made(lake, "r2", NEXT_DAY)
    assert settle(lake, grace=0) == [DAY, NEXT_DAY]
    assert missing(lake) == []


def test_a_date_that_has_lost_a_file_and_its_run_is_named(lake: Storage, caplog):
    published(lake, "r1")
    lake.delete(
        [f"recommendations/ds={DAY}/{parts('r1', 1)[1]}", f"{run_path(DAY, 'r1')}/manifest.json"]
    )
    made(lake, "r2", NEXT_DAY)
    assert settle(lake, grace=0) == [NEXT_DAY]
    assert f"{DAY} does not show its entry 1 whole" in caplog.text


def test_a_date_whose_run_has_lost_a_list_does_not_stop_the_others(lake: Storage, caplog):
    published(lake, "r1")
    lost = f"{run_path(DAY, 'r1')}/recommendations/part-00000.parquet"
    lake.delete([f"recommendations/ds={DAY}/{parts('r1', 1)[0]}", lost])
    made(lake, "r2", NEXT_DAY)
    assert settle(lake, grace=0) == [NEXT_DAY]
    assert f"{lost} is gone" in caplog.text


def test_a_run_that_has_lost_a_list_when_it_is_published_is_refused_in_words(lake: Storage):
    made(lake, "r1")
    lost = f"{run_path(DAY, 'r1')}/recommendations/part-00000.parquet"
    lake.delete([lost])
    with pytest.raises(InfrastructureError, match=f"does not show its entry 1 whole.*{lost}"):
        settle(lake, grace=0)


def test_an_entry_that_is_said_to_be_there_and_is_not_ends_the_publication(lake: Storage):
    class Blind(Storage):
        """A lake whose chain can't be seen."""

        def list(self, directory: str = "") -> list[FileInfo]:
            return [] if directory == CHAIN else super().list(directory)

    append(lake, "r1")
    with pytest.raises(InfrastructureError, match=r"entry 1 of the chain .* is not there"):
        append(Blind(lake.root), "r2")


def test_a_date_that_was_deleted_after_its_run_is_left_alone(lake: Storage, caplog):
    published(lake, "r1")
    lake.delete([info.path for info in lake.list() if f"ds={DAY}" in info.path])
    made(lake, "r2", NEXT_DAY)
    assert settle(lake, grace=0) == [NEXT_DAY]
    assert caplog.text == ""


# --- names of earlier versions, without a number ---


def as_earlier_versions(lake: Storage, ds: str = DAY) -> None:
    """Gives the parts of a date the names that they had before."""
    content = success(lake, ds)
    directory = f"recommendations/ds={ds}"
    for file in content["files"]:
        name = f"part-{content['run_id']}-{file['path'][-13:]}"
        lake.copy(f"{directory}/{file['path']}", f"{directory}/{name}")
        lake.delete([f"{directory}/{file['path']}"])
        file["path"] = name
    lake.write_bytes(f"{directory}/_SUCCESS", json.dumps(content).encode())


def test_what_an_earlier_version_has_published_stays_as_it_is(lake: Storage):
    published(lake, "r1")
    as_earlier_versions(lake)
    before = snapshot(lake)
    assert settle(lake, grace=0) == []
    assert snapshot(lake) == before


@pytest.mark.parametrize("grace", [0, LONG])
def test_a_rollback_to_what_an_earlier_version_shows_outruns_a_slow_publisher(
    lake: Storage, grace: float
):
    published(lake, "r1")
    as_earlier_versions(lake)
    entry = made(lake, "r2")

    def roll_back() -> None:
        append_rollback(lake, 1, attempt="back")
        settle(lake, grace=grace)

    assert not copy_to_lake(meanwhile(lake, "replace", "_SUCCESS", roll_back), entry)
    assert success(lake)["run_id"] == "r1" and missing(lake) == []


def test_what_an_earlier_version_has_published_is_replaced_and_repaired(lake: Storage):
    published(lake, "r1")
    as_earlier_versions(lake)
    lake.delete([f"recommendations/ds={DAY}/part-r1-00000.parquet"])
    assert settle(lake, grace=0) == [DAY]
    assert shown(lake) == ["_SUCCESS", *parts("r1", 1)]
    as_earlier_versions(lake)
    published(lake, "r2")
    assert shown(lake) == ["_SUCCESS", *parts("r2", 2)]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("part-nightly-20240301-00000.parquet", 0),  # no number, but a date in the run id
        ("part-nightly-20240301-00000001-00000.parquet", 1),
        ("part-other-00000001-00000.parquet", 0),  # entry 1 names another run
        ("part-nightly-20240301-00000002-00000.parquet", 0),  # there is no such entry
        ("notes.txt", None),
    ],
)
def test_the_number_of_a_part_is_that_of_an_entry_of_its_run(
    lake: Storage, name: str, number: int | None
):
    append(lake, "nightly-20240301")
    assert number_of(name, DAY, read_chain(lake)) == number


def test_files_of_others_in_a_date_are_left_alone(lake: Storage):
    copy_to_lake(lake, made(lake, "r1"))
    lake.write_bytes(f"recommendations/ds={DAY}/notes.txt", b"keep")
    made(lake, "r2")
    settle(lake, grace=0)
    assert shown(lake) == ["_SUCCESS", "notes.txt", *parts("r2", 2)]


def test_an_old_run_directory_that_was_pruned_is_no_error(lake: Storage):
    for run_id in ("r1", "r2"):
        made(lake, run_id)
        settle(lake, grace=0)
    lake.delete([info.path for info in lake.list(run_of(lake, "r1").path)])
    made(lake, "r3", NEXT_DAY)
    assert settle(lake, grace=0) == [NEXT_DAY]
    assert success(lake)["run_id"] == "r2"


def test_a_date_whose_newest_run_was_pruned_before_its_copy_keeps_what_it_shows(lake: Storage):
    copy_to_lake(lake, made(lake, "r1"))
    made(lake, "r2")
    lake.delete([info.path for info in lake.list(run_of(lake, "r2").path)])
    assert settle(lake, grace=0) == []
    assert shown(lake) == ["_SUCCESS", *parts("r1", 1)]


def test_a_manifest_that_changed_after_the_commit_is_refused(lake: Storage):
    entry = made(lake, "r1")
    lake.write_bytes(f"{run_of(lake, 'r1').path}/manifest.json", b'{"files": []}')
    with pytest.raises(InfrastructureError, match="chain entry 1 names"):
        copy_to_lake(lake, entry)
    with pytest.raises(InfrastructureError, match="chain entry 1 names"):
        settle(lake, grace=0)
    assert shown(lake) == []
