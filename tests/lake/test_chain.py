"""The chain of publications: entries, going back, and the manifest and the store they need."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from lakes import DAY, NEXT_DAY, append, made, parts, run_of, shown, success

from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage, sha256
from diffsasrec.lake.chain import (
    Entry,
    append_entry,
    append_rollback,
    check_create_only,
    read_chain,
    shown_instead,
    standing,
)
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.manifest import manifest_for


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


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
