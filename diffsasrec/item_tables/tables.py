"""The two tables of items as they are published."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.counters.sparse import places
from diffsasrec.item_tables.all_items import AllItems
from diffsasrec.item_tables.neighbours import Source, in_category
from diffsasrec.item_tables.popular import Floats, Popular, of_all, of_categories
from diffsasrec.schema import CATEGORY, similar_items_schema, trending_schema


def similar_table(
    rows: range, items: AllItems, source: Source, popular: Popular, *, k: int, by: str
) -> pa.Table:
    """The neighbours of some items, similar_items_schema, in the order of their numbers.

    An item without any by `source` has the most popular of its category instead.

    Args:
        popular: of each category the k + 1 most popular.
    """
    found = source.best(rows, k)
    is_cold = np.ones(len(rows), bool)
    is_cold[found.items - rows.start] = False
    cold = in_category(np.flatnonzero(is_cold) + rows.start, items, popular, k)
    owner = np.concatenate([found.items, cold.items])
    order = owner.argsort(kind="stable")
    neighbours = np.concatenate([found.neighbours, cold.neighbours])[order]
    names = np.repeat([by, CATEGORY], [len(found.items), len(cold.items)])[order]
    return pa.table(
        {
            "item_id": items.ids.take(pa.array(owner[order])),
            "neighbour_id": items.ids.take(pa.array(neighbours)),
            "rank": pa.array(places(owner[order]) + 1, pa.int16()),
            "score": pa.array(np.concatenate([found.scores, cold.scores])[order]),
            "source": pa.array(names, pa.string()),
        },
        schema=similar_items_schema(items.ids.type),
    )


def trending_table(
    items: AllItems,
    popularity_N: Floats,
    *,
    k: int,
    max_per_category: int | None,
    half_life_days: float,
) -> pa.Table:
    """The most popular items of all, then those of each category by its name, trending_schema."""
    whole = of_all(items, popularity_N, k, max_per_category=max_per_category)
    each = of_categories(items, popularity_N, k)
    by_name = pc.sort_indices(items.names).to_numpy().argsort()[each.groups].argsort(kind="stable")
    categories = items.names.take(pa.array(each.groups[by_name]))
    found = np.concatenate([whole.items, each.items[by_name]])
    ranks = np.concatenate([whole.ranks(), each.ranks()[by_name]])
    scores = np.concatenate([whole.scores, each.scores[by_name]])
    return pa.table(
        {
            "category": pa.concat_arrays([pa.nulls(len(whole.items), pa.string()), categories]),
            "item_id": items.ids.take(pa.array(found)),
            "rank": pa.array(ranks, pa.int16()),
            "score": pa.array(scores),
            "half_life_days": pa.array(np.full(len(found), half_life_days)),
        },
        schema=trending_schema(items.ids.type),
    )
