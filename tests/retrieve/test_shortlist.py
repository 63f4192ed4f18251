"""A shortlist changes no list: what it can't decide is decided by the whole catalogue."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from slow_decoding import SCHEDULE

from diffsasrec.decode.exploration import Exploration
from diffsasrec.decode.multi_step import decode_multi
from diffsasrec.decode.strategies import Lists
from diffsasrec.model.heads.pairs import Extras, pairs_of_rows
from diffsasrec.retrieve.catalogue import Candidates, Catalogue
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.retrieve.shortlist import Shortlist, ascending, logits_of

NUM_USERS, NUM_ITEMS, WIDTH, K = 12, 2000, 8, 5
NOWHERE = torch.zeros(0, dtype=torch.int64)


class OwnScores:
    """A score for some pairs that depends on the state, and the true bound on its rise."""

    def __init__(self, users: torch.Tensor, items: torch.Tensor, vectors: torch.Tensor) -> None:
        self.users, self.items, self.vectors = users, items, vectors

    def of_rows(self, queries: torch.Tensor, users: torch.Tensor) -> Extras:
        rows, at = pairs_of_rows(users, self.users)
        known = queries[rows][:, : self.vectors.shape[1]]
        scores = torch.tanh((known * self.vectors[self.items[at]]).sum(1)) * 3
        return Extras(rows, self.items[at], scores)

    def among(self, users: torch.Tensor, items: torch.Tensor) -> "OwnScores":
        kept = torch.isin(self.users * NUM_ITEMS + self.items, users * NUM_ITEMS + items)
        return OwnScores(self.users[kept], self.items[kept], self.vectors)

    def rise(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return 3 * (after - before).norm(dim=1) * self.vectors.norm(dim=1).max()


def with_boosts(catalogue: Catalogue, boost: float) -> Catalogue:
    """With a boost of every 50th item; 0: no vector has one."""
    if not boost:
        return catalogue
    boost_V1 = (torch.arange(NUM_ITEMS) % 50 == 0)[:, None] * boost
    wider = torch.cat([catalogue.vectors_VW, boost_V1], dim=1)
    return replace(catalogue, vectors_VW=wider, is_boosted=True)


def decoded(
    shortlist: int,
    *,
    scale: float,
    steps: int,
    places: int,
    own: bool,
    capped: bool = False,
    boost: float = 0.0,
) -> Lists:
    """Lists of users whose slots move by `scale` from the next item's state, step by step."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(NUM_ITEMS, WIDTH, generator=generator)
    vectors[::400] *= 5
    allowed = torch.rand(NUM_ITEMS, generator=generator) < 0.9
    shown = torch.randint(4, (NUM_ITEMS,), generator=generator).float()
    users, items = (torch.randint(n, (200,), generator=generator) for n in (NUM_USERS, NUM_ITEMS))
    pairs = torch.randint(NUM_USERS * NUM_ITEMS, (300,), generator=generator).unique()
    scores = OwnScores(pairs // NUM_ITEMS, pairs % NUM_ITEMS, vectors / 4)
    cap = CategoryCap(2, torch.arange(NUM_ITEMS) % 7 - 1) if capped else None
    catalogue = with_boosts(Catalogue(vectors, allowed, shown, cap), boost)
    next_BW = torch.randn(NUM_USERS, WIDTH, generator=generator)
    drift_KW = scale * torch.randn(K, WIDTH, generator=generator)

    def fitting(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(states, (0, 1), value=1.0) if boost else states

    def denoise(slots_BK: torch.Tensor) -> torch.Tensor:
        chosen_BKW = vectors[slots_BK.clamp(min=0)] * (slots_BK >= 0)[..., None]
        states_BKW = next_BW[:, None] + drift_KW + scale * 0.2 * chosen_BKW.sum(1, keepdim=True)
        return fitting(states_BKW[slots_BK == -1])

    candidates = Candidates(catalogue, users, items, scores if own else None)
    options: dict[str, Any] = {"k": K, "steps": steps, "rule": SCHEDULE, "lookahead": 1.0}
    options |= {"exploration": Exploration(places, 0.5), "rank": "next_item"}
    return decode_multi(fitting(next_BW), denoise, candidates, shortlist=shortlist, **options)


@cache
def exactly(**how: Any) -> Lists:
    """The lists by the whole catalogue, to which those of every shortlist are compared."""
    return decoded(0, **how)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffsasrec.decode.multi_step.WORTH", 0)  # large catalogues take long


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("capped", [False, True], ids=["no cap", "cap"])
@pytest.mark.parametrize("own", [False, True], ids=["no own scores", "own scores"])
@pytest.mark.parametrize(("steps", "places"), [(1, 0), (2, 1), (5, 0), (4, 2)])
@pytest.mark.parametrize("scale", [0.0, 0.05, 3.0])
@pytest.mark.parametrize("size", [1, 30, 150, 10_000])
def test_lists_are_those_of_the_whole_catalogue(size, scale, steps, places, own, capped):
    how = {"scale": scale, "steps": steps, "places": places, "own": own, "capped": capped}
    exact = exactly(**how)
    short = decoded(size, **how)
    assert torch.equal(short.items_BK, exact.items_BK)
    assert torch.allclose(short.scores_BK, exact.scores_BK, atol=1e-5)
    assert exact.num_uncertain == 0
    if size > NUM_ITEMS or (size >= 150 and scale == 0 and not capped):
        assert short.num_uncertain == 0


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("own", [False, True], ids=["no own scores", "own scores"])
@pytest.mark.parametrize("boost", [-3.0, 1.0, 50.0])
@pytest.mark.parametrize("scale", [0.0, 0.05, 3.0])
@pytest.mark.parametrize("size", [1, 30, 150])
def test_boosted_lists_are_those_of_the_whole_catalogue(size, scale, boost, own):
    how: dict[str, Any] = {"scale": scale, "steps": 4, "places": 2, "own": own, "boost": boost}
    exact, short = exactly(**how), decoded(size, **how)
    assert torch.equal(short.items_BK, exact.items_BK)
    assert torch.allclose(short.scores_BK, exact.scores_BK, atol=1e-4)
    if size == 150 and scale == 0:
        assert short.num_uncertain == 0
    plain = exactly(**how | {"boost": 0.0})
    assert not torch.equal(plain.items_BK, exact.items_BK)


@pytest.mark.usefixtures("always")
def test_a_boost_makes_no_bound_looser():
    how: dict[str, Any] = {"scale": 0.02, "steps": 5, "places": 0, "own": False}
    plain = decoded(150, **how).num_uncertain
    assert decoded(150, **how, boost=1e-3).num_uncertain == plain < 10


def test_a_small_catalogue_needs_no_shortlist():
    assert decoded(NUM_ITEMS // 16, scale=3.0, steps=5, places=0, own=False).num_uncertain == 0
    assert decoded(NUM_ITEMS // 20, scale=3.0, steps=5, places=0, own=False).num_uncertain > 10


@pytest.mark.usefixtures("always")
def test_states_that_move_far_are_decided_by_the_whole_catalogue():
    assert decoded(30, scale=3.0, steps=5, places=0, own=False).num_uncertain > 10
    assert decoded(150, scale=0.02, steps=5, places=0, own=False).num_uncertain < 10


def test_a_shortlist_holds_the_best_of_the_state_it_was_made_for():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(NUM_ITEMS, WIDTH, generator=generator)
    catalogue = Catalogue(vectors, torch.ones(NUM_ITEMS).bool())
    candidates = Candidates(catalogue, NOWHERE, NOWHERE)
    next_BW = torch.randn(3, WIDTH, generator=generator)
    short = Shortlist.of(next_BW, next_BW[:, None], candidates, size=50)
    expected = (next_BW @ vectors.T).topk(50).indices.sort(dim=1).values
    assert torch.equal(short.items_BN, expected)
    # where nothing moves, nothing outside can be better than the last one inside
    last_B = (next_BW @ vectors.T).topk(50).values[:, -1]
    assert torch.allclose(short.bound(next_BW, torch.arange(3)), last_B, atol=1e-3)


def test_logits_of_lists_are_those_of_the_items_with_the_own_scores():
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(20, WIDTH, generator=generator)
    own = OwnScores(torch.tensor([0, 0, 2]), torch.tensor([3, 9, 5]), vectors)
    candidates = Candidates(Catalogue(vectors, torch.ones(20).bool()), NOWHERE, NOWHERE)
    items = torch.tensor([[3, 9, 11], [0, 2, -1], [5, -1, -1]])
    queries, users = torch.randn(4, WIDTH, generator=generator), torch.tensor([0, 0, 1, 2])
    logits = logits_of(queries, users, items, replace(candidates, own=own), own)
    extras = own.of_rows(queries, users)
    expected = extras.add_to(queries @ vectors.T)
    for row, user in enumerate(users):
        for place, item in enumerate(items[user].tolist()):
            value = expected[row, item] if item >= 0 else -torch.inf
            assert torch.isclose(logits[row, place], torch.as_tensor(value), atol=1e-5)


def test_ascending_puts_what_is_missing_behind():
    assert ascending(torch.tensor([[5, -1, 2], [-1, -1, 0]])).tolist() == [[2, 5, -1], [0, -1, -1]]
