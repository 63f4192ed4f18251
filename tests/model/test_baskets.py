"""Whole baskets as targets, against loops over rows and items."""

import math

import pytest
import torch
from torch import Tensor

from diffsasrec.model.baskets import Baskets, Spread
from diffsasrec.model.softmax import item_nll

# user 0 buys 2 and 5, user 1 nothing, user 2 only 4
BASKETS = Baskets(torch.tensor([0, 0, 2]), torch.tensor([2, 5, 4]))
USERS = torch.tensor([2, 0, 0, 1])
FIRST = torch.tensor([True, True, False, True])
TARGETS = torch.tensor([0, 1, 3, 6])


def random_logits(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, generator=generator), torch.randn(7, 3, generator=generator)


def targets_of(spread: Spread) -> list[tuple[int, int, float]]:
    columns = (spread.rows_Z, spread.items_Z, spread.shares_Z)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_chosen_row_has_the_items_of_its_users_basket_with_equal_shares():
    spread = BASKETS.of_rows(USERS, FIRST)
    assert targets_of(spread) == [(0, 4, 1.0), (1, 2, 0.5), (1, 5, 0.5)]
    assert spread.has_R.tolist() == [True, True, False, False]


def test_what_a_row_must_not_have_leaves_its_share_to_the_others():
    spread = BASKETS.of_rows(USERS, FIRST).without(torch.tensor([0, 1, 2]), torch.tensor([4, 2, 2]))
    assert targets_of(spread) == [(1, 5, 1.0)]
    assert spread.has_R.tolist() == [False, True, False, False]


def test_the_first_items_are_targets_of_rows_with_a_basket():
    spread = BASKETS.of_rows(USERS, FIRST)
    assert spread.first_items(TARGETS).tolist() == [4, 2, 3, 6]
    nothing = BASKETS.of_rows(USERS, torch.zeros(4, dtype=torch.bool))
    assert nothing.first_items(TARGETS).tolist() == TARGETS.tolist()


def test_the_loss_of_a_basket_is_the_mean_over_its_items():
    states, weight = random_logits()
    spread = BASKETS.of_rows(USERS, FIRST)
    found = item_nll(states, TARGETS, weight, torch.zeros(7), spread=spread)
    wanted = [[4], [2, 5], [3], [6]]
    for row, items in enumerate(wanted):
        logits = [float(states[row] @ weight[item]) for item in range(7)]
        log_total = math.log(sum(math.exp(logit) for logit in logits))
        expected = sum(log_total - logits[item] for item in items) / len(items)
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)


def test_rows_in_chunks_have_the_loss_and_the_gradient_of_all_at_once(monkeypatch):
    results = []
    for logits_at_once in (2**23, 14):  # two rows of seven
        monkeypatch.setattr("diffsasrec.model.softmax.LOGITS_PER_CHUNK", logits_at_once)
        states, weight = random_logits(1)
        states.requires_grad_()
        spread = BASKETS.of_rows(USERS, FIRST)
        nll = item_nll(states, TARGETS, weight, torch.zeros(7), spread=spread)
        nll.sum().backward()
        assert states.grad is not None
        results.append((nll.detach(), states.grad))
    for whole, chunked in zip(*results, strict=True):
        assert torch.allclose(whole, chunked, atol=1e-6)
