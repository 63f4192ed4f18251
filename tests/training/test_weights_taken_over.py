"""What a run makes of the weights of an earlier night."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from trained_nights import METRICS, config_of, publish

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.errors import InfrastructureError
from diffsasrec.evaluate.counter_settings import CounterSettings
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.run_dir import Reused, RunDir
from diffsasrec.model.checkpoint import load_checkpoint
from diffsasrec.schema import sequences_schema
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.score.rule_ids import Rules
from diffsasrec.times import microseconds
from jobs.faults.rig.nights import digests
from jobs.runs.published_runs import metrics_of
from jobs.score import count_unknown_events
from jobs.training.weight_reuse import (
    cite,
    newest_reusable,
    take_over,
)


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


def taking(
    lake: Storage, day: int, item_type: Callable[[], pa.DataType] = pa.string
) -> tuple[RunDir, Reused]:
    ds = f"2024-03-{day:02d}"
    reused = newest_reusable(config_of(), lake, ds, source="code", item_type=item_type)
    assert reused is not None
    return RunDir(lake, ds=ds, run_id="mine", identity="i", attempt="a", reused=reused), reused


def test_the_checkpoint_is_copied_whole_and_its_own_date_stays(lake: Storage, tmp_path: Path):
    publish(lake, 1)
    run, reused = taking(lake, 3)
    record = take_over(run, reused, pa.string())
    source, copy = (Path(s) / "checkpoint" for s in (tmp_path / reused.source, run.storage.root))
    assert digests(copy) == digests(source) != {}
    assert json.loads((copy / "config.json").read_text())["trained_before"] == microseconds(
        reused.ds
    )
    assert record.reused == {
        "ds": "2024-03-01",
        "run_id": "r",
        "trained_before": microseconds("2024-03-01"),
        "age_days": 2,
    }


def test_the_copy_has_ids_of_tonights_type_and_so_have_its_lists(lake: Storage):
    publish(lake, 1, items=pa.array(["7", "8", "9"]))
    run, reused = taking(lake, 3, pa.int32)
    take_over(run, reused, pa.int32())
    source, copy = (s.sub("checkpoint") for s in (lake.sub(reused.source), run.storage))
    old, new = load_checkpoint(source), load_checkpoint(copy)
    assert new.vocab["item_id"].combine_chunks() == pa.array([7, 8, 9], pa.int32())
    assert new.vocab["count"] == old.vocab["count"] and new.model_version == old.model_version
    weights = "model.safetensors"
    assert copy.read_bytes(weights) == source.read_bytes(weights)


def test_a_changed_file_is_not_taken_over(lake: Storage):
    publish(lake, 1)
    run, reused = taking(lake, 3)
    lake.write_bytes(f"{reused.source}/checkpoint/model.safetensors", b"other")
    with pytest.raises(InfrastructureError, match=r"model\.safetensors is not the file"):
        take_over(run, reused, pa.string())
    assert not run.storage.exists("checkpoint/config.json")


def test_a_source_that_was_pruned_meanwhile_is_named_with_the_remedy(lake: Storage):
    publish(lake, 1)
    run, reused = taking(lake, 3)
    lake.delete([f"{reused.source}/manifest.json"])
    with pytest.raises(InfrastructureError, match="run the same command again"):
        take_over(run, reused, pa.string())


def test_the_figures_are_those_of_the_night_that_trained(lake: Storage):
    publish(lake, 1)
    first = {"ds": "2024-03-01", "run_id": "r", "trained_before": microseconds("2024-03-01")}
    publish(lake, 2, cited={**first, "age_days": 1})
    run, reused = taking(lake, 3)
    assert reused.source == "runs/ds=2024-03-02/r"  # which has itself measured nothing
    record = cite(run, reused)
    assert (record.metrics, record.popular_window) == (METRICS, 1)  # six hours
    assert record.reused is not None
    assert record.counts == {} and record.reused["ds"] == "2024-03-01"
    assert not run.storage.exists("metrics.json")


def test_a_counter_that_was_better_than_the_weights_makes_the_lists_as_long_as_they_serve(
    lake: Storage,
):
    publish(lake, 1)
    counter = {"name": "recent popular", "days": 7.0}
    metrics = {**METRICS, "counter": counter}
    lake.write_bytes("runs/ds=2024-03-01/r/metrics.json", to_json(metrics))
    record = cite(*taking(lake, 3))
    assert record.counter_settings == CounterSettings(name="recent popular", days=7.0)


def test_metrics_are_a_runs_own_or_cited(lake: Storage):
    publish(lake, 1)
    cited = {"ds": "2024-03-01", "run_id": "r", "trained_before": 5, "age_days": 1}
    publish(lake, 2, cited=cited)
    assert metrics_of(lake.sub("runs/ds=2024-03-01/r")) == (METRICS, None)
    metrics, source = metrics_of(lake.sub("runs/ds=2024-03-02/r"))
    assert metrics == METRICS and source is not None and source["run_id"] == "r"
    with pytest.raises(FileNotFoundError):
        metrics_of(lake.sub("runs/ds=2024-03-03/r"))


def test_events_of_unknown_items_are_counted_for_the_users_that_are_scored(lake: Storage):
    rows = [
        {"user_id": 1, "items": [0, 2, 2], "times": [1, 2, 3], "num_before": 0, "holdout": None},
        {"user_id": 2, "items": [2, 1], "times": [7, 9], "num_before": 0, "holdout": None},
    ]
    table = pa.Table.from_pylist(rows, sequences_schema(pa.int64()))
    lake.write_table("sequences/part-00000.parquet", table)
    known = np.array([True, True, False])
    for active_since, expected in ((None, 3), (5, 1), (10, 0)):
        scoring = Scoring(
            run=lake,
            checkpoint="checkpoint",
            output="recommendations",
            users="all",
            query_time=10,
            state="state/score",
            active_since=active_since,
            rules=Rules(),
            decoding=DecodingConfig(k=1),
        )
        assert count_unknown_events(0, scoring, known) == expected
