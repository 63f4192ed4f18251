"""jobs.submit: which attempt, which exit code; then jobs on a real cluster with a token."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from ray.job_submission import JobStatus

from diffsasrec.errors import InfrastructureError
from jobs.faults.rig.nights import DATE, QUIET, ROOT, tiny_config
from jobs.submit.__main__ import (
    choose_attempt,
    exit_code,
    is_dry,
    job_of,
    last_object,
    take_attempt,
)
from jobs.submit.job_server import Follower, Head, is_passing

PENDING, RUNNING = JobStatus.PENDING, JobStatus.RUNNING
SUCCEEDED, FAILED, STOPPED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED
NOWHERE = ["--config", "nowhere.yaml", "--date", DATE]
NIGHTLY = ["python", "-m", "jobs.nightly", "--config", "my.yaml", "--date", "2026-11-23"]


@pytest.mark.parametrize(
    ("attempts", "chosen"),
    [
        ({}, (1, True)),
        ({1: PENDING}, (1, False)),
        ({1: FAILED, 2: RUNNING}, (2, False)),
        ({1: RUNNING, 2: STOPPED}, (1, False)),
        ({1: FAILED}, (2, True)),
        ({1: FAILED, 2: STOPPED}, (3, True)),
        ({1: FAILED, 2: SUCCEEDED}, (2, False)),
        ({9: FAILED, 10: FAILED}, (11, True)),
    ],
)
def test_a_job_that_runs_or_succeeded_is_joined_and_one_that_failed_gets_another_attempt(
    attempts, chosen
):
    assert choose_attempt(attempts) == chosen


def test_on_demand_a_job_that_succeeded_runs_again_but_not_beside_itself():
    assert choose_attempt({1: SUCCEEDED}, again=True) == (2, True)
    assert choose_attempt({1: SUCCEEDED, 2: RUNNING}, again=True) == (2, False)


class Answering(Head):
    """A head that knows some attempts of a job, and takes new ones."""

    def __init__(self, attempts: dict[str, JobStatus]) -> None:
        super().__init__(None, 0)
        self.attempts = attempts

    def list_jobs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(submission_id=k, status=v) for k, v in self.attempts.items()]

    def submit_job(self, *, submission_id: str, **_: object) -> None:
        self.attempts[submission_id] = PENDING

    def call(self, what):
        return what(self)


@pytest.mark.parametrize("status", [SUCCEEDED, RUNNING])
def test_a_dry_run_is_never_answered_from_memory(tmp_path: Path, status: JobStatus):
    for command, attempt in ((NIGHTLY, "j-1"), ([*NIGHTLY, "--dry-run"], "j-2")):
        assert take_attempt(Answering({"j-1": status}), "j", command, tmp_path, False) == attempt
    assert is_dry([*NIGHTLY, "--dry"]) and is_dry(["sh", "-c", "python -m jobs.nightly --dry-run"])
    assert not is_dry(NIGHTLY)


@pytest.mark.parametrize(
    ("status", "own", "code"),
    [
        (SUCCEEDED, 0, 0),
        (FAILED, 1, 1),
        (FAILED, 4, 4),
        (FAILED, -9, 5),  # out of memory, say
        (FAILED, 137, 5),
        (FAILED, 130, 130),  # a person has ended it there
        (FAILED, None, 5),  # its environment could not be set up
        (STOPPED, None, 5),
    ],
)
def test_the_exit_code_is_the_drivers_own_and_5_where_it_has_none(status, own, code):
    assert exit_code(status, own) == code


def test_the_name_of_a_job_holds_its_module_its_dates_and_a_digest(tmp_path: Path):
    (tmp_path / "my.yaml").write_text("lake: lake")
    name = job_of(NIGHTLY, tmp_path)
    assert name[:-8] == "nightly-2026-11-23-"
    assert name == job_of(NIGHTLY, tmp_path)
    assert job_of(["sleep", "5"], tmp_path)[:-8] == "sleep-"
    assert job_of(["./train.py", "--from", "2026-11-01"], tmp_path)[:-8] == "train-2026-11-01-"


def test_another_command_config_or_version_of_the_code_is_another_job(tmp_path: Path):
    (tmp_path / "jobs").mkdir()
    names = [job_of(NIGHTLY, tmp_path), job_of([*NIGHTLY, "--set", "seed=1"], tmp_path)]
    (tmp_path / "my.yaml").write_text("lake: lake")
    names.append(job_of(NIGHTLY, tmp_path))
    (tmp_path / "jobs" / "nightly.py").write_text("print()")
    names.append(job_of(NIGHTLY, tmp_path))
    assert len(set(names)) == 4


def test_the_last_line_of_a_job_is_the_last_json_object_of_its_log():
    assert last_object('{"run_id": 1}\n{"run_id": 2}\n{broken\n12:00 done\n') == '{"run_id": 2}'
    assert last_object("12:00 started\n") is None


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionRefusedError("refused"), True),
        (RuntimeError("Request failed with status code 503: busy."), True),
        (RuntimeError("Request failed with status code 404: no such job."), False),
        (RuntimeError("working_dir is too large"), False),
    ],
)
def test_no_answer_is_waited_for_and_a_refusal_is_not(error, passes):
    assert is_passing(error) == passes


def test_a_log_that_is_sent_again_from_its_start_is_shown_once(capsys):
    follower = Follower(Head(None, 0), "job")
    for text, start in [("one\n", 0), ("two\n", 4), ("one\ntwo\nthr", 0), ("ee\n", 11)]:
        follower.show(text, start)
    assert follower.text == capsys.readouterr().err == "one\ntwo\nthree\n"


def test_a_head_that_does_not_answer_is_given_up_when_patience_ends(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # is set, and so put back
    head = Head(f"http://127.0.0.1:{free_port()}", 0.1)
    with pytest.raises(InfrastructureError, match="nothing was submitted"):
        head.call(lambda client: client.list_jobs())


# --- on a real cluster ---


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster as `ray start` makes it, with its own token; what a submitter's environment has."""
    token = tmp_path_factory.mktemp("token") / "auth_token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    temporary = tempfile.mkdtemp(prefix="rt")  # short: socket names are
    environment = {**os.environ, **QUIET, "RAY_AUTH_MODE": "token"}
    environment |= {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment.pop("RAY_ADDRESS", None)
    environment.pop("PYTHONPATH", None)  # the code travels with the job
    port = free_port()
    options = ["--port=0", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    options += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={temporary}"]
    options += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-log-monitor=False"]
    with (Path(temporary) / "start.txt").open("w") as out:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", "--head", "--block", *options],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    family = psutil.Process(process.pid)
    yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
    for one in [family, *family.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    shutil.rmtree(temporary, ignore_errors=True)


class Submitter:
    """A started `python -m jobs.submit`."""

    def __init__(self, head: dict[str, str], directory: Path, *arguments: str) -> None:
        self.log_path = directory / f"submit-{time.monotonic_ns()}.txt"
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.submit", *arguments],
                cwd=ROOT,
                env={**os.environ, **head},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def finish(self) -> tuple[int, dict, str]:
        stdout, _ = self.process.communicate(timeout=900)
        lines = stdout.splitlines()
        assert len(lines) == 1, (stdout, self.log_path.read_text())
        return self.process.returncode, json.loads(lines[0]), self.log_path.read_text()

    def wait_for_line(self, line: str) -> None:
        deadline = time.monotonic() + 480
        while line not in self.log_path.read_text():
            assert self.process.poll() is None, self.log_path.read_text()
            assert time.monotonic() < deadline, f"never seen: {line}"
            time.sleep(0.1)


@pytest.fixture
def night(toy: Path, tmp_path: Path) -> tuple[list[str], Path]:
    """The command line of the first stages of a night, and its lake."""
    config = tiny_config(str(toy), str(tmp_path / "lake"))
    config["train"] = {"num_workers": 1}
    config["pretrain"] = config["finetune"] = {**config["pretrain"], "epochs": 1}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    command = ["python", "-m", "jobs.nightly", "--config", str(tmp_path / "tiny.yaml")]
    command += ["--date", DATE, "--stages", "prepare,pretrain", "--new-lake"]
    return command, tmp_path / "lake"


@pytest.mark.night
def test_a_night_that_is_stopped_goes_on_as_the_next_attempt(head, night, tmp_path: Path):
    command, lake = night
    first = Submitter(head, tmp_path, "--", *command)
    first.wait_for_line("pretrain: started")
    first.process.send_signal(signal.SIGTERM)
    code, last, log = first.finish()
    assert (code, last["status"]) == (5, "failed"), log
    assert "-1 was stopped, since SIGTERM came, and is STOPPED" in last["error"]
    assert list(lake.glob("runs/*/*/_stages/prepare.json"))
    assert not list(lake.glob("runs/*/*/_stages/pretrain.json"))

    second = Submitter(head, tmp_path, "--", *command)
    second.wait_for_line("prepare: already done, skipped")
    third = Submitter(head, tmp_path, "--", *command)
    code, last, log = second.finish()
    assert (code, last["status"], last["stage"]) == (0, "done", "pretrain"), log
    assert log.count("pretrain: done in") == 1
    joined = third.finish()
    assert joined[:2] == (code, last)
    assert "-2 is RUNNING already" in joined[2] and "pretrain: done in" in joined[2]

    again = Submitter(head, tmp_path, "--", *command).finish()
    assert again[:2] == (code, last)
    assert "-2 is SUCCEEDED already" in again[2]


@pytest.fixture(scope="module")
def short_jobs(head, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, dict, str]]:
    """Jobs that end soon, all at once: exit code, last line and log of each."""
    directory = tmp_path_factory.mktemp("short")
    stranger = {**head, "RAY_AUTH_TOKEN": "0" * 64}
    started = {
        "shell": Submitter(head, directory, "--", "sh", "-c", "ls -A; exit 4"),
        "nowhere": Submitter(head, directory, "--", "python", "-m", "jobs.nightly", *NOWHERE),
        "endless": Submitter(head, directory, "--timeout", "1", "--", "sleep", "3600"),
        "stranger": Submitter(stranger, directory, "--", "true"),
        "interrupted": Submitter(head, directory, "--", "sh", "-c", "echo r''un; sleep 3600"),
    }
    started["interrupted"].wait_for_line("run\n")  # what it says, and not its command line
    started["interrupted"].process.send_signal(signal.SIGINT)
    return {name: submitter.finish() for name, submitter in started.items()}


def test_the_jobs_exit_code_comes_back_and_its_directory_is_clean(short_jobs):
    code, last, log = short_jobs["shell"]
    assert (code, last["status"]) == (4, "failed"), log
    assert last["error"].endswith("failed with exit code 4")
    listed = set(log.splitlines())
    assert {"jobs", "diffsasrec", "README.md"} <= listed
    assert not {".git", ".venv", "lake", ".env"} & listed


def test_a_jobs_own_last_line_comes_back(short_jobs):
    code, last, log = short_jobs["nowhere"]
    assert (code, last["status"]) == (2, "failed"), log
    assert "nowhere.yaml can't be read" in last["error"]


def test_a_job_is_stopped_when_its_time_is_over(short_jobs):
    code, last, log = short_jobs["endless"]
    assert code == 5, log
    assert "since its --timeout is over, and is STOPPED" in last["error"]


def test_ctrl_c_stops_the_job_and_says_so_in_the_last_line(short_jobs):
    code, last, log = short_jobs["interrupted"]
    assert (code, last["status"]) == (130, "failed"), log
    assert "was stopped, since SIGINT came, and is STOPPED; the same command" in last["error"]
    assert "Traceback" not in log


def test_another_token_is_refused_with_the_remedy(short_jobs):
    code, last, _ = short_jobs["stranger"]
    assert code == 2
    assert "RAY_AUTH_TOKEN_PATH" in last["error"] and "0000" not in last["error"]
