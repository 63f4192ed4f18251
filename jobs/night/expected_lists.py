"""Who must have a list, from which history and without what: for the audit of a bucket."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.model.checkpoint import Checkpoint, load_checkpoint
from diffsasrec.score.audit import audit_bucket
from diffsasrec.score.bucket_lists import (
    Scoring,
    known_histories,
    quarantined_users,
    read_bucket,
    scored_histories,
)
from diffsasrec.score.rules import allowed_items, category_cap, excluded_of
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import UserItems, flatten


def audit_file(bucket: int, scoring: Scoring) -> tuple[str, Counter[str], int, int]:
    """A bucket's file, how many of its rows break which rule, recomputed from the sequences, and
    how many lists and items it has."""
    run, path = scoring.run, f"{scoring.output}/{bucket_name(bucket)}"
    checkpoint = load_checkpoint(run.sub(scoring.checkpoint))
    lists = run.read_table(path)
    num_items = pc.sum(pc.list_value_length(lists["items"])).as_py() or 0
    broken = broken_rules(lists, bucket, scoring, checkpoint)
    return path, broken, lists.num_rows, num_items


def broken_rules(
    lists: pa.Table, bucket: int, scoring: Scoring, checkpoint: Checkpoint
) -> Counter[str]:
    """How many of a bucket's lists break which rule."""
    return audit_bucket(
        lists,
        expected_of(bucket, scoring, checkpoint, quarantined=quarantined_users(lists)),
        vocab=checkpoint.vocab,
        allowed=allowed_items(checkpoint, scoring.rules),
        cap=category_cap(checkpoint.vocab, scoring.rules),
        k=scoring.decoding.k,
        filter_seen=scoring.decoding.filter_seen,
        by_score=scoring.decoding.rank == "next_item",
        model_version=checkpoint.model_version,
    )


def expected_of(
    bucket: int, scoring: Scoring, checkpoint: Checkpoint, *, quarantined: pa.Array
) -> pa.Table:
    """Who must have a list in a bucket, from which history, without what, and from which source.

    `quarantined`: the users that could not be scored, as the file of their lists says.
    """
    sequences = read_bucket(scoring, bucket_name(bucket), checkpoint.vocab)
    users, histories = scored_histories(flatten(sequences), scoring)
    history_len = histories.lengths().astype(np.int32)
    histories = known_histories(histories, scoring.run.read_tables("vocab"), checkpoint.vocab)
    user_ids = sequences["user_id"].combine_chunks().take(pa.array(users))
    is_quarantined = np.asarray(pc.is_in(user_ids, value_set=quarantined))
    is_made = (histories.lengths() > 0) & ~is_quarantined
    excluded = excluded_of(sequences).of_users(users)
    return pa.table(
        {
            "user_id": user_ids,
            "items": _list_column(histories.seen()),
            "excluded": _list_column(excluded),
            "history_len": pa.array(history_len),
            "source": pa.array(np.where(is_made, scoring.source, "popular"), pa.string()),
        }
    )


def _list_column(lists: UserItems) -> pa.ListArray:
    """The items of each user as a column of lists."""
    offsets = pa.array(lists.offsets.astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(lists.items))
