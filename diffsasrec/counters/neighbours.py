"""What the users have who are most like a user: nearest users, among a sample of all.

The taste of a user is how much each item weighs in the history, the newest baskets most. Two users
are as near as the cosine of their tastes. What the nearest ones have, each by how near it is, is a
score for items that a user never had: other paths lead there than from item to item.

Legend: V items, B users who are asked for, N users of the sample.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from diffsasrec.counters.sparse import Table, only, product_of, rows_of
from diffsasrec.model.features import basket_starts
from diffsasrec.sequences.histories import Histories

SAMPLE = 20_000  # users among whom neighbours are looked for
NEAREST = 300  # of them that count
DECAY = 0.9  # of the weight of an event with each later basket
SAME = 0.9999  # a cosine above it is the user, or one who has the same and tells nothing
FAINT = 0.01  # of the largest share of a user: items below it are left out of a taste
PAIRS_AT_ONCE = 2**22  # of users, for which a cosine is held

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tastes:
    """The tastes of a sample of users: each row adds up to 1, [N, V]."""

    shares: Table

    @classmethod
    def sample(cls, histories: Histories, *, num_items: int) -> "Tastes":
        """Of users with two events or more, evenly spaced among all of them.

        Whoever has one item tells of no other.
        """
        (some,) = np.nonzero(histories.lengths() > 1)
        chosen = some[np.linspace(0, len(some) - 1, min(SAMPLE, len(some))).astype(np.int64)]
        return cls(tastes_of(histories.of_users(chosen), num_items=num_items))

    def reindexed(self, index_V: npt.NDArray[np.int32], num_items: int) -> "Tastes":
        """The same by the indices of another vocabulary; items with -1 are left out."""
        column = index_V[self.shares.indices]
        kept = column >= 0
        entries = self.shares.data[kept], (rows_of(self.shares)[kept], column[kept])
        moved = Table(entries, shape=(self.shares.shape[0], num_items))
        return Tastes(_by_row(moved))

    @cached_property
    def _by_item(self) -> Table:
        """The tastes with length 1, turned, [V, N]."""
        return _with_length_1(self.shares).T.tocsr()

    def of_nearest(self, shares_BV: Table) -> Table:
        """What the nearest users of some users have, [B, V]: rows add up to 1, or are empty.

        Args:
            shares_BV: the tastes of these users, who may themselves be in the sample.
        """
        num_users, num_sample = shares_BV.shape[0], max(self.shares.shape[0], 1)
        at_once = max(1, PAIRS_AT_ONCE // num_sample)
        turned_BV = _with_length_1(shares_BV)
        parts = [Table((0, self.shares.shape[1]), dtype=np.float32)]
        for start in range(0, num_users, at_once):
            cosines = (turned_BV[start : start + at_once] @ self._by_item).toarray()
            parts.append(product_of(_by_row(_nearest(cosines)), self.shares))
        return scipy.sparse.vstack(parts, format="csr")


def _nearest(cosines_BN: npt.NDArray[np.float32]) -> Table:
    """The `NEAREST` largest cosines of each row, of the users who have not just the same."""
    cosines_BN[cosines_BN >= SAME] = 0.0
    num_rows, num_sample = cosines_BN.shape
    # most of a row is 0: NumPy's partition takes five times as long
    best = torch.from_numpy(cosines_BN).topk(min(NEAREST, num_sample), dim=1, sorted=False)
    order_BM = best.indices.argsort(dim=1)
    values_BM, indices_BM = best.values.gather(1, order_BM), best.indices.gather(1, order_BM)
    indptr = np.arange(num_rows + 1) * values_BM.shape[1]
    entries = values_BM.numpy().ravel(), indices_BM.numpy().ravel(), indptr
    table = Table(entries, cosines_BN.shape)
    return only(table, table.data > 0)


def tastes_of(histories: Histories, *, num_items: int) -> Table:
    """How much each item weighs in each history, [B, V]: rows add up to 1, or are empty.

    An event weighs less by `DECAY` with each later basket, and what its type weighs. Items that are
    next to nothing beside the heaviest one are left out.
    """
    starts = basket_starts(histories.times, histories.offsets)
    number, owner = np.cumsum(starts), histories.owners()
    last = np.r_[number, 0][histories.offsets[1:] - 1]  # of an empty history: not used
    weight = DECAY ** (last[owner] - number).astype(np.float64)
    of_types = histories.weights()
    weight = weight if of_types is None else weight * of_types
    shape = (len(histories.offsets) - 1, num_items)
    table = Table((weight, (owner, histories.items)), shape=shape)
    table.sum_duplicates()
    heaviest_B = table.max(axis=1).toarray().ravel()
    return _by_row(only(table, table.data >= FAINT * heaviest_B[rows_of(table)]))


def _by_row(table: Table) -> Table:
    """Each row divided by its sum, in float32."""
    sums = np.asarray(table.sum(axis=1)).ravel()
    return _divided(table, sums)


def _with_length_1(table: Table) -> Table:
    squares = np.asarray(table.multiply(table).sum(axis=1)).ravel()
    return _divided(table, np.sqrt(squares))


def _divided(table: Table, by_B: npt.NDArray[np.float64]) -> Table:
    data = (table.data / by_B[rows_of(table)]).astype(np.float32)
    return only(Table((data, table.indices, table.indptr), table.shape), data > 0)
