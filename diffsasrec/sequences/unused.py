"""The rows of a bucket that its sequences lack, so that both together hold every row that was kept.

A later night makes the folded rows of the bucket from them again, and adds what is new: the same
rows as a fold of all events of both nights makes. Only users with a new event are folded.
"""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.schema import TYPE, canonical, events_schema, list_offsets, list_values
from diffsasrec.sequences.fold import fold_fully, known_items

REPEAT, OVER_CAP, RARE = range(3)  # why a row is in no sequence
DROPPED = {REPEAT: "duplicate", OVER_CAP: "over_max_user_events"}  # as they are counted


def unused_schema(events: pa.Schema) -> pa.Schema:
    """Events, why they are in no sequence, and the place of a rare one in the folded history."""
    return pa.schema([*events, pa.field("why", pa.int8()), pa.field("place", pa.int32())])


def fold_with_unused(events: pa.Table, *, max_user_events: int) -> tuple[pa.Table, pa.Table]:
    """The folded rows of events, and the events that are in none of them, `unused_schema`."""
    folded = fold_fully(events, max_user_events=max_user_events)
    parts = ((REPEAT, folded.repeats), (OVER_CAP, folded.over_cap))
    rest = pa.concat_tables([_because(events.take(pa.array(rows)), why) for why, rows in parts])
    return folded.table, rest


def count_dropped(unused: pa.Table) -> Counter[str]:
    """The events that are in no folded row, by the reason."""
    counts = np.bincount(unused["why"].to_numpy(), minlength=len(DROPPED))
    return Counter({name: int(counts[why]) for why, name in DROPPED.items()})


def merge(
    folded: pa.Table, unused: pa.Table, events: pa.Table, *, max_user_events: int
) -> tuple[pa.Table, pa.Table]:
    """Folded rows and what they lack, with more events, as a fold of all these events has them.

    Args:
        folded: sorted by user_id; of a fold with the same `max_user_events`.
        unused: the events of the same users that are in no folded row.
        events: the new ones, also of other users.
    """
    if not events.num_rows:
        return folded, unused
    changed = pc.unique(events["user_id"])
    is_changed = pc.is_in(folded["user_id"], value_set=changed)
    again = pc.is_in(unused["user_id"], value_set=changed)
    old = _events_of(folded.filter(is_changed), events.schema)
    parts = [old, unused.filter(again).select(events.column_names), events]
    mine, rest = fold_with_unused(pa.concat_tables(parts), max_user_events=max_user_events)
    whole = pa.concat_tables([folded.filter(pc.invert(is_changed)), mine])
    whole = whole.take(pc.sort_indices(whole["user_id"])).combine_chunks()
    return whole, pa.concat_tables([unused.filter(pc.invert(again)), rest])


def since(folded: pa.Table, unused: pa.Table, time: int) -> tuple[pa.Table, pa.Table]:
    """Folded rows and what they lack, as a fold of the events from `time` on has them."""
    offsets = list_offsets(folded["times"])
    keep = list_values(folded["times"]).to_numpy() >= time
    if keep.all():
        return folded, unused.filter(pc.greater_equal(unused["timestamp"], time))
    kept = np.r_[0, np.cumsum(keep)][offsets]
    stays = np.diff(kept) > 0
    starts = pa.array(np.r_[0, np.cumsum(np.diff(kept)[stays])].astype(np.int32))
    columns = {"user_id": folded["user_id"].combine_chunks().filter(pa.array(stays))}
    for name in folded.column_names[1:]:
        values = list_values(folded[name]).filter(pa.array(keep))
        columns[name] = pa.ListArray.from_arrays(starts, values)
    return pa.table(columns), unused.filter(pc.greater_equal(unused["timestamp"], time))


def rare_rows(folded: pa.Table, vocab: pa.Table) -> pa.Table:
    """The events of folded rows that a vocabulary leaves out, `unused_schema`."""
    _, known = known_items(folded, vocab)
    places = np.flatnonzero(~known)
    offsets = list_offsets(folded["item_ids"])
    owner = np.searchsorted(offsets, places, side="right") - 1
    columns = [folded["user_id"].combine_chunks().take(pa.array(owner))]
    lists = [list_values(folded[name]) for name in folded.column_names[1:]]
    columns += [each.take(pa.array(places)) for each in lists]
    columns += [pa.array(np.full(len(places), RARE, np.int8))]
    columns += [pa.array((places - offsets[owner]).astype(np.int32))]
    kinds = [columns[0].type, lists[0].type]
    events = events_schema(*kinds, typed="types" in folded.column_names)
    return pa.table(columns, schema=unused_schema(events))


def in_order(unused: pa.Table) -> pa.Table:
    """The same rows in the one order in which they are written."""
    return unused.sort_by([(name, "ascending") for name in unused.column_names]).combine_chunks()


def unfinish(sequences: pa.Table, vocab: pa.Table, unused: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The folded rows that sequences were made of, and the events that are in none of these.

    Args:
        sequences, vocab: as a night has written them.
        unused: all rows of the bucket that the sequences lack.
    """
    is_rare = pc.equal(unused["why"], RARE)
    rare, dropped = unused.filter(is_rare), unused.filter(pc.invert(is_rare))
    users = canonical(sequences["user_id"]).combine_chunks()
    owner = pc.index_in(rare["user_id"].combine_chunks(), value_set=users).to_numpy()
    lengths = np.diff(list_offsets(sequences["items"]))
    lengths = lengths + np.bincount(owner, minlength=len(lengths))
    offsets = np.r_[0, np.cumsum(lengths)]
    is_known = np.ones(offsets[-1], bool)
    places = offsets[owner] + rare["place"].to_numpy()
    is_known[places] = False

    def spread(known: npt.NDArray[np.int64], left: npt.NDArray[np.int64]) -> pa.Array:
        values = np.empty(len(is_known), known.dtype)
        values[is_known], values[places] = known, left
        return pa.array(values)

    ids = canonical(vocab["item_id"]).combine_chunks()
    ids = pa.concat_arrays([ids, rare["item_id"].combine_chunks().cast(ids.type)])
    beyond = np.arange(len(ids) - rare.num_rows, len(ids), dtype=np.int32)
    items = ids.take(spread(list_values(sequences["items"]).to_numpy(), beyond))
    starts = pa.array(offsets.astype(np.int32))
    times = spread(list_values(sequences["times"]).to_numpy(), rare["timestamp"].to_numpy())
    columns = {
        "user_id": users,
        "item_ids": pa.ListArray.from_arrays(starts, items),
        "times": pa.ListArray.from_arrays(starts, times),
    }
    if TYPE in rare.column_names:
        types = spread(list_values(sequences["types"]).to_numpy(), rare[TYPE].to_numpy())
        columns["types"] = pa.ListArray.from_arrays(starts, types)
    return pa.table(columns), dropped


def _events_of(folded: pa.Table, schema: pa.Schema) -> pa.Table:
    """The events of folded rows."""
    offsets = list_offsets(folded["item_ids"])
    owner = np.repeat(np.arange(folded.num_rows), np.diff(offsets))
    users = folded["user_id"].combine_chunks().take(pa.array(owner))
    lists = [list_values(folded[name]) for name in folded.column_names[1:]]
    return pa.table([users, *lists], schema=schema)


def _because(events: pa.Table, why: int) -> pa.Table:
    columns = [*events.columns, pa.array(np.full(events.num_rows, why, np.int8))]
    columns.append(pa.array(np.zeros(events.num_rows, np.int32)))
    return pa.table(columns, schema=unused_schema(events.schema))
