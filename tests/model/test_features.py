"""Counters as of a query time, against loops over a log.

Legend: Q query times, V items, F trend features, X pairs (user, item of their history).
"""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.model.features import (
    BASKET_DECAYS,
    HALF_LIVES,
    KINDS,
    NUM_GAPS,
    NUM_OF_USER,
    NUM_OWN,
    NUM_TRENDS,
    PRIOR_EVENTS,
    TREND_WINDOWS,
    WINDOWS,
    event_gaps,
    gap_buckets,
    own_items,
    trend_counts,
    trend_features,
    user_features,
    window_counts,
)
from diffsasrec.times import DAY, HOUR

NUM_ITEMS = 5
EVENTS, VISITS, REPEATS = range(KINDS)
ALL_TIME, YEAR, *_, LAST_DAY, HOURS_6, LAST_HOUR = range(len(TREND_WINDOWS))

Log = list[list[tuple[int, int]]]  # per user, in time order: (item, time)
Flat = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]

# times in units of six hours, so that events lie at the edges of windows and visits
times_of_users = st.integers(0, 800).map(lambda quarter: quarter * 6 * HOUR)
logs = st.lists(
    st.lists(st.tuples(st.integers(0, NUM_ITEMS - 1), times_of_users), max_size=8).map(
        lambda history: sorted(history, key=lambda event: event[1])
    ),
    max_size=5,
)


def flat(log: Log) -> Flat:
    events = [event for history in log for event in history]
    items = np.array([item for item, _ in events], np.int32)
    times = np.array([time for _, time in events], np.int64)
    return items, times, np.cumsum([0, *(len(history) for history in log)])


def counts_of(log: Log, *query_times: int) -> npt.NDArray[np.uint32]:
    times = np.array(query_times, np.int64)
    return trend_counts(*flat(log), query_times=times, num_items=NUM_ITEMS)


# --- windows ---


def test_the_windows_end_at_the_cut_and_hold_their_first_moment():
    cut = 100 * DAY
    times = [cut, cut - 1, cut - 6 * HOUR, cut - 6 * HOUR - 1, cut - DAY, cut - 30 * DAY, 0]
    items = np.array([0, 1, 1, 1, 2, 2, 2], np.int32)
    counts = window_counts(items, np.array(times), before=cut, num_items=4)
    assert WINDOWS == (HOUR, 6 * HOUR, DAY, 3 * DAY, 7 * DAY, 30 * DAY, 90 * DAY)
    assert counts.tolist() == [
        [0, 1, 0, 0],  # an hour
        [0, 2, 0, 0],  # 6 hours
        [0, 3, 1, 0],
        [0, 3, 1, 0],
        [0, 3, 1, 0],
        [0, 3, 2, 0],  # 30 days
        [0, 3, 2, 0],
        [0, 3, 3, 0],  # all time
    ]


# --- trends ---


def slow_counts(log: Log, query_time: int) -> list[list[list[int]]]:
    counts = np.zeros((KINDS, len(TREND_WINDOWS), NUM_ITEMS), np.int64)
    for history in log:
        for place, (item, time) in enumerate(history):
            earlier = history[:place]
            kinds = [True, bool(earlier) and time - earlier[-1][1] >= DAY]
            kinds.append(item in [other for other, _ in earlier])
            for kind, is_one in enumerate(kinds):
                for row, window in enumerate(TREND_WINDOWS):
                    inside = window is None or time >= query_time - window
                    counts[kind, row, item] += is_one and inside and time < query_time
    return counts.tolist()


@given(log=logs, quarters=st.lists(st.integers(0, 801), max_size=3))
@settings(deadline=None)
def test_trend_counts_equal_a_loop_over_the_log(log, quarters):
    query_times = [quarter * 6 * HOUR for quarter in quarters]
    expected = [slow_counts(log, query_time) for query_time in query_times]
    assert counts_of(log, *query_times).tolist() == expected


@given(log=logs, border=st.integers(0, 5), quarter=st.integers(0, 801))
@settings(deadline=None)
def test_the_counts_of_two_buckets_add_up_to_those_of_the_whole(log, border, quarter):
    query_time = quarter * 6 * HOUR
    parts = counts_of(log[:border], query_time) + counts_of(log[border:], query_time)
    assert np.array_equal(parts, counts_of(log, query_time))


@given(log=logs, later=logs, quarter=st.integers(0, 801))
@settings(deadline=None)
def test_nothing_at_or_after_the_query_time_is_counted(log, later, quarter):
    query_time = quarter * 6 * HOUR
    past = [[event for event in history if event[1] < query_time] for history in log]
    longer = [
        history + [(item, query_time + time) for item, time in after]
        for history, after in zip(past, later, strict=False)
    ] + past[len(later) :]
    assert np.array_equal(counts_of(past, query_time), counts_of(longer, query_time))


def test_an_event_at_the_query_time_is_not_counted_and_one_just_before_is():
    log = [[(0, 10 * DAY - 1), (1, 10 * DAY)]]
    counts = counts_of(log, 10 * DAY)[0, EVENTS]
    assert counts[ALL_TIME].tolist() == counts[HOURS_6].tolist() == [1, 0, 0, 0, 0]


def test_a_visit_starts_a_day_or_more_after_the_users_event_before():
    log = [
        [(0, 0), (1, DAY - 1), (2, 2 * DAY - 1), (3, 2 * DAY)],  # 2 comes a day after 1
        [(4, 50 * DAY)],  # a first event comes back to nothing, whoever was before
    ]
    assert counts_of(log, 100 * DAY)[0, VISITS, ALL_TIME].tolist() == [0, 0, 1, 0, 0]


def test_a_repeat_is_of_an_item_that_the_user_had_before():
    log = [
        [(0, 0), (1, 0), (0, 1), (0, 9 * DAY)],  # twice 0 again
        [(1, 5), (0, 6)],  # the first times of another user
        [(2, 7), (2, 7)],  # at one instant
    ]
    assert counts_of(log, 10 * DAY)[0, REPEATS, ALL_TIME].tolist() == [2, 0, 1, 0, 0]
    assert counts_of(log, 10 * DAY)[0, REPEATS, LAST_DAY].tolist() == [1, 0, 0, 0, 0]
    assert counts_of(log, 10 * DAY + 1)[0, REPEATS, LAST_DAY].tolist() == [0, 0, 0, 0, 0]


def test_a_log_without_events_has_counts_of_0():
    logs_without: list[Log] = [[], [[], []]]
    for log in logs_without:
        assert counts_of(log, 0, DAY).shape == (2, KINDS, len(TREND_WINDOWS), NUM_ITEMS)
        assert not counts_of(log, 0, DAY).any()


def test_without_a_query_time_there_are_no_counts():
    assert counts_of([[(0, 1)]]).shape == (0, KINDS, len(TREND_WINDOWS), NUM_ITEMS)


def slow_features(counts: list[list[list[int]]]) -> list[list[float]]:
    """[V, F] of the counts [3, 8, V] at one query time."""
    columns = []
    all_events = [1 / NUM_ITEMS] * NUM_ITEMS
    for kind in range(KINDS):
        longer = all_events
        for window, counted in enumerate(counts[kind]):
            total = sum(counted) + PRIOR_EVENTS
            share = [(n + PRIOR_EVENTS * s) / total for n, s in zip(counted, longer, strict=True)]
            columns.append([math.log(a / b) for a, b in zip(share, longer, strict=True)])
            longer = share
            if (kind, window) == (EVENTS, ALL_TIME):
                all_events = share
    return [list(row) for row in zip(*columns, strict=True)]


@given(log=logs, quarter=st.integers(0, 801))
@settings(deadline=None)
def test_trend_features_equal_loops_over_windows_and_items(log, quarter):
    counts = counts_of(log, quarter * 6 * HOUR, 900 * DAY)
    features = trend_features(counts)
    assert features.shape == (2, NUM_ITEMS, NUM_TRENDS) and features.dtype == np.float32
    for at in range(2):
        assert np.allclose(features[at], slow_features(counts[at].tolist()), atol=1e-5)


def test_the_first_trend_is_the_log_share_of_all_time_and_0_for_an_average_item():
    log = [[(item, item * DAY) for item in (0, 0, 0, 0, 1, 1, 2, 2, 3, 3)]]
    column = trend_features(counts_of(log, 900 * DAY))[0, :, 0]
    # of ten events and twenty more, spread evenly: 4 + 4, 2 + 4 and 0 + 4 of 30, times five items
    assert column.tolist() == pytest.approx(
        np.log(np.array([8, 6, 6, 6, 4]) / 6).tolist(), abs=1e-6
    )
    assert column[1] == 0.0


def test_an_item_of_average_share_in_every_window_has_no_trend_at_all():
    log = [[(item, 10 * DAY - HOUR) for item in range(NUM_ITEMS)]]
    assert np.allclose(trend_features(counts_of(log, 10 * DAY)), 0, atol=1e-6)


def test_an_empty_window_has_no_trend():
    log = [[(0, 0), (1, 300 * DAY), (0, 395 * DAY), (0, 396 * DAY)]]
    features = trend_features(counts_of(log, 400 * DAY))[0].reshape(NUM_ITEMS, KINDS, -1)
    # the newest event is four days old: nothing in the last three days, the last day, six hours
    assert np.allclose(features[:, :, -3:], 0, atol=1e-6)
    assert (features[0, :, YEAR] != 0).all() and features[0, EVENTS, YEAR + 1] > 0


def test_an_item_that_rises_has_a_higher_trend_than_one_that_falls():
    log = [[(0, n * HOUR) for n in range(30)] + [(1, 99 * DAY + n * 1000) for n in range(30)]]
    features = trend_features(counts_of(log, 100 * DAY))[0].reshape(NUM_ITEMS, KINDS, -1)
    assert features[0, EVENTS, ALL_TIME] == features[1, EVENTS, ALL_TIME]
    assert features[0, EVENTS].sum() < features[1, EVENTS].sum()


def test_trends_do_not_depend_on_the_order_of_items():
    log = [[(0, 0), (1, 2 * DAY), (1, 3 * DAY), (4, 80 * DAY)], [(4, 90 * DAY), (2, 99 * DAY)]]
    swapped = [[({0: 4, 4: 0}.get(item, item), time) for item, time in user] for user in log]
    one, other = (trend_features(counts_of(each, 100 * DAY))[0] for each in (log, swapped))
    assert np.allclose(one[[4, 1, 2, 3, 0]], other, atol=1e-6)


# --- time differences ---


def test_gap_buckets_begin_at_1_have_two_per_doubling_and_end_at_63():
    minutes = np.array([0, 0.4, 1, 2, 3, 7, 15, 60 * 24, 60 * 24 * 365])
    assert gap_buckets(minutes * HOUR / 60).tolist() == [1, 1, 3, 4, 5, 7, 9, 21, 39]
    assert gap_buckets(np.array([-5.0 * DAY, 1e20])).tolist() == [1, NUM_GAPS - 1]


@given(gaps=st.lists(st.integers(-DAY, 2**62), min_size=2).map(sorted))
@settings(deadline=None)
def test_a_longer_gap_never_has_a_lower_bucket(gaps):
    buckets = gap_buckets(np.array(gaps))
    assert (np.diff(buckets) >= 0).all() and buckets.min() >= 1 and buckets.max() < NUM_GAPS


@given(log=logs)
@settings(deadline=None)
def test_the_gap_of_an_event_is_that_to_the_users_event_before_and_0_for_the_first(log):
    _, times, offsets = flat(log)
    expected = []
    for history in log:
        for place, (_, time) in enumerate(history):
            gap = np.array([time - history[place - 1][1]])
            expected.append(int(gap_buckets(gap)[0]) if place else 0)
    assert event_gaps(times, offsets).tolist() == expected


# --- own items ---


def slow_own_items(log: Log, query_times: list[int]) -> list[tuple[int, int, list[float]]]:
    """(user, item, features) of every pair."""
    rows = []
    for user, (history, query_time) in enumerate(zip(log, query_times, strict=True)):
        distinct = sorted({item for item, _ in history})
        for item in distinct:
            places = [place for place, (other, _) in enumerate(history) if other == item]
            ages = [(query_time - history[place][1]) / DAY for place in places]
            again = len(ages) > 1
            between = (ages[0] - ages[-1]) / (len(ages) - 1) if again else 0.0
            baskets = sorted({time for _, time in history})
            later = [len(baskets) - 1 - baskets.index(history[place][1]) for place in places]
            numbers = [
                len(ages),
                *(sum(age < days for age in ages) for days in (7, 30, 90)),
                ages[-1],
                ages[0],
                between,
                ages[-1] / (between + 1) if again else 0.0,
                len(history) - 1 - places[-1],
                later[-1],
                *(sum(2 ** (-age / days) for age in ages) for days in (7, 14, 30, 60, 120, 365)),
                *(sum(decay**nth for nth in later) for decay in (0.5, 0.7, 0.8, 0.9, 0.95)),
                3 * len(ages) / len(baskets),
                len(history),
                len(distinct),
                len(baskets),
                len(history) / len(baskets),
                (query_time - history[-1][1]) / DAY,
            ]
            rows.append((user, item, [math.log1p(number) / 3 for number in numbers]))
    return rows


@given(log=logs, ages=st.lists(st.integers(0, 200), min_size=5, max_size=5))
@settings(deadline=None)
def test_own_items_equal_loops_over_users_items_and_events(log, ages):
    # the histories lie before the query times: an age 0 is a microsecond
    query_times = [
        max((time for _, time in history), default=0) + 1 + quarter * 6 * HOUR
        for history, quarter in zip(log, ages, strict=False)
    ]
    own = own_items(*flat(log), np.array(query_times, np.int64))
    expected = slow_own_items(log, query_times)
    pairs = list(zip(own.user_X.tolist(), own.item_X.tolist(), strict=True))
    assert pairs == [(user, item) for user, item, _ in expected] == sorted(set(pairs))
    features = np.array([row for _, _, row in expected]).reshape(-1, NUM_OWN)
    assert own.features_XC.dtype == np.float32 and own.features_XC.shape == features.shape
    assert np.allclose(own.features_XC, features, atol=1e-5)


def test_the_numbers_of_one_pair_by_hand():
    log = [[(3, 0), (1, 60 * DAY), (3, 80 * DAY), (3, 90 * DAY), (2, 96 * DAY)]]
    own = own_items(*flat(log), np.array([100 * DAY]))
    assert own.item_X.tolist() == [1, 2, 3]
    numbers = np.expm1(3 * own.features_XC[2].astype(np.float64))
    assert numbers.tolist() == pytest.approx(
        [
            3,  # times
            0,  # in the last 7 days
            2,  # in the last 30 days
            2,  # in the last 90 days
            10,  # days since the last time
            100,  # days since the first
            45,  # days between two times
            10 / 46,
            1,  # one event came after
            1,  # one basket came after
            *(sum(2 ** (-age / days) for age in (10, 20, 100)) for days in HALF_LIVES),
            *(decay + decay**2 + decay**4 for decay in BASKET_DECAYS),
            3 * 3 / 5,  # the item is in so many of the baskets, times 3
            5,  # events
            3,  # distinct items
            5,  # baskets
            1,  # event in each
            4,  # days since any event
        ],
        rel=1e-4,
        abs=1e-4,
    )


@given(log=logs)
@settings(deadline=None)
def test_what_is_known_of_a_user_is_the_same_in_all_its_pairs(log):
    query_times = np.full(len(log), 10**15)
    users = user_features(*flat(log), query_times)
    own = own_items(*flat(log), query_times)
    assert users.dtype == np.float32 and users.shape == (len(log), NUM_OF_USER)
    assert np.array_equal(own.features_XC[:, -NUM_OF_USER:], users[own.user_X])


def test_of_an_empty_history_is_known_that_it_is_empty():
    # no event, no item; one basket, so that nothing is divided by 0; no end that could be old
    expected = [0, 0, math.log1p(1) / 3, 0, 0]
    assert user_features(*flat([[]]), np.array([10]))[0].tolist() == pytest.approx(expected)


def test_an_empty_history_has_no_pair():
    own = own_items(*flat([[], [(4, 5)], []]), np.array([10, 10, 10]))
    assert own.user_X.tolist() == [1] and own.item_X.tolist() == [4]
    logs_without: list[Log] = [[], [[], []]]
    for log in logs_without:
        own = own_items(*flat(log), np.full(len(log), 10))
        assert len(own.user_X) == len(own.item_X) == 0
        assert own.features_XC.shape == (0, NUM_OWN)


def test_a_users_pairs_do_not_depend_on_the_users_around_it():
    log = [[(1, 0), (2, 5 * DAY), (1, 6 * DAY)], [(1, 3 * DAY)], [(0, 4 * DAY), (0, 9 * DAY)]]
    query_times = np.array([10, 20, 30]) * DAY
    together = own_items(*flat(log), query_times)
    for user in range(3):
        alone = own_items(*flat(log[user : user + 1]), query_times[user : user + 1])
        of_user = together.user_X == user
        assert np.array_equal(alone.item_X, together.item_X[of_user])
        assert np.array_equal(alone.features_XC, together.features_XC[of_user])
