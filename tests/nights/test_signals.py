"""SIGTERM and Ctrl-C: a night ends within seconds, wherever it is, says so, and goes on later."""

import json
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from diffsasrec.lake.stages import STAGES
from jobs.faults.rig.nights import DATE, NightProcess, Nights, lean_config, run_dir

pytestmark = [pytest.mark.ray, pytest.mark.night]
CODES = {signal.SIGTERM: 5, signal.SIGINT: 130}
SECONDS = 15.0  # in which a night has ended; this machine does much else


def ended(night: NightProcess, number: signal.Signals) -> tuple[dict, str]:
    """Sends a signal to a night: its last line, and its log."""
    night.process.send_signal(number)
    try:
        code, last, log = night.finish(timeout=SECONDS)
    finally:
        night.kill_all()
    assert code == CODES[number], log
    assert f"{number.name} came in" in last["error"] and "run the same command again" in log
    assert (last["status"], "Traceback" in log, "*** " in log) == ("failed", False, False), log
    return last, log


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


@pytest.fixture(scope="module")
def unhurried(cluster, toy: Path, tmp_path_factory) -> Iterator[tuple[Nights, dict, Path]]:
    """A night that is broken off in each of its stages, one after another."""
    directory = tmp_path_factory.mktemp("signals")
    config = lean_config(str(toy), str(directory / "lake"))
    config["log_interval"] = 0.05  # a training is seen in its midst
    config["model"] |= {"kind": "sasrec", "attention": "causal"}
    config["score"] = {"k": 5, "decode": "autoregressive", "num_actors": 1}
    yield Nights(directory, cluster), config, directory


@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_ends_each_stage_and_the_next_attempt_goes_on(unhurried, stage: str):
    nights, config, directory = unhurried
    night = nights.start(config, "--run-id", "broken")
    night.wait_for_line(f"{stage}: started")
    if stage == "pretrain":
        night.wait_for_line(" pretrain: step")  # in the midst of a training
    if stage == "refit":  # its last phase: Ray's own handler would swallow it near the end
        night.wait_for_line(" refit-finetune: step")
    number = signal.SIGINT if STAGES.index(stage) % 2 else signal.SIGTERM
    last, log = ended(night, number)
    assert last["stage"] == stage
    outcome = json.loads((run_dir(directory / "lake", "broken") / "outcome.json").read_text())
    assert (outcome["exit_code"], outcome["stage"]) == (CODES[number], stage)
    assert outcome["error"] == last["error"]
    before = STAGES[: STAGES.index(stage)]
    assert [name for name in before if f"{name}: already done, skipped" not in log] == list(
        before[-1:] if before and f"{before[-1]}: done in" in log else []
    )


def test_after_all_these_signals_the_same_command_publishes(unhurried):
    nights, config, _ = unhurried
    code, last, log = nights.run(config, "--run-id", "broken")
    assert (code, last["status"]) == (0, "done"), log


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("input files, into", signal.SIGTERM),  # while Ray starts
        ("prepare: started", signal.SIGINT),
    ],
)
def test_a_ray_of_its_own_ends_with_the_night(toy: Path, tmp_path: Path, line, number):
    mark = uuid.uuid4().hex
    night = Nights(tmp_path, {"MARK": mark}).start(lean_config(str(toy), str(tmp_path / "lake")))
    night.wait_for_line(line)
    if number == signal.SIGTERM:
        deadline = time.monotonic() + 60
        while not any("raylet" in line for line in processes_with(mark)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    ended(night, number)
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
    time.sleep(1.5)  # while Ray and torch are imported
    last, _ = ended(night, signal.SIGINT)
    assert (last["stage"], last["run_id"]) == (None, None)


def test_a_backfill_ends_its_night_with_it(toy: Path, tmp_path: Path):
    mark = uuid.uuid4().hex
    config = lean_config(str(toy), str(tmp_path / "lake"))
    night = Nights(tmp_path, {"MARK": mark}).start(
        config, "--from", DATE, "--to", DATE, date=None, job="backfill"
    )
    night.wait_for_line("prepare: started")
    night.process.send_signal(signal.SIGINT)
    code, last, log = night.finish(timeout=SECONDS)
    assert (code, last["status"]) == (130, "failed"), log
    assert "Traceback" not in log
    (outcome,) = (tmp_path / "lake").glob("runs/*/*/outcome.json")
    assert json.loads(outcome.read_text())["exit_code"] == 130
    wait_until_none(mark)
