"""Runs a command as a job of a Ray cluster, shows its log, and ends as it ends.

    python -m jobs.submit --address http://127.0.0.1:8265 -- \
      python -m jobs.nightly --config jobs/nightly.yaml --date 2026-11-23

The same command, files and code are the same job: one that runs is joined, one that succeeded is
not run again, one that failed or was stopped gets its next attempt. The log goes to stderr; the
last line of stdout is the job's own last line, and the exit code is the job's own.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from ..runner.command import run_command
    from .arguments import parse_submit

    run_command(__spec__, parse_submit)

import argparse
import hashlib
import json
import logging
import re
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ray.job_submission import JobDetails, JobStatus

from diffsasrec.errors import DiffsasrecError, InfrastructureError
from diffsasrec.progress import duration

from ..process.ending import CODES
from ..runner.command import set_up_log
from .job_server import POLL_SECONDS, Client, Follower, Head

log = logging.getLogger("jobs.submit")

STOPPING_SECONDS = 120.0  # that a job has to end when it is stopped
NOT_UPLOADED = ["/.git", "/.venv", "/lake", "/reliability", "__pycache__", ".*_cache"]
# patterns of .gitignore, which holds as well
NOT_UPLOADED += ["*.egg-info", ".env*", "*.pem", "auth_token", "*.log"]


class Interrupted(Exception):
    """A signal came, or the time is over: this command and its job are to end."""

    def __init__(self, reason: str, exit_code: int = 5) -> None:
        super().__init__(reason)
        self.exit_code = exit_code

    def error(self, text: str) -> DiffsasrecError:
        """What this command ends with."""
        error = InfrastructureError(text)
        error.exit_code = self.exit_code
        return error


def job_of(command: list[str], working_dir: Path) -> str:
    """The name of a job, for people and for retries: nightly-2026-11-23-1f0a9c27.

    It holds the module, the dates of the command line, and a digest of the command, of the files
    that it names and of our code: another config or version is another job.
    """
    is_module = "-m" in command[:-1]
    name = command[command.index("-m") + 1] if is_module else f".{Path(command[0]).stem}"
    dates = re.findall(r"\d{4}-\d{2}-\d{2}", " ".join(command))
    named = [working_dir / word.rpartition("=")[2] for word in command if len(word) < 256]
    ours = [*working_dir.glob("diffsasrec/**/*.py"), *working_dir.glob("jobs/**/*.py")]
    digest = hashlib.sha256(json.dumps(command).encode())
    for path in sorted({path for path in [*named, *ours] if path.is_file()}):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    name = re.sub(r"[^A-Za-z0-9_]+", "-", name.rpartition(".")[2])
    return "-".join([name, *dict.fromkeys(dates), digest.hexdigest()[:8]])


def choose_attempt(attempts: Mapping[int, JobStatus], *, again: bool = False) -> tuple[int, bool]:
    """The attempt of a job to follow, and whether it has to be submitted first.

    Args:
        attempts: the status of each attempt so far, by its number from 1.
        again: an attempt that succeeded is not enough.
    """
    running = [number for number, status in attempts.items() if not status.is_terminal()]
    done = [number for number, status in attempts.items() if status == JobStatus.SUCCEEDED]
    if running or (done and not again):
        return max(running or done), False
    return max(attempts, default=0) + 1, True


def exit_code(status: JobStatus, driver_exit_code: int | None) -> int:
    """The job's own code; 5 for one that was stopped, killed, or never began."""
    if status == JobStatus.SUCCEEDED:
        return 0
    by_hand = CODES[signal.SIGINT]  # a person has ended it there
    own = driver_exit_code is not None and (
        0 < driver_exit_code < 128 or driver_exit_code == by_hand
    )
    return int(driver_exit_code or 0) if own and status == JobStatus.FAILED else 5


def last_object(text: str) -> str | None:
    """The last line of a log that is a JSON object."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                json.loads(line)
            except ValueError:
                continue
            return line
    return None


def is_dry(command: list[str]) -> bool:
    """Whether a command only looks, as in --dry-run, or --dry, which means the same."""
    return re.search(r"(^|\s)--dr[a-z-]*(\s|$)", " ".join(command)) is not None


def take_attempt(head: Head, job: str, command: list[str], working_dir: Path, again: bool) -> str:
    """The submission id of the attempt to follow, which is submitted where it has to be."""
    is_fresh = is_dry(command)  # what it looks at changes, and an older answer says nothing
    runtime_env = {"working_dir": str(working_dir), "excludes": NOT_UPLOADED}
    while True:
        listed = {j.submission_id or "": j.status for j in head.call(lambda c: c.list_jobs())}
        found = {re.fullmatch(rf"{job}-(\d+)", name): status for name, status in listed.items()}
        attempts = {int(match[1]): status for match, status in found.items() if match}
        number, is_new = choose_attempt(attempts, again=again)
        if is_fresh:
            number, is_new = max(attempts, default=0) + 1, True
        submission = f"{job}-{number}"
        if not is_new:
            log.info("%s is %s already", submission, attempts[number])
            return submission
        log.info("%s: submitting %s to %s", submission, shlex.join(command), head.address)
        if head.call(partial(submit, submission, command, runtime_env)):
            return submission
        # another command was faster, or an answer was lost: look once more
        again = is_fresh = False


def submit(submission: str, command: list[str], env: dict[str, Any], client: Client) -> bool:
    """Whether this call made the job; an id is given once."""
    try:
        client.submit_job(
            entrypoint=shlex.join(command), submission_id=submission, runtime_env=dict(env)
        )
    except RuntimeError as error:
        if "already exists" in str(error):
            return False
        raise
    return True


def follow(head: Head, submission: str, until: float) -> JobDetails:
    """The job as it ended.

    Raises:
        Interrupted: it has not ended at the time `until` (monotonic).
    """
    while True:
        details = head.call(lambda client: client.get_job_info(submission))
        if details.status.is_terminal():
            return details
        if time.monotonic() >= until:
            raise Interrupted("its --timeout is over")
        time.sleep(max(0.0, min(POLL_SECONDS, until - time.monotonic())))


def stop(head: Head, submission: str) -> str:
    """Stops a job and waits for its end; what became of it, in words."""
    until = time.monotonic() + STOPPING_SECONDS
    while time.monotonic() < until:
        head.call(lambda client: client.stop_job(submission))
        try:
            return str(follow(head, submission, time.monotonic() + 2 * POLL_SECONDS).status)
        except Interrupted:
            continue
    return f"still running after {duration(STOPPING_SECONDS)}"


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """Exit code and last line."""
    head = Head(arguments.address, arguments.patience)
    job = job_of(arguments.command, arguments.working_dir)
    until = time.monotonic() + arguments.timeout
    submission = follower = None
    try:
        submission = take_attempt(
            head, job, arguments.command, arguments.working_dir, arguments.again
        )
        follower = Follower(head, submission)
        follower.start()
        details = follow(head, submission, until)
    except Interrupted as reason:
        for number in CODES:
            signal.signal(number, signal.SIG_DFL)  # a second one ends this command at once
        if submission is None:
            raise reason.error(f"{reason}; the job {job} was not followed") from None
        log.warning("%s: stopping it, since %s", submission, reason)
        became = stop(head, submission)
        if follower is not None:
            follower.end()
        raise reason.error(
            f"{submission} was stopped, since {reason}, and is {became}; the same command goes on"
        ) from None
    catch_up(head, submission, follower)
    code = exit_code(details.status, details.driver_exit_code)
    log.info("%s: %s, exit code %d", submission, details.status, code)
    message = (details.message or str(details.status)).partition(", last available logs")[0]
    return code, last_object(follower.text) or in_json(f"{submission}: {message}", code)


def catch_up(head: Head, submission: str, follower: Follower) -> None:
    """Shows the part of the log that the stream did not bring."""
    try:
        text = Head(head.address, 30.0).call(lambda client: client.get_job_logs(submission))
    except DiffsasrecError as error:
        log.warning("the end of the log is missing: %s", error)
    else:
        follower.show(text, 0)
    follower.end()


def in_json(error: str, code: int) -> str:
    """The last line for a job that left none."""
    summary: dict[str, Any] = {"run_id": None, "stage": None, "counts": {}, "paths": {}}
    summary |= {"status": "failed", "error": error} if code else {"status": "done"}
    return json.dumps(summary, sort_keys=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    name = signal.Signals(number)
    raise Interrupted(f"{name.name} came", CODES[name])


def main(arguments: argparse.Namespace) -> None:
    set_up_log()
    # by their names: they have levels of their own, which that of "ray" does not change (2.60)
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)  # of every file left out, and more
    for number in CODES:
        signal.signal(number, _interrupt)
    try:
        code, last = run(arguments)
    except Interrupted as reason:  # when the job had ended
        code = reason.exit_code
        last = in_json(f"{reason}; the same command goes on", code)
    except DiffsasrecError as error:
        log.error("%s", error)
        code, last = error.exit_code, in_json(str(error), error.exit_code)
    sys.stderr.flush()
    print(last, flush=True)
    sys.exit(code)
