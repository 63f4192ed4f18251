"""Dirty data: hostile logs, and whether every row of them is accounted for.

Each log goes through the stage `prepare` as a night runs it. What its files in quarantine/ and
sequences/ hold is compared with what was written down by hand.
"""

import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import ray

from diffsasrec.config.config import Config
from diffsasrec.config.data import EventsConfig, SplitConfig
from diffsasrec.errors import DiffsasrecError, find_ours
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.log_files import list_inputs
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.schema import list_offsets, list_values

from .. import prepare
from ..night.records import counts_of
from ..process.ray_session import start_ray
from ..runner.identity import open_run
from .logs.build import RUN_DATE, Event, Log
from .logs.parquet import PARQUET_LOGS
from .logs.text import TEXT_LOGS

LOGS = PARQUET_LOGS | TEXT_LOGS
MOST_SECONDS = 120.0  # of one log; more is a hang
DROPS = ("after_run_date", "duplicate", "over_max_user_events", "rare_item")


def cells(short: bool) -> list[dict[str, Any]]:
    return [{"log": name} for name in list(LOGS)[:: 8 if short else 1]]


def measure(cell: dict[str, Any], place: Path) -> dict[str, Any]:
    if not ray.is_initialized():
        start_ray()
    log = LOGS[cell["log"]]
    log.write(place / "log")
    config = config_of(log, place)
    started = time.monotonic()
    code, message, run = _prepare(config)
    seconds = time.monotonic() - started
    if log.code or code:
        named = all(part in message for part in log.says)
        right = code == log.code and named
        outcome: dict[str, Any] = {"code": code, "message": message}
    else:
        assert run is not None
        outcome = account(log, run)
        right = not outcome["unaccounted"] and not outcome["wrong"]
    return {"right": right and seconds < MOST_SECONDS, **outcome, "seconds": round(seconds, 1)}


def config_of(log: Log, place: Path) -> Config:
    """The settings of a log; without its own, any share of bad rows is allowed."""
    settings = {"time_unit": "s", "max_bad_fraction": 1.0, **log.settings}
    return Config(
        lake=str(place / "lake"),
        events=EventsConfig(path=str(place / "log"), **settings),
        split=SplitConfig.model_validate({"quantile": 0.5, **log.split}),
    )


def _prepare(config: Config) -> tuple[int, str, RunDir | None]:
    """The exit code and message with which a night ends at this stage."""
    try:
        inputs = list_inputs(config.events, run_date=date.fromisoformat(RUN_DATE))
        run = open_run(config, date.fromisoformat(RUN_DATE), inputs, run_id=None)
        run.finish("prepare", prepare.main(config, run).to_json())
        return 0, "", run
    except DiffsasrecError as error:
        return error.exit_code, str(error), None
    except Exception as error:  # as in jobs/runner/main.py: a worker's error of ours, or a failure
        ours = find_ours(error)
        return (ours.exit_code, str(ours), None) if ours else (5, repr(error)[:2000], None)


def account(log: Log, run: RunDir) -> dict[str, Any]:
    """What became of the rows of a log, as its files say."""
    counts = Counter(counts_of(run, "prepare"))
    quarantined = reasons_of(run.storage)
    dropped = Counter({name: counts[name] for name in DROPS if counts[name]})
    events = events_of(run.storage)
    num_out = len(events) + quarantined.total() + dropped.total()
    wrong = {
        "counted": counts["rows"] != log.rows
        or counts["kept"] != log.rows - quarantined.total() - counts["after_run_date"],
        "events": sorted(events) != sorted(in_microseconds(log.kept())),
        "quarantined": quarantined != log.bad
        or any(counts[reason] != number for reason, number in quarantined.items()),
        "dropped": dropped != log.dropped,
    }
    return {
        "code": 0,
        "rows": log.rows,
        "kept": len(events),
        "quarantined": dict(quarantined),
        "dropped": dict(dropped),
        "unaccounted": abs(log.rows - num_out),
        "wrong": [name for name, is_wrong in wrong.items() if is_wrong],
    }


def in_microseconds(events: list[Event]) -> list[Event]:
    return [(user, item, round(seconds * 1_000_000)) for user, item, seconds in events]


def reasons_of(run: Storage) -> Counter[str]:
    """The rows in quarantine/ by reason."""
    reasons: Counter[str] = Counter()
    for info in run.list("quarantine"):
        reasons.update(run.read_table(info.path)["reason"].to_pylist())
    return reasons


def events_of(run: Storage) -> list[Event]:
    """The events in sequences/: user, item, microseconds."""
    sequences, vocab = run.read_tables("sequences"), run.read_tables("vocab")
    items = vocab["item_id"].combine_chunks().take(list_values(sequences["items"]))
    counts = list_offsets(sequences["items"])[1:] - list_offsets(sequences["items"])[:-1]
    users = pc.list_parent_indices(sequences["items"].combine_chunks())
    assert counts.sum() == len(users)
    owners = sequences["user_id"].combine_chunks().take(users)
    times = list_values(sequences["times"])
    assert len(times) == len(items) == len(owners)
    return list(zip(owners.to_pylist(), items.to_pylist(), times.to_pylist(), strict=True))


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    through = [result for result in results if "rows" in result]
    return {
        "logs": len(results),
        "rows_in": sum(result["rows"] for result in through),
        "rows_kept": sum(result["kept"] for result in through),
        "rows_quarantined": sum(sum(r["quarantined"].values()) for r in through),
        "rows_dropped": sum(sum(r["dropped"].values()) for r in through),
        "rows_unaccounted": sum(result["unaccounted"] for result in through),
        "logs_refused": sum(result["code"] in (2, 3) for result in results),
        "logs_without_a_clear_end": sum(not result["right"] for result in results),
        "seconds_at_most": max(result["seconds"] for result in results),
    }
