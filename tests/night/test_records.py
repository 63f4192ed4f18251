"""The records of stages: their keys, and those of other versions."""

from pathlib import Path

import pytest

from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import STAGES
from jobs.night.records import (
    Evaluated,
    Prepared,
    Pretrained,
    Published,
    Record,
    Scored,
    Trained,
    counts_of,
)

START = {"ds": "2024-02-28", "run_id": "r", "checkpoint": "checkpoint", "trained_before": 5}
REUSED = {"ds": "2024-02-28", "run_id": "r", "trained_before": 5, "age_days": 2}
LEAST = {"counts": {"rows": 1}, "num_buckets": 2, "num_items": 3, "split_time": 4, "second_cut": 5}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(Storage.of(str(tmp_path)), "2024-03-01", "r", "i", "a")


@pytest.mark.parametrize(
    ("record", "keys"),
    [
        (Prepared.from_json(LEAST), {*LEAST, "time_quantiles", "inputs", "left_out", "rules"}),
        (Trained(counts={}, history={}), {"counts", "history"}),
        (Trained(counts={}, reused=REUSED), {"counts", "reused"}),
        (Pretrained(counts={}, history={}), {"counts", "history", "started_from"}),
        (Pretrained(counts={}, reused=REUSED), {"counts", "reused"}),
        (Evaluated(counts={}, popular_window=3), {"counts", "popular_window"}),
        (Scored(counts={}, seconds=1.5), {"counts", "seconds"}),
        (Published(counts={}, published="here"), {"counts", "published"}),
    ],
)
def test_a_record_has_the_keys_that_readers_know(record: Record, keys: set[str]):
    assert set(record.to_json()) == keys


def test_a_training_from_scratch_says_so():
    assert Pretrained(counts={}, history={}).to_json()["started_from"] is None


def test_a_record_comes_back_from_the_run(run: RunDir):
    starts = {"checkpoint": START}
    made = Pretrained.from_json({"counts": {"steps": 7}, "started_from": starts, "seconds": 2.0})
    run.finish("pretrain", made.to_json())
    assert Pretrained.of(run) == Pretrained.if_done(run) == made
    assert counts_of(run, "pretrain") == {"steps": 7}


def test_keys_of_other_versions_are_left_out_and_missing_ones_have_defaults(run: RunDir):
    run.finish("prepare", {**LEAST, "later": 1})
    prepared = Prepared.of(run)
    assert (prepared.newest, prepared.inputs, prepared.rules) == (None, (), {})
    assert prepared.num_items == 3


def test_a_stage_that_is_not_done_has_no_record(run: RunDir):
    assert Evaluated.if_done(run) is None
    with pytest.raises(ConfigError, match="stage evaluate of run r for 2024-03-01 is not done"):
        Evaluated.of(run)


def test_every_record_of_one_stage_names_it():
    named = [kind.stage for kind in (Prepared, Pretrained, Evaluated, Scored, Published)]
    assert set(named) == set(STAGES) - {"finetune", "refit"}
