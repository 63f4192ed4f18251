"""The best items of a whole catalogue for many states, exactly and in bounded memory.

Legend: W width of item vectors, B users, K items that are taken, R rows (states to score), M best
items per row.
"""

import torch
from torch import Tensor

from diffsasrec.config.decoding import FUSED_MOST
from diffsasrec.model.diffusion import MASK
from diffsasrec.retrieve import tiles
from diffsasrec.retrieve.catalogue import TILES, Candidates
from diffsasrec.retrieve.tiles import Top


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
    """The m candidates of each row with the highest logits; among equals the first items.

    If the catalogue has a cap, only those that a list can take in this order.

    Args:
        besides_BK: items that are taken for each user, -1: none.
        spread_R: rank by the logit plus this times the item's excess (`Metric`), and return that
            sum; in no order, with any of equal ones, and without the cap.
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
    """Looks at more and more of the best until each row has m that fit, or none is left."""
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
    top_of, num_rows = tiles.top_of_rows, TILES[queries_RW.device.type][0]
    num_items = len(candidates.catalogue.items_C)
    if candidates.catalogue.fused and spread_R is None and 0 < min(m, num_items) <= FUSED_MOST:
        from diffsasrec.retrieve.fused_top_k import fused_top_of_rows, rows_at_once

        top_of, num_rows = fused_top_of_rows, rows_at_once(num_items, m)
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
