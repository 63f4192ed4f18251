"""The best items of a whole catalogue for many states, exactly and in bounded memory.

States are scored in tiles of some rows and some items; only the maxima of blocks of a tile are
looked at closely, so that little is done besides the matrix product.

Legend: V items, C columns (the items that are allowed), W width of item vectors, B users, R rows
(states to score), T rows of a tile, N blocks of a tile, M best items per row, X pairs (user, item),
Y pairs (row, item).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from diffsasrec.categories import CategoryCap
from diffsasrec.diffusion import MASK, Extras, pairs_of_rows

# rows and items of a tile of logits: 4 MiB stay in a CPU's cache, a GPU wants more at once
TILES = {"cpu": (512, 2048), "cuda": (8192, 16384)}
BLOCK = 64


@dataclass(frozen=True)
class Catalogue:
    """What all users choose from."""

    vectors_VW: Tensor
    allowed_V: Tensor  # bool: trained on, allowed, not denied
    log_popularity_V: Tensor | None = None  # what exploring holds against items; None: nothing
    cap: CategoryCap | None = None  # on the items of one category in a list

    @cached_property
    def items_C(self) -> Tensor:
        return self.allowed_V.nonzero()[:, 0]

    @cached_property
    def vectors_CW(self) -> Tensor:
        return self.vectors_VW if self.allowed_V.all() else self.vectors_VW[self.items_C]

    @cached_property
    def columns_V(self) -> Tensor:
        """The column of each item, -1 where it is not allowed."""
        columns_V = torch.full_like(self.allowed_V, -1, dtype=torch.int64)
        columns_V[self.items_C] = torch.arange(len(self.items_C), device=columns_V.device)
        return columns_V

    @cached_property
    def metric(self) -> "Metric":
        return Metric.of(self.vectors_CW)


@dataclass(frozen=True)
class Metric:
    """Lengths that bound how far a change of the state moves the logit of an item.

    With the mean m and the covariance S of the item vectors, for every item v and change d:
    d v <= d m + |sqrt(S) d| |sqrt(S)^-1 (v - m)|, by Cauchy and Schwarz. In this metric all items
    are about equally far from the mean, so that the bound is close for each.
    """

    mean_W: Tensor
    root_WW: Tensor
    typical: float  # all but few items are no farther from the mean
    excess_C: Tensor  # how much farther each item is, 0 for nearly all

    @staticmethod
    def of(vectors_CW: Tensor) -> "Metric":
        num, width = vectors_CW.shape
        mean_W = torch.zeros(width, dtype=torch.float64, device=vectors_CW.device)
        scatter_WW = mean_W.new_zeros((width, width))
        chunks = vectors_CW.split(2**13)  # in float64 a large catalogue would take much
        for chunk in chunks:
            mean_W += chunk.double().sum(0) / num
        for chunk in chunks:
            centred = chunk.double() - mean_W
            scatter_WW += centred.T @ centred / num
        values_W, axes_WW = torch.linalg.eigh(scatter_WW)
        # any positive lengths of the axes make a bound; these keep the inverse well-conditioned
        values_W = values_W.clamp(min=float(values_W.max()) * 1e-8 + 1e-12)
        root_WW = (axes_WW * values_W.sqrt()) @ axes_WW.T
        inverse_WW = (axes_WW * values_W.rsqrt()) @ axes_WW.T
        distance_C = torch.cat(
            [((chunk.double() - mean_W) @ inverse_WW).norm(dim=1) for chunk in chunks]
        ).float()
        few = max(num // 50, 1)
        typical = float(distance_C.topk(few).values[-1])
        return Metric(mean_W.float(), root_WW.float(), typical, (distance_C - typical).clamp(min=0))

    def reach(self, changes_RW: Tensor) -> Tensor:
        """|sqrt(S) d| of each change, [R]."""
        return (changes_RW @ self.root_WW).norm(dim=-1)

    def rise(self, changes_RW: Tensor, spread_R: Tensor) -> Tensor:
        """At most so much rises any logit above what `spread_R` times the item's excess, [R]."""
        reach_R = self.reach(changes_RW)
        beyond_R = (reach_R - spread_R).clamp(min=0) * self.excess_C.max()
        return changes_RW @ self.mean_W + reach_R * self.typical + beyond_R


class OwnScores(Protocol):
    """What is added to the logits of the items of the users' own histories."""

    def of_rows(self, queries_RW: Tensor, users_R: Tensor) -> Extras: ...

    def among(self, users_P: Tensor, items_P: Tensor) -> "OwnScores":
        """The same for some pairs (user, item) alone; those that are no own items count nothing."""
        ...

    def rise(self, before_RW: Tensor, after_RW: Tensor) -> Tensor:
        """At most so much rises any score from one query to the other, [R]."""
        ...


@dataclass(frozen=True)
class Candidates:
    """What may be recommended to the users of a batch."""

    catalogue: Catalogue
    blocked_users_X: Tensor  # pairs (user row in the batch, item) that are filtered, as seen items;
    blocked_items_X: Tensor  # in any order, doubles allowed
    own: OwnScores | None = None

    @cached_property
    def blocked(self) -> list[tuple[Tensor, Tensor]]:
        """The users and columns of the blocked pairs, by tile of columns, and in it by user."""
        columns_X = self.catalogue.columns_V[self.blocked_items_X]
        (allowed_X,) = (columns_X >= 0).nonzero(as_tuple=True)
        columns_X, users_X = columns_X[allowed_X], self.blocked_users_X[allowed_X]
        width = TILES[columns_X.device.type][1]
        num_tiles = -(-len(self.catalogue.items_C) // width)
        num_users = int(users_X.max()) + 1 if len(users_X) else 1
        order_X = (columns_X // width * num_users + users_X).argsort(stable=True)
        sizes = torch.bincount(columns_X // width, minlength=num_tiles).tolist()
        return list(
            zip(users_X[order_X].split(sizes), columns_X[order_X].split(sizes), strict=True)
        )

    def num_left(self, num_users: int) -> Tensor:
        """How many items a list of each user can have, [B]."""
        catalogue, num_items = self.catalogue, len(self.catalogue.items_C)
        pairs = [torch.unique(users * num_items + columns) for users, columns in self.blocked]
        pair_X = torch.cat([self.blocked_users_X[:0], *pairs])
        users_X, columns_X = pair_X // max(num_items, 1), pair_X % max(num_items, 1)
        if catalogue.cap is not None:
            items_X = catalogue.items_C[columns_X]
            return catalogue.cap.num_fitting(users_X, items_X, catalogue.allowed_V, num_users)
        return num_items - torch.bincount(users_X, minlength=num_users)

    def own_of_rows(self, queries_TW: Tensor, users_T: Tensor) -> Extras | None:
        """The own scores of the allowed items, by column instead of item, by tile of columns."""
        if self.own is None:
            return None
        own = self.own.of_rows(queries_TW, users_T)
        columns_Y = self.catalogue.columns_V[own.items_Y]
        (allowed_Y,) = (columns_Y >= 0).nonzero(as_tuple=True)
        width = TILES[columns_Y.device.type][1]
        order_Y = allowed_Y[(columns_Y[allowed_Y] // width).argsort(stable=True)]
        return Extras(own.rows_Y[order_Y], columns_Y[order_Y], own.scores_Y[order_Y].float())


class Top(NamedTuple):
    logits_RM: Tensor  # float32, highest first; -inf where none is left
    items_RM: Tensor  # -1 where none is left
    normaliser_R: Tensor  # logsumexp over all candidates of the row; empty where not asked for


def top_items(
    queries_RW: Tensor,
    users_R: Tensor,
    candidates: Candidates,
    m: int,
    *,
    besides_BK: Tensor | None = None,
    normalise: bool = False,
    spread_R: Tensor | None = None,
) -> Top:
    """The m candidates of each row with the highest logits; of equal ones the first items.

    Where the catalogue has a cap, those that a list can take in this order.

    Args:
        besides_BK: items that are taken for each user, -1: none.
        spread_R: rank by the logit plus this times the item's excess (`Metric`), and give that; in
            no order, of equal ones any, and whatever the cap says.
    """
    if candidates.catalogue.cap is not None and spread_R is None:
        return _capped_top(queries_RW, users_R, candidates, m, besides_BK, normalise)
    return _plain_top(queries_RW, users_R, candidates, m, besides_BK, normalise, spread_R)


def _capped_top(
    queries_RW: Tensor,
    users_R: Tensor,
    candidates: Candidates,
    m: int,
    besides_BK: Tensor | None,
    normalise: bool,
) -> Top:
    """Looks at more and more of the best until each row has m that fit, or no more are left."""
    if besides_BK is None:
        num_users = int(users_R.max()) + 1 if len(users_R) else 0
        besides_BK = torch.full((num_users, 0), MASK, device=users_R.device)
    num = 2 * m
    top = _plain_top(queries_RW, users_R, candidates, num, besides_BK, normalise, None)
    found = capped(top, candidates, besides_BK[users_R], m)
    while num < len(candidates.catalogue.items_C):
        (short_R,) = ((found.items_RM[:, -1] < 0) & (top.items_RM[:, -1] >= 0)).nonzero(
            as_tuple=True
        )
        if not len(short_R):
            break
        num *= 4
        users = users_R[short_R]
        more = _plain_top(queries_RW[short_R], users, candidates, num, besides_BK, False, None)
        more_found = capped(more, candidates, besides_BK[users], m)
        found.logits_RM[short_R], found.items_RM[short_R] = more_found[:2]
        top.items_RM[short_R, -1] = more.items_RM[:, -1]
    return found


def capped(top: Top, candidates: Candidates, taken_RK: Tensor, m: int) -> Top:
    """The first m of each row that a list with the items `taken_RK` can take, in their order."""
    cap = candidates.catalogue.cap
    assert cap is not None
    fits_RM = cap.fits(top.items_RM, taken_RK)
    place_RM = (~fits_RM).to(torch.int8).argsort(dim=1, stable=True)[:, :m]
    missing_RM = ~fits_RM.gather(1, place_RM)
    pad = torch.nn.functional.pad
    fewer = (0, m - place_RM.shape[1])
    logits_RM = top.logits_RM.gather(1, place_RM).masked_fill(missing_RM, -torch.inf)
    items_RM = top.items_RM.gather(1, place_RM).masked_fill(missing_RM, -1)
    return Top(pad(logits_RM, fewer, value=-torch.inf), pad(items_RM, fewer, value=-1), top[2])


def _plain_top(
    queries_RW: Tensor,
    users_R: Tensor,
    candidates: Candidates,
    m: int,
    besides_BK: Tensor | None,
    normalise: bool,
    spread_R: Tensor | None,
) -> Top:
    num_rows, _ = TILES[queries_RW.device.type]
    tops = [
        _top_of_rows(
            queries_RW[start : start + num_rows],
            users_R[start : start + num_rows],
            candidates,
            min(m, len(candidates.catalogue.items_C)),
            besides_BK,
            normalise,
            None if spread_R is None else spread_R[start : start + num_rows],
        )
        for start in range(0, max(len(queries_RW), 1), num_rows)
    ]
    logits_RM, items_RM, normaliser_R = (torch.cat(parts) for parts in zip(*tops, strict=True))
    missing = (0, m - logits_RM.shape[1])  # a list may be longer than the catalogue
    return Top(
        torch.nn.functional.pad(logits_RM, missing, value=-torch.inf),
        torch.nn.functional.pad(items_RM, missing, value=-1),
        normaliser_R,
    )


def _top_of_rows(
    queries_TW: Tensor,
    users_T: Tensor,
    candidates: Candidates,
    m: int,
    besides_BK: Tensor | None,
    normalise: bool,
    spread_T: Tensor | None,
) -> Top:
    catalogue, num_rows, device = candidates.catalogue, len(queries_TW), queries_TW.device
    width, num_items = TILES[device.type][1], len(catalogue.items_C)
    best_TM = torch.full((num_rows, m), -torch.inf, device=device)
    column_TM = torch.full((num_rows, m), -1, device=device)
    normaliser_T = torch.full((num_rows if normalise else 0,), -torch.inf, device=device)
    buffer = torch.empty(num_rows * -(-min(width, num_items) // BLOCK) * BLOCK, device=device)
    own = candidates.own_of_rows(queries_TW, users_T)
    starts = torch.arange(0, num_items + width, width, device=device)
    bounds = torch.searchsorted(own.items_Y // width * width, starts).tolist() if own else []
    taken_TK = None
    if besides_BK is not None:
        taken_BK = catalogue.columns_V[besides_BK.clamp(min=0)].masked_fill(besides_BK < 0, -1)
        taken_TK = taken_BK[users_T]
    for number, (blocked_users_X, blocked_columns_X) in enumerate(candidates.blocked):
        start = number * width
        vectors_CW = catalogue.vectors_CW[start : start + width]
        padded = -(-len(vectors_CW) // BLOCK) * BLOCK
        logits_TC = buffer[: num_rows * padded].view(num_rows, padded)
        inside_TC = logits_TC[:, : len(vectors_CW)]
        if queries_TW.dtype == torch.float32:
            torch.mm(queries_TW, vectors_CW.T, out=inside_TC)
        else:
            inside_TC.copy_(queries_TW @ vectors_CW.T)
        logits_TC[:, len(vectors_CW) :] = -torch.inf
        if own is not None:
            here = slice(bounds[number], bounds[number + 1])
            where = (own.rows_Y[here], own.items_Y[here] - start)
            inside_TC.index_put_(where, own.scores_Y[here], accumulate=True)
        rows_Y, at_Y = pairs_of_rows(users_T, blocked_users_X)
        inside_TC[rows_Y, blocked_columns_X[at_Y] - start] = -torch.inf
        if taken_TK is not None:
            is_here_TK = (taken_TK >= start) & (taken_TK < start + len(vectors_CW))
            rows_Z, place_Z = is_here_TK.nonzero(as_tuple=True)
            inside_TC[rows_Z, taken_TK[rows_Z, place_Z] - start] = -torch.inf
        if normalise:
            normaliser_T = torch.logaddexp(normaliser_T, inside_TC.logsumexp(1))
        if spread_T is not None:
            excess_C = catalogue.metric.excess_C[start : start + width]
            (far_F,) = excess_C.nonzero(as_tuple=True)
            inside_TC[:, far_F] += spread_T[:, None] * excess_C[far_F]
            _merge_any(best_TM, column_TM, logits_TC, start)
        elif m == 1:
            _merge_first(best_TM, column_TM, logits_TC, start)
        else:
            _merge(best_TM, column_TM, logits_TC, start)
    items_TM = torch.full_like(column_TM, -1)
    items_TM[column_TM >= 0] = catalogue.items_C[column_TM[column_TM >= 0]]
    return Top(best_TM, items_TM, normaliser_T)


def _merge_first(best_T1: Tensor, column_T1: Tensor, logits_TC: Tensor, first_column: int) -> None:
    """Takes the highest where it is higher than the best so far, in place; of equals the first."""
    blocks_TNC = logits_TC.view(len(logits_TC), logits_TC.shape[1] // BLOCK, BLOCK)
    highest_T1, block_T1 = blocks_TNC.amax(2).max(dim=1, keepdim=True)  # the first of equals
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
    """Takes what is higher than the best so far, in place; of equal ones the first column stays."""
    m = best_TM.shape[1]
    blocks_TNC = logits_TC.view(len(logits_TC), logits_TC.shape[1] // BLOCK, BLOCK)
    highest_TN = blocks_TNC.amax(2)
    (rows_T,) = (highest_TN.amax(1) > best_TM[:, -1]).nonzero(as_tuple=True)
    if not len(rows_T):
        return
    # the m best of a row lie in m blocks: one more tells whether another has equals of the last
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
    """The m largest values of each row and their columns; of equal values the first column wins.

    Rows with fewer than m finite values are filled with -inf and column -1.
    """
    width = values_RV.shape[1]
    if m > width:
        values_RV = torch.nn.functional.pad(values_RV, (0, m - width), value=-torch.inf)
    if m == 1:  # `max` gives the first of equals
        top_R1, column_R1 = values_RV.max(dim=1, keepdim=True)
        return top_R1, column_R1.masked_fill(top_R1 == -torch.inf, -1)
    top_RM, column_RM = values_RV.topk(min(m + 1, values_RV.shape[1]), dim=1)
    if top_RM.shape[1] > m:
        # topk says nothing about which of equal values it takes: settle ties across the border
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
