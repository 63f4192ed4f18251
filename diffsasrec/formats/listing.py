"""Which files a path names: a file, a directory or a glob, local or on S3; and what is left out.

Hidden are names that start with `.`, and those that start with `_` and are no partition (`_dt=1`).
They are judged below the directory that the path names: below the last `/` before the first
wildcard of a glob.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from fsspec.utils import glob_translate

from diffsasrec.files.urls import is_s3, open_filesystem
from diffsasrec.formats.directory import Entry, walk
from diffsasrec.formats.table_formats import refuse_table

HIDDEN = "hidden"
NOT_OF_GLOB = "directory beside files"
_WILDCARD = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


@dataclass(frozen=True)
class InputFile:
    path: str  # local path or s3:// URL
    size: int
    version: str  # ETag or modification time


@dataclass(frozen=True)
class LeftOut:
    """Files or directories that a path names and that are not read."""

    reason: str
    number: int
    example: str

    def __str__(self) -> str:
        return f"{self.number} {self.reason}, for example {self.example}"


@dataclass(frozen=True)
class Listing:
    files: list[InputFile]  # sorted by path
    left_out: tuple[LeftOut, ...] = ()

    def without(self, reasons: Iterable[tuple[InputFile, str | None]]) -> "Listing":
        """The files without a reason; the others are left out for theirs."""
        pairs = list(reasons)
        kept = [file for file, reason in pairs if reason is None]
        more = [(reason, file.path) for file, reason in pairs if reason is not None]
        return Listing(kept, (*self.left_out, *count_left_out(more)))


def count_left_out(found: Iterable[tuple[str, str]]) -> tuple[LeftOut, ...]:
    """Pairs of reason and path, counted by the reason in the order of first sight."""
    by_reason: dict[str, list[str]] = {}
    for reason, path in found:
        by_reason.setdefault(reason, []).append(path)
    return tuple(LeftOut(reason, len(set(p)), p[0]) for reason, p in by_reason.items())


def list_files(url: str, *, may_be_glob: bool = False) -> Listing:
    """A file, the files below a directory, or those of a glob, without hidden ones.

    A path that exists is itself, whatever characters it has. A glob that matches directories alone
    stands for the files below them. `{a,b}` in a glob is a or b.

    Raises:
        OSError: they can't be listed; an empty listing where there are none.
        ConfigError: the files belong to a table of Delta, Iceberg or Hudi.
    """
    scheme = "s3://" if is_s3(url) else ""
    filesystem, path = open_filesystem(url)
    has_wildcard = may_be_glob and bool(_WILDCARD.search(path) or _BRACES.search(path))
    is_glob = has_wildcard and not filesystem.exists(path)
    files: dict[str, InputFile] = {}
    left_out: list[tuple[str, str]] = []
    for pattern in _alternatives(path) if is_glob else [path]:
        base, found, aside = _look(url, pattern, is_glob=is_glob)
        left_out += [(NOT_OF_GLOB, scheme + name) for name in aside]
        for entry in found:
            hidden = _hidden_part(entry.path, base)
            if hidden is not None:
                left_out.append((HIDDEN, scheme + hidden))
            elif not entry.is_directory:
                name = scheme + entry.path
                files[name] = InputFile(name, entry.size, entry.version)
    return Listing([files[name] for name in sorted(files)], count_left_out(left_out))


def _look(url: str, pattern: str, *, is_glob: bool) -> tuple[str, list[Entry], list[str]]:
    """The directory below which names are judged, what was found, and what a glob leaves aside."""
    if not is_glob:
        found = walk(url, pattern)
        refuse_table(url, pattern, found)
        return pattern, found, []
    base = _base(pattern)
    below = pattern.removeprefix(base).strip("/")
    depth = None if "**" in below else below.count("/") + 1
    entries = walk(url, base, depth)
    refuse_table(url, base, entries)
    found, aside = _matches(url, entries, base, below + "/*" * below.endswith("**"))
    return base, found, aside


def _alternatives(pattern: str) -> Iterator[str]:
    """The globs that a glob with braces stands for."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    for choice in braces[1].split(","):
        yield from _alternatives(pattern[: braces.start()] + choice + pattern[braces.end() :])


def _base(pattern: str) -> str:
    """The directory of a glob, up to the last slash before its first wildcard."""
    wildcard = _WILDCARD.search(pattern)
    fixed = pattern if wildcard is None else pattern[: wildcard.start()]
    return fixed.rpartition("/")[0] or "/"


def _matches(
    url: str, entries: list[Entry], base: str, below: str
) -> tuple[list[Entry], list[str]]:
    """What a glob matches, with hidden directories, and what it matches beside files."""
    parts = below.split("/")

    def is_matched(entry: Entry) -> bool:
        if entry.is_directory and _hidden_part(entry.path, base) is not None:
            # it was not entered: the glob may match it or what lies in it
            num = entry.path.removeprefix(base).strip("/").count("/") + 1
            leads_there = _regex(base, "/".join(parts[:num])).fullmatch(entry.path)
            return "**" in below or bool(leads_there)
        return bool(_regex(base, below).fullmatch(entry.path))

    matched = [entry for entry in entries if is_matched(entry)]
    directories = [
        entry.path
        for entry in matched
        if entry.is_directory and _hidden_part(entry.path, base) is None
    ]
    rest = [entry for entry in matched if entry.path not in set(directories)]
    if not directories or any(not entry.is_directory for entry in rest):
        return rest, [] if "**" in below else directories
    return [*rest, *(entry for name in directories for entry in walk(url, name))], []


@cache
def _regex(base: str, below: str) -> re.Pattern[str]:
    return re.compile(glob_translate(f"{glob.escape(base).rstrip('/')}/{below}"))


def _hidden_part(path: str, base: str) -> str | None:
    """The path up to its first hidden name below `base`; None without one."""
    position = len(base.rstrip("/")) + 1
    if position > len(path):
        return None
    for part in path[position:].split("/"):
        position += len(part) + 1
        if part.startswith(".") or (part.startswith("_") and "=" not in part):
            return path[: position - 1]
    return None


def version_of(status: os.stat_result) -> tuple[int, str]:
    return status.st_size, str(status.st_mtime_ns)
