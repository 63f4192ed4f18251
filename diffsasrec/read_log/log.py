"""A log whose files were inspected: its fragments, and which of them are read."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.formats.listing import InputFile
from diffsasrec.tables.data_files import DataFile


@dataclass(frozen=True)
class Fragment:
    path: str
    row_group: int | None  # None: the whole file
    file: InputFile | None = field(default=None, compare=False)  # as it was listed, if known
    of_table: DataFile | None = field(default=None, compare=False)  # of a log that is a table
    integral: tuple[str, ...] = ()  # columns of RAW whose texts 17850.0 are the id 17850


@dataclass(frozen=True)
class Unread:
    """What of a log is read where an earlier night has read the rest."""

    numbers: tuple[int, ...]  # of the fragments
    again: frozenset[int] = frozenset()  # those of them that it has read too, up to `since`
    since: int = 0  # microseconds

    def later(self, number: int, events: pa.Table) -> pa.Table:
        """The events of a fragment that the earlier night has not kept."""
        if number not in self.again:
            return events
        return events.filter(pc.greater_equal(events["timestamp"], self.since))


@dataclass(frozen=True)
class Log:
    """A log whose files were inspected: what to read, and the types of its ids."""

    fragments: list[Fragment]
    user_type: pa.DataType  # as written to the output
    item_type: pa.DataType
    notes: tuple[str, ...] = ()  # what is done to it that its owner should know
    heads: tuple["Head", ...] = ()  # of its files, in their order
    unread: Unread | None = None  # None: all of it is read

    @property
    def id_types(self) -> tuple[pa.DataType, pa.DataType]:
        return self.user_type, self.item_type

    def numbered(self) -> Iterator[tuple[int, Fragment]]:
        """The fragments that are read, with their numbers among all of the log."""
        numbers = range(len(self.fragments)) if self.unread is None else self.unread.numbers
        return ((number, self.fragments[number]) for number in numbers)


@dataclass(frozen=True)
class Head:
    """What the beginning or the footer of a file says."""

    row_groups: tuple[int | None, ...] = ()  # of its fragments; none of a file without rows
    types: tuple[pa.DataType, pa.DataType, pa.DataType] | None = None  # of RAW
    names: tuple[str, ...] = ()  # of its columns
    texts: tuple[str, str] | None = None  # `number_texts` of its first ids, of a CSV
