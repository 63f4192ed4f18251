"""Items that are similar to those of a history, and what of them reaches the lists."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fine_tuning_losses import losses_and_scores
from histories import (
    CONFIGS,
    MOMENT,
    NOW,
    NUM_ITEMS,
    TRENDS,
    Histories,
    K,
    all_modes,
    flat,
    lists_of,
    lively_model,
    random_histories,
    times_of,
)
from similar_logs import random_similar

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.counters.pairs import Pairing, scored_pairs
from diffsasrec.counters.similar import Similar
from diffsasrec.counters.sparse import Table
from diffsasrec.decode.recommender import Recommender
from diffsasrec.model.features import end_ages, event_gaps, user_features
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences import histories as sequences

SIMILAR = random_similar(NUM_ITEMS, num_users=40)
EMPTY = Table((NUM_ITEMS, NUM_ITEMS), dtype=np.float32)
KNOWING = replace(MOMENT, similar=SIMILAR)


def model_of(attention: str) -> SequenceModel:
    return lively_model(attention, similar_items=4)


@all_modes
@pytest.mark.parametrize("filter_seen", [True, False])
def test_what_is_similar_changes_the_lists_of_a_model_that_scores_it_and_of_no_other(
    attention, decode, filter_seen
):
    histories = random_histories(20, 12)
    decoding = DecodingConfig(k=K, decode=decode, filter_seen=filter_seen, explore_items=0)
    for similar_items, differ in ((4, True), (0, False)):
        model = lively_model(attention, similar_items=similar_items)
        one, other = (
            lists_of(model, histories, decoding, moment=moment)[0] for moment in (MOMENT, KNOWING)
        )
        assert (one != other).any() == differ


@all_modes
def test_a_user_gets_the_same_list_whoever_else_is_there(attention, decode):
    model, histories = model_of(attention), random_histories(9, 12)
    decoding = DecodingConfig(k=K, decode=decode, explore_items=0)
    together = lists_of(model, histories, decoding, moment=KNOWING)
    for user, history in enumerate(histories):
        items, scores = lists_of(model, [history], decoding, moment=KNOWING)
        assert np.array_equal(items[0], together[0][user])
        assert np.allclose(scores[0], together[1][user], atol=1e-4)


@all_modes
def test_a_filter_keeps_own_items_out_and_the_list_full(attention, decode):
    histories = random_histories(20, 12)
    items, scores = lists_of(
        model_of(attention), histories, DecodingConfig(k=K, decode=decode), moment=KNOWING
    )
    for row, history in zip(items.tolist(), histories, strict=True):
        assert len(set(row)) == K and min(row) >= 0 and not set(row) & set(history)
    assert np.isfinite(scores).all()


def similar_to_20_alone() -> Similar:
    """Item 30 is similar to item 20, and nothing else to anything."""
    dense = np.zeros((NUM_ITEMS, NUM_ITEMS), np.float32)
    dense[20, 30] = 1.0
    return Similar(Table(dense), EMPTY, EMPTY)


@all_modes
def test_a_large_score_puts_what_is_similar_on_top(attention, decode):
    model = model_of(attention)
    assert model.copy_score is not None
    with torch.no_grad():
        model.copy_score.out.weight.zero_()
        model.copy_score.out.bias.fill_(200.0)
    items, _ = lists_of(
        model,
        [[1, 20], [1, 2], [20, 30]],
        DecodingConfig(k=K, decode=decode, explore_items=0),
        moment=replace(MOMENT, similar=similar_to_20_alone()),
    )
    assert items[0, 0] == 30 and (items[2] != 30).all()  # 30 is an own item there


@torch.inference_mode()
def slow_logits(
    model: SequenceModel, history: list[int], query_W: torch.Tensor, filter_seen: bool
) -> torch.Tensor:
    """With the score of each pair one by one, and -inf for own items under a filter, [V]."""
    trends = torch.from_numpy(TRENDS)
    items, offsets = flat([history])
    alone = sequences.Histories(items, np.array(times_of(history), np.int64), offsets)
    pairing = Pairing.of(model.config, filter_seen=filter_seen)
    pairs = scored_pairs(alone, np.array([NOW]), SIMILAR, pairing)
    assert pairs is not None
    logits_V = model.item_vectors(trends) @ query_W
    scores = model.own_items(pairs, trends[pairs.items_X]).of_rows(query_W[None], torch.tensor([0]))
    for item, score in zip(scores.items_Y, scores.scores_Y, strict=True):
        logits_V[item] += score
    if filter_seen:
        logits_V[sorted(set(history))] = -torch.inf
    return logits_V


@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_list_of_a_single_step_equals_the_logits_with_every_score_in_them(filter_seen):
    model, histories = model_of("causal"), random_histories(15, 12)
    recommender_lists = lists_of(
        model, histories, DecodingConfig(k=K, filter_seen=filter_seen), moment=KNOWING
    )
    for user, history in enumerate(histories):
        events = (np.array(times_of(history), np.int64), np.array([0, len(history)]))
        window = torch.tensor([history[-6:]])
        gaps = torch.from_numpy(event_gaps(*events)[None, -6:])
        with torch.inference_mode():
            encoded = model.encode(window, torch.tensor([window.shape[1]]), gaps)
            assert encoded.states_BLD is not None
            ages = torch.from_numpy(end_ages(*events, np.array([NOW])))
            users = torch.from_numpy(user_features(np.array(history), *events, np.array([NOW])))
            query_W = model.queries(encoded.states_BLD[0, -1:], ages, users_RC=users)[0]
        expected = slow_logits(model, history, query_W, filter_seen).log_softmax(0)
        best = expected.sort(descending=True, stable=True)
        assert recommender_lists[0][user].tolist() == best.indices[:K].tolist()
        assert np.allclose(recommender_lists[1][user], best.values[:K], atol=1e-4)


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("attention", CONFIGS)
def test_fine_tuning_minimises_minus_the_score_that_a_list_shows(attention, filter_seen):
    histories = [[item for item in h if item != 39] or [1] for h in random_histories(12, 12)]
    targets = [39 if filter_seen or n % 2 else history[0] for n, history in enumerate(histories)]
    losses, scores = losses_and_scores(
        model_of(attention), histories, targets, filter_seen=filter_seen, similar=SIMILAR
    )
    assert [-score for score in scores] == pytest.approx(losses, abs=1e-3)
    without, _ = losses_and_scores(
        model_of(attention), histories, targets, filter_seen=filter_seen, similar=None
    )
    assert losses != pytest.approx(without, abs=1e-2)


NUM_MANY = 400


def many_lists(histories: Histories, shortlist: int, filter_seen: bool) -> tuple[np.ndarray, int]:
    """Lists from a catalogue that is large beside the shortlist, and how often that was unsure."""
    config = CONFIGS["prefix"].model_copy(update={"similar_items": 6, "num_slots": K})
    model = SequenceModel(config, NUM_MANY, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    decoding = DecodingConfig(
        k=K,
        decode="multi",
        steps=3,
        explore_items=0,
        filter_seen=filter_seen,
        shortlist=shortlist,
        lookahead=0.1,  # so that the states of the slots lie close to that of the next item
    )
    moment = replace(MOMENT, trends=None, similar=random_similar(NUM_MANY, share=0.05))
    allowed = np.ones(NUM_MANY, bool)
    recommender = Recommender(model, moment=moment, allowed=allowed, decoding=decoding)
    items, offsets = flat(histories)
    times = np.array([time for history in histories for time in times_of(history)], np.int64)
    return recommender.recommend(items, times, offsets)[0], recommender.num_uncertain


@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_shortlist_changes_no_list_where_similar_items_have_scores(filter_seen):
    rng = np.random.default_rng(3)
    histories = [rng.integers(NUM_MANY, size=n % 9 + 1).tolist() for n in range(30)]
    whole, _ = many_lists(histories, 0, filter_seen)
    short, num_uncertain = many_lists(histories, 20, filter_seen)
    assert np.array_equal(whole, short)
    assert num_uncertain < 3 * len(histories)  # the shortlist decides some of them
