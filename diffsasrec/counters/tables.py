"""Tables of similar items as files, and those of several times in a directory of a run.

Which users they are counted over: a sample of the buckets, each of which is a random sample of the
users.
"""

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from diffsasrec.counters.neighbours import Tastes
from diffsasrec.counters.similar import Similar, similarity
from diffsasrec.counters.sparse import Table
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import parse_tensors
from diffsasrec.sequences.histories import Histories

MOST_USERS = 200_000  # that the tables are counted over
KINDS = ("near", "together", "follows")
TASTES = "tastes"
PARTS = ("indptr", "indices", "data")


def sampled_buckets(num_buckets: int, num_users: int) -> list[int]:
    """As many buckets as hold `MOST_USERS` of the users in all of them, in an order by hash."""
    order = sorted(
        range(num_buckets), key=lambda b: hashlib.sha256(f"similar {b}".encode()).digest()
    )
    return order[: math.ceil(num_buckets * min(MOST_USERS / max(num_users, 1), 1.0))]


def create_similar(storage: Storage, path: str, similar: Similar) -> None:
    """Writes the tables where nothing is there: others may have read what is there already."""
    tables = dict(zip(KINDS, similar.tables(), strict=True))
    if similar.tastes is not None:
        tables[TASTES] = similar.tastes.shares
    tensors = {
        f"{kind}.{part}": torch.from_numpy(np.ascontiguousarray(getattr(table, part)))
        for kind, table in tables.items()
        for part in PARTS
    }
    storage.create(path, safetensors.torch.save(tensors))


def read_similar(storage: Storage, path: str) -> Similar:
    """Raises FileNotFoundError."""
    tensors, _ = parse_tensors(storage.read_bytes(path))
    near, together, follows = (_table(tensors, kind) for kind in KINDS)
    has_tastes = f"{TASTES}.{PARTS[0]}" in tensors
    tastes = Tastes(_table(tensors, TASTES, near.shape[1])) if has_tastes else None
    return Similar(near, together, follows, tastes)


def _table(tensors: dict[str, torch.Tensor], kind: str, num_columns: int | None = None) -> Table:
    """A table of a file, with as many columns as rows if it is not said."""
    indptr, indices, data = (tensors[f"{kind}.{part}"].numpy() for part in PARTS)
    num_rows = len(indptr) - 1
    return Table((data, indices, indptr), (num_rows, num_columns or num_rows))


class SimilarAt:
    """The tables as of each of some times, by number, kept in memory once they were asked for."""

    def __init__(self, run: Storage, directory: str, times: npt.NDArray[np.int64]) -> None:
        self._run, self._directory, self._times = run, directory, times
        self.at = lru_cache(maxsize=None)(self._read)

    def make(
        self,
        past: Callable[[int], Histories],
        *,
        num_items: int,
        with_tastes: bool,
        rank: int,
        world_size: int,
        tell: Callable[[int, int, str], None],
    ) -> None:
        """Writes the tables of the times rank, rank + world size, ..., where there are none yet.

        Args:
            past: the histories before a time.
            tell: told how many hundredths of a table are done, of how many, and a note.
        """
        mine = range(rank, len(self._times), world_size)
        for done, number in enumerate(mine):

            def progress(share: float, done: int = done) -> None:
                note = f", table {done + 1} of {len(mine)}"
                tell(round(100 * (done + share)), 100 * len(mine), note)

            if not self._run.exists(self._path(number)):
                progress(0.0)
                made = similarity(
                    past(int(self._times[number])),
                    num_items=num_items,
                    with_tastes=with_tastes,
                    progress=progress,
                )
                create_similar(self._run, self._path(number), made)

    def _path(self, number: int) -> str:
        return f"{self._directory}/{number}.safetensors"

    def _read(self, number: int) -> Similar:
        return read_similar(self._run, self._path(number))
