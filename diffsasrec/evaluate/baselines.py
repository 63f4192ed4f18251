"""What a team would run without a model: popularity of late, own most frequent, item-kNN.

Each scores few items of the catalogue per user, and is ranked under the same filters as the model.
decayed_baselines.py has the ones that weigh events by their age.

Legend: B users, V items, K list length, Y pairs (user, item).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from diffsasrec.sequences.histories import Histories

NEIGHBOURS = 100
# events of the histories that are scored together, or of a single longer one: item-kNN has up to
# NEIGHBOURS scores for each
EVENTS_AT_ONCE = 2**14

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """Histories of users, and what they are asked to be scored for."""

    histories: Histories
    allowed: npt.NDArray[np.bool_]  # [V]
    num_B: npt.NDArray[np.int64]  # how many of the best allowed items are enough


# Scores of the users, [B, V]: all that are above 0, or of each user at least those of the `num_B`
# best allowed items, of equal ones the first.
Score = Callable[[Asked], scipy.sparse.csr_matrix]


def rank_lists(
    score: Score,
    histories: Histories,
    *,
    allowed: npt.NDArray[np.bool_],
    k: int,
    filter_seen: bool,
) -> npt.NDArray[np.int64]:
    """Each user's K best items by `score`, [B, K]; -1 behind the end. Scores of 0 are no advice."""
    offsets = histories.offsets
    lists = np.full((len(offsets) - 1, k), -1, np.int64)
    start = 0
    while start < len(lists):
        within = np.searchsorted(offsets, offsets[start] + EVENTS_AT_ONCE, side="right") - 1
        stop = min(max(int(within), start + 1), start + EVENTS_AT_ONCE, len(lists))
        some = histories.of_users(np.arange(start, stop))
        num_B = k + some.lengths() * filter_seen  # behind k + n items, n of which are filtered
        scores = score(Asked(some, allowed, num_B))
        seen = some.seen()
        seen_Y = seen.owners() * len(allowed) + seen.items
        best = _best(scores, allowed, np.unique(seen_Y) if filter_seen else seen_Y[:0], k)
        lists[start:stop] = best
        start = stop
    return lists


def _best(
    scores: scipy.sparse.csr_matrix,
    allowed: npt.NDArray[np.bool_],
    seen_Y: npt.NDArray[np.int64],
    k: int,
) -> npt.NDArray[np.int64]:
    """`seen_Y`: sorted, user * V + item."""
    row_Y = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    item_Y, score_Y = scores.indices.astype(np.int64), scores.data.astype(np.float32)
    key_Y = row_Y * len(allowed) + item_Y
    at_Y = np.searchsorted(seen_Y, key_Y)
    is_seen_Y = np.r_[seen_Y, -1][at_Y] == key_Y
    (usable_Y,) = np.nonzero((score_Y > 0) & allowed[item_Y] & ~is_seen_Y)
    row_Y, item_Y, score_Y = row_Y[usable_Y], item_Y[usable_Y], score_Y[usable_Y]
    order_Y = np.lexsort((item_Y, -score_Y, row_Y))
    place_Y = np.arange(len(row_Y)) - np.searchsorted(row_Y, row_Y)
    first_Y = place_Y < k
    lists = np.full((scores.shape[0], k), -1, np.int64)
    lists[row_Y[first_Y], place_Y[first_Y]] = item_Y[order_Y][first_Y]
    return lists


class Popularity:
    """The same values for everyone, [V], not below 0."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values.astype(np.float32)
        self._order = np.argsort(-self.values, kind="stable")

    def __call__(self, asked: Asked) -> scipy.sparse.csr_matrix:
        best = self._order[asked.allowed[self._order]]
        ends = np.r_[0, np.cumsum(np.minimum(asked.num_B, len(best)))]
        place_Y = np.arange(ends[-1]) - np.repeat(ends[:-1], np.diff(ends))
        shape = (len(asked.num_B), len(self.values))
        return scipy.sparse.csr_matrix((self.values[best][place_Y], best[place_Y], ends), shape)


def own_most_frequent(asked: Asked) -> scipy.sparse.csr_matrix:
    """How often the user had each item; an event counts what its type weighs."""
    return user_items(asked.histories, len(asked.allowed))


def item_knn(similarity: scipy.sparse.csr_matrix) -> Score:
    """The sum of the similarities to the user's items, by how often the user had them."""

    def score(asked: Asked) -> scipy.sparse.csr_matrix:
        return own_most_frequent(asked) @ similarity

    return score


def item_similarity(
    histories: Histories,
    *,
    num_items: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> scipy.sparse.csr_matrix:
    """Dot products of TF-IDF weighted item rows, the 100 largest per item kept, [V, V].

    The weight of (item, user) is sqrt(count) (log V - log(1 + items of the user)): as the library
    implicit has it (TFIDFRecommender).
    """
    counts = user_items(histories, num_items).T.tocsr()
    users = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log(num_items) - np.log1p(users)
    weighted = counts.copy()
    weighted.data = np.sqrt(counts.data) * idf[counts.indices]
    return scipy.sparse.vstack(list(_nearest(weighted, progress)), format="csr")


def _nearest(
    weighted: scipy.sparse.csr_matrix, progress: Callable[[int, int], None]
) -> Iterator[scipy.sparse.csr_matrix]:
    transposed = weighted.T.tocsr()
    for start in range(0, weighted.shape[0], 1024):
        progress(start, weighted.shape[0])
        product = (weighted[start : start + 1024] @ transposed).tocsr()
        length = np.diff(product.indptr)
        row = np.repeat(np.arange(len(length)), length)
        order = np.lexsort((product.indices, -product.data, row))
        place = np.arange(len(row)) - np.repeat(product.indptr[:-1], length)
        kept = order[place < NEIGHBOURS]
        yield scipy.sparse.csr_matrix(
            (product.data[kept].astype(np.float32), (row[kept], product.indices[kept])),
            shape=product.shape,
        )


def user_items(
    histories: Histories, num_items: int, weights: npt.NDArray[np.float32] | None = None
) -> scipy.sparse.csr_matrix:
    """The weight of each user's events of each item, [B, V]; None: how many there are, each as
    much as its type weighs."""
    if weights is None:
        of_types = histories.weights()
        ones = np.ones(len(histories.items), np.float32)
        weights = ones if of_types is None else of_types.astype(np.float32)
    shape = (len(histories.offsets) - 1, num_items)
    # a copy: sum_duplicates sorts in place, and the histories are the caller's
    matrix = scipy.sparse.csr_matrix(
        (weights, histories.items, histories.offsets), shape=shape, copy=True
    )
    matrix.sum_duplicates()
    return matrix
