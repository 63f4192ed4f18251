"""Boosts are added to the logits of items, for every user and at every step.

Legend: B users, K list length, S slots, V items.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from histories import (
    MOMENT,
    NUM_ITEMS,
    K,
    all_modes,
    lists_of,
    lively_model,
    random_histories,
)
from slow_decoding import NOTHING, SCHEDULE, candidates_of, denoise_with, random_tables, slow_multi

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.exploration import Exploration
from diffsasrec.decode.multi_step import decode_multi
from diffsasrec.retrieve.catalogue import Candidates, Catalogue

HISTORIES = random_histories(12, 9)
BOOST = np.random.default_rng(3).normal(size=NUM_ITEMS).astype(np.float32) * (
    np.arange(NUM_ITEMS) % 3 == 0
)
EVERYTHING = DecodingConfig(k=NUM_ITEMS, filter_seen=False)


def boosted(boost: np.ndarray) -> Any:
    return replace(MOMENT, boost=boost)


def by_item(items: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The scores of complete lists in the order of the items, [B, V]."""
    return np.take_along_axis(scores, items.argsort(1), 1)


@pytest.mark.parametrize("attention", ["causal", "prefix"])
def test_the_scores_are_the_log_probabilities_of_the_raised_logits(attention):
    model = lively_model(attention)
    plain = by_item(*lists_of(model, HISTORIES, EVERYTHING))
    items, scores = lists_of(model, HISTORIES, EVERYTHING, moment=boosted(BOOST))
    raised = torch.from_numpy(plain + BOOST).log_softmax(1).numpy()
    assert np.allclose(by_item(items, scores), raised, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


@all_modes
def test_a_large_boost_puts_items_into_every_list_and_a_negative_one_takes_them_out(
    attention, decode
):
    boost = np.zeros(NUM_ITEMS, np.float32)
    boost[[4, 30]], boost[10:30] = 1e3, -1e3  # the logits of this model reach far
    decoding = DecodingConfig(k=K, decode=decode, explore_items=1, filter_seen=False)
    items, scores = lists_of(lively_model(attention), HISTORIES, decoding, moment=boosted(boost))
    assert (np.sort(items[:, :2]) == [4, 30]).all()
    assert not np.isin(items, np.arange(10, 30)).any()
    assert np.isfinite(scores).all()


@all_modes
def test_the_same_boost_for_every_item_changes_no_list(attention, decode):
    model, decoding = lively_model(attention), DecodingConfig(k=K, decode=decode)
    items, scores = lists_of(model, HISTORIES, decoding)
    same = boosted(np.full(NUM_ITEMS, 2.0, np.float32))
    boosted_items, boosted_scores = lists_of(model, HISTORIES, decoding, moment=same)
    assert (items == boosted_items).all() and np.allclose(scores, boosted_scores, atol=1e-5)


def test_boosts_without_trends_are_added_too():
    model, moment = lively_model("prefix"), replace(MOMENT, trends=None)
    plain = by_item(*lists_of(model, HISTORIES, EVERYTHING, moment=moment))
    items, scores = lists_of(model, HISTORIES, EVERYTHING, moment=replace(moment, boost=BOOST))
    raised = torch.from_numpy(plain + BOOST).log_softmax(1).numpy()
    assert np.allclose(by_item(items, scores), raised, atol=1e-5)


@pytest.mark.parametrize("exploration", [NOTHING, Exploration(2, 0.5)], ids=["sure", "explores"])
def test_multi_with_boosts_equals_the_slow_rule_on_raised_logits(exploration):
    num_users, num_items, k = 8, 9, 4
    tables = random_tables(num_users, k, num_items, 1, 2.0)
    next_BV = 2.0 * torch.randn(num_users, num_items, generator=torch.Generator().manual_seed(5))
    boost_V = torch.tensor([0.0, 1.5, 0.0, -2.0, 0.7, 0.0, 3.0, 0.0, -0.5])
    shown_V = torch.arange(num_items).float()
    plain = candidates_of(num_items, [(2, 0), (2, 3)], shown=shown_V)
    vectors = torch.cat([torch.eye(num_items), boost_V[:, None]], dim=1)
    catalogue = Catalogue(vectors, plain.catalogue.allowed_V, shown_V, is_boosted=True)
    denoise = denoise_with(tables)

    def with_one(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(states, (0, 1), value=1.0)

    how: dict[str, Any] = {"k": k, "steps": 3, "rule": SCHEDULE, "rank": "next_item"}
    how["lookahead"] = 0.5
    lists = decode_multi(
        with_one(next_BV),
        lambda slots_BK: with_one(denoise(slots_BK)[slots_BK == -1]),
        Candidates(catalogue, plain.blocked_users_X, plain.blocked_items_X),
        exploration=exploration,
        shortlist=0,
        **how,
    )
    tables[:, :, -2] += boost_V  # what every state begins with
    for user in range(num_users):
        expected = slow_multi(
            tables[user],
            {v for v in range(num_items) if (user, v) not in [(2, 0), (2, 3)]},
            next_V=next_BV[user] + boost_V,
            places=exploration.num_items,
            ratio=0.5,
            shown=shown_V.tolist(),
            **how,
        )
        assert lists.items_BK[user].tolist() == [item for item, _ in expected]
        scores = [score for _, score in expected]
        assert lists.scores_BK[user].tolist() == pytest.approx(scores, abs=1e-4)
