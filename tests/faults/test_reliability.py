"""The reliability figures in short: a killed job, a race, and what was measured is not again."""

import argparse
from pathlib import Path

import pytest
from lakes import made, success

from diffsasrec.errors import RefusedError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import read_chain
from diffsasrec.lake.consumer_copy import settle
from jobs.faults import race
from jobs.faults.crashes import POINTS, cells, wait_for
from jobs.faults.reliability import FIGURES, reliability
from jobs.faults.rig.nights import NightProcess, Nights, injected, tiny_config
from jobs.faults.rig.readers import Readers, wrong_files

pytestmark = pytest.mark.night


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    """Two published versions of one date."""
    lake = Storage.of(str(tmp_path / "lake"))
    for run_id in ("old", "new"):
        made(lake, run_id, rows=(2, 1, 3))
        settle(lake, grace=0)
    return lake


def roll_back(place: Path, lake: Storage, environment: dict[str, str]) -> NightProcess:
    config = tiny_config("no log is read", lake.root)
    return Nights(place, environment).start(config, "--rollback-to", "1", job="publish", date=None)


@pytest.mark.parametrize("name", ["before a copy", "before deleting"])
def test_a_rollback_that_is_killed_ends_right_when_it_is_started_again(name, lake, tmp_path: Path):
    reached = tmp_path / "reached"
    stop = vars(POINTS[f"rollback, {name}"])
    with Readers(lake) as readers:
        night = roll_back(tmp_path, lake, injected(stop=stop, nth=1, reached=str(reached)))
        assert wait_for(reached, night), night.log_path.read_text()
        night.kill_all()
        code, _, log = roll_back(tmp_path, lake, {}).finish()
    assert code == 0, log
    assert (success(lake)["run_id"], readers.torn) == ("old", [])
    assert readers.reads > 0
    numbers = [entry.number for entry in read_chain(lake)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_readers_see_a_file_that_is_missing_and_one_that_was_changed(lake):
    files = success(lake)["files"]
    directory = lake.sub("recommendations/ds=2024-03-01")
    assert wrong_files(directory, files) == []
    directory.delete([files[0]["path"]])
    directory.write_bytes(files[2]["path"], b"of another version")
    assert wrong_files(directory, files) == [files[0]["path"], files[2]["path"]]


def options(directory: Path) -> argparse.Namespace:
    return argparse.Namespace(
        figures=("race",), short=True, directory=directory, minutes=float("inf")
    )


def test_publishers_that_race_get_a_number_each_and_a_finished_race_is_not_run_again(
    tmp_path: Path, monkeypatch
):
    (line,) = reliability(options(tmp_path))
    assert (line["variant"], line["tries"], line["right"]) == ("race", 2, 2)
    assert (line["published"], line["lost_or_doubled"]) == (40, 0)
    monkeypatch.delattr(race, "measure")
    assert list(reliability(options(tmp_path))) == [line]


def test_no_try_is_begun_after_the_time_and_what_is_left_is_counted(tmp_path: Path):
    limited = argparse.Namespace(**{**vars(options(tmp_path)), "minutes": 0.0})
    (line,) = reliability(limited)
    assert (line["tries"], line["left_to_try"]) == (0, 2)


def test_a_try_that_does_not_end_right_is_an_error_that_names_it(tmp_path: Path, monkeypatch):
    wrong = {"right": False, "wrong": ["two winners"], "published": 20, "seconds": 0.0}
    monkeypatch.setattr(race, "measure", lambda cell, place: wrong)  # no race goes wrong
    with pytest.raises(RefusedError, match=r"race \{'store': 'local'"):
        list(reliability(options(tmp_path)))


def test_every_point_is_tried_ten_times_from_scoring_on_and_twice_before():
    tried = [cell["point"] for cell in cells(short=False)]
    times = {name: tried.count(name) for name in POINTS}
    assert len(POINTS) >= 20 and set(FIGURES) >= {"crashes", "race", "repeat", "store"}
    assert {
        name: 10 if point.stages in (("score",), ("publish",), ()) else 2
        for name, point in POINTS.items()
    } == times
