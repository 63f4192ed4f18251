"""Masking: levels, masks, and what the denoising loss adds up to.

Legend: B sequences, L tokens.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rows import seeded

from diffsasrec.model.diffusion import EPS, forward_process, stratified_levels


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


def test_the_expected_denoising_loss_is_the_sum_over_all_maskable_tokens():
    nll_BL = torch.rand(1, 8, generator=seeded()).expand(20_000, 8)
    maskable_BL = torch.ones(20_000, 8, dtype=torch.bool)
    maskable_BL[:, 6:] = False
    levels_B = 0.3 + 0.7 * stratified_levels(20_000, seeded(1))
    masked, p_mask_BL = forward_process(maskable_BL, levels_B, seeded(2))
    mean = float((nll_BL[masked] / p_mask_BL[masked]).sum()) / 20_000
    assert mean == pytest.approx(float(nll_BL[0, :6].sum()), rel=0.02)
