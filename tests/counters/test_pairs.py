"""Which pairs have a score, and their features, against loops over users and items."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from similar_logs import NUM_ITEMS, Log, baskets_of, histories_of, logs, random_similar

from diffsasrec.counters.neighbours import tastes_of
from diffsasrec.counters.pairs import MOST_OWN, Pairing, scored_pairs, user_sums
from diffsasrec.counters.popular import Popular
from diffsasrec.counters.similar import Similar
from diffsasrec.counters.sparse import Table
from diffsasrec.model.features import NUM_OF_USER, NUM_OWN, own_items
from diffsasrec.times import DAY

NOW = 5  # every event is before it
Rows = dict[tuple[int, int], list[float]]  # (user, item) -> features


def rows_of(log: Log, similar: Similar | None, pairing: Pairing) -> Rows:
    pairs = scored_pairs(histories_of(log), np.full(len(log), NOW), similar, pairing)
    if pairs is None:
        return {}
    keys = list(zip(pairs.users_X.tolist(), pairs.items_X.tolist(), strict=True))
    assert keys == sorted(set(keys))
    return dict(zip(keys, pairs.features_XC.tolist(), strict=True))


def slow_sums(log: Log, similar: Similar) -> list[list[list[float]]]:
    """Of each table, user and item."""
    found = []
    for table in similar.tables():
        dense, of_users = table.toarray().astype(np.float64), []
        for history in log:
            baskets, sums = baskets_of(history), np.zeros(NUM_ITEMS)
            times, total = sorted({time for _, time in history}), 0.0
            for item, time in history:
                weight = 0.7 ** (len(baskets) - 1 - times.index(time))
                sums, total = sums + weight * dense[item], total + weight
            of_users.append((sums / (total or 1.0)).tolist())
        found.append(of_users)
    if similar.tastes is not None:
        tastes = tastes_of(histories_of(log), num_items=NUM_ITEMS)
        found.append(similar.tastes.of_nearest(tastes).toarray().tolist())
    return found


@settings(max_examples=50, deadline=None)
@given(log=logs, seed=st.integers(0, 100))
def test_sums_of_similarities_equal_loops_over_events(log, seed):
    similar = random_similar(NUM_ITEMS, seed, num_users=5)
    for found, expected in zip(
        user_sums(histories_of(log), similar), slow_sums(log, similar), strict=True
    ):
        assert np.allclose(found.toarray(), expected, atol=1e-6)


def test_events_before_the_newest_hundred_add_nothing():
    similar = random_similar(NUM_ITEMS)
    recent = [(n % NUM_ITEMS, 1 + n) for n in range(100)]
    for one, other in zip(
        user_sums(histories_of([[(3, 0), *recent]]), similar),
        user_sums(histories_of([recent]), similar),
        strict=True,
    ):
        assert np.array_equal(one.toarray(), other.toarray())


def slow_candidates(sums: list[float], num: int, hidden: set[int]) -> set[int]:
    """The items with the largest sums, of equal ones the first."""
    usable = [item for item in range(NUM_ITEMS) if sums[item] > 0 and item not in hidden]
    return set(sorted(usable, key=lambda item: (-sums[item], item))[:num])


@settings(max_examples=60, deadline=None)
@given(
    log=logs,
    seed=st.integers(0, 100),
    num=st.integers(1, 4),
    filter_seen=st.booleans(),
    of_nearest=st.booleans(),
)
def test_pairs_are_own_items_and_the_best_ones_of_two_or_three_tables(
    log, seed, num, filter_seen, of_nearest
):
    similar = random_similar(NUM_ITEMS, seed, num_users=5)
    rows = rows_of(log, similar, Pairing(num, filter_seen, of_nearest))
    # the same sums bit for bit: which of two nearly equal ones is larger is no matter here
    sums = (table.toarray().tolist() for table in user_sums(histories_of(log), similar))
    near, _, follows, of_nearest_users = sums
    expected = set()
    for user, history in enumerate(log):
        own = {item for item, _ in history}
        hidden = own if filter_seen else set()
        chosen = slow_candidates(near[user], num, hidden)
        chosen |= slow_candidates(follows[user], num, hidden)
        if of_nearest:
            chosen |= slow_candidates(of_nearest_users[user], num, hidden)
        expected |= {(user, item) for item in chosen | (own - hidden)}
    assert set(rows) == expected


@settings(max_examples=50, deadline=None)
@given(log=logs, seed=st.integers(0, 100), of_nearest=st.booleans())
def test_features_are_those_of_own_items_whether_it_is_one_and_the_similarities(
    log, seed, of_nearest
):
    similar = random_similar(NUM_ITEMS, seed, num_users=5)
    rows, histories = rows_of(log, similar, Pairing(3, False, of_nearest)), histories_of(log)
    own = own_items(histories.items, histories.times, histories.offsets, np.full(len(log), NOW))
    users = own.user_X.tolist()
    known = dict(zip(zip(users, own.item_X.tolist(), strict=True), own.features_XC, strict=True))
    sums = slow_sums(log, similar)[: 3 + of_nearest]
    for (user, item), found in rows.items():
        of_pair = known.get((user, item), np.zeros(NUM_OWN, np.float32)).copy()
        of_user = slice(NUM_OWN - NUM_OF_USER, NUM_OWN)
        of_pair[of_user] = own.features_XC[users.index(user), of_user]
        assert found[:NUM_OWN] == of_pair.tolist()
        assert found[NUM_OWN] == ((user, item) in known)
        scaled = [1 + np.log10(table[user][item] + 1e-4) / 2 for table in sums]
        assert found[NUM_OWN + 1 :] == pytest.approx(scaled, abs=1e-4)


def test_a_similarity_is_minus_1_for_none_and_1_for_all_of_it():
    empty, whole = Table((2, 2), dtype=np.float32), Table(np.array([[0, 1], [0, 0]], np.float32))
    rows = rows_of([[(0, 1)]], Similar(whole, empty, empty), Pairing(1, True))
    assert rows[0, 1][-3:] == pytest.approx([1, -1, -1], abs=1e-4)


def test_under_a_filter_no_own_item_is_scored_and_none_takes_a_place():
    dense = np.full((NUM_ITEMS, NUM_ITEMS), 0.5, np.float32)
    dense[:, 4] = 0.1  # the least similar one, and the only one that the user has not had
    similar = Similar(Table(dense), Table(dense), Table(dense))
    log: Log = [[(item, 0) for item in (0, 1, 2, 3, 5)]]
    assert set(rows_of(log, similar, Pairing(1, True))) == {(0, 4)}
    assert set(rows_of(log, similar, Pairing(1, False))) == {(0, item) for item in (0, 1, 2, 3, 5)}


@settings(deadline=None)
@given(log=logs)
def test_without_similar_items_the_pairs_are_own_items_byte_for_byte(log):
    histories, similar = histories_of(log), random_similar(NUM_ITEMS)
    times = np.full(len(log), NOW)
    own = own_items(histories.items, histories.times, histories.offsets, times)
    pairs = scored_pairs(histories, times, similar, Pairing(0, False))
    assert pairs is not None and pairs.features_XC.shape[1] == NUM_OWN
    for tensor, array in zip(pairs.known().values(), vars(own).values(), strict=True):
        assert tensor.numpy().dtype == array.dtype and tensor.numpy().tobytes() == array.tobytes()
    assert scored_pairs(histories, times, similar, Pairing(0, True)) is None


def test_where_nothing_is_known_of_items_none_is_similar():
    log: Log = [[(0, 1), (2, 3)]]
    empty = Table((NUM_ITEMS, NUM_ITEMS), dtype=np.float32)
    nothing = Similar(empty, empty, empty)
    assert rows_of(log, None, Pairing(9, False)) == rows_of(log, nothing, Pairing(9, False))
    assert scored_pairs(histories_of(log), np.array([NOW]), None, Pairing(9, True)) is None


def test_of_a_long_history_the_newest_distinct_items_are_scored():
    num_items = MOST_OWN + 7
    log: Log = [[(item, item * DAY) for item in range(num_items)] + [(3, num_items * DAY)]]
    empty = Table((num_items, num_items), dtype=np.float32)
    similar, histories = Similar(empty, empty, empty), histories_of([*log, [(9, 1)]])
    times = np.full(2, 10**4 * DAY)
    pairs = scored_pairs(histories, times, similar, Pairing(1, False))
    assert pairs is not None and pairs.users_X.tolist() == [0] * MOST_OWN + [1]
    assert pairs.items_X.tolist()[:-1] == [3, *range(8, num_items)]  # 3 was touched last


@settings(max_examples=30, deadline=None)
@given(log=logs, filter_seen=st.booleans())
def test_the_pairs_of_a_user_do_not_depend_on_other_users(log, filter_seen):
    similar, pairing = random_similar(NUM_ITEMS, num_users=5), Pairing(2, filter_seen, True)
    together = rows_of(log, similar, pairing)
    for user in range(len(log)):
        alone = rows_of(log[user : user + 1], similar, pairing)
        mine = {item: row for (owner, item), row in together.items() if owner == user}
        assert {item: row for (_, item), row in alone.items()} == mine


def test_pairs_are_of_the_types_that_a_model_takes():
    pairs = scored_pairs(
        histories_of([[(0, 1)]]), np.array([NOW]), random_similar(NUM_ITEMS), Pairing(2, False)
    )
    assert pairs is not None
    assert [t.dtype for t in pairs.known().values()] == [torch.int64, torch.int64, torch.float32]


@settings(max_examples=40, deadline=None)
@given(log=logs, seed=st.integers(0, 100), filter_seen=st.booleans(), of_nearest=st.booleans())
def test_popular_items_are_candidates_of_everybody_with_a_history_and_have_no_copy_score(
    log, seed, filter_seen, of_nearest
):
    similar, pairing = (
        random_similar(NUM_ITEMS, seed, num_users=5),
        Pairing(2, filter_seen, of_nearest),
    )
    shares_VP = np.random.default_rng(seed).integers(3, size=(NUM_ITEMS, 3)).astype(np.float32)
    popular = Popular(np.array([1, 4, 5]), shares_VP)
    histories, times = histories_of(log), np.full(len(log), NOW)
    pairs = scored_pairs(histories, times, similar, pairing, popular)
    assert pairs is not None and pairs.ranks_XR is not None and pairs.is_copied_X is not None
    keys = list(zip(pairs.users_X.tolist(), pairs.items_X.tolist(), strict=True))
    own = {(user, item) for user, history in enumerate(log) for item, _ in history}
    hidden, with_history = own if filter_seen else set(), {user for user, _ in own}
    shown = {(user, item) for user in with_history for item in (1, 4, 5)} - hidden
    copied = rows_of(log, similar, pairing)
    assert keys == sorted({*copied, *shown})
    assert pairs.is_copied_X.tolist() == [key in copied for key in keys]
    assert dict(zip(keys, pairs.features_XC.tolist(), strict=True)).items() >= copied.items()
    ranked_by = [pairs.features_XC[:, NUM_OWN + 1]]
    ranked_by += [pairs.features_XC[:, NUM_OWN + 4]] if of_nearest else []
    ranked_by += list(torch.from_numpy(shares_VP)[pairs.items_X].T)
    for of, found in zip(ranked_by, pairs.ranks_XR.T, strict=True):
        values = dict(zip(keys, of.tolist(), strict=True))
        larger = [
            sum(value > mine for (other, _), value in values.items() if other == user)
            for (user, _), mine in values.items()
        ]
        assert np.allclose(found, np.log1p(larger) / 3)
