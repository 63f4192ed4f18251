"""Makes similar_items/ and trending/ of a night, file by file; files that are there stay."""

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from diffsasrec.config.config import Config
from diffsasrec.counters.similar import NEWEST, joined, newest
from diffsasrec.counters.tables import sampled_buckets
from diffsasrec.files.storage import Storage, parquet_bytes
from diffsasrec.item_tables.all_items import AllItems
from diffsasrec.item_tables.neighbours import AlikeInVectors, OccurringTogether, Source
from diffsasrec.item_tables.popular import Popular, of_categories
from diffsasrec.item_tables.tables import similar_table, trending_table
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import SIMILAR_ITEMS, TRENDING
from diffsasrec.model.checkpoint import Checkpoint, load_checkpoint
from diffsasrec.progress import Progress, beating
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.schema import CATEGORY
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import Histories, flatten

from ..night.expected_lists import Yardstick
from ..night.records import Prepared
from .night_items import NightItems

log = logging.getLogger(__name__)

# in the record: rows, then items with neighbours, with those of their category, and without
COUNTED = ("similar_rows", "similar_items", "similar_items_by_category", "items_without_similar")


@dataclass(frozen=True)
class Making:
    """What the task of a file of similar_items/ needs."""

    items: AllItems
    source: Source
    popular: Popular
    k: int
    by: str


def write_item_tables(config: Config, run: RunDir, scoring: Scoring) -> dict[str, int]:
    """The tables of items that the configuration asks for; what they hold, for the record."""
    if not config.makes_item_tables:
        return {}
    checkpoint = load_checkpoint(run.storage.sub(scoring.checkpoint))
    night = NightItems.of(config, run, Yardstick.of(scoring, checkpoint))
    trending = write_trending(config, run, night) if config.trending.k else {}
    if not config.similar_items.k:
        return trending
    return trending | write_similar_items(config, run, night, checkpoint)


def write_trending(config: Config, run: RunDir, night: NightItems) -> dict[str, int]:
    table = trending_of(config, night)
    run.storage.create(f"{TRENDING}/{bucket_name(0)}", parquet_bytes(table))
    num_categories = len(table["category"].drop_null().unique())
    log.info(
        "score: %d trending items, of all and of %d categories, with a half-life of %g days",
        table.num_rows,
        num_categories,
        night.half_life_days,
    )
    return {"trending_rows": table.num_rows, "trending_categories": num_categories}


def trending_of(config: Config, night: NightItems) -> pa.Table:
    return trending_table(
        night.items,
        night.popularity_N,
        k=config.trending.k,
        max_per_category=config.score.max_per_category,
        half_life_days=night.half_life_days,
    )


def write_similar_items(
    config: Config, run: RunDir, night: NightItems, checkpoint: Checkpoint
) -> dict[str, int]:
    numbers = range(night.items.num_parts)
    there = {info.path for info in run.storage.list(SIMILAR_ITEMS)}
    missing = [n for n in numbers if part_path(n) not in there]
    settings = config.similar_items
    if missing:
        source = source_of(config, run, night.items, checkpoint)
        popular = of_categories(night.items, night.popularity_N, settings.k + 1)
        making = Making(night.items, source, popular, settings.k, settings.by)
        shown = Progress("score, similar items", "file", interval=config.log_interval)
        done = len(numbers) - len(missing)
        for more, _ in enumerate(map_tasks(make_part, missing, run.storage, making), 1):
            shown.update(done + more, len(numbers))
    counted: Counter[str] = sum(map_tasks(count_part, numbers, run.storage, night.items), Counter())
    found = {name: counted[name] for name in COUNTED}
    log.info(
        "score: %d items have neighbours by %s, %d the popular ones of their category, %d none",
        found["similar_items"],
        settings.by,
        found["similar_items_by_category"],
        found["items_without_similar"],
    )
    if not found["similar_items"]:
        log.warning(
            "score: no item has neighbours by %s; see similar_items.by, and whether the log has "
            "users with several items or baskets",
            settings.by,
        )
    return found


def part_path(number: int) -> str:
    return f"{SIMILAR_ITEMS}/{bucket_name(number)}"


def make_part(number: int, storage: Storage, making: Making) -> None:
    """Writes a file, unless another attempt has; with one thread, on which last digits depend."""
    torch.set_num_threads(1)
    rows = making.items.part(number)
    table = similar_table(
        rows, making.items, making.source, making.popular, k=making.k, by=making.by
    )
    storage.create(part_path(number), parquet_bytes(table))


def count_part(number: int, storage: Storage, items: AllItems) -> Counter[str]:
    """The rows of a file, and its items by what their neighbours are."""
    table = storage.read_table(part_path(number), ["rank", "source"])
    first = table.filter(pc.equal(table["rank"], 1))["source"]
    by_category = pc.sum(pc.equal(first, CATEGORY)).as_py() or 0
    counts = (
        table.num_rows,
        len(first) - by_category,
        by_category,
        len(items.part(number)) - len(first),
    )
    return Counter(dict(zip(COUNTED, counts, strict=True)))


def source_of(config: Config, run: RunDir, items: AllItems, checkpoint: Checkpoint) -> Source:
    most, by = config.score.max_per_category, config.similar_items.by
    if by == "vectors":
        vectors = checkpoint.model.item_weight.detach().float().numpy()
        return AlikeInVectors.of(vectors, checkpoint.candidates(), items, max_per_category=most)
    histories = histories_of(run, Prepared.of(run), items)
    return OccurringTogether.of(histories, items, by=by, max_per_category=most)


def histories_of(run: RunDir, prepared: Prepared, items: AllItems) -> Histories:
    """The newest events of a sample of the users, by the numbers of `items`."""

    def read(bucket: int) -> Histories:
        flat = flatten(run.storage.read_table(f"sequences/{bucket_name(bucket)}"))
        return newest(flat.histories, NEWEST).reindexed(items.of_log.astype(np.int32))

    buckets = sampled_buckets(prepared.num_buckets, prepared.counts["users"])
    return joined(beating(read(bucket) for bucket in buckets))
