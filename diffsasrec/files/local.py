"""Files of a local directory: written whole or not at all, created once, replaced by turns.

A file is written under a name of its own first and then given its place in one step. What fails
takes that first file with it; what is killed leaves it, hidden, until it is swept.
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

HIDDEN = (".tmp", ".probe-")  # beginnings of names: unfinished files, ours and of who fills them
LOCK = ".lock"
TRIES = 10  # to make a file in a directory that others remove while it is empty
# file systems without locks, as some that are mounted from other machines
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def write(path: str, data: bytes) -> None:
    with _removed(_write_temporary(path, data)) as temporary:
        os.replace(temporary, path)
    _sync_directory(path)


def fill(path: str, fill_file: Callable[[str], None]) -> None:
    """As `write`, what `fill_file` writes to the file that it is given."""
    with _removed(_write_temporary(path, b"")) as temporary:
        mode = os.stat(temporary).st_mode
        fill_file(temporary)
        os.chmod(temporary, mode)  # another file may lie there now
        _sync(temporary)
        os.replace(temporary, path)
    _sync_directory(path)


def create(path: str, data: bytes) -> bool:
    """Writes only what is not there yet; False when something is."""
    with _removed(_write_temporary(path, data)) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    _sync_directory(path)
    return True


def version(path: str) -> str | None:
    """What changes with the contents of a small file; None when there is none."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def exists(path: str) -> bool:
    """Whether something is there; what can't be looked at is an error, and not nothing."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def refuse_unreadable(error: OSError) -> None:
    """What a listing makes of a directory that it can't read: only one that has gone is empty."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def replace(path: str, data: bytes, expected: str | None, *, lock: str) -> bool:
    """Writes only while the file's version is the expected one; False when it is not.

    Whoever replaces a file under the same lock waits for its turn. Without locks in the file
    system the moment between the look and the write stays open.
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
        os.close(descriptor)  # gives the lock back


@contextmanager
def _removed(temporary: str) -> Iterator[str]:
    """Leaves nothing under the first name, however the write ends."""
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
        except (FileNotFoundError, FileExistsError):  # somebody removes it while it is empty
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
