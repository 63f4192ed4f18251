"""Steps of multi-step decoding: which slots are filled in which."""

from dataclasses import replace
from typing import Any

import torch
from slow_decoding import SCHEDULE, candidates_of, multi
from torch import Tensor

from diffsasrec.config.serving import ScoreConfig
from diffsasrec.decode.commit_rule import CommitRule
from diffsasrec.decode.exploration import Exploration


def calls_of_multi(logits_KV: Tensor, *, steps: int, **rule: Any) -> list[int]:
    """How many slots were filled each time the model was asked."""
    filled: list[int] = []
    k, num_items = logits_KV.shape

    def denoise(slots_BK: Tensor) -> Tensor:
        filled.append(int((slots_BK != -1).sum()))
        return logits_KV[None]

    candidates, rule = candidates_of(num_items), {"commit": "threshold", **rule}
    multi(
        denoise,
        candidates,
        num_users=1,
        k=k,
        steps=steps,
        rule=replace(SCHEDULE, **rule),
        next_BD=logits_KV[:1],
    )
    return filled


def test_one_step_fills_every_slot():
    assert calls_of_multi(torch.zeros(4, 9), steps=1, threshold=1.0) == [0]


def test_all_slots_above_the_threshold_are_filled_at_once():
    sure = 20 * torch.eye(9)[:4]  # each slot is sure of an item of its own
    assert calls_of_multi(sure, steps=10, threshold=0.9) == [0]


def test_slots_below_the_threshold_wait_for_the_next_step():
    logits = torch.zeros(3, 9)
    logits[0, 0], logits[1, 1], logits[2, 2] = 20.0, 3.0, 1.0
    assert calls_of_multi(logits, steps=10, threshold=0.9) == [0, 1, 2]


def test_a_schedule_commits_no_more_than_must_be():
    sure = 20 * torch.eye(9)[:4]
    assert calls_of_multi(sure, steps=2, commit="schedule") == [0, 2]
    assert calls_of_multi(sure, steps=10, commit="schedule") == [0, 1, 2, 3]


def test_too_few_steps_commit_an_even_share_in_each():
    unsure = torch.diag(0.2 * torch.arange(9.0))[1:8]  # slots with weak favourites of their own
    assert calls_of_multi(unsure, steps=3, threshold=1.0) == [0, 3, 5]


def test_two_slots_that_want_one_item_do_not_both_get_it():
    logits = torch.tensor([[[9.0, 1.0, 0.0], [8.0, 2.0, 0.0]]])
    lists = multi(lambda _: logits, candidates_of(3), num_users=1, k=2, steps=1)
    assert lists.items_BK.tolist() == [[0, 1]]


def test_the_order_of_the_slots_is_kept_when_asked_for():
    logits = torch.tensor([[[5.0, 4.9, 0.0], [6.0, 0.0, 0.0]]])
    by_slot = multi(lambda _: logits, candidates_of(3), num_users=1, k=2, steps=1, rank="slot")
    by_next_item = multi(lambda _: logits, candidates_of(3), num_users=1, k=2, steps=1)
    assert by_slot.items_BK.tolist() == [[1, 0]]
    assert by_next_item.items_BK.tolist() == [[0, 1]]


def test_rule_and_exploring_are_those_of_the_configuration():
    score = ScoreConfig(commit="threshold", threshold=0.11, threshold_decay=0.12)
    assert CommitRule.of(score) == CommitRule("threshold", 0.11, 0.12)
    score = ScoreConfig(decode="multi", explore_items=3, explore_ratio=0.15)
    assert Exploration.of(score) == Exploration(3, 0.15)
