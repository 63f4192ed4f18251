"""Ranking metrics with one relevant item per user, over the full catalogue.

Everything is a function of the ranks: 1-based, 0 for an item that is not in the list. A rank has
only K + 1 values, so a bootstrap over users is a multinomial draw over their counts: exact, and
its cost does not grow with the number of users.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.int64]


def gains(k: int) -> dict[str, npt.NDArray[np.float64]]:
    """What each metric at k gives a rank, as a table indexed by the rank 0..k."""
    rank = np.arange(1, k + 1)
    return {
        f"HR@{k}": np.r_[0.0, np.ones(k)],
        f"NDCG@{k}": np.r_[0.0, 1 / np.log2(rank + 1)],
        f"MRR@{k}": np.r_[0.0, 1 / rank],
    }


def rank_metrics(ranks: Ranks, *, k: int) -> dict[str, float]:
    """HR@k, NDCG@k and MRR@k of `ranks` [n]; 0 for everything when there are no users."""
    counts = np.bincount(np.where(ranks > k, 0, ranks), minlength=k + 1)
    total = max(len(ranks), 1)
    return {name: float(counts @ gain / total) for name, gain in gains(k).items()}


def bootstrap_intervals(
    ranks: Ranks, *, k: int, samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of `rank_metrics` over resampled users."""
    counts = np.bincount(np.where(ranks > k, 0, ranks), minlength=k + 1)
    total = max(len(ranks), 1)
    drawn = np.random.default_rng(seed).multinomial(total, counts / total, size=samples)
    intervals = {}
    for name, gain in gains(k).items():
        low, high = np.quantile(drawn @ gain / total, [0.025, 0.975])
        intervals[name] = (float(low), float(high))
    return intervals


def ranks_of(lists: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> Ranks:
    """The rank of each target [n] in its row of `lists` [n, K] (-1 where a list is shorter)."""
    hit = (lists == targets[:, None]) & (targets >= 0)[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)


def list_metrics(
    lists: npt.NDArray[np.int64],
    *,
    num_items: int,
    counts: npt.NDArray[np.int64],
    ks: Sequence[int],
) -> dict[str, float]:
    """Coverage@k, and the mean popularity and Gini index at the largest k, of `lists` [n, K].

    `num_items` items are known before the split; `counts` [V] are their counts there. Coverage is
    the share of them that is shown to anyone; mean popularity the mean count of a shown item over
    the sum of all counts; Gini is 0 when every known item is shown equally often.
    """
    result = {}
    for k in ks:
        shown = np.unique(lists[:, :k])
        result[f"Coverage@{k}"] = float((shown >= 0).sum() / max(num_items, 1))
    k = max(ks)
    flat = lists[:, :k][lists[:, :k] >= 0]
    result[f"MeanPopularity@{k}"] = float(counts[flat].mean() / counts.sum()) if len(flat) else 0.0
    result[f"Gini@{k}"] = gini(np.bincount(flat, minlength=len(counts))[counts > 0])
    return result


def gini(values: npt.NDArray[np.int64]) -> float:
    """The Gini index of non-negative `values`; 0 when they are equal or all 0."""
    total = values.sum()
    if total == 0:
        return 0.0
    ordered = np.sort(values)
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))
