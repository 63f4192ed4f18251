from itertools import combinations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffsasrec.evaluate.metrics import (
    UNITS,
    Spread,
    bootstrap_means,
    coverage,
    gini,
    intra_list_diversity,
    mean_popularity,
    next_recall,
    ranks_of,
    user_gains,
)
from diffsasrec.sequences.histories import UserItems


def gains_of(ranks: list[int], k: int = 10) -> dict[str, np.ndarray]:
    """Of users with one target each, at these ranks of lists of 12; 0: in no list."""
    lists = np.tile(np.arange(1, 13), (len(ranks), 1))
    return user_gains(lists, UserItems(np.array(ranks, np.int64), np.arange(len(ranks) + 1)), k=k)


def measured(ranks: list[int], k: int = 10) -> dict[str, float]:
    return {name: Spread.of(values).mean() for name, values in gains_of(ranks, k).items()}


def test_ndcg_is_one_at_rank_1_half_at_rank_3_zero_when_missed():
    assert measured([1])["NDCG@10"] == 1.0
    assert measured([3])["NDCG@10"] == pytest.approx(0.5)
    assert measured([0])["NDCG@10"] == 0.0
    assert measured([1, 3, 0])["NDCG@10"] == pytest.approx(0.5)


def test_mrr_is_the_mean_of_one_over_the_rank():
    assert measured([1, 2, 4, 0])["MRR@10"] == pytest.approx((1 + 0.5 + 0.25) / 4)


def test_hit_rate_is_the_share_of_users_with_a_rank():
    assert measured([1, 2, 10, 0])["HR@10"] == 0.75


def test_a_rank_beyond_k_is_a_miss():
    assert measured([10, 11, 12]) == measured([10, 0, 0])
    assert measured([3, 4], k=3) == {
        "HR@3": 0.5,
        "NDCG@3": pytest.approx(0.25),
        "MRR@3": pytest.approx(1 / 6),
    }


def test_without_users_every_metric_is_0():
    assert measured([]) == {"HR@10": 0.0, "NDCG@10": 0.0, "MRR@10": 0.0}


def test_without_users_every_interval_is_0():
    assert Spread.of(np.zeros(0)).interval(samples=10, seed=0) == (0.0, 0.0)


@given(ranks=st.lists(st.integers(0, 12), min_size=1, max_size=50))
@settings(deadline=None)
def test_metrics_equal_a_loop_over_users(ranks):
    hits = [rank for rank in ranks if 1 <= rank <= 10]
    assert measured(ranks) == {
        "HR@10": pytest.approx(len(hits) / len(ranks)),
        "NDCG@10": pytest.approx(sum(1 / np.log2(rank + 1) for rank in hits) / len(ranks)),
        "MRR@10": pytest.approx(sum(1 / rank for rank in hits) / len(ranks)),
    }


def test_a_rank_is_the_place_of_the_target_in_its_list():
    lists = np.array([[5, 3, 8], [5, 3, 8], [5, 3, 8], [7, -1, -1]])
    assert ranks_of(lists, np.array([5, 8, 4, 7])).tolist() == [1, 3, 0, 1]


def test_the_end_of_a_list_is_no_hit_for_a_target_without_an_index():
    assert ranks_of(np.array([[7, -1, -1]]), np.array([-1])).tolist() == [0]


def test_no_lists_have_no_ranks():
    assert ranks_of(np.zeros((0, 10), np.int64), np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize("name", ["HR@10", "NDCG@10", "MRR@10"])
def test_an_interval_holds_the_value_and_shrinks_with_the_number_of_users(name):
    shape, widths = [70, 8, 6, 4, 3, 3, 2, 1, 1, 1, 1], []
    for times in (1, 100):
        spread = Spread.of(gains_of(np.repeat(range(11), shape).tolist() * times)[name])
        low, high = spread.interval(samples=2000, seed=0)
        assert low < spread.mean() < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.15)  # the root of a hundred


def test_an_interval_is_that_of_resampled_users():
    values = np.random.default_rng(2).random(60) ** 3
    rng = np.random.default_rng(1)
    drawn = [float(rng.choice(values, 60).mean()) for _ in range(4000)]
    expected = np.quantile(drawn, [0.025, 0.975])
    interval = Spread.of(values).interval(samples=4000, seed=0)
    assert interval == pytest.approx(expected, abs=0.01)


def test_a_certain_value_has_no_width():
    assert Spread.of(np.ones(50)).interval(samples=100, seed=0) == (1.0, 1.0)


def test_a_seed_gives_the_same_interval():
    spread = Spread.of(np.repeat([0.0, 0.3, 1.0], [5, 3, 2]))
    one, two, other = (spread.interval(samples=50, seed=seed) for seed in (0, 0, 1))
    assert one == two and one != other


@given(values=st.lists(st.floats(0, 1), max_size=30), border=st.integers(0, 30))
@example(values=[0.499 / UNITS], border=0)
@settings(deadline=None)
def test_spreads_add_up_and_keep_the_mean(values, border):
    whole = Spread.of(np.array(values))
    total = Spread.of(np.array(values[:border])) + Spread.of(np.array(values[border:]))
    assert total.counts.tolist() == whole.counts.tolist()
    expected = sum(values) / max(len(values), 1)
    # each value is kept to half a unit, and so is their mean
    near = pytest.approx(expected, abs=1 / UNITS)
    assert whole.mean() == near and total.mean() == near


def test_coverage_is_the_share_of_known_items_that_anyone_is_shown():
    assert coverage(np.array([9, 0, 1, 0, 0]), num_known=4) == 0.5
    assert coverage(np.zeros(5, np.int64), num_known=0) == 0.0


def test_mean_popularity_weighs_an_item_by_how_often_it_is_shown():
    # shares of all events: 0.6, 0.3, 0.1; shown once, never, three times
    value = mean_popularity(np.array([1, 0, 3]), np.array([6, 3, 1]))
    assert value == pytest.approx((0.6 + 3 * 0.1) / 4)
    assert mean_popularity(np.zeros(3, np.int64), np.array([6, 3, 1])) == 0.0


def test_gini_is_0_for_equal_values_and_nearly_1_when_one_has_all():
    assert gini(np.array([4, 4, 4])) == 0.0 and gini(np.zeros(3, np.int64)) == 0.0
    assert gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)
    assert gini(np.array([3, 1])) == pytest.approx(1 / 4)


@given(values=st.lists(st.integers(0, 50), min_size=1, max_size=20))
@settings(deadline=None)
def test_gini_equals_the_mean_difference_of_all_pairs(values):
    total = sum(values)
    differences = sum(abs(a - b) for a in values for b in values)
    expected = differences / (2 * len(values) * total) if total else 0.0
    assert gini(np.array(values)) == pytest.approx(expected)


# --- means over resampled users ---


def test_rows_of_a_bootstrap_see_the_same_users():
    values = np.random.default_rng(0).normal(size=40)
    means = bootstrap_means(np.stack([values, values + 1, 2 * values]), samples=50, seed=0)
    assert means.shape == (50, 3)
    # paired: what differs by a constant differs by it in every sample
    assert np.allclose(means[:, 1] - means[:, 0], 1) and np.allclose(means[:, 2], 2 * means[:, 0])
    assert len(set(means[:, 0])) == 50


def test_bootstrap_means_scatter_as_those_of_resampled_users():
    values = np.repeat([0.0, 1.0], [30, 10])[None]
    means = bootstrap_means(values, samples=4000, seed=0)[:, 0]
    assert means.mean() == pytest.approx(0.25, abs=0.01)
    assert means.std() == pytest.approx((0.25 * 0.75 / 40) ** 0.5, rel=0.05)


def test_a_seed_gives_the_same_bootstrap_means():
    values = np.random.default_rng(0).normal(size=(2, 30))
    one, two, other = (bootstrap_means(values, samples=9, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


# --- the next items ---


def test_next_recall_is_the_share_of_the_next_items_that_a_list_holds():
    lists = np.array([[5, 3, 8], [5, 3, 8], [5, -1, -1], [1, 2, 3]])
    following = np.array([[3, 9, 8, 1], [4, -1, -1, -1], [5, -1, -1, -1], [-1, -1, -1, -1]])
    assert next_recall(lists, following).tolist() == [0.5, 0.0, 1.0, 0.0]


@given(
    users=st.lists(
        st.tuples(
            st.lists(st.integers(0, 9), max_size=4, unique=True),
            st.lists(st.integers(0, 9), max_size=6, unique=True),
        ),
        max_size=6,
    )
)
@settings(deadline=None)
def test_next_recall_equals_a_loop_over_users(users):
    lists = np.array([row + [-1] * (4 - len(row)) for row, _ in users], np.int64).reshape(-1, 4)
    following = np.array([row + [-1] * (6 - len(row)) for _, row in users], np.int64).reshape(-1, 6)
    expected = [len(set(shown) & set(later)) / max(len(later), 1) for shown, later in users]
    assert next_recall(lists, following).tolist() == pytest.approx(expected)


# --- diversity ---


def histories_of(owners: list[set[int]], num_users: int) -> scipy.sparse.csr_matrix:
    """The users who had each item, as a matrix [users, items]; how often is of no account."""
    counts = np.zeros((num_users, len(owners)), np.float32)
    for item, users in enumerate(owners):
        for user in users:
            counts[user, item] = 1 + user
    return scipy.sparse.csr_matrix(counts)


def test_items_of_the_same_users_have_no_diversity_and_those_of_others_have_all():
    histories = histories_of([{0, 1}, {0, 1}, {2}, {1, 2}], 3)
    lists = np.array([[0, 1], [0, 2], [2, 3], [0, -1], [-1, -1]])
    values = intra_list_diversity(lists, histories)
    assert values[:3].tolist() == pytest.approx([0.0, 1.0, 1 - 1 / 2**0.5])
    assert np.isnan(values[3:]).all()


@given(
    owners=st.lists(st.sets(st.integers(0, 4)), min_size=6, max_size=6),
    drawn=st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True), min_size=1, max_size=5),
)
@settings(deadline=None)
def test_diversity_equals_a_loop_over_the_pairs_of_a_list(owners, drawn):
    lists = np.array([row + [-1] * (4 - len(row)) for row in drawn], np.int64)
    values = intra_list_diversity(lists, histories_of(owners, 5))
    for value, row in zip(values.tolist(), drawn, strict=True):
        cosines = [
            len(owners[a] & owners[b]) / max((len(owners[a]) * len(owners[b])) ** 0.5, 1.0)
            for a, b in combinations(row, 2)
        ]
        expected = 1 - sum(cosines) / len(cosines) if cosines else float("nan")
        assert value == pytest.approx(expected, nan_ok=True)


def test_measuring_diversity_leaves_the_histories_as_they_were():
    histories = histories_of([{0, 1}, {1}], 2)
    before = histories.toarray()
    intra_list_diversity(np.array([[0, 1]]), histories)
    assert np.array_equal(histories.toarray(), before)


def test_lists_of_one_item_have_no_diversity_to_measure():
    assert np.isnan(intra_list_diversity(np.array([[0], [1]]), histories_of([{0}, {1}], 2))).all()
