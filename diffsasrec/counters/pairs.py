"""Which pairs (user, item) get a score of their own, and their features.

The items of a user's own history, and those that are most similar to the newest part of it; and the
candidates of the ranker, which are these and popular items.

Legend: B users, V items, X own pairs, Z scored pairs, C features; histories are flat items and
times (microseconds) with offsets [B + 1].
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from diffsasrec.config.training import ModelConfig
from diffsasrec.counters.neighbours import tastes_of
from diffsasrec.counters.popular import Popular, ranks
from diffsasrec.counters.similar import NEWEST as NEWEST_OF_TASTE
from diffsasrec.counters.similar import Similar, baskets, newest
from diffsasrec.counters.sparse import Table, best_of_rows, only, product_of, rows_of
from diffsasrec.model.features import NUM_OF_USER, NUM_OWN, OwnItems, own_items
from diffsasrec.model.heads.pairs import Pairs
from diffsasrec.sequences.histories import Histories

MOST_OWN = 500  # distinct items of a user, the newest, that are scored beside similar ones
NEWEST = 100  # events of a user to which items are similar
DECAY = 0.7  # of the weight of an event with each later basket
RANKED_TABLES = (0, 3)  # candidates have a rank by what is near, and what the nearest users have
LEAST = 1e-4  # added to a sum of similarities before its logarithm
WIDTH = 2**40  # no vocabulary is larger: user and item in one number

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pairing:
    """Which pairs are scored, apart from what is known of items."""

    num_similar: int  # items by each table; 0: own items alone, with their own features
    filter_seen: bool  # own items that are seen can't be recommended, and are not scored
    of_nearest: bool = False  # what the nearest users have is a table too

    @staticmethod
    def of(model: ModelConfig, *, filter_seen: bool) -> "Pairing":
        if not model.scores_similar:
            return Pairing(0, filter_seen)
        return Pairing(model.similar_items or 0, filter_seen, model.nearest_users)

    @property
    def num_tables(self) -> int:
        return 3 + self.of_nearest


def scored_pairs(
    histories: Histories,
    query_times_B: Ints,
    similar: Similar | None,
    pairing: Pairing,
    popular: Popular | None = None,
) -> Pairs | None:
    """The pairs of histories before each user's query time; None: nothing is scored.

    Args:
        similar: as of the query times; None: no item is similar to another.
        popular: as of the query times, if the pairs are ranked too.
    """
    none_is_similar = similar is None or not pairing.num_similar
    if pairing.filter_seen and histories.types is None and none_is_similar:
        return None
    events = (histories.items, histories.times, histories.offsets)
    own = own_items(*events, query_times_B, histories.weights())
    return with_similar(histories, own, similar, pairing, popular)


def with_similar(
    histories: Histories,
    own: OwnItems,
    similar: Similar | None,
    pairing: Pairing,
    popular: Popular | None = None,
) -> Pairs:
    """`scored_pairs`, where the own items are there already.

    The features are those of `own_items`, where an item that the user never had has only those of
    the user; whether it is an own item; and of each table the sum of the similarities to the
    newest events, as a logarithm from -1 (none) to 1. Popular items are candidates of the ranker
    alone; nobody without a history has any.
    """
    own_X = own.user_X * WIDTH + own.item_X
    seen_X = are_seen(histories, own) if pairing.filter_seen else np.zeros(len(own_X), bool)
    if not pairing.num_similar:
        return as_pairs(own.take(~seen_X))
    sums = [] if similar is None else user_sums(histories, similar)[: pairing.num_tables]
    chosen = [own_X[_newest_own(histories, own_X) & ~seen_X]]
    for table in (*sums[:1], *sums[2:]):  # what is in one basket is near as well
        if pairing.filter_seen:  # what can't be shown would crowd out what can
            table = _without(table, own_X[seen_X])
        chosen.append(_keys(best_of_rows(table, pairing.num_similar)))
    copied_Z = pairs_Z = _distinct(chosen)
    if popular is not None:
        pairs_Z = _distinct([copied_Z, _popular_keys(own, popular, but=own_X[seen_X])])
    similarities_ZK = _similarities(pairs_Z, sums, num_tables=pairing.num_tables)
    features_ZC = np.concatenate([_own_features(pairs_Z, own_X, own), similarities_ZK], axis=1)
    pairs = as_pairs(OwnItems(pairs_Z // WIDTH, pairs_Z % WIDTH, features_ZC))
    if popular is None:
        return pairs
    by_Z = similarities_ZK[:, RANKED_TABLES[: 1 + pairing.of_nearest]]
    by_Z = np.concatenate([by_Z, popular.shares_VP[pairs_Z % WIDTH]], axis=1)
    ranks_ZR = ranks(by_Z, pairs_Z // WIDTH, num_users=len(histories.offsets) - 1)
    is_copied_Z, _ = _found(pairs_Z, copied_Z)
    return replace(
        pairs, ranks_XR=torch.from_numpy(ranks_ZR), is_copied_X=torch.from_numpy(is_copied_Z)
    )


def _distinct(keys: list[Ints]) -> Ints:
    """The pairs of several groups, ascending."""
    pairs_Z = np.sort(np.concatenate(keys))
    return pairs_Z[np.diff(pairs_Z, prepend=-1) > 0]


def _popular_keys(own: OwnItems, popular: Popular, *, but: Ints) -> Ints:
    """The popular items of everybody with a history, but some pairs, which ascend."""
    users = own.user_X[np.diff(own.user_X, prepend=-1) > 0]
    keys = (users[:, None] * WIDTH + popular.items).ravel()
    is_hidden, _ = _found(keys, but)
    return keys[~is_hidden]


def are_seen(histories: Histories, own: OwnItems) -> npt.NDArray[np.bool_]:
    """Which of the own items their users have seen: all, but of a log whose types say it, [X]."""
    if histories.types is None:
        return np.ones(len(own.item_X), bool)
    seen = histories.seen()
    keys = seen.owners() * WIDTH + seen.items
    return np.isin(own.user_X * WIDTH + own.item_X, keys)


def as_pairs(own: OwnItems) -> Pairs:
    arrays = (own.user_X, own.item_X, own.features_XC)
    return Pairs(*(torch.from_numpy(array) for array in arrays))


def joined_pairs(parts: list[tuple[Ints, Pairs]]) -> Pairs:
    """The pairs of several groups of users: the place of each user of a group, and its pairs."""
    users_Z = torch.cat([torch.from_numpy(places)[pairs.users_X] for places, pairs in parts])
    of_parts = [pairs.known() for _, pairs in parts]
    joined = Pairs(**{name: torch.cat([of[name] for of in of_parts]) for name in of_parts[0]})
    return replace(joined, users_X=users_Z).take(users_Z.argsort(stable=True))


def user_sums(histories: Histories, similar: Similar) -> list[Table]:
    """Of each table, how similar each item is to the newest events of each user, [B, V].

    An event weighs less by `DECAY` with each later basket, and what its type weighs; the weights of
    a user add up to 1.
    """
    recent = newest(histories, NEWEST)
    num_users, owner = len(recent.offsets) - 1, recent.owners()
    basket, _ = baskets(recent)
    last = np.r_[basket, 0][recent.offsets[1:] - 1]  # of an empty history: not used
    weight = DECAY ** (last[owner] - basket).astype(np.float64)
    of_types = recent.weights()
    weight = weight if of_types is None else weight * of_types
    share = weight / np.bincount(owner, weights=weight, minlength=num_users)[owner]
    shape = (num_users, similar.near.shape[0])
    shares = Table((share.astype(np.float32), recent.items, recent.offsets), shape, copy=True)
    shares.sum_duplicates()
    sums = [product_of(shares, table) for table in similar.tables()]
    if similar.tastes is not None:
        tastes = tastes_of(newest(histories, NEWEST_OF_TASTE), num_items=shape[1])
        sums.append(similar.tastes.of_nearest(tastes))
    return sums


def _keys(table: Table) -> Ints:
    """User and item of each entry in one number, ascending."""
    return rows_of(table) * WIDTH + table.indices


def _without(table: Table, own_X: Ints) -> Table:
    """The entries that are no own pairs."""
    known = _keys(table)
    is_there_X, at_X = _found(own_X, known)
    kept = np.ones(len(known), bool)
    kept[at_X[is_there_X]] = False
    return only(table, kept)


def _newest_own(histories: Histories, own_X: Ints) -> npt.NDArray[np.bool_]:
    """Which of the own pairs are among the newest distinct items of their user, [X]."""
    counts_B = np.bincount(own_X // WIDTH, minlength=len(histories.offsets) - 1)
    if counts_B.max(initial=0) <= MOST_OWN:
        return np.ones(len(own_X), bool)
    at = np.searchsorted(own_X, histories.owners() * WIDTH + histories.items)
    last_X = np.zeros(len(own_X), np.int64)
    np.maximum.at(last_X, at, np.arange(len(at)))  # the place of the last event of each pair
    newest_X = np.lexsort((-last_X, own_X // WIDTH))
    first_B = np.cumsum(counts_B) - counts_B
    kept_X = np.zeros(len(own_X), bool)
    kept_X[newest_X] = np.arange(len(own_X)) - np.repeat(first_B, counts_B) < MOST_OWN
    return kept_X


def _found(pairs_Z: Ints, known: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Whether each pair is among the known ones, which ascend, and where, [Z]."""
    at_Z = np.searchsorted(known, pairs_Z)
    return np.r_[known, -1][at_Z] == pairs_Z, at_Z


def _own_features(pairs_Z: Ints, own_X: Ints, own: OwnItems) -> Floats:
    """Those of `own_items`, and whether it is an own item, [Z, NUM_OWN + 1]."""
    features_ZC = np.zeros((len(pairs_Z), NUM_OWN + 1), np.float32)
    is_own_Z, at_Z = _found(pairs_Z, own_X)
    # whoever has similar items has own ones
    of_user_Z = np.searchsorted(own.user_X, pairs_Z // WIDTH)
    of_user = slice(NUM_OWN - NUM_OF_USER, NUM_OWN)
    features_ZC[:, of_user] = own.features_XC[of_user_Z, of_user]
    features_ZC[is_own_Z, :NUM_OWN] = own.features_XC[at_Z[is_own_Z]]
    features_ZC[:, NUM_OWN] = is_own_Z
    return features_ZC


def _similarities(pairs_Z: Ints, sums: list[Table], *, num_tables: int) -> Floats:
    values_ZK = np.zeros((len(pairs_Z), num_tables), np.float32)
    for column, table in enumerate(sums):
        is_known_Z, at_Z = _found(pairs_Z, _keys(table))
        values_ZK[is_known_Z, column] = table.data[at_Z[is_known_Z]]
    return (1 + np.log10(values_ZK + LEAST) / 2).astype(np.float32)
