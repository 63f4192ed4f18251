"""What a model knows as of a query time: ages, trends, and scores of a user's own items.

The legend of shapes is that of toy_models.
"""

import pytest
import torch
from torch import Tensor
from toy_models import (
    CAUSAL,
    CONFIGS,
    COUNTER_PARTS,
    NUM_ITEMS,
    OFF,
    PREFIX,
    SIZES,
    close,
    lively_model,
)

from diffsasrec.model.features import NUM_OF_USER, NUM_OWN, NUM_TRENDS
from diffsasrec.model.heads.pairs import Extras, Pairs
from diffsasrec.model.heads.trends import NUM_MIXED
from diffsasrec.model.transformer import SequenceModel


def random_pairs(owners: list[int], items: list[int], seed: int = 0) -> Pairs:
    shape = (len(owners), NUM_OWN)
    features_XC = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Pairs(torch.tensor(owners), torch.tensor(items), features_XC)


def random_states(num: int, seed: int = 0) -> Tensor:
    return torch.randn(num, SIZES["hidden_size"], generator=torch.Generator().manual_seed(seed))


def random_trends(seed: int = 0) -> Tensor:
    return torch.randn(NUM_ITEMS, NUM_TRENDS, generator=torch.Generator().manual_seed(seed))


PAIRS = random_pairs([0, 0, 1, 3], [2, 5, 2, 19])


def copy_scores(
    model: SequenceModel, queries: Tensor, users: Tensor, pairs: Pairs, trends: Tensor | None
) -> Extras:
    own = model.own_items(pairs, None if trends is None else trends[pairs.items_X])
    return own.of_rows(queries, users)


@torch.no_grad()
def test_fresh_weights_add_popularity_of_all_time_and_nothing_else():
    for config in CONFIGS:
        model, states, trends = SequenceModel(config, NUM_ITEMS), random_states(4), random_trends()
        ages = torch.tensor([0, 7, 33, 63])
        queries = model.queries(states, ages)
        expected = states @ model.item_weight.T + trends[:, 0]
        assert torch.allclose(queries @ model.item_vectors(trends).T, expected, atol=1e-5)
        users = torch.tensor([3, 0, 1, 2])
        extras = copy_scores(model, queries, users, PAIRS, trends)
        assert len(extras.scores_Y) == 4 and not extras.scores_Y.any()


@torch.no_grad()
def test_pretraining_scores_as_fine_tuning_starts():
    # one column of trends, then all of them: the first logits are the same
    model, states, trends = SequenceModel(PREFIX, NUM_ITEMS), random_states(4), random_trends()
    narrow, wide = model.item_vectors(trends[:, :1]), model.item_vectors(trends)
    queries = model.queries(states)
    logits = queries[:, : narrow.shape[1]] @ narrow.T
    assert torch.allclose(logits, queries @ wide.T, atol=1e-5)


def random_users(num: int) -> Tensor:
    return torch.rand(num, NUM_OF_USER, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_of_fresh_weights_users_change_nothing():
    model, states = SequenceModel(CONFIGS[0], NUM_ITEMS), random_states(4)
    queries = model.queries(states, users_RC=random_users(4))
    assert torch.equal(queries, model.queries(states))


@torch.no_grad()
def test_trends_count_by_the_user_where_the_state_counts_nothing():
    for config in (config for config in CONFIGS if config.trends):
        model, states, users = lively_model(config), random_states(4), random_users(4)
        alone = torch.zeros(4)
        queries = model.queries(states, weights_R=alone, users_RC=users)
        of_others = model.queries(random_states(4, seed=1), weights_R=alone, users_RC=users)
        assert torch.equal(queries, of_others)
        size = config.hidden_size
        assert not queries[:, :size].any()
        assert len(queries[:, size:].unique(dim=0)) == 4  # as many weights as users
        unknown = model.queries(states, weights_R=alone)
        assert len(unknown.unique(dim=0)) == 1


def test_the_width_of_vectors_and_queries_is_that_of_the_model_and_its_trends():
    model, size = lively_model(CAUSAL), SIZES["hidden_size"]
    width = size + NUM_TRENDS + NUM_MIXED
    assert model.item_vectors(random_trends()).shape == (NUM_ITEMS, width)
    assert model.item_vectors(random_trends()[:, :1]).shape == (NUM_ITEMS, size + 1)
    assert torch.equal(model.item_vectors(None), model.item_weight)
    queries = model.queries(random_states(3))
    assert queries.shape == (3, width) and torch.equal(queries[:, :size], random_states(3))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_model_without_counters_has_none_of_their_weights_and_ignores_trends(config):
    model = SequenceModel(config.model_copy(update=OFF), NUM_ITEMS)
    assert not any(n.startswith(("gaps", *COUNTER_PARTS)) for n, _ in model.named_parameters())
    assert model.counter_parameters() == []
    assert torch.equal(model.item_vectors(random_trends()), model.item_weight)
    assert torch.equal(model.queries(random_states(3), torch.tensor([1, 2, 3])), random_states(3))


def test_each_flag_brings_its_own_weights():
    parts = {"time_inputs": {"gaps", "age"}, "trends": {"trends"}, "copy_score": {"copy_score"}}
    plain = CAUSAL.model_copy(update=OFF)
    least = {name.split(".")[0] for name, _ in SequenceModel(plain, NUM_ITEMS).named_parameters()}
    for flag, expected in parts.items():
        model = SequenceModel(plain.model_copy(update={flag: True}), NUM_ITEMS)
        assert {name.split(".")[0] for name, _ in model.named_parameters()} - least == expected


def test_counter_parameters_are_those_that_mean_nothing_without_a_query_time():
    model = SequenceModel(CAUSAL, NUM_ITEMS)
    found = {id(parameter) for parameter in model.counter_parameters()}
    named = dict(model.named_parameters())
    assert {n for n, p in named.items() if id(p) in found} == {
        name for name in named if name.startswith(COUNTER_PARTS)
    }


@torch.no_grad()
def test_copy_scores_are_those_of_each_users_pairs_one_by_one():
    model, trends, users = lively_model(CAUSAL), random_trends(), torch.tensor([3, 0, 2, 0])
    queries = model.queries(random_states(4))
    extras = copy_scores(model, queries, users, PAIRS, trends)
    pairs = list(zip(extras.rows_Y.tolist(), extras.items_Y.tolist(), strict=True))
    assert pairs == [(0, 19), (1, 2), (1, 5), (3, 2), (3, 5)]  # user 2 has no pair
    for at, (row, item) in enumerate(pairs):
        of_user = (PAIRS.users_X == users[row]) & (PAIRS.items_X == item)
        alone = PAIRS.take(of_user)
        score = copy_scores(model, queries[row : row + 1], users[row : row + 1], alone, trends)
        assert close(score.scores_Y[0], extras.scores_Y[at])
    assert len(set(extras.scores_Y.tolist())) == len(pairs)


@torch.no_grad()
def test_a_copy_score_reads_the_numbers_of_its_pair_the_trends_of_its_item_and_the_state():
    model, users = lively_model(CAUSAL), torch.tensor([0])
    queries, trends = model.queries(random_states(1)), random_trends()
    scores = copy_scores(model, queries, users, PAIRS, trends).scores_Y
    other_numbers = random_pairs([0, 0, 1, 3], [2, 5, 2, 19], seed=1)
    other_trends = trends.clone()
    other_trends[5] += 1
    assert not close(scores, copy_scores(model, queries, users, other_numbers, trends).scores_Y)
    moved = copy_scores(model, queries, users, PAIRS, other_trends).scores_Y
    assert close(scores[0], moved[0]) and not close(scores[1], moved[1])
    other_state = model.queries(random_states(1, seed=1))
    assert not close(scores, copy_scores(model, other_state, users, PAIRS, trends).scores_Y)


@torch.no_grad()
def test_trends_that_are_not_known_are_trends_of_0():
    model, users = lively_model(CAUSAL), torch.tensor([0, 1])
    queries = model.queries(random_states(2))
    unknown = copy_scores(model, queries, users, PAIRS, None)
    zeros = copy_scores(model, queries, users, PAIRS, torch.zeros(NUM_ITEMS, NUM_TRENDS))
    assert torch.equal(unknown.scores_Y, zeros.scores_Y)


@torch.no_grad()
def test_no_copy_score_rises_by_more_than_its_bound():
    model, trends = lively_model(CAUSAL), random_trends()
    own = model.own_items(PAIRS, trends[PAIRS.items_X])
    users = torch.tensor([0, 0, 1, 3])
    for seed, scale in enumerate([0.01, 0.3, 3.0, 30.0]):
        before = model.queries(random_states(4))
        after = before + scale * model.queries(random_states(4, seed=seed + 1))
        rise = own.rise(before, after)
        rows = own.of_rows(before, users).rows_Y
        risen = own.of_rows(after, users).scores_Y - own.of_rows(before, users).scores_Y
        assert (risen <= rise[rows] + 1e-4).all()
    assert not own.rise(before, before).any()


@torch.no_grad()
def test_copy_scores_among_some_pairs_are_theirs():
    model, trends = lively_model(CAUSAL), random_trends()
    own = model.own_items(PAIRS, trends[PAIRS.items_X])
    queries, users = model.queries(random_states(3)), torch.tensor([0, 1, 3])
    whole = own.of_rows(queries, users)
    # user 0 has 2 and 5, user 1 has 2, user 3 has 19; nobody has 7
    some = own.among(torch.tensor([0, 0, 3]), torch.tensor([5, 7, 19])).of_rows(queries, users)
    assert list(zip(some.rows_Y.tolist(), some.items_Y.tolist(), strict=True)) == [(0, 5), (2, 19)]
    expected = dict(
        zip(
            zip(whole.rows_Y.tolist(), whole.items_Y.tolist(), strict=True),
            whole.scores_Y.tolist(),
            strict=True,
        )
    )
    assert some.scores_Y.tolist() == pytest.approx([expected[0, 5], expected[2, 19]], rel=1e-5)
