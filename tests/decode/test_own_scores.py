"""Scores of a user's own items beside those of the catalogue."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from slow_decoding import candidates_of, multi
from torch import Tensor

from diffsasrec.decode.strategies import decode_autoregressive, decode_single
from diffsasrec.model.heads.pairs import Extras
from diffsasrec.retrieve.catalogue import Candidates

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


def behind(logits_BSV: Tensor, chosen_BJ: Tensor) -> Tensor:
    """Of the slot behind those that are chosen."""
    return logits_BSV[:, chosen_BJ.shape[1]]


def whatever(logits_BSV: Tensor, slots_BK: Tensor) -> Tensor:
    return logits_BSV


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
                    partial(behind, logits),
                    candidates,
                    num_users=3,
                    k=4,
                    rank="next_item",
                )
            )
        else:
            both.append(
                multi(
                    partial(whatever, logits),
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
