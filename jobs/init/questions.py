"""What a sample of a log could not tell, in words."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from .columns import BY_PLACE, Column
from .facts import as_text, in_condition
from .guess import SHORT, Log, number, of, type_entries

CLOCK = r"^\s*[0-2]?[0-9]:[0-5][0-9](:[0-5][0-9])?"
MANY_USERS, TOO_MUCH = 50, 0.1  # a share of all rows
ROUNDED = r"^[0-9]([.,][0-9]+)?[eE]\+?[0-9]+$"


def undecided(log: Log) -> list[str]:
    """What a person should look at."""
    found = [*_roles(log), *_times(log), *_files(log), *map(_rounded, _with_exponents(log))]
    found += _everybody(log)
    if log.is_short():
        found.append(f"score.filter_seen: the rows that were read lie within {SHORT} days")
    if log.types is not None:
        counts = ", ".join(f"{name} {number(n)}" for name, n in log.types.counts.items())
        are_set = any(entry.is_set for entry in type_entries(log))
        how = "the weights in events.types are a guess" if are_set else "all count alike"
        found.append(f"what the kinds of events in {log.types.name} are worth ({counts}): {how}")
    return found


def _roles(log: Log) -> Iterator[str]:
    for role, choice in (("user", log.user), ("item", log.item), ("time", log.time)):
        if choice.how == BY_PLACE:
            yield f"which column holds the {role}: {choice.column.name} is taken"


def _times(log: Log) -> Iterator[str]:
    guess = log.time.column.times
    if guess is not None and guess.other_formats:
        yield (
            f"whether times are {guess.formats[0]} or {' or '.join(guess.other_formats)}: "
            "every sampled value fits both"
        )
    clocks = [column.name for column in log.columns if _all_are(column, CLOCK)]
    if guess is not None and not guess.has_clock and clocks:
        yield (
            f"{log.time.column.name} has days alone, and the time of day in {clocks[0]} is not "
            "read: the order within a day is lost; write both into one column"
        )


def _files(log: Log) -> Iterator[str]:
    others = sorted(log.sample.encodings - {"utf-8"})
    if others and "utf-8" in log.sample.encodings:
        yield (
            f"events.encoding: some texts are UTF-8, others {others[0]}, and one key holds for "
            "all files: write the latter again"
        )


def _with_exponents(log: Log) -> list[Column]:
    columns = [log.user.column, log.item.column]
    return [column for column in columns if _all_are(column, ROUNDED)]


def _rounded(column: Column) -> str:
    return (
        f"{column.name} has ids such as {column.values.drop_null()[0]}: a spreadsheet has rounded "
        "them, and different ids may have become one; export them as text"
    )


def _everybody(log: Log) -> Iterator[str]:
    """A user who may stand for all that are not known."""
    column = log.user.column
    counts = column.values.drop_null().value_counts()
    if len(counts) < MANY_USERS:
        return
    most = int(pc.max(counts.field("counts")).as_py())
    if most > TOO_MUCH * len(column.values):
        value = counts.field("values")[pc.index(counts.field("counts"), most).as_py()].as_py()
        text = value if is_number(value) else as_text(value)
        yield (
            f"whether {column.name} {value} is one user, with {of(most, len(column.values))} rows; "
            "if it stands for all who are not known, leave it out by events.where: "
            f"['{in_condition(column.name)} != {text}']"
        )


def is_number(value: object) -> bool:
    return not isinstance(value, str) or value.lstrip("-").isdigit()


def _all_are(column: Column, pattern: str) -> bool:
    """Whether all values are texts that fit a pattern, and there are some."""
    filled = column.values.drop_null()
    if not pa.types.is_string(filled.type) or not len(filled):
        return False
    return bool(pc.all(pc.match_substring_regex(filled, pattern)).as_py())
