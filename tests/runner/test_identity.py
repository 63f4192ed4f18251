"""Which run a command is, and what is said of one that was published and deleted since."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lakes import DAY, NEXT_DAY, made, parts, run_of

from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.prune import prune
from diffsasrec.lake.run_dir import Reused, RunDir
from diffsasrec.lake.stages import OUTPUTS
from jobs.publish import refuse_overtaken
from jobs.runner.identity import (
    published_and_deleted,
    refuse_changed,
    refuse_taken,
    sources_of_lists,
)
from jobs.training.weight_reuse import Choice, published_choices


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
    assert ended["current"] == {"ds": NEXT_DAY, "run_id": "r2"}
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
    settle(lake, grace=0)
    lake.delete_tree("runs/ds=2024-03-03")
    run = replace(run_of(lake, "0123456789ab", "2024-03-03"), identity="0123456789ab" + 52 * "0")
    assert published_and_deleted(run) is not None
    assert published_and_deleted(replace(run, identity=64 * "0")) is None


def test_nothing_is_said_of_runs_that_are_there_or_were_never_published(lake: Storage):
    for run in (the_same(lake, "r2", NEXT_DAY), run_of(lake, "new")):
        assert published_and_deleted(run) is None


def test_a_deleted_run_whose_date_has_lost_files_is_made_again_under_another_name(lake: Storage):
    lake.delete([f"recommendations/ds={DAY}/{parts('r1', 1)[0]}"])
    with pytest.raises(ConfigError, match="has lost files since; make it again under another"):
        published_and_deleted(the_same(lake))


def test_what_a_run_took_of_earlier_nights_is_known_after_its_deletion(tmp_path: Path):
    lake = Storage.of(str(tmp_path))
    reused: dict[str, Any] = {
        "ds": "2024-02-28",
        "run_id": "r0",
        "trained_before": 7,
        "age_days": 2,
    }
    rested = ["runs/ds=2024-02-28/r0"]
    made(lake, "r1", content={"reused": {**reused, "metrics": {}}, "rested": rested})
    made(lake, "r2", NEXT_DAY)
    settle(lake, grace=0)
    before = list(published_choices(lake, DAY))
    taken = Reused(**reused, source=f"runs/ds={DAY}/r1")
    assert before == [Choice(taken, tuple(rested), "i of r1")]
    assert prune(lake, keep=1, grace=0) == [f"runs/ds={DAY}/r1"]
    assert list(published_choices(lake, DAY)) == before


def test_what_another_command_of_the_run_id_has_published_is_not_cleared_away(lake: Storage):
    mine = the_same(lake, "r2", NEXT_DAY)
    mine.begin("score")
    other = replace(mine, identity="another")
    with pytest.raises(ConfigError, match="was published meanwhile by another command"):
        other.begin("score", check=lambda: refuse_taken(other))
    assert lake.exists(f"{mine.path}/recommendations/part-00000.parquet")


def test_a_run_that_another_command_has_begun_to_clear_is_not_published(lake: Storage):
    mine = run_of(lake, "r3")
    for stage in OUTPUTS:
        mine.begin(stage)
        mine.finish(stage, {})
    refuse_overtaken(mine)
    replace(mine, identity="another").begin("prepare")
    with pytest.raises(ConfigError, match="another command works on run r3"):
        refuse_overtaken(mine)


def test_a_changed_chart_is_not_another_night_and_a_changed_model_is():
    parts = {name.parts[:2] for name in sources_of_lists()}
    assert {("diffsasrec", "model"), ("jobs", "night"), ("jobs", "score.py")} <= parts
    assert not {("jobs", "report"), ("jobs", "benchmark"), ("diffsasrec", "jobs")} & parts
