"""Nights that go on, take weights over, come second, or are refused: as processes on a Ray."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from lakes import made
from published import Published

from diffsasrec.files.storage import Storage
from jobs.faults.rig.nights import DATE, Nights, digests, lean_config, run_dir, tiny_config, toy_log

pytestmark = [pytest.mark.ray, pytest.mark.night]


def test_a_second_run_of_the_same_run_does_nothing_and_changes_no_byte(
    published: Published, nights: Nights, tmp_path: Path
):
    config, lake = published.copied(tmp_path / "lake")
    before = digests(lake)
    code, last, log = nights.run(config, "--run-id", "calm")
    assert (code, last["status"]) == (0, "done"), log
    assert log.count("already done, skipped") == 7
    assert digests(lake) == before


def test_a_night_takes_weights_over_and_stays_the_same_run(
    published: Published, nights: Nights, tmp_path: Path
):
    config, lake = published.copied(tmp_path / "lake")
    config["train"] = {"every_days": 3}
    config["score"] = {**config["score"], "num_actors": 1}
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


def test_a_published_run_id_is_not_reused_for_another_config(
    published: Published, nights: Nights, tmp_path: Path
):
    config, lake = published.copied(tmp_path / "lake")
    before = digests(lake)
    code, last, _ = nights.run(config, "--run-id", "calm", "--set", "seed=1")
    assert code == 2
    assert "choose a new one" in last["error"]
    assert digests(lake) == before


def test_too_many_bad_rows_stop_a_night_and_a_bad_model_is_refused_with_nothing_published(
    published: Published, nights: Nights, tmp_path: Path
):
    log = toy_log()
    log["item_id"] = log.item_id.where(log.index % 20 > 0, None)
    log.to_parquet(tmp_path / "events.parquet")
    _, lake = published.copied(tmp_path / "lake")
    before = digests(lake / "recommendations")
    config = lean_config(str(tmp_path / "events.parquet"), str(lake))
    selecting = {**config["pretrain"], "patience": 1, "epochs": 3}
    config |= {"pretrain": selecting, "finetune": selecting}
    config["model"] |= {"kind": "sasrec", "attention": "causal"}
    config["score"] = {"k": 5, "decode": "autoregressive", "num_actors": 1}
    config["gate"] = {"floors": {"NDCG@5": 0.99}}
    date = "2024-03-02"
    code, last, _ = nights.run(config, "--run-id", "x", date=date)
    assert code == 3
    assert "null_item_id" in last["error"]
    config["events"] |= {"max_bad_fraction": 0.1}
    code, last, text = nights.run(config, "--run-id", "x", date=date)
    # the rows may pass now, and the model may not
    assert (code, last["status"], last["stage"]) == (4, "refused", "evaluate"), text
    assert "NDCG@5" in last["error"]
    assert digests(lake / "recommendations") == before
    counts = last["counts"]["prepare"]
    assert counts["rows"] == counts["kept"] + counts["null_item_id"] == len(log)
    quarantine = pq.read_table(run_dir(lake, "x", date) / "quarantine")
    assert quarantine.num_rows == counts["null_item_id"]
    for stage in ("pretrain", "finetune"):  # the second cut has said how long to train
        counts = last["counts"][stage]
        assert counts[stage]["epochs"] == counts[f"select-{stage}"]["epochs"]


def test_a_backfill_behind_another_model_does_not_become_current(
    published: Published, nights: Nights, tmp_path: Path
):
    config, lake = published.copied(tmp_path / "lake", before="publish")
    newer = {"ds": "2024-03-02", "run_id": "newer"}
    made(Storage.of(str(lake)), "newer", ds="2024-03-02")
    code, last, log = nights.run(config, "--run-id", "calm")
    assert (code, last["status"], last["current"]) == (0, "done", newer), log
    assert "but it is not current: 2024-03-02, run newer, is since entry 1" in last["note"]
    assert f"WARNING: {last['note']}" in log
    own = run_dir(lake, "calm")
    outcome = json.loads((own / "outcome.json").read_text())
    assert (outcome["current"], outcome["note"]) == (last["current"], last["note"])
    assert "diffsasrec_is_current 0.0" in (own / "metrics.prom").read_text()
    assert "another one is current" in (own / "report.html").read_text()
    chain = sorted((lake / "recommendations" / "_published").glob("*.json"))
    newest = json.loads(chain[-1].read_text())
    assert (newest["ds"], newest["current"]) == (DATE, newer)
    code, last, log = nights.run(config, "--rollback-to", "1", job="publish", date=None)
    assert (code, last["run_id"], last["counts"]) == (0, "newer", {"chain_number": 3}), log
    code, last, _ = nights.run(config, "--rollback-to", "7", job="publish", date=None)
    assert code == 2 and "3 entries" in last["error"]
    code, last, log = nights.run(config, "--keep", "1", job="publish", date=None)
    assert (code, last["counts"]) == (0, {"pruned": 1}), log
    assert run_dir(lake, "newer", "2024-03-02").exists()
    assert not list(lake.glob(f"runs/ds={DATE}/*/*.json"))


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
