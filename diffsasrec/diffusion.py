"""Masked diffusion over item sequences: the forward process, its losses, and next-item losses.

After LLaDA (Nie et al. 2025, arXiv 2502.09992): a level t ~ U(0, 1) per sequence, every token
masked with probability p = (1 - eps) t + eps, cross-entropy on the masked tokens weighted 1 / p,
which is an upper bound of the negative log-likelihood (their equation 3).

Legend: B sequences, L tokens, S slots, R scored rows, N negatives, V items, D hidden size.
"""

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor

MASK = -1  # stands for the mask vector of the model wherever items are given by index
EPS = 1e-3

# logits of at most so many numbers exist at once; the rest is recomputed in the backward pass
LOGITS_PER_CHUNK = 2**23


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


def item_nll(
    states_RD: Tensor,
    targets_R: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    *,
    negatives_N: Tensor | None = None,
) -> Tensor:
    """-log p(target) under the softmax over all items, [R] float32, in bounded memory.

    `bias_V` is 0 for candidates and -inf for items that the weights are not trained on. With
    `negatives_N` (drawn uniformly from the candidates, shared by all rows) the softmax runs over
    the target and the negatives, with the log-q correction log(V' / N) of each negative, V' the
    number of candidates; a negative that equals the target is left out (Jean et al. 2015).
    """
    num_columns = len(weight_VD) if negatives_N is None else len(negatives_N)
    rows = max(1, LOGITS_PER_CHUNK // num_columns)
    if len(states_RD) <= rows or not torch.is_grad_enabled():
        chunks = [
            _nll(s, t, weight_VD, bias_V, negatives_N)
            for s, t in zip(states_RD.split(rows), targets_R.split(rows), strict=True)
        ]
    else:
        chunks = [
            torch.utils.checkpoint.checkpoint(
                _nll, s, t, weight_VD, bias_V, negatives_N, use_reentrant=False
            )
            for s, t in zip(states_RD.split(rows), targets_R.split(rows), strict=True)
        ]
    return torch.cat(chunks) if chunks else states_RD.new_zeros(0)


def _nll(
    states_RD: Tensor,
    targets_R: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    negatives_N: Tensor | None,
) -> Tensor:
    if negatives_N is None:
        logits_RV = (states_RD @ weight_VD.T).float() + bias_V
        return F.cross_entropy(logits_RV, targets_R, reduction="none")
    num_candidates = int(torch.isfinite(bias_V).sum())
    correction = torch.log(torch.tensor(num_candidates / len(negatives_N)))
    positive_R = (states_RD * weight_VD[targets_R]).sum(-1).float()
    negative_RN = (states_RD @ weight_VD[negatives_N].T).float() + correction
    negative_RN = negative_RN.masked_fill(negatives_N == targets_R[:, None], -torch.inf)
    logits_RN = torch.cat([positive_R[:, None], negative_RN], dim=1)
    return torch.logsumexp(logits_RN, dim=1) - positive_R


def denoising_loss(nll_R: Tensor, p_mask_R: Tensor) -> Tensor:
    """The sum over masked tokens of nll / p; the caller divides by the number of maskable tokens.

    The expectation over masks of this sum is the sum over all maskable tokens.
    """
    return (nll_R / p_mask_R).sum()
