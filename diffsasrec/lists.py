"""The lists of one bucket: whose, from which history, of which items, and the fallback."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.checkpoint import Checkpoint, load_checkpoint, parse_tensors
from diffsasrec.recommend import Decoding, Moment, Recommender, events_of
from diffsasrec.schema import canonical, recommendations_schema
from diffsasrec.sequences import Flat, flatten, restrict
from diffsasrec.storage import Storage
from diffsasrec.tables import read_item_ids
from diffsasrec.vocab import index_items, reindexing, same_items

# below the directory of a scoring's state: the fallback scores, and the item trends
POPULAR = "popular.parquet"
TRENDS = "trends.safetensors"
NIGHT_STATE = "state/score"


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
    deny_path: str | None
    allow_path: str | None
    decoding: Decoding
    max_quarantined_users: int = 10  # whose scoring ends its process


def quarantine_of(output: str) -> str:
    """Where the users are named whose lists could not be made, beside the lists."""
    return f"{output}_quarantine"


def allowed_items(
    checkpoint: Checkpoint, *, deny_path: str | None, allow_path: str | None
) -> npt.NDArray[np.bool_]:
    """What may be recommended: trained on, not denied, allowed, [V]."""
    mask = checkpoint.candidates()
    ids = canonical(checkpoint.vocab["item_id"]).combine_chunks()
    if deny_path is not None:
        mask &= ~_is_in(ids, read_item_ids(deny_path, "score.deny_path"))
    if allow_path is not None:
        mask &= _is_in(ids, read_item_ids(allow_path, "score.allow_path"))
    return mask


def _is_in(ids: pa.Array, listed: pa.Array) -> npt.NDArray[np.bool_]:
    if listed.type != ids.type:
        # ids in a CSV are text, and an integer id has one spelling
        ids, listed = ids.cast(pa.string()), listed.cast(pa.string())
    return np.asarray(pc.is_in(ids, value_set=listed))


def scored_users(
    flat: Flat, *, users: str, active_since: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The users of a bucket that get a list, and how many of their events their list may know."""
    if users == "holdout":
        return np.flatnonzero(flat.holdout >= 0), flat.num_before
    lengths = np.diff(flat.offsets).astype(np.int32)
    if active_since is None:
        return np.arange(len(lengths)), lengths
    active = np.r_[0, np.cumsum(flat.times >= active_since)]
    return np.flatnonzero(active[flat.offsets[1:]] > active[flat.offsets[:-1]]), lengths


def score_bucket(
    sequences: pa.Table,
    run_vocab: pa.Table,
    checkpoint: Checkpoint,
    scoring: Scoring,
    *,
    recommender: Recommender | None,
    allowed: npt.NDArray[np.bool_],
    popular: npt.NDArray[np.float32] | None,
) -> pa.Table:
    """The lists of one bucket, recommendations_schema, sorted by user_id as the bucket is.

    `recommender`: of the checkpoint and the allowed items, as of the query time; None: everyone
    gets the fallback.
    `popular`: the log share of each item of `run_vocab`; None: the fallback is an empty list.
    """
    flat = flatten(sequences)
    users, lengths = scored_users(flat, users=scoring.users, active_since=scoring.active_since)
    items, times, offsets = restrict(flat, lengths)
    source, offsets = events_of(offsets, users)
    items, times = items[source], times[source]
    history_len = np.diff(offsets).astype(np.int32)
    items, times, offsets = known_history(items, times, offsets, run_vocab, checkpoint.vocab)
    k = scoring.decoding.k
    has_history = np.diff(offsets) > 0
    lists = np.full((len(users), k), -1, np.int64)
    scores = np.full((len(users), k), -np.inf, np.float32)
    if popular is not None and not has_history.all():
        best = popular_list(popular, run_vocab, checkpoint.vocab, allowed, k=k)
        lists[~has_history], scores[~has_history] = best
    modelled = np.flatnonzero(has_history)
    if recommender is not None:
        source, bounds = events_of(offsets, modelled)
        best = recommender.recommend(items[source], times[source], bounds)
        lists[modelled], scores[modelled] = best
    elif popular is not None:
        for user in modelled:  # few: those that can't be scored
            unseen = allowed.copy()
            unseen[items[offsets[user] : offsets[user + 1]]] &= not scoring.decoding.filter_seen
            best = popular_list(popular, run_vocab, checkpoint.vocab, unseen, k=k)
            lists[user], scores[user] = best
    by_model = has_history & (recommender is not None)
    user_ids = sequences["user_id"].combine_chunks().take(pa.array(users))
    return _to_table(user_ids, lists, scores, by_model, history_len, checkpoint)


def known_history(
    items: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    source: pa.Table,
    target: pa.Table,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Histories re-indexed by the checkpoint's vocabulary; what it does not know is left out."""
    if same_items(source, target):
        return items, times, offsets
    mapped = reindexing(source, target)[items]
    keep = mapped >= 0
    return mapped[keep], times[keep], np.r_[0, np.cumsum(keep)][offsets]


def known_trends(
    trends: npt.NDArray[np.float32], source: pa.Table, target: pa.Table
) -> npt.NDArray[np.float32]:
    """Trends re-indexed by the checkpoint's vocabulary, [V, F].

    An item that tonight's log has nothing of is as rare as the rarest that it has.
    """
    if same_items(source, target):
        return trends
    known = np.repeat(trends.min(axis=0)[None], target.num_rows, axis=0)
    index = reindexing(source, target)
    known[index[index >= 0]] = trends[index >= 0]
    return known


def popular_list(
    popular: npt.NDArray[np.float32],
    run_vocab: pa.Table,
    vocab: pa.Table,
    allowed: npt.NDArray[np.bool_],
    *,
    k: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The K most popular allowed items and the log of their shares; equal ones by item index."""
    scores = np.full(len(allowed), -np.inf, np.float32)
    index = index_items(run_vocab["item_id"].combine_chunks(), vocab)
    scores[index[index >= 0]] = popular[index >= 0]
    scores[~allowed] = -np.inf
    best = np.argsort(-scores, kind="stable")[:k]
    best = best[np.isfinite(scores[best])]
    pad = k - len(best)
    padded_scores = np.r_[scores[best], np.full(pad, -np.inf)].astype(np.float32)
    return np.r_[best, np.full(pad, -1)], padded_scores


def log_shares(
    recent: npt.NDArray[np.int64], all_time: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The log of each item's share of recent events, [V], -inf for an item that never occurred.

    One event more is spread over the items by their share of all time: it orders those that nobody
    touched lately, and is all there is where the window is empty.
    """
    spread = recent + all_time / max(all_time.sum(), 1)
    with np.errstate(divide="ignore"):
        return np.log(spread / max(spread.sum(), 1)).astype(np.float32)


def _to_table(
    user_ids: pa.Array,
    lists: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    by_model: npt.NDArray[np.bool_],
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
    source = np.where(by_model, "model", "popular")
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


class ListMaker:
    """Loads a model and all that its lists depend on once, then makes lists of buckets.

    Attributes:
        vocab: of the run; the items of `lists` are its indices.
        recommender: as of the scoring's query time.
    """

    def __init__(self, scoring: Scoring, device: str) -> None:
        self.scoring = scoring
        self._checkpoint = load_checkpoint(scoring.run.sub(scoring.checkpoint))
        # by the configuration, not by what the node has: lists must not depend on the placement
        self._checkpoint.model.to(device)
        self.vocab = scoring.run.read_tables("vocab")
        self._allowed = allowed_items(
            self._checkpoint, deny_path=scoring.deny_path, allow_path=scoring.allow_path
        )
        (trends_VF,) = parse_tensors(scoring.run.read_bytes(f"{scoring.state}/{TRENDS}"))[
            0
        ].values()
        trends = known_trends(trends_VF.numpy(), self.vocab, self._checkpoint.vocab)
        self.recommender = Recommender(
            self._checkpoint.model,
            moment=Moment(scoring.query_time, trends),
            allowed=self._allowed,
            decoding=scoring.decoding,
        )
        self._popular = None
        if scoring.users == "all":  # holdout users have a history by definition
            self._popular = scoring.run.read_table(f"{scoring.state}/{POPULAR}")[
                "log_share"
            ].to_numpy()

    def lists(self, sequences: pa.Table, *, fallback: bool = False) -> pa.Table:
        """`score_bucket` of one bucket's rows; the fallback for all of them where asked for."""
        return score_bucket(
            sequences,
            self.vocab,
            self._checkpoint,
            self.scoring,
            recommender=None if fallback else self.recommender,
            allowed=self._allowed,
            popular=self._popular,
        )
