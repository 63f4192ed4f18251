"""Losses over a catalogue: the whole softmax in bounded memory, or sampled negatives.

Legend: R rows, V items, D hidden size, W width of the item vectors, N negatives, Y pairs (row,
item), M the most pairs of a row, X any.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor

from diffsasrec.model.focus import focused, log_floor, sampled_kth
from diffsasrec.model.heads.pairs import Extras, padded

# at most so many logits exist at once; the others are recomputed in the backward pass
LOGITS_PER_CHUNK = 2**23
# so few stay in a CPU's cache
LOGITS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Trending:
    """What the trends of items add to logits: weights of each row times the columns of its table.

    A table has the trends as of one query time. Its columns are made only when they are needed: for
    a large catalogue, the columns of all tables would fill the memory.
    """

    weights_RF: Tensor
    tables_R: Tensor  # ascending
    trends_QVF: Tensor
    columns: Callable[[Tensor], Tensor]  # trends [.., F] -> columns [.., F]

    def of_rows(self, start: int, stop: int) -> "Trending":
        inside = slice(start, stop)
        return replace(self, weights_RF=self.weights_RF[inside], tables_R=self.tables_R[inside])

    def add_to(self, logits_RN: Tensor, items_N: Tensor | None = None) -> Tensor:
        """Adds to the logits of all items or of `items_N`."""
        tables, counts = self.tables_R.unique_consecutive(return_counts=True)
        sizes = counts.tolist()
        parts = zip(tables, self.weights_RF.split(sizes), logits_RN.split(sizes), strict=True)
        added = []
        for table, weights_GF, logits_GN in parts:
            trends_NF = self.trends_QVF[table]
            columns_NF = self.columns(trends_NF if items_N is None else trends_NF[items_N])
            added.append(logits_GN + (weights_GF @ columns_NF.T).float())
        return torch.cat(added) if added else logits_RN

    def of_pairs(self, rows_Z: Tensor, items_Z: Tensor) -> Tensor:
        """What is added to the logits of some rows and items, [Z]."""
        columns_ZF = self.columns(self.trends_QVF[self.tables_R[rows_Z], items_Z])
        return (self.weights_RF[rows_Z] * columns_ZF).sum(-1).float()


@dataclass(frozen=True)
class Negatives:
    """A sample of the candidates, each item once."""

    items_N: Tensor  # ascending
    log_inclusion_N: Tensor  # log of the probability that the item is in the sample

    def to(self, device: torch.device | str) -> "Negatives":
        return Negatives(self.items_N.to(device), self.log_inclusion_N.to(device))


@dataclass(frozen=True)
class Proposal:
    """From what negatives are drawn: half of the draws uniform, half by how often an item occurs.

    A popular item weighs much in the softmax. If it were drawn as rarely as the others and then
    multiplied by the correction, the loss would jump.
    """

    share_V: Tensor  # float64, of the draws; 0 for what is no candidate
    cumulative_V: Tensor

    @classmethod
    def of(cls, counts_V: Tensor) -> "Proposal":
        """Made once: it goes through all items, a draw does not."""
        candidate_V = counts_V > 0
        share_V = 0.5 * candidate_V / candidate_V.sum() + 0.5 * counts_V / counts_V.sum()
        share_V = share_V.double()
        return cls(share_V, share_V.cumsum(0))

    def draw(self, num: int, generator: torch.Generator) -> Negatives:
        """Candidates from `num` draws."""
        draws = torch.rand(num, generator=generator, dtype=torch.float64) * self.cumulative_V[-1]
        items_N = torch.searchsorted(self.cumulative_V, draws, right=True).unique()
        log_inclusion_N = torch.log(-torch.expm1(num * torch.log1p(-self.share_V[items_N])))
        return Negatives(items_N, log_inclusion_N.float())


class Targets(Protocol):
    """Several targets of some rows, in the place of one."""

    def of_rows(self, start: int, stop: int) -> "Targets": ...

    def nll(self, logits_RV: Tensor, single_R: Tensor, floor_R: Tensor | None) -> Tensor:
        """The loss of the targets of each row, and `single_R` for rows without several, [R]."""


def item_nll(
    states_RD: Tensor,
    targets_R: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    *,
    negatives: Negatives | None = None,
    extras: Extras | None = None,
    trending: Trending | None = None,
    spread: Targets | None = None,
    focus_k: int = 0,
) -> Tensor:
    """-log p(target) under the softmax over all items, [R] float32, in bounded memory.

    `bias_V` is 0 for candidates and -inf for items that the weights are not trained on. With
    `negatives` (shared by all rows) the softmax runs over the target, the negatives and the pairs
    of `extras`; a negative carries the log-q correction, and is left out if it is the target or in
    a pair of the row (Jean et al. 2015). `spread`, of the whole softmax, goes before `targets_R`.
    `focus_k`: the length of the lists that the loss is `focused` on; 0: it is not.
    """
    assert negatives is None or spread is None
    rows = max(1, LOGITS_PER_CHUNK // len(weight_VD if negatives is None else negatives.items_N))
    few = len(states_RD) <= rows or not torch.is_grad_enabled()
    chunks = []
    for start in range(0, max(len(states_RD), 1), rows):
        stop = min(start + rows, len(states_RD))
        inputs = (
            *(states_RD[start:stop], targets_R[start:stop], weight_VD, bias_V, negatives),
            extras and extras.of_rows(start, stop),
            trending and trending.of_rows(start, stop),
            spread and spread.of_rows(start, stop),
            focus_k,
        )
        if few:
            chunks.append(_nll(*inputs))
        else:
            chunks.append(torch.utils.checkpoint.checkpoint(_nll, *inputs, use_reentrant=False))
    return torch.cat(chunks)


def _nll(
    states_RD: Tensor,
    targets_R: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    negatives: Negatives | None,
    extras: Extras | None,
    trending: Trending | None,
    spread: Targets | None,
    focus_k: int,
) -> Tensor:
    if negatives is None:
        logits_RV = (states_RD @ weight_VD.T).float() + bias_V
        if trending is not None:
            logits_RV = trending.add_to(logits_RV)
        if extras is not None:
            logits_RV = extras.add_to(logits_RV)
        nll_R = F.cross_entropy(logits_RV, targets_R, reduction="none")
        floor_R = log_floor(logits_RV, focus_k) if focus_k else None
        nll_R = nll_R if floor_R is None else focused(nll_R, floor_R)
        return nll_R if spread is None else spread.nll(logits_RV, nll_R, floor_R)
    return _sampled_nll(
        states_RD, targets_R, weight_VD, bias_V, negatives, extras, trending, focus_k
    )


def _sampled_nll(
    states_RD: Tensor,
    targets_R: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    negatives: Negatives,
    extras: Extras | None,
    trending: Trending | None,
    focus_k: int,
) -> Tensor:
    negatives_N = negatives.items_N
    place_R = torch.arange(len(targets_R), device=targets_R.device)
    positive_R = (states_RD * weight_VD[targets_R]).sum(-1).float()
    negative_RN = (states_RD @ weight_VD[negatives_N].T).float() - negatives.log_inclusion_N
    if trending is not None:
        positive_R = positive_R + trending.of_pairs(place_R, targets_R)
        negative_RN = trending.add_to(negative_RN, negatives_N)
    negative_RN = negative_RN.masked_fill(negatives_N == targets_R[:, None], -torch.inf)
    own_Y = positive_R[:0]
    if extras is not None:  # a stratum of their own: each one is summed, and none is sampled
        num_items = len(weight_VD)
        positive_R = positive_R + extras.of_pairs(place_R, targets_R, num_items=num_items)
        paired_RN = _paired(extras, negatives_N, num_rows=len(targets_R))
        negative_RN = negative_RN.masked_fill(paired_RN, -torch.inf)
        own_Y = _own_logits(states_RD, targets_R, weight_VD, bias_V, extras, trending)
    rows_Y = place_R[:0] if extras is None else extras.rows_Y
    highest_R = torch.cat([positive_R[:, None], negative_RN], dim=1).detach().amax(1)
    highest_R = highest_R.scatter_reduce(0, rows_Y, own_Y.detach(), "amax")
    total_R = torch.exp(positive_R - highest_R)
    total_R = total_R + torch.exp(negative_RN - highest_R[:, None]).sum(1)
    total_R = total_R.index_add(0, rows_Y, torch.exp(own_Y - highest_R[rows_Y]))
    normaliser_R = torch.log(total_R) + highest_R
    nll_R = normaliser_R - positive_R
    if not focus_k:
        return nll_R
    certain_RM = torch.cat([positive_R[:, None], padded(own_Y, rows_Y, len(positive_R))], dim=1)
    kth_R = sampled_kth(certain_RM, negative_RN, negatives.log_inclusion_N, focus_k)
    return focused(nll_R, kth_R - normaliser_R.detach())


def _own_logits(
    states_RD: Tensor,
    targets_R: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    extras: Extras,
    trending: Trending | None,
) -> Tensor:
    """The logits of the pairs, [Y]; -inf for that of a row and its target."""
    rows_Y, items_Y = extras.rows_Y, extras.items_Y
    own_Y = (states_RD[rows_Y] * weight_VD[items_Y]).sum(-1).float() + extras.scores_Y
    own_Y = own_Y + bias_V[items_Y]
    if trending is not None:
        own_Y = own_Y + trending.of_pairs(rows_Y, items_Y)
    return own_Y.masked_fill(items_Y == targets_R[rows_Y], -torch.inf)


def _paired(extras: Extras, negatives_N: Tensor, *, num_rows: int) -> Tensor:
    """Whether a negative is in a pair of the row, [R, N]."""
    rows_Y, items_Y = extras.rows_Y, extras.items_Y
    place_Y = torch.searchsorted(negatives_N, items_Y).clamp(max=len(negatives_N) - 1)
    drawn_Y = negatives_N[place_Y] == items_Y
    shape = (num_rows, len(negatives_N))
    paired_RN = torch.zeros(shape, dtype=torch.bool, device=items_Y.device)
    paired_RN[rows_Y[drawn_Y], place_Y[drawn_Y]] = True
    return paired_RN


def softmax_loss(
    states_RD: Tensor, targets_R: Tensor, weights_R: Tensor, weight_VD: Tensor, bias_V: Tensor
) -> Tensor:
    """The sum over rows of weight times `item_nll`, under the softmax over all items.

    Faster than its parts: the weight of a row is known, so the gradients are made while the logits
    of a chunk are in memory, and nothing is computed twice.
    """
    loss: Tensor = _SoftmaxLoss.apply(states_RD, targets_R, weights_R, weight_VD, bias_V)
    return loss


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_RD: Tensor,
        targets_R: Tensor,
        weights_R: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
    ) -> Tensor:
        (excluded_X,) = bias_V.isinf().nonzero(as_tuple=True)
        loss = torch.zeros((), device=states_RD.device)
        states_grad_RD = torch.zeros_like(states_RD, dtype=torch.float32)
        weight_grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        rows = max(1, LOGITS_AT_ONCE // len(weight_VD))
        for start in range(0, len(states_RD), rows):
            chunk = slice(start, start + rows)
            logits_RV = (states_RD[chunk] @ weight_VD.T).float()
            logits_RV[:, excluded_X] = -torch.inf
            target_R1, weight_R1 = targets_R[chunk, None], weights_R[chunk, None]
            normaliser_R1 = logits_RV.logsumexp(1, keepdim=True)
            loss += (weight_R1 * (normaliser_R1 - logits_RV.gather(1, target_R1))).sum()
            # the derivative with respect to the logits, in place: weight (p - 1 at the target)
            slope_RV = logits_RV.sub_(normaliser_R1).exp_()
            slope_RV.scatter_add_(1, target_R1, torch.full_like(normaliser_R1, -1.0))
            slope_RV.mul_(weight_R1)
            states_grad_RD[chunk] = (slope_RV @ weight_VD).float()
            weight_grad_VD += (slope_RV.T @ states_RD[chunk]).float()
        ctx.save_for_backward(
            states_grad_RD.to(states_RD.dtype), weight_grad_VD.to(weight_VD.dtype)
        )
        return loss

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        states_grad_RD, weight_grad_VD = ctx.saved_tensors
        return slope * states_grad_RD, None, None, slope * weight_grad_VD, None
