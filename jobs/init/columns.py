"""Which columns hold the users, the items and the times: by their names, and by what is in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.schema import canonical_type

from .sniff.names import BY_TITLE, is_description, name_score, role_of
from .sniff.times import TimeGuess, guess_times

BY_NAME, BY_VALUES = "by its name", "the only column of times"
BY_PLACE = "by its place among the columns: no name says it"
MOST_OTHERS = 3
LONGEST_ID = 64  # characters, on average: longer texts are no ids
FEW_VALUES = 20  # of a column of many rows, which is then a kind, and no id
MANY_ROWS = 1000
INTEGER = r"^(?:0|-?[1-9][0-9]{0,17})$"
NUMBER = r"^[-+]?[0-9]+(?:[.,][0-9]+)?$"
CODE = r"^[1-9][0-9]{0,2}([.,][0-9]{3})+$"
FLOAT = r"^(?:0|-?[1-9][0-9]{0,15})\.0+$"  # as pandas writes integers beside a null


@dataclass(frozen=True)
class Column:
    """A column of a sample."""

    name: str
    values: pa.ChunkedArray

    @cached_property
    def nulls(self) -> int:
        return int(self.values.null_count)

    @cached_property
    def distinct(self) -> int:
        return int(pc.count_distinct(self.values).as_py())

    @cached_property
    def times(self) -> TimeGuess | None:
        return guess_times(self.values)

    @property
    def null_share(self) -> float:
        return self.nulls / max(len(self.values), 1)

    @cached_property
    def number_kind(self) -> str | None:
        """integer, or float for integers that are written as 17850.0; None for all else."""
        if pa.types.is_integer(self.values.type):
            return "integer"
        filled = self.values.drop_null()
        if pa.types.is_floating(self.values.type):
            integral = pc.all(pc.equal(pc.floor(filled), filled)).as_py()
            return "float" if integral and len(filled) else None
        if canonical_type(self.values.type) != pa.string() or not len(filled):
            return None
        texts = filled.cast(pa.string())
        if pc.all(pc.match_substring_regex(texts, INTEGER)).as_py():
            return "integer"
        either = pc.match_substring_regex(texts, f"{INTEGER}|{FLOAT}")
        return "float" if pc.all(either).as_py() else None

    def is_measure(self) -> bool:
        """Whether every text is a number, some with a fraction: a price, no id.

        Three digits behind every point are a code such as 12.345, or a group of thousands.
        """
        texts = self.values.cast(pa.string()).drop_null()
        is_number = pc.all(pc.match_substring_regex(texts, NUMBER)).as_py()
        if not is_number or self.number_kind is not None or not self._has_point(texts):
            return False
        return not pc.all(pc.match_substring_regex(texts, CODE)).as_py()

    @staticmethod
    def _has_point(texts: pa.ChunkedArray) -> bool:
        return bool(pc.any(pc.match_substring_regex(texts, "[.,]")).as_py())

    def is_id_by_place(self) -> bool:
        """Whether a column without a telling name may be an id: not of few kinds, no row's key."""
        if not self.name.strip() or self.name.startswith("Unnamed:"):  # an index of pandas
            return False
        is_large = len(self.values) > MANY_ROWS
        return not is_large or FEW_VALUES <= self.distinct < len(self.values)

    def may_be_id(self) -> bool:
        """Whether the values are whole numbers or short texts, and more than one."""
        if self.distinct < 2:
            return False
        if self.number_kind is not None:
            return True
        if canonical_type(self.values.type) != pa.string() or self.is_measure():
            return False
        lengths = pc.utf8_length(self.values.cast(pa.string()))
        return float(pc.mean(lengths).as_py() or LONGEST_ID + 1) <= LONGEST_ID


@dataclass(frozen=True)
class Choice:
    """The column of a role, and how that is known."""

    column: Column
    how: str  # BY_NAME, BY_VALUES or BY_PLACE
    others: tuple[str, ...]  # that may be meant as well, the likeliest first


@dataclass(frozen=True)
class Roles:
    user: Choice | None
    item: Choice | None
    time: Choice | None

    def is_log(self) -> bool:
        return None not in (self.user, self.item, self.time)

    def sureness(self) -> float:
        """How much this looks like a log of interactions, to compare files."""
        named = {"user": self.user, "item": self.item, "time": self.time}
        return sum(
            1 + name_score(choice.column.name, role) for role, choice in named.items() if choice
        )


def columns_of(table: pa.Table) -> list[Column]:
    """Its columns whose names are not given twice."""
    once = [n for n, name in enumerate(table.column_names) if table.column_names.count(name) == 1]
    return [Column(table.column_names[n], table.column(n)) for n in once]


def find_roles(columns: Sequence[Column]) -> Roles:
    """Who, what and when; None for what no column can be."""
    time = _time(columns)
    left = [c for c in columns if time is None or c is not time.column]
    left = [c for c in left if c.may_be_id()]
    named = {role: _ranked(left, role) for role in ("user", "item")}
    user, item = named["user"][:1], named["item"][:1]
    if user and item and user[0] is item[0]:
        user, item = _parted(named["user"], named["item"])
    unnamed = [c for c in left if role_of(c.name) is None and not is_description(c.name)]
    unnamed = [c for c in unnamed if c.is_id_by_place()]
    choices: list[Choice | None] = []
    for role, found in (("user", user), ("item", item)):
        if found:
            others = [c.name for c in named[role] if c not in (*user, *item)]
            others = [name for name in others if name_score(name, role) > BY_TITLE]
            choices.append(Choice(found[0], BY_NAME, tuple(others[:MOST_OTHERS])))
        elif unnamed:
            others = [c.name for c in unnamed[1 : MOST_OTHERS + 1]]
            choices.append(Choice(unnamed.pop(0), BY_PLACE, tuple(others)))
        else:
            choices.append(None)
    return Roles(choices[0], choices[1], time)


def _ranked(columns: Sequence[Column], role: str) -> list[Column]:
    """The columns whose names tell a role, the likeliest first."""
    scores = {id(c): _score(c, role) for c in columns}
    kept = [c for c in columns if scores[id(c)] > 0]
    return sorted(kept, key=lambda c: -scores[id(c)])


def _score(column: Column, role: str) -> float:
    score = name_score(column.name, role)
    is_key = column.distinct == len(column.values) > MANY_ROWS  # of the rows themselves
    return score - 4 * is_key - 5 * (column.null_share > 0.5) if score else 0.0


def _parted(users: list[Column], items: list[Column]) -> tuple[list[Column], list[Column]]:
    """One column leads both lists: it stays where it is likelier, the other takes its next one."""
    if _score(users[0], "user") >= _score(items[0], "item"):
        return users[:1], items[1:2]
    return users[1:2], items[:1]


def _time(columns: Sequence[Column]) -> Choice | None:
    rated = {c.name: _time_score(c) for c in columns if _may_be_time(c)}
    ranked = sorted((c for c in columns if c.name in rated), key=lambda c: -rated[c.name])
    if not ranked:
        return None
    how = BY_VALUES if len(ranked) == 1 else BY_PLACE
    how = BY_NAME if name_score(ranked[0].name, "time") > 0 else how
    return Choice(ranked[0], how, tuple(c.name for c in ranked[1 : MOST_OTHERS + 1]))


def _may_be_time(column: Column) -> bool:
    is_other = role_of(column.name) not in (None, "time")
    return not is_other and column.times is not None


def _time_score(column: Column) -> float:
    assert column.times is not None
    score = name_score(column.name, "time") + 2 * column.times.share
    return score + 3 * column.times.has_clock - 5 * column.null_share
