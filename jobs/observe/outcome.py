"""Writes what people and monitors watch: outcome.json, metrics.prom, report.html.

These files are derived. The pipeline never reads them, the manifest does not list them, and a
failure to write one changes nothing about the night. The clocks that are read here decide nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import Any

from diffsasrec.config.config import Config
from diffsasrec.config.secrets import without_secrets
from diffsasrec.files.patience import Patience
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.chain import CHAIN, read_chain
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import METRICS, OUTCOME, REPORT, STAGES

from ..night.records import Evaluated, Prepared, Record
from ..runs.published_runs import read_json
from .prometheus import MetricFacts, exposition

log = logging.getLogger("jobs")

# where a store is down: the night is over, and a scheduler waits for its exit code
OBSERVER_PATIENCE = Patience(attempts=2, seconds=20.0)
OBSERVER_SECONDS = 60.0  # for all writers together


@dataclass
class ObservedNight:
    """What one process does to one run. A run without work left is not observed.

    Args:
        pages: the module that writes reports, which is imported when one is written.
    """

    pages: str
    config: Config | None = None
    run: RunDir | None = None
    stage_started: float | None = None  # time.monotonic
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def follow(self, config: Config, run: RunDir) -> None:
        self.config, self.run = config, run


def observe(
    night: ObservedNight,
    summary: dict[str, Any],
    exit_code: int,
    *,
    seconds: float = OBSERVER_SECONDS,
) -> None:
    """Writes all files, each on its own; what fails is a line in the log.

    Args:
        summary: as in the last line of stdout: status, stage, and the error if there is one.
        seconds: for all of them together.
    """
    if night.run is None or night.config is None:
        return
    ended = datetime.now(UTC)
    run = replace(night.run, lake=replace(night.run.lake, patience=OBSERVER_PATIENCE))
    writers: dict[str, Callable[[], Any]] = {
        OUTCOME: partial(write_outcome, night, run, summary, exit_code, ended),
        METRICS: partial(write_metrics, run),
        REPORT: partial(write_page, night.pages, run, night.config),
    }
    # a store that hangs must not keep a scheduler waiting for the exit code
    thread = threading.Thread(target=_write_each, args=(writers,), daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("observe: %s is not written after %g seconds", run.storage.root, seconds)


def _write_each(writers: dict[str, Callable[[], Any]]) -> None:
    for name, write in writers.items():
        try:
            write()
        except Exception as error:
            text = " ".join(without_secrets(str(error)).split())
            log.warning("observe: %s is not written: %s: %s", name, type(error).__name__, text)


def write_outcome(
    night: ObservedNight, run: RunDir, summary: dict[str, Any], exit_code: int, ended: datetime
) -> None:
    records = {
        stage: Record.from_json(found)
        for stage in STAGES
        if (found := run.record(stage)) is not None
    }
    seconds = {stage: record.seconds for stage, record in records.items()}
    if exit_code and summary["stage"] is not None and night.stage_started is not None:
        seconds[summary["stage"]] = round(time.monotonic() - night.stage_started, 1)
    error = summary.get("error")
    outcome = {
        "ds": run.ds,
        "run_id": run.run_id,
        "status": summary["status"],
        "stage": summary["stage"],
        "exit_code": exit_code,
        "error": None if error is None else without_secrets(error),
        "current": summary.get("current"),  # of a published run: what is served
        "note": summary.get("note"),
        "counts": {stage: record.counts for stage, record in records.items()},
        "seconds": seconds,
        "started": night.started.isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
    }
    run.storage.write_bytes(OUTCOME, to_json(outcome))


def write_metrics(run: RunDir) -> None:
    """The metrics of the outcome that has been written."""
    outcome = read_json(run.storage, OUTCOME)
    assert outcome is not None, run.storage.root
    from diffsasrec.model.checkpoint import CONFIG  # imports torch: not where nothing has run

    # what an earlier config or log has left in this directory says nothing of tonight
    is_measured = "evaluate" in outcome["counts"] or outcome["stage"] == "evaluate"
    description = read_json(run.storage, f"checkpoint/{CONFIG}")
    has_weights = "refit" in outcome["counts"] and description is not None
    prepared = Prepared.if_done(run)
    metrics, measured = _quality(run) if is_measured else (None, None)
    facts = MetricFacts(
        outcome=outcome,
        metrics=metrics,
        last_success=last_success(run.lake),
        trained_before=description["trained_before"] if has_weights and description else None,
        newest=None if prepared is None else prepared.newest,
        measured=measured,
        current=outcome["current"],
    )
    run.storage.write_bytes(METRICS, exposition(facts))


def _quality(run: RunDir) -> tuple[Mapping[str, Any] | None, str | None]:
    """The metrics of the weights, and the run date of the night that measured them."""
    evaluated = Evaluated.if_done(run)
    if evaluated is not None and evaluated.reused is not None:
        return evaluated.metrics, evaluated.reused["ds"]
    return read_json(run.storage, "metrics.json"), run.ds


def write_page(pages: str, run: RunDir, config: Config) -> None:
    import_module(pages).write_report(run, config)


def renew_index(pages: str, lake: Storage) -> None:
    """Writes the index of nights anew; what fails is a line in the log."""
    _write_each({"the index of nights": lambda: import_module(pages).write_index(lake)})


def last_success(lake: Storage) -> float | None:
    """When a night was published last, by the store's clock; a rollback publishes none."""
    first: dict[tuple[str, str], str] = {}
    for entry in read_chain(lake):
        first.setdefault((entry.ds, entry.run_id), entry.path)
    written = {info.path: info.modified for info in lake.list(CHAIN)}
    return max((written[path] for path in first.values()), default=None)
