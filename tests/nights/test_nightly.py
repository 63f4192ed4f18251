"""Whole nights on a toy log, as processes on a real Ray."""

import json
import re
import shutil
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

from diffsasrec.config.config import Config
from diffsasrec.decode.decoding import Decoding
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import parse_tensors
from diffsasrec.score.online import OnlineRecommender
from jobs.faults.rig.nights import DATE, ROOT, digests, run_dir, tiny_config, toy_log
from jobs.night.published_runs import config_if_known, find_run
from jobs.report.pages import write_report

pytestmark = [pytest.mark.ray, pytest.mark.night]

ONE_WORKER = {"num_workers": 1}  # starts in half the time; the undisturbed night has two


def oracle(log: pd.DataFrame, lists: dict, k: int = 5) -> dict[str, float]:
    """The split, the holdout and the metrics, once more and slowly."""
    cut = log.timestamp.quantile(0.95, interpolation="nearest")
    log = log.drop_duplicates()
    log = log.assign(tie=pd.util.hash_pandas_object(log[["user_id", "item_id"]], index=False))
    log = log.sort_values(["timestamp", "tie"])
    before, after = log[log.timestamp < cut], log[log.timestamp >= cut]
    known = after.user_id.isin(before.user_id) & after.item_id.isin(before.item_id)
    holdout = after[known].groupby("user_id").head(1).set_index("user_id").item_id
    ranks = [
        lists.get(user, []).index(item) + 1 if item in lists.get(user, []) else np.inf
        for user, item in holdout.items()
    ]
    shown = {item for user in holdout.index for item in lists.get(user, [])[:k]}
    return {
        "n": len(holdout),
        f"HR@{k}": np.mean([rank <= k for rank in ranks]),
        f"NDCG@{k}": np.mean([1 / np.log2(rank + 1) for rank in ranks]),
        f"MRR@{k}": np.mean([1 / rank for rank in ranks]),
        f"Coverage@{k}": len(shown) / before.item_id.nunique(),
    }


def test_a_night_publishes_one_distinct_list_per_user_that_duckdb_reads(published):
    _, lake, (code, last, log) = published
    assert (code, last["status"], last["run_id"]) == (0, "done", "calm"), log
    rows = duckdb.sql(
        f"select user_id, list_distinct([i.item_id for i in items]) as items "
        f"from read_parquet('{lake}/recommendations/ds={DATE}/*.parquet') order by user_id"
    ).fetchall()
    assert [user for user, _ in rows] == list(range(60))
    assert all(len(items) == 5 for _, items in rows), rows


def test_an_online_recommender_makes_the_published_lists_of_the_same_histories(published):
    _, lake, _ = published
    decoding = Decoding(k=5, decode="multi")
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
        "own most frequent",
        "item-kNN",
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
    shutil.copytree(lake, tmp_path / "lake")
    run = find_run(Storage.of(str(tmp_path / "lake")), DATE, None)
    assert config_if_known(run) == Config.model_validate(config)
    write_report(run, config_if_known(run))
    html = (run_dir(tmp_path / "lake", "calm") / "report.html").read_text()
    metrics = json.loads((run_dir(lake, "calm") / "metrics.json").read_text())
    rows = {"model": metrics["model"], **metrics["baselines"]}
    cells = [html.count(f">{row['NDCG@5']:.4f}<") for row in rows.values()]
    assert len(cells) == 5 and min(cells) >= 2  # in the table of all, and in that of its chart
    assert "<dt>Lists published</dt><dd>60</dd>" in html
    sections = ["published", "flow", "quality", "training", "lists", "users", "timings"]
    assert re.findall(r'<section id="([a-z-]+)"', html) == ["unusual", *sections]
    steps = html[html.index("Confidence by step") :]  # of multi-step decoding
    assert steps.index("surest first") < steps.index("exploring what is rarely shown")


def test_a_second_run_of_the_same_run_does_nothing_and_changes_no_byte(published, nights):
    config, lake, _ = published
    before = digests(lake)
    code, last, log = nights.run(config, "--run-id", "calm")
    assert (code, last["status"]) == (0, "done"), log
    assert log.count("already done, skipped") == 7
    assert digests(lake) == before


def test_a_night_takes_weights_over_and_stays_the_same_run(published, nights, tmp_path: Path):
    config, lake, _ = published
    shutil.copytree(lake, tmp_path / "lake")
    lake = tmp_path / "lake"
    config = {**config, "lake": str(lake), "train": {"every_days": 3}}
    date = "2024-03-02"
    code, last, log = nights.run(config, "--stages", "prepare,pretrain,refit", date=date)
    assert code == 2 and "stage evaluate" in last["error"], log  # in the order of the night
    code, last, log = nights.run(config, date=date)
    assert (code, last["status"]) == (0, "done"), log
    assert log.count("already done, skipped") == 2
    for stage in ("finetune", "evaluate", "refit"):
        assert f"{stage}: nothing to do, the weights of run calm of 2024-03-01 serve" in log
    run, calm = run_dir(lake, last["run_id"], date), run_dir(lake, "calm")
    assert digests(run / "checkpoint") == digests(calm / "checkpoint")
    assert not (run / "metrics.json").exists() and not (run / "checkpoint_measured").exists()
    manifest = json.loads((run / "manifest.json").read_text())
    reused = manifest["reused"]
    assert (reused["run_id"], reused["age_days"]) == ("calm", 1)
    assert reused["metrics"] == json.loads((calm / "metrics.json").read_text())
    assert manifest["trained_before"] == {"checkpoint": 1_709_251_200_000_000}
    assert manifest["counts"]["score"]["unknown_items"] == 0
    # without the run that trained it is still the same run, and done
    code, _, log = nights.run(config, "--keep", "1", job="publish", date=None)
    assert code == 0 and not (calm / "manifest.json").exists(), log
    before = digests(lake)
    code, again, log = nights.run(config, date=date)
    assert (code, again["run_id"]) == (0, last["run_id"]), log
    assert log.count("already done, skipped") == 7
    assert digests(lake) == before


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


def test_a_published_run_id_is_not_reused_for_another_config(published, nights):
    config, lake, _ = published
    before = digests(lake)
    code, last, _ = nights.run(config, "--run-id", "calm", "--set", "seed=1")
    assert code == 2
    assert "choose a new one" in last["error"]
    assert digests(lake) == before


def test_a_gate_refusal_exits_4_and_leaves_the_published_state(published, nights):
    config, lake, _ = published
    before = digests(lake / "recommendations")
    selecting = {**config["pretrain"], "patience": 1, "epochs": 3}
    refused = {
        **config,
        "pretrain": selecting,
        "finetune": selecting,
        "train": ONE_WORKER,
        "gate": {"floors": {"NDCG@5": 0.99}},
    }
    code, last, log = nights.run(refused, date="2024-03-02")
    assert (code, last["status"], last["stage"]) == (4, "refused", "evaluate"), log
    assert "NDCG@5" in last["error"]
    assert digests(lake / "recommendations") == before
    for stage in ("pretrain", "finetune"):  # the second cut has said how long to train
        counts = last["counts"][stage]
        assert counts[stage]["epochs"] == counts[f"select-{stage}"]["epochs"]


def test_a_backfill_by_another_model_does_not_become_current(published, nights):
    config, lake, _ = published
    causal = {**config["model"], "kind": "sasrec", "attention": "causal"}
    config = {**config, "model": causal, "score": {"k": 5, "decode": "autoregressive"}}
    config["train"] = ONE_WORKER
    code, last, log = nights.run(config, date="2024-02-25")
    assert (code, last["status"], last["current"]) == (0, "done", {"ds": DATE, "run_id": "calm"})
    assert f"but it is not current: {DATE}, run calm, is since entry 1" in last["note"]
    assert f"WARNING: {last['note']}" in log
    own = run_dir(lake, last["run_id"], "2024-02-25")
    outcome = json.loads((own / "outcome.json").read_text())
    assert (outcome["current"], outcome["note"]) == (last["current"], last["note"])
    assert "diffsasrec_is_current 0.0" in (own / "metrics.prom").read_text()
    assert "another one is current" in (own / "report.html").read_text()
    chain = sorted((lake / "recommendations" / "_published").glob("*.json"))
    newest = json.loads(chain[-1].read_text())
    assert newest["ds"] == "2024-02-25"
    assert newest["current"] == {"ds": DATE, "run_id": "calm"}
    code, last, log = nights.run(config, "--rollback-to", "1", job="publish", date=None)
    assert (code, last["run_id"], last["counts"]) == (0, "calm", {"chain_number": 3}), log
    code, last, _ = nights.run(config, "--rollback-to", "7", job="publish", date=None)
    assert code == 2 and "3 entries" in last["error"]
    code, last, log = nights.run(config, "--keep", "1", job="publish", date=None)
    assert (code, last["counts"]) == (0, {"pruned": 1}), log
    assert run_dir(lake, "calm").exists() and not list(lake.glob("runs/ds=2024-02-25/*/*.json"))


def test_the_layout_of_the_log_in_files_changes_nothing(nights, toy, tmp_path: Path):
    log = toy_log().sample(frac=1, random_state=5)
    (tmp_path / "many").mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(log)), 7)):
        log.iloc[part].to_parquet(tmp_path / "many" / f"{number}.parquet", row_group_size=40)
    for name, path in (("one", toy), ("many", tmp_path / "many")):
        config = tiny_config(str(path), str(tmp_path / name / "lake"))
        code, _, text = nights.run(config, "--run-id", "x", job="prepare")
        assert code == 0, text
    for output in ("sequences", "vocab", "holdout"):
        one, many = (
            digests(run_dir(tmp_path / name / "lake", "x") / output) for name in ("one", "many")
        )
        assert one == many != {}


def test_bad_rows_are_quarantined_and_too_many_stop_the_run(nights, tmp_path: Path):
    log = toy_log()
    log["item_id"] = log.item_id.where(log.index % 20 > 0, None)
    log.to_parquet(tmp_path / "events.parquet")
    config = tiny_config(str(tmp_path / "events.parquet"), str(tmp_path / "lake"))
    code, last, _ = nights.run(config, "--run-id", "x", job="prepare")
    assert code == 3
    assert "null_item_id" in last["error"]
    config["events"] |= {"max_bad_fraction": 0.1}
    code, last, text = nights.run(config, "--run-id", "x", job="prepare")
    assert code == 0, text
    counts = last["counts"]["prepare"]
    assert counts["rows"] == counts["kept"] + counts["null_item_id"] == len(log)
    quarantine = pq.read_table(run_dir(tmp_path / "lake", "x") / "quarantine")
    assert quarantine.num_rows == counts["null_item_id"]


@pytest.mark.parametrize(
    ("override", "key"),
    [("train.num_workers=3", "train.num_workers"), ("score.gpus_per_actor=1", "score.gpus_per")],
)
def test_a_cluster_too_small_is_refused_before_anything_is_read(
    nights, toy, tmp_path, override, key
):
    config = tiny_config(str(toy), str(tmp_path / "lake"))
    code, last, _ = nights.run(config, "--set", override)
    assert (code, last["counts"]) == (2, {})
    assert key in last["error"]


def test_a_run_that_does_not_move_on_ends_with_a_reason(nights, toy, tmp_path: Path):
    config = tiny_config(str(toy), str(tmp_path / "lake"))
    code, last, _ = nights.run({**config, "stall_timeout": 0.2})
    assert (code, last["status"]) == (5, "failed")
    assert "stall_timeout=0.2" in last["error"]


def test_a_stage_alone_says_which_stage_is_missing(nights, toy, tmp_path: Path):
    config = tiny_config(str(toy), str(tmp_path / "lake"))
    code, last, _ = nights.run(config, job="score")
    assert code == 2
    assert "run stage prepare with" in last["error"]


@pytest.mark.parametrize(
    ("override", "code"), [("score.kk=1", 2), ("events.path=/nowhere/*.parquet", 3)]
)
def test_user_errors_have_their_exit_codes(nights, toy, tmp_path: Path, override, code):
    config = tiny_config(str(toy), str(tmp_path / "lake"))
    assert nights.run(config, "--set", override)[0] == code


def test_a_night_on_s3_with_rules_for_what_is_shown(nights, s3, toy, tmp_path: Path):
    import s3fs

    filesystem = s3fs.S3FileSystem(use_listings_cache=False)
    filesystem.put_file(str(toy), f"{s3.removeprefix('s3://')}/raw/events.parquet")
    config = tiny_config(f"{s3}/raw/", f"{s3}/prod")
    config["model"] |= {"attention": "bidirectional"}
    config["train"] = ONE_WORKER
    items = [f"item-{number:03}" for number in range(60)]
    kinds = pd.DataFrame({"item_id": items, "kind": [f"kind {n % 10}" for n in range(60)]})
    kinds.to_csv(tmp_path / "items.csv", index=False)
    config["items"] = {"path": str(tmp_path / "items.csv"), "category_column": "kind"}
    banned = pd.DataFrame({"user_id": [3] * 30 + [4], "item_id": [*items[:30], "never seen"]})
    with filesystem.open(f"{s3.removeprefix('s3://')}/rules/banned.parquet", "wb") as file:
        banned.to_parquet(file)
    config["score"] |= {"decode": "multi", "max_per_category": 1, "exclude_path": f"{s3}/rules/"}
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
    success = json.loads(filesystem.cat_file(f"{s3[5:]}/prod/recommendations/ds={DATE}/_SUCCESS"))
    assert success["rows"] == 60
    for file in success["files"]:
        path = f"{s3[5:]}/prod/recommendations/ds={DATE}/{file['path']}"
        with filesystem.open(path) as part:
            lists = pq.read_table(part).to_pylist()
        assert len(lists) == file["rows"]
        for row in lists:
            shown = [item["item_id"] for item in row["items"]]
            assert len({item[-1] for item in shown}) == len(shown) == 5  # of five kinds
            assert row["user_id"] != 3 or not {*shown} & {*items[:30]}
    assert "testsecret" not in log
