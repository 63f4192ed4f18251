"""The lists of one bucket: for which users, from which history and items, and the fallback."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.counters.similar import Similar
from diffsasrec.counters.tables import read_similar
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.decode.trace import Trace
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import Checkpoint, load_checkpoint, parse_tensors
from diffsasrec.schema import recommendations_schema
from diffsasrec.score.fallback import PopularLists
from diffsasrec.score.rules import Rules, allowed_items, category_cap, excluded_of, with_excluded
from diffsasrec.sequences.histories import Flat, Histories, UserItems, flatten, only_items
from diffsasrec.sequences.vocab import frequent_before_split, reindexing, same_items

# below the directory of a scoring's state: the fallback scores, the item trends, what is shown
POPULAR = "popular.parquet"
TRENDS = "trends.safetensors"
SHOWN = "shown.safetensors"
SIMILAR = "similar.safetensors"
NIGHT_STATE = "state/score"
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
    max_quarantined_users: int = 10  # whose scoring ends its process
    min_item_count: int = 1  # before the split, for an item to be in holdout users' histories


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
    """The rows of a bucket, with the excluded items, if any, as indices of `vocab`."""
    sequences = scoring.run.read_table(f"sequences/{name}")
    if not scoring.excluded or not scoring.run.exists(f"{scoring.excluded}/{name}"):
        return sequences
    return with_excluded(sequences, scoring.run.read_table(f"{scoring.excluded}/{name}"), vocab)


def measured_items(scoring: Scoring, run_vocab: pa.Table) -> npt.NDArray[np.bool_] | None:
    """The items that histories of holdout users keep, [V]; None: all, as for scoring everyone.

    Before the split nobody could know which rare items become frequent after it.
    """
    if scoring.users == "all" or scoring.min_item_count == 1:
        return None
    return frequent_before_split(run_vocab, scoring.min_item_count)


def scored_histories(
    flat: Flat, *, users: Literal["holdout", "all"], active_since: int | None
) -> tuple[npt.NDArray[np.int64], Histories]:
    """The users of a bucket that get a list, and the histories that the lists may use."""
    histories = flat.histories
    if users == "holdout":
        chosen = np.flatnonzero(flat.holdout >= 0)
        return chosen, histories.first(flat.num_before).of_users(chosen)
    chosen = np.arange(len(flat.offsets) - 1)
    if active_since is not None:
        active = np.r_[0, np.cumsum(flat.times >= active_since)]
        chosen = np.flatnonzero(active[flat.offsets[1:]] > active[flat.offsets[:-1]])
    return chosen, histories.of_users(chosen)


def score_bucket(
    sequences: pa.Table,
    run_vocab: pa.Table,
    checkpoint: Checkpoint,
    scoring: Scoring,
    *,
    recommender: Recommender | None,
    popular: PopularLists | None,
    known: npt.NDArray[np.bool_] | None = None,
    trace: Trace | None = None,
) -> pa.Table:
    """The lists of one bucket, recommendations_schema, sorted by user_id as the bucket is.

    Args:
        sequences: sequences_schema, with a column `excluded` if anything is (`rules`).
        recommender: of the checkpoint, as of the query time; None: everyone gets the fallback.
        popular: makes the fallback; None: it is an empty list.
        known: the items that histories keep, `measured_items`.
        trace: records the steps by which the recommender fills the lists; for one batch of users.
    """
    flat = only_items(flatten(sequences), known)
    users, histories = scored_histories(
        flat, users=scoring.users, active_since=scoring.active_since
    )
    history_len = histories.lengths().astype(np.int32)
    histories = known_histories(histories, run_vocab, checkpoint.vocab)
    excluded = excluded_of(sequences).of_users(users)
    by_model = (histories.lengths() > 0) & (recommender is not None)
    lists = np.full((len(users), scoring.decoding.k), -1, np.int64)
    scores = np.full(lists.shape, -np.inf, np.float32)
    if popular is not None:
        (others,) = np.nonzero(~by_model)
        theirs = histories.of_users(others), excluded.of_users(others)
        lists[others], scores[others] = _fallback(popular, *theirs, scoring.decoding)
    if recommender is not None:
        (modelled,) = np.nonzero(by_model)
        theirs = histories.of_users(modelled), excluded.of_users(modelled)
        lists[modelled], scores[modelled] = _by_model(recommender, *theirs, trace)
    user_ids = sequences["user_id"].combine_chunks().take(pa.array(users))
    return _to_table(user_ids, lists, scores, by_model, history_len, checkpoint)


def _by_model(
    recommender: Recommender, histories: Histories, excluded: UserItems, trace: Trace | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    return recommender.recommend(
        histories.items, histories.times, histories.offsets, excluded=excluded, trace=trace
    )


def _fallback(
    popular: PopularLists, histories: Histories, excluded: UserItems, decoding: DecodingConfig
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The popular items, without what each user must not be shown or has seen."""
    seen = UserItems(histories.items.astype(np.int64), histories.offsets)
    pairs = [excluded, *([seen] if decoding.filter_seen else [])]
    return popular.lists(
        np.concatenate([p.owners() for p in pairs]),
        np.concatenate([p.items for p in pairs]),
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


def _tensor(scoring: Scoring, name: str) -> npt.NDArray[Any]:
    """The one tensor of a file of a scoring's state."""
    (tensor,) = parse_tensors(scoring.run.read_bytes(f"{scoring.state}/{name}"))[0].values()
    array: npt.NDArray[Any] = tensor.numpy()
    return array


class ListMaker:
    """Loads a model and all that its lists depend on once, then makes lists of buckets.

    Attributes:
        vocab: of the run; the items of `lists` are its indices.
        item_ids: of the weights, by index, as a trace has them.
        recommender: as of the scoring's query time.
    """

    def __init__(self, scoring: Scoring, device: str) -> None:
        self.scoring = scoring
        self._checkpoint = load_checkpoint(scoring.run.sub(scoring.checkpoint))
        # by the configuration, not by the hardware of the node: lists must not depend on placement
        self._checkpoint.model.to(device)
        self.vocab = scoring.run.read_tables("vocab")
        self.item_ids = self._checkpoint.vocab["item_id"].combine_chunks()
        self._known = measured_items(scoring, self.vocab)
        allowed = allowed_items(self._checkpoint, scoring.rules)
        cap = category_cap(self._checkpoint.vocab, scoring.rules)
        trends = known_trends(_tensor(scoring, TRENDS), self.vocab, self._checkpoint.vocab)
        shown = None
        if scoring.decoding.explores:
            try:
                shown = _tensor(scoring, SHOWN)
            except FileNotFoundError:
                raise ConfigError(
                    f"{scoring.run.url(scoring.state)} has no {SHOWN}: the night of this run "
                    "did not explore; set score.explore_items to 0"
                ) from None
        self.recommender = Recommender(
            self._checkpoint.model,
            moment=Moment(scoring.query_time, trends, shown, self._similar()),
            allowed=allowed,
            cap=cap,
            decoding=scoring.decoding,
        )
        self._popular = None
        if scoring.users == "all":  # holdout users have a history by definition
            shares = scoring.run.read_table(f"{scoring.state}/{POPULAR}")["log_share"].to_numpy()
            self._popular = PopularLists(
                shares, self.vocab, self._checkpoint.vocab, allowed=allowed, cap=cap
            )

    def _similar(self) -> Similar | None:
        """By the checkpoint's vocabulary; None: its model scores no similar items."""
        if not self._checkpoint.model.config.scores_similar:
            return None
        found = read_similar(self.scoring.run, f"{self.scoring.state}/{SIMILAR}")
        source, target = self.vocab, self._checkpoint.vocab
        same = same_items(source, target)
        return found if same else found.reindexed(reindexing(source, target), target.num_rows)

    def read_bucket(self, name: str) -> pa.Table:
        """The rows of a bucket, with what is excluded for each user."""
        return read_bucket(self.scoring, name, self._checkpoint.vocab)

    def lists(
        self, sequences: pa.Table, *, fallback: bool = False, trace: Trace | None = None
    ) -> pa.Table:
        """`score_bucket` of one bucket's rows; on request, the fallback for all of them."""
        return score_bucket(
            sequences,
            self.vocab,
            self._checkpoint,
            self.scoring,
            recommender=None if fallback else self.recommender,
            popular=self._popular,
            known=self._known,
            trace=trace,
        )
