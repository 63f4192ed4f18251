"""The counters that the model is measured beside, on the same users."""

from typing import Any

import numpy as np
import numpy.typing as npt

from diffsasrec.config.config import Config
from diffsasrec.evaluate.baselines import (
    Score,
    item_knn,
    item_similarity,
    own_most_frequent,
    popularity,
)
from diffsasrec.evaluate.tallies import Tally, bucket_tallies, measure
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.features import WINDOWS
from diffsasrec.progress import Progress
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import flatten, only_items

from .item_counts import recent_counts, write_shown, write_trends
from .records import Prepared
from .scoring import scoring_of

Counts = npt.NDArray[np.int64]
ALL_TIME = len(WINDOWS)  # the row of window_counts behind those of the windows


def holdout_scoring(config: Config, run: RunDir, prepared: Prepared, *, output: str) -> Scoring:
    """How the holdout users are scored with the measured weights; writes what this needs."""
    scoring = scoring_of(
        config,
        run,
        checkpoint="checkpoint_measured",
        output=output,
        users="holdout",
        query_time=prepared.split_time,
        state="state/evaluate",
    )
    write_trends(run, prepared, scoring)
    num_users = prepared.counts.get("holdout_users", 0)
    write_shown(config, scoring, prepared.num_buckets, num_users, "evaluate")
    return scoring


def baseline_scores(
    config: Config, run: RunDir, prepared: Prepared, allowed: npt.NDArray[np.bool_]
) -> tuple[dict[str, Score], int]:
    """The counters that the model is measured beside, and the window of recent popularity."""
    counts = measured_counts(config, run, prepared, before=prepared.split_time)
    window = select_window(config, run, prepared, allowed)
    scores = {
        "popular": popularity(counts[ALL_TIME]),
        "recent popular": popularity(counts[window]),
        "own most frequent": own_most_frequent,
        "item-kNN": item_knn_baseline(config, run, prepared, counts[ALL_TIME] > 0),
    }
    return scores, window


def measured_counts(
    config: Config, run: RunDir, prepared: Prepared, *, before: int
) -> npt.NDArray[np.int64]:
    """`recent_counts`, 0 for items with fewer than split.min_item_count events before the time."""
    counts: npt.NDArray[np.int64] = recent_counts(run, prepared, before=before)
    counts[:, counts[ALL_TIME] < config.split.min_item_count] = 0
    return counts


def baseline_tallies(
    config: Config,
    run: RunDir,
    prepared: Prepared,
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
    buckets = range(prepared.num_buckets)
    return sum_tallies(map_tasks(measure_bucket, buckets, scores, masks, run.storage))


def sum_tallies(parts: Any) -> dict[str, Tally]:
    total: dict[str, Tally] = {}
    for part in parts:
        total = {name: total[name] + t if total else t for name, t in part.items()}
    return total


def select_window(
    config: Config, run: RunDir, prepared: Prepared, allowed: npt.NDArray[np.bool_]
) -> int:
    """The window of recent popularity with the best NDCG on the second cut."""
    cut = prepared.second_cut
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
        before=prepared.split_time,
    )
    k = max(config.evaluate.ks)
    values = [
        measure(t, known_counts=counts[ALL_TIME], samples=1, seed=config.seed)[f"NDCG@{k}"]
        for t in tallies.values()
    ]
    return max(range(len(values)), key=lambda row: (values[row], row))


def item_knn_baseline(
    config: Config, run: RunDir, prepared: Prepared, known: npt.NDArray[np.bool_]
) -> Score:
    """Item-kNN from what the first evaluate.item_knn_users users did before the split."""
    parts: list[tuple[Any, Any]] = []
    num_users = 0
    for bucket in range(prepared.num_buckets):  # a bucket is a random sample of the users
        table = run.storage.read_table(f"sequences/{bucket_name(bucket)}")
        flat = only_items(flatten(table), known)
        past = flat.histories.first(flat.num_before)
        parts.append((past.items, past.lengths()))
        num_users += len(past.lengths())
        if num_users >= config.evaluate.item_knn_users:
            break
    lengths = np.concatenate([lengths for _, lengths in parts])[: config.evaluate.item_knn_users]
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    items = np.concatenate([items for items, _ in parts])[: offsets[-1]]
    progress = Progress("evaluate", "neighbours of item", interval=config.log_interval)
    return item_knn(
        item_similarity(items, offsets, num_items=prepared.num_items, progress=progress.update)
    )
