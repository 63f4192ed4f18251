"""Multi-step decoding: masked slots are filled in a few steps, the surest first."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffsasrec.config.serving import FUSED_MOST
from diffsasrec.decode.decoding import CommitRule
from diffsasrec.decode.exploration import CHOICES, Exploration
from diffsasrec.decode.strategies import Lists, _rank
from diffsasrec.decode.trace import Trace
from diffsasrec.model.diffusion import MASK
from diffsasrec.retrieve.catalogue import Candidates
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.retrieve.shortlist import (
    SLACK,
    Shortlist,
    are_among,
    ascending,
    logits_of,
    own_among,
)
from diffsasrec.retrieve.top_k import Top, top_items

# a catalogue of fewer times the shortlist is scored sooner as a whole
WORTH = 16


def decode_multi(
    next_BD: Tensor,
    denoise: Callable[[Tensor], Tensor],
    candidates: Candidates,
    *,
    k: int,
    steps: int,
    rule: CommitRule,
    lookahead: float,
    exploration: Exploration,
    rank: str,
    shortlist: int,
    trace: Trace | None = None,
) -> Lists:
    """Denoises K masked slots per user in at most `steps` steps.

    Args:
        next_BD: the states of a single slot, which know the next item best.
        denoise: slots [B, K] -> states [R, D] of those that are masked, by user and slot.
        lookahead: how far from `next_BD` a slot is scored: 0 there, 1 at its own state.
        shortlist: how many items per user the steps look at where that provably suffices; 0: all.
            It changes no list. A rule that needs probabilities looks at all.

    Each step scores the masked slots and commits, most confident first and never an item twice,
    every slot that passes the rule, and at least so many that the steps suffice. Where there is
    exploring, its items have the last step to themselves, and come from those that are most
    probable as the next one; the sure ones have the steps before.
    """
    assert steps > 1 or not exploration.num_items, (steps, exploration)
    num_users = len(next_BD)
    slots_BK = torch.full((num_users, k), MASK, device=next_BD.device)

    def masked(slots_BK: Tensor) -> _Masked:
        users_R, slot_R = (slots_BK == MASK).nonzero(as_tuple=True)
        states_RD = torch.lerp(next_BD[users_R], denoise(slots_BK), lookahead)
        return _Masked(users_R, slot_R, states_RD)

    first = masked(slots_BK)
    num_likely = CHOICES + k - 1 if exploration.num_items else 0  # all but one may be taken by then
    search = _Search.of(next_BD, first, candidates, rule, size=shortlist, num_likely=num_likely)
    wanted_B = candidates.num_left(num_users).clamp(max=k)
    sure_B = (wanted_B - exploration.num_items).clamp(min=0)
    sure_steps = steps - 1 if exploration.num_items else steps
    for step in range(sure_steps):
        left_B = sure_B - (slots_BK != MASK).sum(1)
        at_least_B = (left_B + sure_steps - step - 1) // (sure_steps - step)
        if left_B.any():
            before_BK, rows = slots_BK, masked(slots_BK) if step else first
            slots_BK = search.commit(before_BK, rows, at_least_B, left_B)
            if trace is not None:
                trace.note("commit", before_BK, slots_BK, rows.by_slot(slots_BK), candidates)
    if exploration.num_items and (num_left := int((wanted_B - (slots_BK != MASK).sum(1)).max())):
        before_BK, rows = slots_BK, masked(slots_BK)
        for _ in range(num_left):
            left_B = wanted_B - (slots_BK != MASK).sum(1)
            slots_BK = search.explore(slots_BK, rows, exploration, left_B)
        if trace is not None:
            trace.note("explore", before_BK, slots_BK, rows.by_slot(slots_BK), candidates)
    lists = _rank(slots_BK, next_BD, search.normaliser_B, candidates, rank)
    return replace(lists, num_uncertain=search.num_uncertain)


@dataclass(frozen=True)
class _Masked:
    """Masked slots by user and slot, and their states."""

    users_R: Tensor
    slot_R: Tensor
    states_RD: Tensor

    def still(self, slots_BK: Tensor, left_B: Tensor) -> "_Masked":
        """Those that are masked yet, of users that have any left."""
        is_open_R = (slots_BK[self.users_R, self.slot_R] == MASK) & (left_B > 0)[self.users_R]
        return self if is_open_R.all() else self.take(is_open_R)

    def take(self, chosen: Tensor) -> "_Masked":
        return _Masked(self.users_R[chosen], self.slot_R[chosen], self.states_RD[chosen])

    def by_slot(self, slots_BK: Tensor) -> Tensor:
        """The states [B, K, D], 0 for the other slots."""
        states_BKD = self.states_RD.new_zeros((*slots_BK.shape, self.states_RD.shape[1]))
        states_BKD[self.users_R, self.slot_R] = self.states_RD
        return states_BKD


@dataclass
class _Search:
    """Finds the items that slots can take, in a shortlist where that is enough."""

    next_BD: Tensor
    candidates: Candidates
    rule: CommitRule
    normaliser_B: Tensor  # of the next item
    shortlist: Shortlist | None
    likely_BM: Tensor | None  # the most probable next items, where one pass finds enough of them
    num_uncertain: int = 0  # users and steps for which the shortlist was not enough

    @staticmethod
    def of(
        next_BD: Tensor,
        first: _Masked,
        candidates: Candidates,
        rule: CommitRule,
        *,
        size: int,
        num_likely: int,
    ) -> "_Search":
        num_items = len(candidates.catalogue.items_C)
        if size and num_items > WORTH * size and not rule.needs_probabilities:
            first_BKD = first.states_RD.unflatten(0, (len(next_BD), -1))
            short = Shortlist.of(next_BD, first_BKD, candidates, size=size)
            return _Search(next_BD, candidates, rule, short.normaliser_B, short, None)
        users_B = torch.arange(len(next_BD), device=next_BD.device)
        catalogue = candidates.catalogue
        # under a cap, which of them a list can take changes from step to step
        if catalogue.cap is not None or (catalogue.fused and num_likely > FUSED_MOST):
            num_likely = 0
        top = top_items(next_BD, users_B, candidates, max(num_likely, 1), normalise=True)
        likely_BM = top.items_RM if num_likely else None
        return _Search(next_BD, candidates, rule, top.normaliser_R, None, likely_BM)

    def commit(
        self, slots_BK: Tensor, masked: _Masked, at_least_B: Tensor, left_B: Tensor
    ) -> Tensor:
        """The slots after a step that fills at least and at most so many of each user."""
        rows = masked.still(slots_BK, left_B)
        # of c items that a step commits, c - 1 can be taken from a slot by others
        m = int(at_least_B.max()) if self.rule.commit == "schedule" else slots_BK.shape[1]
        cap = self.candidates.catalogue.cap
        unsure_B = torch.ones_like(left_B, dtype=torch.bool)
        if self.shortlist is not None:
            top = self.shortlist.top(rows.states_RD, rows.users_R, slots_BK, m)
            confidence_BKM, items_BKM = _by_slot(top, rows, slots_BK)
            found_BK, lowest_B = _commit(
                slots_BK, confidence_BKM, items_BKM, at_least_B, left_B, self.rule, cap
            )
            bound_R = self.shortlist.bound(rows.states_RD, rows.users_R)
            bound_B = torch.full_like(lowest_B, -torch.inf).scatter_reduce(
                0, rows.users_R, bound_R, "amax"
            )
            unsure_B = (bound_B > lowest_B) & (left_B > 0)
            self.num_uncertain += int(unsure_B.sum())
            slots_BK = torch.where(unsure_B[:, None], slots_BK, found_BK)
            rows = rows.take(unsure_B[rows.users_R])
        if len(rows.users_R):
            top = top_items(
                rows.states_RD,
                rows.users_R,
                self.candidates,
                m,
                besides_BK=slots_BK,
                normalise=self.rule.needs_probabilities,
            )
            if self.rule.needs_probabilities:
                top = top._replace(logits_RM=top.logits_RM - top.normaliser_R[:, None])
            confidence_BKM, items_BKM = _by_slot(top, rows, slots_BK)
            due_B, left_B = at_least_B * unsure_B, left_B * unsure_B
            slots_BK, _ = _commit(
                slots_BK, confidence_BKM, items_BKM, due_B, left_B, self.rule, cap
            )
        return slots_BK

    def explore(
        self, slots_BK: Tensor, masked: _Masked, exploration: Exploration, left_B: Tensor
    ) -> Tensor:
        """The slots after one more item for each user that has any left."""
        choices_BM = ascending(self._choices(slots_BK, CHOICES))
        own = own_among(self.candidates, choices_BM)
        rows = masked.still(slots_BK, left_B)
        logits_RM = logits_of(rows.states_RD, rows.users_R, choices_BM, self.candidates, own)
        items_RM = choices_BM[rows.users_R]
        catalogue = self.candidates.catalogue
        shown_V = catalogue.shown_V
        shown_RM = None if shown_V is None else shown_V[items_RM.clamp(min=0)]
        place_R1 = exploration.choice(logits_RM, shown_RM)[:, None]
        chosen = Top(logits_RM.gather(1, place_R1), items_RM.gather(1, place_R1), logits_RM[:0])
        one_B = (left_B > 0).long()
        found = _by_slot(chosen, rows, slots_BK)
        return _commit(slots_BK, *found, one_B, one_B, self.rule, catalogue.cap)[0]

    def _choices(self, slots_BK: Tensor, num: int) -> Tensor:
        """The most probable next items besides those in the slots, [B, M]."""
        users_B = torch.arange(len(slots_BK), device=slots_BK.device)
        if self.likely_BM is not None:
            is_taken_BM = are_among(self.likely_BM, slots_BK)
            place_BM = is_taken_BM.byte().argsort(dim=1, stable=True)[:, :num]
            return self.likely_BM.masked_fill(is_taken_BM, -1).gather(1, place_BM)
        items_BM = torch.full((len(slots_BK), num), -1, device=slots_BK.device)
        if self.shortlist is not None:
            top = self.shortlist.top(self.next_BD, users_B, slots_BK, num)
            # what lies outside can only be as probable as the last choice where there is a cutoff
            cutoff_B, items_BM = self.shortlist.cutoff_B + SLACK, top.items_RM
            users_B = users_B[(cutoff_B > -torch.inf) & (cutoff_B >= top.logits_RM[:, -1])]
        if len(users_B):
            top = top_items(
                self.next_BD[users_B], users_B, self.candidates, num, besides_BK=slots_BK
            )
            items_BM[users_B] = top.items_RM
        return items_BM


def _by_slot(top: Top, rows: _Masked, slots_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Confidences and items of open slots, [B, K, M]; -inf and -1 for the others."""
    shape = (*slots_BK.shape, top.items_RM.shape[1])
    confidence_BKM = top.logits_RM.new_full(shape, -torch.inf)
    confidence_BKM[rows.users_R, rows.slot_R] = top.logits_RM
    items_BKM = top.items_RM.new_full(shape, -1)
    items_BKM[rows.users_R, rows.slot_R] = top.items_RM
    return confidence_BKM, items_BKM


def _commit(
    slots_BK: Tensor,
    confidence_BKM: Tensor,
    items_BKM: Tensor,
    at_least_B: Tensor,
    left_B: Tensor,
    rule: CommitRule,
    cap: CategoryCap | None,
) -> tuple[Tensor, Tensor]:
    """Greedy assignment of distinct items to masked slots, most confident first.

    Of c items that a step commits, c - 1 can be taken from a slot by others: c candidates suffice,
    under a cap c that a list can take together.

    Returns:
        the slots, and the lowest confidence that was due per user: -inf where too few were found.
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
