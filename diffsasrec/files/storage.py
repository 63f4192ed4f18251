"""Files of the lake: a local directory or a prefix in an S3 bucket, with the same few verbs.

Writes are atomic: a reader sees the old bytes or the new ones. `create` writes only what is not
there yet (S3: `If-None-Match: *`; local: a hard link to a finished temporary file). Credentials,
region and endpoint come from the usual AWS variables and are kept nowhere.
"""

import errno
import hashlib
import importlib.util
import io
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.errors import ConfigError, InfrastructureError, at_the_start
from diffsasrec.files import local
from diffsasrec.files.s3 import PATIENCE, ObjectStore, Patience

REMEDIES = {
    errno.EACCES: "let the user of this process write there",
    errno.EDQUOT: "the quota is used up: free space there",
    errno.EFBIG: "the limit on the size of a file is too low: raise it (ulimit -f)",
    errno.EIO: "the disk is damaged or gone: check it",
    errno.ENOSPC: "the disk is full: free space there",
    errno.ENOTDIR: "a part of the path is a file: correct the path",
    errno.EEXIST: "a part of the path is a file: correct the path",
    errno.EPERM: "let the user of this process write there",
    errno.EROFS: "the disk is mounted read-only: mount it for writing, or choose another place",
    errno.EISDIR: "a directory has this name: correct the path",
    errno.ELOOP: "links lead in a circle: correct the path",
    errno.ENAMETOOLONG: "the name is too long: correct the path",
    errno.ENOENT: "no directory can be made there: correct the path",
    errno.ESTALE: "the file server has lost the directory: mount it again",
}
# what is there again without anybody's doing, perhaps
PASSING = {errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.ESTALE}


WRITE_SECONDS = 3_600.0  # so long a write may go on at most


@dataclass(frozen=True)
class FileInfo:
    path: str  # relative to the storage root
    size: int
    version: str  # ETag or modification time
    modified: float  # seconds since 1970


def open_filesystem(url: str, patience: Patience = PATIENCE) -> tuple[Any, str]:
    """The fsspec filesystem of a local path or s3:// URL, and the path inside it."""
    if url.startswith("s3://"):
        return ObjectStore(patience=patience), url.removeprefix("s3://")
    return fsspec.filesystem("file"), os.path.abspath(url)


def listing_options(url: str) -> dict[str, Any]:
    """Of `find` and `glob`, which take a local directory that can't be read for an empty one."""
    return {} if url.startswith("s3://") else {"on_error": local.refuse_unreadable}


def resolve_package(path: str, key: str) -> str:
    """The path of a pkg://package/file; every other path as it is.

    Raises:
        ConfigError: when the package is not installed; `key` is where the path comes from.
    """
    if not path.startswith("pkg://"):
        return path
    package, _, inside = path.removeprefix("pkg://").partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # the parent of a dotted name is missing; no name at all
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{key}={path}: package {package} is not installed; pip install it")
    return str(Path(spec.submodule_search_locations[0]) / inside)


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

    What fails is FileNotFoundError (reading what is not there) or InfrastructureError, which names
    the operation, the URL, the cause and the remedy.
    """

    root: str  # absolute local path or s3://bucket/prefix
    patience: Patience = PATIENCE  # with S3

    @classmethod
    def of(cls, root: str) -> "Storage":
        if root.startswith("s3://"):
            return cls(root)
        return cls(os.path.abspath(os.path.expanduser(root)))

    def sub(self, path: str) -> "Storage":
        return replace(self, root=f"{self.root}/{path}")

    @property
    def is_local(self) -> bool:
        return not self.root.startswith("s3://")

    def url(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def _fs(self) -> Any:
        return open_filesystem(self.root, self.patience)[0]

    def _full(self, path: str) -> str:
        return self.url(path).removeprefix("s3://")

    def read_bytes(self, path: str) -> bytes:
        """Raises FileNotFoundError."""
        with _explained("reading", self.url(path)):
            return bytes(self._fs().cat_file(self._full(path)))

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        with _explained("reading", self.url(path)), self._fs().open(self._full(path)) as file:
            # a ParquetFile reads this one file: no directory names turn into columns
            return pq.ParquetFile(file).read(columns=columns)

    def read_schema(self, path: str) -> pa.Schema:
        """The columns of a Parquet file and their types."""
        with _explained("reading", self.url(path)), self._fs().open(self._full(path)) as file:
            return pq.ParquetFile(file).schema_arrow

    def read_tables(self, directory: str, columns: list[str] | None = None) -> pa.Table:
        """All Parquet files directly in a directory, in the order of their names."""
        paths = [info.path for info in self.list(directory) if info.path.endswith(".parquet")]
        if not paths:
            raise FileNotFoundError(self.url(directory))
        return pa.concat_tables([self.read_table(path, columns) for path in paths])

    def write_bytes(self, path: str, data: bytes) -> None:
        if not self.is_local:
            self._fs().pipe_file(self._full(path), data)
            return
        with _explained("writing", self.url(path)):
            local.write(self._full(path), data)

    def write_file(self, path: str, fill: Callable[[str], None]) -> None:
        """As `write_bytes`, what `fill` writes to the local file that it is given.

        Large contents need not lie in memory then, or only once on their way to S3.
        """
        if not self.is_local:
            aside = tempfile.gettempdir()
            with _explained("writing to", aside), tempfile.TemporaryDirectory() as directory:
                fill(f"{directory}/file")
                data = Path(f"{directory}/file").read_bytes()
            self._fs().pipe_file(self._full(path), data)
            return
        with _explained("writing", self.url(path)):
            local.fill(self._full(path), fill)

    def write_table(self, path: str, table: pa.Table) -> dict[str, Any]:
        """Writes zstd Parquet; returns its entry for the manifest: path, rows, sha256."""
        data = parquet_bytes(table)
        self.write_bytes(path, data)
        return {"path": path, "rows": table.num_rows, "sha256": sha256(data)}

    def create(self, path: str, data: bytes) -> bool:
        """Writes `data` only if nothing is there; False when something is.

        On S3 the very same bytes count as ours: the answer to the write may have been lost.
        """
        if self.is_local:
            with _explained("writing", self.url(path)):
                return local.create(self._full(path), data)
        try:
            self._fs().pipe_file(self._full(path), data, mode="create")
        except FileExistsError:
            return self._holds(path, data)
        return True

    def version(self, path: str) -> str | None:
        """What changes with the contents of a small file; None when there is none."""
        if self.is_local:
            with _explained("reading", self.url(path)):
                return local.version(self._full(path))
        try:
            return str(self._fs().info(self._full(path))["ETag"])
        except FileNotFoundError:
            return None

    def replace(self, path: str, data: bytes, version: str | None) -> bool:
        """Writes `data` only while the file has this version (None: while it is not there).

        False when it has another one: somebody was faster. A store without conditional writes
        writes all the same, over whatever somebody has written since the version was looked at.
        """
        if self.is_local:
            with _explained("writing", self.url(path)):
                lock = os.path.join(self.root, local.LOCK)
                return local.replace(self._full(path), data, version, lock=lock)
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self._fs().pipe_file(self._full(path), data, **condition)
        except (FileExistsError, FileNotFoundError):
            return self._holds(path, data)
        return True

    def _holds(self, path: str, data: bytes) -> bool:
        """Whether the very same bytes are there: ours, where the answer to the write was lost."""
        try:
            return self.read_bytes(path) == data
        except FileNotFoundError:
            return False

    def copy(self, source: str, target: str) -> None:
        if self.is_local:
            self.write_bytes(target, self.read_bytes(source))
        else:
            self._fs().cp_file(self._full(source), self._full(target))

    def exists(self, path: str) -> bool:
        with _explained("reading", self.url(path)):
            if self.is_local:
                return local.exists(self._full(path))
            return bool(self._fs().exists(self._full(path)))

    def directories(self, directory: str = "") -> list[str]:
        """The names of the directories directly below a directory, sorted; [] when it is none."""
        try:
            with _explained("listing", self.url(directory)):
                found = self._fs().ls(self._full(directory), detail=True)
        except FileNotFoundError:
            return []
        names = [str(entry["name"]) for entry in found if entry["type"] == "directory"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def list(self, directory: str = "") -> list[FileInfo]:
        """The files below a directory, recursively, sorted by path; [] when there are none."""
        found = [info for info in self._find(directory) if not _is_hidden(info.path)]
        return sorted(found, key=lambda info: info.path)

    def _find(self, directory: str) -> Iterator[FileInfo]:
        """As `list`, with what is hidden, in no order."""
        base = self._full("").rstrip("/")
        try:
            with _explained("listing", self.url(directory)):
                options = listing_options(self.root)
                found = self._fs().find(self._full(directory), detail=True, **options)
        except FileNotFoundError:
            return
        for name, stat in found.items():
            if stat["type"] == "file":
                yield _file_info(name, stat, base)

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            try:
                with _explained("deleting", self.url(path)):
                    self._fs().rm_file(self._full(path))
            except FileNotFoundError:
                continue  # another attempt was faster

    def delete_tree(self, directory: str) -> None:
        """Deletes everything below a directory, what is hidden too, and leaves none empty."""
        self.delete([info.path for info in self._find(directory)])
        self.remove_empty(directory)

    def remove_empty(self, directory: str) -> None:
        """Removes a directory that is empty, and those above it that are so then."""
        if self.is_local:  # a store has no directories
            local.remove_empty(self._full(directory), root=self.root)

    def sweep(self, directory: str = "", *, older_than: float = WRITE_SECONDS) -> int:
        """Deletes what writes that were killed have left below a directory.

        Args:
            older_than: seconds; what is younger may be written at this moment.

        Returns:
            the number of deleted files.
        """
        # the clock decides only how long a write is waited for
        limit = time.time() - older_than
        left = [info for info in self._find(directory) if _is_unfinished(info.path)]
        old = [info.path for info in left if info.modified < limit]
        self.delete(old)
        return len(old)

    def check_writable(self) -> None:
        """Raises when the root can't be written to: ConfigError where no retry would mend that.

        Raises:
            ConfigError: a part of the path is a file, nobody may write there, or there is no such
                bucket; the credentials are missing or refused.
            InfrastructureError: the store is down or overloaded, or the disk is full.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            if not self.is_local:
                self.list(probe)  # some stores make the bucket that a write misses
            self.write_bytes(probe, b"probe")
            self.delete([probe])
        except InfrastructureError as error:
            message = f"the lake {self.root} can't be written to: {error}"
            raise at_the_start(InfrastructureError(message, is_lasting=error.is_lasting)) from error

    def has_create_only(self) -> bool:
        """Whether a second create of one file is really refused by this store."""
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            return self.create(probe, b"1") and not self.create(probe, b"2")
        finally:
            self.delete([probe])


@contextmanager
def _explained(operation: str, url: str) -> Iterator[None]:
    """Turns what a disk or a damaged file raises into an InfrastructureError."""
    try:
        yield
    except FileNotFoundError:
        if not operation.startswith("writing"):
            raise
        text = f"{operation} {url} failed: {REMEDIES[errno.ENOENT]}"
        raise InfrastructureError(text, is_lasting=True) from None
    except (OSError, pa.ArrowException) as error:
        number = getattr(error, "errno", None) or 0
        cause = os.strerror(number) if number else (str(error).splitlines() or [""])[0]
        remedy = REMEDIES.get(number, "check the file and the disk")
        is_lasting = number in REMEDIES and number not in PASSING
        text = f"{operation} {url} failed: {cause}; {remedy}"
        raise InfrastructureError(text, is_lasting=is_lasting) from error


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
