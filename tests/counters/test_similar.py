"""The tables of similar items, against loops over users, baskets and items."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from similar_logs import NUM_ITEMS, Log, baskets_of, histories_of, logs

from diffsasrec.counters.similar import (
    NEIGHBOURS,
    NEWEST,
    joined,
    newest,
    num_neighbours,
    similarity,
)
from diffsasrec.counters.sparse import Table, best_of_rows

Dense = npt.NDArray[np.float64]


def slow_cosines(rows: list[tuple[set[int], set[int]]], left: Dense, right: Dense) -> Dense:
    """The sum over rows of (items, items), each weighed by both sizes and both counts of items."""
    sums = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for before, after in rows:
        for item in before:
            for other in after:
                size = len(before) * len(after)
                sums[item, other] += (size * left[item] * right[other]) ** -0.5
    return sums


def slow_tables(log: Log) -> list[Dense]:
    users = [{item for item, _ in history} for history in log]
    baskets = [basket for history in log for basket in baskets_of(history)]
    steps = [step for history in log for step in pairwise(baskets_of(history))]
    by_user, by_basket = (
        np.array([sum(item in row for row in rows) for item in range(NUM_ITEMS)], np.float64)
        for rows in (users, baskets)
    )
    near = slow_cosines([(user, user) for user in users], by_user, by_user)
    together = slow_cosines([(basket, basket) for basket in baskets], by_basket, by_basket)
    np.fill_diagonal(near, 0)
    np.fill_diagonal(together, 0)
    return [near, together, slow_cosines(steps, by_basket, by_basket)]


@settings(deadline=None)
@given(log=logs)
def test_the_tables_equal_loops_over_users_baskets_and_items(log):
    similar = similarity(histories_of(log), num_items=NUM_ITEMS)
    for table, expected in zip(similar.tables(), slow_tables(log), strict=True):
        assert np.allclose(table.toarray(), expected, atol=1e-6)
        assert (table.data > 0).all() and table.has_sorted_indices


def test_blocks_of_rows_change_nothing(monkeypatch):
    log = [[(item, time) for time in range(3) for item in range(user % 4, 6)] for user in range(9)]
    whole = similarity(histories_of(log), num_items=NUM_ITEMS)
    size = "diffsasrec.counters.sparse.ENTRIES_AT_ONCE"
    monkeypatch.setattr(size, 4)  # a size, so that a small table has blocks
    for one, other in zip(
        whole.tables(), similarity(histories_of(log), num_items=NUM_ITEMS).tables(), strict=True
    ):
        assert np.array_equal(one.toarray(), other.toarray())


def test_the_share_that_is_done_rises_to_the_last_table():
    shares: list[float] = []
    log = [[(0, 0), (1, 1)]]
    similarity(histories_of(log), num_items=NUM_ITEMS, progress=shares.append)
    assert shares == [0, 0.5, 0.75]


def test_an_item_keeps_its_nearest_neighbours_alone():
    num_items = NEIGHBOURS + 3  # item 0 occurs with each other item, with the first ones most
    log = [[(0, 0), (item, 0)] for item in range(1, num_items) for _ in range(1 + (item == 5))]
    near = similarity(histories_of(log), num_items=num_items).near
    assert near[0].nnz == NEIGHBOURS and near[0, 5] > 0
    # all others are equal: the first ones are kept
    assert near[0].indices.tolist() == list(range(1, NEIGHBOURS + 1))


@settings(deadline=None)
@given(
    dense=st.lists(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 3.0]), min_size=7, max_size=7), max_size=4
    ),
    num=st.integers(0, 8),
)
def test_the_best_of_a_row_are_its_largest_entries_of_equal_ones_the_first(dense, num):
    table = Table(np.array(dense, np.float32).reshape(-1, 7))
    best = best_of_rows(table, num).toarray()
    for row, found in zip(dense, best, strict=True):
        order = sorted(range(7), key=lambda column: (-row[column], column))[:num]
        assert found.tolist() == [value if n in order else 0.0 for n, value in enumerate(row)]


@settings(max_examples=30, deadline=None)
@given(log=logs, num=st.integers(1, 10))
def test_the_newest_events_are_the_last_ones_of_each_user(log, num):
    expected = histories_of([history[-num:] for history in log])
    found = newest(histories_of(log), num)
    assert np.array_equal(found.items, expected.items)
    assert np.array_equal(found.times, expected.times)
    assert np.array_equal(found.offsets, expected.offsets)


def test_events_before_the_newest_do_not_count():
    recent = [(item % 2, 1 + item) for item in range(NEWEST)]
    tables = similarity(histories_of([[(3, 0), *recent]]), num_items=NUM_ITEMS)
    alone = similarity(histories_of([recent]), num_items=NUM_ITEMS)
    for one, other in zip(tables.tables(), alone.tables(), strict=True):
        assert np.array_equal(one.toarray(), other.toarray())


@pytest.mark.parametrize("log", [[[]], [[], [(2, 1)], []]])
def test_users_without_two_items_make_no_items_similar(log):
    tables = similarity(histories_of(log), num_items=NUM_ITEMS).tables()
    assert [table.nnz for table in tables] == [0, 0, 0]


def test_users_stand_one_after_another_when_they_are_joined():
    parts = [[[(1, 0)], []], [[(2, 3), (4, 5)]]]
    together = joined(histories_of(part) for part in parts)
    expected = histories_of([history for part in parts for history in part])
    assert np.array_equal(together.items, expected.items)
    assert np.array_equal(together.offsets, expected.offsets)


def test_a_table_of_a_large_catalogue_keeps_fewer_neighbours():
    assert num_neighbours(1) == num_neighbours(40_000) == 100
    assert num_neighbours(1_000_000) == 4 and num_neighbours(10**8) == 1
