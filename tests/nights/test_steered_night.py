"""A night whose lists the business steers by tables, as a process on a real Ray."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.faults.rig.nights import DATE, Nights, lean_config, run_dir, toy_log

pytestmark = [pytest.mark.ray, pytest.mark.night]

BOOSTS = f"""item_id,boost,from,until
item-003,50,,
item-004,50,,{DATE}
item-005,-50,{DATE},
item-006,50,2024-03-02,
item-900,1,,
"""


def steered(nights: Nights, directory: Path) -> tuple[Path, str]:
    """The run directory and the log of the night."""
    toy_log().to_parquet(directory / "log.parquet")
    (directory / "boosts.csv").write_text(BOOSTS)
    config = lean_config(str(directory / "log.parquet"), str(directory / "lake"))
    config["score"] |= {"decode": "multi", "boost_path": str(directory / "boosts.csv")}
    code, _, log = nights.run(config, "--run-id", "x")
    assert code == 0, log
    return run_dir(directory / "lake", "x"), log


def lists_of(run: Path, table: str) -> dict[int, list[str]]:
    rows = pq.read_table(run / table).to_pylist()
    return {row["user_id"]: [item["item_id"] for item in row["items"]] for row in rows}


def test_what_is_boosted_at_the_run_date_leads_every_list_and_nothing_that_is_measured(
    nights: Nights, tmp_path: Path
):
    run, log = steered(nights, tmp_path)
    lists = lists_of(run, "recommendations")
    assert len(lists) == 60 and all(items[0] == "item-003" for items in lists.values())
    assert not any("item-005" in items for items in lists.values())
    measured = lists_of(run, "evaluation")
    assert not all(items[0] == "item-003" for items in measured.values())
    assert "score.boost_path: 4 of 5 ids are known to the log; unknown: 'item-900'" in log
    assert f"score.boost_path: 3 of 5 rows are in force at {DATE} 00:00 UTC" in log
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["rules"]["score.boost_path"] == {"ids": 5, "known": 4}
    told = {name: manifest["counts"]["score"].get(name) for name in ("boosted_items", "places")}
    assert told == {"boosted_items": 2, "places": 300}
    assert manifest["counts"]["score"]["boosted_places"] == 60
    assert "<dt>Items with a boost</dt><dd>2</dd>" in (run / "report.html").read_text()
