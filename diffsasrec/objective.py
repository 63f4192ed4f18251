"""The training objective: the losses of a batch, as sums that add up over ranks.

Legend: B users, L history length, S slots, T = L + S, R scored rows, N negatives, V items, Q query
times, F trend features, W width of the item vectors.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from diffsasrec.batches import Batch
from diffsasrec.config import ObjectiveConfig
from diffsasrec.diffusion import Extras, Negatives, denoising_loss, item_nll, pairs_of_rows
from diffsasrec.model import SequenceModel


class Objective(nn.Module):
    """The losses of a batch as sums over this rank's rows; DDP wraps this.

    Args:
        candidates_V: bool, what the weights are trained on.
        trends_QVF: the trends as of each batch time; in pretraining, which has none, one table
            with the popularity of all time alone, [1, V, 1].
        filter_seen: in fine-tuning items of the history can't come next, as in deployment.
    """

    def __init__(
        self,
        model: SequenceModel,
        candidates_V: Tensor,
        trends_QVF: Tensor,
        *,
        filter_seen: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.filter_seen = filter_seen
        self.bias_V: Tensor
        self.trends_QVF: Tensor
        bias_V = torch.zeros(len(candidates_V)).masked_fill(~candidates_V, -torch.inf)
        self.register_buffer("bias_V", bias_V, persistent=False)
        self.register_buffer("trends_QVF", trends_QVF, persistent=False)

    def forward(self, batch: Batch, negatives: Negatives | None) -> tuple[Tensor, Tensor]:
        """The summed next-item loss and the summed denoising loss."""
        history = self.model.encode(batch.history_BL, batch.lengths_B, batch.gaps_BL)
        if self.model.config.kind == "sasrec":
            assert history.states_BLD is not None
            states_BLD, denoising = history.states_BLD, history.states_BLD.new_zeros(())
        else:
            states_BLD, slots_BSD = self.model.denoise(
                history, batch.slots_BS, batch.num_slots_B, ages_B=batch.ages_B
            )
            states_BTD = torch.cat([states_BLD, slots_BSD], dim=1)
            masked = batch.masked_BT
            nll_R = self._nll(states_BTD, masked, batch.targets_BT, batch, negatives)
            denoising = denoising_loss(nll_R, batch.p_mask_BT[masked])
        next_R = self._nll(states_BLD, batch.scored_BL, batch.next_BL, batch, negatives)
        return next_R.sum(), denoising

    def _nll(
        self,
        states_BTD: Tensor,
        chosen_BT: Tensor,
        targets_BT: Tensor,
        batch: Batch,
        negatives: Negatives | None,
    ) -> Tensor:
        users_R = chosen_BT.nonzero()[:, 0]
        ages_R = None if batch.ages_B is None else batch.ages_B[users_R]
        queries_RW = self.model.queries(states_BTD[chosen_BT], ages_R)
        targets_R = targets_BT[chosen_BT]
        if batch.pairs is None:
            table_VF = self.trends_QVF[0]
            return self._nll_at(table_VF, queries_RW, users_R, targets_R, batch, negatives)
        nll_R = 0.0 * queries_RW[:, 0].float()  # in the graph also where this rank has no row
        query_R = batch.queries_B[users_R]
        for query in query_R.unique():
            (at,) = (query_R == query).nonzero(as_tuple=True)
            table_VF = self.trends_QVF[query]
            nll = self._nll_at(
                table_VF, queries_RW[at], users_R[at], targets_R[at], batch, negatives
            )
            nll_R = nll_R.index_put((at,), nll)
        return nll_R

    def _nll_at(
        self,
        trends_VF: Tensor,
        queries_RW: Tensor,
        users_R: Tensor,
        targets_R: Tensor,
        batch: Batch,
        negatives: Negatives | None,
    ) -> Tensor:
        """The losses of rows that share a query time, [R]; 0 for a target that is filtered."""
        extras, forbidden_R = None, torch.zeros_like(targets_R, dtype=torch.bool)
        if batch.pairs is not None and self.filter_seen:
            rows_Y, at_Y = pairs_of_rows(users_R, batch.pairs.users_X)
            items_Y = batch.pairs.items_X[at_Y]
            is_target_Y = items_Y == targets_R[rows_Y]
            forbidden_R[rows_Y[is_target_Y]] = True
            scores_Y = torch.full(items_Y.shape, -torch.inf, device=items_Y.device)
            extras = Extras(rows_Y, items_Y, scores_Y.masked_fill(is_target_Y, 0.0))
        elif batch.pairs is not None and self.model.copy_score is not None:
            extras = self.model.copy_scores(queries_RW, users_R, batch.pairs, trends_VF)
        if negatives is None:
            vectors_VW, bias_V = self.model.item_vectors(trends_VF), self.bias_V
        else:  # of a large catalogue only what occurs here
            used, targets_R, negatives, extras = _of_few(targets_R, negatives, extras)
            vectors_VW = self.model.item_vectors(trends_VF[used], used)
            bias_V = self.bias_V[used]
        nll_R = item_nll(
            queries_RW[:, : vectors_VW.shape[1]],
            targets_R,
            vectors_VW,
            bias_V,
            negatives=negatives,
            extras=extras,
        )
        return nll_R.masked_fill(forbidden_R, 0.0)


def _of_few(
    targets_R: Tensor, negatives: Negatives, extras: Extras | None
) -> tuple[Tensor, Tensor, Negatives, Extras | None]:
    """The items that occur, sorted, and everything in terms of their places among them."""
    items_Y = targets_R[:0] if extras is None else extras.items_Y
    occurring = torch.cat([targets_R, negatives.items_N, items_Y])
    used, places = occurring.unique(return_inverse=True)
    sizes = [len(targets_R), len(negatives.items_N), len(items_Y)]
    targets_R, negatives_N, items_Y = places.split(sizes)
    negatives = replace(negatives, items_N=negatives_N)
    return used, targets_R, negatives, extras and replace(extras, items_Y=items_Y)


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
