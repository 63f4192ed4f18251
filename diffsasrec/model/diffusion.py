"""The forward process of masked diffusion over item sequences."""

import torch
import torch.utils.checkpoint
from torch import Tensor

MASK = -1  # stands for the mask vector of the model where items are given by index
EPS = 1e-3


def stratified_levels(num: int, generator: torch.Generator) -> Tensor:
    """t in [0, 1) for each sequence of a batch, [num]: one per stratum, in random order.

    The mean over a batch then varies far less than with independent draws.
    """
    start = torch.rand(1, generator=generator)
    levels = (start + torch.arange(num) / max(num, 1)) % 1.0
    return levels[torch.randperm(num, generator=generator)]


def forward_process(
    maskable_BL: Tensor, levels_B: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Masks each maskable token with probability p = (1 - eps) t + eps.

    Returns:
        is_masked_BL (bool) and p_mask_BL; padding must not be maskable and is never masked.
    """
    p_mask_BL = ((1 - EPS) * levels_B + EPS)[:, None].expand(maskable_BL.shape)
    draw_BL = torch.rand(maskable_BL.shape, generator=generator)
    return (draw_BL < p_mask_BL) & maskable_BL, p_mask_BL
