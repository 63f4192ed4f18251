"""A shortlist per user that provably holds what the later steps of decoding can take.

One pass over the whole catalogue, with the state of the next item, chooses each user's shortlist.
The states of the slots lie close to that state, so that no item outside the list can have risen by
more than `Metric.rise` allows: either what is found inside is the best of everything, or it is
known that it may not be.

Legend: B users, N items of a shortlist, W width of item vectors, R rows (user, slot), M best items
per row, P pairs (user, item).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffsasrec.model.diffusion import MASK
from diffsasrec.retrieve.catalogue import Candidates, OwnScores
from diffsasrec.retrieve.tiles import Top, ordered_top
from diffsasrec.retrieve.top_k import capped, top_items

# a state drifts from step to step: the list allows for so many times the first distance
DRIFT = 1.5
# products with another order of additions differ in the last digits
SLACK = 1e-4
# numbers in the vectors that are compared at once
VECTORS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Shortlist:
    """The items that matter for each user, and what bounds the rest."""

    candidates: Candidates
    next_BW: Tensor  # the states for which the lists were made
    items_BN: Tensor  # sorted by item; after the end: -1
    own: OwnScores | None  # of these items alone
    cutoff_B: Tensor  # outside, no logit plus `spread_B` times the excess is higher; -inf: empty
    spread_B: Tensor
    normaliser_B: Tensor  # logsumexp over the whole catalogue

    @staticmethod
    def of(next_BW: Tensor, slots_BKW: Tensor, candidates: Candidates, *, size: int) -> "Shortlist":
        """Shortlists for slots whose states begin as `slots_BKW`."""
        users_B = torch.arange(len(next_BW), device=next_BW.device)
        changes_BKW = slots_BKW - next_BW[:, None]
        spread_B = DRIFT * candidates.catalogue.metric.reach(changes_BKW.float()).amax(1)
        top = top_items(next_BW, users_B, candidates, size, normalise=True, spread_R=spread_B)
        is_full_B = torch.isfinite(top.logits_RM).all(1)
        cutoff_B = top.logits_RM.amin(1).masked_fill(~is_full_B, -torch.inf)
        items_BN = ascending(top.items_RM)
        own = own_among(candidates, items_BN)
        return Shortlist(candidates, next_BW, items_BN, own, cutoff_B, spread_B, top.normaliser_R)

    def top(self, queries_RW: Tensor, users_R: Tensor, slots_BK: Tensor, m: int) -> Top:
        """The m best items of each row's shortlist besides those in `slots_BK`; users ascend.

        If the catalogue has a cap, only those that a list can take in this order.
        """
        logits_RN = logits_of(queries_RW, users_R, self.items_BN, self.candidates, self.own)
        logits_RN.masked_fill_(are_among(self.items_BN, slots_BK)[users_R], -torch.inf)
        is_capped = self.candidates.catalogue.cap is not None
        top_RM, place_RM = ordered_top(logits_RN, logits_RN.shape[1] if is_capped else m)
        top_items_RM = self.items_BN[users_R[:, None], place_RM.clamp(min=0)]
        top_items_RM = top_items_RM.masked_fill(place_RM < 0, -1)
        top = Top(top_RM, top_items_RM, logits_RN.new_zeros(0))
        return capped(top, self.candidates, slots_BK[users_R], m) if is_capped else top

    def bound(self, queries_RW: Tensor, users_R: Tensor) -> Tensor:
        """An upper bound on the logits of the items outside, [R]."""
        before_RW = self.next_BW[users_R]
        changes_RW = (queries_RW - before_RW).float()
        rise_R = self.candidates.catalogue.metric.rise(changes_RW, self.spread_B[users_R])
        if self.candidates.own is not None:
            rise_R = rise_R + self.candidates.own.rise(before_RW, queries_RW)
        return self.cutoff_B[users_R] + rise_R + SLACK


def ascending(items_BN: Tensor) -> Tensor:
    """Sorted items, with -1 after them."""
    beyond = torch.iinfo(items_BN.dtype).max
    items_BN = items_BN.masked_fill(items_BN < 0, beyond).sort(dim=1).values
    return items_BN.masked_fill(items_BN == beyond, -1)


def are_among(items_BN: Tensor, slots_BK: Tensor) -> Tensor:
    """Which items of each user are in its slots, [B, N]; -1 is not."""
    among_BN = torch.zeros_like(items_BN, dtype=torch.bool)
    for slot_B1 in slots_BK.split(1, dim=1):
        among_BN |= (items_BN == slot_B1) & (slot_B1 != MASK)
    return among_BN


def own_among(candidates: Candidates, items_BN: Tensor) -> OwnScores | None:
    """The own scores of some items of each user, -1: none."""
    if candidates.own is None:
        return None
    users_P, place_P = (items_BN >= 0).nonzero(as_tuple=True)
    return candidates.own.among(users_P, items_BN[users_P, place_P])


def logits_of(
    queries_RW: Tensor,
    users_R: Tensor,
    items_BN: Tensor,
    candidates: Candidates,
    own: OwnScores | None,
) -> Tensor:
    """The logits of each row for its user's items, [R, N] float32; -inf if there is none (-1).

    Users must ascend. `own` holds the scores of no other items.
    """
    vectors_VW = candidates.catalogue.vectors_VW
    num_users, num_items = items_BN.shape
    counts_B = torch.bincount(users_R, minlength=num_users)
    width = int(counts_B.max())
    first_B = counts_B.cumsum(0) - counts_B
    place_R = torch.arange(len(users_R), device=users_R.device) - first_B[users_R]
    padded_BSW = queries_RW.new_zeros((num_users, width, queries_RW.shape[1]))
    padded_BSW[users_R, place_R] = queries_RW
    logits_BSN = queries_RW.new_empty((num_users, width, num_items), dtype=torch.float32)
    at_once = max(1, VECTORS_AT_ONCE // max(num_items * queries_RW.shape[1], 1))
    for start in range(0, num_users, at_once):
        users = slice(start, start + at_once)
        vectors_BNW = vectors_VW[items_BN[users].clamp(min=0)]
        logits_BSN[users] = (padded_BSW[users] @ vectors_BNW.transpose(1, 2)).float()
    logits_RN = logits_BSN[users_R, place_R]
    if own is not None:
        extras = own.of_rows(queries_RW, users_R)
        # with -1 behind them the items ascend in a row, and so do the keys of all rows
        beyond = len(vectors_VW)
        owner_B1 = torch.arange(num_users, device=users_R.device)[:, None]
        keys_Z = (items_BN.masked_fill(items_BN < 0, beyond) + owner_B1 * (beyond + 1)).flatten()
        owners_Y = users_R[extras.rows_Y]
        at_Y = torch.searchsorted(keys_Z, extras.items_Y + owners_Y * (beyond + 1))
        where = (extras.rows_Y, at_Y - owners_Y * num_items)
        logits_RN.index_put_(where, extras.scores_Y.float(), accumulate=True)
    return logits_RN.masked_fill_((items_BN < 0)[users_R], -torch.inf)
