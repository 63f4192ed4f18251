"""Events -> one row per user: a hash shuffle by bucket, and a vectorised fold of each bucket.

The bucket of a user is our own hash of the id modulo N; N follows from the number of users and the
configuration, never from the hardware. A bucket file is the unit of training input, of scoring and
of resuming; its rows are sorted by user_id.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from diffsasrec.config.data import EventsConfig, SplitConfig
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.events import fragments_dataset, fragments_of, read_events
from diffsasrec.progress import beating
from diffsasrec.read_log.earlier import UNUSED, Earlier
from diffsasrec.read_log.log import Log, Unread
from diffsasrec.schema import (
    canonical_type,
    events_schema,
    list_values,
)
from diffsasrec.sequences.buckets import bucket_name, bucket_of
from diffsasrec.sequences.fold import finish
from diffsasrec.sequences.merging import Merging
from diffsasrec.sequences.taken_over import folded_of
from diffsasrec.sequences.unused import (
    count_dropped,
    fold_with_unused,
    in_order,
    merge,
    rare_rows,
)
from diffsasrec.sequences.vocab import (
    build_vocab,
    count_items,
    merge_counts,
)


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
    split: SplitConfig,
    previous_vocab: pa.Table | None,
    output: Storage,
    earlier: Earlier | None = None,
    keeps_unused: bool = False,
    progress: Callable[[int, int], None],
) -> Built:
    """The shuffle, the vocabulary, and the files sequences/, holdout/ and vocab/ below `output`.

    `earlier`: a night with as many buckets, whose events are taken over. `keeps_unused`: whether
    what the sequences lack is written for a later night.
    """
    reading = {"log_types": log.id_types, "events": events, "before": before, "num": num}
    shared: dict[str, Any] = {"split_time": split_time, "keeps_unused": keeps_unused}
    folding = {**shared, "earlier": earlier, "max_user_events": split.max_user_events}
    folded = _folded_log(log, reading, folding)
    counts, item_counts = _counted(folded, min_item_count=split.min_item_count)
    least = split.min_item_count
    vocab = build_vocab(
        item_counts, min_item_count=least, item_type=log.item_type, previous=previous_vocab
    )
    output.write_table(f"vocab/{bucket_name(0)}", vocab)
    finishing = {**shared, "user_type": log.user_type, "types": events.event_types}
    finishing |= {name: getattr(split, name) for name in ("min_item_count", "min_user_events")}
    written: set[int] = set()
    for bucket, bucket_counts in _write_buckets(folded, vocab, output, finishing):
        assert bucket not in written, bucket
        counts += bucket_counts
        written.add(bucket)
        progress(len(written), num)
    rest, nothing = sorted(set(range(num)) - written), _no_events(log.id_types, events)
    _write_empty(rest, nothing, vocab, output, finishing)
    return Built(vocab, counts)


def _write_empty(
    buckets: list[int],
    nothing: pa.Table,
    vocab: pa.Table,
    output: Storage,
    finishing: dict[str, Any],
) -> None:
    """A bucket that no user falls into still has its files: their number is a fact of the run."""
    nobody = fold_with_unused(nothing, max_user_events=1)
    for bucket in beating(buckets):
        _finish_bucket(bucket, *nobody, vocab, output, **finishing)


def _folded_log(log: Log, reading: dict[str, Any], folding: dict[str, Any]) -> ray.data.Dataset:
    """The shuffle by bucket: one row per bucket, as `_fold_buckets` makes it.

    Args:
        reading: arguments of `_read_with_bucket`.
        folding: arguments of `_fold_buckets`.
    """
    rows = fragments_dataset(log, markers=int(folding["earlier"] is not None))
    return (
        rows.map_batches(
            _read_with_bucket,
            fn_kwargs={**reading, "unread": log.unread},
            batch_format="pyarrow",
            batch_size=1,
        )
        .repartition(reading["num"], keys=["bucket"])
        .map_batches(_fold_buckets, fn_kwargs=folding, batch_format="pyarrow", batch_size=None)
        .materialize()
    )


def _counted(folded: ray.data.Dataset, *, min_item_count: int) -> tuple[Counter[str], pa.Table]:
    """What the folds dropped and which items are rare, and the counts of all items."""
    counts: Counter[str] = Counter()
    merging = Merging(merge_counts)
    for row in beating(folded.select_columns(["dropped", "item_counts"]).iter_rows()):
        counts += Counter(json.loads(row["dropped"]))
        merging.add(_unpack(row["item_counts"]))
    item_counts = merging.result()
    counts["items"] = pc.sum(pc.greater_equal(item_counts["count"], min_item_count)).as_py()
    counts["rare_items"] = item_counts.num_rows - counts["items"]
    return counts, item_counts


def _write_buckets(
    folded: ray.data.Dataset, vocab: pa.Table, output: Storage, finishing: dict[str, Any]
) -> Iterator[tuple[int, Counter[str]]]:
    """Writes the files of all buckets that have users; yields each with its counts."""
    results = folded.map_batches(
        _write_bucket,
        fn_kwargs={"vocab": ray.put(vocab), "output": output, "finishing": finishing},
        batch_format="pyarrow",
        batch_size=1,
    )
    for row in results.iter_rows():
        yield row["bucket"], Counter(json.loads(row["counts"]))


def _no_events(log_types: tuple[Any, Any], events: EventsConfig) -> pa.Table:
    schema = events_schema(*map(canonical_type, log_types), typed=bool(events.types))
    return schema.empty_table()


def _read_with_bucket(
    batch: pa.Table,
    *,
    log_types: tuple[Any, Any],
    events: EventsConfig,
    before: int,
    num: int,
    unread: Unread | None,
) -> Iterator[pa.Table]:
    """The events of some fragments and the bucket of each.

    For the marker, a row without an event for each bucket: so all of them are folded, also those
    that have no new event.
    """
    nothing = _no_events(log_types, events)
    yield nothing.append_column("bucket", pa.array([], pa.int32()))
    for number, fragment in fragments_of(batch):
        if fragment is None:
            empty = [pa.nulls(num, column.type) for column in nothing.schema]
            table = pa.table(empty, schema=nothing.schema)
            yield table.append_column("bucket", pa.array(np.arange(num, dtype=np.int32)))
            continue
        for _, checked in read_events(fragment, events=events, log_types=log_types, before=before):
            rows = checked.events if unread is None else unread.later(number, checked.events)
            buckets = bucket_of(rows["user_id"].combine_chunks(), num)
            yield rows.append_column("bucket", pa.array(buckets))


def _fold_buckets(
    block: pa.Table,
    *,
    max_user_events: int,
    split_time: int,
    earlier: Earlier | None,
    keeps_unused: bool,
) -> Iterator[pa.Table]:
    """One row per bucket: its folded rows, what they lack, and its item counts, packed."""
    # a partition holds the whole of none, one or several buckets
    for bucket in pc.unique(block["bucket"]).to_pylist() if block.num_rows else []:
        rows = block.filter(pc.equal(block["bucket"], bucket)).drop_columns("bucket")
        if earlier is None:
            table, unused = fold_with_unused(rows, max_user_events=max_user_events)
        else:
            known, new = folded_of(earlier, bucket), rows.filter(rows["user_id"].is_valid())
            table, unused = merge(*known, new, max_user_events=max_user_events)
        times = list_values(table["times"]).to_numpy()
        counts = count_items(list_values(table["item_ids"]), times, split_time=split_time)
        kept = unused if keeps_unused else unused.slice(0, 0)
        yield pa.table(
            {
                "bucket": pa.array([bucket], pa.int32()),
                "dropped": pa.array([json.dumps(count_dropped(unused))]),
                "folded": pa.array([_pack(table)], pa.large_binary()),
                "unused": pa.array([_pack(kept)], pa.large_binary()),
                "item_counts": pa.array([_pack(counts)], pa.large_binary()),
            }
        )


def _write_bucket(
    batch: pa.Table, *, vocab: Any, output: Storage, finishing: dict[str, Any]
) -> pa.Table:
    """Finishes and writes a bucket; `vocab` is a reference, so that a node fetches it once."""
    folded, unused = (_unpack(batch[name][0].as_py()) for name in ("folded", "unused"))
    bucket = batch["bucket"][0].as_py()
    counts = _finish_bucket(bucket, folded, unused, ray.get(vocab), output, **finishing)
    return pa.table({"bucket": batch["bucket"], "counts": [json.dumps(counts)]})


def _finish_bucket(
    bucket: int,
    folded: pa.Table,
    unused: pa.Table,
    vocab: pa.Table,
    output: Storage,
    *,
    keeps_unused: bool,
    **finishing: Any,
) -> Counter[str]:
    """Writes the files of a bucket; its counts."""
    sequences, holdout, counts = finish(folded, vocab, **finishing)
    name = bucket_name(bucket)
    output.write_table(f"sequences/{name}", sequences)
    output.write_table(f"holdout/{name}", holdout)
    if keeps_unused:
        rest = pa.concat_tables([unused, rare_rows(folded, vocab)])
        output.write_table(f"{UNUSED}/{name}", in_order(rest))
    return counts


def _pack(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpack(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
