"""The lists of one bucket: for which users, from which history and items, and the fallback."""

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.recommender import Recommender
from diffsasrec.decode.trace import Trace
from diffsasrec.evaluate.counter_settings import CounterSettings
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import Checkpoint
from diffsasrec.schema import canonical, recommendations_schema
from diffsasrec.score.counter_lists import CounterLists
from diffsasrec.score.fallback import PopularLists
from diffsasrec.score.rule_ids import Rules
from diffsasrec.score.rules import excluded_of, with_excluded
from diffsasrec.sequences.histories import (
    Flat,
    Histories,
    UserItems,
    blocked_pairs,
    flatten,
    only_items,
)
from diffsasrec.sequences.vocab import frequent_before_split, reindexing, same_items

QUARANTINED = "quarantined_users"  # in the metadata of a file of lists


@dataclass(frozen=True)
class Scoring:
    """What is scored, with what, and where the lists go."""

    run: Storage
    checkpoint: str  # below the run directory
    output: str  # below the run directory
    users: Literal["holdout", "all"]  # holdout users as of the split, or everyone as of tonight
    query_time: int  # microseconds: the split, or tonight
    state: str  # below the run directory: trends as of the query time, fallback, tries
    active_since: int | None  # microseconds: only users with an event at or after it
    rules: Rules
    decoding: DecodingConfig
    excluded: str = ""  # below the run directory: pairs of user and item by bucket; "": none
    asked: str = ""  # below the run directory: who gets a list, by bucket; "": everyone
    max_quarantined_users: int = 10  # whose scoring ends its process
    min_item_count: int = 1  # before the split, for an item to be in holdout users' histories
    counter: CounterSettings | None = None  # makes the lists in place of the model

    @property
    def source(self) -> str:
        """What makes the lists that are no fallback, as the lists have it."""
        return "model" if self.counter is None else "counter"


def quarantine_of(output: str) -> str:
    """Where people find the users whose lists could not be made, beside the lists."""
    return f"{output}_quarantine"


def with_quarantined(lists: pa.Table, user_ids: pa.Array) -> pa.Table:
    """The lists of a bucket; its schema's metadata names users whose scoring ended its process.

    The file itself holds this: whichever attempt's file stays, its fallbacks are accounted for.
    """
    return lists.replace_schema_metadata({QUARANTINED: json.dumps(user_ids.to_pylist())})


def quarantined_users(lists: pa.Table) -> pa.Array:
    """The users of `with_quarantined`; none if the metadata has none."""
    told = (lists.schema.metadata or {}).get(QUARANTINED.encode(), b"[]")
    return pa.array(json.loads(told), lists.schema.field("user_id").type)


def read_bucket(scoring: Scoring, name: str, vocab: pa.Table) -> pa.Table:
    """`asked_rows`, with the excluded items, if any, as indices of `vocab`."""
    sequences = asked_rows(scoring, name)
    if not scoring.excluded or not scoring.run.exists(f"{scoring.excluded}/{name}"):
        return sequences
    return with_excluded(sequences, scoring.run.read_table(f"{scoring.excluded}/{name}"), vocab)


def asked_rows(scoring: Scoring, name: str) -> pa.Table:
    """The rows of a bucket; where only some users are asked for, theirs."""
    sequences = scoring.run.read_table(f"sequences/{name}")
    if not scoring.asked:
        return sequences
    asked = scoring.run.read_table(f"{scoring.asked}/{name}")["user_id"].combine_chunks()
    return sequences.filter(pc.is_in(canonical(sequences["user_id"]), value_set=asked))


def measured_items(scoring: Scoring, run_vocab: pa.Table) -> npt.NDArray[np.bool_] | None:
    """The items that histories of holdout users keep, [V]; None: all, as for scoring everyone.

    Before the split nobody could know which rare items become frequent after it.
    """
    if scoring.users == "all" or scoring.min_item_count == 1:
        return None
    return frequent_before_split(run_vocab, scoring.min_item_count)


def scored_histories(flat: Flat, scoring: Scoring) -> tuple[npt.NDArray[np.int64], Histories]:
    """The users of a bucket that get a list, and the histories that the lists may use."""
    histories = flat.histories
    if scoring.users == "holdout":
        chosen = np.flatnonzero(flat.holdout >= 0)
        return chosen, histories.first(flat.num_before).of_users(chosen)
    chosen = np.arange(len(flat.offsets) - 1)
    if scoring.active_since is not None:
        active = np.r_[0, np.cumsum(flat.times >= scoring.active_since)]
        chosen = np.flatnonzero(active[flat.offsets[1:]] > active[flat.offsets[:-1]])
    return chosen, histories.of_users(chosen)


def score_bucket(
    sequences: pa.Table,
    run_vocab: pa.Table,
    checkpoint: Checkpoint,
    scoring: Scoring,
    *,
    recommender: Recommender | CounterLists | None,
    popular: PopularLists | None,
    known: npt.NDArray[np.bool_] | None = None,
    trace: Trace | None = None,
) -> pa.Table:
    """The lists of one bucket, recommendations_schema, sorted by user_id as the bucket is.

    Args:
        sequences: sequences_schema, with a column `excluded` if anything is (`rules`).
        recommender: as of the query time; None: everyone gets the fallback.
        popular: makes the fallback; None: it is an empty list.
        known: the items that histories keep, `measured_items`.
        trace: records the steps by which the recommender fills the lists; for one batch of users.
    """
    flat = only_items(flatten(sequences), known)
    users, histories = scored_histories(flat, scoring)
    history_len = histories.lengths().astype(np.int32)
    histories = known_histories(histories, run_vocab, checkpoint.vocab)
    excluded = excluded_of(sequences).of_users(users)
    is_made = (histories.lengths() > 0) & (recommender is not None)
    lists = np.full((len(users), scoring.decoding.k), -1, np.int64)
    scores = np.full(lists.shape, -np.inf, np.float32)
    others, made = np.flatnonzero(~is_made), np.flatnonzero(is_made)
    if popular is not None:
        theirs = histories.of_users(others), excluded.of_users(others)
        lists[others], scores[others] = _fallback(popular, *theirs, scoring.decoding)
    if recommender is not None:
        theirs = histories.of_users(made), excluded.of_users(made)
        lists[made], scores[made] = _recommended(recommender, *theirs, trace)
    user_ids = sequences["user_id"].combine_chunks().take(pa.array(users))
    source = np.where(is_made, scoring.source, "popular")
    return _to_table(user_ids, lists, scores, source, history_len, checkpoint)


def _recommended(
    recommender: Recommender | CounterLists,
    histories: Histories,
    excluded: UserItems,
    trace: Trace | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    events = histories.items, histories.times, histories.offsets
    return recommender.recommend(*events, types=histories.types, excluded=excluded, trace=trace)


def _fallback(
    popular: PopularLists, histories: Histories, excluded: UserItems, decoding: DecodingConfig
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The popular items, without what each user must not be shown or has seen."""
    return popular.lists(
        *blocked_pairs(histories, excluded, filter_seen=decoding.filter_seen),
        num_users=len(histories.offsets) - 1,
        k=decoding.k,
    )


def known_histories(histories: Histories, source: pa.Table, target: pa.Table) -> Histories:
    """Histories re-indexed by the checkpoint's vocabulary; unknown items are left out."""
    if same_items(source, target):
        return histories
    return histories.reindexed(reindexing(source, target))


def known_trends(
    trends: npt.NDArray[np.float32], source: pa.Table, target: pa.Table
) -> npt.NDArray[np.float32]:
    """Trends re-indexed by the checkpoint's vocabulary, [V, F].

    An item that tonight's log lacks counts as rare as the rarest item that it has.
    """
    if same_items(source, target):
        return trends
    known = np.repeat(trends.min(axis=0)[None], target.num_rows, axis=0)
    index = reindexing(source, target)
    known[index[index >= 0]] = trends[index >= 0]
    return known


def _to_table(
    user_ids: pa.Array,
    lists: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    source: npt.NDArray[np.str_],
    history_len: npt.NDArray[np.int32],
    checkpoint: Checkpoint,
) -> pa.Table:
    item_type = checkpoint.vocab.schema.field("item_id").type
    exists = lists >= 0
    ranks = np.broadcast_to(np.arange(1, lists.shape[1] + 1, dtype=np.int16), lists.shape)
    structs = pa.StructArray.from_arrays(
        [
            checkpoint.vocab["item_id"].combine_chunks().take(pa.array(lists[exists])),
            pa.array(scores[exists]),
            pa.array(ranks[exists]),
        ],
        names=["item_id", "score", "rank"],
    )
    offsets = pa.array(np.r_[0, np.cumsum(exists.sum(axis=1))].astype(np.int32))
    return pa.table(
        {
            "user_id": user_ids,
            "items": pa.ListArray.from_arrays(offsets, structs),
            "source": pa.array(source, pa.string()),
            "history_len": pa.array(history_len),
            "model_version": pa.array([checkpoint.model_version] * len(lists), pa.string()),
        },
        schema=recommendations_schema(user_ids.type, item_type),
    )
