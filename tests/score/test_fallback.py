"""The fallback: the most popular items that a user may be shown."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.score import fallback as popular
from diffsasrec.score.fallback import PopularLists, log_shares

VOCAB = pa.table({"item_id": [*"abcdefgh"]})
SHARES = np.log(np.array([1, 2, 8, 4, 4, 1, 1, 1]) / 22).astype(np.float32)


def lists_of(
    shares: np.ndarray,
    *,
    k: int,
    allowed=None,
    cap=None,
    vocab=VOCAB,
    blocked=(),
    users: int = 1,
    boost=None,
) -> tuple[list[list[int]], list[list[float]]]:
    """`blocked`: pairs of user and item."""
    allowed = np.ones(vocab.num_rows, bool) if allowed is None else allowed
    made = PopularLists(shares, VOCAB, vocab, allowed=allowed, cap=cap, boost=boost)
    pairs = np.array(blocked, np.int64).reshape(-1, 2)
    items, scores = made.lists(pairs[:, 0], pairs[:, 1], num_users=users, k=k)
    return items.tolist(), scores.tolist()


def test_log_shares_order_by_recent_counts_and_the_untouched_by_all_time():
    shares = log_shares(np.array([0, 5, 0, 1, 0]), np.array([90, 5, 4, 1, 0]))
    assert np.argsort(-shares, kind="stable").tolist() == [1, 3, 0, 2, 4]
    assert shares[4] == -np.inf and np.isfinite(shares[:4]).all()
    assert np.exp(shares).sum() == pytest.approx(1)


def test_one_event_is_spread_by_the_shares_of_all_time():
    shares = log_shares(np.array([3, 0]), np.array([3, 1]))
    assert np.exp(shares) == pytest.approx([3.75 / 4, 0.25 / 4])


def test_an_empty_window_leaves_the_shares_of_all_time():
    shares = log_shares(np.zeros(3, np.int64), np.array([6, 0, 2]))
    assert np.exp(shares) == pytest.approx([0.75, 0, 0.25])


def test_without_any_event_nothing_is_popular():
    assert (log_shares(np.zeros(2, np.int64), np.zeros(2, np.int64)) == -np.inf).all()


def test_equally_popular_items_are_ordered_by_index():
    items, scores = lists_of(np.full(8, -1, np.float32), k=4)
    assert items == [[0, 1, 2, 3]] and scores == [[-1.0] * 4]


def test_a_list_is_shorter_when_few_are_allowed():
    items, scores = lists_of(SHARES, k=4, allowed=np.arange(8) < 3)
    assert items == [[2, 1, 0, -1]]
    assert scores == [[*SHARES[[2, 1, 0]].tolist(), -np.inf]]


def test_what_is_allowed_and_does_not_occur_comes_last():
    shares = np.array([-1, -np.inf, -2, -3, -4, -5, -6, -7], np.float32)
    items, scores = lists_of(shares, k=10)
    assert items == [[0, 2, 3, 4, 5, 6, 7, 1, -1, -1]]
    assert scores[0][6:] == [-7.0, pytest.approx(-7.0), -np.inf, -np.inf]
    assert scores[0][7] < -7.0  # the audit compares


def test_nothing_allowed_leaves_empty_lists():
    assert lists_of(SHARES, k=2, allowed=np.zeros(8, bool), users=2)[0] == [[-1, -1]] * 2


def test_a_list_has_the_indices_of_the_checkpoint():
    items, scores = lists_of(SHARES, k=4, vocab=pa.table({"item_id": [*"xhca"]}))
    assert items == [[2, 1, 3, 0]]  # c, then h and a alike; tonight's log has nothing of x
    assert scores[0][:3] == [SHARES[2], SHARES[7], SHARES[0]]


def test_what_is_blocked_for_one_user_is_left_to_the_others():
    items, _ = lists_of(SHARES, k=3, users=3, blocked=[(1, 2), (1, 4), (1, 4), (2, 0)])
    assert items == [[2, 3, 4], [3, 1, 0], [2, 3, 4]]


def test_a_cap_leaves_out_the_less_popular_of_a_category():
    cap = CategoryCap(1, torch.tensor([0, 0, 1, 1, 1, -1, -1, 0]))
    assert lists_of(SHARES, k=5, cap=cap, users=2, blocked=[(1, 2)])[0] == [
        [2, 1, 5, 6, -1],
        [3, 1, 5, 6, -1],
    ]


@pytest.mark.parametrize("k", [1, 3, 8])
def test_users_who_find_too_little_among_the_few_get_the_rest(monkeypatch, k):
    blocked = [(1, item) for item in (2, 3)] + [(3, item) for item in (0, 2, 3, 4)]
    whole = lists_of(SHARES, k=k, users=4, blocked=blocked)
    monkeypatch.setattr(popular, "FEW", 3)  # a size, so that some lists need more
    assert lists_of(SHARES, k=k, users=4, blocked=blocked) == whole


def test_a_boost_is_added_to_the_log_share_also_of_what_does_not_occur(monkeypatch):
    monkeypatch.setattr(popular, "FEW", 2)  # the few are the best with their boosts
    shares = np.array([-1, -np.inf, -2, -3, -4, -5, -6, -7], np.float32)
    boost = np.array([0, 6.5, -9, 0, 0, 4.5, 0, 0], np.float32)
    items, scores = lists_of(shares, k=4, boost=boost)
    assert items == [[5, 1, 0, 3]]
    assert scores[0] == pytest.approx([-0.5, -0.5, -1, -3], abs=1e-5)
