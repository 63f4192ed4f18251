"""All events of some users -> one row per user, and what of it is held out."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.event_types import EventTypes
from diffsasrec.schema import (
    TIMESTAMP,
    TYPE,
    event_hash,
    holdout_schema,
    list_offsets,
    list_values,
    sequences_schema,
)
from diffsasrec.sequences.histories import Histories, count_before
from diffsasrec.sequences.holdout import find_holdout, held_out
from diffsasrec.sequences.vocab import frequent_before_split, index_items
from diffsasrec.typed_events import Codes, TypedEvents

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Folded:
    """What `fold` makes of the events of some users."""

    table: pa.Table  # a row per user
    dropped: Counter[str]  # events that are in no row, by the reason
    repeats: npt.NDArray[np.int64]  # which events these are: duplicates
    over_cap: npt.NDArray[np.int64]  # and those before a user's last ones


def fold(events: pa.Table, *, max_user_events: int) -> tuple[pa.Table, Counter[str]]:
    """All events of some users -> one row per user, in time order, exact duplicates out.

    Ties in time are ordered by `schema.event_hash`. Events of one user, item and time are
    duplicates, unless they are of several types: then one of each stays, the lighter first. Of a
    user with more than `max_user_events` the last ones are kept.

    Returns:
        user_id, item_ids (list), times (list, microseconds), sorted by user_id, and of a log with
        types their codes, types (list); what was dropped.
    """
    folded = fold_fully(events, max_user_events=max_user_events)
    return folded.table, folded.dropped


def fold_fully(events: pa.Table, *, max_user_events: int) -> Folded:
    """What `fold` does, and the places of the events that are in no row."""
    users, items = (events[name].combine_chunks() for name in ("user_id", "item_id"))
    times = events["timestamp"].to_numpy()
    codes = _rank_of_id(users), _rank_of_id(items)
    types = events[TYPE].to_numpy() if TYPE in events.column_names else np.zeros(len(times), "i1")
    order = _time_order(users, items, times, *codes, types)
    user_code, item_code, times = codes[0][order], codes[1][order], times[order]
    repeats = _repeats(user_code, item_code, times, types[order])
    starts = np.flatnonzero(np.r_[True, user_code[1:] != user_code[:-1]][: len(order)])
    over_cap = ~repeats & (_num_later(~repeats, starts) >= max_user_events)
    keep = ~repeats & ~over_cap
    offsets = np.r_[
        0, np.cumsum(np.add.reduceat(keep.astype(np.int64), starts) if len(starts) else [])
    ]
    offsets = pa.array(offsets.astype(np.int32))
    table = pa.table(
        {
            "user_id": users.take(pa.array(order[starts])),
            "item_ids": pa.ListArray.from_arrays(offsets, items.take(pa.array(order[keep]))),
            "times": pa.ListArray.from_arrays(offsets, pa.array(times[keep])),
        }
    )
    if TYPE in events.column_names:
        kept = pa.array(types[order[keep]], pa.int8())
        table = table.append_column("types", pa.ListArray.from_arrays(offsets, kept))
    counts = {"duplicate": int(repeats.sum()), "over_max_user_events": int(over_cap.sum())}
    return Folded(table, Counter(counts), order[repeats], order[over_cap])


def _time_order(
    users: pa.Array, items: pa.Array, times: Ints, user_code: Ints, item_code: Ints, types: Codes
) -> Ints:
    """The rows by user and time, ties by hash."""
    order = np.lexsort((times, user_code))
    tied = (user_code[order][1:] == user_code[order][:-1]) & (times[order][1:] == times[order][:-1])
    # the others are in their places already
    (places,) = np.nonzero(np.r_[False, tied][: len(order)] | np.r_[tied, False][: len(order)])
    rows = order[places]
    hashes = event_hash(users.take(pa.array(rows)), items.take(pa.array(rows)), times[rows])
    # the item last: it decides only between items whose hashes collide; then the type of one item
    among = np.lexsort((types[rows], item_code[rows], hashes, times[rows], user_code[rows]))
    order[places] = rows[among]
    return order


def _repeats(*columns: Ints | Codes) -> npt.NDArray[np.bool_]:
    """Whether each row is equal to the one before it in all columns."""
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return np.r_[False, same][: len(columns[0])]


def _num_later(keep: npt.NDArray[np.bool_], starts: Ints) -> Ints:
    """How many kept rows of the same user follow each row; `starts`: each user's first row."""
    running = np.cumsum(keep)
    ends = np.r_[starts[1:], len(keep)][: len(starts)]
    return np.repeat(running[ends - 1], ends - starts) - running


def _rank_of_id(ids: pa.Array) -> npt.NDArray[np.int64]:
    """Each id's place among the distinct ids in their order, [n]."""
    encoded = ids.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[encoded.indices.to_numpy(zero_copy_only=False)]


def finish(
    folded: pa.Table,
    vocab: pa.Table,
    *,
    split_time: int,
    user_type: pa.DataType,
    min_item_count: int = 1,
    min_user_events: int = 2,
    types: EventTypes | None = None,
) -> tuple[pa.Table, pa.Table, Counter[str]]:
    """Folded rows -> sequences and holdout rows: rare items out, indices in, the split marked.

    `vocab` says what is rare in the whole log. The holdout is that of a log without the items that
    have fewer than `min_item_count` events before the split, which stay in the sequences:
    `only_items` takes them out where something is measured. `types`: of a log with types.
    """
    histories = _known_events(folded, vocab, types)
    items, known = histories.items, frequent_before_split(vocab, min_item_count)
    events = items, histories.times, histories.offsets
    targets = None if types is None else histories.are_targets()
    num_before, position, no_holdout = find_holdout(
        *events, split_time=split_time, known=known, in_histories=known, targets=targets
    )
    num_measured = count_before(*events[1:], split_time, among=known[items])
    user_ids = folded["user_id"].combine_chunks().cast(user_type)
    sequences = _sequences(user_ids, histories, num_before, position)
    basket = held_out(histories, position, known)
    holdout = _holdout(user_ids, histories, basket, vocab)
    counts = Counter(
        rare_item=len(list_values(folded["item_ids"])) - len(items),
        events=len(items),
        events_before_split=int(num_before.sum()),
        rare_before_split=int((num_before - num_measured).sum()),
        users=folded.num_rows,
        users_too_short_before_split=int((num_measured < min_user_events).sum()),
        users_without_history=int((histories.lengths() == 0).sum()),
        holdout_users=int((position >= 0).sum()),
        holdout_items=holdout.num_rows,
    )
    return sequences, holdout, counts + no_holdout


def _known_events(folded: pa.Table, vocab: pa.Table, types: EventTypes | None) -> Histories:
    """The events of folded rows by the indices of a vocabulary, rare items out."""
    indices, keep = known_items(folded, vocab)
    times = list_values(folded["times"]).to_numpy()
    offsets = np.r_[0, np.cumsum(keep)][list_offsets(folded["item_ids"])]
    typed = None
    if types is not None:
        typed = TypedEvents(list_values(folded["types"]).to_numpy(), types).take(keep)
    return Histories(indices[keep], times[keep], offsets, typed)


def known_items(
    folded: pa.Table, vocab: pa.Table
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """The index of the item of each event of folded rows, and whether it is not too rare."""
    indices = index_items(list_values(folded["item_ids"]), vocab)
    # an earlier vocabulary keeps rows of items that are too rare now, with a count of 0
    return indices, (indices >= 0) & np.r_[vocab["count"].to_numpy() > 0, False][indices]


def _sequences(
    user_ids: pa.Array,
    histories: Histories,
    num_before: npt.NDArray[np.int32],
    position: npt.NDArray[np.int32],
) -> pa.Table:
    offsets, typed = pa.array(histories.offsets.astype(np.int32)), histories.types
    columns = {
        "user_id": user_ids,
        "items": pa.ListArray.from_arrays(offsets, pa.array(histories.items)),
        "times": pa.ListArray.from_arrays(offsets, pa.array(histories.times)),
        "num_before": pa.array(num_before),
        "holdout": pa.array(position, mask=position < 0),
    }
    if typed is None:
        return pa.table(columns, schema=sequences_schema(user_ids.type))
    columns["types"] = pa.ListArray.from_arrays(offsets, pa.array(typed.codes))
    return pa.table(columns, schema=sequences_schema(user_ids.type, typed.types))


def _holdout(
    user_ids: pa.Array, histories: Histories, held: npt.NDArray[np.int64], vocab: pa.Table
) -> pa.Table:
    """`held`: the events of the holdout, [items]."""
    owner = np.searchsorted(histories.offsets, held, side="right") - 1
    size = np.bincount(owner, minlength=len(user_ids))[owner]
    return pa.table(
        {
            "user_id": user_ids.take(pa.array(owner)),
            "item_id": vocab["item_id"].combine_chunks().take(pa.array(histories.items[held])),
            "timestamp": pa.array(histories.times[held]).cast(TIMESTAMP),
            "weight": pa.array(1 / size),
        },
        schema=holdout_schema(user_ids.type, vocab.schema.field("item_id").type),
    )
