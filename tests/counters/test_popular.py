"""What is popular, and the ranks of candidates, against loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffsasrec.counters import popular
from diffsasrec.counters.popular import RANKED_WINDOWS, popular_items, ranks
from diffsasrec.model.features import trend_counts, trend_features
from diffsasrec.times import DAY, HOUR

NUM_ITEMS, NOW = 40, 400 * DAY


def trends_of(events: list[tuple[int, int]]):
    """Of events (item, age), each of a user of its own; none is older than a year."""
    items = np.array([item for item, _ in events], np.int32)
    times = NOW - np.array([age for _, age in events], np.int64)
    offsets = np.arange(len(events) + 1)
    query_times = np.array([NOW])
    counts = trend_counts(items, times, offsets, query_times=query_times, num_items=NUM_ITEMS)
    return trend_features(counts)[0]


def test_the_items_of_the_largest_share_of_each_window_are_popular(monkeypatch):
    monkeypatch.setattr(popular, "NUM_POPULAR", 2)  # a size, so that not all items are popular
    ages = {3: HOUR, 30: 12 * HOUR, 7: 2 * DAY, 21: 5 * DAY, 5: 60 * DAY, 11: 200 * DAY}
    events = [(item, age) for item, age in ages.items() for _ in range(100 + 10 * (item % 4))]
    found = popular_items(trends_of(events))
    # in 90 days 3 and 7; in 7 and 3 days the same; in one day 3 and 30; in 6 hours and in an hour
    # 3, then any
    assert {3, 7, 30} <= set(found.items.tolist()) <= {3, 7, 30, *range(NUM_ITEMS)} - {5, 11}
    assert found.items.tolist() == sorted(set(found.items.tolist()))


def test_shares_are_those_of_the_windows_up_to_a_constant():
    rng = np.random.default_rng(0)
    events = [
        (int(item), int(age)) for item, age in rng.integers((NUM_ITEMS, 300 * DAY), size=(5000, 2))
    ]
    trends = trends_of(events)
    shares_VP = popular_items(trends).shares_VP
    assert shares_VP.shape == (NUM_ITEMS, len(RANKED_WINDOWS))
    for column, days in enumerate((30, 7, 1)):
        smoothed = np.full(NUM_ITEMS, 1.0 / NUM_ITEMS)
        for window in (None, 365, 90, 30, 7, 3, 1):
            if window is not None and window < days:
                break
            inside = [item for item, age in events if window is None or age <= window * DAY]
            counted = np.bincount(inside, minlength=NUM_ITEMS)
            smoothed = (counted + 20 * smoothed) / (counted.sum() + 20)
        assert np.allclose(np.diff(shares_VP[:, column]), np.diff(np.log(smoothed)), atol=1e-4)


def test_of_a_small_catalogue_every_item_is_popular():
    assert popular_items(trends_of([(0, DAY)])).items.tolist() == list(range(NUM_ITEMS))


@given(st.lists(st.lists(st.integers(-3, 3), max_size=6), max_size=5))
def test_a_rank_counts_the_pairs_of_the_user_with_a_larger_value(values):
    users = np.repeat(np.arange(len(values)), [len(of_user) for of_user in values])
    flat = np.array([v for of_user in values for v in of_user], np.float32).reshape(-1, 1)
    expected = [np.log1p(sum(w > v for w in mine)) / 3 for mine in values for v in mine]
    found = ranks(np.concatenate([flat, -flat], axis=1), users, num_users=len(values))
    assert found[:, 0].tolist() == pytest.approx(expected)
    expected = [np.log1p(sum(w < v for w in mine)) / 3 for mine in values for v in mine]
    assert found[:, 1].tolist() == pytest.approx(expected)
