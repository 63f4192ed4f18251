"""Ranking metrics over the full catalogue, fair to ties.

A user's relevant items are those of one moment. Each metric is the mean over them of what it would
be with that item alone, and a metric of all is the mean over users. Ranks are 1-based, 0 for an
item that is not in the list.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diffsasrec.sequences.histories import UserItems

if TYPE_CHECKING:  # commands that only read figures import this file
    import scipy.sparse

Ranks = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
Gains = dict[str, npt.NDArray[np.float64]]
BINS = 1024
UNITS = 2**36  # in 1.0: sums of whole numbers do not depend on the order of what is added


def gains(k: int) -> Gains:
    """What each metric at k gives a rank, as a table indexed by the rank 0..k."""
    rank = np.arange(1, k + 1)
    return {
        f"HR@{k}": np.r_[0.0, np.ones(k)],
        f"NDCG@{k}": np.r_[0.0, 1 / np.log2(rank + 1)],
        f"MRR@{k}": np.r_[0.0, 1 / rank],
    }


def user_gains(lists: npt.NDArray[np.int64], targets: UserItems, *, k: int) -> Gains:
    """What each metric at k gives each user, by its name, [n]: the mean over the user's targets.

    Args:
        lists: [n, K], -1 behind the end.
        targets: the relevant items of each user, at least one; each counts as if it were the only
            one, so that a user has 1 vote, however large the basket is.
    """
    owner = targets.owners()
    ranks = ranks_of(lists[owner, :k], targets.items)
    size = np.maximum(np.diff(targets.offsets), 1)
    return {
        name: np.bincount(owner, weights=gain[ranks], minlength=len(lists)) / size
        for name, gain in gains(k).items()
    }


@dataclass(frozen=True)
class Spread:
    """How some users' values in [0, 1] are spread over bins; spreads of other users are added.

    The mean is that of the values. A bootstrap over users is a multinomial draw over the bins, each
    with the mean of its values: its cost does not grow with the number of users.
    """

    counts: Counts  # users per bin, [BINS + 1]
    sums: Counts  # of their values, in UNITS

    @staticmethod
    def of(values: npt.NDArray[np.float64]) -> "Spread":
        bins = (values * BINS).astype(np.int64)
        sums = np.zeros(BINS + 1, np.int64)
        np.add.at(sums, bins, np.rint(values * UNITS).astype(np.int64))
        return Spread(np.bincount(bins, minlength=BINS + 1), sums)

    def __add__(self, other: "Spread") -> "Spread":
        return Spread(self.counts + other.counts, self.sums + other.sums)

    @property
    def num_users(self) -> int:
        return int(self.counts.sum())

    def mean(self) -> float:
        """0 when there are no users."""
        return int(self.sums.sum()) / UNITS / max(self.num_users, 1)

    def interval(self, *, samples: int, seed: int) -> tuple[float, float]:
        """The 95 % percentile interval of the mean over resampled users."""
        (bins,) = np.nonzero(self.counts)
        if not len(bins):
            return 0.0, 0.0
        counts, total = self.counts[bins], self.num_users
        drawn = np.random.default_rng(seed).multinomial(total, counts / total, size=samples)
        means = drawn @ (self.sums[bins] / UNITS / counts) / total
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)


def bootstrap_means(
    values_MU: npt.NDArray[np.float64], *, samples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Means over resampled users, [samples, M]: paired, every row sees the same users."""
    rng = np.random.default_rng(seed)
    num_users = values_MU.shape[1]
    draws = rng.integers(num_users, size=(samples, num_users))
    return np.stack([values_MU[:, draw].mean(axis=1) for draw in draws])


def next_recall(
    lists: npt.NDArray[np.int64], next_items: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The share of each user's next items [n, N] that its list [n, K] holds; -1: no item, [n]."""
    exists = next_items >= 0
    held = (next_items[:, :, None] == lists[:, None, :]).any(axis=2) & exists
    return held.sum(axis=1) / np.maximum(exists.sum(axis=1), 1)


def intra_list_diversity(
    lists: npt.NDArray[np.int64], user_items: "scipy.sparse.csr_matrix"
) -> npt.NDArray[np.float64]:
    """1 - the mean cosine of the items of a list, pair by pair, [n]; nan below two items.

    The cosine of two items is that of the sets of users who had them, columns of `user_items`.
    """
    columns = user_items.T.tocsr().astype(np.float64)
    columns.data[:] = 1.0
    norm = np.sqrt(columns.getnnz(axis=1))
    pairs = np.array(list(combinations(range(lists.shape[1]), 2)), np.int64).reshape(-1, 2)
    left, right = lists[:, pairs[:, 0]], lists[:, pairs[:, 1]]
    exists = (left >= 0) & (right >= 0)
    together = columns[left[exists]].multiply(columns[right[exists]]).sum(axis=1)
    cosine = np.zeros(left.shape)
    cosine[exists] = np.asarray(together)[:, 0] / np.maximum(
        norm[left[exists]] * norm[right[exists]], 1.0
    )
    with np.errstate(invalid="ignore"):
        return 1.0 - cosine.sum(axis=1) / exists.sum(axis=1)


def ranks_of(lists: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> Ranks:
    """The rank of each target [n] in its row of `lists` [n, K] (-1 where a list is shorter)."""
    hit = (lists == targets[:, None]) & (targets >= 0)[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)


def coverage(shown_counts: Counts, *, num_known: int) -> float:
    """The share of the items known before the split that is shown to anyone."""
    return float((shown_counts > 0).sum() / max(num_known, 1))


def mean_popularity(shown_counts: Counts, counts: Counts) -> float:
    """The mean share that a shown item has of all events before the split."""
    shown = max(int(shown_counts.sum()), 1)
    return float(shown_counts @ counts / (shown * max(int(counts.sum()), 1)))


def gini(values: Counts) -> float:
    """The Gini index of non-negative `values`; 0 when they are equal or all 0."""
    total = values.sum()
    if total == 0:
        return 0.0
    ordered = np.sort(values)
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))
