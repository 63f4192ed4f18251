"""The ranker: its loss, and what it adds to logits, against loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffsasrec.config.training import ModelConfig
from diffsasrec.model.features import NUM_OWN, NUM_SIMILAR, NUM_TRENDS
from diffsasrec.model.heads.pairs import Pairs
from diffsasrec.model.heads.ranker import (
    BEHIND,
    NUM_RANKS,
    Ranker,
    Ranking,
    of_hits,
    ranking_loss,
)
from diffsasrec.model.transformer import SequenceModel

SCORES = st.lists(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=5), max_size=4)


def pairs_of(sizes: list[int]) -> Pairs:
    """So many pairs of each user, every second one with a copy score."""
    users = torch.tensor([user for user, size in enumerate(sizes) for _ in range(size)]).long()
    items = torch.tensor([item for size in sizes for item in range(size)]).long()
    features = torch.randn(len(users), NUM_OWN + NUM_SIMILAR)
    ranks, copied = torch.rand(len(users), NUM_RANKS), torch.arange(len(users)) % 2 == 0
    return Pairs(users, items, features, ranks, copied)


@given(scores=SCORES, seed=st.integers(0, 100))
def test_the_loss_is_that_of_a_softmax_over_the_candidates_of_each_user(scores, seed):
    pairs = pairs_of([len(mine) for mine in scores])
    flat = torch.tensor([score for mine in scores for score in mine], dtype=torch.float32)
    shares = torch.rand(len(flat), generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    expected, at = 0.0, 0
    for mine in scores:
        total = math.log(sum(math.exp(score) for score in mine))
        for score in mine:
            expected += float(shares[at]) * (total - score)
            at += 1
    assert float(ranking_loss(flat, pairs.users_X, shares)) == pytest.approx(expected, abs=1e-4)


@given(scores=SCORES, seed=st.integers(0, 100))
def test_users_without_a_candidate_in_their_next_basket_add_nothing_to_the_loss(scores, seed):
    pairs = pairs_of([len(mine) for mine in scores])
    flat = torch.tensor([score for mine in scores for score in mine], dtype=torch.float32)
    shares = torch.rand(len(flat), generator=torch.Generator().manual_seed(seed))
    shares = torch.where(shares > 0.7, shares, 0.0)
    hits, hit_shares = of_hits(pairs, shares)
    users = {int(user) for user, share in zip(pairs.users_X, shares, strict=True) if share > 0}
    assert set(hits.users_X.tolist()) == users
    mine = torch.tensor([int(user) in users for user in pairs.users_X], dtype=torch.bool)
    loss = ranking_loss(flat[mine], hits.users_X, hit_shares)
    assert float(loss) == pytest.approx(float(ranking_loss(flat, pairs.users_X, shares)), abs=1e-4)


def test_large_scores_do_not_overflow():
    loss = ranking_loss(torch.tensor([500.0, 0.0]), torch.tensor([0, 0]), torch.tensor([0.0, 1.0]))
    assert float(loss) == pytest.approx(500.0)


@given(scores=SCORES, weight=st.sampled_from([0.25, 0.5]))
def test_candidates_are_raised_by_how_far_they_are_before_the_last_of_their_user(scores, weight):
    pairs = pairs_of([len(mine) for mine in scores])
    flat = torch.tensor([score for mine in scores for score in mine], dtype=torch.float32)
    added = Ranking.of(flat, pairs, weight).added_X
    expected = [weight * (score - min(mine) + BEHIND) for mine in scores for score in mine]
    assert added.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_ranker_reads_features_ranks_and_trends():
    config = ModelConfig(similar_items=5, nearest_users=False, dropout=0.0)
    ranker, pairs, trends = Ranker(config).eval(), pairs_of([4]), torch.randn(4, NUM_TRENDS)
    assert pairs.ranks_XR is not None
    scores = ranker(pairs, trends)
    others = [
        ranker(Pairs(pairs.users_X, pairs.items_X, pairs.features_XC + 1, pairs.ranks_XR), trends),
        ranker(Pairs(pairs.users_X, pairs.items_X, pairs.features_XC, pairs.ranks_XR + 1), trends),
        ranker(pairs, trends + 1),
    ]
    assert all(not torch.allclose(scores, other) for other in others)


def test_only_a_model_that_scores_similar_items_and_knows_trends_has_a_ranker():
    for keys, there in (
        ({"similar_items": 5}, True),
        ({"similar_items": 0}, False),
        ({"similar_items": 5, "ranker": False}, False),
        ({"similar_items": 5, "trends": False}, False),
        ({"similar_items": 5, "copy_score": False}, False),
    ):
        assert (SequenceModel(ModelConfig(**keys), 3).ranker is not None) == there, keys


def test_a_ranker_changes_no_other_weight_of_a_fresh_model():
    with_it, without = (
        SequenceModel(ModelConfig(similar_items=5, ranker=ranker), 9, seed=3)
        for ranker in (True, False)
    )
    for name, tensor in without.state_dict().items():
        assert torch.equal(with_it.state_dict()[name], tensor), name
