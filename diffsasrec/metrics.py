"""Ranking metrics with one relevant item per user, over the full catalogue.

Everything is a function of the ranks: 1-based, 0 for an item that is not in the list. A rank has
only K + 1 values, so a bootstrap over users is a multinomial draw over their counts: exact, and
its cost does not grow with the number of users.
"""

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]


def gains(k: int) -> dict[str, npt.NDArray[np.float64]]:
    """What each metric at k gives a rank, as a table indexed by the rank 0..k."""
    rank = np.arange(1, k + 1)
    return {
        f"HR@{k}": np.r_[0.0, np.ones(k)],
        f"NDCG@{k}": np.r_[0.0, 1 / np.log2(rank + 1)],
        f"MRR@{k}": np.r_[0.0, 1 / rank],
    }


def count_ranks(ranks: Ranks, *, k: int) -> Counts:
    """How many users have each rank 0..k, [k + 1]; a rank beyond k is a miss."""
    return np.bincount(np.where(ranks > k, 0, ranks), minlength=k + 1)


def rank_metrics(rank_counts: Counts, *, k: int) -> dict[str, float]:
    """HR@k, NDCG@k and MRR@k from `rank_counts` [K + 1], K >= k; 0 when there are no users."""
    total = max(int(rank_counts.sum()), 1)
    return {name: float(rank_counts[: k + 1] @ gain / total) for name, gain in gains(k).items()}


def bootstrap_intervals(
    rank_counts: Counts, *, k: int, samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of `rank_metrics` over resampled users."""
    total = int(rank_counts.sum())
    if total == 0:
        return {name: (0.0, 0.0) for name in gains(k)}
    drawn = np.random.default_rng(seed).multinomial(total, rank_counts / total, size=samples)
    intervals = {}
    for name, gain in gains(k).items():
        low, high = np.quantile(drawn[:, : k + 1] @ gain / total, [0.025, 0.975])
        intervals[name] = (float(low), float(high))
    return intervals


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
