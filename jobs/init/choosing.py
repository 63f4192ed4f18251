"""Which of the files below a path are the log, and by which path a night finds them alone."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.listing import InputFile
from diffsasrec.inputs.log_files import list_inputs
from diffsasrec.tables.rows import footer_of
from diffsasrec.tables.versions import data_files, pinned

from .columns import BY_PLACE, Choice, Column
from .files import Sample, how_many, spread, take
from .guess import Log, log_of
from .sniff.kinds import HEAD, Kind, are_alike, kinds_below, of_schema
from .sniff.names import role_of

READABLE = ("parquet", "csv", "jsonl")
FIRST_ROWS = 20_000  # that tell a log from other tables
MOST_UNUSABLE = 3  # columns that a message names
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
    joined: tuple[str, ...] = ()  # files of other columns that are read as the same log, in words


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
    best = max(
        (kind for kind in kinds if id(kind) in rated),
        key=lambda kind: (rated[id(kind)], sum(file.size for file in kind.files)),
    )
    alike = [k for k in kinds if k is not best and id(k) in rated and _joins(k, best, first)]
    others = [kind for kind in kinds if kind is not best and kind not in alike]
    whole = _joined([best, *alike])
    log = log_of(whole, take(whole))
    if not log.roles.is_log():
        raise InputDataError(_nothing(path, kinds, {id(best): log}))
    return Chosen(
        log,
        path if not others else path_of(whole.files, files, path),
        tuple(described(kind, first.get(id(kind)), best) for kind in others),
        partition_of(whole.files),
        joined=tuple(f"{_name(kind)}: {', '.join(kind.columns[:12])}" for kind in alike),
    )


def _joins(kind: Kind, best: Kind, looks: dict[int, Log | None]) -> bool:
    """Whether files that are a log by themselves have the users, items and times of another."""
    log = looks[id(best)]
    assert log is not None
    used = {choice.column.name for choice in (log.user, log.item, log.time)}
    return are_alike(kind, best) and used <= set(kind.columns) - set(kind.unusable)


def _joined(kinds: Sequence[Kind]) -> Kind:
    """The files of several kinds as one."""
    files = sorted((file for kind in kinds for file in kind.files), key=lambda file: file.path)
    unusable = {name: why for kind in kinds for name, why in kind.unusable.items()}
    return replace(kinds[0], files=files, unusable=unusable)


def is_delta(path: str) -> bool:
    """Whether a directory is a Delta table."""
    filesystem, inside = open_filesystem(path)
    return bool(filesystem.exists(f"{inside.rstrip('/')}/_delta_log"))


def of_delta(path: str) -> Chosen:
    """A Delta table as the log.

    Raises:
        InputDataError: it has no users, items and times.
    """
    events = EventsConfig(table=path, table_format="delta")
    of_table = {file.path: file for file in data_files(pinned(events), all_columns=True)}
    files = [InputFile(file.path, file.size, file.version) for file in of_table.values()]
    schema, _ = footer_of(of_table[files[0].path])
    kind = replace(of_schema(schema), files=files, of_table=of_table)
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
        few = replace(kind, files=some)
        sample: Sample = take(few, most_bytes=HEAD, most_rows=FIRST_ROWS)
    except InputDataError:  # no row
        return None
    return log_of(few, sample)


def _nothing(path: str, kinds: Sequence[Kind], looks: dict[int, Log | None]) -> str:
    found = "; ".join(described(kind, looks.get(id(kind))) for kind in kinds[:5])
    return (
        f"PATH={path}: no log was found that has a user, an item and a time in each row: {found}; "
        f"{_remedy(kinds)}"
    )


def _remedy(kinds: Sequence[Kind]) -> str:
    if not any(kind.what in READABLE for kind in kinds):
        return "name another path, or write the log as Parquet, CSV or JSON lines"
    return "name another path, or write the configuration by hand: docs/data.md has the keys"


def described(kind: Kind, look: Log | None, log: Kind | None = None) -> str:
    """Files and why they are no log: part-0.csv (and 3 more): no column for the time (of a, b).

    Args:
        log: the files that are the log, if any.
    """
    if kind.what not in READABLE:
        return f"{_name(kind)}: {kind.what}"
    names = ", ".join(kind.columns[:12])
    if look is None:
        return f"{_name(kind)}: no row (of {names})"
    if look.roles.is_log():
        differs = "columns" if log is None or are_alike(kind, log) else f"form ({_form(kind)})"
        return (
            f"{_name(kind)}: looks like a log as well, but of other {differs}; if it is a part of "
            f"this one, write all files alike (of {names})"
        )
    return f"{_name(kind)}: {_what_is_missing(look)} (of {names}{_guessed(look)})"


def _name(kind: Kind) -> str:
    more = f" (and {len(kind.files) - 1} more)" if len(kind.files) > 1 else ""
    return f"{os.path.basename(kind.files[0].path)}{more}"


def _form(kind: Kind) -> str:
    """csv with ; between fields"""
    return (
        f"{kind.what} with {kind.dialect.separator!r} between fields" if kind.dialect else kind.what
    )


def _roles(look: Log) -> dict[str, Choice | None]:
    return {"user": look.roles.user, "item": look.roles.item, "time": look.roles.time}


def _what_is_missing(look: Log) -> str:
    missing = [role for role, choice in _roles(look).items() if choice is None]
    return f"no column for the {' and the '.join(missing)}"


def _guessed(look: Log) -> str:
    """What else is known of the columns where a role is missing."""
    placed = [(r, c) for r, c in _roles(look).items() if c and c.how == BY_PLACE]
    found = "".join(f"; {choice.column.name} may be the {role}" for role, choice in placed)
    if look.roles.time is None:
        found += "".join(map(_unread, [c for c in look.columns if role_of(c.name) == "time"]))
    missing = {role for role, choice in _roles(look).items() if choice is None}
    unusable = [(n, why) for n, why in look.unusable.items() if role_of(n) in {*missing, None}]
    return found + "".join(f"; {name} {why}" for name, why in unusable[:MOST_UNUSABLE])


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
