"""Which dates of the copy that consumers read need a look: years of nights are a thousand dates.

A small file says up to which entry of the chain every date shows its newest entry whole, with no
replaced part beside it, and which dates don't yet. It is written after what it says is true, and it
only ever spares work: without it, every date is looked at.

A publisher that is overtaken while it copies, and then dies, leaves parts in a date that was
settled before. So every publisher leaves a mark before it copies, and takes it back once the date
is known to be settled again. A date with a mark is looked at.
"""

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from diffsasrec.files.storage import FileInfo, Storage, to_json
from diffsasrec.lake.chain import Entry, newest_by_date
from diffsasrec.lake.claims import CLAIM_SECONDS, withdraw

SETTLED = "recommendations/_settled"
STATE = f"{SETTLED}/state.json"
RECENT = 8  # dates, the newest: always looked at, so that one that has lost files is repaired


@dataclass(frozen=True)
class Settled:
    """What is known before a look; `until` 0: nothing."""

    until: int  # number of an entry: every date is settled that has no newer one ...
    unsettled: frozenset[str]  # ... except these
    marks: tuple[FileInfo, ...]  # of publishers that copy, or died while they did
    version: str | None  # of the file


def read_settled(lake: Storage) -> Settled:
    """What the lake says; read it before the chain."""
    marks = tuple(info for info in lake.list(SETTLED) if info.path != STATE)
    version = lake.version(STATE)
    try:
        state = json.loads(lake.read_bytes(STATE))
        until, unsettled = int(state["until"]), frozenset(map(str, state["unsettled"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or not one of ours
        until, unsettled = 0, frozenset()
    return Settled(until, unsettled, marks, version)


def to_look_at(known: Settled, chain: list[Entry], dates: Iterable[str]) -> set[str]:
    """The published dates that may be unsettled, those of `dates`, and the newest ones."""
    newest = newest_by_date(chain)
    until = known.until if known.until <= len(chain) else 0  # of another chain
    behind = {ds for ds, entry in newest.items() if entry.number > until}
    marked = {date_of(mark) for mark in known.marks}
    recent = sorted(newest)[-RECENT:]
    return {*behind, *known.unsettled, *marked, *recent, *dates} & set(newest)


def write_settled(lake: Storage, known: Settled, *, until: int, unsettled: set[str]) -> bool:
    """Says that all dates are settled up to entry `until`, except `unsettled`.

    Returns:
        False if another publisher has written since `known` was read: what it says stays.
    """
    if until == known.until and unsettled == known.unsettled:
        return True
    data = to_json({"until": until, "unsettled": sorted(unsettled)})
    return lake.replace(STATE, data, known.version)


def mark(lake: Storage, ds: str) -> str:
    """Says that this process is about to copy into a date; returns the path of the mark."""
    path = f"{SETTLED}/ds={ds}/{uuid.uuid4().hex[:12]}.json"
    lake.write_bytes(path, to_json({}))
    return path


def take_back(lake: Storage, known: Settled, marks: Iterable[str]) -> None:
    """Removes the marks of this process, and those whose process has died."""
    # the clock only decides how long to wait for it
    dead = [info.path for info in known.marks if time.time() - info.modified >= CLAIM_SECONDS]
    for path in (*marks, *dead):
        withdraw(lake, path)


def date_of(mark: FileInfo) -> str:
    """The date in the path of a mark."""
    return mark.path.removeprefix(f"{SETTLED}/ds=").partition("/")[0]
