"""What a lake shows to people: a user's list and how it came about, and what is published."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.counters.similar import similarity
from diffsasrec.counters.tables import create_similar
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage, sha256, to_json
from diffsasrec.lake.chain import append_entry, append_rollback
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.checkpoint import save_checkpoint, save_tensors
from diffsasrec.model.features import trend_counts, trend_features, window_counts
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.schema import list_values
from diffsasrec.score.fallback import log_shares
from diffsasrec.score.list_maker import ListMaker
from diffsasrec.score.state_files import NIGHT_STATE, POPULAR, SHOWN, SIMILAR, TRENDS
from diffsasrec.sequences.fold import finish, fold
from diffsasrec.sequences.histories import flatten
from diffsasrec.sequences.vocab import build_vocab, count_items
from diffsasrec.times import microseconds
from jobs.faults.rig.nights import DATE, ROOT, run_dir, tiny_config, toy_log
from jobs.night.scoring import night_scoring
from jobs.observe.summary import printable
from jobs.runs.published_runs import config_of, open_published
from jobs.show.__main__ import current_lines, newest_metrics
from jobs.show.user import find_user, is_same, user_lines, why_no_list

ROW: dict[str, Any] = {"n": 9, "Coverage@5": 0.7}
ROW |= {f"{m}@5": 0.25 for m in ("NDCG", "HR", "MRR")}
ROW |= {f"{m}@5_ci": [0.2, 0.3] for m in ("NDCG", "HR", "MRR")}


def publish(lake: Storage, ds: str, run_id: str) -> RunDir:
    """A run in the chain, with as much in its directory as is shown of it."""
    run = RunDir(lake, ds, run_id, "identity", f"attempt of {run_id}")
    manifest = {
        "identity": "identity",
        "config": {"evaluate": {"ks": [5]}},
        "counts": {"score": {"model": 57, "popular": 3}},
        "files": [{"path": "recommendations/part-00000.parquet", "rows": 60}],
        "trained_before": {"checkpoint": 1_709_251_200_000_000},
        "model_version": f"weights of {run_id}",
        "cost": {"total": {"cpu_hours": 1.5, "gpu_hours": 0.0, "money": 0.3}},
    }
    run.storage.write_bytes("metrics.json", to_json({"model": ROW, "baselines": {}}))
    run.storage.write_bytes("manifest.json", to_json(manifest))
    append_entry(lake, run, sha256(to_json(manifest)))
    return run


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    storage = Storage.of(str(tmp_path))
    for ds, run_id in (("2024-03-01", "one"), ("2024-03-02", "two"), ("2024-02-25", "backfill")):
        publish(storage, ds, run_id)
    return storage


def test_what_is_current_is_shown_with_the_entry_that_made_it_so(lake: Storage):
    text = "\n".join(current_lines(lake))
    assert "current   2024-03-02, run two, by entry 2 of 3 since 20" in text  # not the backfill
    assert "60: 57 by the model, 3 fallback, 0 short" in text
    assert "weights of two, trained on what was before 2024-03-01 00:00:00 UTC" in text
    assert "1.50 CPU hours, 0.00 GPU hours, 0.30 in money" in text
    assert "0.2500 (0.2000-0.3000)" in text
    assert text.index("3  20") < text.index("2  20") < text.index("1  20")


def test_a_night_whose_lists_a_counter_made_says_which_and_why(lake: Storage):
    run = publish(lake, "2024-03-03", "three")
    manifest = json.loads(run.storage.read_bytes("manifest.json"))
    manifest["counts"]["score"] = {"counter": 57, "popular": 3}
    manifest["counter"] = {"name": "own + popular"}
    versus = {"counter": "own + popular", "metric": "NDCG@5", "num_users": 90}
    versus |= {"difference": -0.05, "interval": [-0.08, -0.02]}
    run.storage.write_bytes("manifest.json", to_json(manifest))
    metrics = {"model": ROW, "baselines": {}, "versus": versus}
    run.storage.write_bytes("metrics.json", to_json(metrics))
    text = "\n".join(current_lines(lake))
    assert "60: 57 by the counter own + popular, 3 fallback, 0 short" in text
    assert "why       the NDCG@5 of the model is 0.0500 below that of own + popular on the" in text
    assert "interval 0.0200 to 0.0800)" in text and "by the model" not in text


def test_boosts_are_shown_with_their_share_of_the_places(lake: Storage):
    run = publish(lake, "2024-03-03", "three")
    manifest = json.loads(run.storage.read_bytes("manifest.json"))
    manifest["counts"]["score"] |= {"boosted_items": 12, "boosted_places": 50, "places": 200}
    manifest["counts"]["score"] |= {"asked": 9, "asked_unknown": 2}
    run.storage.write_bytes("manifest.json", to_json(manifest))
    assert "boosts    12 items, with 25.0% of the places of lists" in current_lines(lake)
    assert "users     9 asked for, 2 of them unknown to the log" in current_lines(lake)


def test_a_rollback_is_called_one_and_is_current_since_then(lake: Storage):
    append_rollback(lake, 1, attempt="back")
    text = "\n".join(current_lines(lake))
    assert "current   2024-03-01, run one, by entry 4 of 4" in text
    assert "one  rollback to entry 1" in text


def test_a_night_that_reuses_weights_shows_the_figures_it_cites(lake: Storage):
    run = publish(lake, "2024-03-03", "three")
    manifest = json.loads(run.storage.read_bytes("manifest.json"))
    cited = {"ds": "2024-03-02", "run_id": "two", "age_days": 1}
    manifest["reused"] = {**cited, "metrics": {"model": ROW, "baselines": {"popular": ROW}}}
    run.storage.write_bytes("manifest.json", to_json(manifest))
    run.storage.delete(["metrics.json"])
    text = "\n".join(current_lines(lake))
    assert "60: 57 by the model" in text and "0.2500 (0.2000-0.3000)" in text
    assert "WARNING: the model is no better than popular" in text
    assert "figures   of run two of 2024-03-02, whose weights serve, 1 days old" in text


def test_a_run_date_in_the_future_is_shown_with_the_way_out(lake: Storage):
    assert "WARNING" not in "\n".join(current_lines(lake))
    publish(lake, "2062-11-24", "far")
    text = "\n".join(current_lines(lake))
    assert "WARNING   the run date 2062-11-24 lies in the future. Until then no night" in text
    assert "--rollback-to 3 serves 2024-03-02, run two, again" in text


def test_an_empty_lake_says_so(tmp_path: Path):
    assert current_lines(Storage.of(str(tmp_path))) == [f"nothing is published in {tmp_path}"]
    with pytest.raises(ConfigError, match="nothing is published"):
        open_published(Storage.of(str(tmp_path)), None, None)


def test_a_run_is_found_by_date_by_name_or_as_what_is_current(lake: Storage):
    assert open_published(lake, None, None)[0].run_id == "two"
    assert open_published(lake, date(2024, 2, 25), None)[0].run_id == "backfill"
    assert open_published(lake, None, "one")[0].ds == "2024-03-01"
    with pytest.raises(ConfigError, match="the newest are 2024-02-25, 2024-03-01, 2024-03-02"):
        open_published(lake, date(2023, 1, 1), None)
    with pytest.raises(ConfigError, match="no run of 2024-03-01 of this name"):
        open_published(lake, date(2024, 3, 1), "two")


def test_a_manifest_that_was_changed_is_not_believed(lake: Storage):
    lake.write_bytes("runs/ds=2024-03-02/two/manifest.json", b"{}")
    with pytest.raises(InfrastructureError, match="changed after publishing"):
        open_published(lake, None, None)


def test_the_metrics_are_those_of_the_newest_date_that_has_any(lake: Storage):
    with pytest.raises(ConfigError, match=r"metrics\.prom"):
        newest_metrics(lake)
    lake.write_bytes("runs/ds=2024-03-01/one/metrics.prom", b"of one\n")
    lake.write_bytes("runs/ds=2024-02-25/backfill/metrics.prom", b"of the backfill\n")
    assert newest_metrics(lake) == "of one\n"


def test_nothing_in_a_title_steers_the_terminal():
    assert printable("Café \x1b[2J\n") == "Café \\x1b[2J\\n"


@pytest.mark.parametrize(
    ("id_type", "good", "bad"),
    [
        (pa.int64(), "-9223372036854775808", "9223372036854775808"),
        (pa.int32(), "7", "007"),
        (pa.uint64(), "18446744073709551615", "-1"),
        (pa.int64(), "0", "seven"),
    ],
)
def test_user_ids_are_read_in_the_type_of_the_log(tmp_path: Path, id_type, good, bad):
    run = RunDir(Storage.of(str(tmp_path)), "2024-03-01", "r", "identity", "")
    users = pa.table({"user_id": pa.array([int(good)], id_type)})
    run.storage.write_table("sequences/part-00000.parquet", users)
    manifest = {"files": [{"path": "sequences/part-00000.parquet"}]}
    name, user_id = find_user(run, manifest, good)
    assert (name, user_id) == ("part-00000.parquet", users["user_id"][0])
    with pytest.raises(ConfigError, match=f"--user {bad}: user ids of this log are {id_type}"):
        find_user(run, manifest, bad)


def test_lists_are_the_same_by_items_and_source_with_scores_that_are_close():
    def row(items: str, score: float, source: str = "model") -> dict[str, Any]:
        return {"source": source, "items": [{"item_id": i, "score": score} for i in items]}

    assert is_same(row("ab", -1.0), row("ab", -1.00001))
    others = [row("ba", -1.0), row("a", -1.0), row("ab", -1.1), row("ab", -1.0, "popular")]
    assert not any(is_same(row("ab", -1.0), other) for other in others)


@pytest.mark.night
def test_the_list_of_a_user_is_made_again_step_by_step(published, monkeypatch):
    import ray

    _, root, _ = published
    monkeypatch.setattr(ray, "init", None)  # none is started
    run, manifest = open_published(Storage.of(str(root)), None, "calm")
    config = config_of(manifest)
    rows = pq.read_table(run_dir(root, "calm") / "recommendations").to_pylist()
    for row in rows[:5]:
        lines = user_lines(config, run, manifest, user=str(row["user_id"]), last=3)
        text = "\n".join(lines)
        assert "made again from the run directory: the same list" in text, text
        assert sum("slot" in line and "confidence" in line for line in lines) == 5
        assert "step 1, surest first" in text and "step 2, exploring what is rarely shown" in text
        assert all(f"  {item['item_id']}" in text for item in row["items"])
    with pytest.raises(ConfigError, match="no such user"):
        user_lines(config, run, manifest, user="4711", last=3)
    other = config.model_copy(update={"score": config.score.model_copy(update={"k": 3})})
    text = "\n".join(user_lines(other, run, manifest, user="0", last=3))
    assert "WARNING: made again from the run directory, the list is another one" in text


@pytest.mark.night
def test_a_night_leaves_its_outcome_metrics_and_cost(published):
    _, root, _ = published
    directory = run_dir(root, "calm")
    outcome = json.loads((directory / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"], outcome["ds"]) == ("done", 0, DATE)
    assert set(outcome["seconds"]) == set(outcome["counts"]) and len(outcome["seconds"]) == 7
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["cost"]["total"]["cpu_hours"] > 0 and manifest["cost"]["total"]["money"] is None
    assert not {"outcome.json", "metrics.prom"} & {file["path"] for file in manifest["files"]}
    metrics = newest_metrics(Storage.of(str(root)))
    assert "diffsasrec_rows_read 1266.0" in metrics and "diffsasrec_ndcg{" in metrics


# --- a run that is made here, of real parts, without a cluster ---


def write_prepared(run: RunDir, log: pd.DataFrame) -> tuple[pa.Table, pa.Table]:
    """The vocabulary and the histories of a log, all of it before the split."""
    now = microseconds(DATE)
    events = pa.table({"user_id": log.user_id, "item_id": log.item_id})
    events = events.append_column("timestamp", pa.array(log.timestamp * 1_000_000))
    folded, _ = fold(events, max_user_events=1000)
    counts = count_items(
        list_values(folded["item_ids"]), list_values(folded["times"]).to_numpy(), split_time=now
    )
    vocab = build_vocab(counts, min_item_count=1, item_type=pa.string(), previous=None)
    sequences, _, _ = finish(folded, vocab, split_time=now, user_type=pa.int64())
    run.storage.write_table("vocab/part-00000.parquet", vocab)
    run.storage.write_table("sequences/part-00000.parquet", sequences)
    return vocab, sequences


def write_night_state(run: RunDir, sequences: pa.Table, num_items: int) -> None:
    """What scoring knows of the night: trends, how often items are shown, and the popular ones."""
    flat, now = flatten(sequences), microseconds(DATE)
    histories = (flat.items, flat.times, flat.offsets)
    counts = trend_counts(*histories, query_times=np.array([now]), num_items=num_items)
    trends = torch.from_numpy(trend_features(counts)[0])
    save_tensors(run.storage, f"{NIGHT_STATE}/{TRENDS}", {"trends": trends}, {})
    similar = similarity(flat.histories, num_items=num_items)
    create_similar(run.storage, f"{NIGHT_STATE}/{SIMILAR}", similar)
    shown = torch.arange(num_items, dtype=torch.float32)
    save_tensors(run.storage, f"{NIGHT_STATE}/{SHOWN}", {"shown": shown}, {})
    recent = window_counts(flat.items, flat.times, before=now, num_items=num_items)
    shares = pa.table({"log_share": log_shares(recent[0], recent[-1])})
    run.storage.write_table(f"{NIGHT_STATE}/{POPULAR}", shares)


def publish_files(run: RunDir, config: Config) -> dict[str, Any]:
    """The manifest of a run whose files are all there."""
    files = [
        {"path": info.path, "rows": 1, "sha256": sha256(run.storage.read_bytes(info.path))}
        for info in run.storage.list()
    ]
    manifest = {"identity": "identity", "config": config.resolved(), "files": files}
    run.storage.write_bytes("manifest.json", to_json(manifest))
    append_entry(run.lake, run, sha256(to_json(manifest)))
    return manifest


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[RunDir, dict[str, Any], pa.Table]]:
    """Makes a published run with random weights: the run, its manifest, and its lists."""
    log = toy_log()
    titles = pd.DataFrame({"item_id": sorted(log.item_id.unique())})
    titles.assign(title="Title of " + titles.item_id).to_parquet(tmp_path / "items.parquet")

    def make(*sets: str, lake: str = str(tmp_path / "lake")) -> Any:
        raw = tiny_config("log.parquet", lake)
        raw["items"] = {"path": str(tmp_path / "items.parquet"), "title_column": "title"}
        config = load_config(json.dumps(raw), sets)
        run = RunDir(Storage.of(lake), DATE, "made", "identity", "attempt")
        vocab, sequences = write_prepared(run, log)
        save_checkpoint(
            run.storage.sub("checkpoint"),
            weights=SequenceModel(config.model, vocab.num_rows, seed=1).state_dict(),
            config=config.model,
            vocab=vocab,
            counts=vocab["count"].to_numpy(),
            trained_before=microseconds(DATE),
        )
        write_night_state(run, sequences, vocab.num_rows)
        lists = ListMaker(night_scoring(config, run), "cpu").lists(sequences)
        run.storage.write_table("recommendations/part-00000.parquet", lists)
        return run, publish_files(run, config), lists

    return make


@pytest.mark.parametrize(
    "sets",
    [
        ["score.decode=single"],
        ["score.decode=multi", "score.steps=3", "score.filter_seen=true"],
        ["score.decode=multi", "score.explore_items=0", "score.commit=threshold"],
        ["score.decode=autoregressive", "score.max_per_category=null"],
        ["model.kind=sasrec", "model.attention=causal", "score.decode=autoregressive"],
    ],
    ids=lambda sets: " ".join(sets),
)
def test_a_list_is_made_again_in_every_way_of_decoding(made, sets: list[str]):
    run, manifest, lists = made(*sets)
    for row in lists.to_pylist()[:4]:
        shown = user_lines(config_of(manifest), run, manifest, user=str(row["user_id"]), last=2)
        text = "\n".join(shown)
        assert "made again from the run directory: the same list" in text, text
        assert sum("confidence" in line for line in shown) == 5
        for item in row["items"]:
            assert f"  {item['item_id']}  Title of {item['item_id']}" in text


def test_a_boost_stands_beside_its_item_in_the_list_and_in_the_steps(made, tmp_path: Path):
    boosts = f"item_id,boost,until\nitem-003,30,\nitem-004,30,{DATE}\nitem-005,-30,\n"
    (tmp_path / "boosts.csv").write_text(boosts)
    where = f"score.boost_path={tmp_path / 'boosts.csv'}"
    run, manifest, lists = made("score.decode=multi", "score.filter_seen=false", where)
    for row in lists.to_pylist()[:4]:
        assert row["items"][0]["item_id"] == "item-003"
        assert "item-005" not in [item["item_id"] for item in row["items"]]
        shown = user_lines(config_of(manifest), run, manifest, user=str(row["user_id"]), last=2)
        boosted = [line for line in shown if line.endswith("Title of item-003  (boost +30)")]
        assert len(boosted) == 2 and sum("(boost" in line for line in shown) == 2
        assert "made again from the run directory: the same list" in "\n".join(shown)


def test_a_user_without_a_list_is_told_which_keys_may_be_why(made, tmp_path: Path):
    _, manifest, _ = made()
    config = config_of(manifest)
    asked = config.score.model_copy(update={"users_path": "users.csv", "active_days": 3.0})
    assert why_no_list(config.model_copy(update={"score": asked})) == (
        "no list: not among the users of score.users_path, or no event in the last 3 days"
    )


def run_show(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.show", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.process
def test_the_command_shows_a_user_of_a_lake_on_s3_and_refuses_an_unknown_one(made, s3: str):
    lake = f"{s3}/shown"
    _, _, lists = made("score.decode=multi", lake=lake)
    code, out, err = run_show("--lake", f"{lake}/", "--user", "7", "--date", DATE)
    assert code == 0, err
    assert "by the model, from" in out and "the same list" in out
    assert lists["model_version"][0].as_py() in out
    code, _, err = run_show("--lake", lake, "--user", "4711")
    assert code == 2 and "ConfigError: --user 4711: the log of run made" in err


def test_a_night_of_another_version_is_said_to_be_one():
    manifest = {"run_id": "old", "config": {"score": {"explore_noise": 0.5}}}
    with pytest.raises(ConfigError, match=r"run old was made by another version.*explore_noise"):
        config_of(manifest)


def test_weights_that_were_changed_are_a_warning_beside_the_published_list(made):
    run, manifest, _ = made()
    run.storage.write_bytes("checkpoint/config.json", b"{}")
    text = "\n".join(user_lines(config_of(manifest), run, manifest, user="7", last=2))
    assert "  1 " in text and "WARNING: the steps can't be made again" in text
