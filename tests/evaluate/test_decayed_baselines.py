"""Counters that weigh events by their age, against a loop over events."""

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.evaluate.baselines import Asked, Popularity, rank_lists
from diffsasrec.evaluate.decayed_baselines import (
    HALF_LIVES,
    UNITS,
    Decay,
    DecayedAndPopular,
    decayed_counts,
    popularity_share,
)
from diffsasrec.sequences.histories import Histories
from diffsasrec.times import DAY

NUM_ITEMS, NOW = 6, 100 * DAY
DECAYS = [Decay("days", 7.0), Decay("basket", 0.7), Decay("event", 0.6), Decay("event", 1.0)]
POPULAR = Popularity(np.array([0.0, 0.4, 0.3, 0.1, 0.0, 0.2]))
SIMILARITY = np.random.default_rng(0).random((NUM_ITEMS, NUM_ITEMS)).astype(np.float32)

# events (item, days ago) of a few users, the oldest first
users = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20)), max_size=7).map(
        lambda history: sorted(history, key=lambda event: -event[1])
    ),
    min_size=1,
    max_size=5,
)


def flat(logs: list[list[tuple[int, int]]]) -> Histories:
    events = [event for history in logs for event in history]
    return Histories(
        np.array([item for item, _ in events], np.int32),
        np.array([NOW - days * DAY for _, days in events], np.int64),
        np.cumsum([0, *map(len, logs)]),
    )


def slow_weights(history: list[tuple[int, int]], decay: Decay) -> list[float]:
    """One event after the other."""
    moments = sorted({days for _, days in history})
    result = []
    for place, (_, days) in enumerate(history):
        if decay.by == "days":
            result.append(0.5 ** (days / decay.number))
        elif decay.by == "basket":
            result.append(decay.number ** moments.index(days))
        else:
            result.append(decay.number ** (len(history) - 1 - place))
    return result


def share(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values / (values.sum() or 1.0)


def own_of(history: list[tuple[int, int]], decay: Decay) -> npt.NDArray[np.float64]:
    values = np.zeros(NUM_ITEMS)
    for (item, _), weight in zip(history, slow_weights(history, decay), strict=True):
        values[item] += weight
    return share(values)


@pytest.mark.parametrize("decay", DECAYS, ids=str)
@given(logs=users)
@settings(deadline=None)
def test_an_event_weighs_what_a_loop_over_events_says(decay, logs):
    weights = decay.weights(flat(logs), asked_at=NOW)
    expected = [weight for history in logs for weight in slow_weights(history, decay)]
    assert weights.tolist() == pytest.approx(expected, rel=1e-5)


@given(logs=users)
@settings(deadline=None)
def test_decayed_counts_of_buckets_add_up_exactly_and_see_no_later_event(logs):
    later = [[*history, (0, 0), (1, -3)] for history in logs]  # at the time of asking, and behind
    whole = decayed_counts(flat(logs), asked_at=NOW, num_items=NUM_ITEMS)
    assert (whole == decayed_counts(flat(later), asked_at=NOW, num_items=NUM_ITEMS)).all()
    expected = np.zeros((len(HALF_LIVES), NUM_ITEMS))
    for history in logs:
        for item, days in history:
            expected[:, item] += [0.5 ** (days / half_life) for half_life in HALF_LIVES]
    assert np.allclose(whole / UNITS, expected, atol=1e-5)
    assert popularity_share(whole[5]).values.sum() == pytest.approx(1.0 if whole[5].any() else 0.0)


@pytest.mark.parametrize("decay", DECAYS, ids=str)
@given(logs=users, weight=st.sampled_from([1e-4, 0.5, 4.0]))
@settings(deadline=None)
def test_lists_are_those_of_dense_scores(decay, logs, weight):
    similarity = scipy.sparse.csr_matrix(SIMILARITY)
    allowed = np.arange(NUM_ITEMS) != 2
    own = DecayedAndPopular(POPULAR, NOW, decay, weight)
    similar = DecayedAndPopular(POPULAR, NOW, decay, weight, similarity)
    options = {"allowed": allowed, "k": 4, "filter_seen": False}
    for score, first in ((own, np.eye(NUM_ITEMS)), (similar, SIMILARITY)):
        lists = rank_lists(score, flat(logs), **options)
        for history, items in zip(logs, lists.tolist(), strict=True):
            values = share(own_of(history, decay) @ first) + weight * POPULAR.values
            found = [values[item] for item in items if item >= 0]
            usable = [v for v in range(NUM_ITEMS) if allowed[v] and values[v] > 0]
            best = sorted((values[v] for v in usable), reverse=True)[:4]
            assert found == pytest.approx(best, rel=1e-4)
            assert len(set(items) - {-1}) == len(found)


def test_popular_items_fill_up_behind_a_users_own():
    score = DecayedAndPopular(POPULAR, NOW, Decay("days", 7.0), 0.01)
    lists = rank_lists(
        score, flat([[(4, 3)], []]), allowed=np.ones(6, bool), k=3, filter_seen=False
    )
    assert lists.tolist() == [[4, 1, 2], [1, 2, 5]]


def test_an_own_item_too_old_for_single_precision_still_counts():
    score = DecayedAndPopular(POPULAR, NOW, Decay("basket", 0.7), 1e-4)
    logs = [[(0, 400), *((4, days) for days in range(390, 90, -1))]]
    asked = Asked(flat(logs), np.ones(6, bool), np.array([6]))
    assert score(asked).toarray()[0, 0] > 0
