"""What lies below a directory, local or on S3."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diffsasrec.errors import InputDataError
from diffsasrec.files import local
from diffsasrec.files.urls import is_s3, open_filesystem

FOLDER = "_$folder$"  # how Hadoop and EMR end the empty object that stands for a directory


@dataclass(frozen=True)
class Entry:
    path: str  # inside its file system
    is_directory: bool
    size: int = 0
    version: str = ""  # ETag or modification time


def walk(url: str, path: str, depth: int | None = None) -> list[Entry]:
    """A file itself, or what lies below a directory, `depth` levels of it.

    Local links to directories are followed. Hidden local directories are named and not entered.

    Args:
        url: which file system the path is of.

    Raises:
        OSError: a directory can't be read.
        InputDataError: a link leads back to a directory above it.
    """
    if is_s3(url):
        return list(_objects(url, path, depth))
    if os.path.isfile(path):
        return [_file(path, os.stat(path))]
    status = _status(path)
    return [] if status is None else list(_walk(path, depth, ((status.st_dev, status.st_ino),)))


def _walk(directory: str, depth: int | None, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    """`above`: device and inode of the directory and of those that led to it."""
    try:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        local.refuse_unreadable(error)
        return
    for entry in entries:
        status = _status(entry.path)
        if status is not None and entry.is_file():  # or a link to one
            yield _file(entry.path, status)
        if status is None or not entry.is_dir():
            continue
        yield Entry(entry.path, True)
        key = (status.st_dev, status.st_ino)
        if key in above:
            raise InputDataError(
                f"{entry.path} is a link to {os.path.realpath(entry.path)}, a directory above it; "
                "remove the link"
            )
        is_hidden = entry.name.startswith(".") or (
            entry.name.startswith("_") and "=" not in entry.name
        )
        if depth != 1 and not is_hidden:
            yield from _walk(entry.path, None if depth is None else depth - 1, (*above, key))


def _status(path: str) -> os.stat_result | None:
    """None for what is gone since, or a link to nothing."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _file(path: str, status: os.stat_result) -> Entry:
    return Entry(path, False, status.st_size, str(status.st_mtime_ns))


def _objects(url: str, path: str, depth: int | None) -> Iterator[Entry]:
    """The objects below a prefix without those that only stand for a directory."""
    filesystem, _ = open_filesystem(url)
    try:
        found: dict[str, Any] = filesystem.find(path, maxdepth=depth, withdirs=True, detail=True)
    except FileNotFoundError:
        return
    directories = {name.rpartition("/")[0] for name in found}
    for name, stat in sorted(found.items()):
        if stat["type"] != "file":
            yield Entry(name.rstrip("/"), True)
            continue
        stands_for_one = name.endswith(("/", FOLDER)) or name in directories
        if not (stands_for_one and int(stat["size"]) == 0):
            yield Entry(name, False, int(stat["size"]), str(stat["ETag"]).strip('"'))
