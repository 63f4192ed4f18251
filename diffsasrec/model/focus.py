"""A loss that counts where a list is decided: around its last place.

A softmax over a catalogue spends most of its gradient on targets that nobody can predict. They end
in no list, and draw the weights away from those that could.

Legend: R rows, V items, N sampled negatives, M items that are certain, X any.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def focused(nll_X: Tensor, floor_X: Tensor) -> Tensor:
    """-log(p + floor), [X], of -log p and log floor; the gradient of -log p times p / (p + floor).

    The floor is the probability of the k-th item of the row's list. A target far below that is
    in no list, whatever a step does for it, and would draw the weights away from those that are.
    """
    return -torch.logaddexp(-nll_X, floor_X)


@torch.no_grad()
def log_floor(logits_RV: Tensor, focus_k: int) -> Tensor:
    """log p of the item at place `focus_k` of each row, [R]; -inf where a row has fewer."""
    if logits_RV.shape[1] < focus_k:
        return torch.full_like(logits_RV[:, 0], -torch.inf)
    return logits_RV.topk(focus_k, dim=1).values[:, -1] - logits_RV.logsumexp(1)


@torch.no_grad()
def sampled_kth(
    certain_RM: Tensor, negative_RN: Tensor, log_inclusion_N: Tensor, focus_k: int
) -> Tensor:
    """About the logit of the item at place `focus_k` among all items, [R].

    An item that is sampled with probability q stands for 1 / q items (Horvitz and Thompson 1952).
    """
    logits_RX = torch.cat([certain_RM, negative_RN + log_inclusion_N], dim=1)
    stands_for_X = F.pad(torch.exp(-log_inclusion_N), (certain_RM.shape[1], 0), value=1.0)
    top = logits_RX.topk(min(focus_k, logits_RX.shape[1]), dim=1)
    reached = stands_for_X[top.indices].cumsum(1) >= focus_k - 0.5
    kth_R = top.values.gather(1, reached.byte().argmax(1, keepdim=True))[:, 0]
    return kth_R.masked_fill(~reached[:, -1], -torch.inf)
