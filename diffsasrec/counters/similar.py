"""Which items go together as of a time: three tables of similar items, counted over histories.

near: items of the same users. together: items of the same baskets, which are the events of a user
at one time. follows: from the items of a basket to those of the user's next one. Each is a cosine
of the items' columns, in which a long history or basket counts less.

Legend: V items, B users, E rows that items are counted in (users or baskets); histories are flat
items and times (microseconds) with offsets [B + 1]. A table is a sparse matrix [V, V], sorted by
row and column, all of whose entries are above 0.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse

from diffsasrec.counters.neighbours import Tastes
from diffsasrec.counters.sparse import Table, best_of_rows, only, product_of, row_bounds, rows_of
from diffsasrec.model.features import Weights, basket_starts
from diffsasrec.sequences.histories import Histories
from diffsasrec.typed_events import concat, take

NEWEST = 200  # events of a user that count in the tables
NEIGHBOURS = 100  # entries that a table keeps of an item, where the catalogue is not large
ENTRIES = 2**22  # that a table has at most: a training holds three for each batch time

Ints = npt.NDArray[np.int64]
Progress = Callable[[float], None]  # the share that is done


@dataclass(frozen=True)
class Similar:
    """The three tables, as of one time."""

    near: Table
    together: Table
    follows: Table
    tastes: Tastes | None = None  # of a sample of users; None: no user is near another

    def tables(self) -> tuple[Table, Table, Table]:
        return self.near, self.together, self.follows

    def reindexed(self, index_V: npt.NDArray[np.int32], num_items: int) -> "Similar":
        """The same by the indices of another vocabulary; items with -1 are left out."""
        near, together, follows = (_reindexed(table, index_V, num_items) for table in self.tables())
        tastes = self.tastes and self.tastes.reindexed(index_V, num_items)
        return Similar(near, together, follows, tastes)


def similarity(
    histories: Histories,
    *,
    num_items: int,
    with_tastes: bool = False,
    progress: Progress = lambda share: None,
) -> Similar:
    """The tables of these histories, which lie before the time that they are asked for.

    Args:
        progress: told the share of the work that is done, from 0 to 1.
    """
    recent = newest(histories, NEWEST)
    by_user, by_basket = _by_user(recent, num_items), _by_basket(recent, num_items)
    before, after = _steps(recent, by_basket)
    return Similar(
        near=_best_products(by_user, by_user, lambda share: progress(share / 2)),
        together=_best_products(by_basket, by_basket, lambda share: progress((2 + share) / 4)),
        follows=_best_products(before, after, lambda share: progress((3 + share) / 4)),
        tastes=Tastes.sample(recent, num_items=num_items) if with_tastes else None,
    )


def incidences(
    histories: Histories, *, num_items: int, by: Literal["users", "baskets", "next_baskets"]
) -> tuple[Table, Table]:
    """Left and right of one table, [E, V]: it is the products of their columns.

    Args:
        by: users for near, baskets for together, next_baskets for follows.
    """
    recent = newest(histories, NEWEST)
    if by == "users":
        by_user = _by_user(recent, num_items)
        return by_user, by_user
    by_basket = _by_basket(recent, num_items)
    return (by_basket, by_basket) if by == "baskets" else _steps(recent, by_basket)


def _by_user(recent: Histories, num_items: int) -> Table:
    shape = (len(recent.offsets) - 1, num_items)
    return _incidence(recent.owners(), recent.items, recent.weights(), shape)


def _by_basket(recent: Histories, num_items: int) -> Table:
    basket, first = baskets(recent)
    return _incidence(basket, recent.items, recent.weights(), (len(first), num_items))


def _steps(recent: Histories, by_basket: Table) -> tuple[Table, Table]:
    """The rows of the baskets that have a next one, and of these next ones."""
    owner_of_basket = recent.owners()[baskets(recent)[1]]
    (earlier,) = np.nonzero(owner_of_basket[1:] == owner_of_basket[:-1])
    return by_basket[earlier], by_basket[earlier + 1]


def num_neighbours(num_items: int) -> int:
    """How many entries a table keeps of each item."""
    return min(NEIGHBOURS, max(ENTRIES // max(num_items, 1), 1))


def newest(histories: Histories, num: int) -> Histories:
    """The newest `num` events of every user."""
    kept_B = np.minimum(histories.lengths(), num)
    place = histories.offsets[1:].repeat(histories.lengths()) - np.arange(len(histories.items))
    chosen = place <= num
    offsets = np.r_[0, np.cumsum(kept_B)].astype(np.int64)
    types = take(histories.types, chosen)
    return Histories(histories.items[chosen], histories.times[chosen], offsets, types)


def baskets(histories: Histories) -> tuple[Ints, Ints]:
    """The number of the basket of each event, [events], and the first event of each basket."""
    starts = basket_starts(histories.times, histories.offsets)
    return np.cumsum(starts) - 1, np.flatnonzero(starts)


def joined(parts: Iterable[Histories]) -> Histories:
    """The users of several histories, one after another."""
    every = list(parts)
    lengths = np.concatenate([part.lengths() for part in every])
    return Histories(
        np.concatenate([part.items for part in every]),
        np.concatenate([part.times for part in every]),
        np.r_[0, np.cumsum(lengths)].astype(np.int64),
        concat([part.types for part in every]),
    )


def _incidence(
    row: Ints, items: npt.NDArray[np.int32], weights: Weights | None, shape: tuple[int, int]
) -> Table:
    """Which items occur in which rows, scaled so that a product of columns is a cosine, [E, V].

    Rows by size^-1/2, columns by how many rows have the item, ^-1/2. Where events have weights, an
    item is as much of a row as its heaviest event there.
    """
    num_items = shape[1]
    if weights is not None:
        return _weighted_incidence(row, items, weights, shape)
    ones = np.ones(len(items), np.float32)
    table = Table((ones, (row, items)), shape=shape)
    table.sum_duplicates()
    size_E = np.diff(table.indptr)
    num_V = np.bincount(table.indices, minlength=num_items)
    values = (size_E[rows_of(table)] * num_V[table.indices].astype(np.float64)) ** -0.5
    return Table((values.astype(np.float32), table.indices, table.indptr), table.shape)


def _weighted_incidence(
    row: Ints, items: npt.NDArray[np.int32], weights: Weights, shape: tuple[int, int]
) -> Table:
    order = np.lexsort((-weights, items, row))
    keys = row[order] * shape[1] + items[order]
    heaviest = order[np.diff(keys, prepend=-1) > 0]
    row, item, weight = row[heaviest], items[heaviest], weights[heaviest]
    size_E = np.bincount(row, weight, minlength=shape[0])
    num_V = np.bincount(item, weight, minlength=shape[1])
    values = weight * (size_E[row] * num_V[item]) ** -0.5
    return Table((values.astype(np.float32), (row, item)), shape=shape)


def _best_products(left_EV: Table, right_EV: Table, progress: Progress) -> Table:
    """The largest products of the columns, left by right, [V, V]; none of an item with itself
    where both are the same.
    """
    left_VE = left_EV.T.tocsr()
    num_items = right_EV.shape[1]
    bounds = row_bounds(left_VE, right_EV)
    parts = []
    for start, stop in pairwise(bounds):
        progress(start / max(num_items, 1))
        product = product_of(left_VE[start:stop], right_EV)
        if left_EV is right_EV:
            product = only(product, product.indices != rows_of(product) + start)
        parts.append(best_of_rows(product, num_neighbours(num_items)))
    return scipy.sparse.vstack(parts, format="csr")


def _reindexed(table: Table, index_V: npt.NDArray[np.int32], num_items: int) -> Table:
    row, column = index_V[rows_of(table)], index_V[table.indices]
    kept = (row >= 0) & (column >= 0)
    entries = (table.data[kept], (row[kept], column[kept]))
    moved = Table(entries, shape=(num_items, num_items))
    moved.sort_indices()
    return moved
