"""Deletes the directories of old runs that nobody needs, after it has announced each deletion."""

import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from diffsasrec.files.storage import REQUESTS, Storage
from diffsasrec.lake.chain import CHAIN, Entry, newest_by_date, read_chain
from diffsasrec.lake.claims import announce, forget_claims, is_claimed, withdraw
from diffsasrec.lake.consumer_copy import names_of, settle, shown_parts
from diffsasrec.lake.run_dir import run_path
from diffsasrec.progress import HEARTBEAT, beating

log = logging.getLogger(__name__)


def prune(lake: Storage, *, keep: int, grace: float) -> list[str]:
    """Deletes the directories of published runs, except the newest `keep` in the chain.

    A run stays if it is served, or was served until `grace` seconds ago: readers may still use it.
    It also stays if it was never published, or if its date does not show it yet: that is repaired.

    Returns:
        the deleted run directories, relative to the lake.
    """
    if lake.is_local:  # a store shows no part of a write
        lake.sweep()
    chain = read_chain(lake)
    present = _run_directories(lake, {entry.ds for entry in chain})
    needed = _needed(lake, chain, keep=keep, grace=grace)
    newest = {run_path(e.ds, e.run_id): e for e in chain}  # the newest entry of each
    pruned, unshown = [], []
    for path, entry in sorted(newest.items(), key=lambda item: -item[1].number):
        if path not in present or path in needed:
            continue
        if not _shown_or_replaced(lake, entry):
            unshown.append(entry.ds)
        elif _announced(lake, entry, keep=keep, grace=grace):
            # the manifest first: nobody takes a half-deleted directory for a run
            lake.delete([f"{path}/manifest.json"])
            lake.delete_tree(path)
            forget_claims(lake, path)
            pruned.append(path)
        HEARTBEAT.beat()
    if unshown:  # only the directories of their runs can repair them
        settle(lake, grace=grace, dates=unshown)
    return pruned


def _needed(lake: Storage, chain: list[Entry], *, keep: int, grace: float) -> set[str]:
    """The run directories that must stay, as far as the chain tells."""
    published = [run_path(entry.ds, entry.run_id) for entry in chain]
    newest = list(dict.fromkeys(reversed(published)))
    needed = {*newest[:keep], *(run_path(**entry.current) for entry in chain[-1:])}
    made = {info.path: info.modified for info in lake.list(CHAIN)}
    for entry, later in pairwise(chain):
        # the clock only decides how long to wait for readers
        if time.time() - made[later.path] < grace:
            needed |= {run_path(entry.ds, entry.run_id), run_path(**entry.current)}
    return needed


def _shown_or_replaced(lake: Storage, entry: Entry) -> bool:
    """Whether the date no longer needs the run: it shows its lists, or those of another run."""
    names = names_of(lake, entry.ds)
    chain = read_chain(lake)
    newest = newest_by_date(chain)[entry.ds]  # a rollback may have named the run again
    if newest.run_id != entry.run_id:
        return True
    return shown_parts(lake, newest, names, chain=chain) is not None


def _announced(lake: Storage, entry: Entry, *, keep: int, grace: float) -> bool:
    """Announces the deletion of a run; False, and no announcement, if a process needs it."""
    path = run_path(entry.ds, entry.run_id)
    mark = announce(lake, path)
    # the claims before the chain: a claim that is gone has left its entry there
    is_free = not is_claimed(lake, path)
    needed = _needed(lake, read_chain(lake), keep=keep, grace=grace)
    if is_free and path not in needed and _shown_or_replaced(lake, entry):
        return True
    log.warning("publish: %s is not deleted: it is needed again", path)
    withdraw(lake, mark)
    return False


def _run_directories(lake: Storage, dates: Iterable[str]) -> set[str]:
    """The run directories of these dates that exist."""
    there = set(lake.directories("runs"))
    folders = [f"runs/ds={ds}" for ds in dates if f"ds={ds}" in there]
    with ThreadPoolExecutor(REQUESTS) as pool:
        found = list(beating(pool.map(lake.directories, folders)))
    return {
        f"{folder}/{run_id}"
        for folder, run_ids in zip(folders, found, strict=True)
        for run_id in run_ids
    }
