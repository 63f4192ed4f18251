"""Which run a command is, and what is said of one that was published and deleted since."""

from dataclasses import replace
from pathlib import Path

import pytest
from lakes import DAY, NEXT_DAY, made, run_of

from diffsasrec.errors import ConfigError
from diffsasrec.prune import prune
from diffsasrec.publish import settle
from diffsasrec.rundir import RunDir
from diffsasrec.storage import Storage
from jobs.identity import published_and_deleted, refuse_changed


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    """Two dates, of which the run directory of the first was deleted by --keep."""
    lake = Storage.of(str(tmp_path))
    made(lake, "r1")
    made(lake, "r2", NEXT_DAY)
    settle(lake, grace=0)
    assert prune(lake, keep=1, grace=0) == [f"runs/ds={DAY}/r1"]
    return lake


def the_same(lake: Storage, run_id: str = "r1", ds: str = DAY) -> RunDir:
    return replace(run_of(lake, run_id, ds), identity=f"i of {run_id}")


def test_the_same_command_of_a_deleted_run_is_done_and_says_so(lake: Storage):
    run = the_same(lake)
    refuse_changed(run)
    ended = published_and_deleted(run)
    assert ended is not None and ended["status"] == "done"
    assert ended["note"] == (
        "run r1 is published as entry 1, and --keep has deleted its directory since; there is "
        "nothing to do"
    )


def test_what_the_date_shows_in_place_of_a_deleted_run_is_said(lake: Storage):
    made(lake, "r3")
    settle(lake, grace=0)
    ended = published_and_deleted(the_same(lake))
    assert ended is not None and ended["status"] == "superseded"
    assert ended["note"].endswith(f"; {DAY} shows run r3 since entry 3")


def test_another_command_under_the_name_of_a_deleted_run_is_refused(lake: Storage):
    run = replace(the_same(lake), identity="another")
    assert published_and_deleted(run) is None
    with pytest.raises(ConfigError, match="its directory was deleted since"):
        refuse_changed(run)


def test_a_run_that_an_earlier_version_deleted_is_known_by_its_name_alone(lake: Storage):
    made(lake, "0123456789ab", "2024-03-03")
    lake.delete_tree("runs/ds=2024-03-03")
    run = replace(run_of(lake, "0123456789ab", "2024-03-03"), identity="0123456789ab" + 52 * "0")
    assert published_and_deleted(run) is not None
    assert published_and_deleted(replace(run, identity=64 * "0")) is None


def test_nothing_is_said_of_runs_that_are_there_or_were_never_published(lake: Storage):
    for run in (the_same(lake, "r2", NEXT_DAY), run_of(lake, "new")):
        assert published_and_deleted(run) is None
