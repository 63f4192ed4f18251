"""Item vocabulary: item_id <-> index 0..n-1, with counts and the first time of each item.

Pad and mask are no rows of it (they are parameters of the model), so that a vocabulary that grows
by appending moves nothing.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.schema import TIMESTAMP, canonical, like, vocab_schema

COUNTS = ("count", "count_before", "first_time")


def count_items(item_ids: pa.Array, times: npt.NDArray[np.int64], *, split_time: int) -> pa.Table:
    """Counts of one block: item_id, count, count_before (`time < split_time`), first_time in us."""
    before = pa.array((times < split_time).astype(np.int64))
    table = pa.table({"item_id": item_ids, "before": before, "time": pa.array(times)})
    counts = table.group_by("item_id", use_threads=False).aggregate(
        [("time", "count"), ("before", "sum"), ("time", "min")]
    )
    return counts.select(["item_id", "time_count", "before_sum", "time_min"]).rename_columns(
        ["item_id", *COUNTS]
    )


def merge_counts(tables: list[pa.Table]) -> pa.Table:
    """Sums the counts of several blocks; the order of the blocks does not matter."""
    merged = pa.concat_tables(tables).group_by("item_id", use_threads=False)
    result = merged.aggregate([("count", "sum"), ("count_before", "sum"), ("first_time", "min")])
    return result.select(
        ["item_id", "count_sum", "count_before_sum", "first_time_min"]
    ).rename_columns(["item_id", *COUNTS])


def build_vocab(
    counts: pa.Table, *, min_item_count: int, item_type: pa.DataType, previous: pa.Table | None
) -> pa.Table:
    """The vocabulary of the items with at least `min_item_count` events, in `vocab_schema`.

    Items of `previous` keep their indices, with counts of 0 when they are gone or too rare now;
    new items follow in the order of their ids.
    """
    kept = counts.filter(pc.greater_equal(counts["count"], min_item_count)).sort_by("item_id")
    ids = canonical(kept["item_id"]).combine_chunks()
    if previous is not None:
        old = canonical(previous.sort_by("index")["item_id"]).combine_chunks().cast(ids.type)
        is_new = pc.invert(pc.is_in(ids, value_set=old))
        ordered = pa.concat_arrays([old, ids.filter(is_new)])
        row = pc.index_in(ordered, value_set=ids)
    else:
        ordered, row = ids, pa.array(np.arange(len(ids), dtype=np.int32))
    columns = {name: kept[name].combine_chunks().take(row) for name in COUNTS}
    table = pa.table(
        {
            "item_id": ordered.cast(item_type),
            "index": pa.array(np.arange(len(ordered), dtype=np.int32)),
            "count": columns["count"].fill_null(0),
            "count_before": columns["count_before"].fill_null(0),
            "first_time": columns["first_time"].cast(TIMESTAMP),
        }
    )
    return table.cast(vocab_schema(item_type))


def frequent_before_split(vocab: pa.Table, min_item_count: int) -> npt.NDArray[np.bool_]:
    """The items with at least so many events before the split: what is measured with, [V]."""
    return np.asarray(vocab["count_before"].to_numpy() >= min_item_count)


def index_items(item_ids: pa.Array, vocab: pa.Table) -> npt.NDArray[np.int32]:
    """The indices of `item_ids`, [n] int32; -1 for an item that `vocab` does not hold.

    Ids of another type are the same where `like` says so.
    """
    known = canonical(vocab["item_id"]).combine_chunks()
    # null would be found where `vocab` had one
    found = pc.index_in(like(canonical(item_ids), known.type), value_set=known, skip_nulls=True)
    return found.fill_null(-1).to_numpy(zero_copy_only=False)


def same_items(first: pa.Table, second: pa.Table) -> bool:
    """Whether both vocabularies give the same indices to the same items."""
    return bool(first["item_id"].combine_chunks().equals(second["item_id"].combine_chunks()))


def reindexing(source: pa.Table, target: pa.Table) -> npt.NDArray[np.int32]:
    """Maps indices of `source` to those of `target`, [len(source)] int32; -1: unknown there."""
    return index_items(source["item_id"].combine_chunks(), target)
