"""The benchmark prints what other programs read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
