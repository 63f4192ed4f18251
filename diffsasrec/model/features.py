"""What a counter knows as of a query time: the trends of items, and what a user has had.

Everything here uses only events before the query time (the split or the run date). So the same
functions serve training (at simulated batch times), measuring and the nightly run.

Legend: Q query times, V items, F trend features, B users, X pairs (user, item of their history),
C pair features; histories are flat items and times (microseconds) with offsets [B + 1].
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from diffsasrec.times import DAY, HOUR

WINDOWS = (HOUR, 6 * HOUR, DAY, 3 * DAY, 7 * DAY, 30 * DAY, 90 * DAY)  # of recent popularity
TREND_WINDOWS = (None, 365 * DAY, *reversed(WINDOWS))  # None: all time
KINDS = 3  # events, visits, repeats: see trend_counts
NUM_TRENDS = KINDS * len(TREND_WINDOWS)
PRIOR_EVENTS = 20.0  # of the longer window, added to each shorter one
NUM_OWN = 27
HALF_LIVES = (7, 14, 30, 60, 120, 365)  # days; of how often the user had an item
BASKET_DECAYS = (0.5, 0.7, 0.8, 0.9, 0.95)  # with each later basket; of the same
NUM_OF_USER = 5  # of NUM_OWN: the last ones, the same for all items of a user
NUM_SIMILAR = 4  # behind them where similar items are scored too: counters.pairs
NUM_GAPS = 64  # buckets of time differences; 0: unknown

Items = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Counts = npt.NDArray[Any]  # uint32; float64 where events have weights
Weights = npt.NDArray[np.float64]  # what each event counts, [events]; None: each counts 1
Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]


def window_counts(
    items: Items, times: Ints, *, before: int, num_items: int, weights: Weights | None = None
) -> npt.NDArray[Any]:
    """Counts of items in each of `WINDOWS` that end at `before`, and in all time, [8, V]."""
    recent = [(times < before) & (times >= before - window) for window in WINDOWS]
    counted = [*recent, times < before]
    return np.stack([np.bincount(items[c], _of(weights, c), num_items) for c in counted])


def _of(weights: Weights | None, chosen: npt.NDArray[Any] | slice) -> Weights | None:
    return None if weights is None else weights[chosen]


def trend_counts(
    items: Items,
    times: Ints,
    offsets: Ints,
    *,
    query_times: Ints,
    num_items: int,
    weights: Weights | None = None,
) -> Counts:
    """Counts per query time, kind of event, window that ends there, and item: [Q, 3, 9, V].

    The kinds: all events; the first events of visits, which come a day or more after the user's
    previous event; and repeats of an item that the user had before. Counts of several buckets are
    added; no item may have 2^32 events. With weights, counts are floats.
    """
    kinds = np.ones((KINDS, len(items)), bool)
    kinds[1] = _starts_visit(times, offsets)
    kinds[2] = _is_repeat(items, offsets)
    # half the memory of the usual integers: for a large catalogue this is the largest array
    number = np.uint32 if weights is None else np.float64
    counts = np.zeros((len(query_times), KINDS, len(TREND_WINDOWS), num_items), number)
    for kind, chosen in enumerate(kinds):
        order = np.argsort(times[chosen], kind="stable")
        sorted_items, sorted_times = items[chosen][order], times[chosen][order]
        sorted_weights = _of(_of(weights, chosen), order)
        for at, query_time in enumerate(query_times):
            end = np.searchsorted(sorted_times, query_time)
            for row, window in enumerate(TREND_WINDOWS):
                start = 0 if window is None else np.searchsorted(sorted_times, query_time - window)
                inside = slice(start, end)
                counted = np.bincount(sorted_items[inside], _of(sorted_weights, inside), num_items)
                counts[at, kind, row] = counted
    return counts


def _starts_visit(times: Ints, offsets: Ints) -> npt.NDArray[np.bool_]:
    starts = np.zeros(len(times), bool)
    starts[1:] = times[1:] - times[:-1] >= DAY
    starts[offsets[:-1][np.diff(offsets) > 0]] = False  # a user's first event is no return visit
    return starts


def _is_repeat(items: Items, offsets: Ints) -> npt.NDArray[np.bool_]:
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((items, owner))  # stable: in time order inside a pair
    same = (owner[order][1:] == owner[order][:-1]) & (items[order][1:] == items[order][:-1])
    repeats = np.zeros(len(items), bool)
    repeats[order[1:][same]] = True
    return repeats


def trend_features(counts: Counts) -> Floats:
    """How each item fares, from `trend_counts`: [..., V, F].

    Column 0 is log(share V) among all events of all time: 0 for an item of average share. Every
    other column is the log of a share divided by that of the next longer window, or, for visits and
    repeats of all time, by that of all events: 0 for no trend. Each share is smoothed with
    `PRIOR_EVENTS` events, spread like the share that it is compared with, so that an empty window
    has no trend.
    """
    num_items = counts.shape[-1]
    features = np.empty((*counts.shape[:-3], num_items, NUM_TRENDS), np.float32)
    for query in np.ndindex(counts.shape[:-3]):
        all_time = share = np.full(num_items, 1.0 / num_items)
        for kind in range(KINDS):
            share = all_time
            for row in range(len(TREND_WINDOWS)):
                counted = counts[*query, kind, row]
                longer = share
                share = (counted + PRIOR_EVENTS * share) / (counted.sum() + PRIOR_EVENTS)
                features[*query, :, kind * len(TREND_WINDOWS) + row] = np.log(share / longer)
                if kind == row == 0:
                    all_time = share
    return features


def gap_buckets(gaps: npt.NDArray[np.floating] | Ints) -> Ints:
    """Time differences (microseconds) in buckets 1..63, two per doubling of a minute."""
    minutes = np.maximum(gaps, 0) / (HOUR / 60)
    return np.minimum(1 + np.floor(2 * np.log2(1 + minutes)), NUM_GAPS - 1).astype(np.int64)


def event_gaps(times: Ints, offsets: Ints) -> Ints:
    """The bucket of the time since the user's previous event, 0 for a first event, [events]."""
    gaps = np.zeros(len(times), np.int64)
    gaps[1:] = gap_buckets(times[1:] - times[:-1])
    gaps[offsets[:-1][np.diff(offsets) > 0]] = 0
    return gaps


def end_ages(times: Ints, offsets: Ints, query_times_B: Ints) -> Ints:
    """The bucket of the time between the end of each history and its query; 0 for none, [B]."""
    ages = np.zeros(len(offsets) - 1, np.int64)
    some = np.diff(offsets) > 0
    ages[some] = gap_buckets(query_times_B[some] - times[offsets[1:][some] - 1])
    return ages


@dataclass(frozen=True)
class OwnItems:
    """The distinct items of each user's history, ordered by user, then item."""

    user_X: Ints
    item_X: Ints
    features_XC: Floats

    def take(self, chosen: npt.NDArray[np.bool_]) -> "OwnItems":
        return OwnItems(self.user_X[chosen], self.item_X[chosen], self.features_XC[chosen])

    def of_users(self, users: Ints) -> "OwnItems":
        """Those of some users, who ascend, as users 0, 1, ..."""
        own = self.take(np.isin(self.user_X, users))
        return replace(own, user_X=np.searchsorted(users, own.user_X))


def own_items(
    items: Items, times: Ints, offsets: Ints, query_times_B: Ints, weights: Weights | None = None
) -> OwnItems:
    """The pairs (user, item) of histories before each user's query time, with their features.

    The features are log(1 + x) / 3, about 1, with times in days. The events of a user at one time
    are a basket. For the pair: how often (by weight) in all, and in the last 7, 30 and 90 days; the
    age of the last and of the first event; the mean time between events; the age of the last in
    units of that; its place from the end of the history, in events and in baskets; how often with
    each half-life and with each decay by baskets; in how large a share of the baskets. Behind them,
    `user_features`.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((items, owner))  # stable: in time order inside a pair
    pairs = _Pairs.of(owner[order], items[order].astype(np.int64), _of(weights, order))
    age = (query_times_B[owner[order]] - times[order]) / DAY
    starts, later = _baskets(times, offsets)
    num_baskets_B = _num_baskets(starts, offsets)
    columns = [
        *_counts(pairs, age),
        *_moments(pairs, age),
        (offsets[1:][pairs.user_X] - 1 - order[pairs.last]).astype(np.float64),
        later[order[pairs.last]].astype(np.float64),
        *_decayed(pairs, age, later[order]),
        3 * pairs.weight() / num_baskets_B[pairs.user_X],
    ]
    distinct_B = np.bincount(pairs.user_X, minlength=len(offsets) - 1)
    quiet_B = _days_since_end(times, offsets, query_times_B)
    of_user_BC = _of_users(offsets, distinct_B, num_baskets_B, quiet_B)
    features_XC = np.concatenate([_scaled(columns), of_user_BC[pairs.user_X]], axis=1)
    return OwnItems(pairs.user_X, pairs.item_X, features_XC)


def user_features(items: Items, times: Ints, offsets: Ints, query_times_B: Ints) -> Floats:
    """What is known of the users of histories before each one's query time, [B, NUM_OF_USER].

    Events, distinct items, baskets, their mean size, and the age of the end of the history; scaled
    as the features of `own_items`.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pairs = np.unique(owner * np.int64(2**32) + items)
    distinct_B = np.bincount(pairs // 2**32, minlength=len(offsets) - 1)
    num_baskets_B = _num_baskets(basket_starts(times, offsets), offsets)
    quiet_B = _days_since_end(times, offsets, query_times_B)
    return _of_users(offsets, distinct_B, num_baskets_B, quiet_B)


def _scaled(columns: list[Wide]) -> Floats:
    return np.stack([np.log1p(column) / 3 for column in columns], axis=1).astype(np.float32)


@dataclass(frozen=True)
class _Pairs:
    """Where the events of each pair (user, item) lie among the events by user, then item."""

    user_X: Ints
    item_X: Ints
    first: Ints
    last: Ints
    weights: Weights | None  # of the events

    @staticmethod
    def of(owner: Ints, item: Ints, weights: Weights | None) -> "_Pairs":
        new = np.r_[True, (owner[1:] != owner[:-1]) | (item[1:] != item[:-1])][: len(owner)]
        first = np.flatnonzero(new)
        last = np.r_[first[1:], len(owner)][: len(first)] - 1
        return _Pairs(owner[first], item[first], first, last, weights)

    def count(self) -> Wide:
        return (self.last - self.first + 1).astype(np.float64)

    def weight(self) -> Wide:
        """What the events of each pair weigh, [X]."""
        return self.count() if self.weights is None else self.sums(np.ones(len(self.weights)))

    def sums(self, values: Wide) -> Wide:
        """The sum of a value of each pair's events, times what they weigh, [X]."""
        if self.weights is not None:
            values = values * self.weights
        return np.add.reduceat(values, self.first) if len(self.first) else np.zeros(0)


def _counts(pairs: _Pairs, age: Wide) -> list[Wide]:
    recent = [pairs.sums((age < days).astype(np.float64)) for days in (7, 30, 90)]
    return [pairs.weight(), *recent]


def _moments(pairs: _Pairs, age: Wide) -> list[Wide]:
    """Of the last and the first event, between events, and since the last in units of that."""
    count, newest, oldest = pairs.count(), age[pairs.last], age[pairs.first]
    between = np.where(count > 1, (oldest - newest) / np.maximum(count - 1, 1), 0.0)
    return [newest, oldest, between, np.where(count > 1, newest / (between + 1.0), 0.0)]


def _decayed(pairs: _Pairs, age: Wide, later: Ints) -> list[Wide]:
    by_days = [pairs.sums(np.exp2(-np.maximum(age, 0.0) / days)) for days in HALF_LIVES]
    by_baskets = [pairs.sums(np.power(decay, later.astype(np.float64))) for decay in BASKET_DECAYS]
    return [*by_days, *by_baskets]


def _num_baskets(starts: npt.NDArray[np.bool_], offsets: Ints) -> Ints:
    """How many baskets each user has, 1 where there is none, [B]."""
    running = np.r_[0, np.cumsum(starts)]
    return np.maximum(running[offsets[1:]] - running[offsets[:-1]], 1)


def _of_users(offsets: Ints, distinct_B: Ints, num_baskets_B: Ints, quiet_B: Wide) -> Floats:
    events_B = np.diff(offsets)
    counts = [events_B, distinct_B, num_baskets_B, events_B / num_baskets_B]
    return _scaled([*(count.astype(np.float64) for count in counts), quiet_B])


def basket_starts(times: Ints, offsets: Ints) -> npt.NDArray[np.bool_]:
    """Whether each event is the first of its user at its time, [events]."""
    starts = np.ones(len(times), bool)
    starts[1:] = times[1:] != times[:-1]
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    return starts


def _baskets(times: Ints, offsets: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Whether each event starts a basket, and how many later baskets its user has, [events]."""
    starts = basket_starts(times, offsets)
    number = np.cumsum(starts)
    last = np.r_[number, 0][offsets[1:] - 1]  # of an empty history: not used
    return starts, np.repeat(last, np.diff(offsets)) - number


def _days_since_end(times: Ints, offsets: Ints, query_times_B: Ints) -> Wide:
    """The days between the end of each history and its query; 0 for none, [B]."""
    days = np.zeros(len(offsets) - 1)
    some = np.diff(offsets) > 0
    days[some] = (query_times_B[some] - times[offsets[1:][some] - 1]) / DAY
    return days
