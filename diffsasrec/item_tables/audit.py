"""What every row of the tables of items must be, before anything is published."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.counters.sparse import places
from diffsasrec.item_tables.all_items import AllItems, Ints, Mask
from diffsasrec.item_tables.neighbours import Neighbours, in_category
from diffsasrec.item_tables.popular import Popular
from diffsasrec.schema import CATEGORY, similar_items_schema, trending_schema

FORBIDDEN = "item: denied, not allowed or not trained on"


def audit_similar(
    table: pa.Table,
    rows: range,
    items: AllItems,
    popular: Popular,
    *,
    k: int,
    by: str,
    max_per_category: int | None,
) -> Counter[str]:
    """How many rows of a file of similar_items/ break which rule; nothing if none does.

    Args:
        rows: the items that the file is about.
        popular: of each category the k + 1 most popular, counted once more.
    """
    if not table.schema.equals(similar_items_schema(items.ids.type)):
        return Counter({"columns: not those of similar_items": max(table.num_rows, 1)})
    item = items.number_of(table["item_id"].combine_chunks())
    other = items.number_of(table["neighbour_id"].combine_chunks())
    is_by = np.asarray(pc.equal(table["source"], by))
    is_cold = np.asarray(pc.equal(table["source"], CATEGORY))
    misplaced = (item < rows.start) | (item >= rows.stop) | (np.diff(item, prepend=item[:1]) < 0)
    broken = Counter(
        {
            "item: not of this file, or not in its order": int(misplaced.sum()),
            "source: not what it must be": _wrong_sources(item, is_by, is_cold),
            **_wrong_neighbours(item, other, items),
            **_wrong_ranks(table, item, k),
        }
    )
    if max_per_category is not None:
        over = f"neighbour: more than {max_per_category} of a category"
        broken[over] = _num_over(item[is_by], items.category[other[is_by]], max_per_category)
    if not +broken:
        without = np.setdiff1d(np.arange(rows.start, rows.stop), item[is_by])
        cold = in_category(without, items, popular, k)
        wrong = _num_other(np.stack([item[is_cold], other[is_cold]]), cold)
        broken["category: not its most popular items"] = wrong
    return +broken


def _num_other(found_2X: Ints, cold: Neighbours) -> int:
    """How many pairs (item, neighbour) of cold items there are, if they are not these."""
    same = np.array_equal(found_2X, np.stack([cold.items, cold.neighbours]))
    return 0 if same else max(found_2X.shape[1], 1)


def _wrong_sources(item: Ints, is_by: Mask, is_cold: Mask) -> int:
    """Rows of neither source, and changes of the source within an item."""
    mixed = (item[1:] == item[:-1]) & (is_cold[1:] != is_cold[:-1])
    return int((~is_cold & ~is_by).sum() + mixed.sum())


def _wrong_neighbours(item: Ints, other: Ints, items: AllItems) -> dict[str, int]:
    twice = np.ones(len(item), bool)
    twice[np.unique(item * len(items) + other, return_index=True)[1]] = False
    return {
        FORBIDDEN: _forbidden(other, items),
        "neighbour: the item itself": int((item == other).sum()),
        "neighbour: an item twice": int(twice.sum()),
    }


def audit_trending(
    table: pa.Table, items: AllItems, expected: pa.Table, *, k: int, max_per_category: int | None
) -> Counter[str]:
    """How many rows of trending/ break which rule; `expected`: the table, counted once more."""
    if not table.schema.equals(trending_schema(items.ids.type)):
        return Counter({"columns: not those of trending": max(table.num_rows, 1)})
    item = items.number_of(table["item_id"].combine_chunks())
    category = table["category"].combine_chunks()
    group = pc.index_in(category, value_set=items.names).fill_null(-1).to_numpy()
    group = np.where(np.asarray(category.is_valid()), group, -2)  # -2: of all; -1: of no category
    of_item = np.r_[items.category, -1][item]
    broken = Counter(
        {
            FORBIDDEN: _forbidden(item, items),
            "category: not that of the item": int(((group != -2) & (group != of_item)).sum()),
            **_wrong_ranks(table, group.astype(np.int64), k),
        }
    )
    if max_per_category is not None:
        whole = of_item[group == -2]
        over = f"of all: more than {max_per_category} of a category"
        broken[over] = _num_over(np.zeros(len(whole), np.int64), whole, max_per_category)
    if not +broken and not table.equals(expected):
        broken["trending: not what is counted in the log"] = max(table.num_rows, 1)
    return +broken


def _forbidden(item: Ints, items: AllItems) -> int:
    return int((~np.r_[items.allowed, False][item]).sum())  # -1, which is not known, is the last


def _wrong_ranks(table: pa.Table, group: Ints, k: int) -> dict[str, int]:
    """Rows that are not ranked by their score within their group, which lie together."""
    place, score = places(group), table["score"].to_numpy().astype(np.float64)
    above = np.r_[np.inf, score[:-1]][: len(score)]
    return {
        "rank: not 1, 2, 3, ...": int((table["rank"].to_numpy() != place + 1).sum()),
        f"rank: above {k}": int((place >= k).sum()),
        "score: not finite": int((~np.isfinite(score)).sum()),
        "score: higher than that of the row above": int(((place > 0) & (score > above)).sum()),
    }


def _num_over(owner: Ints, category: npt.NDArray[np.int64], most: int) -> int:
    """How many rows are beyond `most` of one category of an owner."""
    owner, category = owner[category >= 0], category[category >= 0]
    width = int(category.max(initial=0)) + 1
    _, counts = np.unique(owner * width + category, return_counts=True)
    return int(np.maximum(counts - most, 0).sum())
