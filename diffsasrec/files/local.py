"""Files of a local directory: written whole or not at all, created once, replaced by turns.

A file is first written under a temporary name and then put in its place in one step. A write that
fails removes the temporary file. A write that is killed leaves it, hidden, until a sweep deletes
it.
"""

import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

HIDDEN = (".tmp", ".probe-")  # prefixes of unfinished files, ours and those of what fills them
LOCK = ".lock"
TRIES = 10  # to make a file in a directory that others remove while it is empty
# errors of file systems without locks, such as some network mounts
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def write(path: str, data: bytes) -> None:
    with _removed(_write_temporary(path, data)) as temporary:
        os.replace(temporary, path)
    _sync_directory(path)


def fill(path: str, fill_file: Callable[[str], None]) -> None:
    """Like `write`, for what `fill_file` writes to the file that it gets."""
    with _removed(_write_temporary(path, b"")) as temporary:
        mode = os.stat(temporary).st_mode
        fill_file(temporary)
        os.chmod(temporary, mode)  # another file may lie there now
        _sync(temporary)
        os.replace(temporary, path)
    _sync_directory(path)


def create(path: str, data: bytes) -> bool:
    """Writes only if nothing is there yet; False if something is."""
    with _removed(_write_temporary(path, data)) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    _sync_directory(path)
    return True


def version(path: str) -> str | None:
    """A value that changes with the contents of a small file; None if there is no file."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def exists(path: str) -> bool:
    """Whether something is there; a path that can't be examined is an error, not absent."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def refuse_unreadable(error: OSError) -> None:
    """Handles a directory that a listing can't read: it counts as empty only if it is gone."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def replace(path: str, data: bytes, expected: str | None, *, lock: str) -> bool:
    """Writes only while the file's version is the expected one; False if it is not.

    Writers that use the same lock take turns. On a file system without locks, another writer can
    come between the check and the write.
    """
    with _locked(lock):
        if version(path) != expected:
            return False
        write(path, data)
        return True


def remove_empty(path: str, *, root: str) -> None:
    """Removes the empty directories at and below a path, and those above it up to the root."""
    for directory, _, _ in os.walk(path, topdown=False):
        with suppress(OSError):  # another process has put something there
            os.rmdir(directory)
    for parent in Path(path).parents:
        if parent == Path(root) or not parent.is_relative_to(root):
            return
        with suppress(OSError):
            parent.rmdir()


@contextmanager
def _locked(path: str) -> Iterator[None]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)  # releases the lock


@contextmanager
def _removed(temporary: str) -> Iterator[str]:
    """Leaves no temporary file, however the write ends."""
    try:
        yield temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _write_temporary(path: str, data: bytes) -> str:
    temporary = os.path.join(os.path.dirname(path), f".tmp-{uuid.uuid4().hex}")
    try:
        with _opened(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def _opened(path: str) -> BinaryIO:
    """A new file, and the directory for it."""
    for left in reversed(range(TRIES)):
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return open(path, "xb")
        except (FileNotFoundError, FileExistsError):  # another process removes it while it is empty
            if not left:
                raise
    raise AssertionError(path)


def _sync_directory(path: str) -> None:
    _sync(os.path.dirname(path))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
