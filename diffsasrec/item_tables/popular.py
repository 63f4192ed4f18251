"""The most popular items of groups: of all, or of each category.

Legend: N all items, G groups, X entries: the items of a group one after another, the best first.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffsasrec.counters.sparse import places
from diffsasrec.evaluate.decayed_baselines import UNITS
from diffsasrec.item_tables.all_items import AllItems, Ints, Mask

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Popular:
    items: Ints  # [X]
    groups: Ints  # [X], ascending
    scores: npt.NDArray[np.float32]  # [X], the share of all that is counted
    offsets: Ints  # where the entries of each group start, [G + 1]

    def ranks(self) -> Ints:
        """Of each entry within its group, from 1."""
        return places(self.groups) + 1


def popularity(decayed_N: Ints, all_time_N: Ints) -> Floats:
    """What each item counts: its decayed events, and one more that is spread by all of them, [N].

    The one more orders the items that nobody touched lately, as in the fallback lists.

    Args:
        decayed_N: in UNITS.
    """
    return decayed_N / UNITS + all_time_N / max(int(all_time_N.sum()), 1)


def most_popular(
    popularity_N: Floats, chosen_N: Mask, groups_N: Ints, num_groups: int, k: int
) -> Popular:
    """The k chosen items of each group that are most popular; of equal ones the first.

    Items that nobody ever touched are left out.
    """
    (some,) = np.nonzero(chosen_N & (popularity_N > 0) & (groups_N >= 0))
    some = some[np.lexsort((some, -popularity_N[some], groups_N[some]))]
    some = some[places(groups_N[some]) < k]
    offsets = np.searchsorted(groups_N[some], np.arange(num_groups + 1))
    shares = popularity_N[some] / (float(popularity_N.sum()) or 1.0)
    return Popular(some, groups_N[some], shares.astype(np.float32), offsets)


def of_categories(items: AllItems, popularity_N: Floats, k: int) -> Popular:
    """The most popular allowed items of each category."""
    return most_popular(popularity_N, items.allowed, items.category, len(items.names), k)


def of_all(
    items: AllItems, popularity_N: Floats, k: int, *, max_per_category: int | None
) -> Popular:
    """The most popular allowed items, of one category at most so many."""
    chosen = items.allowed
    if max_per_category is not None:
        best = of_categories(items, popularity_N, max_per_category).items
        chosen = chosen & (items.category < 0)
        chosen[best] = True
    return most_popular(popularity_N, chosen, np.zeros(len(items), np.int64), 1, k)
