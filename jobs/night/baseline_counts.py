"""What the counters are made of: counts and similarities over all buckets, as of a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from diffsasrec.config.config import Config
from diffsasrec.counters.similar import joined
from diffsasrec.evaluate.baselines import item_similarity
from diffsasrec.evaluate.counter_settings import CounterSettings
from diffsasrec.evaluate.decayed_baselines import HALF_LIVES, decayed_counts
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.features import WINDOWS, window_counts
from diffsasrec.progress import Progress, beating
from diffsasrec.ray_tasks import sum_tasks
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import Histories, flatten, only_items
from diffsasrec.times import DAY

from .records import Prepared

Counts = npt.NDArray[np.int64]
ALL_TIME = len(WINDOWS)  # the row of window_counts behind those of the windows


@dataclass(frozen=True)
class Known:
    """What the counters know at a time: events before it, of items that are not rare there."""

    at: int  # microseconds
    # by WINDOWS that end there, and of all time, [windows + 1, V]; an event counts what it weighs
    counts: npt.NDArray[Any]
    decayed: Counts  # by HALF_LIVES, [half-lives, V]

    @property
    def items(self) -> npt.NDArray[np.bool_]:
        """[V]"""
        return np.asarray(self.counts[ALL_TIME] > 0)

    def popularity(self, settings: CounterSettings) -> Counts:
        """The counts of popularity that a counter is made of, [V]."""
        if settings.half_life_days is not None:
            return np.asarray(self.decayed[HALF_LIVES.index(settings.half_life_days)])
        days = [width / DAY for width in WINDOWS]
        return np.asarray(
            self.counts[ALL_TIME if settings.days is None else days.index(settings.days)]
        )


def known_at(config: Config, run: RunDir, prepared: Prepared, at: int) -> Known:
    """What is known at a time; 0 for items with fewer than split.min_item_count events before."""

    def count(bucket: int, storage: Storage) -> tuple[Counts, Counts, Counts]:
        histories = flatten(storage.read_table(f"sequences/{bucket_name(bucket)}")).histories
        num = prepared.num_items
        counts = window_counts(
            histories.items,
            histories.times,
            before=at,
            num_items=num,
            weights=histories.weights(),
        )
        decayed = decayed_counts(histories, asked_at=at, num_items=num)
        return counts, decayed, np.bincount(histories.before(at).items, minlength=num)

    counts, decayed, num_events = sum_tasks(count, range(prepared.num_buckets), run.storage)
    is_rare = num_events < config.split.min_item_count
    return Known(at, np.where(is_rare, 0, counts), np.where(is_rare, 0, decayed))


def similarity_at(
    config: Config, run: RunDir, prepared: Prepared, known: Known
) -> scipy.sparse.csr_matrix:
    """Items by what the first evaluate.item_knn_users users had before a time, [V, V]."""
    parts: list[Histories] = []
    left = config.evaluate.item_knn_users
    for bucket in beating(range(prepared.num_buckets)):  # a bucket is a random sample of the users
        table = run.storage.read_table(f"sequences/{bucket_name(bucket)}")
        past = only_items(flatten(table), known.items).histories.before(known.at)
        parts.append(past.of_users(np.arange(min(left, len(past.offsets) - 1))))
        left -= len(parts[-1].offsets) - 1
        if not left:
            break
    progress = Progress("evaluate", "neighbours of item", interval=config.log_interval)
    return item_similarity(joined(parts), num_items=prepared.num_items, progress=progress.update)
