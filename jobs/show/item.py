"""One item of a published run: its neighbours, and where it is trending."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import ITEM_TABLES, SIMILAR_ITEMS, TRENDING
from diffsasrec.schema import CATEGORY

from ..night.titles import Titles, titles_of
from .ids import id_of

HOW = {
    "users": "of the same users",
    "baskets": "of the same baskets",
    "next_baskets": "of the baskets that follow",
    "vectors": "with similar vectors of the model",
    CATEGORY: "popular in its category, for nothing else is known of it",
}


def item_lines(config: Config, run: RunDir, manifest: dict[str, Any], *, item: str) -> list[str]:
    """All that is shown of an item, line by line.

    Raises:
        ConfigError: the run has no tables of items, or knows no such item.
    """
    there = {file["path"].partition("/")[0] for file in manifest["files"]} & {*ITEM_TABLES}
    if not there:
        raise ConfigError(
            f"--item {item}: run {run.run_id} of {run.ds} has no tables of items; set "
            "similar_items.k or trending.k for the next night"
        )
    vocab = run.storage.read_tables("vocab", ["item_id"])["item_id"]
    item_id = id_of(item, vocab.type, option="item")
    rows = {name: rows_of(run, name, item_id) for name in ITEM_TABLES if name in there}
    if not any(rows.values()) and not pc.any(pc.equal(vocab, item_id)).as_py():
        raise ConfigError(
            f"--item {item}: the log of run {run.run_id} of {run.ds} has no such item, and its "
            "tables of items have none"
        )
    titles, warnings = titles_of(config, run)
    (title,) = titles([item_id.as_py()])
    lines = [f"item {title} in run {run.run_id} of {run.ds}, {run.storage.root}", *warnings, ""]
    if SIMILAR_ITEMS in rows:
        lines += neighbour_lines(rows[SIMILAR_ITEMS], titles)
    if TRENDING in rows:
        lines += trending_lines(rows[TRENDING])
    return lines


def rows_of(run: RunDir, table: str, item_id: pa.Scalar) -> list[dict[str, Any]]:
    """The rows of an item, which lie in one file."""
    for info in run.storage.list(table):
        found = run.storage.read_table(info.path)
        if rows := found.filter(pc.equal(found["item_id"], item_id)).to_pylist():
            return rows
    return []


def neighbour_lines(rows: list[dict[str, Any]], titles: Titles) -> list[str]:
    if not rows:
        return ["neighbours: none"]
    lines = [f"neighbours: {HOW[rows[0]['source']]}", f"  {'rank':>4}  {'score':>8}  item"]
    names = titles([row["neighbour_id"] for row in rows])
    for row, name in zip(rows, names, strict=True):
        lines.append(f"  {row['rank']:>4}  {row['score']:>8.4f}  {name}")
    return lines


def trending_lines(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["trending: not among the first"]
    lines = [f"trending: with a half-life of {rows[0]['half_life_days']:g} days"]
    for row in rows:
        where = "all" if row["category"] is None else row["category"]
        lines.append(f"  {row['rank']:>4}  {row['score']:>8.4f}  of {where}")
    return lines
