"""A whole night whose log, lake and rules lie on S3."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import s3fs

from jobs.faults.rig.nights import DATE, lean_config

pytestmark = [pytest.mark.ray, pytest.mark.night]

ITEMS = [f"item-{number:03}" for number in range(60)]


def published_lists(filesystem: s3fs.S3FileSystem, lake: str) -> list[dict[str, Any]]:
    """The rows of all parts that _SUCCESS names, each of which has as many as it says."""
    date = f"{lake}/recommendations/ds={DATE}"
    success = json.loads(filesystem.cat_file(f"{date}/_SUCCESS"))
    rows: list[dict[str, Any]] = []
    for file in success["files"]:
        with filesystem.open(f"{date}/{file['path']}") as part:
            lists = pq.read_table(part).to_pylist()
        assert len(lists) == file["rows"]
        rows += lists
    assert len(rows) == success["rows"]
    return rows


def test_a_night_on_s3_with_rules_for_what_is_shown(nights, s3, toy, tmp_path: Path):
    filesystem = s3fs.S3FileSystem(use_listings_cache=False)
    filesystem.put_file(str(toy), f"{s3.removeprefix('s3://')}/raw/events.parquet")
    config = lean_config(f"{s3}/raw/", f"{s3}/prod")
    config["model"] |= {"attention": "bidirectional"}
    kinds = pd.DataFrame({"item_id": ITEMS, "kind": [f"kind {n % 10}" for n in range(60)]})
    kinds.to_csv(tmp_path / "items.csv", index=False)
    config["items"] = {"path": str(tmp_path / "items.csv"), "category_column": "kind"}
    banned = pd.DataFrame({"user_id": [3] * 30 + [4], "item_id": [*ITEMS[:30], "never seen"]})
    with filesystem.open(f"{s3.removeprefix('s3://')}/rules/banned.parquet", "wb") as file:
        banned.to_parquet(file)
    config["score"] |= {
        "decode": "multi",
        "explore_items": 1,
        "max_per_category": 1,
        "exclude_path": f"{s3}/rules/",
    }
    code, last, log = nights.run(config, "--run-id", "x")
    assert code == 0, log
    assert last["counts"]["score"]["excluded_pairs"] == 31
    run = f"{s3.removeprefix('s3://')}/prod/runs/ds={DATE}/x"
    manifest = json.loads(filesystem.cat_file(f"{run}/manifest.json"))
    tables = [f["path"] for f in manifest["files"] if f["path"].startswith("tables/")]
    assert tables == ["tables/exclude/part-00000.parquet", "tables/items.parquet"]
    assert manifest["rules"]["score.exclude_path, item_id"] == {"ids": 31, "known": 30}
    assert manifest["rules"]["score.exclude_path, user_id"] == {"ids": 31, "known": 31}
    assert manifest["rules"]["items.path"]["known"] > 0
    assert "testsecret" not in log
    lists = published_lists(filesystem, f"{s3.removeprefix('s3://')}/prod")
    assert len(lists) == 60
    for row in lists:
        shown = [item["item_id"] for item in row["items"]]
        assert len({item[-1] for item in shown}) == len(shown) == 5  # of five kinds
        assert row["user_id"] != 3 or not {*shown} & {*ITEMS[:30]}
