"""What is popular as of a query time: candidates of the ranker, and by what it ranks all of them.

Legend: V items, P popularities, Z pairs by user, B users, M the most pairs of a user.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffsasrec.model.features import TREND_WINDOWS
from diffsasrec.times import DAY, HOUR

NUM_POPULAR = 100  # items of each window that are candidates of every user
WINDOWS_OF_POPULAR = (90 * DAY, 7 * DAY, 3 * DAY, DAY, 6 * HOUR, HOUR)
RANKED_WINDOWS = (30 * DAY, 7 * DAY, DAY)  # candidates have a rank by their popularity in each

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Popular:
    """Which items are popular as of a query time, and how popular all of them are."""

    items: Ints  # ascending
    shares_VP: Floats  # logarithms, in each of `RANKED_WINDOWS`


def popular_items(trends_VF: Floats) -> Popular:
    """By `features.trend_features` as of a query time."""
    chosen = [_most(_log_shares(trends_VF, window)) for window in WINDOWS_OF_POPULAR]
    ranked = [_log_shares(trends_VF, window) for window in RANKED_WINDOWS]
    return Popular(np.unique(np.concatenate(chosen)), np.stack(ranked, axis=1))


def _log_shares(trends_VF: Floats, window: int) -> Floats:
    """The log of each item's share of the events in a window, up to a constant, [V].

    The trends are ratios to the next longer window: their sum telescopes.
    """
    behind = TREND_WINDOWS.index(window) + 1
    return np.asarray(trends_VF[:, :behind].sum(axis=1))


def _most(shares_V: Floats) -> Ints:
    num = min(NUM_POPULAR, len(shares_V))
    return np.argpartition(-shares_V, num - 1)[:num] if num else np.zeros(0, np.int64)


def ranks(values_ZR: Floats, users_Z: Ints, *, num_users: int) -> Floats:
    """How many pairs of the same user have a larger value, as log(1 + n) / 3, [Z, R].

    `users_Z` is sorted.
    """
    first_B = np.searchsorted(users_Z, np.arange(num_users))
    nth_Z = np.arange(len(users_Z)) - first_B[users_Z]
    values_BM = np.empty((num_users, int(nth_Z.max(initial=-1)) + 1), np.float32)
    place_M = np.arange(values_BM.shape[1])
    ranks_ZR = np.empty(values_ZR.shape, np.float32)
    for column in range(values_ZR.shape[1]):
        values_BM[:] = -np.inf
        values_BM[users_Z, nth_Z] = values_ZR[:, column]
        order_BM = np.argsort(-values_BM, axis=1)
        sorted_BM = np.take_along_axis(values_BM, order_BM, axis=1)
        # of equal values, the place of the first
        larger_BM = np.broadcast_to(place_M, values_BM.shape).copy()
        larger_BM[:, 1:][sorted_BM[:, 1:] == sorted_BM[:, :-1]] = 0
        larger_BM = np.maximum.accumulate(larger_BM, axis=1)
        ranks_BM = np.empty_like(values_BM)
        np.put_along_axis(ranks_BM, order_BM, larger_BM, axis=1)
        ranks_ZR[:, column] = ranks_BM[users_Z, nth_Z]
    return (np.log1p(ranks_ZR) / 3).astype(np.float32)
