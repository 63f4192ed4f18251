"""A data file of a table: which rows of it are deleted, and what its columns are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.urls import open_filesystem

FIELD_ID = b"PARQUET:field_id"
NO_POSITIONS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Names:
    """What the table calls the columns of its files."""

    by_id: Mapping[int, str] = field(default_factory=dict)  # Iceberg: by the id in the file
    by_name: Mapping[str, str] = field(default_factory=dict)  # by the name in the file

    def of(self, stored: pa.Schema) -> list[str]:
        """The table's name of each column of a file; that of the file where there is none."""
        return [self._name(column) for column in stored]

    def _name(self, column: pa.Field) -> str:
        number = (column.metadata or {}).get(FIELD_ID)
        if number is not None and int(number) in self.by_id:
            return self.by_id[int(number)]
        # a column that the table has dropped must not answer to the name of a newer one
        dropped = column.name if number is None or not self.by_id else f"{column.name} (dropped)"
        return self.by_name.get(column.name, dropped)


@dataclass(frozen=True)
class Deleted:
    """Rows of a data file that the table has deleted, by their position in the file."""

    files: tuple[str, ...] = ()  # Parquet, with columns file_path and pos
    positions: npt.NDArray[np.int64] = field(default_factory=lambda: NO_POSITIONS)

    def of(self, name: str) -> npt.NDArray[np.int64]:
        """The positions in the file that the table calls `name`, sorted, each once."""
        read = [_positions(path, name) for path in self.files]
        return np.unique(np.concatenate([self.positions, *read]))


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a table, at one version of the table."""

    path: str  # local path or s3:// URL
    size: int
    version: str  # changes with the rows that are deleted in it
    name: str  # as the table calls it
    names: Names = Names()
    deleted: Deleted | None = None  # None: none of its rows
    # the value in every row of columns of the table that the file may not hold: those of its
    # partition, and null for those that are younger than the file
    constants: Mapping[str, pa.Scalar] = field(default_factory=dict)

    def lacking(self, stored: pa.Schema) -> dict[str, pa.Scalar]:
        """The constants that stand for columns which the file does not hold."""
        held = set(self.names.of(stored))
        return {name: value for name, value in self.constants.items() if name not in held}

    def stored_names(self, stored: pa.Schema, columns: Sequence[str]) -> list[str]:
        """What the file calls columns of the table, or columns within them."""
        found = dict(zip(self.names.of(stored), stored.names, strict=True))
        parts = [(column, "") if column in found else _parted(column) for column in columns]
        return [f"{found[first]}{rest}" for first, rest in parts]

    def deleted_rows(self) -> npt.NDArray[np.int64]:
        return NO_POSITIONS if self.deleted is None else self.deleted.of(self.name)


def used_columns(events: EventsConfig) -> dict[str, bool]:
    """The columns of a table that a night reads, and whether a row may be without a value.

    Of a column within structs, the outermost one.
    """
    needed = (events.user_column, events.item_column, events.time_column)
    others = [condition.column for condition in events.conditions]
    others += [] if events.type_column is None else [events.type_column]
    used = {name: True for column in others for name in (column, _parted(column)[0])}
    return used | {name: False for column in needed for name in (column, _parted(column)[0])}


def _parted(column: str) -> tuple[str, str]:
    """user.id -> user, .id"""
    first, dot, rest = column.partition(".")
    return first, f"{dot}{rest}"


def _positions(path: str, name: str) -> npt.NDArray[np.int64]:
    """The positions of one data file in a file of deletes.

    Raises:
        InputDataError: it can't be read.
    """
    filesystem, inside = open_filesystem(path)
    try:
        with filesystem.open(inside, "rb") as file:
            table = pq.read_table(file, columns=["file_path", "pos"])
    except (OSError, pa.ArrowException) as error:
        raise InputDataError(
            f"{path}, a file of deleted rows, can't be read: {error}; without it, deleted rows "
            "would come back; repair the table"
        ) from error
    mine = table.filter(pc.equal(table["file_path"].cast(pa.string()), name))
    return mine["pos"].cast(pa.int64()).to_numpy()


def without_deleted(table: pa.Table, first: int, deleted: npt.NDArray[np.int64]) -> pa.Table:
    """The rows that are left of some rows in a row; `first`: the position of the first of them."""
    start, end = np.searchsorted(deleted, [first, first + table.num_rows])
    if start == end:
        return table
    kept = np.ones(table.num_rows, bool)
    kept[deleted[start:end] - first] = False
    return table.filter(pa.array(kept))
