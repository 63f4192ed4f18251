"""Counts, trends, pairs and counters where an event counts what its type weighs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from similar_logs import random_similar
from typed_events import NUM_ITEMS, TYPES, WEIGHT, C, Log, P, V, typed_histories, typed_logs

from diffsasrec.counters.pairs import Pairing, scored_pairs, user_sums
from diffsasrec.counters.similar import joined, newest, similarity
from diffsasrec.evaluate.baselines import (
    Asked,
    Popularity,
    item_similarity,
    own_most_frequent,
    rank_lists,
    user_items,
)
from diffsasrec.evaluate.decayed_baselines import HALF_LIVES, UNITS, Decay, decayed_counts
from diffsasrec.model.features import (
    HALF_LIVES as PAIR_HALF_LIVES,
)
from diffsasrec.model.features import (
    TREND_WINDOWS,
    WINDOWS,
    own_items,
    trend_counts,
    trend_features,
    window_counts,
)
from diffsasrec.sequences.histories import Histories
from diffsasrec.times import DAY

NOW = 20 * DAY


def flat(log: Log) -> tuple[Any, Any, Any]:
    histories = typed_histories(log, unit=3 * DAY)
    return histories.items, histories.times, histories.offsets


def weights(log: Log) -> Any:
    return typed_histories(log).weights()


def alike(log: Log) -> Any:
    """The same histories as of a log without types."""
    histories = typed_histories(log, unit=3 * DAY)
    return type(histories)(histories.items, histories.times, histories.offsets)


@given(log=typed_logs)
@settings(deadline=None)
def test_counts_in_windows_are_sums_of_weights(log):
    items, times, _ = flat(log)
    found = window_counts(items, times, before=NOW, num_items=NUM_ITEMS, weights=weights(log))
    expected = np.zeros((len(WINDOWS) + 1, NUM_ITEMS))
    for history in log:
        for item, time, code in history:
            for row, window in enumerate((*WINDOWS, None)):
                if 3 * DAY * time < NOW and (window is None or 3 * DAY * time >= NOW - window):
                    expected[row, item] += WEIGHT[code]
    assert found.tolist() == expected.tolist()


@given(log=typed_logs)
@settings(deadline=None)
def test_trends_count_weights_of_events_visits_and_repeats(log):
    at: dict[str, Any] = {"query_times": np.array([9 * DAY, NOW]), "num_items": NUM_ITEMS}
    found = trend_counts(*flat(log), **at, weights=weights(log))
    expected = np.zeros(found.shape)
    for history in log:
        had: set[int] = set()
        for place, (item, time, code) in enumerate(history):
            is_visit = place > 0 and time > history[place - 1][1]
            kinds = [True, is_visit, item in had]
            had.add(item)
            for query, query_time in enumerate((9 * DAY, NOW)):
                for row, window in enumerate(TREND_WINDOWS):
                    start = 0 if window is None else query_time - window
                    if start <= 3 * DAY * time < query_time:
                        expected[query, :, row, item] += np.where(kinds, WEIGHT[code], 0)
    assert found.tolist() == expected.tolist()
    assert np.isfinite(trend_features(found)).all()


@pytest.mark.parametrize("types", [None, TYPES])
def test_the_trends_of_no_user_can_be_added_to_those_of_some(types):
    histories = typed_histories([[(0, 1, V), (1, 2, P)]], unit=DAY)
    some = Histories(histories.items, histories.times, histories.offsets, types and histories.types)
    at: dict[str, Any] = {"query_times": np.array([3 * DAY]), "num_items": NUM_ITEMS}
    none, found = (
        trend_counts(h.items, h.times, h.offsets, weights=h.weights(), **at)
        for h in (Histories.nothing(types), some)
    )
    assert none.dtype == found.dtype and none.shape == found.shape and not none.any()


def test_counts_of_parts_add_up_to_those_of_the_whole_in_any_order():
    rng = np.random.default_rng(0)
    items, times = rng.integers(0, 3, 9000).astype(np.int32), rng.integers(0, NOW, 9000)
    tenth = round(0.1 * 2**20) / 2**20
    weight = rng.choice([tenth, 3 * tenth], 9000)
    at: dict[str, int] = {"before": NOW, "num_items": 3}
    parts = [window_counts(items[n::7], times[n::7], **at, weights=weight[n::7]) for n in range(7)]
    whole = window_counts(items, times, **at, weights=weight)
    for order in (parts, parts[::-1]):
        assert np.array_equal(sum(order), whole)


@given(log=typed_logs)
@settings(deadline=None)
def test_how_often_a_user_had_an_item_is_by_weight_and_ages_are_not(log):
    now = np.full(len(log), NOW)
    found = own_items(*flat(log), now, weights(log))
    plain = own_items(*flat(log), now)
    assert found.item_X.tolist() == plain.item_X.tolist()
    for user, item, row, other in zip(
        *(found.user_X, found.item_X, found.features_XC, plain.features_XC), strict=True
    ):
        mine = [(NOW / DAY - 3 * t, WEIGHT[c]) for i, t, c in log[user] if i == item]
        often = [sum(w for age, w in mine if age < most) for most in (1e9, 7, 30, 90)]
        assert row[:4] == pytest.approx(np.log1p(often) / 3, abs=1e-5)
        assert (row[4:10] == other[4:10]).all()  # ages and places
        decayed = [sum(w * 0.5 ** (age / half) for age, w in mine) for half in PAIR_HALF_LIVES]
        assert row[10:16] == pytest.approx(np.log1p(decayed) / 3, abs=1e-5)
        num_baskets = len({t for _, t, _ in log[user]})
        share = 3 * sum(w for _, w in mine) / num_baskets
        assert row[21] == pytest.approx(np.log1p(share) / 3, abs=1e-5)
        assert (row[22:] == other[22:]).all()  # of the user


def test_a_type_that_weighs_1_changes_no_bit():
    log: Log = [[(0, 1, P), (1, 2, P), (0, 3, P)], [(2, 1, P)]]
    now = np.full(2, NOW)
    one, other = own_items(*flat(log), now, weights(log)), own_items(*flat(log), now)
    assert (one.features_XC == other.features_XC).all()
    tables = (
        similarity(histories, num_items=NUM_ITEMS)
        for histories in (typed_histories(log, unit=3 * DAY), alike(log))
    )
    for typed, plain in zip(*(similar.tables() for similar in tables), strict=True):
        assert np.allclose(typed.toarray(), plain.toarray(), atol=1e-7)


# --- similar items ---


@given(log=typed_logs)
@settings(deadline=None)
def test_an_item_is_as_much_of_a_history_as_its_heaviest_event(log):
    found = similarity(typed_histories(log), num_items=NUM_ITEMS).near.toarray()
    rows = np.zeros((len(log), NUM_ITEMS))
    for user, history in enumerate(log):
        for item, _, code in history:
            rows[user, item] = max(rows[user, item], WEIGHT[code])
    size, much = rows.sum(1, keepdims=True), rows.sum(0, keepdims=True)
    with np.errstate(all="ignore"):
        scaled = np.nan_to_num(rows / np.sqrt(size * much))
    expected = scaled.T @ scaled
    np.fill_diagonal(expected, 0)
    assert np.allclose(found, expected, atol=1e-6)


def test_a_heavier_event_draws_more_similar_items():
    similar = random_similar(NUM_ITEMS, 3, share=1.0)
    near = similar.near.toarray()
    sums = user_sums(typed_histories([[(0, 1, P), (1, 1, V)]]), similar)[0].toarray()
    assert np.allclose(sums[0], 0.8 * near[0] + 0.2 * near[1], atol=1e-6)


def test_parts_of_histories_keep_their_types():
    one, two = typed_histories([[(0, 1, P), (1, 2, V)]]), typed_histories([[(2, 1, C)]])
    both = joined([newest(one, 1), two])
    assert both.types is not None and both.types.codes.tolist() == [V, C]


# --- pairs under a filter ---


def keys(log: Log, *, num_similar: int, filter_seen: bool = True) -> set[tuple[int, int]]:
    histories = typed_histories(log, unit=3 * DAY)
    pairs = scored_pairs(
        histories,
        np.full(len(log), NOW),
        random_similar(NUM_ITEMS, 5, share=1.0),
        Pairing(num_similar, filter_seen),
    )
    assert pairs is not None
    return set(zip(pairs.users_X.tolist(), pairs.items_X.tolist(), strict=True))


@given(log=typed_logs, num_similar=st.sampled_from([0, 2]))
@settings(deadline=None)
def test_what_is_not_seen_is_scored_under_a_filter_and_what_is_seen_is_not(log, num_similar):
    found = keys(log, num_similar=num_similar)
    own = {(user, item) for user, history in enumerate(log) for item, _, _ in history}
    seen = {(user, item) for user, h in enumerate(log) for item, _, code in h if code != V}
    assert found & own == own - seen
    assert num_similar or found == own - seen


# --- counters ---


def test_own_items_are_as_frequent_as_their_events_weigh():
    histories = typed_histories([[(0, 1, V), (0, 2, V), (1, 3, P), (2, 4, C)]])
    scores = own_most_frequent(Asked(histories, np.ones(NUM_ITEMS, bool), np.array([9])))
    assert scores.toarray()[0, :3].tolist() == [0.5, 1.0, 0.5]
    assert user_items(histories, NUM_ITEMS).sum() == 2.0


def test_a_decayed_event_weighs_its_type_too():
    histories = typed_histories([[(0, 0, P), (1, 1, V)]], unit=DAY)
    found = Decay("days", 1.0).weights(histories, asked_at=2 * DAY)
    assert found.tolist() == [0.25, 0.125]
    counts = decayed_counts(histories, asked_at=2 * DAY, num_items=2)
    assert counts[HALF_LIVES.index(1.0)].tolist() == [0.25 * UNITS, 0.125 * UNITS]


def test_lists_of_counters_leave_out_what_is_seen():
    histories = typed_histories([[(0, 1, V), (1, 2, P)]])
    lists = rank_lists(
        Popularity(np.array([3, 2, 1, 0, 0, 0])),
        histories,
        allowed=np.ones(NUM_ITEMS, bool),
        k=3,
        filter_seen=True,
    )
    assert lists.tolist() == [[0, 2, -1]]


def test_items_are_alike_by_what_their_events_weigh():
    heavy = item_similarity(typed_histories([[(0, 1, P), (1, 1, P)], [(2, 1, P)]]), num_items=6)
    light = item_similarity(typed_histories([[(0, 1, V), (1, 1, V)], [(2, 1, P)]]), num_items=6)
    assert light[0, 1] == pytest.approx(heavy[0, 1] / 4)
