"""Rows that end their process, in real processes that really end."""

import os
import signal
from collections.abc import Callable

import pyarrow as pa
import pytest
import torch

from diffsasrec.errors import InfrastructureError
from diffsasrec.memory import in_batches, is_out_of_memory
from diffsasrec.score.isolation import Child, Here, work_around


def doubling(*deadly: int) -> Callable[[pa.Table], pa.Table]:
    """Work that doubles the column x, and does not survive some of its values."""

    def double(rows: pa.Table) -> pa.Table:
        values = rows["x"].to_pylist()
        if {*deadly} & {*values}:
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({"x": [2 * value for value in values]})

    return double


def too_large(
    number: int, *deadly: int, error: type[Exception] = torch.cuda.OutOfMemoryError
) -> Callable[[pa.Table], pa.Table]:
    """Work that doubles the column x of at most so many rows at once, and of some values never."""

    def double(rows: pa.Table) -> pa.Table:
        values = rows["x"].to_pylist()
        if len(values) > number or {*deadly} & {*values}:
            raise error("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return pa.table({"x": [2 * value for value in values]})

    return double


def made_here(*arguments: int) -> Callable[[pa.Table], pa.Table | None]:
    return Here(too_large(*arguments)).work


def minus_one(rows: pa.Table) -> pa.Table:
    return pa.table({"x": [-1] * rows.num_rows})


ROWS = pa.table({"x": [10, 11, 12, 13, 14]})


@pytest.mark.process
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


@pytest.mark.process
def test_more_deadly_rows_than_allowed_are_an_error_that_names_the_limit():
    with Child(doubling, 10, 12) as child, pytest.raises(InfrastructureError, match="users=1"):
        work_around(ROWS, child, instead=minus_one, most=1)


@pytest.mark.process
def test_no_rows_give_no_rows():
    with Child(doubling) as child:
        table, found = work_around(ROWS.slice(0, 0), child, instead=minus_one, most=0)
    assert (table.num_rows, found) == (0, [])


OUT_OF_MEMORY = [torch.cuda.OutOfMemoryError, MemoryError, RuntimeError]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize(
    ("number", "deadly", "expected", "places"),
    [
        (9, (), [20, 22, 24, 26, 28], []),
        (2, (), [20, 22, 24, 26, 28], []),
        (1, (), [20, 22, 24, 26, 28], []),
        (9, (13,), [20, 22, 24, -1, 28], [3]),
        (2, (10, 14), [-1, 22, 24, 26, -1], [0, 4]),
    ],
)
def test_rows_for_which_the_memory_does_not_suffice_are_worked_on_by_fewer(
    error, number, deadly, expected, places
):
    worker = Here(too_large(number, *deadly, error=error))
    table, found = work_around(ROWS, worker, instead=minus_one, most=2)
    assert (table["x"].to_pylist(), found) == (expected, places)


@pytest.mark.process
def test_a_child_process_outlives_that_its_memory_runs_out():
    with Child(made_here, 2, 13) as child:
        table, found = work_around(ROWS, child, instead=minus_one, most=2)
        assert (table["x"].to_pylist(), found) == ([20, 22, 24, -1, 28], [3])
        assert child.work(ROWS.slice(0, 2)) is not None


def test_where_no_row_fits_the_user_is_told_to_give_more_memory():
    with pytest.raises(InfrastructureError, match="run out of its memory one by one; give the act"):
        work_around(ROWS, Here(too_large(0)), instead=minus_one, most=2)


def test_other_errors_stay_what_they_are():
    with pytest.raises(ValueError, match="out of memory"):
        Here(too_large(0, error=ValueError)).work(ROWS)


def test_torch_on_a_cpu_says_so_in_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_batches_are_halved_until_they_fit_and_none_is_done_twice():
    done: list[tuple[int, int]] = []

    def work(start: int, stop: int) -> None:
        if stop - start > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        done.append((start, stop))

    in_batches(11, work, size=8)
    assert done == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 11)]
    done.clear()
    in_batches(7, work, size=3)
    assert done == [(0, 3), (3, 6), (6, 7)]
    in_batches(0, work, size=3)


def test_a_batch_of_one_that_does_not_fit_is_an_error():
    def work(start: int, stop: int) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        in_batches(5, work, size=4)
