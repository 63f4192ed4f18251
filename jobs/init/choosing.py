"""Which of the files below a path are the log, and by which path a night finds them alone."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.listing import InputFile
from diffsasrec.inputs.log_files import list_inputs
from diffsasrec.tables.versions import data_files, pinned

from .columns import BY_PLACE, Column
from .files import HEAD, Kind, Sample, how_many, kinds_below, parquet_schema, spread, take
from .guess import Log, log_of
from .sniff.names import role_of

READABLE = ("parquet", "csv", "jsonl")
FIRST_ROWS = 20_000  # that tell a log from other tables
FIRST_FILES = 32  # that they are taken from, where files are small
PARTITION = re.compile(r"/([A-Za-z_][\w-]*)=\d{4}-\d\d-\d\d(?=/)")
LAYOUTS = (
    (re.compile(r"/year=\d{4}/month=\d{1,2}/day=\d{1,2}/"), "year=%Y/month=%m/day=%d"),
    (re.compile(r"/(?P<key>[A-Za-z_][\w-]*)=20\d{6}/"), "{key}=%Y%m%d"),
    (re.compile(r"/20\d\d/[01]\d/[0-3]\d/"), "%Y/%m/%d"),
)


@dataclass(frozen=True)
class Chosen:
    """The files that are the log, and the others with what they are."""

    log: Log
    path: str  # for events.path
    left_out: tuple[str, ...]  # in words
    partition: tuple[str, str] | None  # the key that says how paths hold a date, and its value
    is_delta: bool = False


def choose(path: str) -> Chosen:
    """The log among the files that `path` names, with a sample of its rows.

    Raises:
        InputDataError: nothing there, or nothing that has users, items and times.
    """
    if is_delta(path):
        return of_delta(path)
    files = list_files_of(path)
    kinds = kinds_below(files)
    first = {id(kind): _first_look(kind) for kind in kinds if kind.what in READABLE}
    rated = {n: log.roles.sureness() for n, log in first.items() if log and log.roles.is_log()}
    if not rated:
        raise InputDataError(_nothing(path, kinds, first))
    best = max((kind for kind in kinds if id(kind) in rated), key=lambda k: rated[id(k)])
    others = [kind for kind in kinds if kind is not best]
    log = log_of(best, take(best))
    if not log.roles.is_log():
        raise InputDataError(_nothing(path, kinds, {id(best): log}))
    return Chosen(
        log,
        path if not others else path_of(best.files, files, path),
        tuple(described(kind, first.get(id(kind))) for kind in others),
        partition_of(best.files),
    )


def is_delta(path: str) -> bool:
    """Whether a directory is a Delta table."""
    filesystem, inside = open_filesystem(path)
    return bool(filesystem.exists(f"{inside.rstrip('/')}/_delta_log"))


def of_delta(path: str) -> Chosen:
    """A Delta table as the log, by a sample that may hold deleted rows as well.

    Raises:
        InputDataError: it has no users, items and times.
    """
    events = EventsConfig(table=path, table_format="delta")
    found = [InputFile(f.path, f.size, f.version) for f in data_files(pinned(events))]
    names = tuple(parquet_schema(found[0].path).names)
    kind = Kind("parquet", names, None, found)
    log = log_of(kind, take(kind))
    if not log.roles.is_log():
        raise InputDataError(_nothing(path, [kind], {id(kind): log}))
    return Chosen(log, path, (), None, is_delta=True)


def list_files_of(path: str) -> list[InputFile]:
    """As a night lists them."""
    return list_inputs(EventsConfig(path=path), run_date=date.max)


def _first_look(kind: Kind) -> Log | None:
    some = spread(kind.files, how_many(kind.files, HEAD, least=2, most=FIRST_FILES))
    try:
        few = Kind(kind.what, kind.columns, kind.dialect, some)
        sample: Sample = take(few, most_bytes=HEAD, most_rows=FIRST_ROWS)
    except InputDataError:  # no row
        return None
    return log_of(few, sample)


def _nothing(path: str, kinds: Sequence[Kind], looks: dict[int, Log | None]) -> str:
    found = "; ".join(described(kind, looks.get(id(kind))) for kind in kinds[:5])
    return (
        f"PATH={path}: no log was found that has a user, an item and a time in each row: {found}; "
        "name another path, or write the configuration by hand: docs/data.md has the keys"
    )


def described(kind: Kind, look: Log | None) -> str:
    """Files and why they are no log: part-0.csv (and 3 more): no column for the time (of a, b)."""
    more = f" (and {len(kind.files) - 1} more)" if len(kind.files) > 1 else ""
    name = f"{os.path.basename(kind.files[0].path)}{more}"
    if kind.what not in READABLE:
        return f"{name}: {kind.what}"
    names = ", ".join(kind.columns[:12])
    if look is None:
        return f"{name}: no row (of {names})"
    roles = {"user": look.roles.user, "item": look.roles.item, "time": look.roles.time}
    missing = [role for role, choice in roles.items() if choice is None]
    what = f"no column for the {' and the '.join(missing)}" if missing else "less like a log"
    placed = [(role, choice) for role, choice in roles.items() if choice and choice.how == BY_PLACE]
    guessed = "".join(f"; {c.column.name} may be the {role}" for role, c in placed if missing)
    if look.roles.time is None:
        guessed += "".join(map(_unread, [c for c in look.columns if role_of(c.name) == "time"]))
    return f"{name}: {what} (of {names}{guessed})"


def _unread(column: Column) -> str:
    """Why a column is no time although it is named like one."""
    filled = column.values.drop_null()
    example = f", such as {str(filled[0])!r}" if len(filled) else ""
    return f"; {column.name} is in no format of times that is known{example}"


def path_of(files: list[InputFile], listed: list[InputFile], path: str) -> str:
    """A path or glob that names exactly these of the files below `path`.

    Raises:
        InputDataError: no glob by the ends or beginnings of the names does.
    """
    if len(files) == 1:
        return files[0].path
    wanted = {file.path for file in files}
    base = os.path.commonpath([re.sub(r"^s3:/", "s3:", f.path) for f in listed])
    base = base.replace("s3:", "s3:/", 1) if base.startswith("s3:") else base
    names = [os.path.basename(file.path) for file in files]
    start, end = shared_start(names), shared_start([name[::-1] for name in names])[::-1]
    for pattern in (f"*{end}", f"{start}*", f"{start}*{end}"):
        for middle in ("", "**/"):
            glob = f"{base}/{middle}{pattern}"
            if {file.path for file in list_files_of(glob)} == wanted:
                return glob
    raise InputDataError(
        f"PATH={path} holds the log beside other files, and no glob parts them: the log are "
        f"{len(files)} files such as {files[0].path}; move them into a directory of their own"
    )


def shared_start(texts: Sequence[str]) -> str:
    """The letters that all texts begin with, up to the first digit: part-01, part-02 -> part-."""
    alike = [letters[0] for letters in zip(*texts, strict=False) if len(set(letters)) == 1]
    first = "".join(alike)
    while not all(text.startswith(first) for text in texts):
        first = first[:-1]
    return first.rstrip("0123456789")


def partition_of(files: list[InputFile]) -> tuple[str, str] | None:
    """The key of the configuration that says how paths hold a date, and its value; None if not all
    do.
    """
    keys = [set(PARTITION.findall(file.path)) for file in files]
    if shared := sorted(set.intersection(*keys)):
        return "events.partition_column", shared[0]
    for pattern, layout in LAYOUTS:
        found = [pattern.search(file.path) for file in files]
        if all(found):
            name = {match["key"] for match in found if match and "key" in pattern.groupindex}
            if len(name) <= 1:
                return "events.partition_format", layout.format(key=next(iter(name), ""))
    return None
