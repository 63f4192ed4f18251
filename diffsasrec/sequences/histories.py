"""Histories of users as flat arrays with offsets: what everything after `prepare` computes on."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.event_types import EventTypes
from diffsasrec.schema import (
    canonical,
    list_offsets,
    list_values,
)
from diffsasrec.typed_events import TypedEvents, take, weights_of

Items = npt.NDArray[np.int32]
Times = npt.NDArray[np.int64]  # microseconds
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """Events of users, one user after another, those of a user in order of time.

    Attributes:
        items: indices of a vocabulary, [events].
        times: microseconds, [events].
        offsets: where each user's events start, [users + 1].
        types: of the events, of a log with types.
    """

    items: Items
    times: Times
    offsets: Offsets
    types: TypedEvents | None = None

    @staticmethod
    def nothing(types: EventTypes | None) -> "Histories":
        """Those of no user."""
        typed = None if types is None else TypedEvents(np.zeros(0, np.int8), types)
        no_times = np.zeros(0, np.int64)
        return Histories(np.zeros(0, np.int32), no_times, np.zeros(1, np.int64), typed)

    def lengths(self) -> npt.NDArray[np.int64]:
        """How many events each user has, [users]."""
        return np.diff(self.offsets)

    def owners(self) -> npt.NDArray[np.int64]:
        """The place of the user of each event, [events]."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths())

    def first(self, lengths: npt.NDArray[np.int64] | npt.NDArray[np.int32]) -> "Histories":
        """The first `lengths` events of every user, [users]."""
        place = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths())
        keep = place < np.repeat(lengths, self.lengths())
        offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        return Histories(self.items[keep], self.times[keep], offsets, take(self.types, keep))

    def before(self, cut: int) -> "Histories":
        """The events before a time, microseconds."""
        return self.first(count_before(self.times, self.offsets, cut))

    def of_users(self, users: npt.NDArray[np.int64]) -> "Histories":
        """Those of some users, in the order given."""
        source, offsets = events_of(self.offsets, users)
        return Histories(self.items[source], self.times[source], offsets, take(self.types, source))

    def weights(self) -> npt.NDArray[np.float64] | None:
        """What each event counts, [events]; None: all count 1."""
        return weights_of(self.types)

    def are_targets(self) -> npt.NDArray[np.bool_]:
        """Whether lists predict such an event, [events]."""
        return np.ones(len(self.items), bool) if self.types is None else self.types.are_targets()

    def seen(self) -> "UserItems":
        """The items that the users have seen: of all events, or of those whose type says so."""
        if self.types is None:
            return UserItems(self.items.astype(np.int64), self.offsets)
        kept = self.types.are_seen()
        offsets = np.r_[0, np.cumsum(kept)][self.offsets]
        return UserItems(self.items[kept].astype(np.int64), offsets)

    def reindexed(self, index_V: npt.NDArray[np.int32]) -> "Histories":
        """The same events by the indices of another vocabulary; items with -1 are left out."""
        items = index_V[self.items]
        keep = items >= 0
        offsets = np.r_[0, np.cumsum(keep)][self.offsets]
        return Histories(items[keep], self.times[keep], offsets, take(self.types, keep))


@dataclass(frozen=True)
class Flat:
    """Sequences as flat arrays: the form that everything after `prepare` computes on."""

    user_ids: pa.Array
    items: npt.NDArray[np.int32]  # [events]
    times: npt.NDArray[np.int64]  # [events]
    offsets: npt.NDArray[np.int64]  # [users + 1]
    num_before: npt.NDArray[np.int32]  # [users]
    holdout: npt.NDArray[np.int32]  # [users], -1 for none
    types: TypedEvents | None = None  # of the events, of a log with types

    @property
    def histories(self) -> Histories:
        return Histories(self.items, self.times, self.offsets, self.types)


def flatten(sequences: pa.Table) -> Flat:
    """A bucket file's table as flat arrays."""
    return Flat(
        user_ids=canonical(sequences["user_id"]).combine_chunks(),
        items=list_values(sequences["items"]).to_numpy(),
        times=list_values(sequences["times"]).to_numpy(),
        offsets=list_offsets(sequences["items"]),
        num_before=sequences["num_before"].to_numpy(),
        holdout=sequences["holdout"].fill_null(-1).to_numpy(),
        types=types_of(sequences),
    )


def types_of(sequences: pa.Table) -> TypedEvents | None:
    """The types of the events of a bucket file's table; None: it is of a log without types."""
    types = EventTypes.in_schema(sequences.schema.metadata)
    if types is None:
        return None
    return TypedEvents(list_values(sequences["types"]).to_numpy(), types)


def only_items(flat: Flat, known: npt.NDArray[np.bool_] | None) -> Flat:
    """`flat` as of a log that has events of the `known` items alone, [V]; None: as it is.

    Users stay, with an empty history if nothing is left. A holdout that is not known is none.
    """
    if known is None:
        return flat
    kept = known[flat.items]
    if kept.all():
        return flat
    running = np.r_[0, np.cumsum(kept)]
    starts = flat.offsets[:-1]
    held = flat.holdout >= 0
    held[held] = kept[(starts + flat.holdout)[held]]
    holdout = np.full(len(starts), -1, np.int32)
    holdout[held] = (running[starts + flat.holdout] - running[starts])[held]
    return replace(
        flat,
        items=flat.items[kept],
        times=flat.times[kept],
        types=take(flat.types, kept),
        offsets=running[flat.offsets],
        num_before=(running[starts + flat.num_before] - running[starts]).astype(np.int32),
        holdout=holdout,
    )


@dataclass(frozen=True)
class UserItems:
    """Some items of each user, one user after another."""

    items: npt.NDArray[np.int64]
    offsets: Offsets

    @staticmethod
    def nothing(num_users: int) -> "UserItems":
        return UserItems(np.zeros(0, np.int64), np.zeros(num_users + 1, np.int64))

    def of_users(self, users: npt.NDArray[np.int64]) -> "UserItems":
        """Those of some users, in the order given."""
        source, offsets = events_of(self.offsets, users)
        return UserItems(self.items[source], offsets)

    def owners(self) -> npt.NDArray[np.int64]:
        """The place of the user of each item."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def blocked_pairs(
    histories: Histories, excluded: UserItems, *, filter_seen: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What no list may show: users and items of pairs, in any order, perhaps twice."""
    pairs = [excluded, histories.seen()] if filter_seen else [excluded]
    owners, items = ([p.owners() for p in pairs], [p.items for p in pairs])
    return np.concatenate(owners), np.concatenate(items)


def count_before(
    times: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    cut: int,
    *,
    among: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int32]:
    """How many of each user's events lie before `cut`, [n]; `times` [events], `offsets` [n + 1].

    `among`: the events that count, [events]; None: all.
    """
    before = times < cut if among is None else (times < cut) & among
    running = np.r_[0, np.cumsum(before)]
    return (running[offsets[1:]] - running[offsets[:-1]]).astype(np.int32)


def events_of(
    offsets: Offsets, users: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], Offsets]:
    """Where the events of some users lie, in the order given, and the offsets among them."""
    return stretches(offsets[:-1][users], offsets[1:][users])


def stretches(
    start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], Offsets]:
    """The places [start, end) of each row one after another, and the offsets of the rows."""
    bounds = np.r_[0, np.cumsum(end - start)].astype(np.int64)
    source = np.repeat(start - bounds[:-1], end - start) + np.arange(bounds[-1])
    return source, bounds
