"""The serving checkpoint -> a list for every user, one file per bucket."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from jobs.command import run_stages

    run_stages(("score",))

import logging
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from diffsasrec.config.config import Config
from diffsasrec.config.serving import ScoreConfig
from diffsasrec.decode.decoding import CommitRule, Decoding
from diffsasrec.decode.exploration import Exploration
from diffsasrec.evaluate.tallies import list_matrix
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.checkpoint import VOCAB, load_checkpoint, save_tensors
from diffsasrec.model.features import trend_counts, trend_features, window_counts
from diffsasrec.progress import Progress
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.score.actors import score, unscored_buckets
from diffsasrec.score.bucket_lists import (
    NIGHT_STATE,
    POPULAR,
    SHOWN,
    TRENDS,
    Scoring,
    measured_items,
    quarantine_of,
    quarantined_users,
    scored_users,
)
from diffsasrec.score.fallback import log_shares
from diffsasrec.score.rules import allowed_items
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import events_of, flatten, only_items
from diffsasrec.sequences.vocab import reindexing, same_items
from diffsasrec.times import DAY, microseconds
from jobs.exclude import EXCLUDED, count_excluded, write_excluded
from jobs.side_tables import rules_of_run

log = logging.getLogger(__name__)

SHOWN_USERS = 10_000  # whose lists say what lists show


def main(config: Config, run: RunDir) -> dict[str, Any]:
    prepared, evaluated = run.require("prepare"), run.require("evaluate")
    run.require("refit")
    num_buckets = prepared["num_buckets"]
    counts = recent_counts(run, prepared, before=microseconds(run.ds))
    scoring = night_scoring(config, run)
    write_trends(run, prepared, scoring)
    write_excluded(config, run, prepared)
    shares = log_shares(counts[evaluated["popular_window"]], counts[-1])
    run.storage.write_table(f"{scoring.state}/{POPULAR}", pa.table({"log_share": shares}))
    write_shown(config, scoring, num_buckets, prepared["counts"]["users"], "score")
    score_buckets(config, scoring, num_buckets, "score")
    counted = map_tasks(count_lists, range(num_buckets), run.storage, config.score.k)
    lists: Counter[str] = sum(counted, Counter())
    left_out = prepared["counts"]["users"] - lists["model"] - lists["popular"]
    lists += sum(map_tasks(count_excluded, range(num_buckets), run.storage), Counter())
    rest = {"left_out_inactive": left_out, "quarantined_users": count_quarantined(scoring)}
    unknown = count_unknown(run, scoring, num_buckets)
    return {"counts": lists | rest | count_forbidden(run, scoring) | unknown}


def count_quarantined(scoring: Scoring) -> int:
    """The users whose lists are the fallback because their scoring ends its process."""
    try:
        return scoring.run.read_tables(quarantine_of(scoring.output), ["user_id"]).num_rows
    except FileNotFoundError:
        return 0


def count_lists(bucket: int, storage: Storage, k: int) -> Counter[str]:
    """How many lists of a bucket come from the model, are the fallback, and are shorter than K."""
    table = storage.read_table(f"recommendations/{bucket_name(bucket)}", ["source", "items"])
    short = pc.sum(pc.less(pc.list_value_length(table["items"]), k)).as_py() or 0
    return Counter(table["source"].to_pylist()) + Counter(short_lists=short)


def count_forbidden(run: RunDir, scoring: Scoring) -> dict[str, int]:
    """How many items that the weights know may be recommended to nobody."""
    checkpoint = load_checkpoint(run.storage.sub(scoring.checkpoint))
    trained = checkpoint.candidates()
    return {"forbidden_items": int(trained.sum() - allowed_items(checkpoint, scoring.rules).sum())}


def count_unknown(run: RunDir, scoring: Scoring, num_buckets: int) -> dict[str, int]:
    """What of tonight's log the weights do not know, and the model therefore does not see.

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
    flat = flatten(scoring.run.read_table(f"sequences/{bucket_name(bucket)}"))
    users, _ = scored_users(flat, users=scoring.users, active_since=scoring.active_since)
    source, _ = events_of(flat.offsets, users)
    return int((~known[flat.items[source]]).sum())


def recent_counts(run: RunDir, prepared: dict[str, Any], *, before: int) -> Any:
    """`baselines.window_counts` over all buckets, [windows + 1, V]."""

    def count(bucket: int, storage: Storage) -> Any:
        flat = flatten(storage.read_table(f"sequences/{bucket_name(bucket)}"))
        return window_counts(flat.items, flat.times, before=before, num_items=prepared["num_items"])

    return sum(map_tasks(count, range(prepared["num_buckets"]), run.storage))


def write_trends(run: RunDir, prepared: dict[str, Any], scoring: Scoring) -> None:
    """The item trends as of the query time, over all buckets, [V, F]."""
    known = measured_items(scoring, run.storage.read_tables("vocab"))

    def count(bucket: int, storage: Storage, known: npt.NDArray[np.bool_] | None) -> Any:
        table = storage.read_table(f"sequences/{bucket_name(bucket)}")
        flat = only_items(flatten(table), known)
        return trend_counts(
            flat.items,
            flat.times,
            flat.offsets,
            query_times=np.array([scoring.query_time]),
            num_items=prepared["num_items"],
        )

    counts = sum(map_tasks(count, range(prepared["num_buckets"]), run.storage, known))
    trends = torch.from_numpy(trend_features(counts)[0])
    save_tensors(run.storage, f"{scoring.state}/{TRENDS}", {"trends": trends}, {})


def write_shown(
    config: Config, scoring: Scoring, num_buckets: int, num_users: int, what: str
) -> None:
    """How many of a thousand single-step lists show each item of the weights, [V], for exploring.

    Counted over everyone in the first buckets of a sample's size, as each bucket is a random sample
    of the users.
    """
    if not scoring.decoding.explores:
        return
    sample = replace(
        scoring,
        active_since=None,  # few of a bucket may be active
        output=f"{scoring.state}/shown/{scoring.output}",
        decoding=replace(scoring.decoding, decode="single"),
    )
    num_buckets = sample_buckets(num_buckets, num_users)
    score_buckets(config, sample, num_buckets, f"{what}, what single-step lists show")
    counted = list(map_tasks(count_items, range(num_buckets), sample))
    num_lists = max(sum(lists for lists, _ in counted), 1)
    shown = (1000 / num_lists * sum(counts for _, counts in counted)).astype(np.float32)
    save_tensors(scoring.run, f"{scoring.state}/{SHOWN}", {"shown": torch.from_numpy(shown)}, {})


def sample_buckets(num_buckets: int, num_users: int) -> int:
    """How many of the buckets have `SHOWN_USERS` of the users in all of them, or as many as are."""
    return min(math.ceil(num_buckets * SHOWN_USERS / max(num_users, 1)), num_buckets)


def count_items(bucket: int, scoring: Scoring) -> tuple[int, npt.NDArray[np.int64]]:
    """How many lists a bucket has, and how many of them have each item of the weights, [V]."""
    vocab = scoring.run.read_table(f"{scoring.checkpoint}/{VOCAB}", ["item_id"])
    table = scoring.run.read_table(f"{scoring.output}/{bucket_name(bucket)}")
    lists = list_matrix(table, vocab, k=scoring.decoding.k)
    return len(lists), np.bincount(lists[lists >= 0], minlength=vocab.num_rows)


def night_scoring(config: Config, run: RunDir) -> Scoring:
    """How everyone is scored as of the run date."""
    return scoring_of(
        config,
        run,
        checkpoint="checkpoint",
        output="recommendations",
        users="all",
        query_time=microseconds(run.ds),
        state=NIGHT_STATE,
        excluded=EXCLUDED if config.score.exclude_path or config.score.rest_nights else "",
    )


def scoring_of(config: Config, run: RunDir, **what: Any) -> Scoring:
    """The configured way of scoring, for tonight and for the holdout users alike."""
    settings = config.score
    active_since = None
    if settings.active_days is not None and what["users"] == "all":
        active_since = microseconds(run.ds) - round(settings.active_days * DAY)
    return Scoring(
        run=run.storage,
        active_since=active_since,
        rules=rules_of_run(config, run.storage),
        decoding=decoding_of(settings),
        max_quarantined_users=settings.max_quarantined_users,
        min_item_count=config.split.min_item_count,
        **what,
    )


def decoding_of(settings: ScoreConfig) -> Decoding:
    return Decoding(
        k=settings.k,
        decode=settings.decode,
        rank=settings.rank,
        steps=settings.steps,
        rule=CommitRule(
            commit=settings.commit,
            threshold=settings.threshold,
            threshold_decay=settings.threshold_decay,
        ),
        lookahead=settings.lookahead,
        exploration=Exploration(
            num_items=settings.explore_items,
            ratio=settings.explore_ratio,
        ),
        shortlist=settings.shortlist,
        fused=settings.fused,
        filter_seen=settings.filter_seen,
        batch_size=settings.batch_size,
    )


def score_buckets(config: Config, scoring: Scoring, num_buckets: int, what: str) -> None:
    missing = unscored_buckets(scoring, num_buckets)
    shown = Progress(what, "bucket", interval=config.log_interval)
    num_present = num_buckets - len(missing)
    scored = score(
        scoring,
        missing,
        num_actors=config.score.num_actors,
        cpus_per_actor=config.score.cpus_per_actor,
        gpus_per_actor=config.score.gpus_per_actor,
        progress=lambda done: shown.update(num_present + done, num_buckets),
    )
    if scored.num_uncertain:
        log.info(
            "%s: %d steps of users took the whole catalogue, as a shortlist of %d could not decide",
            what,
            scored.num_uncertain,
            config.score.shortlist,
        )
    if num := sum(map_tasks(name_quarantined, range(num_buckets), scoring)):
        log.warning(
            "%s: the scoring of %d users ended its process or ran out of memory; they have the "
            "fallback and stand in %s",
            what,
            num,
            scoring.run.url(quarantine_of(scoring.output)),
        )


def name_quarantined(bucket: int, scoring: Scoring) -> int:
    """Writes beside a bucket's lists who was quarantined in them, for people; how many."""
    name = bucket_name(bucket)
    path = f"{quarantine_of(scoring.output)}/{name}"
    users = quarantined_users(scoring.run.read_table(f"{scoring.output}/{name}", ["user_id"]))
    if not len(users):
        scoring.run.delete([path])  # of an attempt whose lists came to nothing
        return 0
    reasons = pa.array(["scoring ended the process, or was out of memory"] * len(users))
    scoring.run.write_table(path, pa.table({"user_id": users, "reason": reasons}))
    return len(users)
