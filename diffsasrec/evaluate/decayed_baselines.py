"""Counters that weigh events by their age: what a good engineer builds in a day without a model.

A user's own items with a decay, items that occur with them, and popularity with a half-life, added.
Their settings are chosen by figures of an earlier cut; here they are given.

Legend: B users, V items, H half-lives; a share is a part of a sum of 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse

from diffsasrec.evaluate.baselines import Asked, Popularity, user_items
from diffsasrec.sequences.histories import Histories
from diffsasrec.times import DAY

HALF_LIVES = (1 / 24, 0.25, 1.0, 2.0, 3.0, 7.0, 14.0, 30.0, 60.0, 90.0, 180.0, 365.0)  # days
TINY = np.finfo(np.float32).tiny
UNITS = 2**20  # in a weight of 1: sums of whole numbers do not depend on their order


@dataclass(frozen=True)
class Decay:
    """What an event weighs by its age.

    days: half as much with every `number` days before the time of asking.
    basket, event: `number` times as much with each later basket or event of the user. The events of
        a user at one time are a basket.
    """

    by: Literal["days", "basket", "event"]
    number: float

    def weights(self, histories: Histories, *, asked_at: int) -> npt.NDArray[np.float32]:
        """Of each event, times what its type weighs, [events]; `asked_at`: microseconds."""
        weights, of_types = self._by_age(histories, asked_at), histories.weights()
        return weights if of_types is None else (weights * of_types).astype(np.float32)

    def _by_age(self, histories: Histories, asked_at: int) -> npt.NDArray[np.float32]:
        if self.by == "days":
            return np.exp2((histories.times - asked_at) / (self.number * DAY)).astype(np.float32)
        place = np.arange(len(histories.items))
        if self.by == "basket":
            starts = np.r_[True, histories.times[1:] != histories.times[:-1]][: len(place)]
            starts[histories.offsets[:-1][histories.lengths() > 0]] = True
            place = np.cumsum(starts)
        last = np.r_[place, 0][histories.offsets[1:] - 1]  # of an empty history: not used
        later = np.repeat(last, histories.lengths()) - place
        return np.asarray(self.number**later, np.float32)


def decayed_counts(
    histories: Histories,
    *,
    asked_at: int,
    num_items: int,
    half_lives: Sequence[float] = HALF_LIVES,
) -> npt.NDArray[np.int64]:
    """The weight of each item's events before `asked_at`, in UNITS, by half-lives in days, [H, V].

    Those of several buckets are added.
    """
    before = histories.before(asked_at)
    counts = [
        np.bincount(
            before.items,
            weights=Decay("days", days).weights(before, asked_at=asked_at),
            minlength=num_items,
        )
        for days in half_lives
    ]
    return np.rint(np.stack(counts) * UNITS).astype(np.int64)


def popularity_share(counts_V: npt.NDArray[np.int64]) -> Popularity:
    """Each item's share of decayed counts."""
    return Popularity(counts_V / max(int(counts_V.sum()), 1))


@dataclass(frozen=True)
class DecayedAndPopular:
    """The user's own items, decayed, as shares, and so many times the shares of popularity.

    With a similarity, the items similar to the user's own stand in their place.
    """

    popularity: Popularity
    asked_at: int  # microseconds
    decay: Decay
    weight: float  # of popularity
    similarity: scipy.sparse.csr_matrix | None = None  # [V, V]

    def __call__(self, asked: Asked) -> scipy.sparse.csr_matrix:
        scored = self.of_users(asked.histories, len(asked.allowed))
        return _with_popularity(scored, self.popularity, self.weight, asked)

    def of_users(self, histories: Histories, num_items: int) -> scipy.sparse.csr_matrix:
        """The part without popularity, as shares of whom has any, [B, V]."""
        weights = self.decay.weights(histories, asked_at=self.asked_at)
        scores = user_items(histories, num_items, weights)
        if self.similarity is not None:
            scores = (_shares(scores) @ self.similarity).tocsr()
        return _shares(scores)


def _with_popularity(
    scored: scipy.sparse.csr_matrix, popularity: Popularity, weight: float, asked: Asked
) -> scipy.sparse.csr_matrix:
    """Shares and popularity together: of all scored and the popular items."""
    popular = popularity(asked)
    others = popular - popular.multiply(scored > 0)
    scored.data += np.float32(weight) * popularity.values[scored.indices]
    return (scored + np.float32(weight) * others).tocsr()


def _shares(matrix: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    total_B = np.asarray(matrix.sum(axis=1)).ravel()
    values = matrix.data / np.repeat(np.maximum(total_B, TINY), np.diff(matrix.indptr))
    # an item whose share vanishes in single precision must not vanish with it
    values = np.maximum(values, TINY).astype(np.float32)
    return scipy.sparse.csr_matrix((values, matrix.indices, matrix.indptr), matrix.shape)
