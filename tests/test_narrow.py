"""Rows that end their process, in real processes that really end."""

import os
import signal
from collections.abc import Callable

import pyarrow as pa
import pytest

from diffsasrec.errors import InfrastructureError
from diffsasrec.narrow import Child, work_around


def doubling(*deadly: int) -> Callable[[pa.Table], pa.Table]:
    """Work that doubles the column x, and does not survive some of its values."""

    def double(rows: pa.Table) -> pa.Table:
        values = rows["x"].to_pylist()
        if {*deadly} & {*values}:
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({"x": [2 * value for value in values]})

    return double


def minus_one(rows: pa.Table) -> pa.Table:
    return pa.table({"x": [-1] * rows.num_rows})


ROWS = pa.table({"x": [10, 11, 12, 13, 14]})


@pytest.mark.parametrize(
    ("deadly", "expected", "places"),
    [
        ((), [20, 22, 24, 26, 28], []),
        ((13,), [20, 22, 24, -1, 28], [3]),
        ((10, 14), [-1, 22, 24, 26, -1], [0, 4]),
    ],
)
def test_rows_that_end_the_process_are_found_and_the_others_keep_their_results(
    deadly, expected, places
):
    with Child(doubling, *deadly) as child:
        table, found = work_around(ROWS, child, instead=minus_one, most=2)
    assert (table["x"].to_pylist(), found) == (expected, places)


def test_more_deadly_rows_than_allowed_are_an_error_that_names_the_limit():
    with Child(doubling, 10, 12) as child, pytest.raises(InfrastructureError, match="users=1"):
        work_around(ROWS, child, instead=minus_one, most=1)


def test_no_rows_give_no_rows():
    with Child(doubling) as child:
        table, found = work_around(ROWS.slice(0, 0), child, instead=minus_one, most=0)
    assert (table.num_rows, found) == (0, [])
