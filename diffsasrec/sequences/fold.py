"""All events of some users -> one row per user, and what of it is held out."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.schema import (
    TIMESTAMP,
    holdout_schema,
    list_offsets,
    list_values,
    pair_hash,
    sequences_schema,
)
from diffsasrec.sequences.histories import count_before
from diffsasrec.sequences.holdout import find_holdout
from diffsasrec.sequences.vocab import frequent_before_split, index_items


def fold(events: pa.Table, *, max_user_events: int) -> tuple[pa.Table, Counter[str]]:
    """All events of some users -> one row per user, in time order, exact duplicates out.

    Ties in time are ordered by `schema.pair_hash`. Of a user with more than `max_user_events` the
    last ones are kept.

    Returns:
        user_id, item_ids (list), times (list, microseconds), sorted by user_id; what was dropped.
    """
    users, items = (events[name].combine_chunks() for name in ("user_id", "item_id"))
    times = events["timestamp"].to_numpy()
    user_code, item_code = _rank_of_id(users), _rank_of_id(items)
    order = np.lexsort((times, user_code))
    tied = (user_code[order][1:] == user_code[order][:-1]) & (times[order][1:] == times[order][:-1])
    # the others are in their places already
    (places,) = np.nonzero(np.r_[False, tied][: len(order)] | np.r_[tied, False][: len(order)])
    rows = order[places]
    hashes = pair_hash(users.take(pa.array(rows)), items.take(pa.array(rows)))
    # the item last: it decides only between items whose hashes collide
    among = np.lexsort((item_code[rows], hashes, times[rows], user_code[rows]))
    order[places] = rows[among]
    user_code, item_code, times = user_code[order], item_code[order], times[order]
    same = (
        (user_code[1:] == user_code[:-1])
        & (times[1:] == times[:-1])
        & (item_code[1:] == item_code[:-1])
    )
    keep = np.r_[True, ~same][: len(order)]
    starts = np.flatnonzero(np.r_[True, user_code[1:] != user_code[:-1]][: len(order)])
    running = np.cumsum(keep)
    ends = np.r_[starts[1:], len(order)][: len(starts)]
    num_left = np.repeat(running[ends - 1], ends - starts) - running
    within_cap = num_left < max_user_events
    dropped = Counter(
        duplicate=int((~keep).sum()), over_max_user_events=int((keep & ~within_cap).sum())
    )
    keep &= within_cap
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
    return table, dropped


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
) -> tuple[pa.Table, pa.Table, Counter[str]]:
    """Folded rows -> sequences and holdout rows: rare items out, indices in, the split marked.

    `vocab` says what is rare in the whole log. The holdout is that of a log without the items that
    have fewer than `min_item_count` events before the split, which stay in the sequences:
    `only_items` takes them out where something is measured.
    """
    indices = index_items(list_values(folded["item_ids"]), vocab)
    # an earlier vocabulary keeps rows of items that are too rare now, with a count of 0
    keep = (indices >= 0) & np.r_[vocab["count"].to_numpy() > 0, False][indices]
    old = list_offsets(folded["item_ids"])
    offsets = np.r_[0, np.cumsum(keep)][old]
    items, times = indices[keep], list_values(folded["times"]).to_numpy()[keep]
    known = frequent_before_split(vocab, min_item_count)
    num_before, position, no_holdout = find_holdout(
        items, times, offsets, split_time=split_time, known=known, in_histories=known
    )
    num_measured = count_before(times, offsets, split_time, among=known[items])
    list_offsets_32 = pa.array(offsets.astype(np.int32))
    has_holdout = position >= 0
    sequences = pa.table(
        {
            "user_id": folded["user_id"].combine_chunks().cast(user_type),
            "items": pa.ListArray.from_arrays(list_offsets_32, pa.array(items)),
            "times": pa.ListArray.from_arrays(list_offsets_32, pa.array(times)),
            "num_before": pa.array(num_before),
            "holdout": pa.array(position, mask=~has_holdout),
        },
        schema=sequences_schema(user_type),
    )
    event = offsets[:-1][has_holdout] + position[has_holdout]
    item_type = vocab.schema.field("item_id").type
    holdout = pa.table(
        {
            "user_id": sequences["user_id"].filter(pa.array(has_holdout)),
            "item_id": vocab["item_id"].combine_chunks().take(pa.array(items[event])),
            "timestamp": pa.array(times[event]).cast(TIMESTAMP),
        },
        schema=holdout_schema(user_type, item_type),
    )
    counts = Counter(
        rare_item=int((~keep).sum()),
        events=len(items),
        events_before_split=int(num_before.sum()),
        rare_before_split=int((num_before - num_measured).sum()),
        users=folded.num_rows,
        users_too_short_before_split=int((num_measured < min_user_events).sum()),
        users_without_history=int((np.diff(offsets) == 0).sum()),
        holdout_users=holdout.num_rows,
    )
    return sequences, holdout, counts + no_holdout
