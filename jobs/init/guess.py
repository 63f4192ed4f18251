"""What a sample of a log says about its configuration, key by key, with the rows that say so."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from diffsasrec.times import DAY, iso

from .columns import Choice, Column, Roles, columns_of, find_roles
from .facts import MOST_BAD, Types, as_text, find_types, find_value, in_condition
from .files import Sample
from .sniff.dialect import Dialect, is_wide
from .sniff.kinds import Kind
from .sniff.time_values import parse_all

SHORT = 14  # days


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

    @property
    def unusable(self) -> dict[str, str]:
        """The columns that hold no users, items or times, and why, in words."""
        absent = {name: f"is not in {path}" for name, path in self.sample.absent.items()}
        return {**self.kind.unusable, **absent}

    @cached_property
    def types(self) -> Types | None:
        taken = {self.user.column.name, self.item.column.name, self.time.column.name}
        return find_types([c for c in self.columns if c.name not in taken])

    @property
    def encoding(self) -> str:
        """Of text: utf-8, unless some is written in another one, and none in UTF-8."""
        others = self.sample.encodings - {"utf-8"}
        if is_wide(self.kind.encoding) or not others or "utf-8" in self.sample.encodings:
            return self.kind.encoding if is_wide(self.kind.encoding) else "utf-8"
        return max(others)  # latin-1 decodes every byte, cp1252 nearly all

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
    return [*keys, *type_entries(log)]


def _dialect(log: Log) -> list[Entry]:
    dialect = log.kind.dialect
    entries = [Entry("events.format", log.kind.what), *(_layout(dialect) if dialect else [])]
    if log.encoding != "utf-8":
        entries.append(Entry("events.encoding", log.encoding, ("the bytes are no UTF-8",)))
    return entries


def _layout(dialect: Dialect) -> Iterator[Entry]:
    """How the lines of a CSV are written, where that is not as usual."""
    even = f"{of(dialect.even, dialect.lines)} lines have {len(dialect.names)} fields then"
    if dialect.separator != ",":
        yield Entry("events.separator", dialect.separator, (even,))
    if dialect.skip_lines:
        why = "lines of another kind stand above the first row or the header"
        yield Entry("events.skip_lines", dialect.skip_lines, (why,))
    if not dialect.has_header:
        why = "the first line is a row like the others: the names below are made up"
        yield Entry("events.columns", list(dialect.names), (why,))
    if dialect.quote != '"':
        yield Entry("events.quote", dialect.quote, ("fields stand within them",))
    if dialect.escape is not None:
        why = "stands before quotes within quotes; more lines are rows with it"
        yield Entry("events.escape", dialect.escape, (why,))
    if dialect.thousands is not None:
        yield Entry("events.thousands", dialect.thousands, ("stands between groups of digits",))
    if dialect.decimal is not None:
        yield Entry("events.decimal", dialect.decimal, ("stands before fractions of numbers",))


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
    """int64 where the texts of all ids are integers; string where only some files have texts."""
    columns = log.user.column, log.item.column
    are_integers = {column.number_kind for column in columns} <= {"integer", "float"}
    mixed = sorted(log.sample.mixed.intersection(column.name for column in columns))
    if log.kind.what == "parquet":
        why = f"{' and '.join(mixed)} hold texts in some files, and numbers in others"
        found = Entry("events.id_type", "int64" if are_integers else "string", (why,))
        return [found] if mixed else []
    if not are_integers:
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
    if log.types is None or not log.types.are_known:  # a condition leaves out rows without one
        return "", ""
    if not (none := log.types.without_interest()):
        return "", ""
    kept = [as_text(name) for name in log.types.counts if name not in none]
    counts = ", ".join(f"{name} {number(log.types.counts[name])}" for name in none)
    column = in_condition(log.types.name)
    return f"{column} in [{', '.join(kept)}]", f"no sign of interest: {counts}"


def type_entries(log: Log) -> list[Entry]:
    """What the kinds of events count, where one of them is what it is all about."""
    if log.types is None or not (settings := log.types.settings()):
        return []
    targets = [name for name, each in settings.items() if each["target"]]
    common, words = log.types.are_common(targets), " and ".join(targets)
    why = f"lists predict {words}, which are measured too; the weights are a guess"
    why = why if common else f"{words} are rare: too few to be predicted alone?"
    why = why if log.types.are_known else f"{of(log.types.nulls, log.types.rows)} rows have none"
    is_set = common and log.types.are_known
    entry = Entry("events.type_column", log.types.name, (why,), is_set=is_set)
    return [entry, Entry("events.types", settings, is_set=is_set)]


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
