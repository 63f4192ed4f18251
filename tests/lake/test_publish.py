"""Publishing: the audit of a bucket, the chain of entries, and the copy that consumers read."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from lakes import (
    DAY,
    LONG,
    NEXT_DAY,
    made,
    meanwhile,
    missing,
    parts,
    run_of,
    shown,
    snapshot,
    success,
)

from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import FileInfo, Storage, sha256
from diffsasrec.lake.chain import (
    CHAIN,
    Entry,
    append_entry,
    append_rollback,
    check_create_only,
    read_chain,
    shown_instead,
    standing,
)
from diffsasrec.lake.consumer_copy import copy_to_lake, number_of, settle
from diffsasrec.lake.manifest import manifest_for
from diffsasrec.lake.run_dir import run_path

# --- the chain ---


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


def append(lake: Storage, run_id: str, ds: str = DAY, attempt: str = "first") -> Entry:
    return append_entry(lake, run_of(lake, run_id, ds, attempt), "digest")[0]


def test_the_chain_of_a_new_lake_is_empty(lake: Storage):
    assert read_chain(lake) == []


def test_an_entry_is_read_back_as_it_was_made(lake: Storage):
    entry, ours = append_entry(lake, run_of(lake, "r1"), "digest")
    current = {"ds": DAY, "run_id": "r1"}
    assert ours
    assert entry == Entry(1, "first", DAY, "r1", "digest", None, current)
    assert read_chain(lake) == [entry]
    assert lake.exists("recommendations/_published/00000001.json")


def test_entries_count_from_one_and_name_the_one_before(lake: Storage):
    entries = [append(lake, f"r{i}", f"2024-03-0{i}") for i in (1, 2, 3)]
    assert [(entry.number, entry.previous) for entry in entries] == [(1, None), (2, 1), (3, 2)]
    assert read_chain(lake) == entries


def test_the_newest_date_is_current(lake: Storage):
    append(lake, "r1", DAY)
    assert append(lake, "r2", NEXT_DAY).current == {"ds": NEXT_DAY, "run_id": "r2"}


def test_another_run_of_the_newest_date_becomes_current(lake: Storage):
    append(lake, "r1", DAY)
    assert append(lake, "r2", DAY).current == {"ds": DAY, "run_id": "r2"}


def test_a_backfill_leaves_current_alone(lake: Storage):
    append(lake, "r2", NEXT_DAY)
    assert append(lake, "r1", DAY).current == {"ds": NEXT_DAY, "run_id": "r2"}
    assert append(lake, "r3", NEXT_DAY).current == {"ds": NEXT_DAY, "run_id": "r3"}


def test_each_date_before_one_shows_its_newest_entry_the_newest_date_first(lake: Storage):
    entries = [append(lake, "r2", NEXT_DAY), append(lake, "r1", DAY), append(lake, "r3", DAY)]
    assert standing(entries, "2024-03-03") == [entries[0], entries[2]]
    assert standing(entries, NEXT_DAY) == [entries[2]]
    assert standing(entries, DAY) == standing([], DAY) == []


def test_the_same_run_again_gives_the_first_entry_which_is_not_ours(lake: Storage):
    first = append(lake, "r1")
    append(lake, "r2")
    entry, ours = append_entry(lake, run_of(lake, "r1", attempt="second"), "another digest")
    assert (entry, ours) == (first, False)
    assert len(read_chain(lake)) == 2


def test_one_run_id_at_two_dates_is_two_runs(lake: Storage):
    assert append(lake, "r1", DAY).number == 1
    assert append(lake, "r1", NEXT_DAY).number == 2


def test_an_attempt_whose_answer_was_lost_recognises_its_own_entry(lake: Storage):
    first = append(lake, "r1", attempt="first")
    assert append_entry(lake, run_of(lake, "r1", attempt="first"), "digest") == (first, True)
    assert read_chain(lake) == [first]


def test_runs_that_publish_at_once_get_one_number_each(lake: Storage):
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda i: append(lake, f"r{i}"), range(8)))
    assert sorted(entry.number for entry in entries) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert read_chain(lake) == sorted(entries, key=lambda entry: entry.number)


def test_attempts_of_one_run_that_publish_at_once_make_one_entry(lake: Storage):
    with ThreadPoolExecutor(8) as pool:
        runs = [run_of(lake, "r1", attempt=f"a{i}") for i in range(8)]
        answers = list(pool.map(lambda run: append_entry(lake, run, "digest"), runs))
    assert {entry.number for entry, _ in answers} == {1}
    assert [entry.attempt for entry, ours in answers if ours] == [read_chain(lake)[0].attempt]


@pytest.mark.parametrize("missing", [1, 2])
def test_a_gap_in_the_chain_stops_everything(lake: Storage, missing: int):
    entries = [append(lake, f"r{i}") for i in (1, 2, 3)]
    lake.delete([entries[missing - 1].path])
    with pytest.raises(InfrastructureError, match="gap"):
        append(lake, "r4")
    with pytest.raises(InfrastructureError, match="gap"):
        settle(lake, grace=0)


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
    # the first listing is of recommendations/, the second of the chain
    slow = meanwhile(lake, "list", CHAIN, lambda: copy_to_lake(lake, entry))
    assert settle(slow, grace=3600) == []
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


# --- the manifest and the store ---


def test_the_first_manifest_of_a_run_stays(lake: Storage):
    run = run_of(lake, "r1")
    first = manifest_for(run, {"seconds": 1})
    assert first[0] == {"seconds": 1}
    assert manifest_for(replace(run, attempt="second"), {"seconds": 2}) == first
    assert first[1] == sha256(run.storage.read_bytes("manifest.json"))


@pytest.mark.parametrize("single_writer", [False, True])
def test_a_local_lake_has_create_only(lake: Storage, single_writer: bool):
    check_create_only(lake, single_writer=single_writer)
    assert lake.list() == []


class Overwriting(Storage):
    """A store that takes every write, as one does that ignores If-None-Match."""

    def create(self, path: str, data: bytes) -> bool:
        self.write_bytes(path, data)
        return True


def test_a_store_that_overwrites_is_refused_unless_there_is_one_writer(lake: Storage):
    store = Overwriting(lake.root)
    with pytest.raises(ConfigError, match=r"If-None-Match.*publish\.single_writer=true"):
        check_create_only(store, single_writer=False)
    check_create_only(store, single_writer=True)
    assert lake.list() == []


# --- going back, and deleting what is old ---


def test_a_rollback_appends_an_entry_that_serves_the_earlier_run_again(lake: Storage):
    first, second = made(lake, "r1"), made(lake, "r2")
    settle(lake, grace=0)
    entry = append_rollback(lake, 1, attempt="back")
    settle(lake, grace=0)
    assert read_chain(lake) == [first, second, entry]
    assert (entry.number, entry.previous, entry.attempt) == (3, 2, "back")
    assert entry.current == {"ds": DAY, "run_id": "r1"} and success(lake)["run_id"] == "r1"
    assert shown(lake) == ["_SUCCESS", *parts("r1", 3)]


def test_a_rollback_to_an_earlier_date_leaves_the_later_one_as_it_is(lake: Storage):
    made(lake, "r1", DAY)
    made(lake, "r2", NEXT_DAY)
    settle(lake, grace=0)
    assert append_rollback(lake, 1, attempt="back").current == {"ds": DAY, "run_id": "r1"}
    settle(lake, grace=0)
    assert success(lake, NEXT_DAY)["run_id"] == "r2"
    # the night after is current again
    assert made(lake, "r3", "2024-03-03").current == {"ds": "2024-03-03", "run_id": "r3"}


def test_a_run_that_was_rolled_back_is_not_what_its_date_shows(lake: Storage):
    made(lake, "r1")
    assert shown_instead(lake, run_of(lake, "r1")) is None
    second = made(lake, "r2")
    assert shown_instead(lake, run_of(lake, "r1")) == second
    back = append_rollback(lake, 1, attempt="back")
    assert shown_instead(lake, run_of(lake, "r2")) == back
    assert shown_instead(lake, run_of(lake, "r1")) is None


def test_a_rollback_whose_answer_was_lost_is_made_once(lake: Storage):
    made(lake, "r1")
    made(lake, "r2")
    entries = [append_rollback(lake, 1, attempt="back") for _ in range(2)]
    assert entries[0] == entries[1] and len(read_chain(lake)) == 3


def test_rollbacks_and_runs_at_once_get_one_number_each(lake: Storage):
    made(lake, "r1")
    with ThreadPoolExecutor(8) as pool:
        rollbacks = pool.map(lambda i: append_rollback(lake, 1, attempt=f"back{i}"), range(4))
        runs = pool.map(lambda i: append(lake, f"new{i}"), range(4))
        entries = [*rollbacks, *runs]
    assert sorted(entry.number for entry in entries) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert read_chain(lake)[1:] == sorted(entries, key=lambda entry: entry.number)


@pytest.mark.parametrize("number", [0, 3, -1])
def test_a_rollback_to_no_entry_is_refused(lake: Storage, number: int):
    made(lake, "r1")
    made(lake, "r2")
    with pytest.raises(ConfigError, match="2 entries"):
        append_rollback(lake, number, attempt="back")
