"""The chain: numbered files, each created exactly once. Creating one is the commit of a run.

An entry names an immutable run directory, and the run that is current from then on. The copy that
consumers read follows the chain (lake/consumer_copy.py).
"""

import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import repeat

from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import REQUESTS, Storage, to_json
from diffsasrec.lake.claims import claimed
from diffsasrec.lake.run_dir import RunDir, run_path

log = logging.getLogger(__name__)

CHAIN = "recommendations/_published"
TRIES = 10  # to see an entry that is reported to exist
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # of a directory: a date or a run id


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
        InfrastructureError: a number is missing or an entry is not valid; the chain was tampered
            with.
    """
    paths = [info.path for info in lake.list(CHAIN) if info.path.endswith(".json")]
    with ThreadPoolExecutor(REQUESTS) as readers:  # years of nights are a thousand files
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
    if not is_whole:  # what it names is copied and deleted: it must be inside the lake
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
    """What the date of a published run shows instead of it, after a rollback or a newer run."""
    entry = newest_by_date(read_chain(lake)).get(run.ds)
    return entry if entry is not None and entry.run_id != run.run_id else None


def append_entry(lake: Storage, run: RunDir, manifest_sha256: str) -> tuple[Entry, bool]:
    """Adds the run to the chain: the commit. Tries the next number while others take it.

    Returns:
        the entry of this run, and whether this attempt made it (not an earlier one).
    """
    for chain in _growing(lake):
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
        # chain again and finds either our own attempt id or a faster run
        if lake.create(entry.path, to_json(asdict(entry))):
            return entry, True
    raise AssertionError(lake.root)


def _growing(lake: Storage) -> Iterator[list[Entry]]:
    """Yields the chain again and again, while others add to it.

    Raises:
        InfrastructureError: an entry can't be created, and yet never appears.
    """
    tries, length = 0, -1
    while tries < TRIES:
        chain = read_chain(lake)
        tries = tries + 1 if len(chain) == length else 0
        length = len(chain)
        yield chain
    raise InfrastructureError(
        f"entry {length + 1} of the chain in {lake.url(CHAIN)} can't be created, and is not there; "
        "look at that directory, and run the same command again"
    )


def append_rollback(lake: Storage, number: int, *, attempt: str) -> Entry:
    """Adds an entry that serves again what entry `number` served when it was the newest.

    The date of that entry shows its run again. Dates that were published since then keep what they
    show: only `current` goes back.

    Raises:
        ConfigError: there is no such entry, or its run directory was deleted or is about to be
            deleted.
    """
    for chain in _growing(lake):
        for entry in chain:
            if entry.attempt == attempt:  # our entry is there, but the answer was lost
                return entry
        if not 1 <= number <= len(chain):
            raise ConfigError(
                f"--rollback-to {number}: the chain of {lake.root} has {len(chain)} entries, from 1"
            )
        target = chain[number - 1]
        entry = replace(target, number=len(chain) + 1, attempt=attempt, previous=len(chain))
        runs = {run_path(target.ds, target.run_id), run_path(**target.current)}
        with claimed(lake, runs, attempt=attempt, by=f"--rollback-to {number}"):
            if lake.create(entry.path, to_json(asdict(entry))):
                return entry
    raise AssertionError(lake.root)


def check_create_only(lake: Storage, *, single_writer: bool) -> None:
    """Refuses a store on which two publishers could both win.

    Raises:
        ConfigError: unless the user promises to be the only writer.
    """
    if not single_writer and not lake.has_create_only():
        raise ConfigError(
            f"the store of {lake.root} ignores create-only writes (If-None-Match), so two "
            "runs could publish at once; use another store, or set publish.single_writer=true if "
            "nothing else ever publishes there"
        )
