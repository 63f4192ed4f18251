"""States scored by kernels that keep logits on a GPU's chip; needs Triton.

Legend: C columns (the items that are allowed), W width of item vectors, B and U users, K items that
are taken, T rows, N groups of items, G groups that are looked at, M best items per row, X places in
a row, Y pairs (row, item), Z pairs (user, taken item).
"""

import torch
from torch import Tensor

from diffsasrec.model.heads.pairs import Extras
from diffsasrec.retrieve import tiles
from diffsasrec.retrieve import top_k_triton as fused
from diffsasrec.retrieve.catalogue import Candidates
from diffsasrec.retrieve.tiles import Top, ordered_top

# groups besides those that hold the best; how far the logits of the two passes may lie apart, in
# lengths of the state and of the longest item vector; numbers kept at once
SPARE = 8
ROUNDING = 1e-5
NUMBERS_AT_ONCE = 2**28
# numbers in the vectors of own items that are multiplied at once
PAIRS_AT_ONCE = 2**26


def rows_at_once(num_items: int, m: int) -> int:
    """How many rows are made at once, to keep memory bounded."""
    of_a_row = -(-num_items // fused.GROUP) + 8 * (m + SPARE) * fused.GROUP  # sorted, with columns
    return max(NUMBERS_AT_ONCE // of_a_row, 1)


def fused_top_of_rows(
    queries_TW: Tensor,
    users_T: Tensor,
    candidates: Candidates,
    m: int,
    besides_BK: Tensor | None,
    normalise: bool,
    spread_T: Tensor | None,
) -> Top:
    """Like `tiles.top_of_rows`, in two passes: groups that can hold the best, then their items.

    Own items are hidden from both and looked at by themselves. If the passes could disagree about
    what is best, a row is made by tiles. bfloat16 is not rounded, as it is by tiles.
    """
    assert spread_T is None, "only tiles rank by this"
    vectors_CW, items_C = candidates.catalogue.vectors_CW, candidates.catalogue.items_C
    users_U, user_T = users_T.unique(return_inverse=True)
    own = candidates.own_of_rows(queries_TW, users_T)
    hidden_UN, own = _hidden_and_own(users_U, user_T, candidates, besides_BK, own)
    inputs = queries_TW, user_T, vectors_CW, hidden_UN
    highest_TN, normaliser_T = fused.group_maxima(*inputs, normalise=normalise)
    groups_TG, border_T = _best_groups(highest_TN, m + SPARE)
    logits_TX = fused.group_logits(*inputs, groups_TG)
    columns_TX = _columns_of(groups_TG)
    if own is not None:
        best = _best_own(queries_TW, vectors_CW, own, m)
        logits_TX = torch.cat([logits_TX, best.logits_RM], dim=1)
        columns_TX = torch.cat([columns_TX, best.items_RM], dim=1)
        if normalise:
            normaliser_T = torch.logaddexp(normaliser_T, best.normaliser_R)
    columns_TX, order_TX = columns_TX.sort(dim=1)  # among equal logits the first column wins
    top_TM, at_TM = ordered_top(logits_TX.gather(1, order_TX), m)
    items_TM = _items_at(columns_TX, at_TM, items_C)
    if border_T is not None:
        unsure_T = _unsure(queries_TW, top_TM[:, -1], border_T, candidates)
        if len(unsure_T):
            rows = queries_TW[unsure_T], users_T[unsure_T], candidates
            tiled = tiles.top_of_rows(*rows, m, besides_BK, False, None)
            top_TM[unsure_T], items_TM[unsure_T] = tiled.logits_RM, tiled.items_RM
    return Top(top_TM, items_TM, normaliser_T)


def _unsure(queries_TW: Tensor, last_T: Tensor, border_T: Tensor, candidates: Candidates) -> Tensor:
    """The rows in which the best item outside the groups could be among the best.

    `last_T`: the lowest logit that was found; `border_T`: the highest in any other group.
    """
    apart_T = ROUNDING * queries_TW.float().norm(dim=1) * candidates.catalogue.longest
    is_unsure_T = (last_T <= border_T + apart_T) & (border_T > -torch.inf)
    (unsure_T,) = is_unsure_T.nonzero(as_tuple=True)
    return unsure_T


def _items_at(columns_TX: Tensor, at_TM: Tensor, items_C: Tensor) -> Tensor:
    """The items of the columns at some places; -1 if the place is."""
    # a column after the end is hidden and holds no item
    columns_TM = columns_TX.gather(1, at_TM.clamp(min=0)).clamp(max=len(items_C) - 1)
    return items_C[columns_TM].masked_fill(at_TM < 0, -1)


def _best_groups(highest_TN: Tensor, num: int) -> tuple[Tensor, Tensor | None]:
    """The groups with the highest logits, and the highest logit of any other; None: no other."""
    num_groups = highest_TN.shape[1]
    num = min(num, num_groups)
    best_TG, groups_TG = highest_TN.topk(min(num + 1, num_groups), dim=1)
    return groups_TG[:, :num], best_TG[:, num] if num < num_groups else None


def _columns_of(groups_TG: Tensor) -> Tensor:
    """The columns of the items of some groups, one group after another, [T, X]."""
    place = torch.arange(fused.GROUP, device=groups_TG.device)
    return (groups_TG[..., None] * fused.GROUP + place).flatten(1)


def _hidden_and_own(
    users_U: Tensor,
    user_T: Tensor,
    candidates: Candidates,
    besides_BK: Tensor | None,
    own: Extras | None,
) -> tuple[Tensor, Extras | None]:
    """What the passes must not see: blocked, taken and own items; and the own ones that count."""
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
