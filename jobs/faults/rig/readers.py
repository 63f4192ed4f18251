"""Readers of a lake as our consumers are, who count what they ever see that is not whole."""

import io
import json
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pyarrow.parquet as pq

from diffsasrec.files.storage import Storage, sha256
from diffsasrec.lake.chain import CHAIN
from diffsasrec.lake.run_dir import run_path


@dataclass
class Readers:
    """Reads the chain and every _SUCCESS again and again, in a thread, while the block runs."""

    lake: Storage
    reads: int = 0
    torn: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Readers":
        self._thread = threading.Thread(target=self._read_on)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _read_on(self) -> None:
        while not self._ended.wait(0.05):
            self.torn += read_chain_end(self.lake) + read_dates(self.lake)
            self.reads += 1


def read_chain_end(lake: Storage) -> list[str]:
    """What is wrong with the run that the newest entry of the chain says is current."""
    entries = [info.path for info in lake.list(CHAIN)]
    if not entries:
        return []
    current = json.loads(lake.read_bytes(entries[-1]))["current"]
    root = lake.sub(run_path(**current))
    manifest = json.loads(root.read_bytes("manifest.json"))
    lists = [file for file in manifest["files"] if file["path"].startswith("recommendations/")]
    return [f"{entries[-1]}: {wrong}" for wrong in wrong_files(root, lists)]


def read_dates(lake: Storage) -> list[str]:
    """What is wrong with the files that any date's _SUCCESS names."""
    found = []
    for info in lake.list("recommendations"):
        if not info.path.endswith("/_SUCCESS"):
            continue
        before = lake.read_bytes(info.path)
        directory = lake.sub(info.path.rpartition("/")[0])
        wrong = wrong_files(directory, json.loads(before)["files"])
        # who is still at a replaced version after the time of grace starts again
        if wrong and lake.read_bytes(info.path) == before:
            found += [f"{info.path}: {file}" for file in wrong]
    return found


def wrong_files(root: Storage, files: list[dict[str, Any]]) -> list[str]:
    """The files that are missing or not those that were named."""
    return [file["path"] for file in files if digest_of(root, file["path"]) != file["sha256"]]


def digest_of(root: Storage, path: str) -> str | None:
    try:
        return sha256(root.read_bytes(path))
    except FileNotFoundError:
        return None


def users_shown(lake: Storage, ds: str) -> list[Any]:
    """The users of the lists that a date's _SUCCESS names, one per row."""
    directory = lake.sub(f"recommendations/ds={ds}")
    files = json.loads(directory.read_bytes("_SUCCESS"))["files"]
    parts = [pq.read_table(io.BytesIO(directory.read_bytes(f["path"]))) for f in files]
    return [user for part in parts for user in part["user_id"].to_pylist()]
