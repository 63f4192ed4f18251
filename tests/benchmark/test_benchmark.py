"""The benchmark prints what other programs read."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from sources import ROOT

from diffsasrec.config.decoding import DecodingConfig
from jobs.benchmark.arguments import parse_benchmark
from jobs.benchmark.plan import plan
from jobs.benchmark.references import prepare_with_duckdb, prepare_with_polars
from jobs.faults.rig.nights import toy_log
from jobs.planning.workload import GPUS, rows_scored

TINY = ["--users", "8", "--items", "50", "--max-len", "12", "--hidden", "8", "--rounds", "1"]


def lines_of(*arguments: str) -> list[dict]:
    command = [sys.executable, "-m", "jobs.benchmark", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.process
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_score_prints_one_json_line_per_variant(dtype: str):
    lines = lines_of("score", *TINY, "--k", "3", "--decode", "multi", "--dtype", dtype)
    expected = ["exact", "shortlist", "single step", "encoding anew"]
    if dtype == "float32":
        expected += ["products alone"]
    assert [line["variant"] for line in lines] == expected
    for line in lines:
        assert line["users_per_s"] > 0
        assert line["peak_rss_mib"] > 0
        assert (line["users"], line["threads"], line["device"]) == (8, 1, "cpu")


@pytest.mark.process
def test_train_prints_sequences_per_second():
    lines = lines_of("train", *TINY, "--batch-size", "4", "--lengths", "full")
    assert [line["variant"] for line in lines] == ["step", "encoder alone", "plain"]
    assert all(line["sequences_per_s"] > 0 for line in lines)


def test_the_states_of_the_exact_way_are_counted_step_by_step():
    assert rows_scored(DecodingConfig(k=10, decode="single")) == 1
    assert rows_scored(DecodingConfig(k=10, decode="autoregressive")) == 10
    # the next item, then ten open slots and one fewer in every step
    assert rows_scored(DecodingConfig(k=10, decode="multi", steps=10, explore_items=0)) == 1 + 55
    # exploring has the last slot and step, and chooses from what the next item ranks first
    assert rows_scored(DecodingConfig(k=10, decode="multi", steps=10)) == 1 + 54
    assert rows_scored(DecodingConfig(k=10, decode="multi", steps=2)) == 1 + 10
    assert rows_scored(DecodingConfig(k=10, decode="multi", steps=2, explore_items=2)) == 1 + 10


@pytest.mark.process
def test_a_plan_says_of_every_line_whether_it_was_measured():
    lines = lines_of("plan", "--users", "1e6", "--items", "1e4")
    assert {line["kind"] for line in lines} == {
        "formula",
        "extrapolated",
        "formula, never measured",
    }
    assert all(line["kind"] != "extrapolated" for line in lines if "H200" in line["variant"])


def planned(*arguments: str) -> dict[str, dict]:
    """The lines of a plan, by their variant."""
    return {line["variant"]: line for line in plan(parse_benchmark(["plan", *arguments]))}


def test_a_plan_trains_twice_once_to_measure_and_once_to_serve():
    lines = planned("--users", "1e6", "--workers", "4")
    training = lines["training by 4 x H200"]
    assert training["refit_hours"] == pytest.approx(
        training["pretrain_hours"] + training["finetune_hours"], abs=0.002
    )
    assert training["wall_h"] == pytest.approx(training["refit_hours"] * 2 / 4, abs=0.002)


def test_a_plan_expects_logits_that_stay_on_the_chip_to_be_cheaper():
    lines = planned("--items", "1e6", "--decode", "single").items()
    hours = {variant: line["hours"] for variant, line in lines if "users_per_s" in line}
    assert all(hours[f"{gpu}, fused"] < hours[f"{gpu}, shortlist"] for gpu in GPUS)


@pytest.mark.ray
def test_prepare_stands_beside_two_rivals():
    lines = lines_of("prepare", "--rows", "3000", "--users", "40", "--rounds", "1")
    assert [line["variant"] for line in lines] == ["prepare", "duckdb", "polars", "object store"]
    assert lines[-1]["gib"] > 0
    assert lines[-1]["spilled_mib"] >= 0
    assert all(line["rows_per_s"] > 0 for line in lines[:-1])


def test_rivals_make_the_histories_and_the_holdout_of_an_obvious_way(tmp_path: Path):
    log = toy_log()  # strings and seconds; with doubles
    log = pd.concat([log, log.head(50)]).sample(frac=1, random_state=1)
    log.to_parquet(tmp_path / "log.parquet")
    split = log.timestamp.quantile(0.9, interpolation="nearest")
    log = log.drop_duplicates()
    before = log[log.timestamp < split]
    after = log[log.timestamp >= split]
    known = after.user_id.isin(before.user_id) & after.item_id.isin(before.item_id)
    first = after[known].groupby("user_id").timestamp.min().to_dict()
    for rival in (prepare_with_duckdb, prepare_with_polars):
        (tmp_path / rival.__name__).mkdir()
        rival(str(tmp_path / "log.parquet"), str(tmp_path / rival.__name__), quantile=0.9)
        vocab, sequences, holdout = (
            pd.read_parquet(tmp_path / rival.__name__ / f"{name}.parquet")
            for name in ("vocab", "sequences", "holdout")
        )
        assert vocab.set_index("item_id")["count"].to_dict() == log.item_id.value_counts().to_dict()
        assert sequences.num_before.sum() == len(before)
        for row in sequences.to_dict("records"):
            mine = log[log.user_id == row["user_id"]]
            assert list(row["times"]) == sorted(mine.timestamp)
            assert sorted(vocab.item_id[list(row["items"])]) == sorted(mine.item_id)
        assert holdout.set_index("user_id").timestamp.to_dict() == first
