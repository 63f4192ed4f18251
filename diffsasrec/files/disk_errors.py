"""What an error of a disk or a damaged file means, and what to do about it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from diffsasrec.errors import InfrastructureError

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
# errors that may go away by themselves
PASSING = {errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.ESTALE}


@contextmanager
def explained(operation: str, url: str) -> Iterator[None]:
    """Turns an error of a disk or a damaged file into an InfrastructureError.

    FileNotFoundError stays as it is, except when writing.
    """
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
