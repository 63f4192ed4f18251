"""Work that ends its process: which rows do it is found out in child processes, by halves.

Memory that runs out and libraries that crash leave no exception to catch. A child process that
works on half of the rows tells whether one of them does it, and takes nothing else with it.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

import pyarrow as pa

from diffsasrec.errors import InfrastructureError

Work = Callable[[pa.Table], pa.Table]


class Child:
    """A process that does `make(*arguments)` once and then works; the next one after its death."""

    def __init__(self, make: Callable[..., Work], *arguments: Any) -> None:
        self._start = (make, arguments)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end()

    def work(self, rows: pa.Table) -> pa.Table | None:
        """What the work makes of the rows; None when it ended the process."""
        if self._pool is None:
            # a copy of this process would have its threads' locks but not its threads
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, _prepare, self._start)
        try:
            return self._pool.submit(_work, rows).result()
        except BrokenProcessPool:
            self._end()
            return None

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None


_WORK: list[Work] = []  # of a child process


def _prepare(make: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    _WORK.append(make(*arguments))


def _work(rows: pa.Table) -> pa.Table:
    return _WORK[0](rows)


def work_around(
    rows: pa.Table, child: Child, *, instead: Work, most: int
) -> tuple[pa.Table, list[int]]:
    """The work on all rows, in their order, with `instead` done to those that end the process.

    Returns:
        the result, and the places of these rows.

    Raises:
        InfrastructureError: more than `most` rows end it.
    """
    results, deadly = [], []
    pending = [(0, rows.num_rows)]
    while pending:
        start, stop = pending.pop()
        result = child.work(rows.slice(start, stop - start))
        if result is None and stop - start > 1:
            middle = (start + stop) // 2
            pending += [(middle, stop), (start, middle)]
            continue
        if result is None:
            deadly.append(start)
            result = instead(rows.slice(start, 1))
        check_deadly(len(deadly), most=most)
        results.append(result)
    return pa.concat_tables(results), deadly


def check_deadly(number: int, *, most: int) -> None:
    """Stops where so many rows end their process that it is hardly the rows' doing."""
    if number > most:
        raise InfrastructureError(
            f"more than score.max_quarantined_users={most} users end the process that scores them; "
            "give the actors more memory, or raise it if the users are at fault"
        )
