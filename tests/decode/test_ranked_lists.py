"""The share of the ranker in lists."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from histories import (
    MOMENT,
    NOW,
    NUM_ITEMS,
    TRENDS,
    K,
    all_modes,
    flat,
    lists_of,
    lively_model,
    random_histories,
    times_of,
)
from similar_logs import random_similar
from torch import nn

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.counters import popular
from diffsasrec.counters.pairs import Pairing, scored_pairs
from diffsasrec.counters.popular import popular_items
from diffsasrec.model.heads.ranker import BEHIND
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Histories

KNOWING = replace(MOMENT, similar=random_similar(NUM_ITEMS, num_users=40))


@pytest.fixture(autouse=True)
def few_are_popular(monkeypatch):
    monkeypatch.setattr(popular, "NUM_POPULAR", 4)  # else all of this catalogue are candidates


def model_of(attention: str, weight: float) -> SequenceModel:
    model = lively_model(attention, similar_items=4)
    model.ranker_weight.fill_(weight)
    return model


@torch.inference_mode()
def of_ranker(model: SequenceModel, history: list[int], filter_seen: bool) -> torch.Tensor:
    """What the ranker adds to the logits, one user and one item after the other, [V]."""
    items, offsets = flat([history])
    alone = Histories(items, np.array(times_of(history), np.int64), offsets)
    pairing = Pairing.of(model.config, filter_seen=filter_seen)
    known = KNOWING.similar, pairing, popular_items(TRENDS)
    pairs = scored_pairs(alone, np.array([NOW]), *known)
    assert pairs is not None and model.ranker is not None
    scores = model.ranker(pairs, torch.from_numpy(TRENDS)[pairs.items_X])
    added_V = torch.zeros(NUM_ITEMS)
    for item, score in zip(pairs.items_X.tolist(), scores.tolist(), strict=True):
        added_V[item] = score - float(scores.min()) + BEHIND
    assert 0 < len(scores) < NUM_ITEMS
    return added_V


@pytest.mark.parametrize("attention", ["causal", "prefix", "bidirectional"])
@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_score_is_a_mixture_of_the_scores_of_the_model_and_of_the_ranker(attention, filter_seen):
    histories = random_histories(15, 12)
    everything = DecodingConfig(k=NUM_ITEMS - 12, filter_seen=filter_seen)
    plain = lists_of(model_of(attention, 0.0), histories, everything, moment=KNOWING)
    mixed = lists_of(model_of(attention, 0.25), histories, everything, moment=KNOWING)
    for user, history in enumerate(histories):
        added_V = of_ranker(model_of(attention, 0.25), history, filter_seen).numpy()
        logits = dict(zip(plain[0][user].tolist(), plain[1][user].tolist(), strict=True))
        expected = {item: 0.75 * logit + 0.25 * added_V[item] for item, logit in logits.items()}
        both = [item for item in mixed[0][user].tolist() if item in expected]
        of_items = dict(zip(mixed[0][user].tolist(), mixed[1][user].tolist(), strict=True))
        # up to what the softmax divides by
        differences = np.array([of_items[item] - expected[item] for item in both])
        assert len(both) > K and np.allclose(differences, differences[0], atol=1e-3)


@all_modes
def test_the_ranker_changes_lists_and_they_stay_full_and_filtered(attention, decode):
    histories = random_histories(20, 12)
    decoding = DecodingConfig(k=K, decode=decode, explore_items=0)
    plain, mixed = (
        lists_of(model_of(attention, weight), histories, decoding, moment=KNOWING)
        for weight in (0.0, 0.5)
    )
    assert (plain[0] != mixed[0]).any()
    for row, history in zip(mixed[0].tolist(), histories, strict=True):
        assert len(set(row)) == K and min(row) >= 0 and not set(row) & set(history)


@all_modes
def test_a_user_gets_the_same_ranked_list_whoever_else_is_there(attention, decode):
    model, histories = model_of(attention, 0.5), random_histories(9, 12)
    decoding = DecodingConfig(k=K, decode=decode, explore_items=0)
    together = lists_of(model, histories, decoding, moment=KNOWING)
    for user, history in enumerate(histories):
        items, scores = lists_of(model, [history], decoding, moment=KNOWING)
        assert np.array_equal(items[0], together[0][user])
        assert np.allclose(scores[0], together[1][user], atol=1e-4)


def test_a_shortlist_finds_the_lists_of_the_whole_catalogue():
    model, histories = model_of("prefix", 0.5), random_histories(20, 12)
    decoding = DecodingConfig(k=K, decode="multi", steps=3, explore_items=0)
    short, whole = (
        lists_of(model, histories, decoding.model_copy(update={"shortlist": n}), moment=KNOWING)
        for n in (12, 0)
    )
    assert np.array_equal(short[0], whole[0])
    assert np.allclose(short[1], whole[1], atol=1e-4)


def test_a_popular_item_reaches_the_list_of_a_user_to_whom_it_is_not_similar():
    model = model_of("prefix", 0.5)
    assert model.ranker is not None
    with torch.no_grad():  # the more popular in 30 days, the better
        for parameter in model.ranker.parameters():
            parameter.zero_()
        first, second, last = (model.ranker.score[n] for n in (0, 3, 5))
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        assert isinstance(last, nn.Linear)
        first.weight[0, -TRENDS.shape[1] - 3] = -30.0
        first.bias[0], second.weight[0, 0], last.weight[0, 0] = 60.0, 1.0, 10.0
    ranks_of = np.argsort(-popular_items(TRENDS).shares_VP[:, 0])
    candidates = popular_items(TRENDS).items
    best = next(item for item in ranks_of if item in candidates)
    (row, *_), _ = lists_of(model, [[(best + 1) % NUM_ITEMS]], DecodingConfig(k=K), moment=KNOWING)
    assert best in row.tolist()


def test_a_model_of_half_the_bits_makes_ranked_lists_too():
    histories, decoding = random_histories(5, 12), DecodingConfig(k=K)
    items, scores = lists_of(
        model_of("prefix", 0.5).bfloat16(), histories, decoding, moment=KNOWING
    )
    assert (items >= 0).all() and np.isfinite(scores).all()


def test_the_weight_0_gives_the_lists_of_a_model_without_a_ranker():
    histories, decoding = random_histories(20, 12), DecodingConfig(k=K, decode="multi")
    with_it = model_of("prefix", 0.0)
    without = SequenceModel(with_it.config.model_copy(update={"ranker": False}), NUM_ITEMS).eval()
    shared = {n: t for n, t in with_it.state_dict().items() if not n.startswith("ranker.")}
    without.load_state_dict(shared)
    for one, other in zip(
        *(lists_of(model, histories, decoding, moment=KNOWING) for model in (with_it, without)),
        strict=True,
    ):
        assert np.array_equal(one, other)
