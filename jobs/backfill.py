"""Runs the nights of a range of missed dates, oldest first, each in a process of its own.

    python -m jobs.backfill --config jobs/nightly.yaml --from 2026-11-01 --to 2026-11-07

Every night is `python -m jobs.nightly` with the same --config and --set. A date that is published
already is skipped; an older date never becomes what is served as current.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from .runner.arguments import parse_backfill
    from .runner.command import run_command

    run_command(__spec__, parse_backfill)

import argparse
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from types import FrameType
from typing import Any

from diffsasrec.errors import DiffsasrecError, at_the_start
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import newest_by_date, read_chain
from diffsasrec.progress import duration

from .process.ending import CODES, SAME_SIGNAL_SECONDS
from .runner.command import load, set_up_log
from .runner.lake_mark import require_mark
from .runs.run_dates import refuse_future

log = logging.getLogger("jobs.backfill")

ENDING_SECONDS = 30.0  # that a night has to end when it is told to


class Signalled(Exception):
    """A signal came: this command and its night are to end."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"{name} came, and the running night was ended; the same command goes on")
        self.number = number
        self.exit_code = CODES[signal.Signals(number)]


@dataclass(frozen=True)
class DateResult:
    """What became of a date."""

    ds: str
    status: str  # done, skipped, superseded, failed or refused
    code: int
    run_id: str | None
    note: str


def dates_between(first: date, last: date) -> list[str]:
    """Every date from `first` to `last`, both included, oldest first."""
    return [(first + timedelta(days=day)).isoformat() for day in range((last - first).days + 1)]


def backfill(
    dates: list[str],
    *,
    published: Callable[[str], str | None],
    run_night: Callable[[str], DateResult],
    keep_going: bool,
) -> list[DateResult]:
    """Runs what is missing, and prints a line per date; ends at a failure unless `keep_going`.

    Args:
        published: the run that a date shows, None for a date without one.
        run_night: runs a night to its end.
    """
    nights: list[DateResult] = []
    for ds in dates:
        shown = published(ds)
        if shown is not None:
            night = DateResult(ds, "skipped", 0, shown, f"already published by run {shown}")
        else:
            log.info("backfill: %s, %d of %d", ds, len(nights) + 1, len(dates))
            night = run_night(ds)
        nights.append(night)
        print(f"{night.ds}  {night.status:8} {night.note}", flush=True)
        if night.code and not keep_going:
            break
    return nights


def run_process(ds: str, *, options: list[str]) -> DateResult:
    """Runs `jobs.nightly` for a date; its output goes to stderr, except its last line."""
    started = time.monotonic()
    command = [sys.executable, "-m", f"{__spec__.parent}.nightly", *options, "--date", ds]
    last: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout or ():
                if line.startswith("{"):
                    last = json.loads(line)
                else:
                    sys.stderr.write(line)
            code = process.wait()
        except BaseException as error:
            # a terminal has sent Ctrl-C to the night as well, which takes both for one
            process.send_signal(error.number if isinstance(error, Signalled) else signal.SIGTERM)
            try:
                process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("backfill: the night does not end; it is killed")
            finally:  # at once after a second signal
                process.kill()
            raise
    return night_of(ds, code, last, time.monotonic() - started)


def night_of(ds: str, code: int, last: dict[str, Any], seconds: float) -> DateResult:
    """A night by its exit code and its last line, {} where there was none."""
    run_id = last.get("run_id")
    if code == 0 and last.get("status") == "superseded":
        return DateResult(ds, "superseded", 0, run_id, last["note"])
    if code == 0:
        note = f"run {run_id} in {duration(seconds)}"
        if "note" in last:  # expected of an older date: its log has the whole of it
            note += f"; current is {last['current']['ds']}, run {last['current']['run_id']}"
        return DateResult(ds, "done", 0, run_id, note)
    if code < 0:  # killed, as for lack of memory
        return DateResult(ds, "failed", 5, run_id, f"ended by signal {-code}, exit code 5")
    note = f"exit code {code}: {last.get('error', 'see the log')}"
    return DateResult(ds, last.get("status", "failed"), code, run_id, note)


def summary_of(nights: list[DateResult], dates: list[str]) -> tuple[int, dict[str, Any]]:
    """The exit code of the first night that failed, or 0, and the last line."""
    counts = {
        "done": sum(night.status == "done" for night in nights),
        "skipped": sum(night.status in ("skipped", "superseded") for night in nights),
        "failed": sum(night.code != 0 for night in nights),
        "not_run": len(dates) - len(nights),
    }
    first = next((night for night in nights if night.code), None)
    return first.code if first else 0, {
        "run_id": None,
        "status": first.status if first else "done",
        "stage": None,
        "counts": counts,
        "paths": {},
        "nights": [asdict(night) for night in nights],
    }


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    dates = dates_between(arguments.first, arguments.last)
    refuse_future(arguments.last, option="--to", is_meant=arguments.future)
    config = load(arguments.config, arguments.sets)
    lake = Storage.of(config.lake)
    require_mark(lake, is_new=arguments.new_lake)
    options = ["--config", arguments.config]
    options += [word for override in arguments.sets for word in ("--set", override)]
    options += ["--future"] * arguments.future

    def published(ds: str) -> str | None:
        entry = newest_by_date(read_chain(lake)).get(ds)
        return entry.run_id if entry and not arguments.republish else None

    nights = backfill(
        dates,
        published=published,
        run_night=lambda ds: run_process(ds, options=options),
        keep_going=arguments.keep_going,
    )
    code, summary = summary_of(nights, dates)
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in summary["counts"].items())
    print(f"{arguments.first} to {arguments.last}: {counts}")
    return code, summary


def _end(number: int, frame: FrameType | None) -> None:
    global _first
    now = time.monotonic()
    if _first is None or now - _first > SAME_SIGNAL_SECONDS:
        _first = _first or now
        raise Signalled(number)


_first: float | None = None  # when the first signal came


def main(arguments: argparse.Namespace) -> None:
    set_up_log()
    for number in CODES:
        signal.signal(number, _end)
    try:
        code, summary = run(arguments)
    except (DiffsasrecError, Signalled) as raised:
        error = at_the_start(raised) if isinstance(raised, DiffsasrecError) else raised
        log.error("%s: %s", type(error).__name__, error)
        code, summary = error.exit_code, {"run_id": None, "status": "failed", "stage": None}
        summary |= {"counts": {}, "paths": {}, "error": str(error)}
    sys.stderr.flush()
    print(json.dumps(summary, sort_keys=True), flush=True)
    sys.exit(code)
