"""The audit of the tables of items: every row against the rules, and against a new count."""

from collections import Counter

from diffsasrec.config.config import Config
from diffsasrec.files.storage import Storage
from diffsasrec.item_tables.all_items import AllItems
from diffsasrec.item_tables.audit import audit_similar, audit_trending
from diffsasrec.item_tables.popular import Popular, of_categories
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import ITEM_TABLES, TRENDING
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.sequences.buckets import bucket_name

from ..night.expected_lists import Yardstick
from .making import part_path, trending_of
from .night_items import NightItems

Broken = list[tuple[str, Counter[str]]]  # by file: rows that break a rule


def broken_tables(config: Config, run: RunDir, yardstick: Yardstick) -> Broken:
    """The files of the tables of items that break a rule; nothing where no table is asked for.

    Args:
        yardstick: what the lists are audited by: one rule holds in every table.
    """
    if not config.makes_item_tables:
        return []
    night = NightItems.of(config, run, yardstick)
    wanted = expected_files(config, night.items)
    there = {info.path for each in ITEM_TABLES for info in run.storage.list(each)}
    if wanted != there:
        return [(path, Counter({"file: missing or too many": 1})) for path in wanted ^ there]
    found: Broken = []
    if config.trending.k:
        found.append(_trending(config, run, night))
    if config.similar_items.k:
        popular = of_categories(night.items, night.popularity_N, config.similar_items.k + 1)
        numbers = range(night.items.num_parts)
        found += map_tasks(audit_part, numbers, run.storage, config, night.items, popular)
    return [(path, counts) for path, counts in found if counts]


def expected_files(config: Config, items: AllItems) -> set[str]:
    """The files of the tables that the configuration asks for."""
    similar = {part_path(n) for n in range(items.num_parts)} if config.similar_items.k else set()
    return similar | ({f"{TRENDING}/{bucket_name(0)}"} if config.trending.k else set())


def _trending(config: Config, run: RunDir, night: NightItems) -> tuple[str, Counter[str]]:
    path = f"{TRENDING}/{bucket_name(0)}"
    return path, audit_trending(
        run.storage.read_table(path),
        night.items,
        trending_of(config, night),
        k=config.trending.k,
        max_per_category=config.score.max_per_category,
    )


def audit_part(
    number: int, storage: Storage, config: Config, items: AllItems, popular: Popular
) -> tuple[str, Counter[str]]:
    path = part_path(number)
    return path, audit_similar(
        storage.read_table(path),
        items.part(number),
        items,
        popular,
        k=config.similar_items.k,
        by=config.similar_items.by,
        max_per_category=config.score.max_per_category,
    )
