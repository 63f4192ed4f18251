"""Chain and lake: how a run becomes what consumers read, whole at every moment.

The chain is a list of numbered files, each created exactly once; creating one is the commit. It
names an immutable run directory. After the commit the winner copies the run's parts to the date's
directory, replaces _SUCCESS with one write, and removes the parts it replaced after a grace time.
Whoever publishes next finishes a copy that was interrupted.
"""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise, repeat
from typing import Any

from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.progress import HEARTBEAT
from diffsasrec.rundir import RunDir, to_json
from diffsasrec.storage import FileInfo, Storage, sha256

CHAIN = "recommendations/_published"
READERS = 16  # threads
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # of a directory: a date or a run id
PART = re.compile(r"recommendations/ds=([^/]+)/part-(.+)-(\d{5,})\.parquet")


@dataclass(frozen=True)
class Entry:
    """One link of the chain."""

    number: int
    attempt: str
    ds: str
    run_id: str
    manifest_sha256: str
    previous: int | None
    current: dict[str, str]  # ds and run_id of what is served

    @property
    def path(self) -> str:
        return f"{CHAIN}/{self.number:08d}.json"


def read_chain(lake: Storage) -> list[Entry]:
    """All entries, oldest first.

    Raises:
        InfrastructureError: a number is missing or an entry is none; someone has tampered with it.
    """
    paths = [info.path for info in lake.list(CHAIN) if info.path.endswith(".json")]
    with ThreadPoolExecutor(READERS) as readers:  # years of nights are a thousand files
        entries = list(readers.map(_read_entry, repeat(lake), paths))
    if [entry.number for entry in entries] != list(range(1, len(entries) + 1)):
        raise InfrastructureError(
            f"the chain in {lake.url(CHAIN)} has a gap: {[entry.number for entry in entries]}; "
            "restore the missing entries before publishing again"
        )
    return entries


@cache
def _read_entry(lake: Storage, path: str) -> Entry:
    # created once and never changed: a process reads it once
    try:
        entry = Entry(**json.loads(lake.read_bytes(path)))
        names = [entry.ds, entry.run_id, *entry.current.values()]
        is_whole = set(entry.current) == {"ds", "run_id"} and all(map(NAME.fullmatch, names))
    except (ValueError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:  # what it names is copied and deleted: never outside of the lake
        raise InfrastructureError(
            f"{lake.url(path)} is no entry of the chain; restore it before publishing again"
        )
    return entry


def standing(chain: list[Entry], ds: str) -> list[Entry]:
    """What each date before `ds` shows, the newest date first, without what was taken back.

    A rollback takes back the dates after the one that it serves again: nothing is compared with
    them, and nothing is taken from them.
    """
    shown: dict[str, Entry] = {}
    published: set[tuple[str, str]] = set()
    for entry in chain:
        if entry.ds >= ds:
            continue
        if (entry.ds, entry.run_id) in published:  # only a rollback names a run again
            shown = {date: e for date, e in shown.items() if date <= entry.current["ds"]}
        published.add((entry.ds, entry.run_id))
        shown[entry.ds] = entry
    return [shown[date] for date in sorted(shown, reverse=True)]


def newest_by_date(chain: list[Entry]) -> dict[str, Entry]:
    """What each published date shows."""
    return {entry.ds: entry for entry in chain}


def shown_instead(lake: Storage, run: RunDir) -> Entry | None:
    """What the date of a published run shows in its place, after a rollback or a newer run."""
    entry = newest_by_date(read_chain(lake)).get(run.ds)
    return entry if entry is not None and entry.run_id != run.run_id else None


def append_entry(lake: Storage, run: RunDir, manifest_sha256: str) -> tuple[Entry, bool]:
    """Adds the run to the chain: the commit. Tries the next number while others take it.

    Returns:
        the entry of this run, and whether this attempt made it (an earlier one may have).
    """
    while True:
        chain = read_chain(lake)
        for entry in chain:
            if (entry.ds, entry.run_id) == (run.ds, run.run_id):
                return entry, entry.attempt == run.attempt
        last = chain[-1] if chain else None
        mine = {"ds": run.ds, "run_id": run.run_id}
        entry = Entry(
            number=last.number + 1 if last else 1,
            attempt=run.attempt,
            ds=run.ds,
            run_id=run.run_id,
            manifest_sha256=manifest_sha256,
            previous=last.number if last else None,
            current=mine if last is None or run.ds >= last.current["ds"] else last.current,
        )
        # False can also be the answer to a retry whose first answer was lost: the loop reads the
        # chain again and finds our own attempt id there, or that another run was faster
        if lake.create(entry.path, to_json(asdict(entry))):
            return entry, True


def append_rollback(lake: Storage, number: int, *, attempt: str) -> Entry:
    """Adds an entry that serves again what entry `number` served when it was the newest.

    The date of that entry shows that entry's run again. Dates that were published since keep what
    they show: only `current` goes back.

    Raises:
        ConfigError: there is no such entry, or its run directory was pruned.
    """
    while True:
        chain = read_chain(lake)
        for entry in chain:
            if entry.attempt == attempt:  # the answer to it was lost
                return entry
        if not 1 <= number <= len(chain):
            raise ConfigError(
                f"--rollback-to {number}: the chain of {lake.root} has {len(chain)} entries, from 1"
            )
        target = chain[number - 1]
        for run in ({"ds": target.ds, "run_id": target.run_id}, target.current):
            if not lake.exists(f"{run_path(**run)}/manifest.json"):
                raise ConfigError(
                    f"--rollback-to {number}: the run directory {lake.url(run_path(**run))} was "
                    "pruned; choose a later entry"
                )
        entry = replace(target, number=len(chain) + 1, attempt=attempt, previous=len(chain))
        if lake.create(entry.path, to_json(asdict(entry))):
            return entry


def run_path(ds: str, run_id: str) -> str:
    """The directory of a published run, relative to the lake."""
    return f"runs/ds={ds}/{run_id}"


def prune(lake: Storage, *, keep: int, grace: float) -> list[str]:
    """Deletes the directories of published runs but for the newest `keep` in the chain.

    What is served stays, and what was served until `grace` seconds ago: readers may be at it. Runs
    that were never published are left alone.

    Returns:
        the deleted run directories, relative to the lake.
    """
    chain = read_chain(lake)
    published = [run_path(entry.ds, entry.run_id) for entry in chain]
    newest = list(dict.fromkeys(reversed(published)))
    kept = {*newest[:keep], *(run_path(**entry.current) for entry in chain[-1:])}
    made = {info.path: info.modified for info in lake.list(CHAIN)}
    for entry, later in pairwise(chain):
        # the clock decides only how long readers are waited for
        if time.time() - made[later.path] < grace:
            kept |= {run_path(entry.ds, entry.run_id), run_path(**entry.current)}
    pruned = []
    for path in newest:
        if path not in kept and lake.exists(f"{path}/manifest.json"):
            # the manifest first: nobody takes what is half deleted for a run
            lake.delete([f"{path}/manifest.json"])
            lake.delete([info.path for info in lake.list(path)])
            pruned.append(path)
    return pruned


def read_manifest(lake: Storage, entry: Entry) -> dict[str, Any]:
    """The manifest of the run that `entry` names.

    Raises:
        FileNotFoundError: the run was pruned.
        InfrastructureError: it is not the manifest that was published.
    """
    source = run_path(entry.ds, entry.run_id)
    data = lake.read_bytes(f"{source}/manifest.json")
    if sha256(data) != entry.manifest_sha256:
        raise InfrastructureError(
            f"{lake.url(source)}/manifest.json is not the one that chain entry {entry.number} "
            "names (sha256); the run directory was changed after publishing"
        )
    manifest: dict[str, Any] = json.loads(data)
    return manifest


def copy_to_lake(lake: Storage, entry: Entry) -> None:
    """Copies the parts that `entry` names to its date, then replaces _SUCCESS. May be repeated."""
    source = run_path(entry.ds, entry.run_id)
    manifest = read_manifest(lake, entry)
    directory = f"recommendations/ds={entry.ds}"
    files = []
    for file in manifest["files"]:
        if file["path"].startswith("recommendations/"):
            name = file["path"].rpartition("part-")[2]
            target = f"part-{entry.run_id}-{name}"
            lake.copy(f"{source}/{file['path']}", f"{directory}/{target}")
            HEARTBEAT.beat()
            files.append({"path": target, "rows": file["rows"], "sha256": file["sha256"]})
    success = {
        "ds": entry.ds,
        "run_id": entry.run_id,
        "rows": sum(file["rows"] for file in files),
        "model_version": manifest["model_version"],
        "files": files,
    }
    lake.write_bytes(f"{directory}/_SUCCESS", to_json(success))


def settle(lake: Storage, *, grace: float) -> list[str]:
    """Makes every date show its newest chain entry, and removes parts replaced `grace` seconds ago.

    Returns:
        the dates whose copy was finished or made.
    """
    settled: list[str] = []
    newest: dict[str, Entry] = {}
    while True:
        before, newest = newest, newest_by_date(read_chain(lake))
        if newest == before:
            break  # else once more: who copies slowly may have overwritten a newer version
        files = {info.path: info for info in lake.list("recommendations")}
        for ds, entry in newest.items():
            if not _shows(lake, entry) and _has_run(lake, entry):
                copy_to_lake(lake, entry)
                settled.append(ds)
    for ds, entry in newest.items():
        _remove_replaced(lake, ds, entry, files, grace)
    return settled


def _has_run(lake: Storage, entry: Entry) -> bool:
    """Whether the run directory is still there: old ones may have been pruned."""
    return lake.exists(f"{run_path(entry.ds, entry.run_id)}/manifest.json")


def _shows(lake: Storage, entry: Entry) -> bool:
    """Whether a date's _SUCCESS is that of its newest entry."""
    try:
        success = json.loads(lake.read_bytes(f"recommendations/ds={entry.ds}/_SUCCESS"))
    except FileNotFoundError:
        return False
    return bool(success["run_id"] == entry.run_id)


def _remove_replaced(
    lake: Storage, ds: str, entry: Entry, files: dict[str, FileInfo], grace: float
) -> None:
    parts = [(path, PART.fullmatch(path)) for path in files]
    old = [p for p, match in parts if match and match[1] == ds and match[2] != entry.run_id]
    if not old:
        return
    shown = [f for f in lake.list(f"recommendations/ds={ds}") if f.path.endswith("/_SUCCESS")]
    # the clock decides only how long readers of the old version are waited for
    if shown and time.time() - shown[0].modified >= grace and _shows(lake, entry):
        lake.delete(old)


def check_create_only(lake: Storage, *, single_writer: bool) -> None:
    """Refuses a store on which two publishers could both win.

    Raises:
        ConfigError: unless the user promises to be the only writer.
    """
    if not single_writer and not lake.has_create_only():
        raise ConfigError(
            f"the store of {lake.root} ignores create-only writes (If-None-Match), so that two "
            "runs could publish at once; use another store, or set publish.single_writer=true if "
            "nothing else ever publishes there"
        )


def manifest_for(run: RunDir, content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Writes manifest.json once per run; a later attempt gets the first one's.

    Returns:
        the manifest and its sha256.
    """
    run.storage.create("manifest.json", to_json(content))
    data = run.storage.read_bytes("manifest.json")
    return json.loads(data), sha256(data)
