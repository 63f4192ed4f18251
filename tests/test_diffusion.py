"""Legend: B sequences, L tokens, R scored rows, V items, D hidden size."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffsasrec.diffusion import (
    EPS,
    LOGITS_PER_CHUNK,
    denoising_loss,
    forward_process,
    item_nll,
    stratified_levels,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(num_rows: int, num_items: int, size: int, seed: int = 0) -> list[Tensor]:
    """States [R, D], targets [R] and item vectors [V, D]."""
    generator = seeded(seed)
    return [
        torch.randn(num_rows, size, generator=generator),
        torch.randint(num_items, (num_rows,), generator=generator),
        torch.randn(num_items, size, generator=generator),
    ]


def slow_nll(state: Tensor, target: int, weight_VD: Tensor, candidates: list[int]) -> float:
    logits = {v: float(state.double() @ weight_VD[v].double()) for v in candidates}
    return math.log(sum(math.exp(logit) for logit in logits.values())) - logits[target]


@given(num=st.integers(1, 300), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_levels_lie_one_in_each_stratum(num, seed):
    levels = stratified_levels(num, seeded(seed)).sort().values.double()
    strata = (levels - levels[0]) * num  # 0, 1, 2, ... when they are evenly spaced
    assert torch.allclose(strata, torch.arange(num).double(), atol=1e-3)
    assert levels[0] >= 0 and levels[-1] <= 1 and levels[0] < 1 / num + 1e-6


def test_levels_come_in_random_order():
    levels = stratified_levels(100, seeded())
    assert not torch.equal(levels, levels.sort().values)


@given(seed=st.integers(0, 1000))
@settings(deadline=None)
def test_only_maskable_tokens_are_masked(seed):
    maskable_BL = torch.rand(5, 7, generator=seeded(seed)) < 0.5
    is_masked_BL, _ = forward_process(maskable_BL, torch.ones(5), seeded(seed + 1))
    assert torch.equal(is_masked_BL, maskable_BL)  # at level 1 every one of them


def test_the_share_of_masked_tokens_is_the_mean_probability():
    maskable_BL = torch.ones(1000, 50, dtype=torch.bool)
    levels_B = stratified_levels(1000, seeded())
    is_masked_BL, p_mask_BL = forward_process(maskable_BL, levels_B, seeded(1))
    assert float(p_mask_BL.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(is_masked_BL.float().mean()) == pytest.approx(float(p_mask_BL.mean()), abs=0.01)


def test_each_sequence_is_masked_at_its_own_level():
    maskable_BL = torch.ones(3, 20_000, dtype=torch.bool)
    is_masked_BL, p_mask_BL = forward_process(maskable_BL, torch.tensor([0.0, 0.5, 1.0]), seeded())
    assert p_mask_BL[:, 0].tolist() == pytest.approx([EPS, 0.5 + EPS / 2, 1.0])
    assert is_masked_BL.float().mean(1).tolist() == pytest.approx([EPS, 0.5, 1.0], abs=0.01)


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
    assert (weight.grad[1] == 0).all() and (weight.grad[[0, 2, 3, 4, 5]] != 0).all()


MANY = 2**17
assert LOGITS_PER_CHUNK // MANY == 64  # rows in a chunk: 150 rows are three chunks


@pytest.mark.parametrize("negatives", [None, torch.arange(MANY)])
def test_chunks_change_neither_the_losses_nor_the_gradients(negatives):
    states, targets, weight = random_rows(150, MANY, 2)
    whole, chunked = (
        [tensor.clone().requires_grad_() for tensor in (states, weight)] for _ in range(2)
    )
    logits_RV = whole[0] @ whole[1].T
    whole_nll = torch.nn.functional.cross_entropy(logits_RV, targets, reduction="none")
    chunked_nll = item_nll(
        chunked[0], targets, chunked[1], torch.zeros(MANY), negatives_N=negatives
    )
    assert torch.allclose(chunked_nll, whole_nll, atol=1e-4)
    whole_nll.sum().backward()
    chunked_nll.sum().backward()
    assert torch.allclose(chunked[0].grad, whole[0].grad, atol=1e-3)
    assert torch.allclose(chunked[1].grad, whole[1].grad, atol=1e-3)


@torch.no_grad()
def test_chunks_without_gradients_give_the_same_losses():
    states, targets, weight = random_rows(150, MANY, 2)
    chunked = item_nll(states, targets, weight, torch.zeros(MANY))
    whole = torch.nn.functional.cross_entropy(states @ weight.T, targets, reduction="none")
    assert torch.allclose(chunked, whole, atol=1e-4)


def test_no_rows_cost_nothing_and_stay_in_the_graph():
    states, targets, weight = random_rows(0, 5, 3)
    weight.requires_grad_()
    for negatives in (None, torch.tensor([1, 2])):
        weight.grad = None
        item_nll(states, targets, weight, torch.zeros(5), negatives_N=negatives).sum().backward()
        assert (weight.grad == 0).all()


def test_every_candidate_as_a_negative_is_the_full_softmax():
    states, targets, weight = random_rows(8, 10, 4)
    bias = torch.zeros(10).masked_fill(torch.arange(10) >= 7, -torch.inf)
    targets = targets % 7
    full = item_nll(states, targets, weight, bias)
    sampled = item_nll(states, targets, weight, bias, negatives_N=torch.arange(7))
    assert torch.allclose(sampled, full, atol=1e-5)


def test_many_negatives_come_close_to_the_full_softmax_over_the_candidates():
    states, targets, weight = random_rows(4, 50, 4)
    bias = torch.zeros(50).masked_fill(torch.arange(50) >= 40, -torch.inf)
    targets = targets % 40
    negatives = torch.randint(40, (200_000,), generator=seeded(3))
    full = item_nll(states, targets, weight, bias)
    sampled = item_nll(states, targets, weight, bias, negatives_N=negatives)
    assert torch.allclose(sampled, full, atol=0.05)


def test_a_negative_that_is_the_target_is_left_out():
    states, _, weight = random_rows(1, 5, 3)
    nll = item_nll(
        states, torch.tensor([2]), weight, torch.zeros(5), negatives_N=torch.tensor([2, 2, 2])
    )
    assert nll.tolist() == [0.0]  # nothing is left to compete with


def test_denoising_loss_equals_the_double_loop():
    states, targets, weight = random_rows(6, 9, 4)
    p_mask = torch.tensor([0.1, 0.2, 0.5, 0.5, 0.9, 1.0])
    expected = 0.0
    for state, target, p in zip(states, targets, p_mask, strict=True):
        expected += slow_nll(state, int(target), weight, list(range(9))) / float(p)
    nll = item_nll(states, targets, weight, torch.zeros(9))
    assert float(denoising_loss(nll, p_mask)) == pytest.approx(expected)


def test_the_expected_denoising_loss_is_the_sum_over_all_maskable_tokens():
    nll_BL = torch.rand(1, 8, generator=seeded()).expand(20_000, 8)
    maskable_BL = torch.ones(20_000, 8, dtype=torch.bool)
    maskable_BL[:, 6:] = False
    levels_B = 0.3 + 0.7 * stratified_levels(20_000, seeded(1))
    masked, p_mask_BL = forward_process(maskable_BL, levels_B, seeded(2))
    mean = float(denoising_loss(nll_BL[masked], p_mask_BL[masked])) / 20_000
    assert mean == pytest.approx(float(nll_BL[0, :6].sum()), rel=0.02)
