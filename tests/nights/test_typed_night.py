"""A whole night on a log with types of events, against what it must be, computed once more."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.files.storage import Storage
from diffsasrec.score.online import OnlineRecommender
from jobs.faults.rig.nights import DATE, Nights, lean_config, run_dir, toy_log
from jobs.runs.published_runs import config_of, open_published
from jobs.show.user import user_lines

pytestmark = [pytest.mark.ray, pytest.mark.night]

TYPES = {
    "purchase": {"weight": 1.0},
    "cart": {"weight": 0.5, "target": False, "seen": False},
    "view": {"weight": 0.25, "target": False, "seen": False},
}


def typed_log() -> pd.DataFrame:
    """The toy log with a type for each row; some events are of two types, some of none or others"""
    log, rng = toy_log(), np.random.default_rng(3)
    names = ["purchase", "cart", "view", "refund"]
    log["kind"] = rng.choice(names, len(log), p=[0.4, 0.1, 0.45, 0.05])
    both = log[log.kind == "view"].head(20).assign(kind="purchase")
    log = pd.concat([log, both, log.head(30)], ignore_index=True)
    log.loc[log.index[50:54], "kind"] = None
    return log


@pytest.fixture(scope="module")
def night(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("typed")
    typed_log().to_parquet(directory / "events.parquet")
    config = lean_config(str(directory / "events.parquet"), str(directory / "lake"))
    config["events"] |= {"type_column": "kind", "types": TYPES}
    config["score"] |= {"decode": "multi", "filter_seen": True}
    config["gate"] |= {"otherwise": "model"}  # whatever counters do on so small a log
    code, last, log = Nights(directory, cluster).run(config, "--run-id", "typed")
    assert (code, last["status"]) == (0, "done"), log
    return {"run": run_dir(directory / "lake", "typed"), "log": log}


def kept_log() -> pd.DataFrame:
    """The events of the log as they must be read: a type each, duplicates out."""
    log = typed_log()
    return log[log.kind.isin(list(TYPES))].drop_duplicates()


def cut_of(log: pd.DataFrame) -> int:
    """The split: the quantile of all rows that are read, duplicates among them."""
    read = log[log.kind.isin(list(TYPES))]
    return int(read.timestamp.quantile(0.95, interpolation="nearest"))


def test_rows_are_counted_by_their_type(night: dict[str, Any]):
    counts = typed_log().kind.value_counts()
    manifest = json.loads((night["run"] / "manifest.json").read_text())
    assert manifest["event_types"] == {
        "filtered": {"refund": counts["refund"]},
        "kept": {name: counts[name] for name in sorted(TYPES)},
    }
    prepared = manifest["counts"]["prepare"]
    assert prepared["filtered"] == counts["refund"] and prepared["null_type"] == 4
    assert prepared["rows"] == len(typed_log())
    assert f"filtered rows by their kind: refund {counts['refund']}" in night["log"]
    bad = pq.read_table(night["run"] / "quarantine").to_pylist()
    assert [(row["kind"], row["reason"]) for row in bad] == [(None, "null_type")] * 4


def test_the_histories_hold_every_event_once_with_its_type(night: dict[str, Any]):
    vocab = pq.read_table(night["run"] / "vocab")["item_id"].to_pylist()
    found = set()
    for row in pq.read_table(night["run"] / "sequences").to_pylist():
        for item, time, code in zip(row["items"], row["times"], row["types"], strict=True):
            name = ("view", "cart", "purchase")[code]  # the lighter first
            found.add((row["user_id"], vocab[item], time // 10**6, name))
    expected = kept_log()[["user_id", "item_id", "timestamp", "kind"]]
    assert found == set(expected.itertuples(index=False, name=None))
    total = sum(len(row) for row in pq.read_table(night["run"] / "sequences")["items"].to_pylist())
    assert total == len(expected)


def test_the_holdout_is_what_users_bought_next(night: dict[str, Any]):
    log = kept_log()
    cut = cut_of(typed_log())
    before, after = log[log.timestamp < cut], log[log.timestamp >= cut]
    after = after[after.kind == "purchase"]
    after = after[after.user_id.isin(before.user_id) & after.item_id.isin(before.item_id)]
    first = after[after.timestamp == after.groupby("user_id").timestamp.transform("min")]
    found = pq.read_table(night["run"] / "holdout").to_pandas()
    assert len(found) > 5
    assert {*zip(found.user_id, found.item_id, strict=True)} == {
        *zip(first.user_id, first.item_id, strict=True)
    }
    metrics = json.loads((night["run"] / "metrics.json").read_text())
    assert metrics["model"]["n"] == first.user_id.nunique()
    assert metrics["target_types"] == ["purchase"]


def test_the_most_popular_counter_counts_by_weight(night: dict[str, Any]):
    """Its figure is that of the most popular items by weight, without what the user bought."""
    log, cut = kept_log(), cut_of(typed_log())
    before = log[log.timestamp < cut]
    weight = before.kind.map({name: each["weight"] for name, each in TYPES.items()})
    popular = weight.groupby(before.item_id).sum().reset_index()
    order = popular.sort_values(["kind", "item_id"], ascending=[False, True]).item_id
    bought = before[before.kind == "purchase"].groupby("user_id").item_id.agg(set)
    holdout = pq.read_table(night["run"] / "holdout").to_pandas().groupby("user_id").item_id
    hits = []
    for user, items in holdout.agg(list).items():
        shown = [item for item in order if item not in bought.get(user, set())][:5]
        hits.append(np.mean([item in shown for item in items]))
    metrics = json.loads((night["run"] / "metrics.json").read_text())
    assert metrics["baselines"]["popular"]["HR@5"] == pytest.approx(np.mean(hits))


def test_lists_show_what_was_only_viewed_and_nothing_that_was_bought(night: dict[str, Any]):
    log = kept_log()
    bought = log[log.kind == "purchase"].groupby("user_id").item_id.agg(set)
    viewed = log[log.kind != "purchase"].groupby("user_id").item_id.agg(set)
    shown_again = 0
    for row in pq.read_table(night["run"] / "recommendations").to_pylist():
        items = {item["item_id"] for item in row["items"]}
        assert len(items) == 5 and not items & bought.get(row["user_id"], set())
        shown_again += len(items & viewed.get(row["user_id"], set()))
    assert shown_again > 0


def test_an_online_recommender_takes_the_types_and_makes_the_lists(night: dict[str, Any]):
    decoding = DecodingConfig(k=5, decode="multi", filter_seen=True, explore_items=0)
    online = OnlineRecommender(str(night["run"]), decoding)
    log = typed_log().dropna()
    events = pa.table(
        {
            "user_id": log.user_id,
            "item_id": log.item_id,
            "timestamp": pa.array(log.timestamp).cast(pa.timestamp("s")),
            "type": log.kind,
        }
    )
    tonight = datetime.fromisoformat(DATE).replace(tzinfo=UTC)
    lists = online.recommend(events, query_time=tonight).to_pylist()
    nightly = pq.read_table(night["run"] / "recommendations").sort_by("user_id").to_pylist()
    for mine, theirs in zip(lists, nightly, strict=True):
        assert [i["item_id"] for i in mine["items"]] == [i["item_id"] for i in theirs["items"]]
    with pytest.raises(ValueError, match="type"):
        online.recommend(events.drop(["type"]), query_time=tonight)


def test_the_checkpoint_says_the_types_and_has_learned_them(night: dict[str, Any]):
    from safetensors.numpy import load_file

    path: Path = night["run"] / "checkpoint"
    types = json.loads((path / "config.json").read_text())["event_types"]
    assert types == {
        "names": ["view", "cart", "purchase"],
        "weights": [0.25, 0.5, 1.0],
        "targets": [False, False, True],
        "seen": [False, False, True],
    }
    rows = load_file(path / "model.safetensors")["types.weight"]
    assert rows.shape == (3, 16) and (abs(rows).max(axis=1) > 0).all()


def test_show_and_the_report_say_the_type_of_each_event(night: dict[str, Any]):
    log = kept_log()
    user = log.user_id.iloc[0]
    newest = log[log.user_id == user].sort_values("timestamp").iloc[-1]
    lake = Storage.of(str(night["run"].parents[2]))
    run, manifest = open_published(lake, date.fromisoformat(DATE), "typed")
    config = config_of(manifest)
    lines = user_lines(config, run, manifest, user=str(user), last=3)
    assert any(line.endswith(f"{newest.item_id}  ({newest.kind})") for line in lines)
    assert "made again from the run directory: the same list" in lines[-1]
    page = (night["run"] / "report.html").read_text()
    assert "Rows by the type of the event" in page and ", purchase" in page
