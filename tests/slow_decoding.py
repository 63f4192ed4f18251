"""Decoding, with states that are logits: the item vectors are unit vectors, so that D = V.

What is called slow is the rule once more, for one user at a time, with lists and loops.
Legend: B users, S slots, K list length, V items.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffsasrec.decode.commit_rule import CommitRule
from diffsasrec.decode.exploration import Exploration
from diffsasrec.decode.multi_step import decode_multi
from diffsasrec.decode.strategies import Lists
from diffsasrec.retrieve.catalogue import Candidates, Catalogue
from diffsasrec.retrieve.category_cap import CategoryCap

Blocked = list[tuple[int, int]]  # (user, item)
NOTHING = Exploration(0, 0.5)
SCHEDULE = CommitRule("schedule", 0.9, 0.9)
THRESHOLD = replace(SCHEDULE, commit="threshold")


def candidates_of(
    num_items: int,
    blocked: Blocked | None = None,
    denied: list[int] | None = None,
    shown: Tensor | None = None,
    cap: CategoryCap | None = None,
) -> Candidates:
    allowed_V = torch.ones(num_items, dtype=torch.bool)
    allowed_V[denied or []] = False
    users, items = ([pair[side] for pair in blocked or []] for side in (0, 1))
    return Candidates(
        Catalogue(torch.eye(num_items), allowed_V, shown, cap),
        torch.tensor(users, dtype=torch.int64),
        torch.tensor(items, dtype=torch.int64),
    )


def multi(
    denoise: Callable[[Tensor], Tensor],
    candidates: Candidates,
    *,
    num_users: int,
    k: int,
    steps: int = 10,
    rule: CommitRule = THRESHOLD,
    lookahead: float = 1.0,
    exploration: Exploration = NOTHING,
    next_BD: Tensor | None = None,
    rank: str = "next_item",
    shortlist: int = 0,
) -> Lists:
    """`next_BD`: by default what the first slot has before anything is committed."""
    if next_BD is None:
        next_BD = denoise(torch.full((num_users, k), -1))[:, 0]
    return decode_multi(
        next_BD,
        lambda slots_BK: denoise(slots_BK)[slots_BK == -1],
        candidates,
        k=k,
        steps=steps,
        rule=rule,
        lookahead=lookahead,
        exploration=exploration,
        rank=rank,
        shortlist=shortlist,
    )


def slot_logits(slots: list[int], table_SJV: Tensor) -> list[Tensor]:
    """Logits of each slot of one user: every other slot adds a row that its content chooses."""
    total_SV = torch.stack([table_SJV[s, item] for s, item in enumerate(slots)])
    return [table_SJV[s, -2] + 0.3 * (total_SV.sum(0) - total_SV[s]) for s in range(len(slots))]


def random_tables(num_users: int, k: int, num_items: int, seed: int, scale: float) -> Tensor:
    """Per user, slot and content (an item; the two last: no item, the slot itself): logits."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_users, k, num_items + 2, num_items, generator=generator)


def denoise_with(tables: Tensor) -> Callable[[Tensor], Tensor]:
    def denoise(slots_BK: Tensor) -> Tensor:
        rows = zip(slots_BK.tolist(), tables, strict=True)
        return torch.stack([torch.stack(slot_logits(slots, table)) for slots, table in rows])

    return denoise


def slow_rule(pairs: list[tuple[float, int, int]], rule: CommitRule) -> set[tuple[float, int, int]]:
    """Which pairs (cost, slot, item), cheapest first, may be committed in a step."""
    if rule.commit == "schedule":
        return set()
    limit = rule.threshold
    while math.exp(-pairs[0][0]) < limit:
        limit *= rule.threshold_decay
    return {pair for pair in pairs if math.exp(-pair[0]) >= limit}


def slow_capped(items: list[int], taken: list[int], most: int, category: list[int]) -> list[int]:
    """The items that a list can take besides `taken`, one after another; no category: -1."""
    if not category:
        return items
    fitting: list[int] = []
    for item in items:
        others = [other for other in [*taken, *fitting] if other >= 0]
        same = [other for other in others if category[other] == category[item]]
        if category[item] == -1 or len(same) < most:
            fitting.append(item)
    return fitting


def slow_pairs(
    states: list[Tensor], allowed: set[int], slots: list[int], rule: CommitRule
) -> list[tuple[float, int, int]]:
    """(cost, slot, item) of every open slot with every item that is free."""
    free = sorted(allowed - set(slots))
    pairs = []
    for slot, logits in enumerate(states):
        if slots[slot] == -1:
            values = logits[free].double()
            logprobs = (values - torch.logsumexp(values, dim=0)).tolist()
            ranked = logprobs if rule.commit == "threshold" else values.tolist()
            pairs += [(-x, slot, i) for x, i in zip(ranked, free, strict=True)]
    return pairs


def slow_commit(
    slots: list[int],
    pairs: list[tuple[float, int, int]],
    rule: CommitRule,
    left: int,
    steps_left: int,
    cap: tuple[int, list[int]],
) -> None:
    """Fills slots, the cheapest pair first: what is sure, and a share of the `left` at least."""
    pairs = sorted(p for p in pairs if slow_capped([p[2]], slots, *cap))
    sure = slow_rule(pairs, rule)
    committed = 0
    for cost, slot, item in pairs:
        passes = (cost, slot, item) in sure or committed < math.ceil(left / steps_left)
        fits = item not in slots and slow_capped([item], slots, *cap)
        if passes and committed < left and slots[slot] == -1 and fits:
            slots[slot] = item
            committed += 1


def slow_explore(
    slots: list[int],
    states: list[Tensor],
    next_V: Tensor,
    allowed: set[int],
    rarely: tuple[float, Sequence[float]],
    cap: tuple[int, list[int]],
) -> None:
    """Fills one open slot with what is rarely shown; `rarely`: the ratio, and shows per item."""
    ratio, shown = rarely
    by_next = sorted(allowed - set(slots), key=lambda item: (-float(next_V[item]), item))
    free = sorted(slow_capped(by_next, slots, *cap))
    offers = []
    for slot in [slot for slot, item in enumerate(slots) if item == -1]:
        chance = {item: math.exp(float(states[slot][item])) for item in free}
        best = max(free, key=lambda item: chance[item])
        rare = max(free, key=lambda item: chance[item] / (1 + shown[item]))
        item = rare if chance[rare] >= ratio * chance[best] else best
        offers.append((-chance[item], slot, item))
    _, slot, item = min(offers)
    slots[slot] = item


def slow_multi(
    table_SJV: Tensor,
    allowed: set[int],
    *,
    k: int,
    steps: int,
    rule: CommitRule,
    rank: str,
    lookahead: float = 1.0,
    next_V: Tensor | None = None,
    places: int = 0,
    ratio: float = 1.0,
    shown: Sequence[float] = (),
    cap: tuple[int, list[int]] = (99, []),
) -> list[tuple[int, float]]:
    """The rule of `decode_multi`: (item, score) pairs.

    Args:
        places: how many items are explored, by `ratio` and how often each item is `shown`.
        cap: how many items of a category, and the category of each item.
    """
    slots = [-1] * k
    if next_V is None:
        next_V = slot_logits(slots, table_SJV)[0]

    def states() -> list[Tensor]:
        return [next_V + lookahead * (x - next_V) for x in slot_logits(slots, table_SJV)]

    wanted = min(k, len(slow_capped(sorted(allowed), [], *cap)))
    last = steps - 1 if places else steps
    for step in range(last):
        left = max(wanted - places, 0) - (k - slots.count(-1))
        if left > 0:
            pairs = slow_pairs(states(), allowed, slots, rule)
            slow_commit(slots, pairs, rule, left, last - step, cap)
    if places:
        before = states()
        for _ in range(wanted - (k - slots.count(-1))):
            slow_explore(slots, before, next_V, allowed, (ratio, shown), cap)
    return slow_ranked([item for item in slots if item != -1], next_V, allowed, rank)


def slow_ranked(
    filled: list[int], next_V: Tensor, allowed: set[int], rank: str
) -> list[tuple[int, float]]:
    """(item, score) pairs of the slots that are filled, in the order of the list."""
    everything = sorted(allowed)
    logprobs = next_V[everything].double().log_softmax(0).tolist()
    scores = dict(zip(everything, logprobs, strict=True))
    if rank == "next_item":
        filled.sort(key=lambda item: (-scores[item], item))
    return [(item, scores[item]) for item in filled]


def assert_a_list(items: list[int], *, allowed: set[int], k: int) -> None:
    """K distinct allowed items, or all that are left, and -1 behind them."""
    length = min(k, len(allowed))
    assert len(set(items[:length])) == length and set(items[:length]) <= allowed
    assert items[length:] == [-1] * (k - length)


ADVERSARIES = {
    "all equal": torch.zeros(12),
    "two levels": torch.tensor([1.0, 0.0]).repeat(6),
    "one dominates": torch.tensor([0.0] * 7 + [1e4] + [0.0] * 4),
    "all but one hopeless": torch.tensor([-1e4] * 11 + [0.0]),
    "steep": -50.0 * torch.arange(12.0),
}
FILTERS: dict[str, tuple[Blocked, list[int]]] = {
    "nothing": ([], []),
    "the favourites of user 1": ([(1, item) for item in (0, 2, 4, 7, 11)], []),
    "all but two for user 1": ([(1, item) for item in range(10)], []),
    "everything for user 1": ([(1, item) for item in range(12)], []),
    "everything for everyone": ([], list(range(12))),
    "most by denial": ([(0, 11), (2, 10)], list(range(10))),
}
