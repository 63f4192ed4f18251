"""Published runs of a few rows, written by hand, and what others do to a lake meanwhile."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa

from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import (
    Entry,
    append_entry,
)
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.manifest import manifest_for
from diffsasrec.lake.run_dir import RunDir
from jobs.faults.rig.nights import DATE

DAY, NEXT_DAY = "2024-03-01", "2024-03-02"
VERBS = ("create", "replace", "copy", "delete", "delete_tree", "list", "exists")
LONG = 1e6  # seconds of grace that no test lives to see the end of


def run_of(lake: Storage, run_id: str, ds: str = DAY, attempt: str = "first") -> RunDir:
    return RunDir(lake, ds=ds, run_id=run_id, identity="i", attempt=attempt)


def made(
    lake: Storage,
    run_id: str,
    ds: str = DAY,
    rows: tuple[int, ...] = (2, 1),
    content: Mapping[str, Any] | None = None,
) -> Entry:
    """A scored run with a manifest and an entry of the chain; nothing is copied yet."""
    run = run_of(lake, run_id, ds)
    vocab = pa.table({"item_id": ["a", "b", "c"]})
    files = [run.storage.write_table("vocab/part-00000.parquet", vocab)]
    for number, n in enumerate(rows):
        table = pa.table({"user_id": list(range(n)), "run": [run_id] * n})
        path = f"recommendations/part-{number:05d}.parquet"
        files.append(run.storage.write_table(path, table))
    known = {"model_version": f"model of {run_id}", "files": files, "identity": f"i of {run_id}"}
    _, digest = manifest_for(run, known | dict(content or {}))
    return append_entry(lake, run, digest)[0]


def shown(lake: Storage, ds: str = DAY) -> list[str]:
    """The names in the directory of a date."""
    return [info.path.rpartition("/")[2] for info in lake.list(f"recommendations/ds={ds}")]


def parts(run_id: str, number: int, num: int = 2) -> list[str]:
    """The names of a run's parts, as entry `number` shows them."""
    return [f"part-{run_id}-{number:08d}-{n:05d}.parquet" for n in range(num)]


def success(lake: Storage, ds: str = DAY) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(lake.read_bytes(f"recommendations/ds={ds}/_SUCCESS"))
    return content


def missing(lake: Storage, ds: str = DAY) -> list[str]:
    """The files that _SUCCESS names and that are not there."""
    there = shown(lake, ds)
    return [file["path"] for file in success(lake, ds)["files"] if file["path"] not in there]


def snapshot(lake: Storage) -> list[tuple[str, str]]:
    return [(info.path, info.version) for info in lake.list()]


def meanwhile(lake: Storage, verb: str, path: str, happens: Callable[[], object]) -> Storage:
    """The same lake for one process, in which something happens once, before a verb on a path.

    Args:
        path: a part of the path that the verb touches, or, of a copy, of its target.
    """
    pending, lock = [happens], Lock()

    class Watched(Storage):
        pass

    def watch(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(self: Storage, *arguments: Any, **options: Any) -> Any:
            touched = arguments[-1] if name == "copy" else arguments[0] if arguments else ""
            touched = " ".join(touched) if name == "delete" else touched
            with lock:  # parts are copied by several threads
                is_now = pending and name == verb and path in touched
                happening = pending.pop() if is_now else None
            if happening is not None:
                happening()
            return method(self, *arguments, **options)

        return watched

    for name in VERBS:
        setattr(Watched, name, watch(name, getattr(Storage, name)))
    return Watched(lake.root)


def published_lake(root: Path | str, *run_ids: str) -> Storage:
    """A lake with runs of one date published one after another, three lists in two parts each."""
    lake = Storage.of(str(root))
    for run_id in run_ids or ("first",):
        run = RunDir(lake, ds=DATE, run_id=run_id, identity="i", attempt="a")
        files = []
        for number, users in enumerate(([1, 3], [2])):
            items = [[{"item_id": f"of {run_id}", "score": -1.0, "rank": 1}]] * len(users)
            table = pa.table({"user_id": users, "items": items})
            path = f"recommendations/part-{number:05d}.parquet"
            files.append(run.storage.write_table(path, table))
        _, digest = manifest_for(run, {"model_version": "v", "files": files})
        append_entry(lake, run, digest)
        settle(lake, grace=1e6)
    return lake


def append(lake: Storage, run_id: str, ds: str = DAY, attempt: str = "first") -> Entry:
    return append_entry(lake, run_of(lake, run_id, ds, attempt), "digest")[0]
