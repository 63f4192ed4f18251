"""What a whole night on a toy log publishes, which ran as a process on a real Ray."""

import json
import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published import Published

from diffsasrec.config.config import Config
from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import parse_tensors
from diffsasrec.score.online import OnlineRecommender
from jobs.faults.rig.nights import DATE, ROOT, Nights, digests, run_dir, tiny_config, toy_log
from jobs.report.pages import write_report
from jobs.runs.published_runs import config_if_known, find_run

pytestmark = [pytest.mark.ray, pytest.mark.night]


def oracle(log: pd.DataFrame, lists: dict, k: int = 5) -> dict[str, float]:
    """The split, the holdout and the metrics, once more and slowly."""
    cut = log.timestamp.quantile(0.95, interpolation="nearest")
    log = log.drop_duplicates()
    before, after = log[log.timestamp < cut], log[log.timestamp >= cut]
    known = after.user_id.isin(before.user_id) & after.item_id.isin(before.item_id)
    later = after[known]
    basket = later[later.timestamp == later.groupby("user_id").timestamp.transform("min")]
    holdout = basket.groupby("user_id").item_id.apply(list)
    ranks = [
        [lists[user].index(item) + 1 if item in lists[user] else np.inf for item in items]
        for user, items in holdout.items()
    ]
    shown = {item for user in holdout.index for item in lists.get(user, [])[:k]}
    return {
        "n": len(holdout),
        f"HR@{k}": np.mean([np.mean([rank <= k for rank in user]) for user in ranks]),
        f"NDCG@{k}": np.mean([np.mean(1 / np.log2(np.array(user) + 1)) for user in ranks]),
        f"MRR@{k}": np.mean([np.mean(1 / np.array(user)) for user in ranks]),
        f"Coverage@{k}": len(shown) / before.item_id.nunique(),
    }


def test_a_night_publishes_one_distinct_list_per_user_that_duckdb_reads(published):
    _, lake, (code, last, log) = published
    assert (code, last["status"], last["run_id"]) == (0, "done", "calm"), log
    rows = (
        duckdb.connect()
        .execute(
            f"select user_id, list_distinct([i.item_id for i in items]) as items "
            f"from read_parquet('{lake}/recommendations/ds={DATE}/*.parquet') order by user_id"
        )
        .fetchall()
    )
    assert [user for user, _ in rows] == list(range(60))
    assert all(len(items) == 5 for _, items in rows), rows


def test_an_online_recommender_makes_the_published_lists_of_the_same_histories(published):
    _, lake, _ = published
    decoding = DecodingConfig(k=5, decode="multi")
    online = OnlineRecommender(str(run_dir(lake, "calm")), decoding)
    log = toy_log().sample(frac=1, random_state=3)
    events = pa.table(
        {
            "user_id": log.user_id,
            "item_id": log.item_id,
            "timestamp": pa.array(log.timestamp).cast(pa.timestamp("s")),
        }
    )
    tonight = datetime.fromisoformat(DATE).replace(tzinfo=UTC)
    lists = online.recommend(events, query_time=tonight)
    nightly = pq.read_table(run_dir(lake, "calm") / "recommendations").sort_by("user_id")
    assert lists.drop(["items"]).equals(nightly.drop(["items"]))
    for mine, theirs in zip(lists.to_pylist(), nightly.to_pylist(), strict=True):
        assert [i["item_id"] for i in mine["items"]] == [i["item_id"] for i in theirs["items"]]
        scores = [i["score"] for i in theirs["items"]]
        assert [i["score"] for i in mine["items"]] == pytest.approx(scores, abs=1e-5)
    (alone,) = online.recommend(events.slice(0, 1), query_time=tonight).to_pylist()
    assert len(alone["items"]) == 5 and alone["history_len"] == 1
    strange = pa.table({**{n: events[n][:1] for n in events.column_names}, "item_id": ["new"]})
    (fallback,) = online.recommend(strange, query_time=tonight).to_pylist()
    assert (fallback["source"], fallback["history_len"]) == ("popular", 0)
    with pytest.raises(ValueError, match="timestamp"):
        online.recommend(events.drop(["timestamp"]), query_time=tonight)


@pytest.mark.parametrize(
    ("state", "checkpoint", "output"),
    [
        ("state/score", "checkpoint", "recommendations"),
        ("state/evaluate", "checkpoint_measured", "evaluation"),
    ],
)
def test_what_lists_show_is_counted_in_single_step_lists(published, state, checkpoint, output):
    _, lake, _ = published
    run = run_dir(lake, "calm")
    rows = pq.read_table(run / state / "shown" / output).to_pylist()
    assert len(rows) == pq.read_table(run / output).num_rows
    shown = Counter(item["item_id"] for row in rows for item in row["items"])
    item_ids = pq.read_table(run / checkpoint / "vocab.parquet")["item_id"].to_pylist()
    tensors, _ = parse_tensors((run / state / "shown.safetensors").read_bytes())
    per_thousand = [1000 * shown[item] / len(rows) for item in item_ids]
    assert tensors["shown"].tolist() == pytest.approx(per_thousand)
    assert shown.total() == 5 * len(rows)


def test_its_split_holdout_and_metrics_equal_a_slow_oracle(published):
    _, lake, _ = published
    table = pq.read_table(run_dir(lake, "calm") / "evaluation").to_pylist()
    lists = {row["user_id"]: [item["item_id"] for item in row["items"]] for row in table}
    expected = oracle(toy_log(), lists)
    metrics = json.loads((run_dir(lake, "calm") / "metrics.json").read_text())
    assert {name: metrics["model"][name] for name in expected} == pytest.approx(expected)
    assert set(metrics["baselines"]) == {
        "popular",
        "recent popular",
        "decayed popular",
        "own most frequent",
        "item-kNN",
        "item-item + popular",
    }


def test_the_manifest_accounts_for_every_row_and_lists_every_file(published):
    _, lake, _ = published
    manifest = json.loads((run_dir(lake, "calm") / "manifest.json").read_text())
    counts = manifest["counts"]["prepare"]
    assert counts["rows"] == len(toy_log()) == counts["kept"]
    assert counts["kept"] == counts["events"] + counts.get("duplicate", 0)
    on_disk = digests(run_dir(lake, "calm"))
    listed = {file["path"]: file["sha256"] for file in manifest["files"]}
    assert listed.items() <= on_disk.items()
    assert "recommendations/part-00000.parquet" in listed


def test_the_report_of_a_night_shows_its_metrics_and_lists(published, tmp_path):
    config, lake, _ = published
    published.copied(tmp_path / "lake")
    run = find_run(Storage.of(str(tmp_path / "lake")), DATE, None)
    assert config_if_known(run) == Config.model_validate(config)
    write_report(run, config_if_known(run))
    html = (run_dir(tmp_path / "lake", "calm") / "report.html").read_text()
    metrics = json.loads((run_dir(lake, "calm") / "metrics.json").read_text())
    rows = {"model": metrics["model"], **metrics["baselines"]}
    cells = [html.count(f">{row['NDCG@5']:.4f}<") for row in rows.values()]
    assert len(cells) == 7 and min(cells) >= 2  # in the table of all, and in that of its chart
    assert "<dt>Lists published</dt><dd>60</dd>" in html
    sections = ["published", "flow", "quality", "training", "lists", "users", "timings"]
    assert re.findall(r'<section id="([a-z-]+)"', html) == ["unusual", *sections]
    steps = html[html.index("Confidence by step") :]  # of multi-step decoding
    assert steps.index("surest first") < steps.index("exploring what is rarely shown")


def test_the_benchmark_of_a_night_counts_the_lists_of_active_users(published):
    _, lake, _ = published
    command = [sys.executable, "-m", "jobs.benchmark", "night", "--run"]
    command += [str(run_dir(lake, "calm")), "--active-days", "3", "--rounds", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    active, everyone = (json.loads(line) for line in done.stdout.splitlines())
    log = toy_log()
    tonight = datetime.fromisoformat(DATE).replace(tzinfo=UTC).timestamp()
    recent = log[log.timestamp >= tonight - 3 * 86400].user_id.nunique()
    assert (active["lists"], everyone["lists"], everyone["share"]) == (recent, 60, 1.0)
    for part in ("passes", "lists", "audit"):
        assert everyone[f"{part}_seconds"] >= 0


def test_the_layout_of_the_log_in_files_changes_nothing(
    published: Published, nights: Nights, tmp_path: Path
):
    log = toy_log().sample(frac=1, random_state=5)
    (tmp_path / "many").mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(log)), 7)):
        log.iloc[part].to_parquet(tmp_path / "many" / f"{number}.parquet", row_group_size=40)
    config = tiny_config(str(tmp_path / "many"), str(tmp_path / "lake"))
    code, _, text = nights.run(config, "--run-id", "x", job="prepare")
    assert code == 0, text
    one, many = run_dir(published.lake, "calm"), run_dir(tmp_path / "lake", "x")
    for output in ("sequences", "vocab", "holdout"):
        assert digests(one / output) == digests(many / output) != {}
