"""Multi-step decoding: masked slots are filled in a few steps, the surest first."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffsasrec.config.decoding import FUSED_MOST
from diffsasrec.decode.commit_rule import CommitRule
from diffsasrec.decode.exploration import CHOICES, Exploration
from diffsasrec.decode.masked_slots import MaskedSlots, StateSource, by_slot, commit
from diffsasrec.decode.strategies import Lists, _rank
from diffsasrec.decode.trace import Trace
from diffsasrec.model.diffusion import MASK
from diffsasrec.retrieve.catalogue import Candidates
from diffsasrec.retrieve.shortlist import (
    SLACK,
    Shortlist,
    are_among,
    ascending,
    logits_of,
    own_among,
)
from diffsasrec.retrieve.tiles import Top
from diffsasrec.retrieve.top_k import top_items

# a catalogue of less than so many times the shortlist is scored faster as a whole
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
        next_BD, denoise, lookahead: see `StateSource`.
        shortlist: how many items per user the steps look at if that provably suffices; 0: all. It
            changes no list. A rule that needs probabilities looks at all items.

    Each step scores the masked slots and commits every slot that passes the rule, and at least
    enough slots to finish within `steps`, most confident first and never an item twice. Explored
    items have the last step to themselves and come from the most probable next items; the steps
    before commit the sure items.
    """
    num_explored = exploration.num_items
    assert steps > 1 or not num_explored, (steps, exploration)
    source = StateSource(next_BD, denoise, lookahead, trace, candidates)
    slots_BK = torch.full((len(next_BD), k), MASK, device=next_BD.device)
    first = source.masked(slots_BK)
    num_likely = CHOICES + k - 1 if num_explored else 0  # all but one may be taken by then
    search = _Search.of(next_BD, first, candidates, rule, size=shortlist, num_likely=num_likely)
    wanted_B = candidates.num_left(len(next_BD)).clamp(max=k)
    sure_B = (wanted_B - num_explored).clamp(min=0)
    slots_BK = _committed(slots_BK, first, source, search, sure_B, steps - (num_explored > 0))
    if num_explored:
        slots_BK = _explored(slots_BK, source, search, wanted_B, exploration)
    lists = _rank(slots_BK, next_BD, search.normaliser_B, candidates, rank)
    return replace(lists, num_uncertain=search.num_uncertain)


def _committed(
    slots_BK: Tensor,
    first: MaskedSlots,
    source: StateSource,
    search: "_Search",
    sure_B: Tensor,
    num_steps: int,
) -> Tensor:
    """The slots after the steps that commit the surest items, `sure_B` for each user."""
    for step in range(num_steps):
        left_B = sure_B - (slots_BK != MASK).sum(1)
        at_least_B = (left_B + num_steps - step - 1) // (num_steps - step)
        if left_B.any():
            before_BK, rows = slots_BK, source.masked(slots_BK) if step else first
            slots_BK = search.commit(before_BK, rows, at_least_B, left_B)
            source.note("commit", before_BK, slots_BK, rows)
    return slots_BK


def _explored(
    slots_BK: Tensor,
    source: StateSource,
    search: "_Search",
    wanted_B: Tensor,
    exploration: Exploration,
) -> Tensor:
    """The slots after the last step, which gives the remaining slots to rare items one by one."""
    num_left = int((wanted_B - (slots_BK != MASK).sum(1)).max())
    if not num_left:
        return slots_BK
    before_BK, rows = slots_BK, source.masked(slots_BK)
    for _ in range(num_left):
        left_B = wanted_B - (slots_BK != MASK).sum(1)
        slots_BK = search.explore(slots_BK, rows, exploration, left_B)
    source.note("explore", before_BK, slots_BK, rows)
    return slots_BK


@dataclass
class _Search:
    """Finds the items that slots can take, in a shortlist if that is enough."""

    next_BD: Tensor
    candidates: Candidates
    rule: CommitRule
    normaliser_B: Tensor  # of the next item
    shortlist: Shortlist | None
    likely_BM: Tensor | None  # the most probable next items, if one pass finds enough of them
    num_uncertain: int = 0  # users and steps for which the shortlist was not enough

    @staticmethod
    def of(
        next_BD: Tensor,
        first: MaskedSlots,
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
        # under a cap, the items that a list can take change from step to step
        if catalogue.cap is not None or (catalogue.fused and num_likely > FUSED_MOST):
            num_likely = 0
        top = top_items(next_BD, users_B, candidates, max(num_likely, 1), normalise=True)
        likely_BM = top.items_RM if num_likely else None
        return _Search(next_BD, candidates, rule, top.normaliser_R, None, likely_BM)

    def commit(
        self, slots_BK: Tensor, masked: MaskedSlots, at_least_B: Tensor, left_B: Tensor
    ) -> Tensor:
        """The slots after a step that fills `at_least_B` to `left_B` slots of each user."""
        rows = masked.still(slots_BK, left_B)
        # when a step commits c items, other slots can take c - 1 candidates of a slot
        m = int(at_least_B.max()) if self.rule.commit == "schedule" else slots_BK.shape[1]
        cap = self.candidates.catalogue.cap
        unsure_B = torch.ones_like(left_B, dtype=torch.bool)
        if self.shortlist is not None:
            top = self.shortlist.top(rows.states_RD, rows.users_R, slots_BK, m)
            confidence_BKM, items_BKM = by_slot(top, rows, slots_BK)
            found_BK, lowest_B = commit(
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
            confidence_BKM, items_BKM = by_slot(top, rows, slots_BK)
            due_B, left_B = at_least_B * unsure_B, left_B * unsure_B
            slots_BK, _ = commit(slots_BK, confidence_BKM, items_BKM, due_B, left_B, self.rule, cap)
        return slots_BK

    def explore(
        self, slots_BK: Tensor, masked: MaskedSlots, exploration: Exploration, left_B: Tensor
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
        found = by_slot(chosen, rows, slots_BK)
        return commit(slots_BK, *found, one_B, one_B, self.rule, catalogue.cap)[0]

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
            # an outside item can be as probable as the last choice only if there is a cutoff
            cutoff_B, items_BM = self.shortlist.cutoff_B + SLACK, top.items_RM
            users_B = users_B[(cutoff_B > -torch.inf) & (cutoff_B >= top.logits_RM[:, -1])]
        if len(users_B):
            top = top_items(
                self.next_BD[users_B], users_B, self.candidates, num, besides_BK=slots_BK
            )
            items_BM[users_B] = top.items_RM
        return items_BM
