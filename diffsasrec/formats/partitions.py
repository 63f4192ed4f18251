"""The date of a partition, from the directories of a path."""

import re
from datetime import date, datetime, timedelta
from urllib.parse import unquote

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError

DEFAULT = "__HIVE_DEFAULT_PARTITION__"  # holds the rows without a value
_LASTS = (  # the finest directive of a layout, and how long such a partition lasts at most
    (re.compile(r"%[HIMSfTXcs]"), timedelta(hours=1)),
    (re.compile(r"%[djaAuwxDF]"), timedelta(days=1)),
    (re.compile(r"%[UWV]"), timedelta(days=7)),
    (re.compile(r"%[mbB]"), timedelta(days=31)),
    (re.compile(r""), timedelta(days=366)),
)


def has_partitions(events: EventsConfig) -> bool:
    return events.partition_column is not None or events.partition_format is not None


def partition_of(path: str, events: EventsConfig) -> date | None:
    """The first day of the partition that a file lies in; None: rows without a date lie there.

    The deepest directories that fit count.

    Raises:
        InputDataError: the path has no date, and `events` says that it has.
    """
    if events.partition_format is not None:
        return _of_layout(path, events.partition_format)
    column = events.partition_column
    for part in reversed(path.split("/")[:-1]):
        key, separator, value = part.partition("=")
        if separator and key == column:
            return _of_value(unquote(value), path, part, column)
    raise InputDataError(
        f"{path} has no {column}=YYYY-MM-DD in its path; set events.partition_format if dates are "
        "written in another way, unset events.partition_column, or move the file"
    )


def _of_value(value: str, path: str, part: str, column: str) -> date | None:
    if value == DEFAULT:
        return None
    try:
        return datetime.fromisoformat(value).date()
    except ValueError:
        raise InputDataError(
            f"{path}: {part} is no date; events.partition_column={column} needs "
            f"{column}=YYYY-MM-DD; set events.partition_format for another layout, as in "
            f"{column}=%d-%m-%Y"
        ) from None


def _of_layout(path: str, layout: str) -> date | None:
    directories = [unquote(part) for part in path.split("/")[:-1]]
    num = layout.count("/") + 1
    for start in range(len(directories) - num, -1, -1):
        some = "/".join(directories[start : start + num])
        if DEFAULT in some:
            return None
        try:
            return datetime.strptime(some, layout).date()
        except ValueError:
            continue
    raise InputDataError(
        f"{path} has no directories like events.partition_format={layout}; write the layout as in "
        "year=%Y/month=%m/day=%d, or move the file"
    )


def end_of(first_day: date, events: EventsConfig) -> date:
    """The day after the last one of a partition, at the latest."""
    layout = events.partition_format or "%d"
    lasts = next(lasts for directive, lasts in _LASTS if directive.search(layout))
    return first_day + max(lasts, timedelta(days=1))
