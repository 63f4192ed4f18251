"""What an earlier night has read of the log, and keeps for a later one: `read_log/` of its run.

files      the files with their heads, in the order of the listing
fragments  the fragments in the same order: what was counted in each, and a bad row by its reason
hours      the merged histogram of all kept times
users      the smallest hashes of users, from which their number is estimated
unused/    a file per bucket: the kept rows that are in no sequence
"""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import Storage, sha256
from diffsasrec.formats.listing import InputFile
from diffsasrec.lake.stages import READ_LOG
from diffsasrec.read_log.heads import files_of, heads_of, heads_table
from diffsasrec.read_log.log import Head, Log, Unread

FILES, FRAGMENTS, HOURS, USERS = (
    f"{READ_LOG}/{name}.parquet" for name in ("files", "fragments", "hours", "users")
)
UNUSED = f"{READ_LOG}/unused"
FRAGMENT = pa.schema(
    [
        ("path", pa.string()),
        ("row_group", pa.int32()),
        ("counts", pa.string()),  # JSON: rows by what became of them
        ("first_time", pa.int64()),  # of its kept rows, microseconds; null where it has none
        ("last_time", pa.int64()),
        ("examples", pa.string()),  # JSON: a bad row by its reason
    ]
)


class NotAsPublishedError(InfrastructureError):
    """A file of an earlier run is gone, or is not the one that was published."""


@dataclass(frozen=True)
class CountedFragment:
    """What a night has found in a fragment."""

    path: str
    row_group: int | None
    counts: Counter[str]
    first_time: int | None  # of its kept rows
    last_time: int | None
    examples: Mapping[str, Any]  # as of Example.to_json

    def to_row(self) -> dict[str, Any]:
        """A row of FRAGMENT."""
        texts = {
            name: json.dumps(getattr(self, name), sort_keys=True) for name in ("counts", "examples")
        }
        return {**vars(self), **texts}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "CountedFragment":
        counts, examples = Counter(json.loads(row["counts"])), json.loads(row["examples"])
        return cls(**{**row, "counts": counts, "examples": examples})


@dataclass(frozen=True)
class EarlierRun:
    """The run directory of a published night; what is read of it is what was published."""

    ds: str
    run_id: str
    storage: Storage
    sha256: Mapping[str, str]  # of its files, by the path
    num_buckets: int
    before: int  # its run date, microseconds

    def __str__(self) -> str:
        return f"run {self.run_id} of {self.ds}"

    def read(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """A table of the run; raises as `read_bytes`."""
        return pq.read_table(io.BytesIO(self.read_bytes(path)), columns=columns)

    def read_bytes(self, path: str) -> bytes:
        """A file of the run.

        Raises:
            NotAsPublishedError: it is not the one that was published, or it is gone.
        """
        try:
            data = self.storage.read_bytes(path)
        except FileNotFoundError:
            data = b""
        if sha256(data) != self.sha256.get(path):
            raise NotAsPublishedError(
                f"{self.storage.url(path)} is gone, or is not the file that was published; restore "
                "it, or set events.incremental=false"
            )
        return data


@dataclass(frozen=True)
class Earlier:
    """What of an earlier night is taken over, and what of tonight's log is left to read."""

    run: EarlierRun
    unread: Unread
    fragments: Mapping[int, CountedFragment]  # those that are taken over, by tonight's number
    numbers: Mapping[int, int]  # tonight's number of these -> their number on that night
    after: int | None = None  # events before this time are left out tonight, microseconds

    def hours(self) -> pa.Table:
        """The histogram of the times that are taken over."""
        table = self.run.read(HOURS)
        # a night begins at a full hour, and so does what it looks back on
        return (
            table
            if self.after is None
            else table.filter(pc.greater_equal(table["start"], self.after))
        )

    @property
    def counts(self) -> Counter[str]:
        """Of the fragments that are taken over."""
        return sum((each.counts for each in self.fragments.values()), Counter())


def write_files(output: Storage, log: Log, files: list[InputFile]) -> None:
    """Written last: with it, a run has kept all that a later night needs."""
    output.write_table(FILES, heads_table(files, log.heads))


def read_files(run: EarlierRun) -> tuple[list[InputFile], dict[str, Head]]:
    """The files that a night has read, and their heads by the path."""
    table = run.read(FILES)
    return files_of(table), heads_of(table)


def read_fragments(run: EarlierRun) -> list[CountedFragment]:
    return [CountedFragment.from_row(row) for row in run.read(FRAGMENTS).to_pylist()]


def write_fragments(output: Storage, fragments: Sequence[CountedFragment]) -> None:
    rows = [each.to_row() for each in fragments]
    output.write_table(FRAGMENTS, pa.Table.from_pylist(rows, schema=FRAGMENT))
