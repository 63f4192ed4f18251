"""The serving checkpoint -> a list for every user, one file per bucket."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from .runner.command import run_stages

    run_stages(("score",))

import logging
from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.checkpoint import VOCAB, load_checkpoint
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.schema import SOURCES, list_values
from diffsasrec.score.bucket_lists import Scoring, asked_rows, quarantine_of, scored_histories
from diffsasrec.score.fallback import log_shares
from diffsasrec.score.rules import allowed_items, boost_at, boosts_of
from diffsasrec.score.state_files import POPULAR
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import flatten
from diffsasrec.sequences.vocab import reindexing, same_items
from diffsasrec.times import microseconds

from .item_tables.making import write_item_tables
from .night.exclusions import count_excluded, write_asked, write_excluded
from .night.item_counts import (
    recent_counts,
    write_counter,
    write_shown,
    write_similar,
    write_trends,
)
from .night.records import Evaluated, Prepared, Scored
from .night.scoring import night_scoring, score_buckets
from .night.table_copies import USERS_KEY, copy_of

log = logging.getLogger(__name__)


def main(config: Config, run: RunDir) -> Scored:
    prepared, evaluated = Prepared.of(run), Evaluated.of(run)
    run.require("refit")
    num_buckets = prepared.num_buckets
    counts = recent_counts(run, prepared, before=microseconds(run.ds))
    scoring = night_scoring(config, run)
    write_trends(run, prepared, scoring)
    write_similar(run, prepared, scoring)
    write_excluded(run, prepared)
    write_asked(run, prepared)
    write_counter(config, run, prepared, scoring)
    shares = log_shares(counts[evaluated.popular_window], counts[-1])
    run.storage.write_table(f"{scoring.state}/{POPULAR}", pa.table({"log_share": shares}))
    write_shown(config, scoring, num_buckets, prepared.counts["users"], "score")
    score_buckets(config, scoring, num_buckets, "score")
    tables = write_item_tables(config, run, scoring)
    counted = map_tasks(count_lists, range(num_buckets), run.storage, config.score.k)
    lists: Counter[str] = sum(counted, Counter())
    asked = count_asked(run, scoring, num_buckets, prepared.counts["users"])
    num_users = prepared.counts["users"] - asked.get("not_asked", 0)
    left_out = num_users - sum(lists[source] for source in SOURCES)
    lists += sum(map_tasks(count_excluded, range(num_buckets), run.storage), Counter())
    rest = asked | {"left_out_inactive": left_out, "quarantined_users": count_quarantined(scoring)}
    unknown = count_unknown(run, scoring, num_buckets)
    of_rules = count_forbidden(run, scoring) | count_boosted(scoring, num_buckets)
    return Scored(counts=lists | rest | of_rules | unknown | tables)


def count_asked(run: RunDir, scoring: Scoring, num_buckets: int, num_users: int) -> dict[str, int]:
    """For how many users lists are asked, how many of them and of all others the log knows.

    Nothing where no table says for whom.
    """
    if not scoring.asked:
        return {}
    listed = run.storage.read_table(copy_of("users")).num_rows
    known = sum(map_tasks(count_asked_rows, range(num_buckets), scoring))
    log.info("score: %d of the %d users of %s are in the log", known, listed, USERS_KEY)
    return {"asked": listed, "asked_unknown": listed - known, "not_asked": num_users - known}


def count_asked_rows(bucket: int, scoring: Scoring) -> int:
    return asked_rows(scoring, bucket_name(bucket)).num_rows


def count_quarantined(scoring: Scoring) -> int:
    """How many users have the fallback because their scoring ends its process."""
    try:
        return scoring.run.read_tables(quarantine_of(scoring.output), ["user_id"]).num_rows
    except FileNotFoundError:
        return 0


def count_lists(bucket: int, storage: Storage, k: int) -> Counter[str]:
    """How many lists of a bucket come from which source, and how many are shorter than K."""
    table = storage.read_table(f"recommendations/{bucket_name(bucket)}", ["source", "items"])
    short = pc.sum(pc.less(pc.list_value_length(table["items"]), k)).as_py() or 0
    return Counter(table["source"].to_pylist()) + Counter(short_lists=short)


def count_forbidden(run: RunDir, scoring: Scoring) -> dict[str, int]:
    """How many of the weights' items may not be recommended to anybody."""
    checkpoint = load_checkpoint(run.storage.sub(scoring.checkpoint))
    trained = checkpoint.candidates()
    return {"forbidden_items": int(trained.sum() - allowed_items(checkpoint, scoring.rules).sum())}


def count_boosted(scoring: Scoring, num_buckets: int) -> dict[str, int]:
    """How many items are boosted, or pushed back, and how many places of lists they have.

    Nothing where no table has boosts.
    """
    boosts = boosts_of(scoring.rules)
    if boosts is None:
        return {}
    checkpoint = load_checkpoint(scoring.run.sub(scoring.checkpoint))
    boost = boost_at(scoring.query_time, boosts, checkpoint.vocab)
    allowed = allowed_items(checkpoint, scoring.rules)
    boosted = allowed & (boost != 0) if boost is not None else np.zeros(len(allowed), bool)
    ids = checkpoint.vocab["item_id"].combine_chunks().filter(pa.array(boosted))
    places = sum(map_tasks(count_places, range(num_buckets), scoring, ids), Counter[str]())
    return {"boosted_items": len(ids), "boosted_places": 0, "places": 0} | places


def count_places(bucket: int, scoring: Scoring, ids: pa.Array) -> Counter[str]:
    """The places of a bucket's lists, and those of some items."""
    table = scoring.run.read_table(f"{scoring.output}/{bucket_name(bucket)}", ["items"])
    shown = list_values(table["items"]).field("item_id")
    found = pc.sum(pc.is_in(shown, value_set=ids)).as_py() or 0
    return Counter(places=len(shown), boosted_places=found)


def count_unknown(run: RunDir, scoring: Scoring, num_buckets: int) -> dict[str, int]:
    """What the weights do not know of tonight's log, so that the model does not see it.

    Items of tonight's vocabulary, and their events in the histories of the users that are scored.
    """
    vocab = run.storage.read_tables("vocab")
    weights_vocab = run.storage.read_table(f"{scoring.checkpoint}/{VOCAB}", ["item_id"])
    if same_items(vocab, weights_vocab):
        return {"unknown_items": 0, "unknown_events": 0}
    known = reindexing(vocab, weights_vocab) >= 0
    num_items = int(((vocab["count"].to_numpy() > 0) & ~known).sum())
    num_events = sum(map_tasks(count_unknown_events, range(num_buckets), scoring, known))
    log.info(
        "score: the weights do not know %d items of tonight's log; %d events of them are left out "
        "of what the model sees",
        num_items,
        num_events,
    )
    return {"unknown_items": num_items, "unknown_events": num_events}


def count_unknown_events(bucket: int, scoring: Scoring, known: npt.NDArray[np.bool_]) -> int:
    """The events in the histories of a bucket's scored users whose items are not `known`, [V]."""
    flat = flatten(asked_rows(scoring, bucket_name(bucket)))
    _, histories = scored_histories(flat, scoring)
    return int((~known[histories.items]).sum())
