"""The training objective: the losses of a batch, as sums that add up over ranks.

Legend: B users, L history length, S slots, T = L + S, R scored rows, N negatives, V items, Q query
times, F trend features, W width of the item vectors.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffsasrec.config.training import ObjectiveConfig
from diffsasrec.model.baskets import Spread
from diffsasrec.model.batch import Batch
from diffsasrec.model.heads.copy_score import OwnItems
from diffsasrec.model.heads.pairs import Extras, Pairs, merged, pairs_of_rows
from diffsasrec.model.heads.ranker import of_hits, ranking_loss
from diffsasrec.model.softmax import Negatives, Trending, item_nll, softmax_loss
from diffsasrec.model.transformer import SequenceModel

# sequences that are encoded at once: a CPU gains from little padding, a GPU from large kernels
ROWS_TOGETHER = {"cpu": 16, "cuda": 256}


class Objective(nn.Module):
    """The losses of a batch as sums over this rank's rows; DDP wraps this.

    Args:
        candidates_V: bool, what the weights are trained on.
        trends_QVF: the trends as of each batch time; pretraining has no batch times, and takes one
            table with only all-time popularity, [1, V, 1].
        filter_seen: in fine-tuning, items of the history can't come next, as in deployment.
        state_dropout: in fine-tuning, for this share of the examples the state counts nothing, so
            that the counters learn to stand alone. What they learn beside a state that has seen
            the targets while it was pretrained trusts it too much.
        focus_k: in fine-tuning, the length of the lists that the loss is `focus.focused` on; 0:
            all targets count alike.
    """

    def __init__(
        self,
        model: SequenceModel,
        candidates_V: Tensor,
        trends_QVF: Tensor,
        *,
        filter_seen: bool,
        state_dropout: float = 0.0,
        focus_k: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.filter_seen, self.focus_k = filter_seen, focus_k
        self.state_dropout = state_dropout if model.trends is not None else 0.0
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

    def forward(self, batch: Batch, negatives: Negatives | None) -> tuple[Tensor, Tensor, Tensor]:
        """The summed next-item loss, the summed denoising loss, and that of the ranker."""
        return *self._of_sequences(batch, negatives), self._of_ranker(batch)

    def _of_sequences(self, batch: Batch, negatives: Negatives | None) -> tuple[Tensor, Tensor]:
        rest = (batch, self._own_items(batch), self._state_weights(batch), negatives)
        states_BTD = self.states(batch)
        once_BL = torch.ones_like(batch.next_BL, dtype=torch.float32)
        # fine-tuning has this loss at the end of a history alone, whose next basket is known
        next_item = self._loss(
            states_BTD, batch.scored_BL, batch.scored_BL, batch.next_BL, once_BL, *rest
        )
        if self.model.config.kind == "sasrec":
            return next_item, next_item.new_zeros(())
        # the expectation over masks of nll / p is the sum over all that can be masked
        weights_BT = 1.0 / batch.p_mask_BT
        denoising = self._loss(
            *(states_BTD, batch.masked_BT, batch.first_slots(), batch.targets_BT, weights_BT, *rest)
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
            types_BL = None if batch.types_BL is None else batch.types_BL[rows, :longest]
            history = model.encode(
                batch.history_BL[rows, :longest], batch.lengths_B[rows], gaps_BL, types_BL
            )
            states_BLD, slots_BSD = history.states_BLD, None
            if model.config.kind == "diffusion":
                ages_B = None if batch.ages_B is None else batch.ages_B[rows]
                slot_types = batch.slot_types_BS
                states_BLD, slots_BSD = model.denoise(
                    history,
                    batch.slots_BS[rows],
                    batch.num_slots_B[rows],
                    ages_B=ages_B,
                    types_BS=None if slot_types is None else slot_types[rows],
                )
            assert states_BLD is not None
            states_BLD = F.pad(states_BLD, (0, 0, 0, width - longest))
            parts.append(
                states_BLD if slots_BSD is None else torch.cat([states_BLD, slots_BSD], dim=1)
            )
        return torch.cat(parts)[order_B.argsort()]

    def _of_ranker(self, batch: Batch) -> Tensor:
        """Its weights are its own, so that the others are trained as if there were none."""
        scored, ranker = batch.scored, self.model.ranker
        if scored is None or ranker is None or batch.shares_X is None:
            return self.bias_V.new_zeros(())
        scored, shares_X = of_hits(scored, batch.shares_X)
        trends_XF = self.trends_QVF[batch.queries_B[scored.users_X], scored.items_X]
        return ranking_loss(ranker(scored, trends_XF), scored.users_X, shares_X)

    def _own_items(self, batch: Batch) -> OwnItems | None:
        if batch.scored is None or self.model.copy_score is None:
            return None
        scored = batch.scored.copied()
        queries_X = batch.queries_B[scored.users_X]
        return self.model.own_items(scored, self.trends_QVF[queries_X, scored.items_X])

    def _state_weights(self, batch: Batch) -> Tensor:
        """How much the state of each user counts, [B]: 0 for some in fine-tuning, else 1."""
        weights_B = torch.ones(len(batch.lengths_B), device=batch.lengths_B.device)
        if batch.pairs is None or not self.training:
            return weights_B
        return weights_B * (torch.rand_like(weights_B) >= self.state_dropout)

    def _loss(
        self,
        states_BTD: Tensor,
        chosen_BT: Tensor,
        spread_BT: Tensor,
        targets_BT: Tensor,
        weights_BT: Tensor,
        batch: Batch,
        own: OwnItems | None,
        state_weights_B: Tensor,
        negatives: Negatives | None,
    ) -> Tensor:
        """The weighted sum over the chosen places of -log p(target); 0 for a filtered target.

        `spread_BT`: where the targets are those of the whole next basket, if that is known.
        """
        users_R, place_R = _by_batch_time(chosen_BT, batch)
        queries_RW = self.model.queries(
            states_BTD[users_R, place_R],
            None if batch.ages_B is None else batch.ages_B[users_R],
            weights_R=state_weights_B[users_R],
            users_RC=None if batch.users_BC is None else batch.users_BC[users_R],
        )
        targets_R, weights_R = targets_BT[users_R, place_R], weights_BT[users_R, place_R]
        extras = None if own is None else own.of_rows(queries_RW, users_R)
        spread: Spread | None = None
        # one target where negatives are sampled: the others would have to be among them
        if batch.baskets is not None and negatives is None:
            spread = batch.baskets.of_rows(users_R, spread_BT[users_R, place_R])
        if batch.pairs is not None and self.filter_seen:
            if spread is not None:
                spread = spread.without(*_own_of_rows(users_R, batch.pairs))
                targets_R = spread.first_items(targets_R)
            extras, is_filtered_R = _filtered(targets_R, users_R, batch.pairs, extras)
            weights_R = weights_R.masked_fill(is_filtered_R, 0.0)
        tables_R = batch.queries_B[users_R]
        return self._sum_nll(queries_RW, tables_R, targets_R, weights_R, extras, spread, negatives)

    def _sum_nll(
        self,
        queries_RW: Tensor,
        tables_R: Tensor,
        targets_R: Tensor,
        weights_R: Tensor,
        extras: Extras | None,
        spread: Spread | None,
        negatives: Negatives | None,
    ) -> Tensor:
        used: Tensor | None = None
        if negatives is not None:  # for a large catalogue, only the items that occur here
            used, targets_R, negatives, extras = _of_few(targets_R, negatives, extras)
        vectors_VW, trending = self._vectors(queries_RW, tables_R, used)
        queries_RW = queries_RW[:, : vectors_VW.shape[1]]
        bias_V = self.bias_V if used is None else self.bias_V[used]
        is_plain = negatives is None and extras is None and trending is None and spread is None
        if is_plain and not self.focus_k:
            return softmax_loss(queries_RW, targets_R, weights_R, vectors_VW, bias_V)
        nll_R = item_nll(
            queries_RW,
            targets_R,
            vectors_VW,
            bias_V,
            negatives=negatives,
            extras=extras,
            trending=trending,
            spread=spread,
            focus_k=self.focus_k,
        )
        return (weights_R * nll_R).sum()

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


def _by_batch_time(chosen_BT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The users and places that are chosen; those of one batch time lie together."""
    users_R, place_R = chosen_BT.nonzero(as_tuple=True)
    order_R = batch.queries_B[users_R].argsort(stable=True)
    return users_R[order_R], place_R[order_R]


def _own_of_rows(users_R: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The pairs (row, item of its user's history)."""
    rows_Y, at_Y = pairs_of_rows(users_R, pairs.users_X)
    return rows_Y, pairs.items_X[at_Y]


def _filtered(
    targets_R: Tensor, users_R: Tensor, pairs: Pairs, extras: Extras | None
) -> tuple[Extras, Tensor]:
    """`extras` with the items of the histories, which can't come next, and which targets are some.

    `extras`: of other items.
    """
    rows_Y, items_Y = _own_of_rows(users_R, pairs)
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


def batch_loss(
    sums: tuple[Tensor, Tensor, Tensor], batch: Batch, objective: ObjectiveConfig
) -> Tensor:
    """This rank's part of the loss of the global batch.

    Each sum is divided by a count over all ranks, so that the parts of all ranks add up to the loss
    that one worker would have. If both losses are taken, they are weighted by their shares. The
    loss of the ranker shares no weights with them, and needs no share.
    """
    next_item, denoising, ranking = sums
    share = rest = 1.0
    if batch.num_scored and batch.num_maskable:
        share, rest = objective.next_item, objective.random_mask + objective.suffix_mask
    next_item = share * next_item / max(batch.num_scored, 1)
    denoising = rest * denoising / max(batch.num_maskable, 1)
    return next_item + denoising + ranking / max(batch.num_examples, 1)
