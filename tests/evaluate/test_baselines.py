"""Legend: B users, V items."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.evaluate.baselines import (
    NEIGHBOURS,
    Asked,
    Popularity,
    Score,
    item_knn,
    item_similarity,
    own_most_frequent,
    rank_lists,
    user_items,
)
from diffsasrec.sequences.histories import Histories

small_logs = st.lists(st.lists(st.integers(0, 6), min_size=0, max_size=8), min_size=1, max_size=6)


def flat(histories: list[list[int]]) -> Histories:
    """Events at one time: these counters do not look at it."""
    items = [item for history in histories for item in history]
    offsets = np.cumsum([0, *(len(history) for history in histories)])
    return Histories(np.array(items, np.int32), np.zeros(len(items), np.int64), offsets)


def dense_counts(histories: list[list[int]], num_items: int) -> npt.NDArray[np.float64]:
    """How often each user had each item, [B, V]."""
    rows = [[history.count(item) for item in range(num_items)] for history in histories]
    return np.array(rows, np.float64)


def dense_similarity(histories: list[list[int]], num_items: int) -> npt.NDArray[np.float64]:
    """Before only the nearest are kept, [V, V]."""
    counts_BV = dense_counts(histories, num_items)
    idf_B = np.log(num_items) - np.log1p((counts_BV > 0).sum(1))
    weighted_BV = np.sqrt(counts_BV) * idf_B[:, None]
    return weighted_BV.T @ weighted_BV


def slow_top(scores: npt.NDArray[np.float64], blocked: set[int], k: int) -> list[int]:
    usable = [v for v in range(len(scores)) if scores[v] > 0 and v not in blocked]
    best = sorted(usable, key=lambda v: (-scores[v], v))[:k]
    return best + [-1] * (k - len(best))


def scores_of(score: Score, histories: list[list[int]], num_items: int) -> npt.NDArray[np.float64]:
    num_B = np.full(len(histories), num_items)
    return score(Asked(flat(histories), np.ones(num_items, bool), num_B)).toarray()


@given(log=small_logs)
@settings(deadline=None)
def test_user_items_counts_how_often_each_user_had_each_item(log):
    counted = user_items(flat(log), 7)
    assert counted.toarray().tolist() == dense_counts(log, 7).tolist()


def test_popularity_is_the_same_for_everyone_up_to_the_filters():
    lists = rank_lists(
        Popularity(np.array([5, 9, 0, 9, 1])),
        flat([[], [1, 1], [0, 1, 3, 4]]),
        allowed=np.ones(5, bool),
        k=3,
        filter_seen=True,
    )
    assert lists.tolist() == [[1, 3, 0], [3, 0, 4], [-1, -1, -1]]


def test_items_that_are_not_allowed_are_never_listed():
    lists = rank_lists(
        Popularity(np.array([5, 9, 1, 9, 1])),
        flat([[], [3]]),
        allowed=np.array([True, False, True, True, True]),
        k=3,
        filter_seen=False,
    )
    assert lists.tolist() == [[3, 0, 2], [3, 0, 2]]


def test_a_list_may_be_longer_than_the_catalogue():
    lists = rank_lists(
        Popularity(np.array([1, 2])),
        flat([[], [0]]),
        allowed=np.ones(2, bool),
        k=4,
        filter_seen=True,
    )
    assert lists.tolist() == [[1, 0, -1, -1], [1, -1, -1, -1]]


def test_own_most_frequent_lists_what_the_user_had_ties_by_index():
    lists = rank_lists(
        own_most_frequent,
        flat([[4, 1, 4, 0, 1, 4], [2], []]),
        allowed=np.ones(5, bool),
        k=3,
        filter_seen=False,
    )
    assert lists.tolist() == [[4, 1, 0], [2, -1, -1], [-1, -1, -1]]


@given(log=small_logs)
@settings(deadline=None)
def test_own_most_frequent_equals_counting(log):
    lists = rank_lists(
        own_most_frequent, flat(log), allowed=np.ones(7, bool), k=4, filter_seen=False
    )
    assert lists.tolist() == [slow_top(row, set(), 4) for row in dense_counts(log, 7)]


@given(log=small_logs)
@settings(deadline=None)
def test_item_similarity_equals_a_dense_product(log):
    similarity = item_similarity(flat(log), num_items=7)
    assert np.allclose(similarity.toarray(), dense_similarity(log, 7), atol=1e-5)


@given(log=small_logs, queries=small_logs, filter_seen=st.booleans())
@settings(deadline=None)
def test_item_knn_equals_dense_scores(log, queries, filter_seen):
    score = item_knn(item_similarity(flat(log), num_items=7))
    expected = dense_counts(queries, 7) @ dense_similarity(log, 7)
    assert np.allclose(scores_of(score, queries, 7), expected, atol=1e-4)
    lists = rank_lists(score, flat(queries), allowed=np.ones(7, bool), k=3, filter_seen=filter_seen)
    for user, history in enumerate(queries):
        blocked = set(history) if filter_seen else set()
        ideal = slow_top(expected[user], blocked, 3)
        scores = [expected[user, v] for v in lists[user] if v >= 0]
        assert scores == pytest.approx([expected[user, v] for v in ideal if v >= 0], abs=1e-4)
        assert not blocked & set(lists[user].tolist())


def test_a_score_leaves_the_histories_as_they_were():
    histories = [[4, 1, 4, 0], [2, 2, 1]]
    given = flat(histories)
    similarity = item_similarity(given, num_items=5)
    for score in (own_most_frequent, item_knn(similarity)):
        score(Asked(given, np.ones(5, bool), np.array([3, 3])))
    assert given.items.tolist() == [4, 1, 4, 0, 2, 2, 1]
    assert given.offsets.tolist() == [0, 4, 7]


def test_the_filter_sees_histories_with_repeats_whole():
    lists = rank_lists(
        own_most_frequent,
        flat([[4, 1, 4, 0], [2, 2, 1]]),
        allowed=np.ones(5, bool),
        k=3,
        filter_seen=True,
    )
    assert lists.tolist() == [[-1, -1, -1], [-1, -1, -1]]


def test_counting_neighbours_says_how_far_it_is():
    said: list[tuple[int, int]] = []
    item_similarity(flat([[0, 2999]]), num_items=3000, progress=lambda *far: said.append(far))
    assert said == [(0, 3000), (1024, 3000), (2048, 3000)]


def test_only_the_nearest_items_are_kept_ties_by_index():
    num_items = NEIGHBOURS + 20
    everything = list(range(num_items))
    # one user had all items, forty have item 0 together with the last one
    log = [everything] + [[0, num_items - 1]] * 40
    similarity = item_similarity(flat(log), num_items=num_items + 100).tocsr()
    row = similarity.indices[similarity.indptr[5] : similarity.indptr[6]]
    assert np.diff(similarity.indptr).max() == NEIGHBOURS
    assert sorted(row.tolist()) == list(range(NEIGHBOURS))  # all are equally near
    last = similarity[0].toarray()[0]
    assert last[num_items - 1] > last[1] > 0


@given(log=small_logs, k=st.integers(1, 8), filter_seen=st.booleans())
@settings(deadline=None)
def test_popularity_ranks_as_a_sort_of_the_whole_catalogue_does(log, k, filter_seen):
    counts = np.array([3, 0, 7, 7, 1, 3, 9])
    allowed = np.array([True, True, True, True, False, True, True])
    lists = rank_lists(Popularity(counts), flat(log), allowed=allowed, k=k, filter_seen=filter_seen)
    blocked = [{4, *history} if filter_seen else {4} for history in log]
    assert lists.tolist() == [slow_top(counts, some, k) for some in blocked]


@pytest.mark.parametrize("events_at_once", [1, 2, 3, 100])
def test_parts_of_the_users_change_nothing(monkeypatch, events_at_once):
    size = "diffsasrec.evaluate.baselines.EVENTS_AT_ONCE"
    monkeypatch.setattr(size, events_at_once)  # a size, so that a small log has parts
    lists = rank_lists(
        Popularity(np.array([0, 0, 0, 5, 0, 0, 0, 9, 0, 7])),
        flat([[], [7], [], [9], [3, 7], [], [7, 7, 7]]),
        allowed=np.ones(10, bool),
        k=2,
        filter_seen=True,
    )
    assert lists.tolist() == [[7, 9], [9, 3], [7, 9], [7, 3], [9, -1], [7, 9], [9, 3]]


def test_no_users_have_no_lists():
    lists = rank_lists(
        Popularity(np.array([1, 2])), flat([]), allowed=np.ones(2, bool), k=3, filter_seen=True
    )
    assert lists.shape == (0, 3)
