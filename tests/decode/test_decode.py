"""Decoding, with states that are logits: the item vectors are unit vectors, so that D = V.

Legend: B users, S slots, K list length, V items.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffsasrec.decode.decoding import CommitRule
from diffsasrec.decode.exploration import CHOICES, Exploration
from diffsasrec.decode.multi_step import decode_multi
from diffsasrec.decode.strategies import Lists, decode_autoregressive, decode_single
from diffsasrec.model.softmax import Extras
from diffsasrec.retrieve.catalogue import Candidates, Catalogue
from diffsasrec.retrieve.category_cap import CategoryCap

Blocked = list[tuple[int, int]]  # (user, item)
NOTHING = Exploration(num_items=0)


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
    rule: CommitRule = CommitRule("threshold"),  # noqa: B008
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
    """The rule of `decode_multi` for one user, with loops: (item, score) pairs.

    Args:
        places: how many items are explored, by `ratio` and how often each item is `shown`.
        cap: how many items of a category, and the category of each item.
    """
    slots = [-1] * k
    if next_V is None:
        next_V = slot_logits(slots, table_SJV)[0]
    wanted = min(k, len(slow_capped(sorted(allowed), [], *cap)))
    last = steps - 1 if places else steps
    for step in range(last):
        free = sorted(allowed - set(slots))
        committed_before = len(allowed) - len(free)
        left = max(wanted - places, 0) - committed_before
        if left <= 0:
            continue
        pairs = []
        for slot, logits in enumerate(slot_logits(slots, table_SJV)):
            if slots[slot] == -1:
                values = (next_V + lookahead * (logits - next_V))[free].double()
                logprobs = (values - torch.logsumexp(values, dim=0)).tolist()
                ranked = logprobs if rule.commit == "threshold" else values.tolist()
                pairs += [(-x, slot, i) for x, i in zip(ranked, free, strict=True)]
        pairs = sorted(p for p in pairs if slow_capped([p[2]], slots, *cap))
        steps_left = last - step
        sure = slow_rule(pairs, rule)
        committed = 0
        for cost, slot, item in pairs:
            passes = (cost, slot, item) in sure or committed < math.ceil(left / steps_left)
            fits = item not in slots and slow_capped([item], slots, *cap)
            if passes and committed < left and slots[slot] == -1 and fits:
                slots[slot] = item
                committed += 1
    if places:
        states = slot_logits(slots, table_SJV)
        for _ in range(wanted - len([item for item in slots if item != -1])):
            by_next = sorted(allowed - set(slots), key=lambda item: (-float(next_V[item]), item))
            free = sorted(slow_capped(by_next, slots, *cap))
            offers = []
            for slot in [slot for slot, item in enumerate(slots) if item == -1]:
                logits = next_V + lookahead * (states[slot] - next_V)
                chance = {item: math.exp(float(logits[item])) for item in free}
                best = max(free, key=lambda item: chance[item])
                rare = max(free, key=lambda item: chance[item] / (1 + shown[item]))
                item = rare if chance[rare] >= ratio * chance[best] else best
                offers.append((-chance[item], slot, item))
            _, slot, item = min(offers)
            slots[slot] = item
    filled = [item for item in slots if item != -1]
    everything = sorted(allowed)
    values = next_V[everything].double()
    scores = dict(zip(everything, (values - torch.logsumexp(values, 0)).tolist(), strict=True))
    if rank == "next_item":
        filled.sort(key=lambda item: (-scores[item], item))
    return [(item, scores[item]) for item in filled]


def assert_a_list(items: list[int], *, allowed: set[int], k: int) -> None:
    """K distinct allowed items, or all that are left, and -1 behind them."""
    length = min(k, len(allowed))
    assert len(set(items[:length])) == length and set(items[:length]) <= allowed
    assert items[length:] == [-1] * (k - length)


def test_probabilities_are_taken_after_the_filters():
    logits = torch.tensor([[math.log(6), math.log(3), math.log(1), math.log(90)]])
    candidates = candidates_of(4, blocked=[(0, 3)])
    lists = decode_single(logits, candidates, k=3)
    assert lists.items_BK.tolist() == [[0, 1, 2]]
    assert lists.scores_BK.exp().tolist() == [pytest.approx([0.6, 0.3, 0.1])]


def test_filters_of_one_user_leave_the_others_alone():
    logits = torch.tensor([[3.0, 2.0, 1.0]]).expand(3, 3)
    lists = decode_single(logits, candidates_of(3, blocked=[(1, 0), (1, 0), (2, 2)]), k=2)
    assert lists.items_BK.tolist() == [[0, 1], [1, 2], [0, 1]]


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


@pytest.mark.parametrize("filtered", FILTERS)
@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("mode", ["single", "autoregressive", "multi", "multi in two steps"])
def test_a_list_has_k_distinct_allowed_items_or_all_that_are_left(mode, adversary, filtered):
    logits, (blocked, denied), k = ADVERSARIES[adversary], FILTERS[filtered], 5
    candidates = candidates_of(12, blocked, denied)
    if mode == "single":
        lists = decode_single(logits.expand(3, 12), candidates, k=k)
    elif mode == "autoregressive":
        lists = decode_autoregressive(
            lambda _: logits.expand(3, 12), candidates, num_users=3, k=k, rank="next_item"
        )
    else:
        steps = 2 if mode == "multi in two steps" else 10
        lists = multi(lambda _: logits.expand(3, k, 12), candidates, num_users=3, k=k, steps=steps)
    for user in range(3):
        allowed = {v for v in range(12) if v not in denied and (user, v) not in blocked}
        assert_a_list(lists.items_BK[user].tolist(), allowed=allowed, k=k)
        scores = lists.scores_BK[user, : min(k, len(allowed))]
        assert torch.isfinite(scores).all() and (scores.diff() <= 0).all()
        assert (lists.scores_BK[user, len(allowed) :] == -torch.inf).all()


@pytest.mark.parametrize("rank", ["next_item", "slot"])
def test_equal_scores_are_ordered_by_the_item_index(rank):
    lists = multi(
        lambda _: torch.zeros(2, 4, 9),
        candidates_of(9, blocked=[(1, 0), (1, 2)]),
        num_users=2,
        k=4,
        rank=rank,
    )
    assert lists.items_BK.tolist() == [[0, 1, 2, 3], [1, 3, 4, 5]]


@pytest.mark.parametrize("seed", range(5))
def test_multi_with_one_slot_equals_single(seed):
    tables = random_tables(6, 1, 8, seed, scale=2.0)
    candidates = candidates_of(8, blocked=[(0, 1), (0, 2), (3, 7)], denied=[5])
    logits_B1V = denoise_with(tables)(torch.full((6, 1), -1))
    one = decode_single(logits_B1V[:, 0], candidates, k=1)
    other = multi(denoise_with(tables), candidates, num_users=6, k=1)
    assert torch.equal(one.items_BK, other.items_BK)
    assert torch.allclose(one.scores_BK, other.scores_BK)


RULES = [
    (0.5, CommitRule("threshold", threshold=0.9, threshold_decay=0.8)),
    (2.0, CommitRule("threshold", threshold=0.5, threshold_decay=0.8)),
    (6.0, CommitRule("threshold", threshold=0.9, threshold_decay=0.8)),
    (2.0, CommitRule("threshold", threshold=1.0, threshold_decay=0.8)),
    (2.0, CommitRule("schedule")),
]


@pytest.mark.parametrize("rank", ["next_item", "slot"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize(("scale", "commit"), RULES)
def test_multi_equals_the_slow_rule_for_one_user_at_a_time(scale, commit, steps, rank):
    num_users, num_items, k = 8, 9, 4
    tables = random_tables(num_users, k, num_items, steps, scale)
    blocked = [(0, item) for item in range(6)] + [(1, item) for item in range(9)]
    blocked += [(2, 0), (2, 3), (4, 8)]
    rule = {"k": k, "steps": steps, "rule": commit, "rank": rank}
    candidates = candidates_of(num_items, blocked, denied=[4])
    lists = multi(denoise_with(tables), candidates, num_users=num_users, **rule)
    for user in range(num_users):
        allowed = {v for v in range(num_items) if v != 4 and (user, v) not in blocked}
        expected = slow_multi(tables[user], allowed, **rule)
        missing = k - len(expected)
        assert lists.items_BK[user].tolist() == [item for item, _ in expected] + [-1] * missing
        scores = [score for _, score in expected] + [-math.inf] * missing
        assert lists.scores_BK[user].tolist() == pytest.approx(scores, abs=1e-4)


CATEGORY = [0, 0, 0, 1, 1, -1, 1, 2, 0]


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("places", [0, 2])
@pytest.mark.parametrize("commit", ["schedule", "threshold"])
@pytest.mark.parametrize("scale", [0.5, 6.0])
def test_a_multi_list_under_a_cap_equals_the_slow_rule(scale, commit, places, most):
    num_users, num_items, k, steps = 8, 9, 5, 3
    tables = random_tables(num_users, k, num_items, most, scale)
    generator = torch.Generator().manual_seed(most)
    next_BD = scale * torch.randn(num_users, num_items, generator=generator)
    blocked = [(0, item) for item in (0, 1, 5, 7)] + [(1, item) for item in range(9)] + [(2, 5)]
    cap = CategoryCap(most, torch.tensor(CATEGORY))
    shown = torch.randint(4, (num_items,), generator=generator).float()
    candidates = candidates_of(num_items, blocked, [4], shown, cap)
    rule = {"k": k, "steps": steps, "rule": CommitRule(commit), "rank": "next_item"}
    lists = multi(
        denoise_with(tables),
        candidates,
        num_users=num_users,
        next_BD=next_BD,
        lookahead=0.5,
        exploration=Exploration(places, 0.5),
        **rule,
    )
    for user in range(num_users):
        expected = slow_multi(
            tables[user],
            {v for v in range(num_items) if v != 4 and (user, v) not in blocked},
            next_V=next_BD[user],
            lookahead=0.5,
            places=places,
            ratio=0.5,
            shown=shown.tolist(),
            cap=(most, CATEGORY),
            **rule,
        )
        missing = k - len(expected)
        assert lists.items_BK[user].tolist() == [item for item, _ in expected] + [-1] * missing


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("mode", ["single", "autoregressive"])
def test_under_a_cap_the_best_items_that_fit_are_taken_in_their_order(mode, most):
    logits_BV = torch.randn(6, 9, generator=torch.Generator().manual_seed(most))
    blocked = [(1, item) for item in (1, 3, 5)]
    candidates = candidates_of(9, blocked, cap=CategoryCap(most, torch.tensor(CATEGORY)))
    if mode == "single":
        lists = decode_single(logits_BV, candidates, k=6)
    else:
        lists = decode_autoregressive(
            lambda _: logits_BV, candidates, num_users=6, k=6, rank="next_item"
        )
    for user in range(6):
        order = sorted(range(9), key=lambda item: (-float(logits_BV[user, item]), item))
        free = [item for item in order if (user, item) not in blocked]
        expected = slow_capped(free, [], most, CATEGORY)[:6]
        assert lists.items_BK[user].tolist() == expected + [-1] * (6 - len(expected))
        alone = decode_single(logits_BV, candidates_of(9, blocked), k=9)
        score_of = dict(zip(alone.items_BK[user].tolist(), alone.scores_BK[user], strict=True))
        scores = lists.scores_BK[user, : len(expected)]
        assert scores.tolist() == pytest.approx([float(score_of[item]) for item in expected])


def test_a_list_goes_far_down_where_one_category_is_on_top():
    category_V = torch.zeros(5000, dtype=torch.int64)
    category_V[[4000, 4900]] = 1
    candidates = candidates_of(5000, cap=CategoryCap(1, category_V))
    logits_BV = -torch.arange(5000.0).expand(2, 5000)
    lists = decode_single(logits_BV, candidates, k=3)
    assert lists.items_BK.tolist() == [[0, 4000, -1]] * 2
    assert candidates.num_left(2).tolist() == [2, 2]


@pytest.mark.parametrize("rank", ["next_item", "slot"])
@pytest.mark.parametrize("places", [0, 1, 2, 4])
@pytest.mark.parametrize("lookahead", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("commit", ["schedule", "threshold"])
def test_lookahead_and_exploring_equal_the_slow_rule(commit, lookahead, places, rank):
    num_users, num_items, k, steps = 8, 9, 4, 3
    tables = random_tables(num_users, k, num_items, places, scale=2.0)
    generator = torch.Generator().manual_seed(places)
    next_BD = 2.0 * torch.randn(num_users, num_items, generator=generator)
    shown = torch.randint(4, (num_items,), generator=generator).float()
    blocked = [(0, item) for item in range(6)] + [(1, item) for item in range(9)] + [(2, 0)]
    candidates = candidates_of(num_items, blocked, [4], shown)
    rule = {"k": k, "steps": steps, "rule": CommitRule(commit), "rank": rank}
    lists = multi(
        denoise_with(tables),
        candidates,
        num_users=num_users,
        next_BD=next_BD,
        lookahead=lookahead,
        exploration=Exploration(places, 0.4),
        **rule,
    )
    for user in range(num_users):
        expected = slow_multi(
            tables[user],
            {v for v in range(num_items) if v != 4 and (user, v) not in blocked},
            next_V=next_BD[user],
            lookahead=lookahead,
            places=places,
            ratio=0.4,
            shown=shown.tolist(),
            **rule,
        )
        missing = k - len(expected)
        assert lists.items_BK[user].tolist() == [item for item, _ in expected] + [-1] * missing
        scores = [score for _, score in expected] + [-math.inf] * missing
        assert lists.scores_BK[user].tolist() == pytest.approx(scores, abs=1e-4)


def test_without_lookahead_and_exploring_a_multi_list_is_the_single_one():
    next_BD = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    tables = random_tables(5, 4, 9, 0, scale=2.0)
    candidates = candidates_of(9, [(2, 5)])
    several = multi(
        denoise_with(tables), candidates, num_users=5, k=4, next_BD=next_BD, lookahead=0.0
    )
    single = decode_single(next_BD, candidates, k=4)
    assert torch.equal(several.items_BK, single.items_BK)
    assert torch.allclose(several.scores_BK, single.scores_BK)


def test_exploring_leaves_the_sure_items_alone():
    next_BD = torch.arange(40.0, 0.0, -1.0).expand(50, 40) / 10
    slots_KV = next_BD[:5] + 2 * torch.eye(40)[10:15]  # each slot is sure of an item of its own
    shown = 100.0 * (torch.arange(40) < 20)
    explored, plain = (
        multi(
            lambda _: slots_KV.expand(50, 5, 40),
            candidates_of(40, shown=shown),
            num_users=50,
            k=5,
            steps=2,
            rule=CommitRule("schedule"),
            next_BD=next_BD,
            exploration=exploration,
        ).items_BK.tolist()
        for exploration in (Exploration(2, 0.01), NOTHING)
    )
    assert plain == [[10, 11, 12, 13, 14]] * 50
    assert explored == [[10, 11, 12, 20, 21]] * 50


def test_exploring_looks_no_further_than_its_choices():
    num_items, k = CHOICES + 50, 4
    next_BD = torch.arange(num_items, 0.0, -1.0)[None] / num_items
    shown = torch.full((num_items,), 100.0)
    shown[[90, 60, CHOICES + k]] = torch.tensor([1.0, 2.0, 0.0])
    lists = multi(
        lambda slots_BK: next_BD[:, None].expand(1, slots_BK.shape[1], num_items),
        candidates_of(num_items, shown=shown),
        num_users=1,
        k=k,
        exploration=Exploration(2, 0.01),
    )
    assert lists.items_BK.tolist() == [[0, 1, 60, 90]]


def test_a_list_may_be_longer_than_the_choices_of_a_slot():
    num_items, k = CHOICES + 50, CHOICES + 20
    logits = torch.randn(num_items, generator=torch.Generator().manual_seed(0))
    lists = multi(
        lambda slots_BK: logits.expand(2, slots_BK.shape[1], num_items),
        candidates_of(num_items, [(1, 3)]),
        num_users=2,
        k=k,
        steps=2,
        exploration=Exploration(CHOICES + 5, 0.5),
    )
    for user, allowed in enumerate([set(range(num_items)), set(range(num_items)) - {3}]):
        assert_a_list(lists.items_BK[user].tolist(), allowed=allowed, k=k)


def calls_of_multi(logits_KV: Tensor, *, steps: int, **rule: Any) -> list[int]:
    """How many slots were filled each time the model was asked."""
    filled: list[int] = []
    k, num_items = logits_KV.shape

    def denoise(slots_BK: Tensor) -> Tensor:
        filled.append(int((slots_BK != -1).sum()))
        return logits_KV[None]

    candidates, rule = candidates_of(num_items), {"commit": "threshold", **rule}
    multi(
        denoise,
        candidates,
        num_users=1,
        k=k,
        steps=steps,
        rule=CommitRule(**rule),
        next_BD=logits_KV[:1],
    )
    return filled


def test_one_step_fills_every_slot():
    assert calls_of_multi(torch.zeros(4, 9), steps=1, threshold=1.0) == [0]


def test_all_slots_above_the_threshold_are_filled_at_once():
    sure = 20 * torch.eye(9)[:4]  # each slot is sure of an item of its own
    assert calls_of_multi(sure, steps=10, threshold=0.9) == [0]


def test_slots_below_the_threshold_wait_for_the_next_step():
    logits = torch.zeros(3, 9)
    logits[0, 0], logits[1, 1], logits[2, 2] = 20.0, 3.0, 1.0
    assert calls_of_multi(logits, steps=10, threshold=0.9) == [0, 1, 2]


def test_a_schedule_commits_no_more_than_must_be():
    sure = 20 * torch.eye(9)[:4]
    assert calls_of_multi(sure, steps=2, commit="schedule") == [0, 2]
    assert calls_of_multi(sure, steps=10, commit="schedule") == [0, 1, 2, 3]


def test_too_few_steps_commit_an_even_share_in_each():
    unsure = torch.diag(0.2 * torch.arange(9.0))[1:8]  # slots with weak favourites of their own
    assert calls_of_multi(unsure, steps=3, threshold=1.0) == [0, 3, 5]


def test_two_slots_that_want_one_item_do_not_both_get_it():
    logits = torch.tensor([[[9.0, 1.0, 0.0], [8.0, 2.0, 0.0]]])
    lists = multi(lambda _: logits, candidates_of(3), num_users=1, k=2, steps=1)
    assert lists.items_BK.tolist() == [[0, 1]]


def test_the_order_of_the_slots_is_kept_when_asked_for():
    logits = torch.tensor([[[5.0, 4.9, 0.0], [6.0, 0.0, 0.0]]])
    by_slot = multi(lambda _: logits, candidates_of(3), num_users=1, k=2, steps=1, rank="slot")
    by_next_item = multi(lambda _: logits, candidates_of(3), num_users=1, k=2, steps=1)
    assert by_slot.items_BK.tolist() == [[1, 0]]
    assert by_next_item.items_BK.tolist() == [[0, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_a_users_multi_list_does_not_depend_on_its_batch_neighbours(seed):
    tables = random_tables(6, 4, 9, seed, scale=2.0)
    together = multi(denoise_with(tables), candidates_of(9, [(2, 5)]), num_users=6, k=4)
    for user in range(6):
        blocked = [(0, 5)] if user == 2 else []
        table = tables[user : user + 1]
        alone = multi(denoise_with(table), candidates_of(9, blocked), num_users=1, k=4)
        assert torch.equal(alone.items_BK[0], together.items_BK[user])
        assert torch.allclose(alone.scores_BK[0], together.scores_BK[user], atol=1e-5)


def test_autoregressive_asks_with_the_items_chosen_so_far():
    asked: list[list[list[int]]] = []

    def next_states(chosen_BJ: Tensor) -> Tensor:
        asked.append(chosen_BJ.tolist())
        # the item behind the one chosen last, round the circle of five
        favourite_B = (chosen_BJ[:, -1] + 1) % 5 if chosen_BJ.shape[1] else torch.tensor([3, 0])
        return 5.0 * torch.nn.functional.one_hot(favourite_B, 5).float()

    lists = decode_autoregressive(
        next_states, candidates_of(5, [(1, 2)]), num_users=2, k=3, rank="slot"
    )
    assert asked == [[[], []], [[3], [0]], [[3, 4], [0, 1]]]
    assert lists.items_BK.tolist() == [[3, 4, 0], [0, 1, 3]]  # of equal ones the first


def test_autoregressive_scores_are_those_of_the_first_pass():
    first = torch.tensor([[2.0, 1.0, 0.0]])
    later = torch.tensor([[0.0, 0.0, 9.0]])
    lists = decode_autoregressive(
        lambda chosen_BJ: later if chosen_BJ.shape[1] else first,
        candidates_of(3),
        num_users=1,
        k=2,
        rank="next_item",
    )
    expected = first.log_softmax(1)[0, [0, 2]].tolist()
    assert lists.items_BK.tolist() == [[0, 2]]
    assert lists.scores_BK[0].tolist() == pytest.approx(expected)


# --- scores of a user's own items ---

Own = dict[tuple[int, int], float]  # (user, item) -> what is added to the logit


class FixedScores:
    def __init__(self, own: Own) -> None:
        self.own = own

    def of_rows(self, queries_RW: Tensor, users_R: Tensor) -> Extras:
        triples = [
            (row, item, score)
            for row, user in enumerate(users_R.tolist())
            for (owner, item), score in sorted(self.own.items())
            if owner == user
        ]
        rows, items, scores = ([triple[n] for triple in triples] for n in range(3))
        return Extras(
            torch.tensor(rows, dtype=torch.int64),
            torch.tensor(items, dtype=torch.int64),
            torch.tensor(scores, dtype=torch.float32),
        )

    def among(self, users_P: Tensor, items_P: Tensor) -> "FixedScores":
        kept = set(zip(users_P.tolist(), items_P.tolist(), strict=True))
        return FixedScores({pair: score for pair, score in self.own.items() if pair in kept})

    def rise(self, before_RW: Tensor, after_RW: Tensor) -> Tensor:
        return torch.zeros(len(before_RW))


def with_own(candidates: Candidates, own: Own) -> Candidates:
    """Every state of a user gets the same scores, by row and item as a model gives them."""
    return replace(candidates, own=FixedScores(own))


def in_logits(logits_BV: Tensor, own: Own) -> Tensor:
    logits_BV = logits_BV.clone()
    for (user, item), score in own.items():
        logits_BV[user, item] += score
    return logits_BV


OWN: Own = {(0, 2): 3.0, (2, 0): -4.0, (2, 4): 1.5, (2, 1): -math.inf}
LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]]).repeat(3, 1)


def test_own_scores_change_the_ranking_and_the_scores_of_their_users_alone():
    plain = decode_single(LOGITS, candidates_of(5), k=3)
    lists = decode_single(LOGITS, with_own(candidates_of(5), OWN), k=3)
    assert plain.items_BK.tolist() == [[0, 1, 2]] * 3
    assert lists.items_BK.tolist() == [[2, 0, 1], [0, 1, 2], [2, 4, 3]]
    assert torch.equal(plain.scores_BK[1], lists.scores_BK[1])
    expected = in_logits(LOGITS, OWN).log_softmax(1).gather(1, lists.items_BK)
    assert torch.allclose(lists.scores_BK, expected)


@pytest.mark.parametrize("mode", ["single", "multi", "multi by slot", "autoregressive"])
@pytest.mark.parametrize("seed", range(3))
def test_own_scores_are_as_if_they_were_in_the_logits(seed, mode):
    generator = torch.Generator().manual_seed(seed)
    logits_BSV = 2 * torch.randn(3, 4, 9, generator=generator)
    chosen = torch.rand(3, 9, generator=generator) < 0.5
    scores = 2 * torch.randn(3, 9, generator=generator)
    own = {(user, item): float(scores[user, item]) for user, item in chosen.nonzero().tolist()}
    plain, extended = (candidates_of(9, [(1, 3), (2, 0)], denied=[5]) for _ in range(2))
    both = []
    for logits, candidates in (
        (torch.stack([in_logits(logits_BSV[:, s], own) for s in range(4)], dim=1), plain),
        (logits_BSV, with_own(extended, own)),
    ):
        if mode == "single":
            both.append(decode_single(logits[:, 0], candidates, k=4))
        elif mode == "autoregressive":
            both.append(
                decode_autoregressive(
                    lambda chosen_BJ, logits=logits: logits[:, chosen_BJ.shape[1]],
                    candidates,
                    num_users=3,
                    k=4,
                    rank="next_item",
                )
            )
        else:
            both.append(
                multi(
                    lambda _, logits=logits: logits,
                    candidates,
                    num_users=3,
                    k=4,
                    steps=2,
                    rank="slot" if mode == "multi by slot" else "next_item",
                )
            )
    assert torch.equal(both[0].items_BK, both[1].items_BK)
    assert torch.allclose(both[0].scores_BK, both[1].scores_BK, atol=1e-5)


def test_the_scores_of_a_multi_list_are_those_of_a_single_one():
    candidates = with_own(candidates_of(5, [(0, 1)]), OWN)
    single = decode_single(LOGITS, candidates, k=5)
    several = multi(lambda _: LOGITS[:, None].expand(3, 5, 5), candidates, num_users=3, k=5)
    one_by_one = decode_autoregressive(
        lambda _: LOGITS, candidates, num_users=3, k=5, rank="next_item"
    )
    assert single.items_BK[0].tolist() == [2, 0, 3, 4, -1]
    for other in (several, one_by_one):
        # what an own score of -inf excludes may fill the end of a list, with no probability
        finite = torch.isfinite(single.scores_BK)
        assert torch.equal(single.items_BK[finite], other.items_BK[finite])
        assert torch.allclose(single.scores_BK, other.scores_BK)


def test_own_scores_of_a_filtered_item_bring_nothing_back():
    candidates = with_own(candidates_of(5, [(0, 2)]), OWN)
    lists = decode_single(LOGITS, candidates, k=5)
    assert lists.items_BK[0].tolist() == [0, 1, 3, 4, -1]
