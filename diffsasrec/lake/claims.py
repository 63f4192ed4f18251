"""Who needs a run directory, and what is about to be deleted.

A deletion is announced before anything is deleted. A process that needs a run claims it before it
relies on it. Each side looks for the other's mark only after it has written its own, so at least
one of the two sees the other and gives way. The announcement of a deleted run stays: it says which
run that was.
"""

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage, to_json

ANNOUNCED = "runs/_deleted"  # below it a directory per run, with a file per announcement
CLAIMED = "runs/_claimed"  # likewise, while a process needs the run
KEPT = ("identity", "reused", "rested")  # fields of the manifest that are kept of a deleted run
CLAIM_SECONDS = 86_400.0  # a process whose claim is older than a day has died


@contextmanager
def claimed(lake: Storage, runs: Iterable[str], *, attempt: str, by: str) -> Iterator[None]:
    """Keeps published runs from being deleted.

    Args:
        runs: their directories, relative to the lake.
        by: what needs them, for the messages.

    Raises:
        ConfigError: one was deleted, or its deletion is announced.
    """
    runs = sorted(runs)
    for run in runs:
        _refuse_deleted(lake, run, by)  # before a claim is written into a lake that has no such run
    marks = [f"{_marks(CLAIMED, run)}/{attempt}.json" for run in runs]
    try:
        for mark in marks:
            lake.write_bytes(mark, to_json({"by": by}))
        for run in runs:
            _refuse_deleted(lake, run, by)
        yield
    finally:
        for mark in marks:
            withdraw(lake, mark)


def _refuse_deleted(lake: Storage, run: str, by: str) -> None:
    announced = lake.list(_marks(ANNOUNCED, run))
    if not lake.exists(f"{run}/manifest.json"):
        raise ConfigError(
            f"{by}: the run directory {lake.url(run)} was pruned; choose a later entry"
        )
    if announced:
        raise ConfigError(
            f"{by}: {lake.url(run)} is being deleted by --keep; choose a later entry; if no --keep "
            f"runs any more, delete {lake.url(announced[0].path)} and run the same command again"
        )


def announce(lake: Storage, run: str) -> str:
    """Says that a run is about to be deleted; returns the path of the announcement."""
    try:
        known = json.loads(lake.read_bytes(f"{run}/manifest.json"))
    except FileNotFoundError:  # an earlier deletion was interrupted
        known = deleted(lake, run) or {}
    kept = {name: known.get(name) for name in KEPT}
    mark = f"{_marks(ANNOUNCED, run)}/{uuid.uuid4().hex[:12]}.json"
    lake.create(mark, to_json({"run": run, **kept}))
    return mark


def is_claimed(lake: Storage, run: str) -> bool:
    # the clock only decides how long to wait for a process that has died
    return any(
        time.time() - claim.modified < CLAIM_SECONDS for claim in lake.list(_marks(CLAIMED, run))
    )


def deleted(lake: Storage, run: str) -> dict[str, Any] | None:
    """What is known of a deleted run: run and `KEPT`; None if nothing is known."""
    for info in lake.list(_marks(ANNOUNCED, run)):
        try:
            found: dict[str, Any] = json.loads(lake.read_bytes(info.path))
        except FileNotFoundError:
            continue  # withdrawn meanwhile
        if found["identity"] is not None:
            return found
    return None


def forget_claims(lake: Storage, run: str) -> None:
    """Removes the claims that dead processes have left to a deleted run."""
    lake.delete_tree(_marks(CLAIMED, run))


def withdraw(lake: Storage, mark: str) -> None:
    """Takes a claim or an announcement back."""
    lake.delete([mark])
    lake.remove_empty(mark.rpartition("/")[0])


def _marks(kind: str, run: str) -> str:
    return f"{kind}/{run.removeprefix('runs/')}"
