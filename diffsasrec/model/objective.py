"""The training objective: the losses of a batch, as sums that add up over ranks.

Legend: B users, L history length, S slots, T = L + S, R scored rows, N negatives, V items, Q query
times, F trend features, W width of the item vectors.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffsasrec.config.training import ObjectiveConfig
from diffsasrec.model.diffusion import MASK
from diffsasrec.model.heads import OwnItems, Pairs
from diffsasrec.model.softmax import (
    Extras,
    Negatives,
    Trending,
    item_nll,
    merged,
    pairs_of_rows,
    softmax_loss,
)
from diffsasrec.model.transformer import SequenceModel

# sequences that are encoded at once: a CPU gains from little padding, a GPU from large kernels
ROWS_TOGETHER = {"cpu": 16, "cuda": 256}


@dataclass(frozen=True)
class Batch:
    """The rows of one rank, and what the losses of the whole batch are divided by."""

    history_BL: Tensor  # inputs: items, -1 where masked, 0 after the end
    gaps_BL: Tensor  # the time since the previous event, in buckets
    lengths_B: Tensor
    slots_BS: Tensor  # inputs: items or -1
    num_slots_B: Tensor
    targets_BT: Tensor  # items at all L + S places
    next_BL: Tensor  # the item after each history event
    scored_BL: Tensor  # bool: where the next-item loss is taken
    masked_BT: Tensor  # bool: where the denoising loss is taken, over L + S places
    p_mask_BT: Tensor
    ages_B: Tensor | None  # how old the end of the history is, in buckets; None: no query time
    queries_B: Tensor  # which batch time, or DRAWN
    pairs: Pairs | None  # the items of the whole histories, if the example has a query time
    scored: Pairs | None  # the pairs with a copy score, if there are any
    num_scored: int  # of the global batch
    num_maskable: int  # of the global batch

    def to(self, device: torch.device) -> "Batch":
        tensors: dict[str, Any] = {
            n: t.to(device) for n, t in vars(self).items() if isinstance(t, Tensor)
        }
        tensors |= {n: p.to(device) for n, p in vars(self).items() if isinstance(p, Pairs)}
        return replace(self, **tensors)


class Objective(nn.Module):
    """The losses of a batch as sums over this rank's rows; DDP wraps this.

    Args:
        candidates_V: bool, what the weights are trained on.
        trends_QVF: the trends as of each batch time; pretraining has no batch times, and takes one
            table with only all-time popularity, [1, V, 1].
        filter_seen: in fine-tuning, items of the history can't come next, as in deployment.
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

    def of_rows(self, rows_U: Tensor, weight_UD: Tensor) -> dict[str, Tensor]:
        """Replacements of parameters and buffers for only some rows of the embedding."""
        return {
            "model.items.weight": weight_UD,
            "bias_V": self.bias_V[rows_U],
            "trends_QVF": self.trends_QVF[:, rows_U],
        }

    def forward(self, batch: Batch, negatives: Negatives | None) -> tuple[Tensor, Tensor]:
        """The summed next-item loss and the summed denoising loss."""
        own = self._own_items(batch)
        states_BTD = self.states(batch)
        next_BL, once_BL = batch.next_BL, torch.ones_like(batch.next_BL, dtype=torch.float32)
        next_item = self._loss(states_BTD, batch.scored_BL, next_BL, once_BL, batch, own, negatives)
        if self.model.config.kind == "sasrec":
            return next_item, next_item.new_zeros(())
        # the expectation over masks of nll / p is the sum over all that can be masked
        weights_BT = 1.0 / batch.p_mask_BT
        denoising = self._loss(
            states_BTD, batch.masked_BT, batch.targets_BT, weights_BT, batch, own, negatives
        )
        return next_item, denoising

    def states(self, batch: Batch) -> Tensor:
        """The states of all places, [B, L + S, D], undefined at empty places.

        Rows of similar length are encoded together; else most of a padded batch would be padding.
        """
        model, width = self.model, batch.history_BL.shape[1]
        order_B = batch.lengths_B.argsort(stable=True)
        parts = []
        for rows in order_B.split(ROWS_TOGETHER[order_B.device.type]):
            longest = max(int(batch.lengths_B[rows[-1]]), 1)
            gaps_BL = batch.gaps_BL[rows, :longest]
            history = model.encode(batch.history_BL[rows, :longest], batch.lengths_B[rows], gaps_BL)
            states_BLD, slots_BSD = history.states_BLD, None
            if model.config.kind == "diffusion":
                ages_B = None if batch.ages_B is None else batch.ages_B[rows]
                states_BLD, slots_BSD = model.denoise(
                    history, batch.slots_BS[rows], batch.num_slots_B[rows], ages_B=ages_B
                )
            assert states_BLD is not None
            states_BLD = F.pad(states_BLD, (0, 0, 0, width - longest))
            parts.append(
                states_BLD if slots_BSD is None else torch.cat([states_BLD, slots_BSD], dim=1)
            )
        return torch.cat(parts)[order_B.argsort()]

    def _own_items(self, batch: Batch) -> OwnItems | None:
        scored = batch.scored
        if scored is None or self.model.copy_score is None:
            return None
        queries_X = batch.queries_B[scored.users_X]
        return self.model.own_items(scored, self.trends_QVF[queries_X, scored.items_X])

    def _loss(
        self,
        states_BTD: Tensor,
        chosen_BT: Tensor,
        targets_BT: Tensor,
        weights_BT: Tensor,
        batch: Batch,
        own: OwnItems | None,
        negatives: Negatives | None,
    ) -> Tensor:
        """The weighted sum over the chosen places of -log p(target); 0 for a filtered target."""
        users_R, place_R = chosen_BT.nonzero(as_tuple=True)
        # rows of one batch time lie together
        order_R = batch.queries_B[users_R].argsort(stable=True)
        users_R, place_R = users_R[order_R], place_R[order_R]
        ages_R = None if batch.ages_B is None else batch.ages_B[users_R]
        queries_RW = self.model.queries(states_BTD[users_R, place_R], ages_R)
        targets_R, weights_R = targets_BT[users_R, place_R], weights_BT[users_R, place_R]
        extras = None if own is None else own.of_rows(queries_RW, users_R)
        is_filtered_R = torch.zeros_like(targets_R, dtype=torch.bool)
        if batch.pairs is not None and self.filter_seen:
            extras, is_filtered_R = _filtered(targets_R, users_R, batch.pairs, extras)
        used: Tensor | None = None
        if negatives is not None:  # for a large catalogue, only the items that occur here
            used, targets_R, negatives, extras = _of_few(targets_R, negatives, extras)
        vectors_VW, trending = self._vectors(queries_RW, batch.queries_B[users_R], used)
        queries_RW = queries_RW[:, : vectors_VW.shape[1]]
        bias_V = self.bias_V if used is None else self.bias_V[used]
        if negatives is None and extras is None and trending is None:
            return softmax_loss(queries_RW, targets_R, weights_R, vectors_VW, bias_V)
        nll_R = item_nll(
            queries_RW,
            targets_R,
            vectors_VW,
            bias_V,
            negatives=negatives,
            extras=extras,
            trending=trending,
        )
        return (weights_R * nll_R.masked_fill(is_filtered_R, 0.0)).sum()

    def _vectors(
        self, queries_RW: Tensor, tables_R: Tensor, used: Tensor | None
    ) -> tuple[Tensor, Trending | None]:
        """The item vectors, and what the trends as of several times add to the logits."""
        trends_QVF = self.trends_QVF if used is None else self.trends_QVF[:, used]
        if len(trends_QVF) == 1:
            return self.model.item_vectors(trends_QVF[0], used), None
        vectors_VD = self.model.item_vectors(None, used)
        if self.model.trends is None:
            return vectors_VD, None
        weights_RF = queries_RW[:, vectors_VD.shape[1] :]
        return vectors_VD, Trending(weights_RF, tables_R, trends_QVF, self.model.trends.columns)


def _filtered(
    targets_R: Tensor, users_R: Tensor, pairs: Pairs, extras: Extras | None
) -> tuple[Extras, Tensor]:
    """`extras` with the items of the histories, which can't come next, and which targets are some.

    `extras`: of other items.
    """
    rows_Y, at_Y = pairs_of_rows(users_R, pairs.users_X)
    items_Y = pairs.items_X[at_Y]
    is_target_Y = items_Y == targets_R[rows_Y]
    scores_Y = torch.full(items_Y.shape, -torch.inf, device=items_Y.device)
    is_filtered_R = torch.zeros_like(targets_R, dtype=torch.bool)
    is_filtered_R[rows_Y[is_target_Y]] = True
    blocked = Extras(rows_Y, items_Y, scores_Y.masked_fill(is_target_Y, 0.0))
    return blocked if extras is None else merged(blocked, extras), is_filtered_R


def _of_few(
    targets_R: Tensor, negatives: Negatives, extras: Extras | None
) -> tuple[Tensor, Tensor, Negatives, Extras | None]:
    """The items that occur, sorted, and everything else indexed by their places among them."""
    items_Y = targets_R[:0] if extras is None else extras.items_Y
    occurring = torch.cat([targets_R, negatives.items_N, items_Y])
    used, places = occurring.unique(return_inverse=True)
    sizes = [len(targets_R), len(negatives.items_N), len(items_Y)]
    targets_R, negatives_N, items_Y = places.split(sizes)
    negatives = replace(negatives, items_N=negatives_N)
    return used, targets_R, negatives, extras and replace(extras, items_Y=items_Y)


def occurring_items(batch: Batch, negatives: Negatives, num_items: int) -> Tensor:
    """The items whose vectors a rank reads in its part of a step, bool [V]."""
    place_L = torch.arange(batch.history_BL.shape[1], device=batch.history_BL.device)
    place_S = torch.arange(batch.slots_BS.shape[1], device=batch.slots_BS.device)
    read = [
        batch.history_BL[place_L < batch.lengths_B[:, None]],
        batch.slots_BS[place_S < batch.num_slots_B[:, None]],
        batch.next_BL[batch.scored_BL],
        batch.targets_BT[batch.masked_BT],
        negatives.items_N,
    ]
    read += [pairs.items_X for pairs in (batch.pairs, batch.scored) if pairs is not None]
    occurs_V = torch.zeros(num_items + 1, dtype=torch.bool, device=place_L.device)
    for items in read:
        occurs_V[items] = True  # the mask, -1, is the place after all items
    return occurs_V[:-1]


def in_rows(batch: Batch, negatives: Negatives, rows_U: Tensor) -> tuple[Batch, Negatives]:
    """The same, with items as places among some rows of the embedding (ascending items)."""

    def places(items: Tensor) -> Tensor:
        # an item that is not among the rows is never read
        found = torch.searchsorted(rows_U, items.contiguous()).clamp(max=len(rows_U) - 1)
        return torch.where(items == MASK, MASK, found)

    batch = replace(
        batch,
        history_BL=places(batch.history_BL),
        slots_BS=places(batch.slots_BS),
        next_BL=places(batch.next_BL),
        targets_BT=places(batch.targets_BT),
        pairs=batch.pairs and replace(batch.pairs, items_X=places(batch.pairs.items_X)),
        scored=batch.scored and replace(batch.scored, items_X=places(batch.scored.items_X)),
    )
    return batch, replace(negatives, items_N=places(negatives.items_N))


def batch_loss(sums: tuple[Tensor, Tensor], batch: Batch, objective: ObjectiveConfig) -> Tensor:
    """This rank's part of the loss of the global batch.

    Each sum is divided by a count over all ranks, so that the parts of all ranks add up to the loss
    that one worker would have. If both losses are taken, they are weighted by their shares.
    """
    next_item, denoising = sums
    share = rest = 1.0
    if batch.num_scored and batch.num_maskable:
        share, rest = objective.next_item, objective.random_mask + objective.suffix_mask
    return share * next_item / max(batch.num_scored, 1) + rest * denoising / max(
        batch.num_maskable, 1
    )
