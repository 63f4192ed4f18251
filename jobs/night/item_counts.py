"""Counts over all buckets, before lists are made: trends, what is similar and shown, a counter."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from diffsasrec.config.config import Config
from diffsasrec.config.training import ModelConfig
from diffsasrec.counters.similar import NEWEST, joined, newest, similarity
from diffsasrec.counters.tables import create_similar, sampled_buckets
from diffsasrec.evaluate.decayed_baselines import popularity_share
from diffsasrec.evaluate.tallies import list_matrix
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.checkpoint import VOCAB, read_description, save_tensors
from diffsasrec.model.features import trend_counts, trend_features, window_counts
from diffsasrec.ray_tasks import map_tasks, sum_tasks
from diffsasrec.score.bucket_lists import Scoring, measured_items
from diffsasrec.score.counter_lists import Counted
from diffsasrec.score.state_files import COUNTER, SHOWN, SIMILAR, TRENDS
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import Histories, flatten, only_items

from .baseline_counts import ALL_TIME, known_at, similarity_at
from .records import Prepared
from .scoring import score_buckets

SHOWN_USERS = 10_000  # whose lists say what lists show


def recent_counts(run: RunDir, prepared: Prepared, *, before: int) -> Any:
    """`baselines.window_counts` over all buckets, [windows + 1, V]."""

    def count(bucket: int, storage: Storage) -> Any:
        flat = flatten(storage.read_table(f"sequences/{bucket_name(bucket)}"))
        return window_counts(
            flat.items,
            flat.times,
            before=before,
            num_items=prepared.num_items,
            weights=flat.histories.weights(),
        )

    return sum_tasks(count, range(prepared.num_buckets), run.storage)


def write_trends(run: RunDir, prepared: Prepared, scoring: Scoring) -> None:
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
            num_items=prepared.num_items,
            weights=flat.histories.weights(),
        )

    counts = sum_tasks(count, range(prepared.num_buckets), run.storage, known)
    trends = torch.from_numpy(trend_features(counts)[0])
    save_tensors(run.storage, f"{scoring.state}/{TRENDS}", {"trends": trends}, {})


def write_similar(run: RunDir, prepared: Prepared, scoring: Scoring) -> None:
    """Which items are similar as of the query time, if the weights score such items."""
    model = ModelConfig(**read_description(run.storage.sub(scoring.checkpoint))["model"])
    path = f"{scoring.state}/{SIMILAR}"
    if not model.scores_similar or run.storage.exists(path):
        return
    known = measured_items(scoring, run.storage.read_tables("vocab"))
    buckets = sampled_buckets(prepared.num_buckets, prepared.counts["users"])

    def make(
        path: str, buckets: list[int], storage: Storage, known: npt.NDArray[np.bool_] | None
    ) -> None:
        def past(bucket: int) -> Histories:
            flat = flatten(storage.read_table(f"sequences/{bucket_name(bucket)}"))
            histories = only_items(flat, known).histories
            return newest(histories.before(scoring.query_time), NEWEST)

        made = similarity(
            joined(map(past, buckets)),
            num_items=prepared.num_items,
            with_tastes=model.scores_nearest,
        )
        create_similar(storage, path, made)

    for _ in map_tasks(make, [path], buckets, run.storage, known):
        pass


def write_counter(config: Config, run: RunDir, prepared: Prepared, scoring: Scoring) -> None:
    """What the counter that makes the lists has counted as of the query time, if one does."""
    settings = scoring.counter
    if settings is None:
        return
    known = known_at(config, run, prepared, scoring.query_time)
    similarity = (
        similarity_at(config, run, prepared, known) if settings.beside == "similar" else None
    )
    counted = Counted(
        popularity_share(known.popularity(settings)).values,
        popularity_share(known.counts[ALL_TIME]).values,
        similarity,
    )
    counted.write(run.storage, f"{scoring.state}/{COUNTER}")


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
        active_since=None,  # few of a bucket may be active, or asked for
        asked="",
        output=f"{scoring.state}/shown/{scoring.output}",
        decoding=scoring.decoding.model_copy(update={"decode": "single"}),
    )
    num_buckets = sample_buckets(num_buckets, num_users)
    score_buckets(config, sample, num_buckets, f"{what}, what single-step lists show")
    vocab = scoring.run.read_table(f"{scoring.checkpoint}/{VOCAB}", ["item_id"])
    num_lists, counts = sum_tasks(count_items, range(num_buckets), sample, vocab)
    shown = (1000 / max(num_lists, 1) * counts).astype(np.float32)
    save_tensors(scoring.run, f"{scoring.state}/{SHOWN}", {"shown": torch.from_numpy(shown)}, {})


def sample_buckets(num_buckets: int, num_users: int) -> int:
    """How many of the buckets have `SHOWN_USERS` of the users in all of them, or as many as are."""
    return min(math.ceil(num_buckets * SHOWN_USERS / max(num_users, 1)), num_buckets)


def count_items(
    bucket: int, scoring: Scoring, vocab: pa.Table
) -> tuple[int, npt.NDArray[np.int64]]:
    """How many lists a bucket has, and how many of them have each item of the weights, [V]."""
    table = scoring.run.read_table(f"{scoring.output}/{bucket_name(bucket)}")
    lists = list_matrix(table, vocab, k=scoring.decoding.k)
    return len(lists), np.bincount(lists[lists >= 0], minlength=vocab.num_rows)
