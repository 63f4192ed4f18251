"""Lists for the holdout users as of the split -> metrics.json beside the baselines; the gate."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from jobs.command import run_stages

    run_stages(("evaluate",))

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from diffsasrec.config.config import Config
from diffsasrec.errors import RefusedError
from diffsasrec.evaluate.baselines import (
    Score,
    item_knn,
    item_similarity,
    own_most_frequent,
    popularity,
)
from diffsasrec.evaluate.gate import gate_failures
from diffsasrec.evaluate.tallies import Tally, bucket_tallies, list_matrix, measure, tally
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.chain import read_chain, standing
from diffsasrec.lake.run_dir import RunDir, run_path
from diffsasrec.model.checkpoint import check_not_trained_past, load_checkpoint, read_description
from diffsasrec.model.features import WINDOWS
from diffsasrec.progress import Progress
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.score.rules import allowed_items
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import flatten, only_items, restrict
from diffsasrec.sequences.vocab import frequent_before_split, index_items
from diffsasrec.times import DAY
from jobs.reuse import cite, metrics_of
from jobs.score import recent_counts, score_buckets, scoring_of, write_shown, write_trends

log = logging.getLogger(__name__)

Counts = npt.NDArray[np.int64]
ALL_TIME = len(WINDOWS)  # the row of window_counts behind those of the windows


def main(config: Config, run: RunDir) -> dict[str, Any]:
    prepared = run.require("prepare")
    run.require("finetune")
    if run.reused is not None:
        return cite(run, run.reused)
    split_time, num_buckets = prepared["split_time"], prepared["num_buckets"]
    directory = run.storage.sub("checkpoint_measured")
    check_not_trained_past(read_description(directory), split_time=split_time, path=directory.root)
    scoring = holdout_scoring(config, run, prepared, output="evaluation")
    score_buckets(config, scoring, num_buckets, "evaluate")
    allowed = allowed_items(load_checkpoint(directory), scoring.rules)
    log.info("evaluate: measuring the baselines")
    scores, window = baseline_scores(config, run, prepared, allowed)
    vocab = run.storage.read_tables("vocab", ["count_before"])
    known = frequent_before_split(vocab, config.split.min_item_count)
    known_counts = np.where(known, vocab["count_before"].to_numpy(), 0)
    tallies = baseline_tallies(
        config, run, prepared, scores, allowed, known, cut=split_time, before=None
    )
    model = sum_tallies(map_tasks(model_tallies, range(num_buckets), run.storage, config))["model"]
    measured = {
        name: measure(
            counted,
            known_counts=known_counts,
            samples=config.evaluate.bootstrap_samples,
            seed=config.seed,
        )
        for name, counted in {"model": model, **tallies}.items()
    }
    metrics: dict[str, Any] = {
        "model": measured.pop("model"),
        "baselines": measured,
        "recent_popular_days": WINDOWS[window] / DAY,
    }
    run.storage.write_bytes("metrics.json", to_json(metrics))
    check_gate(config, run, metrics["model"])
    return {"counts": {"holdout_users": metrics["model"]["n"]}, "popular_window": window}


def holdout_scoring(
    config: Config, run: RunDir, prepared: dict[str, Any], *, output: str
) -> Scoring:
    """How the holdout users are scored with the measured weights; writes what this needs."""
    scoring = scoring_of(
        config,
        run,
        checkpoint="checkpoint_measured",
        output=output,
        users="holdout",
        query_time=prepared["split_time"],
        state="state/evaluate",
    )
    write_trends(run, prepared, scoring)
    num_users = prepared["counts"].get("holdout_users", 0)
    write_shown(config, scoring, prepared["num_buckets"], num_users, "evaluate")
    return scoring


def baseline_scores(
    config: Config, run: RunDir, prepared: dict[str, Any], allowed: npt.NDArray[np.bool_]
) -> tuple[dict[str, Score], int]:
    """The counters that the model is measured beside, and the window of recent popularity."""
    counts = measured_counts(config, run, prepared, before=prepared["split_time"])
    window = select_window(config, run, prepared, allowed)
    scores = {
        "popular": popularity(counts[ALL_TIME]),
        "recent popular": popularity(counts[window]),
        "own most frequent": own_most_frequent,
        "item-kNN": item_knn_baseline(config, run, prepared, counts[ALL_TIME] > 0),
    }
    return scores, window


def measured_counts(
    config: Config, run: RunDir, prepared: dict[str, Any], *, before: int
) -> npt.NDArray[np.int64]:
    """`recent_counts`, 0 for items with fewer than split.min_item_count events before the time."""
    counts: npt.NDArray[np.int64] = recent_counts(run, prepared, before=before)
    counts[:, counts[ALL_TIME] < config.split.min_item_count] = 0
    return counts


def model_tallies(bucket: int, storage: Storage, config: Config) -> dict[str, Tally]:
    """The evaluation lists of a bucket against its holdout."""
    vocab, name = storage.read_tables("vocab"), bucket_name(bucket)
    lists = list_matrix(storage.read_table(f"evaluation/{name}"), vocab, k=config.score.k)
    items = storage.read_table(f"holdout/{name}", ["item_id"])["item_id"].combine_chunks()
    targets = index_items(items, vocab).astype(np.int64)
    return {"model": tally(lists, targets, ks=config.evaluate.ks, num_items=vocab.num_rows)}


def baseline_tallies(
    config: Config,
    run: RunDir,
    prepared: dict[str, Any],
    scores: dict[str, Score],
    allowed: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    *,
    cut: int,
    before: int | None,
) -> dict[str, Tally]:
    """The tallies of `scores` on each user's first known item in [cut, before), all buckets."""

    def measure_bucket(
        bucket: int, scores: dict[str, Score], masks: npt.NDArray[np.bool_], storage: Storage
    ) -> dict[str, Tally]:
        return bucket_tallies(
            flatten(storage.read_table(f"sequences/{bucket_name(bucket)}")),
            scores,
            cut=cut,
            before=before,
            allowed=masks[0],
            known=masks[1],
            ks=config.evaluate.ks,
            filter_seen=config.score.filter_seen,
        )

    masks = np.stack([allowed, known])
    buckets = range(prepared["num_buckets"])
    return sum_tallies(map_tasks(measure_bucket, buckets, scores, masks, run.storage))


def sum_tallies(parts: Any) -> dict[str, Tally]:
    total: dict[str, Tally] = {}
    for part in parts:
        total = {name: total[name] + t if total else t for name, t in part.items()}
    return total


def select_window(
    config: Config, run: RunDir, prepared: dict[str, Any], allowed: npt.NDArray[np.bool_]
) -> int:
    """The window of recent popularity with the best NDCG on the second cut."""
    cut = prepared["second_cut"]
    counts = measured_counts(config, run, prepared, before=cut)
    names = [f"{row}" for row in range(len(WINDOWS))]
    scores = {name: popularity(counts[int(name)]) for name in names}
    tallies = baseline_tallies(
        config,
        run,
        prepared,
        scores,
        allowed & (counts[ALL_TIME] > 0),
        counts[ALL_TIME] > 0,
        cut=cut,
        before=prepared["split_time"],
    )
    k = max(config.evaluate.ks)
    values = [
        measure(t, known_counts=counts[ALL_TIME], samples=1, seed=config.seed)[f"NDCG@{k}"]
        for t in tallies.values()
    ]
    return max(range(len(values)), key=lambda row: (values[row], row))


def item_knn_baseline(
    config: Config, run: RunDir, prepared: dict[str, Any], known: npt.NDArray[np.bool_]
) -> Score:
    """Item-kNN from what the first evaluate.item_knn_users users did before the split."""
    parts: list[tuple[Any, Any]] = []
    num_users = 0
    for bucket in range(prepared["num_buckets"]):  # a bucket is a random sample of the users
        table = run.storage.read_table(f"sequences/{bucket_name(bucket)}")
        flat = only_items(flatten(table), known)
        items, _, offsets = restrict(flat, flat.num_before)
        parts.append((items, np.diff(offsets)))
        num_users += len(offsets) - 1
        if num_users >= config.evaluate.item_knn_users:
            break
    lengths = np.concatenate([lengths for _, lengths in parts])[: config.evaluate.item_knn_users]
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    items = np.concatenate([items for items, _ in parts])[: offsets[-1]]
    progress = Progress("evaluate", "neighbours of item", interval=config.log_interval)
    return item_knn(
        item_similarity(items, offsets, num_items=prepared["num_items"], progress=progress.update)
    )


def previous_metrics(run: RunDir) -> dict[str, Any] | None:
    """The model's metrics of what was served last before this date: no rollback went behind it."""
    served = standing(read_chain(run.lake), run.ds)
    if not served:
        return None
    directory = run.lake.sub(run_path(served[0].ds, served[0].run_id))
    try:
        metrics: dict[str, Any] = metrics_of(directory)[0]["model"]
    except FileNotFoundError:
        log.warning("evaluate: the metrics of %s are gone", directory.root)
        return None
    return metrics


def check_gate(config: Config, run: RunDir, model: dict[str, Any]) -> None:
    """Raises RefusedError below a floor, or too far below what is served."""
    previous = None
    if config.gate.max_relative_drop is not None:
        previous = previous_metrics(run)
        if previous is None or config.gate.metric not in previous:
            log.warning("evaluate: no earlier %s to compare with", config.gate.metric)
    failures = gate_failures(
        model,
        floors=config.gate.floors,
        metric=config.gate.metric,
        max_relative_drop=config.gate.max_relative_drop,
        previous=previous,
    )
    if failures:
        raise RefusedError(f"the gate refuses this run: {'; '.join(failures)}")
