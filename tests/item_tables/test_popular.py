"""The most popular items of all and of each category, and the table that is published of them."""

import numpy as np
from item_catalogues import FRUIT, IDS, TOOL, items_of

from diffsasrec.evaluate.decayed_baselines import UNITS
from diffsasrec.item_tables.all_items import AllItems
from diffsasrec.item_tables.popular import of_all, of_categories, popularity
from diffsasrec.item_tables.tables import trending_table

COUNTS = np.array([1.0, 4.0, 4.0, 6.0, 0.0, 5.0])  # of IDS


def names(items: AllItems, numbers: np.ndarray) -> list[str]:
    return items.ids.take(numbers).to_pylist()


def test_the_most_popular_come_first_of_equal_ones_the_first_item_and_nothing_untouched():
    items = items_of()
    found = of_all(items, COUNTS, 9, max_per_category=None)
    assert names(items, found.items) == ["hammer", "glue", "pear", "plum", "apple"]
    assert found.scores.tolist() == [np.float32(c / 20) for c in (6, 5, 4, 4, 1)]
    assert found.ranks().tolist() == [1, 2, 3, 4, 5]


def test_what_is_denied_is_not_popular_in_any_group():
    items = items_of(denied=("hammer", "pear"))
    whole, each = of_all(items, COUNTS, 2, max_per_category=None), of_categories(items, COUNTS, 2)
    assert names(items, whole.items) == ["glue", "plum"]
    assert names(items, each.items) == ["plum", "apple"]


def test_a_cap_on_categories_holds_for_the_whole_and_leaves_items_without_one():
    items = items_of()
    found = of_all(items, COUNTS, 3, max_per_category=1)
    assert names(items, found.items) == ["hammer", "glue", "pear"]


def test_what_nobody_touched_lately_is_ordered_by_all_that_is_known():
    decayed, ever = np.array([0, 2 * UNITS, 0]), np.array([7, 1, 2])
    assert popularity(decayed, ever).tolist() == [0.7, 2.1, 0.2]


def test_the_table_has_the_whole_first_and_then_the_categories_by_name():
    table = trending_table(
        items_of(), COUNTS, k=2, max_per_category=None, half_life_days=7.0
    ).to_pylist()
    assert [(r["category"], r["item_id"], r["rank"]) for r in table] == [
        (None, "hammer", 1),
        (None, "glue", 2),
        (FRUIT, "pear", 1),
        (FRUIT, "plum", 2),
        (TOOL, "hammer", 1),
    ]
    assert {r["half_life_days"] for r in table} == {7.0}


def test_of_an_empty_log_nothing_is_trending():
    nothing = np.zeros(len(IDS))
    table = trending_table(items_of(), nothing, k=2, max_per_category=1, half_life_days=7.0)
    assert table.num_rows == 0
