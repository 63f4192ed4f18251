"""The benchmark prints what other programs read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffsasrec.explore import Exploration
from diffsasrec.recommend import Decoding
from jobs.rivals import rows_scored

ROOT = Path(__file__).parent.parent
TINY = ["--users", "8", "--items", "50", "--max-len", "12", "--hidden", "8", "--rounds", "1"]


def lines_of(*arguments: str) -> list[dict]:
    command = [sys.executable, "-m", "jobs.benchmark", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


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


def test_train_prints_sequences_per_second():
    lines = lines_of("train", *TINY, "--batch-size", "4", "--lengths", "full")
    assert [line["variant"] for line in lines] == ["step", "encoder alone", "plain"]
    assert all(line["sequences_per_s"] > 0 for line in lines)


def test_the_states_of_the_exact_way_are_counted_step_by_step():
    nowhere = Exploration(num_items=0)
    assert rows_scored(Decoding(10, "single")) == 1
    assert rows_scored(Decoding(10, "autoregressive")) == 10
    # the next item, then ten open slots and one fewer in every step
    assert rows_scored(Decoding(10, "multi", steps=10, exploration=nowhere)) == 1 + 55
    # exploring has the last slot and step, and ranks all items once more for its choices
    assert rows_scored(Decoding(10, "multi", steps=10)) == 1 + 54 + 1
    assert rows_scored(Decoding(10, "multi", steps=2)) == 1 + 10 + 1


def test_a_plan_says_of_every_line_whether_it_was_measured():
    lines = lines_of("plan", "--users", "1e6", "--items", "1e4")
    assert {line["kind"] for line in lines} == {
        "formula",
        "extrapolated",
        "formula, never measured",
    }
    assert all(line["kind"] != "extrapolated" for line in lines if "H200" in line["variant"])
