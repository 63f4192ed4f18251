"""From states to lists of K distinct items, in one step or item by item."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsasrec.decode.trace import Trace
from diffsasrec.model.diffusion import MASK
from diffsasrec.retrieve.catalogue import Candidates
from diffsasrec.retrieve.shortlist import (
    logits_of,
    own_among,
)
from diffsasrec.retrieve.top_k import top_items


@dataclass(frozen=True)
class Lists:
    items_BK: Tensor  # -1 after the end of a list
    scores_BK: Tensor  # log-probability as the next item
    num_uncertain: int = 0  # users and steps for which a shortlist was not enough


def decode_single(
    states_BD: Tensor, candidates: Candidates, *, k: int, trace: Trace | None = None
) -> Lists:
    """The k most probable next items from one state per user, most probable first."""
    users_B = torch.arange(len(states_BD), device=states_BD.device)
    top = top_items(states_BD, users_B, candidates, k, normalise=True)
    scores_BK = top.logits_RM - top.normaliser_R[:, None]
    if trace is not None:
        nothing_BK = torch.full_like(top.items_RM, MASK)
        trace.note(
            "pass", nothing_BK, top.items_RM, states_BD[:, None].expand(-1, k, -1), candidates
        )
    return Lists(top.items_RM, scores_BK.masked_fill(top.items_RM < 0, -torch.inf))


def decode_autoregressive(
    next_states: Callable[[Tensor], Tensor],
    candidates: Candidates,
    *,
    num_users: int,
    k: int,
    rank: str,
    trace: Trace | None = None,
) -> Lists:
    """K next items one after another, each the most probable after those before it.

    `next_states`: items chosen so far [B, j] -> states [B, D] that predict the item after them.
    """
    device = candidates.catalogue.vectors_VW.device
    users_B = torch.arange(num_users, device=device)
    slots_BK = torch.full((num_users, k), MASK, device=device)
    first: tuple[Tensor, Tensor] | None = None
    for position in range(k):
        states_BD = next_states(slots_BK[:, :position])
        top = top_items(
            states_BD, users_B, candidates, 1, besides_BK=slots_BK, normalise=first is None
        )
        first = first or (states_BD, top.normaliser_R)
        if trace is not None:
            after_BK = slots_BK.clone()
            after_BK[:, position] = top.items_RM[:, 0]
            trace.note("next", slots_BK, after_BK, states_BD[:, None].expand(-1, k, -1), candidates)
        slots_BK[:, position] = top.items_RM[:, 0]
    assert first is not None, k
    states_BD, normaliser_B = first
    return _rank(slots_BK, states_BD, normaliser_B, candidates, rank)


def _rank(
    slots_BK: Tensor, next_BD: Tensor, normaliser_B: Tensor, candidates: Candidates, rank: str
) -> Lists:
    """Scores the chosen items as the next item and puts them in the order of the list.

    `next_BD`: the states before anything was committed.
    """
    by_item_BK = slots_BK.masked_fill(slots_BK == MASK, torch.iinfo(slots_BK.dtype).max).argsort(
        dim=1
    )
    items_BK = slots_BK.gather(1, by_item_BK)
    users_B = torch.arange(len(items_BK), device=items_BK.device)
    own = own_among(candidates, items_BK)
    logits_BK = logits_of(next_BD, users_B, items_BK, candidates, own)
    scores_BK = (logits_BK - normaliser_B[:, None]).masked_fill(items_BK == MASK, -torch.inf)
    by_BK = -by_item_BK.float() if rank == "slot" else scores_BK
    by_BK = by_BK.masked_fill(items_BK == MASK, -torch.inf)
    # a stable sort: ties stay in the order of the items
    order_BK = by_BK.argsort(dim=1, descending=True, stable=True)
    return Lists(items_BK.gather(1, order_BK), scores_BK.gather(1, order_BK))
