"""SIGTERM and Ctrl-C: a night ends within seconds with its own Ray, and says so.

A night that is broken off in each of its stages is in test_night_on_s3.py.
"""

import json
import signal
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from signalled import SECONDS, ended

from jobs.faults.rig.nights import DATE, Nights, lean_config

pytestmark = pytest.mark.night


def processes_with(mark: str) -> list[str]:
    """Command lines of the processes that have a variable MARK in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("MARK") == mark and process.status() != "zombie":
                found.append(" ".join(process.cmdline()))
    return found


def wait_until_none(mark: str) -> None:
    deadline = time.monotonic() + 10
    while (left := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def test_a_night_that_is_ended_while_its_ray_starts_ends_that_too(toy: Path, tmp_path: Path):
    mark = uuid.uuid4().hex
    night = Nights(tmp_path, {"MARK": mark}).start(lean_config(str(toy), str(tmp_path / "lake")))
    night.wait_for_line("input files, into")
    deadline = time.monotonic() + 60
    while not any("raylet" in line for line in processes_with(mark)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ended(night, signal.SIGTERM)
    wait_until_none(mark)


def test_a_night_that_is_over_keeps_its_code_when_a_signal_comes_while_ray_ends(
    toy: Path, tmp_path: Path
):
    mark = uuid.uuid4().hex
    nights = Nights(tmp_path, {"MARK": mark})
    config = lean_config(str(toy), str(tmp_path / "lake"))
    night = nights.start(config, "--stages", "prepare")
    night.wait_for_line("prepare: done in")
    time.sleep(0.3)
    with suppress(ProcessLookupError):
        night.process.send_signal(signal.SIGTERM)
    code, last, log = night.finish(timeout=SECONDS)
    assert (code, last["status"]) == (0, "done"), log
    assert "Traceback" not in log and "*** " not in log, log
    wait_until_none(mark)


def test_a_signal_during_the_start_has_its_last_line_too(toy: Path, tmp_path: Path):
    config = lean_config(str(toy), str(tmp_path / "lake"))
    night = Nights(tmp_path, {}).start(config)
    time.sleep(1.5)  # while its files are looked at, or Ray and torch are imported
    last, _ = ended(night, signal.SIGINT)
    assert last["stage"] is None


def test_ctrl_c_ends_a_backfill_with_its_night_and_the_ray_of_that(toy: Path, tmp_path: Path):
    mark = uuid.uuid4().hex
    config = lean_config(str(toy), str(tmp_path / "lake"))
    night = Nights(tmp_path, {"MARK": mark}).start(
        config, "--from", DATE, "--to", DATE, date=None, job="backfill"
    )
    night.wait_for_line("prepare: started")
    night.process.send_signal(signal.SIGINT)
    code, last, log = night.finish(timeout=SECONDS)
    assert (code, last["status"]) == (130, "failed"), log
    assert "SIGINT came in prepare; run the same command again" in log  # what the night says
    assert "Traceback" not in log and "*** " not in log
    (path,) = (tmp_path / "lake").glob("runs/*/*/outcome.json")
    outcome = json.loads(path.read_text())
    assert (outcome["exit_code"], outcome["status"]) == (130, "failed")
    wait_until_none(mark)
