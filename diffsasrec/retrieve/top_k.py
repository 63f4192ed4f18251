"""The best items of a whole catalogue for many states, exactly and in bounded memory.

States are scored in tiles of some rows and some items; only the maxima of blocks of a tile are
looked at closely, so that little is done besides the matrix product.

Legend: C columns (the items that are allowed), W width of item vectors, B and U users, K items that
are taken, R rows (states to score), T rows of a tile, N blocks of a tile, M best items per row, G
blocks that are looked at, O own items of a row, X pairs (user, item) or places in a row, Y pairs
(row, item), Z pairs (user, taken item).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffsasrec.config.serving import FUSED_MOST
from diffsasrec.model.diffusion import MASK
from diffsasrec.model.softmax import Extras, pairs_of_rows
from diffsasrec.retrieve.catalogue import TILES, Candidates

BLOCK = 64
# the fused kernels: groups besides those that hold the best; numbers kept at once; how far the
# logits of the two passes may lie apart, in lengths of the state and of the longest item vector
SPARE = 8
NUMBERS_AT_ONCE = 2**28
ROUNDING = 1e-5
# numbers in the vectors of own items that are multiplied at once
PAIRS_AT_ONCE = 2**26


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
    top_of, num_rows = _top_of_rows, TILES[queries_RW.device.type][0]
    num_items = len(candidates.catalogue.items_C)
    if candidates.catalogue.fused and spread_R is None and 0 < min(m, num_items) <= FUSED_MOST:
        from diffsasrec.retrieve.top_k_triton import GROUP

        of_a_row = -(-num_items // GROUP) + 8 * (m + SPARE) * GROUP  # sorted, with their columns
        top_of, num_rows = _fused_top_of_rows, max(NUMBERS_AT_ONCE // of_a_row, 1)
    tops = [
        top_of(
            queries_RW[start : start + num_rows],
            users_R[start : start + num_rows],
            candidates,
            min(m, num_items),
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
        taken_TK = catalogue.columns_of(besides_BK)[users_T]
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


def _fused_top_of_rows(
    queries_TW: Tensor,
    users_T: Tensor,
    candidates: Candidates,
    m: int,
    besides_BK: Tensor | None,
    normalise: bool,
    spread_T: Tensor | None,
) -> Top:
    """The same in two passes of `fused`: groups that can hold the best, and what is in them.

    Own items are hidden from both and looked at by themselves. Where the passes could disagree
    about what is best, a row is made by tiles. bfloat16 is not rounded, as it is by tiles.
    """
    from diffsasrec.retrieve import top_k_triton as fused

    assert spread_T is None, "ranked by tiles alone"
    catalogue = candidates.catalogue
    vectors_CW = catalogue.vectors_CW
    users_U, user_T = users_T.unique(return_inverse=True)
    own = candidates.own_of_rows(queries_TW, users_T)
    hidden_UN, own = _hidden_and_own(users_U, user_T, candidates, besides_BK, own)
    highest_TN, normaliser_T = fused.group_maxima(
        queries_TW, user_T, vectors_CW, hidden_UN, normalise=normalise
    )
    num_groups = highest_TN.shape[1]
    num = min(m + SPARE, num_groups)
    best_TG, groups_TG = highest_TN.topk(min(num + 1, num_groups), dim=1)
    groups_TG = groups_TG[:, :num]
    logits_TX = fused.group_logits(queries_TW, user_T, vectors_CW, hidden_UN, groups_TG)
    place = torch.arange(fused.GROUP, device=groups_TG.device)
    columns_TX = (groups_TG[..., None] * fused.GROUP + place).flatten(1)
    if own is not None:
        best = _best_own(queries_TW, vectors_CW, own, m)
        logits_TX = torch.cat([logits_TX, best.logits_RM], dim=1)
        columns_TX = torch.cat([columns_TX, best.items_RM], dim=1)
        if normalise:
            normaliser_T = torch.logaddexp(normaliser_T, best.normaliser_R)
    columns_TX, order_TX = columns_TX.sort(dim=1)  # of equal logits the first column wins
    top_TM, at_TM = ordered_top(logits_TX.gather(1, order_TX), m)
    # a column behind the end is hidden, and no one's
    columns_TM = columns_TX.gather(1, at_TM.clamp(min=0)).clamp(max=len(catalogue.items_C) - 1)
    items_TM = catalogue.items_C[columns_TM].masked_fill(at_TM < 0, -1)
    if num < num_groups:
        border_T = best_TG[:, num]
        apart_T = ROUNDING * queries_TW.float().norm(dim=1) * catalogue.longest
        is_unsure_T = (top_TM[:, -1] <= border_T + apart_T) & (border_T > -torch.inf)
        (unsure_T,) = is_unsure_T.nonzero(as_tuple=True)
        if len(unsure_T):
            rows = (queries_TW[unsure_T], users_T[unsure_T])
            tiled = _top_of_rows(*rows, candidates, m, besides_BK, False, None)
            top_TM[unsure_T], items_TM[unsure_T] = tiled.logits_RM, tiled.items_RM
    return Top(top_TM, items_TM, normaliser_T)


def _hidden_and_own(
    users_U: Tensor,
    user_T: Tensor,
    candidates: Candidates,
    besides_BK: Tensor | None,
    own: Extras | None,
) -> tuple[Tensor, Extras | None]:
    """What the passes must not see: blocked, taken and own items; and the own ones that count."""
    from diffsasrec.retrieve import top_k_triton as fused

    hidden_UN = candidates.hidden_words(users_U)
    if besides_BK is not None:
        taken_UK = candidates.catalogue.columns_of(besides_BK[users_U])
        users_Z, place_Z = (taken_UK >= 0).nonzero(as_tuple=True)
        hidden_UN = fused.hide(hidden_UN, users_Z, taken_UK[users_Z, place_Z])
    if own is None:
        return hidden_UN, None
    owners_Y = user_T[own.rows_Y]
    (shown_Y,) = (~fused.is_hidden(hidden_UN, owners_Y, own.items_Y)).nonzero(as_tuple=True)
    shown = Extras(own.rows_Y[shown_Y], own.items_Y[shown_Y], own.scores_Y[shown_Y])
    return fused.hide(hidden_UN, owners_Y, own.items_Y), shown


def _best_own(queries_TW: Tensor, vectors_CW: Tensor, own: Extras, m: int) -> Top:
    """The m best of each row's own items, by column; where there are fewer, -inf and column 0."""
    by_column_Y = own.items_Y.argsort(stable=True)
    rows_Y, columns_Y = own.rows_Y[by_column_Y], own.items_Y[by_column_Y]
    logits_Y = own.scores_Y[by_column_Y].clone()
    at_once = max(PAIRS_AT_ONCE // queries_TW.shape[1], 1)
    for start in range(0, len(rows_Y), at_once):
        some = slice(start, start + at_once)
        dots = queries_TW[rows_Y[some]].float() * vectors_CW[columns_Y[some]].float()
        logits_Y[some] += dots.sum(1)
    peak_T = torch.full_like(queries_TW[:, 0], -torch.inf, dtype=torch.float32)
    peak_T = peak_T.scatter_reduce(0, rows_Y, logits_Y, "amax")
    base_T = peak_T.masked_fill(peak_T == -torch.inf, 0.0)
    total_T = torch.zeros_like(base_T).index_add(0, rows_Y, (logits_Y - base_T[rows_Y]).exp())
    order_Y = logits_Y.argsort(descending=True, stable=True)
    order_Y = order_Y[rows_Y[order_Y].argsort(stable=True)]
    rows_Y = rows_Y[order_Y]
    counts_T = torch.bincount(rows_Y, minlength=len(queries_TW))
    place_Y = torch.arange(len(rows_Y), device=rows_Y.device)
    place_Y = place_Y - (counts_T.cumsum(0) - counts_T)[rows_Y]
    (first_Y,) = (place_Y < m).nonzero(as_tuple=True)
    where = rows_Y[first_Y], place_Y[first_Y]
    logits_TM = torch.full((len(queries_TW), m), -torch.inf, device=rows_Y.device)
    logits_TM[where] = logits_Y[order_Y[first_Y]]
    columns_TM = torch.zeros((len(queries_TW), m), dtype=torch.int64, device=rows_Y.device)
    columns_TM[where] = columns_Y[order_Y[first_Y]]
    return Top(logits_TM, columns_TM, base_T + total_T.log())


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
