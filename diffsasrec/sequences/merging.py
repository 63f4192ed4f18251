"""Tables that are merged as they come, in memory that does not grow with their number."""

from collections.abc import Callable

import pyarrow as pa

from diffsasrec.progress import HEARTBEAT

MOST_ROWS = 1_000_000  # unmerged, besides as many as the merged table has


class Merging:
    """Merges tables in batches.

    Merging each table into the whole at once would go through the whole for every table.
    """

    def __init__(
        self, merge: Callable[[list[pa.Table]], pa.Table], *, most_rows: int = MOST_ROWS
    ) -> None:
        """`merge` must give the same for any order and any grouping of the tables."""
        self._merge, self._most_rows = merge, most_rows
        self._merged: list[pa.Table] = []  # none or one
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0  # rows

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        if self._num_waiting >= self._most_rows + sum(each.num_rows for each in self._merged):
            self.result()

    def result(self) -> pa.Table:
        """What all tables so far come to; there must be one."""
        if self._waiting:
            self._merged = [self._merge([*self._merged, *self._waiting])]
            self._waiting, self._num_waiting = [], 0
            HEARTBEAT.beat()
        (merged,) = self._merged
        return merged
