"""Directories that belong to a table of Delta, Iceberg or Hudi.

Their files hold rows that were deleted or replaced. Only the table's own log tells which.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.urls import is_s3
from diffsasrec.formats.directory import Entry, walk

_MARKS = (
    ("Delta", re.compile(r"(.*)/_delta_log(/|\Z)")),
    ("Hudi", re.compile(r"(.*)/\.hoodie(/|\Z)")),
    ("Iceberg", re.compile(r"(.*)/metadata/[^/]*\.metadata\.json\Z")),
)


def refuse_table(url: str, base: str, entries: Iterable[Entry]) -> None:
    """Refuses files that belong to a table.

    Args:
        url: which file system they are of.
        base: the directory or file that was listed.
        entries: what was found there.

    Raises:
        ConfigError: names the table and its directory.
    """
    above = _above_on_s3(url, base.rstrip("/")) if is_s3(url) else _above(base)
    for path in (*above, *(entry.path for entry in entries)):
        for kind, mark in _MARKS:
            found = mark.match(path)
            if found is not None:
                raise ConfigError(
                    f"{found[1]} is a table of {kind}: its files hold rows that the table has "
                    "deleted or replaced; name the table in events.table instead of its files in "
                    "events.path"
                )


def _above(path: str) -> Iterator[str]:
    """The marks of tables in a local directory and in those above it."""
    while True:
        for name in ("_delta_log", ".hoodie", "metadata/*.metadata.json"):
            yield from glob.iglob(f"{glob.escape(path)}/{name}")
        if path == (parent := os.path.dirname(path)):
            return
        path = parent


def _above_on_s3(url: str, base: str) -> Iterator[str]:
    """The marks of the table that a directory may be the data or a partition of."""
    parts = base.split("/")
    while len(parts) > 2 and "=" in parts[-1]:
        parts.pop()
    root = "/".join(parts)
    with suppress(InfrastructureError):  # these credentials may not look there
        if root != base:
            yield from (entry.path for entry in walk(url, f"{root}/_delta_log", 1))
        if len(parts) > 2 and parts[-1] == "data":
            above = root.rpartition("/")[0]
            yield from (entry.path for entry in walk(url, f"{above}/metadata", 1))
