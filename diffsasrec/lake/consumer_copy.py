"""The copy that consumers read: every date shows its newest chain entry, always complete.

The parts are copied to the date's directory, _SUCCESS is replaced with one write, and the parts
that it named before are removed after a grace time. The next publication finishes an interrupted
copy, and repairs one that lost files.

A part's name holds the number of its entry, so no name is ever used for two publications: a deleted
name can't come back. A publisher replaces _SUCCESS only if it has read the chain since the last
replacement: a slow publisher can't bring an older version back.
"""

import json
import logging
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import REQUESTS, Storage, to_json
from diffsasrec.lake.chain import Entry, newest_by_date, read_chain
from diffsasrec.lake.manifest import read_manifest
from diffsasrec.lake.run_dir import run_path
from diffsasrec.lake.settled import (
    Settled,
    mark,
    read_settled,
    take_back,
    to_look_at,
    write_settled,
)
from diffsasrec.progress import HEARTBEAT, beating

log = logging.getLogger(__name__)

ROUNDS = 100  # of settling, while others publish
PART = re.compile(r"part-(.+)-\d{5,}\.parquet")  # with run id and number of the entry


def copy_to_lake(lake: Storage, entry: Entry) -> bool:
    """Copies the parts that `entry` names to its date, then replaces _SUCCESS. May be repeated.

    Returns:
        whether the date shows the entry now; if not, the date was published again meanwhile.
    """
    source = run_path(entry.ds, entry.run_id)
    manifest = read_manifest(lake, entry)
    directory = date_path(entry.ds)
    parts = [file for file in manifest["files"] if file["path"].startswith("recommendations/")]
    files = [
        {"path": part_name(entry, f["path"]), "rows": f["rows"], "sha256": f["sha256"]}
        for f in parts
    ]
    sources = [f"{source}/{file['path']}" for file in parts]
    targets = [f"{directory}/{file['path']}" for file in files]
    # a store copies by itself, and each request only waits for it
    with ThreadPoolExecutor(REQUESTS) as pool:
        for _ in beating(pool.map(lake.copy, sources, targets)):
            pass
    success = {
        "ds": entry.ds,
        "run_id": entry.run_id,
        "rows": sum(file["rows"] for file in files),
        "model_version": manifest["model_version"],
        "files": files,
    }
    version = lake.version(f"{directory}/_SUCCESS")
    # a publisher that adds an entry after the chain is read here replaces _SUCCESS after its
    # version was read: then our write is refused
    if newest_by_date(read_chain(lake))[entry.ds] != entry:
        return False
    return lake.replace(f"{directory}/_SUCCESS", to_json(success), version)


def date_path(ds: str) -> str:
    """The directory with what a date shows, relative to the lake."""
    return f"recommendations/ds={ds}"


def part_name(entry: Entry, path: str) -> str:
    """The name of a part of the run in the directory of its date."""
    return f"part-{entry.run_id}-{entry.number:08d}-{path.rpartition('part-')[2]}"


def number_of(name: str, ds: str, chain: list[Entry]) -> int | None:
    """The entry that a part of a date was copied for; None if it is not a part.

    0: the name has no number, as in earlier versions.
    """
    match = PART.fullmatch(name)
    if match is None:
        return None
    run_id, _, digits = match[1].rpartition("-")
    if re.fullmatch(r"\d{8,}", digits) and 0 < int(digits) <= len(chain):
        entry = chain[int(digits) - 1]
        if (entry.ds, entry.run_id) == (ds, run_id):
            return entry.number
    return 0


def settle(lake: Storage, *, grace: float, dates: Iterable[str] = ()) -> list[str]:
    """Makes dates show their newest chain entry, and removes parts replaced `grace` seconds ago.

    It looks at the dates that are not known to be settled (lake/settled.py), at the newest ones,
    and at `dates`. Dates that can no longer be shown completely are named in the log.

    Returns:
        the dates whose copy was finished, made or repaired.

    Raises:
        InfrastructureError: others publish all the time, or the newest entry can't be shown.
    """
    settled: list[str] = []
    given_up: dict[int, str] = {}  # by number of an entry: what its run has lost
    marks: dict[str, str] = {}  # by date
    for _ in range(ROUNDS):
        known = read_settled(lake)
        look = _look(lake, known, {*dates, *marks})
        behind = [look.newest[ds] for ds, parts in look.shown.items() if parts is None]
        behind = [entry for entry in behind if entry.number not in given_up]
        if not behind:
            break
        for entry in behind:
            if lost := _lost_of_run(lake, entry):
                given_up[entry.number] = lost
                _tell_lost(lake, entry, lost, look)
                continue
            if entry.ds not in marks:
                marks[entry.ds] = mark(lake, entry.ds)
            if _copied(lake, entry):
                settled.append(entry.ds)
    else:
        raise InfrastructureError(
            f"{lake.url('recommendations')} does not settle: others publish all the time, or the "
            "store does not show what was written; run the same command again"
        )
    unsettled = _tidied(lake, look, given_up, grace)
    if write_settled(lake, known, until=look.until, unsettled=unsettled):
        take_back(lake, known, marks.values())
    return settled


@dataclass(frozen=True)
class _Look:
    """What some dates show at one moment."""

    until: int  # all dates that have a newer entry than is known to be settled, up to this one
    chain: list[Entry]
    newest: dict[str, Entry]  # by date, like the following
    names: dict[str, set[str]]  # of the files in the directory of the date
    shown: dict[str, set[str] | None]  # like `shown_parts`


def _look(lake: Storage, known: Settled, dates: Iterable[str]) -> _Look:
    before = read_chain(lake)
    looked_at = sorted(to_look_at(known, before, dates))
    with ThreadPoolExecutor(REQUESTS) as readers:
        # the files first: each part among them then has its entry in the chain
        names = [*beating(readers.map(partial(names_of, lake), looked_at))]
        chain = read_chain(lake)
        newest = newest_by_date(chain)
        entries = [newest[ds] for ds in looked_at]
        shown = [*beating(readers.map(partial(shown_parts, lake, chain=chain), entries, names))]
    names_by = dict(zip(looked_at, names, strict=True))
    shown_by = dict(zip(looked_at, shown, strict=True))
    return _Look(len(before), chain, newest, names_by, shown_by)


def _tidied(lake: Storage, look: _Look, given_up: dict[int, str], grace: float) -> set[str]:
    """Removes what was replaced long enough ago; returns the dates that are not settled then."""
    unsettled = set()
    for ds, parts in look.shown.items():
        HEARTBEAT.beat()
        if parts is not None:
            is_settled = _remove_replaced(lake, look.newest[ds], parts, look, grace)
        else:  # nothing can be shown: settled if nothing is, and the run was deleted
            lost = given_up[look.newest[ds].number]
            is_settled = not look.names[ds] and lost.endswith("/manifest.json")
        if not is_settled:
            unsettled.add(ds)
    return unsettled


def _copied(lake: Storage, entry: Entry) -> bool:
    try:
        return copy_to_lake(lake, entry)
    except FileNotFoundError:
        return False  # a file of the run is gone meanwhile: the next round finds out which


def _lost_of_run(lake: Storage, entry: Entry) -> str | None:
    """The first missing file that the date needs to show the run; None if all are there."""
    source = run_path(entry.ds, entry.run_id)
    try:
        manifest = read_manifest(lake, entry)
    except FileNotFoundError:
        return f"{source}/manifest.json"
    there = {info.path for info in lake.list(f"{source}/recommendations")}
    paths = [f"{source}/{file['path']}" for file in manifest["files"]]
    lost = [p for p in paths if p.startswith(f"{source}/recommendations/") and p not in there]
    return lost[0] if lost else None


def _tell_lost(lake: Storage, entry: Entry, lost: str, look: _Look) -> None:
    """Logs a date that can't be shown completely; one that shows nothing is not reported.

    Raises:
        InfrastructureError: it is the newest entry of the chain.
    """
    text = (
        f"{entry.ds} does not show its entry {entry.number} whole, and {lake.url(lost)} is gone; "
        f"publish that date with another --run-id, or delete {lake.url(date_path(entry.ds))}"
    )
    if entry == look.chain[-1] and not lost.endswith("/manifest.json"):
        raise InfrastructureError(text)
    if look.names[entry.ds]:
        log.warning("publish: %s", text)


def names_of(lake: Storage, ds: str) -> set[str]:
    """The names of the files in the directory of a date."""
    directory = date_path(ds)
    return {info.path.removeprefix(f"{directory}/") for info in lake.list(directory)}


def shown_parts(
    lake: Storage, entry: Entry, names: set[str], *, chain: list[Entry]
) -> set[str] | None:
    """The names of the parts with which a date shows the entry; None if it does not, or lost some.

    Args:
        names: of the files in the directory of the date.
    """
    if "_SUCCESS" not in names:
        return None
    run_id, parts = read_success(lake, entry.ds)
    numbers = {number_of(name, entry.ds, chain) for name in parts}
    # names without a number do not tell of a rollback, which others may not have seen yet
    is_first = not any(
        (e.ds, e.run_id) == (entry.ds, entry.run_id) for e in chain[: entry.number - 1]
    )
    is_entry = numbers == {entry.number} or (is_first and numbers == {0})
    is_entry &= run_id == entry.run_id
    return parts if is_entry and parts <= names else None


def read_success(lake: Storage, ds: str) -> tuple[str | None, set[str]]:
    """The run and the names of the parts that a date's _SUCCESS names; None and {} without one."""
    try:
        success = json.loads(lake.read_bytes(f"{date_path(ds)}/_SUCCESS"))
        return success["run_id"], {file["path"] for file in success["files"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or not one of ours
        return None, set()


def lists_of(lake: Storage, ds: str, run_id: str) -> list[str]:
    """The files with the lists of a published run, relative to the lake; [] where any is gone.

    They lie in the run directory or, once that is deleted, in the directory of its date.
    """
    source = run_path(ds, run_id)
    try:
        manifest = json.loads(lake.read_bytes(f"{source}/manifest.json"))
        named = [f"{source}/{file['path']}" for file in manifest["files"]]
        paths = {path for path in named if path.startswith(f"{source}/recommendations/")}
        there = {info.path for info in lake.list(f"{source}/recommendations")}
        if paths <= there:
            return sorted(paths)
    except FileNotFoundError:
        pass  # deleted
    shown, names = read_success(lake, ds)
    paths = {f"{date_path(ds)}/{name}" for name in names} if shown == run_id else set()
    return sorted(paths) if paths <= {info.path for info in lake.list(date_path(ds))} else []


def _remove_replaced(
    lake: Storage, entry: Entry, parts: set[str], look: _Look, grace: float
) -> bool:
    """Deletes the parts of earlier publications of a date that shows `entry` with `parts`.

    Returns:
        whether none of them is left.
    """
    directory = date_path(entry.ds)
    others = sorted(look.names[entry.ds] - parts)
    numbers = {name: number_of(name, entry.ds, look.chain) for name in others}
    old = [name for name, number in numbers.items() if number is not None and number < entry.number]
    if not old:
        return True
    # as it is now: it may have been replaced after the listing. The clock only decides how long to
    # wait for readers of the old version
    replaced = [info.modified for info in lake.list(f"{directory}/_SUCCESS")]
    if not replaced or time.time() - replaced[0] < grace:
        return False
    lake.delete([f"{directory}/{name}" for name in old])
    return True
