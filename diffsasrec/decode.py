"""From states to lists of K distinct items: single-step, multi-step and autoregressive decoding.

Everything is vectorised over users, and nothing about a user depends on its batch mates: the
thresholds, the steps and the filters are kept per user. Filters act before the softmax.

Legend: B users, S slots, K list length, R rows (user, slot), M candidates per row, V items,
D hidden size. Item index -1 stands for the mask in `slots` and for "no item" in lists.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from diffsasrec.catalogue import Candidates, Top, top_items
from diffsasrec.diffusion import MASK
from diffsasrec.explore import CHOICES, Exploration
from diffsasrec.shortlist import SLACK, Shortlist, ascending, logits_of, own_among


@dataclass(frozen=True)
class CommitRule:
    """Which slots a step commits, by the logits of their items; every bar is the user's own.

    threshold: probability at least `threshold`; while no slot of the user passes it falls by
        `threshold_decay`, in this step only.
    ratio: probability at least `ratio` times that of the user's most confident slot.
    margin: logit at least `margin` above that of the slot's second item.
    schedule: no more than must be for the steps to suffice.

    The first two need probabilities, and for these a sum over the whole catalogue in every step.
    """

    commit: Literal["threshold", "ratio", "margin", "schedule"] = "schedule"
    threshold: float = 0.9
    threshold_decay: float = 0.9
    ratio: float = 0.8
    margin: float = 0.5

    @property
    def needs_probabilities(self) -> bool:
        return self.commit in ("threshold", "ratio")

    def passing(self, confidence_BKM: Tensor) -> Tensor:
        """The confidence from which a slot is committed, [B, K].

        `confidence_BKM`: log-probabilities where they are needed, logits elsewhere.
        """
        best_BK = confidence_BKM.amax(2)
        best_B1 = best_BK.amax(1, keepdim=True)
        if self.commit == "threshold":
            log_threshold, log_decay = math.log(self.threshold), math.log(self.threshold_decay)
            falls_B1 = ((best_B1 - log_threshold) / log_decay).clamp(min=0).ceil()
            # min: the fall ends at the best slot also where rounding would stop just above it
            bar_B1 = torch.minimum(log_threshold + falls_B1 * log_decay, best_B1)
            return bar_B1.expand_as(best_BK)
        if self.commit == "ratio":
            bar_B1 = best_B1 + (math.log(self.ratio) if self.ratio else -torch.inf)
            return bar_B1.expand_as(best_BK)
        never_BK = torch.full_like(best_BK, torch.inf)
        if self.commit == "schedule" or confidence_BKM.shape[2] < 2:
            return never_BK
        top_BK2 = confidence_BKM.topk(2, dim=2).values
        clear_BK = top_BK2[..., 0] - top_BK2[..., 1] >= self.margin
        return torch.where(clear_BK, best_BK, never_BK)


@dataclass(frozen=True)
class Lists:
    items_BK: Tensor  # -1 behind the end of a list
    scores_BK: Tensor  # log-probability as the next item
    num_uncertain: int = 0  # users and steps for which a shortlist was not enough


def decode_single(states_BD: Tensor, candidates: Candidates, *, k: int) -> Lists:
    """The k most probable next items from one state per user, most probable first."""
    users_B = torch.arange(len(states_BD), device=states_BD.device)
    top = top_items(states_BD, users_B, candidates, k, normalise=True)
    scores_BK = top.logits_RM - top.normaliser_R[:, None]
    return Lists(top.items_RM, scores_BK.masked_fill(top.items_RM < 0, -torch.inf))


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
    keys_B: Tensor,
    rank: str,
    discount: float,
    shortlist: int,
) -> Lists:
    """Denoises K masked slots per user in at most `steps` steps.

    Args:
        next_BD: the states of a single slot, which know the next item best.
        denoise: slots [B, K] -> states [B, K, D].
        lookahead: how far from `next_BD` a slot is scored: 0 there, 1 at its own state.
        keys_B: what the noise of `exploration` is drawn from.
        shortlist: how many items per user the steps look at where that provably suffices; 0: all.
            It changes no list. Rules and ranks that need probabilities look at all.

    Each step scores the masked slots and commits, most confident first and never an item twice,
    every slot that passes the rule, and at least so many that the steps suffice. Where there is
    exploring, its items have the last step to themselves, and come from those that are most
    probable as the next one; the sure ones have the steps before.
    """
    assert steps > 1 or not exploration.num_items, (steps, exploration)
    num_users = len(next_BD)
    slots_BK = torch.full((num_users, k), MASK, device=next_BD.device)

    def states(slots_BK: Tensor) -> Tensor:
        return torch.lerp(next_BD[:, None], denoise(slots_BK), lookahead)

    first_BKD = states(slots_BK)
    search = _Search.of(next_BD, first_BKD, candidates, rule, rank, size=shortlist)
    wanted_B = candidates.num_left(num_users).clamp(max=k)
    sure_B = (wanted_B - exploration.num_items).clamp(min=0)
    sure_steps = steps - 1 if exploration.num_items else steps
    for step in range(sure_steps):
        left_B = sure_B - (slots_BK != MASK).sum(1)
        at_least_B = (left_B + sure_steps - step - 1) // (sure_steps - step)
        if left_B.any():
            states_BKD = states(slots_BK) if step else first_BKD
            slots_BK = search.commit(slots_BK, states_BKD, at_least_B, left_B)
    left_B = wanted_B - (slots_BK != MASK).sum(1)
    if exploration.num_items and left_B.any():
        confidence_BKM, items_BKM = search.explored(
            slots_BK, states(slots_BK), exploration, keys_B, left_B
        )
        slots_BK, _ = _commit(slots_BK, confidence_BKM, items_BKM, left_B, left_B, rule)
    first_BSD, normaliser_BS = next_BD[:, None], search.normaliser_B[:, None]
    if rank == "sum":  # the next item in the first place, then the other slots as they began
        first_BSD = torch.cat([first_BSD, first_BKD[:, 1:]], dim=1)
        normaliser_BS = torch.cat([normaliser_BS, search.first_normalisers(first_BKD[:, 1:])], 1)
    lists = _rank(slots_BK, first_BSD, normaliser_BS, candidates, rank, discount)
    return replace(lists, num_uncertain=search.num_uncertain)


@dataclass
class _Search:
    """Finds the items that slots can take, in a shortlist where that is enough."""

    next_BD: Tensor
    candidates: Candidates
    rule: CommitRule
    normaliser_B: Tensor  # of the next item
    shortlist: Shortlist | None
    num_uncertain: int = 0  # users and steps for which the shortlist was not enough

    @staticmethod
    def of(
        next_BD: Tensor,
        first_BKD: Tensor,
        candidates: Candidates,
        rule: CommitRule,
        rank: str,
        *,
        size: int,
    ) -> "_Search":
        if size and rule.commit == "schedule" and rank != "sum":
            short = Shortlist.of(next_BD, first_BKD, candidates, size=size)
            return _Search(next_BD, candidates, rule, short.normaliser_B, short)
        users_B = torch.arange(len(next_BD), device=next_BD.device)
        normaliser_B = top_items(next_BD, users_B, candidates, 1, normalise=True).normaliser_R
        return _Search(next_BD, candidates, rule, normaliser_B, None)

    def commit(
        self, slots_BK: Tensor, states_BKD: Tensor, at_least_B: Tensor, left_B: Tensor
    ) -> Tensor:
        """The slots after a step that fills at least and at most so many of each user."""
        open_BK = (slots_BK == MASK) & (left_B > 0)[:, None]
        users_R, slot_R = open_BK.nonzero(as_tuple=True)
        # of c items that a step commits, c - 1 can be taken from a slot by others
        m = int(at_least_B.max()) if self.rule.commit == "schedule" else slots_BK.shape[1]
        unsure_B = torch.ones_like(left_B, dtype=torch.bool)
        if self.shortlist is not None:
            queries_RD = states_BKD[users_R, slot_R]
            top = self.shortlist.top(queries_RD, users_R, slots_BK, m)
            confidence_BKM, items_BKM = _by_slot(top, users_R, slot_R, slots_BK)
            found_BK, lowest_B = _commit(
                slots_BK, confidence_BKM, items_BKM, at_least_B, left_B, self.rule
            )
            bound_R = self.shortlist.bound(queries_RD, users_R)
            bound_B = torch.full_like(lowest_B, -torch.inf).scatter_reduce(
                0, users_R, bound_R, "amax"
            )
            unsure_B = (bound_B > lowest_B) & (left_B > 0)
            self.num_uncertain += int(unsure_B.sum())
            slots_BK = torch.where(unsure_B[:, None], slots_BK, found_BK)
        unsure_R = unsure_B[users_R]
        if unsure_R.any():
            users_R, slot_R = users_R[unsure_R], slot_R[unsure_R]
            top = top_items(
                states_BKD[users_R, slot_R],
                users_R,
                self.candidates,
                m,
                besides_BK=slots_BK,
                normalise=self.rule.needs_probabilities,
            )
            if self.rule.needs_probabilities:
                top = top._replace(logits_RM=top.logits_RM - top.normaliser_R[:, None])
            confidence_BKM, items_BKM = _by_slot(top, users_R, slot_R, slots_BK)
            due_B, left_B = at_least_B * unsure_B, left_B * unsure_B
            slots_BK, _ = _commit(slots_BK, confidence_BKM, items_BKM, due_B, left_B, self.rule)
        return slots_BK

    def explored(
        self,
        slots_BK: Tensor,
        states_BKD: Tensor,
        exploration: Exploration,
        keys_B: Tensor,
        left_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What exploring ranks by for each open slot and its choices, and these: [B, K, M]."""
        choices_BM = ascending(self._choices(slots_BK, max(CHOICES, slots_BK.shape[1])))
        own = own_among(self.candidates, choices_BM)
        open_BK = (slots_BK == MASK) & (left_B > 0)[:, None]
        users_R, slot_R = open_BK.nonzero(as_tuple=True)
        logits_RM = logits_of(
            states_BKD[users_R, slot_R], users_R, choices_BM, self.candidates, own
        )
        items_RM = choices_BM[users_R]
        adjusted_RM = exploration.adjusted(
            logits_RM, items_RM, keys_B[users_R], self.candidates.catalogue.log_popularity_V
        )
        return _by_slot(Top(adjusted_RM, items_RM, adjusted_RM[:0]), users_R, slot_R, slots_BK)

    def _choices(self, slots_BK: Tensor, num: int) -> Tensor:
        """The most probable next items besides those in the slots, [B, M]."""
        users_B = torch.arange(len(slots_BK), device=slots_BK.device)
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

    def first_normalisers(self, states_BSD: Tensor) -> Tensor:
        """logsumexp over all candidates before anything is committed, [B, S]."""
        num_users, num_slots, _ = states_BSD.shape
        users_R = torch.arange(num_users, device=states_BSD.device).repeat_interleave(num_slots)
        top = top_items(states_BSD.flatten(0, 1), users_R, self.candidates, 1, normalise=True)
        return top.normaliser_R.view(num_users, num_slots)


def _by_slot(top: Top, users_R: Tensor, slot_R: Tensor, slots_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Confidences and items of open slots, [B, K, M]; -inf and -1 for the others."""
    shape = (*slots_BK.shape, top.items_RM.shape[1])
    confidence_BKM = top.logits_RM.new_full(shape, -torch.inf)
    confidence_BKM[users_R, slot_R] = top.logits_RM
    items_BKM = top.items_RM.new_full(shape, -1)
    items_BKM[users_R, slot_R] = top.items_RM
    return confidence_BKM, items_BKM


def _commit(
    slots_BK: Tensor,
    confidence_BKM: Tensor,
    items_BKM: Tensor,
    at_least_B: Tensor,
    left_B: Tensor,
    rule: CommitRule,
) -> tuple[Tensor, Tensor]:
    """Greedy assignment of distinct items to masked slots, most confident first.

    Of c items that a step commits, c - 1 can be taken from a slot by others: c candidates suffice.

    Returns:
        the slots, and the lowest confidence that was due per user: -inf where too few were found.
    """
    num_users, k, num_choices = confidence_BKM.shape
    slots_BK = slots_BK.clone()
    user_B = torch.arange(num_users, device=slots_BK.device)
    passing_BK = rule.passing(confidence_BKM)
    lowest_B = torch.full_like(confidence_BKM[:, 0, 0], torch.inf)
    for nth in range(k):
        due_BKM = (confidence_BKM >= passing_BK[..., None]) | (nth < at_least_B)[:, None, None]
        best_B, flat_B = confidence_BKM.masked_fill(~due_BKM, -torch.inf).flatten(1).max(1)
        commit_B = (nth < left_B) & (best_B > -torch.inf)
        lowest_B = torch.where(commit_B | (nth < at_least_B), best_B, lowest_B)
        if not commit_B.any():
            break
        user, flat = user_B[commit_B], flat_B[commit_B]
        slot, item = flat // num_choices, items_BKM.flatten(1)[user, flat]
        slots_BK[user, slot] = item
        confidence_BKM[user, slot] = -torch.inf
        taken_BKM = items_BKM[user] == item[:, None, None]
        confidence_BKM[user] = confidence_BKM[user].masked_fill(taken_BKM, -torch.inf)
    return slots_BK, lowest_B


def decode_autoregressive(
    next_states: Callable[[Tensor], Tensor],
    candidates: Candidates,
    *,
    num_users: int,
    k: int,
    rank: str,
) -> Lists:
    """K next items one after another, each the most probable after those before it.

    `next_states`: items chosen so far [B, j] -> states [B, D] that predict the item behind them.
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
        slots_BK[:, position] = top.items_RM[:, 0]
    assert first is not None, k
    states_BD, normaliser_B = first
    return _rank(slots_BK, states_BD[:, None], normaliser_B[:, None], candidates, rank, 0.0)


def _rank(
    slots_BK: Tensor,
    states_BSD: Tensor,
    normaliser_BS: Tensor,
    candidates: Candidates,
    rank: str,
    discount: float,
) -> Lists:
    """Scores the chosen items as the next item and puts them in the order of the list.

    The states are those of the first pass, before anything was committed.
    """
    by_item_BK = slots_BK.masked_fill(slots_BK == MASK, torch.iinfo(slots_BK.dtype).max).argsort(
        dim=1
    )
    items_BK = slots_BK.gather(1, by_item_BK)
    logprob_BSK = _first_logprobs(items_BK, states_BSD, normaliser_BS, candidates)
    scores_BK = logprob_BSK[:, 0].masked_fill(items_BK == MASK, -torch.inf)
    by_BK = scores_BK
    if rank == "slot":
        by_BK = -by_item_BK.float()
    if rank == "sum":
        places_S = torch.arange(logprob_BSK.shape[1], device=slots_BK.device)
        weight_S = torch.tensor(discount, device=slots_BK.device) ** places_S
        by_BK = (weight_S[:, None] * logprob_BSK.exp()).sum(1)
    by_BK = by_BK.masked_fill(items_BK == MASK, -torch.inf)
    # stably: equal ones stay in the order of the items
    order_BK = by_BK.argsort(dim=1, descending=True, stable=True)
    return Lists(items_BK.gather(1, order_BK), scores_BK.gather(1, order_BK))


def _first_logprobs(
    items_BK: Tensor, states_BSD: Tensor, normaliser_BS: Tensor, candidates: Candidates
) -> Tensor:
    """log p of the chosen items (ascending in a row) in the slots of the first pass, [B, S, K]."""
    num_users, num_slots = normaliser_BS.shape
    users_R = torch.arange(num_users, device=items_BK.device).repeat_interleave(num_slots)
    own = own_among(candidates, items_BK)
    logits_RK = logits_of(states_BSD.flatten(0, 1), users_R, items_BK, candidates, own)
    return logits_RK.view(num_users, num_slots, -1) - normaliser_BS[:, :, None]
