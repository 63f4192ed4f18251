"""What a sample of a log says about its configuration, key by key, with the rows that say so."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from diffsasrec.times import DAY, iso

from .columns import BY_PLACE, Choice, Column, Roles, columns_of, find_roles
from .facts import Types, as_text, find_types, find_value, in_condition
from .files import Kind, Sample
from .sniff.time_values import parse_all

SHORT = 14  # days
MOST_BAD = 0.01  # the default of events.max_bad_fraction


@dataclass(frozen=True)
class Entry:
    """A key with the value that was guessed, and why."""

    key: str
    value: Any
    why: tuple[str, ...] = ()
    choices: tuple[tuple[Any, str], ...] = ()  # other values, with what speaks for them
    is_set: bool = True  # False: a proposal, written as a comment


@dataclass(frozen=True)
class Log:
    """A sample of a log whose users, items and times are known."""

    kind: Kind
    sample: Sample
    roles: Roles
    columns: list[Column] = field(default_factory=list)

    @property
    def user(self) -> Choice:
        assert self.roles.user is not None
        return self.roles.user

    @property
    def item(self) -> Choice:
        assert self.roles.item is not None
        return self.roles.item

    @property
    def time(self) -> Choice:
        assert self.roles.time is not None
        return self.roles.time

    @cached_property
    def micros(self) -> npt.NDArray[np.float64]:
        """The time of each row, NaN where it has none."""
        guess = self.time.column.times
        assert guess is not None
        return parse_all(self.time.column.values, guess.unit, guess.formats)

    @cached_property
    def types(self) -> Types | None:
        taken = {self.user.column.name, self.item.column.name, self.time.column.name}
        return find_types([c for c in self.columns if c.name not in taken])

    def is_short(self) -> bool:
        """Whether the times lie so close together that nobody can have come back to an item."""
        known = self.micros[~np.isnan(self.micros)]
        return len(known) == 0 or bool(known.max() - known.min() < SHORT * DAY)


def log_of(kind: Kind, sample: Sample) -> Log:
    columns = columns_of(sample.table)
    return Log(kind, sample, find_roles(columns), columns)


def number(value: float) -> str:
    return f"{value:,.0f}"


def of(part: int, whole: int) -> str:
    return f"{number(part)} of {number(whole)}"


def size_lines(log: Log) -> list[str]:
    """How large the log is, as far as the sample tells."""
    rows = log.sample.table.num_rows
    about = "" if log.sample.is_whole else f", of about {number(log.sample.rows)} in all"
    files = f"{number(log.sample.num_files)} of {number(len(log.kind.files))} files"
    known = log.micros[~np.isnan(log.micros)]
    span = f"{iso(int(known.min()))} to {iso(int(known.max()))}" if len(known) else "no times"
    return [
        f"{number(rows)} rows of {files} were read{about}.",
        f"They hold {number(log.user.column.distinct)} users and "
        f"{number(log.item.column.distinct)} items, {span}.",
    ]


def event_entries(log: Log) -> list[Entry]:
    """The keys of `events` that say how rows are written and which columns matter."""
    keys = [*_dialect(log), *_columns(log), *_times(log), *_ids(log), *_rows(log)]
    return [*keys, *_types(log)]


def _dialect(log: Log) -> list[Entry]:
    dialect = log.kind.dialect
    entries = [Entry("events.format", log.kind.what)]
    if dialect is None:
        return entries
    even = f"{of(dialect.even, dialect.lines)} lines have {len(dialect.names)} fields then"
    if dialect.separator != ",":
        entries.append(Entry("events.separator", dialect.separator, (even,)))
    if not dialect.has_header:
        why = "the first line is a row like the others: the names below are made up"
        entries.append(Entry("events.columns", list(dialect.names), (why,)))
    if dialect.encoding != "utf-8":
        entries.append(Entry("events.encoding", dialect.encoding, ("the bytes are no UTF-8",)))
    return entries


def _columns(log: Log) -> list[Entry]:
    named = {"user": log.user, "item": log.item, "time": log.time}
    return [
        Entry(
            f"events.{role}_column",
            choice.column.name,
            (_described(choice),),
            tuple((other, "may be meant as well") for other in choice.others),
        )
        for role, choice in named.items()
    ]


def _described(choice: Choice) -> str:
    column = choice.column
    nulls = f", {of(column.nulls, len(column.values))} are null" if column.nulls else ""
    return f"{choice.how}; {number(column.distinct)} different values{nulls}"


def _times(log: Log) -> list[Entry]:
    guess = log.time.column.times
    assert guess is not None
    good = of(len(guess.times), guess.sampled)
    why = f"{good} sampled values of {log.time.column.name} parse as {guess.in_words()}"
    if guess.unit is not None:
        return [Entry("events.time_unit", guess.unit, (why,))]
    if not guess.formats:
        return []
    choices = tuple((other, "explains as many of them") for other in guess.other_formats)
    value = guess.formats[0] if len(guess.formats) == 1 else list(guess.formats)
    return [Entry("events.time_format", value, (why,), choices)]


def _ids(log: Log) -> list[Entry]:
    """int64 where the texts of all ids are integers."""
    columns = log.user.column, log.item.column
    kinds = {column.number_kind for column in columns}
    if log.kind.what == "parquet" or not kinds <= {"integer", "float"}:
        return []
    why = f"every sampled {columns[0].name} and {columns[1].name} is an integer"
    return [Entry("events.id_type", "int64", (why,), is_set=log.sample.is_whole)]


def _rows(log: Log) -> list[Entry]:
    """Which rows count."""
    conditions, why = [], []
    for condition, reason in (*_nulls(log), _returns(log), _no_interest(log)):
        if condition:
            conditions.append(condition)
            why.append(reason)
    entries = [Entry("events.where", conditions, tuple(why))] if conditions else []
    if liked := _liked(log):
        text = "only what was liked; as it stands, a bad rating counts like a good one"
        entries.append(Entry("events.where", [*conditions, liked], (text,), is_set=False))
    return [*entries, *_bad(log)]


def _without_id(log: Log) -> list[Column]:
    """The users or items, where so many rows have none that a night would stop."""
    return [c for c in (log.user.column, log.item.column) if c.null_share > MOST_BAD]


def _nulls(log: Log) -> Iterator[tuple[str, str]]:
    """The condition that leaves out rows without an id, such as those of guests."""
    for column in _without_id(log):
        reason = f"{of(column.nulls, len(column.values))} rows have no {column.name}"
        yield f"{in_condition(column.name)} is not null", reason


def _returns(log: Log) -> tuple[str, str]:
    """The condition that leaves out returned goods, and why; nothing where there are none."""
    if (found := find_value(log.columns, "quantity")) is None:
        return "", ""
    column, values = found
    below = int(pc.sum(pc.less_equal(values, 0)).as_py() or 0)
    reason = f"{of(below, len(values))} rows have {column.name} <= 0, such as returns"
    return (f"{in_condition(column.name)} > 0", reason) if below else ("", "")


def _no_interest(log: Log) -> tuple[str, str]:
    """The condition on the kinds of events that show interest, and which are left out."""
    if log.types is None or not (none := log.types.without_interest()):
        return "", ""
    kept = [as_text(name) for name in log.types.counts if name not in none]
    counts = ", ".join(f"{name} {number(log.types.counts[name])}" for name in none)
    column = in_condition(log.types.name)
    return f"{column} in [{', '.join(kept)}]", f"no sign of interest: {counts}"


def _types(log: Log) -> list[Entry]:
    """What the kinds of events count, where one of them is what it is all about."""
    if log.types is None or not (settings := log.types.settings()):
        return []
    targets = [name for name, each in settings.items() if each["target"]]
    common, words = log.types.are_common(targets), " and ".join(targets)
    why = f"lists predict {words}, which are measured too; the weights are a guess"
    why = why if common else f"{words} are rare: too few to be predicted alone?"
    entry = Entry("events.type_column", log.types.name, (why,), is_set=common)
    return [entry, Entry("events.types", settings, is_set=common)]


def _liked(log: Log) -> str:
    if (found := find_value(log.columns, "rating")) is None or found[0].distinct < 3:
        return ""
    return f"{in_condition(found[0].name)} >= {0.8 * pc.max(found[1]).as_py():g}"


def _bad(log: Log) -> list[Entry]:
    """events.max_bad_fraction, where so many rows can't be read that a night stops."""
    kept = np.ones(log.sample.table.num_rows, bool)
    for column in _without_id(log):
        kept &= np.asarray(column.values.is_valid())
    late = int((np.isnan(log.micros) & kept).sum())
    uneven, rows = log.sample.num_uneven, int(kept.sum()) + log.sample.num_uneven
    if late + uneven <= MOST_BAD * rows:
        return []
    why = f"{number(late)} have no time that can be read, {number(uneven)} lines are no rows"
    allowed = min(1.0, np.ceil(100 * 1.2 * (late + uneven) / rows) / 100)
    text = f"{of(late + uneven, rows)} sampled rows are bad ({why}); they go to quarantine/"
    return [Entry("events.max_bad_fraction", float(allowed), (text,))]


def undecided(log: Log) -> list[str]:
    """What the sample could not tell, in words."""
    found = []
    for role, choice in (("user", log.user), ("item", log.item), ("time", log.time)):
        if choice.how == BY_PLACE:
            found.append(f"which column holds the {role}: {choice.column.name} is taken")
    guess = log.time.column.times
    if guess is not None and guess.other_formats:
        found.append(
            f"whether times are {guess.formats[0]} or {' or '.join(guess.other_formats)}: "
            "every sampled value fits both"
        )
    if log.is_short():
        found.append(f"score.filter_seen: the rows that were read lie within {SHORT} days")
    if log.types is not None:
        counts = ", ".join(f"{name} {number(n)}" for name, n in log.types.counts.items())
        are_set = any(entry.is_set for entry in _types(log))
        how = "the weights in events.types are a guess" if are_set else "all count alike"
        found.append(f"what the kinds of events in {log.types.name} are worth ({counts}): {how}")
    return found
