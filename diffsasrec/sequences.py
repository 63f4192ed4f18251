"""Events -> one row per user: a hash shuffle by bucket, and a vectorised fold of each bucket.

The bucket of a user is our own hash of the id modulo N; N follows from the number of users and the
configuration, never from the hardware. A bucket file is the unit of training input, of scoring and
of resuming; its rows are sorted by user_id.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from diffsasrec.config.data import EventsConfig
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.events import fragments_dataset, fragments_of, read_events
from diffsasrec.inputs.log_files import Log
from diffsasrec.schema import (
    TIMESTAMP,
    canonical,
    canonical_type,
    events_schema,
    holdout_schema,
    id_hash,
    list_offsets,
    list_values,
    pair_hash,
    sequences_schema,
)
from diffsasrec.split import count_before, find_holdout
from diffsasrec.vocab import (
    build_vocab,
    count_items,
    frequent_before_split,
    index_items,
    merge_counts,
)


def bucket_name(bucket: int) -> str:
    return f"part-{bucket:05d}.parquet"


def num_buckets(num_users: int, *, users_per_bucket: int) -> int:
    return max(1, -(-num_users // users_per_bucket))


def bucket_of(user_ids: pa.Array, num: int) -> npt.NDArray[np.int32]:
    """The bucket of each canonical user id, [n]."""
    return (id_hash(user_ids) % np.uint64(num)).astype(np.int32)


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


@dataclass(frozen=True)
class Built:
    vocab: pa.Table
    counts: Counter[str]


def build_sequences(
    log: Log,
    *,
    events: EventsConfig,
    before: int,
    split_time: int,
    num: int,
    max_user_events: int,
    min_item_count: int,
    min_user_events: int,
    previous_vocab: pa.Table | None,
    output: Storage,
    progress: Callable[[int, int], None],
) -> Built:
    """The shuffle, the vocabulary, and the files sequences/, holdout/ and vocab/ below `output`."""
    folded = (
        fragments_dataset(log)
        .map_batches(
            _read_with_bucket,
            fn_kwargs={"log": log, "events": events, "before": before, "num": num},
            batch_format="pyarrow",
            batch_size=1,
        )
        .repartition(num, keys=["bucket"])
        .map_batches(
            _fold_buckets,
            fn_kwargs={"max_user_events": max_user_events, "split_time": split_time},
            batch_format="pyarrow",
            batch_size=None,
        )
        .materialize()
    )
    counts: Counter[str] = Counter()
    item_counts: list[pa.Table] = []
    for row in folded.select_columns(["dropped", "item_counts"]).iter_rows():
        counts += Counter(json.loads(row["dropped"]))
        item_counts = [merge_counts([*item_counts, _unpack(row["item_counts"])])]
    counts["items"] = pc.sum(pc.greater_equal(item_counts[0]["count"], min_item_count)).as_py()
    counts["rare_items"] = item_counts[0].num_rows - counts["items"]
    vocab = build_vocab(
        item_counts[0],
        min_item_count=min_item_count,
        item_type=log.item_type,
        previous=previous_vocab,
    )
    output.write_table(f"vocab/{bucket_name(0)}", vocab)
    finishing = {
        "split_time": split_time,
        "user_type": log.user_type,
        "min_item_count": min_item_count,
        "min_user_events": min_user_events,
    }
    written = set()
    results = folded.map_batches(
        _write_bucket,
        fn_kwargs={"vocab": ray.put(vocab), "output": output, "finishing": finishing},
        batch_format="pyarrow",
        batch_size=1,
    )
    for row in results.iter_rows():
        assert row["bucket"] not in written, row["bucket"]
        counts += Counter(json.loads(row["counts"]))
        written.add(row["bucket"])
        progress(len(written), num)
    # a bucket that no user falls into still has its files: N is a fact of the run
    nobody = fold(_events_of(log).empty_table(), max_user_events=max_user_events)[0]
    for bucket in set(range(num)) - written:
        _write_files(output, bucket, *finish(nobody, vocab, **finishing)[:2])
    return Built(vocab, counts)


def _events_of(log: Log) -> pa.Schema:
    return events_schema(canonical_type(log.user_type), canonical_type(log.item_type))


def _read_with_bucket(
    batch: pa.Table, *, log: Log, events: EventsConfig, before: int, num: int
) -> Iterator[pa.Table]:
    """The events of some fragments and the bucket of each."""
    yield _events_of(log).append(pa.field("bucket", pa.int32())).empty_table()
    for _, fragment in fragments_of(batch):
        for _, checked in read_events(
            fragment, events=events, log_types=(log.user_type, log.item_type), before=before
        ):
            buckets = bucket_of(checked.events["user_id"].combine_chunks(), num)
            yield checked.events.append_column("bucket", pa.array(buckets))


def _fold_buckets(block: pa.Table, *, max_user_events: int, split_time: int) -> Iterator[pa.Table]:
    """One row per bucket: its folded rows and its item counts, packed."""
    # a partition holds the whole of none, one or several buckets
    for bucket in pc.unique(block["bucket"]).to_pylist() if block.num_rows else []:
        rows = block.filter(pc.equal(block["bucket"], bucket))
        table, dropped = fold(rows, max_user_events=max_user_events)
        times = list_values(table["times"]).to_numpy()
        counts = count_items(list_values(table["item_ids"]), times, split_time=split_time)
        yield pa.table(
            {
                "bucket": pa.array([bucket], pa.int32()),
                "dropped": pa.array([json.dumps(dropped)]),
                "folded": pa.array([_pack(table)], pa.large_binary()),
                "item_counts": pa.array([_pack(counts)], pa.large_binary()),
            }
        )


def _write_bucket(
    batch: pa.Table, *, vocab: Any, output: Storage, finishing: dict[str, Any]
) -> pa.Table:
    """Finishes and writes a bucket; `vocab` is a reference, so that a node fetches it once."""
    folded = _unpack(batch["folded"][0].as_py())
    sequences, holdout, counts = finish(folded, ray.get(vocab), **finishing)
    _write_files(output, batch["bucket"][0].as_py(), sequences, holdout)
    return pa.table({"bucket": batch["bucket"], "counts": [json.dumps(counts)]})


def _write_files(output: Storage, bucket: int, sequences: pa.Table, holdout: pa.Table) -> None:
    output.write_table(f"sequences/{bucket_name(bucket)}", sequences)
    output.write_table(f"holdout/{bucket_name(bucket)}", holdout)


def _pack(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpack(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


@dataclass(frozen=True)
class Flat:
    """Sequences as flat arrays: the form that everything after `prepare` computes on."""

    user_ids: pa.Array
    items: npt.NDArray[np.int32]  # [events]
    times: npt.NDArray[np.int64]  # [events]
    offsets: npt.NDArray[np.int64]  # [users + 1]
    num_before: npt.NDArray[np.int32]  # [users]
    holdout: npt.NDArray[np.int32]  # [users], -1 for none


def flatten(sequences: pa.Table) -> Flat:
    """A bucket file's table as flat arrays."""
    return Flat(
        user_ids=canonical(sequences["user_id"]).combine_chunks(),
        items=list_values(sequences["items"]).to_numpy(),
        times=list_values(sequences["times"]).to_numpy(),
        offsets=list_offsets(sequences["items"]),
        num_before=sequences["num_before"].to_numpy(),
        holdout=sequences["holdout"].fill_null(-1).to_numpy(),
    )


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
        offsets=running[flat.offsets],
        num_before=(running[starts + flat.num_before] - running[starts]).astype(np.int32),
        holdout=holdout,
    )


def restrict(
    flat: Flat, lengths: npt.NDArray[np.int64] | npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first `lengths` events of every user: flat items, flat times, offsets."""
    num_events = np.diff(flat.offsets)
    place = np.arange(len(flat.items)) - np.repeat(flat.offsets[:-1], num_events)
    keep = place < np.repeat(lengths, num_events)
    return flat.items[keep], flat.times[keep], np.r_[0, np.cumsum(lengths)].astype(np.int64)
