"""What the tables of items of a night are made from and audited by: items, rules, popularity."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffsasrec.config.config import Config
from diffsasrec.evaluate.decayed_baselines import HALF_LIVES, decayed_counts
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.items import read_items
from diffsasrec.item_tables.all_items import AllItems
from diffsasrec.item_tables.popular import Floats, popularity
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.ray_tasks import sum_tasks
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import flatten
from diffsasrec.times import microseconds

from ..night.expected_lists import Yardstick
from ..night.records import Evaluated, Prepared
from ..night.table_copies import items_of_run


@dataclass(frozen=True)
class NightItems:
    items: AllItems
    popularity_N: Floats  # as of the run date
    half_life_days: float  # by which it is counted, as the second cut has chosen it

    @classmethod
    def of(cls, config: Config, run: RunDir, yardstick: Yardstick) -> "NightItems":
        """Counts the popularity once over all buckets.

        Args:
            yardstick: of the lists; its vocabulary is that of the weights.
        """
        settings = items_of_run(config, run.storage)
        metadata = None if settings.category_column is None else read_items(settings)
        vocab = run.storage.read_tables("vocab", ["item_id", "count"])
        items = AllItems.of(yardstick.vocab, vocab, yardstick.allowed, metadata)
        half_life_days = chosen_half_life(run)
        decayed = counts_of_items(run, Prepared.of(run), half_life_days)
        decayed_N, all_time_N = np.zeros((2, len(items)), np.int64)
        decayed_N[items.of_log], all_time_N[items.of_log] = decayed, vocab["count"].to_numpy()
        return cls(items, popularity(decayed_N, all_time_N), half_life_days)


def chosen_half_life(run: RunDir) -> float:
    """The half-life of decayed popularity, in days, that the second cut has chosen.

    That of the night whose weights serve, where this one measures nothing.
    """
    metrics = Evaluated.of(run).metrics
    if metrics is None:
        metrics = json.loads(run.storage.read_bytes("metrics.json"))
    chosen = float(metrics["settings"]["decayed popular"]["half_life_days"])
    return HALF_LIVES[int(np.argmin(np.abs(np.array(HALF_LIVES) - chosen)))]


def counts_of_items(run: RunDir, prepared: Prepared, half_life_days: float) -> Any:
    """The decayed events of each item of tonight's vocabulary as of the run date, [V]."""

    def count(bucket: int, storage: Storage) -> npt.NDArray[np.int64]:
        histories = flatten(storage.read_table(f"sequences/{bucket_name(bucket)}")).histories
        (counts,) = decayed_counts(
            histories,
            asked_at=microseconds(run.ds),
            num_items=prepared.num_items,
            half_lives=[half_life_days],
        )
        return counts

    return sum_tasks(count, range(prepared.num_buckets), run.storage)
