"""Files of the lake: a local directory or a prefix in an S3 bucket, with the same few verbs.

Writes are atomic: a reader sees the old bytes or the new ones. `create` writes only if nothing is
there yet (S3: `If-None-Match: *`; local: a hard link to a finished temporary file). Credentials,
region and endpoint come from the usual AWS variables and are never stored.
"""

import hashlib
import io
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.errors import InfrastructureError, at_the_start
from diffsasrec.files import local
from diffsasrec.files.backends import Backend, backend_of
from diffsasrec.files.disk_errors import explained
from diffsasrec.files.patience import PATIENCE, Patience
from diffsasrec.files.urls import is_s3, listing_options, open_filesystem
from diffsasrec.progress import beating

REQUESTS = 16  # threads: requests to a store at once
WRITE_SECONDS = 3_600.0  # the longest time that a write may take


@dataclass(frozen=True)
class FileInfo:
    path: str  # relative to the storage root
    size: int
    version: str  # ETag or modification time
    modified: float  # seconds since 1970


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as zstd Parquet; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=64 * 1024)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Storage:
    """A root directory and the verbs on paths below it.

    Failures raise FileNotFoundError (reading a file that is not there) or InfrastructureError,
    which names the operation, the URL, the cause and the remedy.
    """

    root: str  # absolute local path or s3://bucket/prefix
    patience: Patience = PATIENCE  # with S3

    @classmethod
    def of(cls, root: str) -> "Storage":
        if is_s3(root):
            return cls(root)
        return cls(os.path.abspath(os.path.expanduser(root)))

    def sub(self, path: str) -> "Storage":
        return replace(self, root=f"{self.root}/{path}")

    @property
    def is_local(self) -> bool:
        return not is_s3(self.root)

    def url(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    @property
    def _files(self) -> Backend:
        return backend_of(self.root, self.patience)

    def _fs(self) -> Any:
        return open_filesystem(self.root, self.patience)[0]

    def _full(self, path: str) -> str:
        return self.url(path).removeprefix("s3://")

    def read_bytes(self, path: str) -> bytes:
        """Raises FileNotFoundError."""
        with explained("reading", self.url(path)):
            return bytes(self._fs().cat_file(self._full(path)))

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        with explained("reading", self.url(path)), self._fs().open(self._full(path)) as file:
            # a ParquetFile reads this one file: no directory names turn into columns
            return pq.ParquetFile(file).read(columns=columns)

    def read_schema(self, path: str) -> pa.Schema:
        """The columns of a Parquet file and their types."""
        with explained("reading", self.url(path)), self._fs().open(self._full(path)) as file:
            return pq.ParquetFile(file).schema_arrow

    def read_tables(self, directory: str, columns: list[str] | None = None) -> pa.Table:
        """All Parquet files directly in a directory, in the order of their names."""
        paths = [info.path for info in self.list(directory) if info.path.endswith(".parquet")]
        if not paths:
            raise FileNotFoundError(self.url(directory))
        return pa.concat_tables([self.read_table(path, columns) for path in beating(paths)])

    def write_bytes(self, path: str, data: bytes) -> None:
        self._files.write(self._full(path), data)

    def write_file(self, path: str, fill: Callable[[str], None]) -> None:
        """Like `write_bytes`, for what `fill` writes to the local file that it gets.

        Large contents are then not held in memory, or only once on their way to S3.
        """
        self._files.fill(self._full(path), fill)

    def write_table(self, path: str, table: pa.Table) -> dict[str, Any]:
        """Writes zstd Parquet; returns its entry for the manifest: path, rows, sha256."""
        data = parquet_bytes(table)
        self.write_bytes(path, data)
        return {"path": path, "rows": table.num_rows, "sha256": sha256(data)}

    def create(self, path: str, data: bytes) -> bool:
        """Writes `data` only if nothing is there; False if something is.

        On S3, exactly these bytes count as our own write: its answer may have been lost.
        """
        return self._files.create(self._full(path), data)

    def version(self, path: str) -> str | None:
        """A value that changes with the contents of a small file; None if there is no file."""
        return self._files.version(self._full(path))

    def replace(self, path: str, data: bytes, version: str | None) -> bool:
        """Writes `data` only while the file has this version (None: while it is not there).

        False if it has another one: another writer was faster. A store without conditional writes
        always writes, even over what another writer has written since the version was read.
        """
        return self._files.replace(self._full(path), data, version)

    def copy(self, source: str, target: str) -> None:
        self._files.copy(self._full(source), self._full(target))

    def exists(self, path: str) -> bool:
        with explained("reading", self.url(path)):
            return self._files.exists(self._full(path))

    def directories(self, directory: str = "") -> list[str]:
        """The names of the directories directly below a directory, sorted; [] if it is missing."""
        try:
            with explained("listing", self.url(directory)):
                found = self._fs().ls(self._full(directory), detail=True)
        except FileNotFoundError:
            return []
        names = [str(entry["name"]) for entry in found if entry["type"] == "directory"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def list(self, directory: str = "") -> list[FileInfo]:
        """The files below a directory, recursively, sorted by path; [] if there are none."""
        found = [info for info in self._find(directory) if not _is_hidden(info.path)]
        return sorted(found, key=lambda info: info.path)

    def _find(self, directory: str) -> Iterator[FileInfo]:
        """Like `list`, but with hidden files and in no order."""
        base = self._full("").rstrip("/")
        try:
            with explained("listing", self.url(directory)):
                options = listing_options(self.root)
                found = self._fs().find(self._full(directory), detail=True, **options)
        except FileNotFoundError:
            return
        for name, stat in found.items():
            if stat["type"] == "file":
                yield _file_info(name, stat, base)

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes files, in no order; one that is gone is no error."""
        if self.is_local:
            for path in beating(paths):
                self._delete(path)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:  # each waits for an answer
            for _ in beating(pool.map(self._delete, paths)):
                pass

    def _delete(self, path: str) -> None:
        # another attempt may have been faster
        with suppress(FileNotFoundError), explained("deleting", self.url(path)):
            self._fs().rm_file(self._full(path))

    def delete_tree(self, directory: str) -> None:
        """Deletes everything below a directory, hidden files too, and then empty directories."""
        self.delete([info.path for info in self._find(directory)])
        self.remove_empty(directory)

    def remove_empty(self, directory: str) -> None:
        """Removes a directory if it is empty, then the directories above it that are empty."""
        self._files.remove_empty(self._full(directory))

    def sweep(self, directory: str = "", *, older_than: float = WRITE_SECONDS) -> int:
        """Deletes what killed writes have left below a directory.

        Args:
            older_than: seconds; a younger file may still be being written.

        Returns:
            the number of deleted files.
        """
        # the clock only decides how long to wait for a write
        limit = time.time() - older_than
        left = [info for info in self._find(directory) if _is_unfinished(info.path)]
        old = [info.path for info in left if info.modified < limit]
        self.delete(old)
        return len(old)

    def check_writable(self) -> None:
        """Raises if the root can't be written to; ConfigError if no retry would help.

        Raises:
            ConfigError: a part of the path is a file, nobody may write there, or there is no such
                bucket; the credentials are missing or refused.
            InfrastructureError: the store is down or overloaded, or the disk is full.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            if not self.is_local:
                self.list(probe)  # some stores create a missing bucket on a write
            self.write_bytes(probe, b"probe")
            self.delete([probe])
        except InfrastructureError as error:
            message = f"the lake {self.root} can't be written to: {error}"
            raise at_the_start(InfrastructureError(message, is_lasting=error.is_lasting)) from error

    def has_create_only(self) -> bool:
        """Whether this store really refuses a second create of one file."""
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            return self.create(probe, b"1") and not self.create(probe, b"2")
        finally:
            self.delete([probe])


def _is_hidden(path: str) -> bool:
    # no name: an empty object that stands for a directory; pyarrow leaves them on S3
    name = path.rpartition("/")[2]
    return not name or name == local.LOCK or _is_unfinished(path)


def _is_unfinished(path: str) -> bool:
    return path.rpartition("/")[2].startswith(local.HIDDEN)


def _file_info(name: str, stat: dict[str, Any], base: str) -> FileInfo:
    if "ETag" in stat:
        version, modified = stat["ETag"].strip('"'), stat["LastModified"].timestamp()
    else:
        version, modified = str(stat["mtime"]), float(stat["mtime"])
    return FileInfo(name.removeprefix(base).lstrip("/"), int(stat["size"]), version, modified)


def to_json(value: Any) -> bytes:
    """JSON with sorted keys: equal values give equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
