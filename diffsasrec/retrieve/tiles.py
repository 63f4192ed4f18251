"""States scored in tiles of some rows and some items, in bounded memory.

Only the maxima of blocks of a tile are looked at closely, so little work comes on top of the matrix
product.

Legend: C columns (the items that are allowed), W width of item vectors, B users, K items that are
taken, T rows of a tile, N blocks of a tile, M best items per row, X pairs (user, item) or places in
a row, Y pairs (row, item), Z pairs (row, taken item).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffsasrec.model.heads.pairs import Extras, pairs_of_rows
from diffsasrec.retrieve.catalogue import TILES, Candidates

BLOCK = 64


class Top(NamedTuple):
    logits_RM: Tensor  # float32, highest first; -inf where none is left
    items_RM: Tensor  # -1 where none is left
    normaliser_R: Tensor  # logsumexp over all candidates of the row; empty where not asked for


def top_of_rows(
    queries_TW: Tensor,
    users_T: Tensor,
    candidates: Candidates,
    m: int,
    besides_BK: Tensor | None,
    normalise: bool,
    spread_T: Tensor | None,
) -> Top:
    """The m best candidates of each row, the first among equals; arguments as in `top_items`."""
    catalogue, num_rows, device = candidates.catalogue, len(queries_TW), queries_TW.device
    width, num_items = TILES[device.type][1], len(catalogue.items_C)
    best_TM = torch.full((num_rows, m), -torch.inf, device=device)
    column_TM = torch.full((num_rows, m), -1, device=device)
    normaliser_T = torch.full((num_rows if normalise else 0,), -torch.inf, device=device)
    buffer = torch.empty(num_rows * -(-min(width, num_items) // BLOCK) * BLOCK, device=device)
    changes = _Changes.of(queries_TW, users_T, candidates, besides_BK, width)
    for number, start in enumerate(range(0, len(candidates.blocked) * width, width)):
        vectors_CW = catalogue.vectors_CW[start : start + width]
        logits_TC = _products(queries_TW, vectors_CW, buffer)
        inside_TC = logits_TC[:, : len(vectors_CW)]
        changes.apply(inside_TC, number, start)
        if normalise:
            normaliser_T = torch.logaddexp(normaliser_T, inside_TC.logsumexp(1))
        if spread_T is not None:
            excess_C = catalogue.metric.excess_C[start : start + width]
            (far_F,) = excess_C.nonzero(as_tuple=True)
            inside_TC[:, far_F] += spread_T[:, None] * excess_C[far_F]
        merge = _merge_any if spread_T is not None else _merge_first if m == 1 else _merge
        merge(best_TM, column_TM, logits_TC, start)
    items_TM = torch.full_like(column_TM, -1)
    items_TM[column_TM >= 0] = catalogue.items_C[column_TM[column_TM >= 0]]
    return Top(best_TM, items_TM, normaliser_T)


def _products(queries_TW: Tensor, vectors_CW: Tensor, buffer: Tensor) -> Tensor:
    """The logits of a tile in the buffer; the last block is padded with -inf."""
    num_rows, padded = len(queries_TW), -(-len(vectors_CW) // BLOCK) * BLOCK
    logits_TC = buffer[: num_rows * padded].view(num_rows, padded)
    inside_TC = logits_TC[:, : len(vectors_CW)]
    if queries_TW.dtype == torch.float32:
        torch.mm(queries_TW, vectors_CW.T, out=inside_TC)
    else:
        inside_TC.copy_(queries_TW @ vectors_CW.T)
    logits_TC[:, len(vectors_CW) :] = -torch.inf
    return logits_TC


@dataclass(frozen=True)
class _Changes:
    """What changes single logits of a tile after the product: own scores, and bans."""

    users_T: Tensor
    blocked: list[tuple[Tensor, Tensor]]  # users and columns, by tile
    own: Extras | None
    bounds: list[int]  # where the own items of each tile begin
    taken_TK: Tensor | None  # columns

    @staticmethod
    def of(
        queries_TW: Tensor,
        users_T: Tensor,
        candidates: Candidates,
        besides_BK: Tensor | None,
        width: int,
    ) -> "_Changes":
        catalogue = candidates.catalogue
        own = candidates.own_of_rows(queries_TW, users_T)
        starts = torch.arange(0, len(catalogue.items_C) + width, width, device=queries_TW.device)
        bounds = torch.searchsorted(own.items_Y // width * width, starts).tolist() if own else []
        taken_TK = None if besides_BK is None else catalogue.columns_of(besides_BK)[users_T]
        return _Changes(users_T, candidates.blocked, own, bounds, taken_TK)

    def apply(self, logits_TC: Tensor, number: int, start: int) -> None:
        """Changes the logits of a tile, which begins at column `start`, in place."""
        if self.own is not None:
            here = slice(self.bounds[number], self.bounds[number + 1])
            where = (self.own.rows_Y[here], self.own.items_Y[here] - start)
            logits_TC.index_put_(where, self.own.scores_Y[here], accumulate=True)
        blocked_users_X, blocked_columns_X = self.blocked[number]
        rows_Y, at_Y = pairs_of_rows(self.users_T, blocked_users_X)
        logits_TC[rows_Y, blocked_columns_X[at_Y] - start] = -torch.inf
        if self.taken_TK is not None:
            end = start + logits_TC.shape[1]
            is_here_TK = (self.taken_TK >= start) & (self.taken_TK < end)
            rows_Z, place_Z = is_here_TK.nonzero(as_tuple=True)
            logits_TC[rows_Z, self.taken_TK[rows_Z, place_Z] - start] = -torch.inf


def _merge_first(best_T1: Tensor, column_T1: Tensor, logits_TC: Tensor, first_column: int) -> None:
    """Takes the highest if it is higher than the best so far, in place; the first among equals."""
    blocks_TNC = logits_TC.view(len(logits_TC), logits_TC.shape[1] // BLOCK, BLOCK)
    highest_T1, block_T1 = blocks_TNC.amax(2).max(dim=1, keepdim=True)  # the first among equals
    rows_T = torch.arange(len(logits_TC), device=logits_TC.device)
    place_T1 = blocks_TNC[rows_T, block_T1[:, 0]].argmax(dim=1, keepdim=True)
    is_higher_T1 = highest_T1 > best_T1
    column_T1.copy_(
        torch.where(is_higher_T1, first_column + block_T1 * BLOCK + place_T1, column_T1)
    )
    best_T1.copy_(torch.where(is_higher_T1, highest_T1, best_T1))


def _merge_any(best_TM: Tensor, column_TM: Tensor, logits_TC: Tensor, first_column: int) -> None:
    """Takes what is higher than the best so far, in place, in no order."""
    m = best_TM.shape[1]
    blocks_TNC = logits_TC.view(len(logits_TC), logits_TC.shape[1] // BLOCK, BLOCK)
    highest_TN = blocks_TNC.amax(2)
    lowest_T1 = best_TM.amin(1, keepdim=True)
    num = int((highest_TN > lowest_T1).sum(1).max())
    if not num:
        return
    blocks_TN = highest_TN.topk(num, dim=1, sorted=False).indices
    columns_TNC = blocks_TN[..., None] * BLOCK + torch.arange(BLOCK, device=best_TM.device)
    rows_T1 = torch.arange(len(best_TM), device=best_TM.device)[:, None]
    both_TX = torch.cat([best_TM, blocks_TNC[rows_T1, blocks_TN].flatten(1)], dim=1)
    both_columns_TX = torch.cat([column_TM, columns_TNC.flatten(1) + first_column], dim=1)
    top_TM, at_TM = both_TX.topk(m, dim=1, sorted=False)
    best_TM.copy_(top_TM)
    column_TM.copy_(both_columns_TX.gather(1, at_TM).masked_fill(top_TM == -torch.inf, -1))


def _merge(best_TM: Tensor, column_TM: Tensor, logits_TC: Tensor, first_column: int) -> None:
    """Takes what is higher than the best so far, in place; among equals the first column stays."""
    m = best_TM.shape[1]
    blocks_TNC = logits_TC.view(len(logits_TC), logits_TC.shape[1] // BLOCK, BLOCK)
    highest_TN = blocks_TNC.amax(2)
    (rows_T,) = (highest_TN.amax(1) > best_TM[:, -1]).nonzero(as_tuple=True)
    if not len(rows_T):
        return
    # the m best of a row lie in m blocks: one more block tells whether the last has equals
    highest_RN, lowest_R1 = highest_TN[rows_T], best_TM[rows_T, -1:]
    num = min(int((highest_RN > lowest_R1).sum(1).max()), m) + 1
    blocks_RN = highest_RN.topk(min(num, highest_RN.shape[1]), dim=1).indices.sort(dim=1).values
    chosen_RC = blocks_TNC[rows_T[:, None], blocks_RN].flatten(1)
    top_RM, at_RM = ordered_top(chosen_RC, min(m, chosen_RC.shape[1]))
    columns_RM = blocks_RN.gather(1, at_RM.clamp(min=0) // BLOCK) * BLOCK + at_RM % BLOCK
    if blocks_RN.shape[1] < highest_RN.shape[1] and top_RM.shape[1] == m:
        border_R = highest_RN.gather(1, blocks_RN).amin(1)
        (tied_R,) = (top_RM[:, -1] == border_R).nonzero(as_tuple=True)
        if len(tied_R):
            top_RM[tied_R], columns_RM[tied_R] = ordered_top(logits_TC[rows_T[tied_R]], m)
    both_RM = torch.cat([best_TM[rows_T], top_RM], dim=1)
    both_columns_RM = torch.cat([column_TM[rows_T], columns_RM + first_column], dim=1)
    order_RM = both_RM.argsort(dim=1, descending=True, stable=True)[:, :m]
    best_RM = both_RM.gather(1, order_RM)
    best_TM[rows_T] = best_RM
    column_TM[rows_T] = both_columns_RM.gather(1, order_RM).masked_fill(best_RM == -torch.inf, -1)


def ordered_top(values_RV: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The m largest values of each row and their columns; among equals the first column wins.

    Rows with fewer than m finite values are filled with -inf and column -1.
    """
    width = values_RV.shape[1]
    if m > width:
        values_RV = torch.nn.functional.pad(values_RV, (0, m - width), value=-torch.inf)
    if m == 1:  # `max` gives the first among equals
        top_R1, column_R1 = values_RV.max(dim=1, keepdim=True)
        return top_R1, column_R1.masked_fill(top_R1 == -torch.inf, -1)
    top_RM, column_RM = values_RV.topk(min(m + 1, values_RV.shape[1]), dim=1)
    if top_RM.shape[1] > m:
        # topk does not say which of equal values it takes: settle ties across the border
        tied_R = (top_RM[:, m - 1] == top_RM[:, m]) & torch.isfinite(top_RM[:, m])
        top_RM, column_RM = top_RM[:, :m], column_RM[:, :m]
        if tied_R.any():
            top, column = values_RV[tied_R].sort(dim=1, descending=True, stable=True)
            top_RM, column_RM = top_RM.clone(), column_RM.clone()
            top_RM[tied_R], column_RM[tied_R] = top[:, :m], column[:, :m]
    by_column = column_RM.argsort(dim=1)
    top_RM, column_RM = top_RM.gather(1, by_column), column_RM.gather(1, by_column)
    by_value = top_RM.argsort(dim=1, descending=True, stable=True)
    top_RM, column_RM = top_RM.gather(1, by_value), column_RM.gather(1, by_value)
    return top_RM, column_RM.masked_fill(top_RM == -torch.inf, -1)
