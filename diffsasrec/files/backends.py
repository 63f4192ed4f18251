"""The two places where files may lie, behind the same few verbs: a local disk and an S3 store.

All paths are those of the filesystem: absolute on a disk, bucket/key in a store. Failures raise
FileNotFoundError (reading a file that is not there) or InfrastructureError.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffsasrec.files import local
from diffsasrec.files.disk_errors import explained
from diffsasrec.files.patience import Patience
from diffsasrec.files.urls import is_s3, open_filesystem


class Backend(Protocol):
    """What a disk and a store each do in their own way."""

    def write(self, path: str, data: bytes) -> None: ...

    def fill(self, path: str, fill_file: Callable[[str], None]) -> None:
        """Writes what `fill_file` writes to the local file that it gets."""

    def create(self, path: str, data: bytes) -> bool:
        """Writes only if nothing is there yet; False if something is."""
        ...

    def version(self, path: str) -> str | None:
        """A value that changes with the contents of a small file; None if there is no file."""
        ...

    def replace(self, path: str, data: bytes, version: str | None) -> bool:
        """Writes only while the file has this version; False if it has another one."""
        ...

    def copy(self, source: str, target: str) -> None: ...

    def exists(self, path: str) -> bool: ...

    def remove_empty(self, path: str) -> None:
        """Removes a directory if it is empty, then the directories above it that are empty."""


@dataclass(frozen=True)
class LocalFiles:
    """Files below a directory of this machine."""

    root: str

    def write(self, path: str, data: bytes) -> None:
        with explained("writing", path):
            local.write(path, data)

    def fill(self, path: str, fill_file: Callable[[str], None]) -> None:
        with explained("writing", path):
            local.fill(path, fill_file)

    def create(self, path: str, data: bytes) -> bool:
        with explained("writing", path):
            return local.create(path, data)

    def version(self, path: str) -> str | None:
        with explained("reading", path):
            return local.version(path)

    def replace(self, path: str, data: bytes, version: str | None) -> bool:
        with explained("writing", path):
            return local.replace(path, data, version, lock=os.path.join(self.root, local.LOCK))

    def copy(self, source: str, target: str) -> None:
        with explained("reading", source):
            data = Path(source).read_bytes()
        self.write(target, data)

    def exists(self, path: str) -> bool:
        return local.exists(path)

    def remove_empty(self, path: str) -> None:
        local.remove_empty(path, root=self.root)


@dataclass(frozen=True)
class StoredObjects:
    """Objects of an S3 store."""

    filesystem: Any  # an ObjectStore, whose errors say what to do

    def write(self, path: str, data: bytes) -> None:
        self.filesystem.pipe_file(path, data)

    def fill(self, path: str, fill_file: Callable[[str], None]) -> None:
        aside = tempfile.gettempdir()
        with explained("writing to", aside), tempfile.TemporaryDirectory() as directory:
            fill_file(f"{directory}/file")
            data = Path(f"{directory}/file").read_bytes()
        self.write(path, data)

    def create(self, path: str, data: bytes) -> bool:
        try:
            self.filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return self._holds(path, data)
        return True

    def version(self, path: str) -> str | None:
        try:
            return str(self.filesystem.info(path)["ETag"])
        except FileNotFoundError:
            return None

    def replace(self, path: str, data: bytes, version: str | None) -> bool:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self.filesystem.pipe_file(path, data, **condition)
        except (FileExistsError, FileNotFoundError):
            return self._holds(path, data)
        return True

    def copy(self, source: str, target: str) -> None:
        self.filesystem.cp_file(source, target)

    def exists(self, path: str) -> bool:
        return bool(self.filesystem.exists(path))

    def remove_empty(self, path: str) -> None:
        """A store has no directories."""

    def _holds(self, path: str, data: bytes) -> bool:
        """Whether exactly these bytes are there: then we wrote them, and the answer was lost."""
        try:
            with explained("reading", f"s3://{path}"):
                return bool(self.filesystem.cat_file(path) == data)
        except FileNotFoundError:
            return False


def backend_of(root: str, patience: Patience) -> Backend:
    if is_s3(root):
        return StoredObjects(open_filesystem(root, patience)[0])
    return LocalFiles(root)
