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

from diffsasrec.diffusion import MASK, Extras
from diffsasrec.explore import CHOICES, Exploration

# numbers in one tile of logits: rows are scored in tiles, never all rows x all items at once
LOGITS_PER_TILE = 2**23


@dataclass(frozen=True)
class Candidates:
    """What may be recommended: the items' vectors, and who may not get what."""

    weight_VD: Tensor
    allowed_V: Tensor  # bool: trained on, allowed, not denied
    blocked_users_X: Tensor  # pairs (user row in the batch, item) that are filtered, as seen items;
    blocked_items_X: Tensor  # in any order, doubles allowed
    # states [R, D] and their users [R] -> what is added to the logits of single items
    own_scores: Callable[[Tensor, Tensor], Extras] | None = None
    log_popularity_V: Tensor | None = None  # what exploring holds against items; None: nothing

    def num_left(self, num_users: int) -> Tensor:
        """How many items are left for each user, [B]."""
        pair_X = self.blocked_users_X * len(self.allowed_V) + self.blocked_items_X
        pair_X = torch.unique(pair_X[self.allowed_V[self.blocked_items_X]])
        blocked_B = torch.bincount(pair_X // len(self.allowed_V), minlength=num_users)
        return self.allowed_V.sum() - blocked_B


@dataclass(frozen=True)
class CommitRule:
    """Which slots a step commits, by their log-probabilities; every bar is the user's own.

    threshold: probability at least `threshold`; while no slot of the user passes it falls by
        `threshold_decay`, in this step only.
    ratio: probability at least `ratio` times that of the user's most confident slot.
    margin: log-probability at least `margin` above that of the slot's second item: a difference
        of logits, for which no normaliser is needed.
    schedule: no more than must be for the steps to suffice.
    """

    commit: Literal["threshold", "ratio", "margin", "schedule"] = "schedule"
    threshold: float = 0.9
    threshold_decay: float = 0.9
    ratio: float = 0.8
    margin: float = 0.5

    def passing(self, confidence_BKM: Tensor) -> Tensor:
        """The log-probability from which a slot is committed, [B, K]."""
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


def ordered_top(values_RV: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The m largest values of each row and their columns; of equal values the first column wins.

    Rows with fewer than m finite values are filled with -inf and column -1.
    """
    width = values_RV.shape[1]
    if m > width:
        values_RV = torch.nn.functional.pad(values_RV, (0, m - width), value=-torch.inf)
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


def top_items(
    states_RD: Tensor, users_R: Tensor, candidates: Candidates, m: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The m most probable allowed items of each row.

    Returns:
        log-probabilities [R, M], items [R, M] (-1: none left), logsumexp of the logits [R].
    """
    weight_DV = candidates.weight_VD.T
    bias_V = torch.zeros(len(candidates.allowed_V), device=states_RD.device)
    bias_V = bias_V.masked_fill(~candidates.allowed_V, -torch.inf)
    rows_of_user = _group_rows(users_R)
    logprobs, items, normalisers = [], [], []
    tile = max(1, LOGITS_PER_TILE // len(bias_V))
    for start in range(0, len(states_RD), tile):
        states_TD, users_T = states_RD[start : start + tile], users_R[start : start + tile]
        logits_RV = (states_TD @ weight_DV).float() + bias_V
        if candidates.own_scores is not None:
            logits_RV = candidates.own_scores(states_TD, users_T).add_to(logits_RV)
        rows_X, items_X = _blocked_rows(rows_of_user, candidates, start, start + len(logits_RV))
        logits_RV[rows_X, items_X] = -torch.inf
        normaliser_R = torch.logsumexp(logits_RV, dim=1)
        top_RM, item_RM = ordered_top(logits_RV, m)
        logprobs.append((top_RM - normaliser_R[:, None]).masked_fill(item_RM < 0, -torch.inf))
        items.append(item_RM)
        normalisers.append(normaliser_R)
    return torch.cat(logprobs), torch.cat(items), torch.cat(normalisers)


def _group_rows(users_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ordered by user, and per user where its rows start and how many there are."""
    order_R = users_R.argsort(stable=True)
    counts_B = torch.bincount(users_R)
    return order_R, counts_B.cumsum(0) - counts_B, counts_B


def _blocked_rows(
    grouped: tuple[Tensor, Tensor, Tensor], candidates: Candidates, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """The blocked pairs (row - start, item) of the rows start..stop of a tile."""
    order_R, first_B, count_B = grouped
    users_X = candidates.blocked_users_X
    inside = users_X < len(count_B)  # users behind the last row have no row
    users_X, items_X = users_X[inside], candidates.blocked_items_X[inside]
    repeats_X = count_B[users_X]
    pair_Y = torch.repeat_interleave(repeats_X)
    nth_Y = torch.arange(len(pair_Y), device=pair_Y.device) - (
        repeats_X.cumsum(0) - repeats_X
    ).repeat_interleave(repeats_X)
    rows_Y = order_R[first_B[users_X][pair_Y] + nth_Y]
    in_tile = (rows_Y >= start) & (rows_Y < stop)
    return rows_Y[in_tile] - start, items_X[pair_Y][in_tile]


def decode_single(states_BD: Tensor, candidates: Candidates, *, k: int) -> Lists:
    """The k most probable next items from one state per user, most probable first."""
    users_B = torch.arange(len(states_BD), device=states_BD.device)
    scores_BK, items_BK, _ = top_items(states_BD, users_B, candidates, k)
    return Lists(items_BK, scores_BK)


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
) -> Lists:
    """Denoises K masked slots per user in at most `steps` steps.

    Args:
        next_BD: the states of a single slot, which know the next item best.
        denoise: slots [B, K] -> states [B, K, D].
        lookahead: how far from `next_BD` a slot is scored: 0 there, 1 at its own state.
        keys_B: what the noise of `exploration` is drawn from.

    Each step scores the masked slots and commits, most confident first and never an item twice,
    every slot that passes the rule, and at least so many that the steps suffice. Where there is
    exploring, its items have the last step to themselves; the sure ones have the steps before.
    """
    assert steps > 1 or not exploration.num_items, (steps, exploration)
    device, num_users = next_BD.device, len(next_BD)
    users_B = torch.arange(num_users, device=device)
    slots_BK = torch.full((num_users, k), MASK, device=device)
    wanted_B = candidates.num_left(num_users).clamp(max=k)
    sure_B = (wanted_B - exploration.num_items).clamp(min=0)
    sure_steps = steps - 1 if exploration.num_items else steps
    normaliser_B = top_items(next_BD, users_B, candidates, 1)[2]
    # [B, K, D] and [B, K]: the next item in the first place, then the other slots as they began
    first_BKD = next_BD[:, None].repeat(1, k, 1)
    first_normaliser_BK = normaliser_B[:, None].repeat(1, k)
    for step in range(steps):
        explores = step == sure_steps
        masked_BK = slots_BK == MASK
        left_B = (wanted_B if explores else sure_B) - (~masked_BK).sum(1)
        open_BK = masked_BK & (left_B > 0)[:, None]
        if not open_BK.any():
            continue
        states_BKD = torch.lerp(next_BD[:, None], denoise(slots_BK), lookahead)
        users_R, slot_R = open_BK.nonzero(as_tuple=True)
        with_committed = _block_committed(candidates, slots_BK)
        num_choices = max(CHOICES, k) if explores else k
        logprob_RM, item_RM, normaliser_R = top_items(
            states_BKD[users_R, slot_R], users_R, with_committed, num_choices
        )
        first_R = masked_BK.all(1)[users_R] & (slot_R > 0)
        at = users_R[first_R], slot_R[first_R]
        first_BKD[at], first_normaliser_BK[at] = states_BKD[at], normaliser_R[first_R]
        if explores:
            logprob_RM = exploration.adjusted(
                logprob_RM, item_RM, keys_B[users_R], candidates.log_popularity_V
            )
        shape = (num_users, k, num_choices)
        confidence_BKM = torch.full(shape, -torch.inf, device=device)
        confidence_BKM[users_R, slot_R] = logprob_RM
        items_BKM = torch.full(shape, -1, device=device)
        items_BKM[users_R, slot_R] = item_RM
        steps_left = 1 if explores else sure_steps - step
        at_least_B = (left_B + steps_left - 1) // steps_left
        slots_BK = _commit(slots_BK, confidence_BKM, items_BKM, at_least_B, left_B, rule)
    return _rank(slots_BK, first_BKD, first_normaliser_BK, candidates, rank, discount)


def _commit(
    slots_BK: Tensor,
    confidence_BKM: Tensor,
    items_BKM: Tensor,
    at_least_B: Tensor,
    left_B: Tensor,
    rule: CommitRule,
) -> Tensor:
    """Greedy assignment of distinct items to masked slots, most confident first.

    K candidates per slot suffice: at most K - 1 of them can be taken by other slots.
    """
    num_users, k, num_choices = confidence_BKM.shape
    slots_BK = slots_BK.clone()
    user_B = torch.arange(num_users, device=slots_BK.device)
    passing_BK = rule.passing(confidence_BKM)
    for nth in range(k):
        due_BKM = (confidence_BKM >= passing_BK[..., None]) | (nth < at_least_B)[:, None, None]
        best_B, flat_B = confidence_BKM.masked_fill(~due_BKM, -torch.inf).flatten(1).max(1)
        commit_B = (nth < left_B) & (best_B > -torch.inf)
        if not commit_B.any():
            break
        user, flat = user_B[commit_B], flat_B[commit_B]
        slot, item = flat // num_choices, items_BKM.flatten(1)[user, flat]
        slots_BK[user, slot] = item
        confidence_BKM[user, slot] = -torch.inf
        taken_BKM = items_BKM[user] == item[:, None, None]
        confidence_BKM[user] = confidence_BKM[user].masked_fill(taken_BKM, -torch.inf)
    return slots_BK


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
    device = candidates.weight_VD.device
    users_B = torch.arange(num_users, device=device)
    slots_BK = torch.full((num_users, k), MASK, device=device)
    first: tuple[Tensor, Tensor] | None = None
    for position in range(k):
        states_BD = next_states(slots_BK[:, :position])
        with_committed = _block_committed(candidates, slots_BK)
        _, item_B1, normaliser_B = top_items(states_BD, users_B, with_committed, 1)
        first = first or (states_BD, normaliser_B)
        slots_BK[:, position] = item_B1[:, 0]
    assert first is not None, k
    states_BD, normaliser_B = first
    return _rank(slots_BK, states_BD[:, None], normaliser_B[:, None], candidates, rank, 0.0)


def _block_committed(candidates: Candidates, slots_BK: Tensor) -> Candidates:
    users_X, slot_X = (slots_BK != MASK).nonzero(as_tuple=True)
    return replace(
        candidates,
        blocked_users_X=torch.cat([candidates.blocked_users_X, users_X]),
        blocked_items_X=torch.cat([candidates.blocked_items_X, slots_BK[users_X, slot_X]]),
    )


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
    logprob_BSK = _first_logprobs(slots_BK, states_BSD, normaliser_BS, candidates)
    scores_BK = logprob_BSK[:, 0].masked_fill(slots_BK == MASK, -torch.inf)
    if rank == "slot":
        order_BK = (slots_BK == MASK).to(torch.int8).argsort(dim=1, stable=True)
        return Lists(slots_BK.gather(1, order_BK), scores_BK.gather(1, order_BK))
    by_BK = scores_BK
    if rank == "sum":
        places_S = torch.arange(logprob_BSK.shape[1], device=slots_BK.device)
        weight_S = torch.tensor(discount, device=slots_BK.device) ** places_S
        by_BK = (weight_S[:, None] * logprob_BSK.exp()).sum(1)
        by_BK = by_BK.masked_fill(slots_BK == MASK, -torch.inf)
    # equal ones by item index: order by it first, then stably
    order_BK = slots_BK.argsort(dim=1)
    ordered = by_BK.gather(1, order_BK).argsort(dim=1, descending=True, stable=True)
    order_BK = order_BK.gather(1, ordered)
    return Lists(slots_BK.gather(1, order_BK), scores_BK.gather(1, order_BK))


def _first_logprobs(
    slots_BK: Tensor, states_BSD: Tensor, normaliser_BS: Tensor, candidates: Candidates
) -> Tensor:
    """log p of every chosen item in every slot of the first pass, [B, S, K]."""
    num_users, num_slots = normaliser_BS.shape
    vectors_BKD = candidates.weight_VD[slots_BK.clamp(min=0)]
    logits_BSK = torch.einsum("bsd,bkd->bsk", states_BSD, vectors_BKD).float()
    if candidates.own_scores is not None:
        users_R = torch.arange(num_users, device=slots_BK.device).repeat_interleave(num_slots)
        items_RK = slots_BK.repeat_interleave(num_slots, dim=0)
        rows_RK = torch.arange(len(users_R), device=slots_BK.device)[:, None].expand_as(items_RK)
        own_Z = candidates.own_scores(states_BSD.flatten(0, 1), users_R).of_pairs(
            rows_RK.flatten(), items_RK.flatten(), num_items=len(candidates.allowed_V)
        )
        logits_BSK = logits_BSK + own_Z.view_as(logits_BSK)
    return logits_BSK - normaliser_BS[:, :, None]
