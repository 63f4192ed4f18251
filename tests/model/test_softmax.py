"""The softmax over the catalogue: whole, by sampled negatives, and with scores of single pairs.

Legend: R scored rows, V items, D hidden size, Y pairs (row, item).
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rows import certain, gradient, random_rows, seeded
from torch import Tensor

from diffsasrec.model import softmax as diffusion
from diffsasrec.model.heads.pairs import Extras, pairs_of_rows
from diffsasrec.model.softmax import (
    LOGITS_PER_CHUNK,
    Negatives,
    Proposal,
    item_nll,
    softmax_loss,
)


def slow_nll(state: Tensor, target: int, weight_VD: Tensor, candidates: list[int]) -> float:
    logits = {v: float(state.double() @ weight_VD[v].double()) for v in candidates}
    return math.log(sum(math.exp(logit) for logit in logits.values())) - logits[target]


def test_item_nll_equals_the_double_loop():
    states, targets, weight = random_rows(6, 9, 4)
    expected = [
        slow_nll(state, int(target), weight, list(range(9)))
        for state, target in zip(states, targets, strict=True)
    ]
    assert item_nll(states, targets, weight, torch.zeros(9)).tolist() == pytest.approx(
        expected, abs=1e-6
    )


def test_items_that_are_no_candidates_get_no_probability():
    states, _, weight = random_rows(5, 6, 4)
    bias = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf, 0.0, 0.0])
    nll_VR = torch.stack([item_nll(states, torch.full((5,), v), weight, bias) for v in range(6)])
    assert torch.isinf(nll_VR[[1, 3]]).all()
    assert torch.allclose((-nll_VR).exp().sum(0), torch.ones(5))


def test_items_that_are_no_candidates_get_no_gradient():
    states, _, weight = random_rows(5, 6, 4)
    bias = torch.tensor([0.0, -torch.inf, 0.0, 0.0, 0.0, 0.0])
    weight.requires_grad_()
    item_nll(states, torch.tensor([0, 2, 3, 4, 5]), weight, bias).sum().backward()
    assert (gradient(weight)[1] == 0).all() and (gradient(weight)[[0, 2, 3, 4, 5]] != 0).all()


MANY = 2**17

assert LOGITS_PER_CHUNK // MANY == 64  # rows in a chunk: 150 rows are three chunks

EVERY = Negatives(torch.arange(MANY), torch.zeros(MANY))


@pytest.mark.parametrize("negatives", [None, EVERY])
def test_chunks_change_neither_the_losses_nor_the_gradients(negatives):
    states, targets, weight = random_rows(150, MANY, 2)
    whole, chunked = (
        [tensor.clone().requires_grad_() for tensor in (states, weight)] for _ in range(2)
    )
    logits_RV = whole[0] @ whole[1].T
    whole_nll = torch.nn.functional.cross_entropy(logits_RV, targets, reduction="none")
    chunked_nll = item_nll(chunked[0], targets, chunked[1], torch.zeros(MANY), negatives=negatives)
    assert torch.allclose(chunked_nll, whole_nll, atol=1e-4)
    whole_nll.sum().backward()
    chunked_nll.sum().backward()
    assert torch.allclose(gradient(chunked[0]), gradient(whole[0]), atol=1e-3)
    assert torch.allclose(gradient(chunked[1]), gradient(whole[1]), atol=1e-3)


@torch.no_grad()
def test_chunks_without_gradients_give_the_same_losses():
    states, targets, weight = random_rows(150, MANY, 2)
    chunked = item_nll(states, targets, weight, torch.zeros(MANY))
    whole = torch.nn.functional.cross_entropy(states @ weight.T, targets, reduction="none")
    assert torch.allclose(chunked, whole, atol=1e-4)


def test_no_rows_cost_nothing_and_stay_in_the_graph():
    states, targets, weight = random_rows(0, 5, 3)
    weight.requires_grad_()
    for negatives in (None, certain(1, 2)):
        weight.grad = None
        item_nll(states, targets, weight, torch.zeros(5), negatives=negatives).sum().backward()
        assert (gradient(weight) == 0).all()


def test_every_candidate_as_a_negative_is_the_full_softmax():
    states, targets, weight = random_rows(8, 10, 4)
    bias = torch.zeros(10).masked_fill(torch.arange(10) >= 7, -torch.inf)
    targets = targets % 7
    full = item_nll(states, targets, weight, bias)
    sampled = item_nll(states, targets, weight, bias, negatives=certain(*range(7)))
    assert torch.allclose(sampled, full, atol=1e-5)


COUNTS = torch.tensor([0, 1, 0, 100, 10, 1, 1, 40, 0, 3])


def test_negatives_are_distinct_candidates_in_order():
    for seed in range(20):
        items = Proposal.of(COUNTS).draw(6, seeded(seed)).items_N.tolist()
        assert items == sorted(set(items)) and not set(items) & {0, 2, 8} and len(items) <= 6


def test_a_negative_comes_as_often_as_its_inclusion_probability_says():
    num_draws, found, said = 4000, torch.zeros(10), torch.zeros(10)
    for seed in range(num_draws):
        negatives = Proposal.of(COUNTS).draw(4, seeded(seed))
        found[negatives.items_N] += 1 / num_draws
        said[negatives.items_N] = negatives.log_inclusion_N.exp()
    assert torch.allclose(found, said, atol=0.03)
    # item 3: half of the draws go to seven candidates alike, half to 156 events
    assert float(said[3]) == pytest.approx(1 - (1 - 0.5 / 7 - 50 / 156) ** 4, abs=1e-5)


def test_single_draws_follow_the_written_probabilities():
    # half of the draws go to seven candidates alike, half to 156 events
    written = [0.5 / 7 * (n > 0) + 0.5 * n / 156 for n in COUNTS.tolist()]
    proposal, generator = Proposal.of(COUNTS), seeded()
    drawn = [int(proposal.draw(1, generator).items_N) for _ in range(10_000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=10) / 10_000
    assert proposal.share_V.tolist() == pytest.approx(written, abs=1e-6)
    assert shares.tolist() == pytest.approx(written, abs=0.02)


def test_a_generator_in_the_same_state_draws_the_same_negatives():
    proposal = Proposal.of(COUNTS)
    first, again, made_anew = (
        each.draw(5, seeded(3)) for each in (proposal, proposal, Proposal.of(COUNTS))
    )
    for other in (again, made_anew):
        assert other.items_N.equal(first.items_N)
        assert other.log_inclusion_N.equal(first.log_inclusion_N)


def test_very_many_draws_are_the_full_softmax_over_the_candidates():
    states, targets, weight = random_rows(4, 10, 4)
    bias = torch.zeros(10).masked_fill(COUNTS == 0, -torch.inf)
    targets = torch.tensor([1, 3, 4, 7])
    negatives = Proposal.of(COUNTS).draw(1000, seeded())
    full = item_nll(states, targets, weight, bias)
    sampled = item_nll(states, targets, weight, bias, negatives=negatives)
    assert torch.allclose(sampled, full, atol=1e-5)


def test_the_mean_of_sampled_sums_is_the_full_sum():
    states, _, weight = random_rows(4, 10, 4)
    bias = torch.zeros(10).masked_fill(COUNTS == 0, -torch.inf)
    targets = torch.tensor([1, 3, 4, 7])
    sums = [
        item_nll(
            states, targets, weight, bias, negatives=Proposal.of(COUNTS).draw(5, seeded(seed))
        ).exp()
        for seed in range(4000)
    ]
    full = item_nll(states, targets, weight, bias).exp()
    assert torch.allclose(torch.stack(sums).mean(0), full, rtol=0.05)


def test_a_negative_weighs_more_the_rarer_it_is_in_a_sample():
    states, weight = torch.zeros(1, 2), torch.zeros(3, 2)
    negatives = Negatives(torch.tensor([1, 2]), torch.tensor([0.5, 0.25]).log())
    nll = item_nll(states, torch.tensor([0]), weight, torch.zeros(3), negatives=negatives)
    assert nll.tolist() == pytest.approx([math.log(1 + 2 + 4)])


def test_a_negative_that_is_the_target_is_left_out():
    states, _, weight = random_rows(1, 5, 3)
    nll = item_nll(states, torch.tensor([2]), weight, torch.zeros(5), negatives=certain(2))
    assert nll.tolist() == [0.0]  # nothing is left to compete with


@pytest.mark.parametrize("logits_at_once", [1, 20, 10**6])
@pytest.mark.parametrize("excluded", [[], [1, 3]])
def test_the_softmax_loss_and_its_gradients_are_those_of_its_parts(
    monkeypatch, logits_at_once, excluded
):
    # small chunks of a small catalogue: the real ones would need a million logits
    monkeypatch.setattr(diffusion, "LOGITS_AT_ONCE", logits_at_once)  # a size, for chunks
    states, _, weight = random_rows(7, 9, 4)
    targets = torch.tensor([0, 2, 2, 4, 8, 7, 0])
    weights = torch.tensor([1.0, 0.0, 2.5, 1.0, 10.0, 1.0, 0.5])
    bias = torch.zeros(9)
    bias[excluded] = -torch.inf
    own, parts = ([x.clone().requires_grad_() for x in (states, weight)] for _ in range(2))
    loss = 3.0 * softmax_loss(own[0], targets, weights, own[1], bias)
    expected = 3.0 * (weights * item_nll(parts[0], targets, parts[1], bias)).sum()
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(own, parts, strict=True):
        assert torch.allclose(gradient(ours), gradient(theirs), atol=1e-4)


def test_the_softmax_loss_of_no_rows_is_nothing_and_stays_in_the_graph():
    states, targets, weight = random_rows(0, 5, 3)
    weight.requires_grad_()
    loss = softmax_loss(states, targets, torch.zeros(0), weight, torch.zeros(5))
    loss.backward()
    assert loss.item() == 0 and not gradient(weight).any()


# --- scores of single pairs ---


def random_extras(
    targets_R: Tensor, num_items: int, *, share: float = 0.3, excluded: float = 0.2, seed: int = 0
) -> Extras:
    """Scores of random pairs, some of them -inf, though never at a target; row 0 has none."""
    generator = seeded(seed)
    chosen_RV = torch.rand(len(targets_R), num_items, generator=generator) < share
    chosen_RV[0] = False
    rows_Y, items_Y = chosen_RV.nonzero(as_tuple=True)
    scores_Y = 2 * torch.randn(len(rows_Y), generator=generator)
    hidden_Y = torch.rand(len(rows_Y), generator=generator) < excluded
    scores_Y[hidden_Y & (items_Y != targets_R[rows_Y])] = -torch.inf
    return Extras(rows_Y, items_Y, scores_Y)


def slow_extras_nll(
    states_RD: Tensor, targets_R: Tensor, weight_VD: Tensor, candidates: list[int], extras: Extras
) -> list[float]:
    losses = []
    for row, target in enumerate(targets_R.tolist()):
        logits = {v: float(states_RD[row].double() @ weight_VD[v].double()) for v in candidates}
        pairs = zip(extras.rows_Y.tolist(), extras.items_Y.tolist(), extras.scores_Y, strict=True)
        for pair_row, item, score in pairs:
            if pair_row == row and item in logits:
                logits[item] += float(score)
        total = sum(math.exp(logit) for logit in logits.values())
        losses.append(math.log(total) - logits[target])
    return losses


@pytest.mark.parametrize("negatives", [None, certain(*range(7))])
@pytest.mark.parametrize("seed", range(5))
def test_item_nll_with_own_scores_equals_loops_over_rows_items_and_pairs(seed, negatives):
    states, targets, weight = random_rows(8, 10, 4, seed=seed)
    bias = torch.zeros(10).masked_fill(torch.arange(10) >= 7, -torch.inf)
    targets = targets % 7
    extras = random_extras(targets, 10, share=0.5, excluded=0.5, seed=seed)
    assert torch.isinf(extras.scores_Y).any() and (extras.items_Y >= 7).any()
    nll = item_nll(states, targets, weight, bias, negatives=negatives, extras=extras)
    expected = slow_extras_nll(states, targets, weight, list(range(7)), extras)
    assert nll.tolist() == pytest.approx(expected, abs=1e-5)


def test_every_pair_is_in_the_sampled_softmax_and_few_negatives_stand_for_the_rest():
    states, targets, weight = random_rows(4, 60, 4)
    extras = random_extras(targets, 60)
    full = item_nll(states, targets, weight, torch.zeros(60), extras=extras)
    sums = []
    for seed in range(1000):
        negatives = Proposal.of(torch.ones(60)).draw(20, seeded(seed))
        sampled = item_nll(
            states, targets, weight, torch.zeros(60), negatives=negatives, extras=extras
        )
        sums.append(sampled.exp())
    # the mean of the sampled sums is the full sum
    assert torch.allclose(torch.stack(sums).mean(0), full.exp(), rtol=0.05)


def test_no_pairs_are_as_no_extras():
    states, targets, weight = random_rows(6, 9, 4)
    none = Extras(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0))
    for negatives in (None, certain(1, 2, 8)):
        plain = item_nll(states, targets, weight, torch.zeros(9), negatives=negatives)
        extended = item_nll(
            states, targets, weight, torch.zeros(9), negatives=negatives, extras=none
        )
        assert torch.allclose(plain, extended, atol=1e-6)


@pytest.mark.parametrize("negatives", [None, EVERY])
def test_chunks_change_nothing_about_own_scores_either(negatives):
    states, targets, weight = random_rows(150, MANY, 2)
    pairs = random_extras(targets, 50)  # rows of all three chunks
    whole, chunked = (
        [t.clone().requires_grad_() for t in (states, weight, pairs.scores_Y)] for _ in range(2)
    )
    logits_RV = (whole[0] @ whole[1].T).index_put(
        (pairs.rows_Y, pairs.items_Y), whole[2], accumulate=True
    )
    whole_nll = torch.nn.functional.cross_entropy(logits_RV, targets, reduction="none")
    chunked_nll = item_nll(
        chunked[0],
        targets,
        chunked[1],
        torch.zeros(MANY),
        negatives=negatives,
        extras=Extras(pairs.rows_Y, pairs.items_Y, chunked[2]),
    )
    assert torch.allclose(chunked_nll, whole_nll, atol=1e-4)
    whole_nll.sum().backward()
    chunked_nll.sum().backward()
    for one, other in zip(whole, chunked, strict=True):
        assert torch.isfinite(gradient(other)).all()
        assert torch.allclose(gradient(one), gradient(other), atol=1e-3)


@pytest.mark.parametrize("negatives", [None, certain(*range(9)), certain(0, 3)])
def test_a_gradient_flows_into_every_score_but_those_of_what_a_row_cannot_have(negatives):
    states, targets, weight = random_rows(6, 9, 4)
    extras = random_extras(targets, 9, share=0.6, excluded=0.4)
    extras.scores_Y.requires_grad_()
    item_nll(
        states, targets, weight, torch.zeros(9), negatives=negatives, extras=extras
    ).sum().backward()
    excluded = torch.isinf(extras.scores_Y.detach())
    assert excluded.any() and (gradient(extras.scores_Y)[excluded] == 0).all()
    assert (gradient(extras.scores_Y)[~excluded] != 0).all()


def test_a_score_raises_its_own_item_and_lowers_the_others():
    states, _, weight = random_rows(1, 4, 3)
    targets = torch.arange(4)
    plain = item_nll(states.expand(4, 3), targets, weight, torch.zeros(4))
    extras = Extras(torch.arange(4), torch.full((4,), 2), torch.full((4,), 1.5))
    raised = item_nll(states.expand(4, 3), targets, weight, torch.zeros(4), extras=extras)
    assert (raised < plain).tolist() == [False, False, True, False]
    assert float((-raised).exp().sum()) == pytest.approx(1)


def test_the_scores_of_some_pairs_are_0_where_there_is_none():
    extras = Extras(
        torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0]), torch.tensor([0.5, -1.0, 2.0])
    )
    rows, items = torch.tensor([2, 0, 1, 0, 2, 0]), torch.tensor([0, 3, 3, 1, 4, 0])
    assert extras.of_pairs(rows, items, num_items=5).tolist() == [2.0, -1.0, 0.0, 0.5, 0.0, 0.0]
    none = extras.of_rows(1, 2)
    assert none.of_pairs(rows, items, num_items=5).tolist() == [0.0] * 6


@given(
    owned=st.lists(st.integers(0, 6), max_size=20).map(sorted),
    users=st.lists(st.integers(0, 6), max_size=8),
)
@settings(deadline=None)
def test_pairs_of_rows_equal_a_loop_over_rows(owned, users):
    rows, pairs = pairs_of_rows(
        torch.tensor(users, dtype=torch.int64), torch.tensor(owned, dtype=torch.int64)
    )
    expected = [
        (row, pair)
        for row, user in enumerate(users)
        for pair, owner in enumerate(owned)
        if owner == user
    ]
    assert list(zip(rows.tolist(), pairs.tolist(), strict=True)) == expected
