"""What a team would run without a model: popularity of late, own most frequent, item-kNN.

All are scores over the catalogue, ranked under the same filters as the model's own.

Legend: B users, V items, K list length; histories are flat items with offsets [B + 1].
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from diffsasrec.top import ordered_top

NEIGHBOURS = 100
SCORES_AT_ONCE = 2**23

Items = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]
Score = Callable[[Items, Offsets], npt.NDArray[np.float32]]  # histories -> [B, V]


def rank_lists(
    score: Score,
    items: Items,
    offsets: Offsets,
    *,
    allowed: npt.NDArray[np.bool_],
    k: int,
    filter_seen: bool,
) -> npt.NDArray[np.int64]:
    """Each user's K best items by `score`, [B, K]; -1 behind the end. Scores of 0 are no advice."""
    num_users = len(offsets) - 1
    tile = max(1, SCORES_AT_ONCE // len(allowed))
    lists = [np.zeros((0, k), np.int64)]
    for start in range(0, num_users, tile):
        stop = min(start + tile, num_users)
        inside = items[offsets[start] : offsets[stop]]
        bounds = offsets[start : stop + 1] - offsets[start]
        scores = np.array(score(inside, bounds), dtype=np.float32)
        scores[(scores <= 0) | ~allowed] = -np.inf
        if filter_seen:
            scores[np.repeat(np.arange(stop - start), np.diff(bounds)), inside] = -np.inf
        lists.append(ordered_top(torch.from_numpy(scores), k)[1].numpy())
    return np.concatenate(lists)


def popularity(counts: npt.NDArray[np.int64]) -> Score:
    """The same counts [V] for everyone."""

    def score(items: Items, offsets: Offsets) -> npt.NDArray[np.float32]:
        shape = (len(offsets) - 1, len(counts))
        return np.broadcast_to(counts.astype(np.float32), shape)

    return score


def own_most_frequent(num_items: int) -> Score:
    """How often the user had each item."""

    def score(items: Items, offsets: Offsets) -> npt.NDArray[np.float32]:
        return np.asarray(user_items(items, offsets, num_items).toarray(), dtype=np.float32)

    return score


def item_knn(similarity: scipy.sparse.csr_matrix) -> Score:
    """The sum of the similarities to the user's items, by how often the user had them."""

    def score(items: Items, offsets: Offsets) -> npt.NDArray[np.float32]:
        histories = user_items(items, offsets, similarity.shape[0])
        return np.asarray((histories @ similarity).toarray(), dtype=np.float32)

    return score


def item_similarity(items: Items, offsets: Offsets, *, num_items: int) -> scipy.sparse.csr_matrix:
    """Dot products of TF-IDF weighted item rows, the 100 largest per item kept, [V, V].

    The weight of (item, user) is sqrt(count) (log V - log(1 + items of the user)): as the library
    implicit has it (TFIDFRecommender).
    """
    counts = user_items(items, offsets, num_items).T.tocsr()
    users = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log(num_items) - np.log1p(users)
    weighted = counts.copy()
    weighted.data = np.sqrt(counts.data) * idf[counts.indices]
    return scipy.sparse.vstack(list(_nearest(weighted)), format="csr")


def _nearest(weighted: scipy.sparse.csr_matrix) -> Iterator[scipy.sparse.csr_matrix]:
    transposed = weighted.T.tocsr()
    for start in range(0, weighted.shape[0], 1024):
        product = (weighted[start : start + 1024] @ transposed).tocsr()
        length = np.diff(product.indptr)
        row = np.repeat(np.arange(len(length)), length)
        order = np.lexsort((product.indices, -product.data, row))
        place = np.arange(len(row)) - np.repeat(product.indptr[:-1], length)
        kept = order[place < NEIGHBOURS]
        yield scipy.sparse.csr_matrix(
            (product.data[kept], (row[kept], product.indices[kept])), shape=product.shape
        )


def user_items(items: Items, offsets: Offsets, num_items: int) -> scipy.sparse.csr_matrix:
    """How often each user had each item, [B, V]."""
    ones = np.ones(len(items), np.float32)
    shape = (len(offsets) - 1, num_items)
    # a copy: sum_duplicates sorts in place, and the histories are the caller's
    matrix = scipy.sparse.csr_matrix((ones, items, offsets), shape=shape, copy=True)
    matrix.sum_duplicates()
    return matrix
