"""Neighbours of items, against loops over all pairs."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from item_catalogues import IDS, items_of
from similar_logs import NUM_ITEMS, Log, histories_of, logs

from diffsasrec.counters.similar import similarity
from diffsasrec.item_tables import neighbours
from diffsasrec.item_tables.neighbours import AlikeInVectors, OccurringTogether
from diffsasrec.item_tables.popular import of_categories
from diffsasrec.item_tables.tables import similar_table

COUNTS = np.array([1.0, 4.0, 5.0, 6.0, 2.0, 5.0])  # of IDS
MASKS = st.lists(st.booleans(), min_size=NUM_ITEMS, max_size=NUM_ITEMS)
Rows = list[tuple[str, str, int, str]]


def slow_best(scores: np.ndarray, allowed: set[int], kinds: list, k: int, most: int | None) -> list:
    """The pairs (item, neighbour) of a dense [N, N] table in the order of their ranks."""
    pairs = []
    for item in range(len(scores)):
        taken: list[int] = []
        order = sorted(range(len(scores)), key=lambda other: (-scores[item, other], other))
        for other in order:
            same = [t for t in taken if kinds[t] is not None and kinds[t] == kinds[other]]
            is_full = most is not None and len(same) >= most
            if other in allowed and other != item and scores[item, other] > -2 and not is_full:
                taken.append(other)
        pairs += [(item, other) for other in taken[:k]]
    return pairs


def kinds_of(items) -> list[str | None]:
    return [None if c < 0 else items.names[c].as_py() for c in items.category]


@settings(deadline=None)
@given(log=logs, mask=MASKS, k=st.integers(1, 6), most=st.none() | st.integers(1, 2))
@pytest.mark.parametrize(("by", "table"), [("users", 0), ("baskets", 1), ("next_baskets", 2)])
def test_neighbours_are_the_best_allowed_of_the_tables_of_similar_items(
    by, table: int, log: Log, mask: list[bool], k: int, most: int | None
):
    items = items_of(denied=tuple(np.array(IDS)[~np.array(mask)]))
    source = OccurringTogether.of(histories_of(log), items, by=by, max_per_category=most)
    dense = similarity(histories_of(log), num_items=NUM_ITEMS).tables()[table].toarray()
    dense[dense == 0] = -9  # no neighbour
    expected = slow_best(dense, set(np.flatnonzero(mask)), kinds_of(items), k, most)
    parts = [source.best(range(2), k), source.best(range(2, NUM_ITEMS), k)]
    found = [
        (i, n)
        for part in parts
        for i, n in zip(part.items.tolist(), part.neighbours.tolist(), strict=True)
    ]
    # the slow sums add in another order: pairs whose cosines are equal may change places
    scores = [s for part in parts for s in part.scores.tolist()]
    assert [item for item, _ in found] == [item for item, _ in expected]
    assert scores == pytest.approx([dense[pair] for pair in expected], abs=1e-6)


@settings(deadline=None)
@given(seed=st.integers(0, 99), mask=MASKS, k=st.integers(1, 7), most=st.none() | st.just(1))
def test_neighbours_by_vectors_are_the_largest_cosines(
    seed: int, mask: list[bool], k: int, most: int | None
):
    items = items_of(denied=tuple(np.array(IDS)[~np.array(mask)]))
    vectors = np.random.default_rng(seed).normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    trained = np.arange(NUM_ITEMS) != 2
    source = AlikeInVectors.of(vectors, trained, items, max_per_category=most)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = slow_best(unit @ unit.T, set(np.flatnonzero(mask)), kinds_of(items), k, most)
    found = source.best(range(NUM_ITEMS + 3), k)
    pairs = list(zip(found.items.tolist(), found.neighbours.tolist(), strict=True))
    assert pairs == [pair for pair in expected if pair[0] != 2]
    cosines = [(unit @ unit.T)[pair] for pair in pairs]
    assert found.scores.tolist() == pytest.approx(cosines, abs=1e-5)


def test_items_are_looked_at_in_chunks_with_the_same_result(monkeypatch):
    vectors = np.random.default_rng(1).normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    source = AlikeInVectors.of(vectors, np.ones(NUM_ITEMS, bool), items_of(), max_per_category=None)
    whole = source.best(range(NUM_ITEMS), 3)
    monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", 2)
    parts = source.best(range(NUM_ITEMS), 3)
    assert parts.neighbours.tolist() == whole.neighbours.tolist()


def rows_of(table: pa.Table) -> Rows:
    names = ("item_id", "neighbour_id", "rank", "source")
    return [tuple(row[name] for name in names) for row in table.to_pylist()]


def table_of(log: Log, *, k: int = 2, denied: tuple[str, ...] = ()) -> Rows:
    """The neighbours by users, with two fruits that nobody has bought yet."""
    items = items_of(denied=denied, new=("quince", "lime"))
    source = OccurringTogether.of(histories_of(log), items, by="users", max_per_category=None)
    counts = np.r_[COUNTS, 0, 0]
    popular = of_categories(items, counts, k + 1)
    return rows_of(similar_table(range(len(items)), items, source, popular, k=k, by="users"))


def test_an_item_without_neighbours_has_the_popular_ones_of_its_category():
    assert table_of([[(0, 1), (5, 2)]]) == [
        ("apple", "glue", 1, "users"),
        ("pear", "plum", 1, "category"),  # not itself
        ("pear", "apple", 2, "category"),
        ("plum", "pear", 1, "category"),
        ("plum", "apple", 2, "category"),
        ("hammer", "saw", 1, "category"),
        ("saw", "hammer", 1, "category"),
        ("glue", "apple", 1, "users"),
        ("lime", "plum", 1, "category"),
        ("lime", "pear", 2, "category"),
        ("quince", "plum", 1, "category"),
        ("quince", "pear", 2, "category"),
    ]


def test_what_is_denied_is_nobody_s_neighbour_and_has_neighbours_itself():
    rows = table_of([[(0, 1), (5, 2), (1, 3)]], denied=("plum", "glue"))
    assert not {"plum", "glue"} & {neighbour for _, neighbour, _, _ in rows}
    assert ("glue", "apple", 1, "users") in rows and ("plum", "pear", 1, "category") in rows


def test_an_item_that_only_the_log_knows_has_neighbours_and_is_none():
    from diffsasrec.item_tables.all_items import AllItems

    weights, log = pa.table({"item_id": ["a", "b"]}), pa.table({"item_id": ["a", "b", "new"]})
    items = AllItems.of(weights, log, np.ones(2, bool), None)
    source = OccurringTogether.of(
        histories_of([[(0, 1), (1, 2), (2, 3)]]), items, by="users", max_per_category=None
    )
    found = source.best(range(3), 5)
    pairs = list(zip(found.items.tolist(), found.neighbours.tolist(), strict=True))
    assert pairs == [(0, 1), (1, 0), (2, 0), (2, 1)]
