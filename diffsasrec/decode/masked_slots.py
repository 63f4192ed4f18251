"""Masked slots: their states, and the greedy assignment of items to them.

Legend: B users, K slots, R masked slots by user and slot, D width of states, M choices per slot.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsasrec.decode.commit_rule import CommitRule
from diffsasrec.decode.trace import Trace
from diffsasrec.model.diffusion import MASK
from diffsasrec.retrieve.catalogue import Candidates
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.retrieve.tiles import Top


@dataclass(frozen=True)
class StateSource:
    """Where the states of masked slots come from, and where the steps are recorded.

    Attributes:
        next_BD: the states of a single slot, which know the next item best.
        denoise: slots [B, K] -> states [R, D] of those that are masked, by user and slot.
        lookahead: how far from `next_BD` a slot is scored: 0 there, 1 at its own state.
    """

    next_BD: Tensor
    denoise: Callable[[Tensor], Tensor]
    lookahead: float
    trace: Trace | None
    candidates: Candidates

    def masked(self, slots_BK: Tensor) -> "MaskedSlots":
        users_R, slot_R = (slots_BK == MASK).nonzero(as_tuple=True)
        states_RD = torch.lerp(self.next_BD[users_R], self.denoise(slots_BK), self.lookahead)
        return MaskedSlots(users_R, slot_R, states_RD)

    def note(self, kind: str, before_BK: Tensor, after_BK: Tensor, rows: "MaskedSlots") -> None:
        if self.trace is not None:
            states_BKD = rows.by_slot(after_BK)
            self.trace.note(kind, before_BK, after_BK, states_BKD, self.candidates)


@dataclass(frozen=True)
class MaskedSlots:
    """Masked slots by user and slot, and their states."""

    users_R: Tensor
    slot_R: Tensor
    states_RD: Tensor

    def still(self, slots_BK: Tensor, left_B: Tensor) -> "MaskedSlots":
        """The slots that are still masked, of users that have any left."""
        is_open_R = (slots_BK[self.users_R, self.slot_R] == MASK) & (left_B > 0)[self.users_R]
        return self if is_open_R.all() else self.take(is_open_R)

    def take(self, chosen: Tensor) -> "MaskedSlots":
        return MaskedSlots(self.users_R[chosen], self.slot_R[chosen], self.states_RD[chosen])

    def by_slot(self, slots_BK: Tensor) -> Tensor:
        """The states [B, K, D], 0 for the other slots."""
        states_BKD = self.states_RD.new_zeros((*slots_BK.shape, self.states_RD.shape[1]))
        states_BKD[self.users_R, self.slot_R] = self.states_RD
        return states_BKD


def by_slot(top: Top, rows: MaskedSlots, slots_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Confidences and items of open slots, [B, K, M]; -inf and -1 for the others."""
    shape = (*slots_BK.shape, top.items_RM.shape[1])
    confidence_BKM = top.logits_RM.new_full(shape, -torch.inf)
    confidence_BKM[rows.users_R, rows.slot_R] = top.logits_RM
    items_BKM = top.items_RM.new_full(shape, -1)
    items_BKM[rows.users_R, rows.slot_R] = top.items_RM
    return confidence_BKM, items_BKM


def commit(
    slots_BK: Tensor,
    confidence_BKM: Tensor,
    items_BKM: Tensor,
    at_least_B: Tensor,
    left_B: Tensor,
    rule: CommitRule,
    cap: CategoryCap | None,
) -> tuple[Tensor, Tensor]:
    """Greedy assignment of distinct items to masked slots, most confident first.

    When a step commits c items, other slots can take c - 1 candidates of a slot: so c candidates
    suffice; under a cap, c that a list can take together.

    Returns:
        the slots, and the lowest confidence that was due per user: -inf if too few were found.
    """
    num_users, k, num_choices = confidence_BKM.shape
    slots_BK = slots_BK.clone()
    user_B = torch.arange(num_users, device=slots_BK.device)
    passing_B = rule.passing(confidence_BKM)
    lowest_B = torch.full_like(confidence_BKM[:, 0, 0], torch.inf)
    for nth in range(k):
        due_B = nth < at_least_B
        due_BKM = (confidence_BKM >= passing_B[:, None, None]) | due_B[:, None, None]
        best_B, flat_B = confidence_BKM.masked_fill(~due_BKM, -torch.inf).flatten(1).max(1)
        commit_B = (nth < left_B) & (best_B > -torch.inf)
        lowest_B = torch.where(commit_B | due_B, best_B, lowest_B)
        if not commit_B.any():
            break
        user, flat = user_B[commit_B], flat_B[commit_B]
        slot, item = flat // num_choices, items_BKM.flatten(1)[user, flat]
        slots_BK[user, slot] = item
        confidence_BKM[user, slot] = -torch.inf
        taken_BKM = items_BKM[user] == item[:, None, None]
        if cap is not None:
            full_BX = cap.is_full(items_BKM[user].flatten(1), slots_BK[user])
            taken_BKM = taken_BKM | full_BX.view_as(taken_BKM)
        confidence_BKM[user] = confidence_BKM[user].masked_fill(taken_BKM, -torch.inf)
    return slots_BK, lowest_B
