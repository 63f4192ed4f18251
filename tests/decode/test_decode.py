"""Lists of every mode of decoding: distinct and allowed, ordered, and those of the slow rule.

States are logits, as in slow_decoding. Legend: B users, S slots, K list length, V items.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from slow_decoding import (
    ADVERSARIES,
    FILTERS,
    NOTHING,
    SCHEDULE,
    assert_a_list,
    candidates_of,
    denoise_with,
    multi,
    random_tables,
    slow_capped,
    slow_multi,
)
from torch import Tensor

from diffsasrec.decode.commit_rule import CommitRule
from diffsasrec.decode.exploration import CHOICES, Exploration
from diffsasrec.decode.strategies import decode_autoregressive, decode_single
from diffsasrec.retrieve.category_cap import CategoryCap


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
    (2.0, SCHEDULE),
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
    rule: dict[str, Any] = {"k": k, "steps": steps, "rule": replace(SCHEDULE, commit=commit)}
    rule["rank"] = "next_item"
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
    rule = {"k": k, "steps": steps, "rule": replace(SCHEDULE, commit=commit), "rank": rank}
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
            rule=SCHEDULE,
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
