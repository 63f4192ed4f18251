"""Nights whose rules leave no item to recommend: refused before anything is trained."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import s3fs

from jobs.faults.rig.nights import Nights, lean_config, toy_log

pytestmark = [pytest.mark.ray, pytest.mark.night]

ITEMS = [f"item-{number:03}" for number in range(60)]


def objects(filesystem: s3fs.S3FileSystem, bucket: str) -> set[str]:
    filesystem.invalidate_cache()
    return {name.removeprefix(f"{bucket}/") for name in filesystem.find(bucket)}


def denied(directory: Path) -> str:
    """A table of all items, as a spreadsheet writes it."""
    lines = ["\ufeffitem_id,reason", *(f"{item},recall" for item in ITEMS), ""]
    (directory / "deny.csv").write_bytes("\r\n".join(lines).encode())
    return str(directory / "deny.csv")


def test_a_lake_that_is_a_whole_bucket_keeps_what_is_in_it(nights: Nights, s3: str, tmp_path: Path):
    filesystem, bucket = s3fs.S3FileSystem(use_listings_cache=False), "all-denied"
    filesystem.mkdir(bucket)
    name = "in put/dt=2024-02-01/part+1 50%25 10:00 é.csv"
    filesystem.pipe_file(f"{bucket}/{name}", toy_log().to_csv(index=False).encode())
    filesystem.pipe_file(f"{bucket}/notes.txt", b"ours")
    config = lean_config(f"s3://{bucket}/in put/", f"s3://{bucket}")
    config["events"] |= {"format": "csv", "partition_column": "dt"}
    config["score"]["deny_path"] = denied(tmp_path)
    code, last, log = nights.run(config)
    assert (code, last["stage"]) == (2, "prepare"), log
    assert "none of the 60 items of the log" in last["error"]
    assert "score.deny_path has 60 of them" in last["error"]
    assert filesystem.cat_file(f"{bucket}/notes.txt") == b"ours"
    found = objects(filesystem, bucket) - {name, "notes.txt", "_lake.json", "reports/index.html"}
    assert found and all(each.startswith("runs/ds=2024-03-01/") for each in found)


@pytest.mark.parametrize("options", [("--dry-run",), ("--stages", "prepare")])
def test_allowing_the_ids_of_another_system_alone_ends_with_the_two_spellings(
    nights: Nights, tmp_path: Path, options: tuple[str, ...]
):
    log = toy_log()
    log.assign(item_id=log.item_id.str[5:].astype(int)).to_parquet(tmp_path / "log.parquet")
    config: dict[str, Any] = lean_config(str(tmp_path / "log.parquet"), str(tmp_path / "lake"))
    for rule, number in (("allow", 60), ("deny", 10)):
        ids = pd.DataFrame({"item_id": [f"{n:08}" for n in range(number)]})
        ids.to_csv(tmp_path / f"{rule}.csv", index=False)
        config["score"][f"{rule}_path"] = str(tmp_path / f"{rule}.csv")
    code, last, said = nights.run(config, *options)
    assert code == 2, said
    assert "allow_path has 0 of them (what is '00000000' there is '0' in the log" in last["error"]
    assert "score.deny_path: none of 10 ids is known to the log, so that nothing is denied" in said
    assert not (tmp_path / "lake" / "recommendations").exists()
