"""A night whose lists the business steers by tables, as a process on a real Ray."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.faults.rig.nights import DATE, Nights, lean_config, run_dir, toy_log

pytestmark = [pytest.mark.ray, pytest.mark.night]

TABLES = ("boost", "users")
ASKED = [3, 8, 21, 40]
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
    (directory / "boost.csv").write_text(BOOSTS)
    config = lean_config(str(directory / "log.parquet"), str(directory / "lake"))
    users = ["user_id", *map(str, ASKED), "4711", ""]
    (directory / "users.csv").write_text("\n".join(users))
    config["score"] |= {"decode": "multi", "explore_items": 1}
    config["score"] |= {f"{name}_path": str(directory / f"{name}.csv") for name in TABLES}
    code, _, log = nights.run(config, "--run-id", "x")
    assert code == 0, log
    return run_dir(directory / "lake", "x"), log


def lists_of(run: Path, table: str) -> dict[int, list[str]]:
    rows = pq.read_table(run / table).to_pylist()
    return {row["user_id"]: [item["item_id"] for item in row["items"]] for row in rows}


def test_lists_are_those_that_were_asked_for_with_what_is_boosted_and_what_is_measured_is_not(
    nights: Nights, tmp_path: Path
):
    run, log = steered(nights, tmp_path)
    lists = lists_of(run, "recommendations")
    assert sorted(lists) == ASKED and all(items[0] == "item-003" for items in lists.values())
    assert not any("item-005" in items for items in lists.values())
    measured = lists_of(run, "evaluation")
    assert not all(items[0] == "item-003" for items in measured.values())
    assert "score.boost_path: 4 of 5 ids are known to the log; unknown: 'item-900'" in log
    assert f"score.boost_path: 3 of 5 rows are in force at {DATE} 00:00 UTC" in log
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["rules"]["score.boost_path"] == {"ids": 5, "known": 4}
    told = {name: manifest["counts"]["score"].get(name) for name in ("boosted_items", "places")}
    assert told == {"boosted_items": 2, "places": 20}
    assert manifest["counts"]["score"]["boosted_places"] == 4
    names = ("asked", "asked_unknown", "not_asked", "left_out_inactive")
    assert [manifest["counts"]["score"][name] for name in names] == [5, 1, 56, 0]
    assert set(measured) - set(ASKED)  # everyone with a holdout item
    assert "score.users_path: 4 of 5 ids are known to the log; unknown: '4711'" in log
    assert "<dt>Items with a boost</dt><dd>2</dd>" in (run / "report.html").read_text()
