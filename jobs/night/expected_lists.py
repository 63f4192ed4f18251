"""Who must have a list, from which history and without what: for the audit of a bucket."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.model.checkpoint import Checkpoint, load_checkpoint
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.score.audit import audit_bucket
from diffsasrec.score.bucket_lists import (
    Scoring,
    quarantined_users,
    read_bucket,
    scored_histories,
)
from diffsasrec.score.rules import allowed_items, category_cap, excluded_of
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import UserItems, flatten
from diffsasrec.sequences.vocab import reindexing, same_items


@dataclass(frozen=True)
class Yardstick:
    """What the lists of all buckets are audited by, without the weights: made once for all.

    Ray hands it to tasks as a reference: a node then has it once.
    """

    vocab: pa.Table  # item_id, of the checkpoint
    index: npt.NDArray[np.int32] | None  # from the run's vocabulary, -1: unknown; None: the same
    allowed: npt.NDArray[np.bool_]  # [V]
    cap: CategoryCap | None
    model_version: str

    @classmethod
    def of(cls, scoring: Scoring, checkpoint: Checkpoint | None = None) -> "Yardstick":
        """`checkpoint`: that of the scoring, where it is in memory anyway."""
        checkpoint = checkpoint or load_checkpoint(scoring.run.sub(scoring.checkpoint))
        source, target = scoring.run.read_tables("vocab"), checkpoint.vocab
        return cls(
            vocab=target.select(["item_id"]),
            index=None if same_items(source, target) else reindexing(source, target),
            allowed=allowed_items(checkpoint, scoring.rules),
            cap=category_cap(target, scoring.rules),
            model_version=checkpoint.model_version,
        )


def audit_file(
    bucket: int, scoring: Scoring, yardstick: Yardstick
) -> tuple[str, Counter[str], int, int]:
    """A bucket's file, how many of its rows break which rule, recomputed from the sequences, and
    how many lists and items it has."""
    path = f"{scoring.output}/{bucket_name(bucket)}"
    lists = scoring.run.read_table(path)
    num_items = pc.sum(pc.list_value_length(lists["items"])).as_py() or 0
    return path, broken_rules(lists, bucket, scoring, yardstick), lists.num_rows, num_items


def broken_rules(
    lists: pa.Table, bucket: int, scoring: Scoring, yardstick: Yardstick
) -> Counter[str]:
    """How many of a bucket's lists break which rule."""
    return audit_bucket(
        lists,
        expected_of(bucket, scoring, yardstick, quarantined=quarantined_users(lists)),
        vocab=yardstick.vocab,
        allowed=yardstick.allowed,
        cap=yardstick.cap,
        k=scoring.decoding.k,
        filter_seen=scoring.decoding.filter_seen,
        by_score=scoring.decoding.rank == "next_item",
        model_version=yardstick.model_version,
    )


def expected_of(
    bucket: int, scoring: Scoring, yardstick: Yardstick, *, quarantined: pa.Array
) -> pa.Table:
    """Who must have a list in a bucket, from which history, without what, and from which source.

    `quarantined`: the users that could not be scored, as the file of their lists says.
    """
    sequences = read_bucket(scoring, bucket_name(bucket), yardstick.vocab)
    users, histories = scored_histories(flatten(sequences), scoring)
    history_len = histories.lengths().astype(np.int32)
    if yardstick.index is not None:
        histories = histories.reindexed(yardstick.index)
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
