"""Lists and holdout items -> the metrics of metrics.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.evaluate.baselines import Score, rank_lists
from diffsasrec.evaluate.metrics import (
    Counts,
    Spread,
    coverage,
    gini,
    mean_popularity,
    user_gains,
)
from diffsasrec.schema import list_offsets, list_values
from diffsasrec.sequences.histories import Flat, UserItems, only_items
from diffsasrec.sequences.holdout import holdout_between
from diffsasrec.sequences.vocab import index_items

Lists = npt.NDArray[np.int64]


def list_matrix(recommendations: pa.Table, vocab: pa.Table, *, k: int) -> Lists:
    """The lists of a recommendations table as indices of `vocab`, [n, K]; -1 behind the end."""
    offsets = list_offsets(recommendations["items"])
    structs = list_values(recommendations["items"])
    indices = index_items(structs.field("item_id"), vocab)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    place = structs.field("rank").to_numpy() - 1
    lists = np.full((len(offsets) - 1, k), -1, np.int64)
    inside = place < k
    lists[owner[inside], place[inside]] = indices[inside]
    return lists


def holdout_targets(holdout: pa.Table, vocab: pa.Table) -> UserItems:
    """The items of a holdout table as indices of `vocab`, of the users in their order."""
    users = holdout["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    items = index_items(holdout["item_id"].combine_chunks(), vocab).astype(np.int64)
    return UserItems(items, np.r_[0, np.cumsum(np.bincount(users))].astype(np.int64))


@dataclass(frozen=True)
class Tally:
    """All that the metrics need of some users' lists; tallies of several buckets are added."""

    gains: dict[str, Spread]  # of the users, by metric: NDCG@10 and so on
    shown: dict[int, Counts]  # per cut-off k: how often each item is in a list's first k, [V]

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            {name: spread + other.gains[name] for name, spread in self.gains.items()},
            {k: counts + other.shown[k] for k, counts in self.shown.items()},
        )

    @property
    def num_users(self) -> int:
        return next(iter(self.gains.values())).num_users


def tally(lists: Lists, targets: UserItems, *, ks: Sequence[int], num_items: int) -> Tally:
    """What the lists [n, K] of n users are worth, and what they show; indices all."""
    gains: dict[str, Spread] = {}
    for k in ks:
        of_users = user_gains(lists, targets, k=k)
        gains |= {name: Spread.of(values) for name, values in of_users.items()}
    shown = {k: np.bincount(lists[:, :k][lists[:, :k] >= 0], minlength=num_items) for k in ks}
    return Tally(gains, shown)


def bucket_tallies(
    flat: Flat,
    scores: Mapping[str, Score],
    *,
    cut: int,
    before: int | None,
    known: npt.NDArray[np.bool_],
    allowed: npt.NDArray[np.bool_],
    ks: Sequence[int],
    filter_seen: bool,
) -> dict[str, Tally]:
    """What each of `scores` makes of a bucket's users with a known item in [cut, before).

    Histories have the `known` items alone, [V].
    """
    held = holdout_between(only_items(flat, known).histories, cut=cut, before=before, known=known)
    result = {}
    for name, score in scores.items():
        lists = rank_lists(score, held.past, allowed=allowed, k=max(ks), filter_seen=filter_seen)
        result[name] = tally(lists, held.targets, ks=ks, num_items=len(known))
    return result


def measure(counted: Tally, *, known_counts: Counts, samples: int, seed: int) -> dict[str, Any]:
    """All metrics of one recommender, as they stand in metrics.json.

    `known_counts` are the counts of every item before the split, [V]; 0 for one that is not known
    or too rare there.
    """
    result: dict[str, Any] = {"n": counted.num_users}
    for name, spread in counted.gains.items():
        result[name] = spread.mean()
        result[f"{name}_ci"] = list(spread.interval(samples=samples, seed=seed))
    for k, shown in counted.shown.items():
        result[f"Coverage@{k}"] = coverage(shown, num_known=int((known_counts > 0).sum()))
        result[f"MeanPopularity@{k}"] = mean_popularity(shown, known_counts)
        result[f"Gini@{k}"] = gini(shown[known_counts > 0])
    return result
