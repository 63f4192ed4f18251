"""What is shown of an item: its neighbours, and where it is trending."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.schema import similar_items_schema, trending_schema
from jobs.show.item import item_lines

CONFIG = Config.model_validate({"lake": "lake", "events": {"path": "log"}})
SIMILAR = [(1, 2, 1, 0.5, "users"), (1, 3, 2, 0.25, "users"), (3, 2, 1, 0.1, "category")]
TRENDING = [(None, 2, 1, 0.3, 7.0), (None, 1, 2, 0.2, 7.0), ("pears", 1, 1, 0.2, 7.0)]


def table_of(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Of a log of the items 1 to 4."""
    made = RunDir(Storage.of(str(tmp_path)), "2024-03-01", "x", "identity", "attempt")
    made.storage.write_table("vocab/part-00000.parquet", pa.table({"item_id": [1, 2, 3, 4]}))
    similar, trending = similar_items_schema(pa.int64()), trending_schema(pa.int64())
    made.storage.write_table("similar_items/part-00000.parquet", table_of(SIMILAR[:2], similar))
    made.storage.write_table("similar_items/part-00001.parquet", table_of(SIMILAR[2:], similar))
    made.storage.write_table("trending/part-00000.parquet", table_of(TRENDING, trending))
    return made


def shown(run: RunDir, item: str) -> list[str]:
    files = [{"path": info.path} for info in run.storage.list()]
    return item_lines(CONFIG, run, {"files": files}, item=item)[2:]


def test_an_item_is_shown_with_its_neighbours_and_where_it_is_trending(run: RunDir):
    assert shown(run, "1") == [
        "neighbours: of the same users",
        "  rank     score  item",
        "     1    0.5000  2",
        "     2    0.2500  3",
        "trending: with a half-life of 7 days",
        "     2    0.2000  of all",
        "     1    0.2000  of pears",
    ]
    assert "popular in its category" in shown(run, "3")[0]  # which lies in the second file
    assert shown(run, "4") == ["neighbours: none", "trending: not among the first"]


@pytest.mark.parametrize(
    ("item", "words"), [("5", "no such item"), ("01", "item ids of this log are int64")]
)
def test_an_item_that_the_run_does_not_know_is_refused(run: RunDir, item: str, words: str):
    with pytest.raises(ConfigError, match=words):
        shown(run, item)


def test_a_run_without_tables_of_items_says_which_keys_make_them(run: RunDir):
    with pytest.raises(ConfigError, match=r"set similar_items\.k or trending\.k"):
        item_lines(CONFIG, run, {"files": [{"path": "recommendations/part-0.parquet"}]}, item="1")
