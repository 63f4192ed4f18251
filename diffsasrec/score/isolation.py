"""Work that ends its process: child processes find out, by halves, which rows cause it.

Memory that runs out and libraries that crash leave no exception to catch. A child process that
works on half of the rows shows whether one of them causes it, and its death harms nothing else.
Running out of GPU memory is an exception, and is treated the same way.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Protocol

import pyarrow as pa

from diffsasrec.errors import InfrastructureError
from diffsasrec.memory import give_back_gpu_memory, is_out_of_memory

Work = Callable[[pa.Table], pa.Table]


class Worker(Protocol):
    def work(self, rows: pa.Table) -> pa.Table | None:
        """What the work makes of the rows; None if they were too much for it."""


class Here:
    """A worker in this process. Its rows may be too much for the memory."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def work(self, rows: pa.Table) -> pa.Table | None:
        """What the work makes of the rows; None if memory ran out."""
        try:
            return self._work(rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        give_back_gpu_memory()
        return None


class Child:
    """A process that calls `make(*arguments)` once and then works; replaced after its death.

    Args:
        make: returns the work function, which may return None as a `Worker` does.
    """

    def __init__(self, make: Callable[..., Callable[[pa.Table], Any]], *arguments: Any) -> None:
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
        """What the work makes of the rows; None if it ended the process or returned None."""
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


_WORK: list[Callable[[pa.Table], Any]] = []  # of a child process


def _prepare(make: Callable[..., Callable[[pa.Table], Any]], arguments: tuple[Any, ...]) -> None:
    _WORK.append(make(*arguments))


def _work(rows: pa.Table) -> Any:
    return _WORK[0](rows)


def work_around(
    rows: pa.Table, worker: Worker, *, instead: Work, most: int
) -> tuple[pa.Table, list[int]]:
    """The work on all rows, in their order, with `instead` done on rows that are too much for it.

    Returns:
        the result, and the places of these rows.

    Raises:
        InfrastructureError: more than `most` rows are too much.
    """
    results, deadly = [], []
    pending = [(0, rows.num_rows)]
    while pending:
        start, stop = pending.pop()
        result = worker.work(rows.slice(start, stop - start))
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
    """Raises if so many rows are too much that the rows are hardly the cause."""
    if number > most:
        raise InfrastructureError(
            f"more than score.max_quarantined_users={most} users end the process that scores them, "
            "or run out of its memory one by one; give the actors more memory, or raise the limit "
            "if the users are at fault"
        )
