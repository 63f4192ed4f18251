"""The training objective: the losses of a batch, as sums that add up over ranks.

Legend: B users, L history length, S slots, T = L + S, R scored rows, N negatives, V items.
"""

import torch
from torch import Tensor, nn

from diffsasrec.batches import Batch
from diffsasrec.config import ObjectiveConfig
from diffsasrec.diffusion import denoising_loss, item_nll
from diffsasrec.model import SequenceModel


class Objective(nn.Module):
    """The losses of a batch as sums over this rank's rows; DDP wraps this."""

    def __init__(self, model: SequenceModel, candidates_V: Tensor) -> None:
        super().__init__()
        self.model = model
        self.bias_V: Tensor
        bias_V = torch.zeros(len(candidates_V)).masked_fill(~candidates_V, -torch.inf)
        self.register_buffer("bias_V", bias_V, persistent=False)

    def forward(self, batch: Batch, negatives_N: Tensor | None) -> tuple[Tensor, Tensor]:
        """The summed next-item loss and the summed denoising loss."""
        history = self.model.encode(batch.history_BL, batch.lengths_B)
        if self.model.config.kind == "sasrec":
            assert history.states_BLD is not None
            states_BLD, denoising = history.states_BLD, history.states_BLD.new_zeros(())
        else:
            states_BLD, slots_BSD = self.model.denoise(history, batch.slots_BS, batch.num_slots_B)
            states_BTD = torch.cat([states_BLD, slots_BSD], dim=1)
            masked = batch.masked_BT
            nll_R = self._nll(states_BTD[masked], batch.targets_BT[masked], negatives_N)
            denoising = denoising_loss(nll_R, batch.p_mask_BT[masked])
        scored = batch.scored_BL
        next_R = self._nll(states_BLD[scored], batch.next_BL[scored], negatives_N)
        return next_R.sum(), denoising

    def _nll(self, states_RD: Tensor, targets_R: Tensor, negatives_N: Tensor | None) -> Tensor:
        weight_VD = self.model.item_weight
        return item_nll(states_RD, targets_R, weight_VD, self.bias_V, negatives_N=negatives_N)


def batch_loss(sums: tuple[Tensor, Tensor], batch: Batch, objective: ObjectiveConfig) -> Tensor:
    """This rank's part of the loss of the global batch.

    Each sum is divided by a count over all ranks, so that the parts of all ranks add up to the loss
    that one worker would have. Where both losses are taken they are weighted by their shares.
    """
    next_item, denoising = sums
    share = rest = 1.0
    if batch.num_scored and batch.num_maskable:
        share, rest = objective.next_item, objective.random_mask + objective.suffix_mask
    return share * next_item / max(batch.num_scored, 1) + rest * denoising / max(
        batch.num_maskable, 1
    )
