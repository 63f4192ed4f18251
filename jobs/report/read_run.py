"""A run directory, and those of earlier nights -> facts. Reads JSON and Parquet."""

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.errors import DiffsasrecError
from diffsasrec.evaluate.exposure import exposure_of
from diffsasrec.evaluate.gate import gate_failures
from diffsasrec.evaluate.protocol import served_metrics
from diffsasrec.evaluate.versus import Versus
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.quarantine import STOPPED, BadRows, read_bad_rows
from diffsasrec.lake.chain import Entry, newest_by_date, read_chain, standing
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import OUTCOME, REPORT, STAGES
from diffsasrec.schema import list_values
from diffsasrec.sequences.buckets import bucket_name

from ..night.replay import KINDS, remake
from ..runs.published_runs import identity_of, read_json
from ..runs.run_dates import is_future
from ..runs.standing import why_not_current
from .facts import Confidence, Facts, ListSample, Night
from .users import read_users

log = logging.getLogger("jobs")
MOST_USERS = 64  # whose lists are made once more, in one batch
MOST_ITEMS = 1_000_000  # whose vectors are loaded for it, some hundred MB

EARLIER_NIGHTS = 30  # nights beside which one is seen: a month
READERS = 16  # threads
MOST_BUCKETS = 16  # whose lists are looked at; each is a random sample of the users


def read_facts(run: RunDir, config: Config | None) -> Facts:
    """Everything that the report of a run shows; what is not there is left out."""
    chain = read_chain(run.lake)
    settings = known_config(run.storage, config)
    night = read_night(
        run.lake, run.ds, run.run_id, chain, identity=run.identity, gate=settings.get("gate")
    )
    events = settings.get("events", {})
    description = read_json(run.storage, "checkpoint/config.json") or {}
    users, no_titles = read_users(run.storage, night, config)
    standing = why_not_current(chain, run.ds, run.run_id, config_path="CONFIG")
    return Facts(
        night=night,
        not_current=standing or "",
        is_stuck=standing is not None and is_future(chain[-1].current["ds"]),
        earlier=earlier_nights(run.lake, run.ds, chain),
        config=settings,
        bad=_bad_rows(run.storage, night, events.get("time_unit")),
        trained_before=description.get("trained_before"),
        model_version=description.get("model_version", ""),
        events_by_day=_events_by_day(run.storage, night),
        lists=_lists(run.storage, night),
        confidence=read_confidence(run, night, config),
        users=users,
        no_titles=no_titles,
    )


def known_config(run: Storage, config: Config | None) -> dict[str, Any]:
    """The resolved config: the given one, else that of the manifest, else nothing."""
    if config is not None:
        return config.resolved()
    found: dict[str, Any] = (read_json(run, "manifest.json") or {}).get("config", {})
    return found


def read_night(
    lake: Storage,
    ds: str,
    run_id: str,
    chain: list[Entry],
    *,
    identity: str | None = None,
    gate: dict[str, Any] | None = None,
) -> Night:
    """What a run has recorded under an identity; None: its own. `gate`: its config, if known."""
    run = lake.sub(f"runs/ds={ds}/{run_id}")
    identity = identity_of(run) if identity is None else identity
    markers = {stage: read_json(run, f"_stages/{stage}.json") for stage in STAGES}
    records = {
        stage: marker["record"]
        for stage, marker in markers.items()
        if marker and marker["identity"] == identity
    }
    metrics, cited = _metrics(run, records, identity)
    stopped = {} if "prepare" in records else read_json(run, STOPPED) or {}
    numbers = tuple(e.number for e in chain if (e.ds, e.run_id) == (ds, run_id))
    night = Night(ds, run_id, "published", "", "", numbers, records, stopped, metrics, cited)
    missing = [stage for stage in STAGES if stage not in records]
    if numbers or not missing:
        return night if numbers else replace(night, status="done")
    outcome = read_json(run, OUTCOME) or {}
    if outcome.get("status") in ("failed", "refused") and outcome.get("stage") not in records:
        stage, error = outcome.get("stage") or "", outcome.get("error") or ""
        return replace(night, status=outcome["status"], stage=stage, error=error)
    return _inferred(night, missing[0], gate or {})


def _metrics(
    run: Storage, records: dict[str, Any], identity: str
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The metrics of the weights, and the run that they are cited from; None: this one."""
    evaluated = records.get("evaluate", {})
    if "reused" in evaluated:
        return evaluated.get("metrics"), evaluated["reused"]
    begun = read_json(run, "_stages/evaluate.begun.json") or {}
    # what an earlier config has left in this directory says nothing of this night
    return read_json(run, "metrics.json") if begun.get("identity") == identity else None, None


def _inferred(night: Night, stage: str, gate: dict[str, Any]) -> Night:
    """How a night ended that left no message: as far as its files tell."""
    if night.stopped:
        error = f"prepare stopped after its first look at the log; its counts: {STOPPED}"
        return replace(night, status="failed", stage=stage, error=error)
    if stage == "evaluate" and night.metrics is not None:
        refused = gate_failures(
            served_metrics(night.metrics),
            floors=gate.get("floors", {}),
            metric=gate.get("metric", ""),
            max_relative_drop=None,
            previous=None,
            versus=_refusing(night, gate),
        )
        if refused:
            error = f"the gate refuses this run: {'; '.join(refused)}"
            return replace(night, status="refused", stage=stage, error=error)
    return replace(night, status="unfinished", stage=stage)


def _refusing(night: Night, gate: dict[str, Any]) -> Versus | None:
    """The model beside the best counter, where the gate refuses a worse one."""
    found = (night.metrics or {}).get("versus")
    if found is None or gate.get("otherwise") != "refuse":
        return None
    return Versus.from_json(found)


def earlier_nights(lake: Storage, ds: str, chain: list[Entry]) -> tuple[Night, ...]:
    """What the last dates before this one show and no rollback went behind, the newest last."""
    entries = standing(chain, ds)[:EARLIER_NIGHTS][::-1]
    with ThreadPoolExecutor(READERS) as readers:
        nights = readers.map(lambda entry: read_night(lake, entry.ds, entry.run_id, chain), entries)
        return tuple(night for night in nights if night.records)  # others were pruned


def all_nights(lake: Storage, *, dates: int) -> Iterator[tuple[Night, bool]]:
    """Every run of the newest dates, the newest first, and whether it has a report.

    What was published and deleted since is among them.
    """
    chain = read_chain(lake)
    folders = [name for name in lake.directories("runs") if name.startswith("ds=")]
    known = {folder.removeprefix("ds=") for folder in folders} | {entry.ds for entry in chain}
    there = [
        (ds, run_id)
        for ds in sorted(known, reverse=True)[:dates]
        for run_id in (lake.directories(f"runs/ds={ds}") if f"ds={ds}" in folders else ())
    ]
    shown = set(sorted(known, reverse=True)[:dates])
    gone = {(e.ds, e.run_id) for e in chain if e.ds in shown} - set(there)
    runs = sorted([*there, *gone], key=lambda run: run[0], reverse=True)

    newest = newest_by_date(chain)

    def read(run: tuple[str, str]) -> tuple[Night, bool]:
        night = read_night(lake, *run, chain)
        if run in gone:
            return replace(night, status="deleted"), False
        if night.numbers and newest[night.ds].run_id != night.run_id:
            night = replace(night, status="replaced")  # by a later run, or a rollback
        return night, lake.exists(f"runs/ds={run[0]}/{run[1]}/{REPORT}")

    with ThreadPoolExecutor(READERS) as readers:
        yield from readers.map(read, runs)


def _bad_rows(run: Storage, night: Night, time_unit: str | None) -> BadRows | None:
    return read_bad_rows(run, time_unit=time_unit) if night.num_bad else None


def _events_by_day(run: Storage, night: Night) -> dict[str, int]:
    """Events per day (UTC), an estimate from some buckets."""
    num_buckets = night.records.get("prepare", {}).get("num_buckets", 0)
    read = min(num_buckets, MOST_BUCKETS)
    found: Counter[str] = Counter()
    for bucket in range(read):
        table = run.read_table(f"sequences/{bucket_name(bucket)}", ["times"])
        times = list_values(table["times"]).to_numpy().astype("datetime64[us]")
        days, counts = np.unique(times.astype("datetime64[D]"), return_counts=True)
        found += Counter(dict(zip(days.astype(str).tolist(), counts.tolist(), strict=True)))
    return {day: round(found[day] * num_buckets / read) for day in sorted(found)}


def _lists(run: Storage, night: Night) -> ListSample | None:
    if not night.num_lists:
        return None
    num_buckets = night.records["prepare"]["num_buckets"]
    read = min(num_buckets, MOST_BUCKETS)
    vocab = run.read_tables("vocab", ["item_id", "count"])
    parts = [
        exposure_of(
            run.read_table(f"recommendations/{bucket_name(bucket)}", ["items", "source"]), vocab
        )
        for bucket in range(read)
    ]
    exposure = sum(parts[1:], parts[0])
    return ListSample(exposure, vocab["count"].to_numpy(), num_buckets, read)


def read_confidence(run: RunDir, night: Night, config: Config | None) -> tuple[Confidence, ...]:
    """Of each step, for users of the first bucket; () where all slots are filled by one pass."""
    if config is None or config.score.decode == "single" or not night.num_lists:
        return ()
    if night.counts("prepare").get("items", 0) > MOST_ITEMS:
        return ()
    name = bucket_name(0)
    lists = run.storage.read_table(f"recommendations/{name}", ["user_id", "source"])
    users = lists.filter(pc.equal(lists["source"], "model"))["user_id"].combine_chunks()
    if not len(users):  # a counter has made the lists, in one pass
        return ()
    most = min(MOST_USERS, config.score.batch_size)
    try:
        steps = remake(config, run, name, users.slice(0, most)).trace.steps
    except DiffsasrecError as error:  # a table of rules is gone: the rest of the page stands
        log.warning("report: no confidence of the steps: %s", error)
        return ()
    found = []
    for number, step in enumerate(steps, 1):
        low, middle, high = np.quantile(step.confidence_F.numpy(), [0.1, 0.5, 0.9]).tolist()
        found.append(Confidence(number, KINDS[step.kind], len(step.slots_F), low, middle, high))
    return tuple(found)
