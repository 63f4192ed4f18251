"""The audit of the tables of items: each way to break a rule is found and named."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from item_catalogues import FRUIT, items_of
from similar_logs import histories_of

from diffsasrec.item_tables.audit import FORBIDDEN, audit_similar, audit_trending
from diffsasrec.item_tables.neighbours import OccurringTogether
from diffsasrec.item_tables.popular import of_categories
from diffsasrec.item_tables.tables import similar_table, trending_table

COUNTS = np.array([1.0, 4.0, 5.0, 6.0, 2.0, 5.0])
ITEMS = items_of(denied=("saw",))
POPULAR = of_categories(ITEMS, COUNTS, 3)
ROWS = range(len(ITEMS))
LOG = [[(0, 1), (5, 2), (1, 3)], [(0, 1), (5, 1)]]
SOURCE = OccurringTogether.of(histories_of(LOG), ITEMS, by="users", max_per_category=None)
SIMILAR = similar_table(ROWS, ITEMS, SOURCE, POPULAR, k=2, by="users")
TRENDING = trending_table(ITEMS, COUNTS, k=2, max_per_category=None, half_life_days=7.0)


def similar_with(table: pa.Table, **settings: Any) -> Counter[str]:
    known: dict[str, Any] = {"k": 2, "by": "users", "max_per_category": None} | settings
    return audit_similar(table, ROWS, ITEMS, POPULAR, **known)


def trending_with(table: pa.Table, **settings: Any) -> Counter[str]:
    return audit_trending(table, ITEMS, TRENDING, **({"k": 2, "max_per_category": None} | settings))


def changed(table: pa.Table, row: int, **values: Any) -> pa.Table:
    """The table with other values in one row; the last one where it is -1."""
    rows = table.to_pylist()
    rows[row] |= values
    return pa.Table.from_pylist(rows, table.schema)


def test_tables_as_they_are_made_break_no_rule():
    assert not similar_with(SIMILAR) and not trending_with(TRENDING)
    assert [r["source"] for r in SIMILAR.to_pylist()].count("category") == 3  # plum 2, saw 1


@pytest.mark.parametrize(
    ("row", "values", "rule"),
    [
        (0, {"neighbour_id": "saw"}, FORBIDDEN),
        (0, {"neighbour_id": "unheard of"}, FORBIDDEN),
        (0, {"neighbour_id": "apple"}, "neighbour: the item itself"),
        (1, {"neighbour_id": "glue"}, "neighbour: an item twice"),
        (1, {"rank": 3}, "rank: not 1, 2, 3, ..."),
        (0, {"score": float("nan")}, "score: not finite"),
        (0, {"score": 0.0}, "score: higher than that of the row above"),
        (0, {"source": "baskets"}, "source: not what it must be"),
        (0, {"item_id": "glue"}, "item: not of this file, or not in its order"),
        (-1, {"neighbour_id": "plum", "item_id": "nothing"}, "item: not of this file, or not in"),
    ],
)
def test_a_row_of_similar_items_that_breaks_a_rule_is_named(row: int, values: Any, rule: str):
    found = similar_with(changed(SIMILAR, row, **values))
    assert [name for name in found if name.startswith(rule)], found


def test_more_neighbours_than_asked_for_or_of_one_category_are_named():
    assert similar_with(SIMILAR, k=1)["rank: above 1"] == 4
    # glue has two fruits
    assert similar_with(SIMILAR, max_per_category=1) == {"neighbour: more than 1 of a category": 1}


def test_a_cold_item_without_the_popular_ones_of_its_category_is_named():
    rule = "category: not its most popular items"
    is_cold = np.array([row["source"] == "category" for row in SIMILAR.to_pylist()])
    assert similar_with(SIMILAR.filter(pa.array(~is_cold))) == {rule: 1}
    row = int(np.flatnonzero(is_cold)[0])
    assert rule in similar_with(changed(SIMILAR, row, neighbour_id="hammer"))


def test_other_columns_are_named():
    assert similar_with(SIMILAR.drop(["score"])) == {"columns: not those of similar_items": 9}
    assert trending_with(TRENDING.drop(["score"])) == {"columns: not those of trending": 5}


@pytest.mark.parametrize(
    ("row", "values", "rule"),
    [
        (0, {"item_id": "saw"}, FORBIDDEN),
        (0, {"rank": 2}, "rank: not 1, 2, 3, ..."),
        (0, {"score": 0.0}, "score: higher than that of the row above"),
        (2, {"category": "unheard of"}, "category: not that of the item"),
        (4, {"category": FRUIT}, "category: not that of the item"),
        (0, {"item_id": "apple"}, "trending: not what is counted in the log"),
        (0, {"half_life_days": 8.0}, "trending: not what is counted in the log"),
    ],
)
def test_a_row_of_trending_items_that_breaks_a_rule_is_named(row: int, values: Any, rule: str):
    assert rule in trending_with(changed(TRENDING, row, **values))


def test_trending_items_beyond_the_number_or_the_cap_are_named():
    assert trending_with(TRENDING, k=1)["rank: above 1"] == 2
    many = trending_table(ITEMS, COUNTS, k=4, max_per_category=None, half_life_days=7.0)
    found = trending_with(many, k=4, max_per_category=1)
    assert found == {"of all: more than 1 of a category": 1}


def test_tables_without_rows_break_no_rule_where_nothing_is_to_be_shown():
    items = items_of(denied=tuple(items_of().ids.to_pylist()))
    source = OccurringTogether.of(histories_of([[]]), items, by="users", max_per_category=1)
    popular = of_categories(items, COUNTS, 3)
    similar = similar_table(ROWS, items, source, popular, k=2, by="users")
    trending = trending_table(items, COUNTS, k=2, max_per_category=1, half_life_days=7.0)
    assert (similar.num_rows, trending.num_rows) == (0, 0)
    settings: dict[str, Any] = {"k": 2, "max_per_category": 1}
    assert not audit_similar(similar, ROWS, items, popular, by="users", **settings)
    assert not audit_trending(trending, items, trending, **settings)
