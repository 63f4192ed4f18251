"""The best of a catalogue, against a full stable sort; and the bound on what a state can change.

Legend: V items, W width of item vectors, R rows, M best items per row.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.retrieve import catalogue
from diffsasrec.retrieve.catalogue import Candidates, Catalogue
from diffsasrec.retrieve.logit_bound import Metric
from diffsasrec.retrieve.tiles import BLOCK, ordered_top
from diffsasrec.retrieve.top_k import top_items

NONE = torch.zeros(0, dtype=torch.int64)


@given(
    rows=st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.lists(
                st.sampled_from([0.0, 1.0, 1.0, 2.0, -math.inf]), min_size=width, max_size=width
            ),
            min_size=1,
            max_size=4,
        )
    ),
    m=st.integers(1, 7),
)
@settings(deadline=None, max_examples=300)
def test_ordered_top_equals_a_full_stable_sort(rows, m):
    values, columns = ordered_top(torch.tensor(rows), m)
    for row, row_values, row_columns in zip(rows, values.tolist(), columns.tolist(), strict=True):
        finite = [column for column in range(len(row)) if row[column] > -math.inf]
        expected = sorted(finite, key=lambda column: (-row[column], column))[:m]
        assert row_columns == expected + [-1] * (m - len(expected))
        assert row_values == [row[c] for c in expected] + [-math.inf] * (m - len(expected))


@given(seed=st.integers(0, 10_000), m=st.sampled_from([1, 10, 99, 100]))
@settings(deadline=None)
def test_ordered_top_of_long_rows_settles_ties_by_the_column(seed, m):
    generator = torch.Generator().manual_seed(seed)
    values_RV = torch.randint(6, (3, 100), generator=generator).float()
    _, columns = ordered_top(values_RV, m)
    _, expected = values_RV.sort(dim=1, descending=True, stable=True)
    assert torch.equal(columns, expected[:, :m])


def slow_top(logits_V: torch.Tensor, m: int) -> list[int]:
    """The m items with the highest finite logits, of equal ones the first; -1: none left."""
    order = sorted(range(len(logits_V)), key=lambda item: (-float(logits_V[item]), item))
    best = [item for item in order if float(logits_V[item]) > -math.inf][:m]
    return best + [-1] * (m - len(best))


@pytest.fixture(params=[(3, BLOCK), (2, 3 * BLOCK), (5, 1000 * BLOCK)], ids=str)
def tiles(request, monkeypatch):
    """Many small tiles, or one: the real ones would need a million logits."""
    monkeypatch.setitem(catalogue.TILES, "cpu", request.param)


@pytest.mark.parametrize("m", [1, 4, 70, 400])
@pytest.mark.parametrize("levels", [3, 10**6])
@pytest.mark.parametrize("num_items", [5, 130, 300])
def test_top_items_equal_a_full_sort_of_what_is_allowed(tiles, num_items, levels, m):
    generator = torch.Generator().manual_seed(m)
    # whole numbers: sums are exact, and with few levels most logits have an equal
    vectors = torch.randint(levels, (num_items, 2), generator=generator).float() / levels
    queries = torch.randint(2, (7, 2), generator=generator).float()
    users = torch.tensor([0, 0, 1, 2, 2, 2, 4])
    allowed = torch.rand(num_items, generator=generator) < 0.8
    blocked_users = torch.randint(5, (3 * num_items,), generator=generator)
    blocked_items = torch.randint(num_items, (3 * num_items,), generator=generator)
    candidates = Candidates(Catalogue(vectors, allowed), blocked_users, blocked_items)
    top = top_items(queries, users, candidates, m, normalise=True)
    logits_RV = queries @ vectors.T
    logits_RV[:, ~allowed] = -torch.inf
    for row in range(7):
        logits_RV[row, blocked_items[blocked_users == users[row]]] = -torch.inf
        expected = slow_top(logits_RV[row], m)
        assert top.items_RM[row].tolist() == expected
        values = [float(logits_RV[row, item]) if item >= 0 else -math.inf for item in expected]
        assert top.logits_RM[row].tolist() == values
    assert torch.allclose(top.normaliser_R, logits_RV.logsumexp(1), atol=1e-5)


def test_a_normaliser_that_nobody_asks_for_is_not_made():
    candidates = Candidates(Catalogue(torch.eye(3), torch.ones(3).bool()), NONE, NONE)
    top = top_items(torch.eye(3), torch.arange(3), candidates, 1)
    assert top.items_RM.tolist() == [[0], [1], [2]] and len(top.normaliser_R) == 0


def test_blocked_items_are_counted_once_and_only_where_they_were_allowed():
    allowed = torch.tensor([True, True, True, True, False])
    users, items = torch.tensor([[0, 1], [0, 1], [2, 4], [2, 0], [2, 3]]).T
    candidates = Candidates(Catalogue(torch.eye(5), allowed), users, items)
    assert candidates.num_left(4).tolist() == [3, 4, 2, 4]


@pytest.mark.parametrize("m", [1, 20, 200, 1000])
def test_ranked_with_a_spread_the_same_items_come_in_any_order(tiles, m):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 4, generator=generator)
    vectors[::50] *= 10  # a few lie far out
    queries, spread = torch.randn(7, 4, generator=generator), torch.linspace(0, 3, 7)
    items = Catalogue(vectors, torch.arange(300) % 7 > 0)
    candidates = Candidates(items, torch.tensor([2, 2]), torch.tensor([50, 51]))
    top = top_items(queries, torch.arange(7), candidates, m, normalise=True, spread_R=spread)
    logits_RV = queries @ vectors.T
    logits_RV[:, ~items.allowed_V] = -torch.inf
    logits_RV[2, [50, 51]] = -torch.inf
    excess_V = torch.zeros(300)
    excess_V[items.items_C] = items.metric.excess_C
    ranked_RV = logits_RV + spread[:, None] * excess_V
    for row in range(7):
        expected = [item for item in slow_top(ranked_RV[row], m) if item >= 0]
        found = top.items_RM[row][top.items_RM[row] >= 0]
        assert sorted(found.tolist()) == sorted(expected)
        assert torch.allclose(
            top.logits_RM[row].sort().values[-len(expected) :],
            ranked_RV[row, expected].sort().values,
            atol=1e-4,
        )
    assert torch.allclose(top.normaliser_R, logits_RV.logsumexp(1), atol=1e-5)


@given(
    seed=st.integers(0, 10_000),
    num=st.integers(1, 200),
    width=st.integers(1, 12),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
)
@settings(deadline=None)
def test_no_logit_rises_by_more_than_the_bound(seed, num, width, scale):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(num, width, generator=generator) * torch.logspace(-3, 1, width)
    vectors[:, 0] = 1.0  # no variance, as of a trend that nothing has
    changes = scale * torch.randn(5, width, generator=generator)
    metric = Metric.of(vectors)
    for spread in (0.0, 0.5, 100.0):
        spread_R = torch.full((5,), spread)
        rise_R = metric.rise(changes, spread_R)
        beyond_RC = changes @ vectors.T - spread * metric.excess_C
        slack = 1e-4 * (1 + changes.abs().amax() * vectors.abs().amax() * width)
        assert (beyond_RC.amax(1) <= rise_R + slack).all()
