"""A loss that counts around the last place of a list.

Legend: R rows, V items, D hidden size.
"""

import math

import pytest
import torch
from random_rows import certain, gradient, random_rows, seeded
from torch import Tensor

from diffsasrec.model.baskets import Spread
from diffsasrec.model.focus import focused, log_floor, sampled_kth
from diffsasrec.model.heads.pairs import Extras, padded
from diffsasrec.model.softmax import Proposal, item_nll, softmax_loss

PROBABILITIES = torch.tensor([[0.4, 0.05, 0.3, 0.2, 0.05]])


def slow_loss(logits: list[float], target: int, k: int) -> float:
    total = sum(math.exp(logit) for logit in logits)
    floor = math.exp(sorted(logits, reverse=True)[k - 1]) / total if len(logits) >= k else 0.0
    return -math.log(math.exp(logits[target]) / total + floor)


def test_a_floor_is_added_to_the_probability_of_the_target():
    nll, floor = -torch.tensor([0.2, 0.001]).log(), torch.tensor([0.05, 0.05]).log()
    assert focused(nll, floor).exp().tolist() == pytest.approx([1 / 0.25, 1 / 0.051])


def test_a_target_counts_by_its_share_of_itself_and_the_floor():
    nll = -torch.tensor([0.2, 0.05, 0.001]).log()
    nll.requires_grad_()
    focused(nll, torch.full((3,), 0.05).log()).sum().backward()
    assert gradient(nll).tolist() == pytest.approx([0.8, 0.5, 1 / 51], rel=1e-4)


def test_the_floor_is_the_probability_of_the_last_item_of_the_list():
    logits = PROBABILITIES.log() + 7
    assert [float(log_floor(logits, k).exp()) for k in (1, 2, 3)] == pytest.approx([0.4, 0.3, 0.2])


@pytest.mark.parametrize("logits", [torch.zeros(1, 4), torch.tensor([[0.0] * 4 + [-torch.inf]])])
def test_where_every_item_is_in_the_list_all_targets_count_alike(logits):
    floor = log_floor(logits, 5)
    assert floor.tolist() == [-torch.inf]
    nll = torch.tensor([2.0], requires_grad=True)
    focused(nll, floor).sum().backward()
    assert focused(nll, floor).tolist() == [2.0] and gradient(nll).tolist() == [1.0]


@pytest.mark.parametrize("k", [1, 3, 9, 10])
def test_the_focused_loss_equals_loops_over_rows_and_items(k):
    states, targets, weight = random_rows(6, 9, 4)
    extras = Extras(torch.tensor([0, 4]), torch.tensor([3, 8]), torch.tensor([2.0, -torch.inf]))
    targets[4] = 5
    logits = states @ weight.T
    logits[0, 3], logits[4, 8] = logits[0, 3] + 2.0, -torch.inf
    found = item_nll(states, targets, weight, torch.zeros(9), extras=extras, focus_k=k)
    expected = [slow_loss(row.tolist(), int(t), k) for row, t in zip(logits, targets, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_focused_loss_of_a_basket_is_the_mean_over_its_items():
    states, targets, weight = random_rows(2, 9, 4)
    spread = Spread.evenly(torch.tensor([1, 1]), torch.tensor([2, 7]), num_rows=2)
    found = item_nll(states, targets, weight, torch.zeros(9), spread=spread, focus_k=3)
    logits = (states @ weight.T).tolist()
    basket = (slow_loss(logits[1], 2, 3) + slow_loss(logits[1], 7, 3)) / 2
    expected = [slow_loss(logits[0], int(targets[0]), 3), basket]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("k", [1, 4, 7, 8])
@pytest.mark.parametrize("pairs", [(), (0, 2, 6), tuple(range(7))])
def test_every_candidate_as_a_negative_is_the_focused_loss_of_all(k, pairs):
    states, targets, weight = random_rows(8, 10, 4)
    bias = torch.zeros(10).masked_fill(torch.arange(10) >= 7, -torch.inf)
    targets = targets % 7
    items_Y = torch.tensor(pairs * 8, dtype=torch.long)
    rows_Y = torch.arange(8).repeat_interleave(len(pairs))
    extras = Extras(rows_Y, items_Y, torch.randn(len(items_Y), generator=seeded(1)))
    full = item_nll(states, targets, weight, bias, extras=extras, focus_k=k)
    everything = certain(*range(7))
    sampled = item_nll(
        states, targets, weight, bias, negatives=everything, extras=extras, focus_k=k
    )
    assert torch.allclose(sampled, full, atol=1e-5)


def test_an_item_that_is_rarely_sampled_stands_for_many_like_it():
    logits_RN = torch.tensor([[5.0, 4.0, 3.0, 2.0]])
    log_inclusion_N = torch.tensor([1.0, 0.25, 0.5, 1.0]).log()
    corrected_RN = logits_RN - log_inclusion_N
    kth = [
        float(sampled_kth(torch.tensor([[4.5]]), corrected_RN, log_inclusion_N, k))
        for k in (1, 2, 3, 6, 7, 8, 9)
    ]
    # 5.0 is one item, 4.5 is certain, 4.0 stands for four, 3.0 for two, and 2.0 is the ninth
    assert kth == [5.0, 4.5, 4.0, 4.0, 3.0, 3.0, 2.0]
    assert float(sampled_kth(torch.tensor([[4.5]]), corrected_RN, log_inclusion_N, 10)) == -math.inf


def test_the_floor_of_a_sample_lies_about_where_that_of_all_items_does():
    logits_V = torch.randn(5000, generator=seeded())
    places = []
    for seed in range(200):
        negatives = Proposal.of(torch.ones(5000)).draw(1000, seeded(seed))
        corrected = (logits_V[negatives.items_N] - negatives.log_inclusion_N)[None]
        nothing = torch.full((1, 1), -torch.inf)
        kth = sampled_kth(nothing, corrected, negatives.log_inclusion_N, 100)
        places.append(float((logits_V >= kth).sum()))
    assert 85 < sum(places) / len(places) < 115


def test_values_lie_side_by_side_by_row():
    rows = torch.tensor([0, 2, 2])
    found = padded(torch.tensor([1.0, 2.0, 3.0]), rows, 4)
    none = -math.inf
    assert found.tolist() == [[1.0, none], [none, none], [2.0, 3.0], [none, none]]


def losses(focus_k: int) -> tuple[Tensor, Tensor]:
    states, targets, weight = random_rows(40, 30, 4)
    nll_R = item_nll(states, targets, weight, torch.zeros(30), focus_k=focus_k)
    return nll_R, softmax_loss(states, targets, torch.ones(40), weight, torch.zeros(30))


def test_without_a_focus_the_loss_is_the_plain_one():
    plain, fast = losses(0)
    assert float(plain.sum()) == pytest.approx(float(fast), rel=1e-5)
    assert (losses(10)[0] < plain).all()
