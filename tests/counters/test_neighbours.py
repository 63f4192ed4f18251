"""What the nearest users have, against loops over users."""

import numpy as np
import pytest
from hypothesis import given, settings
from similar_logs import NUM_ITEMS, Log, baskets_of, histories_of, logs

from diffsasrec.counters import neighbours
from diffsasrec.counters.neighbours import Tastes, tastes_of


def slow_tastes(log: Log) -> list[list[float]]:
    """Of each user and item: .9 for each later basket, and all of a user's add up to 1."""
    found = []
    for history in log:
        baskets, taste = baskets_of(history), np.zeros(NUM_ITEMS)
        times = sorted({time for _, time in history})
        for item, time in history:
            taste[item] += 0.9 ** (len(baskets) - 1 - times.index(time))
        found.append((taste / (taste.sum() or 1.0)).tolist())
    return found


def slow_of_nearest(asked: Log, sample: Log, *, nearest: int) -> list[list[float]]:
    others = [np.array(taste) for taste in slow_tastes([h for h in sample if len(h) > 1])]
    found = []
    for mine in map(np.array, slow_tastes(asked)):
        length = float(np.linalg.norm(mine))
        cosines = [
            float(mine @ other) / (length * float(np.linalg.norm(other)) or 1.0) for other in others
        ]
        near = [n for n, cosine in enumerate(cosines) if 0 < cosine < 0.9999]
        near = sorted(near, key=lambda n: (-round(cosines[n], 5), n))[:nearest]
        total = sum(cosines[n] for n in near)
        found.append(sum((cosines[n] / total * others[n] for n in near), np.zeros(NUM_ITEMS)))
    return [row.tolist() for row in found]


def tastes(log: Log) -> Tastes:
    return Tastes.sample(histories_of(log), num_items=NUM_ITEMS)


def of_nearest(asked: Log, sample: Log) -> np.ndarray:
    shares = tastes_of(histories_of(asked), num_items=NUM_ITEMS)
    return tastes(sample).of_nearest(shares).toarray()


@settings(deadline=None)
@given(log=logs)
def test_a_taste_is_the_share_of_each_item_in_the_history_the_newest_baskets_most(log):
    found = tastes_of(histories_of(log), num_items=NUM_ITEMS)
    assert np.allclose(found.toarray(), slow_tastes(log), atol=1e-6)


@settings(deadline=None)
@given(asked=logs, sample=logs)
def test_what_the_nearest_users_have_equals_a_loop_over_them(asked, sample):
    # of at most six others none is left out, so that equal cosines are no matter
    expected = slow_of_nearest(asked, sample, nearest=300)
    assert np.allclose(of_nearest(asked, sample), expected, atol=1e-5)


def test_only_the_nearest_count(monkeypatch):
    monkeypatch.setattr(neighbours, "NEAREST", 1)  # a size, so that a small log has farther ones
    sample: Log = [[(0, 1), (1, 1), (2, 1)], [(0, 1), (3, 1)]]  # cosines 1 / 3^.5 and 1 / 2^.5
    assert of_nearest([[(0, 2)]], sample)[0] == pytest.approx([0.5, 0, 0, 0.5, 0, 0])


def test_a_user_who_has_the_same_tells_nothing():
    same: Log = [[(0, 1), (1, 1)]]
    assert not of_nearest(same, [*same, [(2, 1)]]).any()


def test_a_user_without_a_common_item_is_no_neighbour_and_one_without_history_has_none():
    assert not of_nearest([[(0, 1)], []], [[(1, 1), (2, 1)]]).any()


@settings(deadline=None)
@given(asked=logs, sample=logs)
def test_what_a_user_gets_does_not_depend_on_who_else_asks(asked, sample):
    together = of_nearest(asked, sample)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "PAIRS_AT_ONCE", 1)  # a size, so that each user is a part
        assert np.array_equal(of_nearest(asked, sample), together)
    for user, history in enumerate(asked):
        assert np.array_equal(of_nearest([history], sample)[0], together[user])


def test_a_sample_is_spread_evenly_over_the_users_who_have_two_events(monkeypatch):
    monkeypatch.setattr(neighbours, "SAMPLE", 3)  # a size, so that a small log has more users
    log: Log = [[], *([(item, 1), (item, 2)] for item in range(5)), [(5, 1)]]
    assert tastes(log).shares.indices.tolist() == [0, 2, 4]
    assert not tastes([[], [(1, 1)]]).shares.shape[0]


def test_what_is_next_to_nothing_beside_the_heaviest_item_is_left_out():
    log: Log = [[(0, 0), *((1, time) for time in range(1, 90))]]
    assert tastes_of(histories_of(log), num_items=NUM_ITEMS).toarray().tolist() == [
        [0, 1, 0, 0, 0, 0]
    ]


def test_in_another_vocabulary_tastes_add_up_to_1_again():
    index_V = np.array([2, -1, 0, -1, -1, -1], np.int32)
    moved = tastes([[(0, 1), (1, 1)], [(1, 1), (1, 2)]]).reindexed(index_V, 3)
    assert moved.shares.toarray().tolist() == [[0, 0, 1], [0, 0, 0]]
