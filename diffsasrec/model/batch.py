"""What a step of training reads: the rows of one rank of a global batch.

Legend: B users, L history length, S slots, T = L + S, U rows of the embedding, V items.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffsasrec.model.baskets import Baskets
from diffsasrec.model.diffusion import MASK
from diffsasrec.model.heads.pairs import Pairs
from diffsasrec.model.softmax import Negatives


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
    users_BC: Tensor | None  # features.user_features; None: no query time
    queries_B: Tensor  # which batch time, or DRAWN
    pairs: Pairs | None  # the seen items of the histories, if the example has a query time
    scored: Pairs | None  # the pairs with a copy score or a rank, if there are any
    shares_X: Tensor | None  # that each scored pair is of the user's next basket; None: no ranker
    baskets: Baskets | None  # the users' next baskets, if the example has a query time
    num_examples: int  # of the global batch
    num_scored: int  # of the global batch
    num_maskable: int  # of the global batch
    types_BL: Tensor | None = None  # the codes of the types of the history, of a log with types
    slot_types_BS: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        tensors: dict[str, Any] = {
            n: t.to(device) for n, t in vars(self).items() if isinstance(t, Tensor)
        }
        tensors |= {
            n: p.to(device) for n, p in vars(self).items() if isinstance(p, Pairs | Baskets)
        }
        return replace(self, **tensors)

    def first_slots(self) -> Tensor:
        """The first slot of each user, if no later item is known there, bool [B, L + S]."""
        place_T = torch.arange(self.masked_BT.shape[1], device=self.masked_BT.device)
        is_first_T = place_T == self.history_BL.shape[1]
        return self.masked_BT & is_first_T & (self.p_mask_BT == 1.0)


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
        baskets=None,  # the targets are single ones
    )
    return batch, replace(negatives, items_N=places(negatives.items_N))
