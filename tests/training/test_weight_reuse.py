"""Nights that train nothing: whose weights they take, and what they say of them."""

import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.decode.decoding import Decoding
from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import Storage, sha256, to_json
from diffsasrec.inputs.log_files import InputFile
from diffsasrec.lake.chain import append_entry, append_rollback, read_chain, standing
from diffsasrec.lake.run_dir import Reused, RunDir
from diffsasrec.model.checkpoint import load_checkpoint, save_checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.schema import sequences_schema
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.score.rules import Rules
from diffsasrec.times import DAY, microseconds
from jobs.faults.rig.nights import digests
from jobs.night.published_runs import metrics_of
from jobs.runner.identity import open_run, source_digest
from jobs.score import count_unknown_events
from jobs.training.weight_reuse import (
    Choice,
    age_days,
    cite,
    newest_reusable,
    published_choices,
    recipe,
    take_over,
)

LEAST = "lake: lake\nevents: {path: log.parquet}\nmodel: {hidden_size: 8, num_blocks: 1}\n"
WEEKLY = "train.every_days=7"
METRICS = {"model": {"NDCG@10": 0.25, "n": 9}, "baselines": {}, "recent_popular_days": 0.25}
ABC = pa.array(["a", "b", "c"])
FILES = ("model.safetensors", "vocab.parquet", "config.json")


def config_of(*sets: str) -> Config:
    return load_config(LEAST, [WEEKLY, *sets])


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


def publish(
    lake: Storage,
    day: int,
    *sets: str,
    run_id: str = "r",
    cited: Any = None,
    source: str = "code",
    items: pa.Array = ABC,
    content: Mapping[str, Any] | None = None,
) -> None:
    """What a published night of March 2024 leaves: a checkpoint, metrics, manifest, chain entry.

    `cited`: the run whose weights it took over, with the time to which they were trained.
    """
    ds, config = f"2024-03-{day:02d}", config_of(*sets)
    run = RunDir(
        lake, ds=ds, run_id=run_id, identity=f"identity of {day}", attempt=f"{run_id}-{day}"
    )
    trained_before = microseconds(ds) if cited is None else cited["trained_before"]
    save_checkpoint(
        run.storage.sub("checkpoint"),
        weights=SequenceModel(config.model, 3, seed=day).state_dict(),
        config=config.model,
        vocab=pa.table({"item_id": items, "index": pa.array(range(3), pa.int32())}),
        counts=np.array([3, 2, 1]),
        trained_before=trained_before,
    )
    if cited is None:
        run.storage.write_bytes("metrics.json", to_json(METRICS))
    manifest = {
        "identity": run.identity,
        "config": config.resolved(),
        "source_sha256": source,
        "reused": cited and {**cited, "metrics": METRICS},
        "files": [
            {"path": f"checkpoint/{n}", "sha256": sha256(run.storage.read_bytes(f"checkpoint/{n}"))}
            for n in FILES
        ],
        **(content or {}),
    }
    run.storage.write_bytes("manifest.json", to_json(manifest))
    append_entry(lake, run, sha256(to_json(manifest)))


def chosen(
    lake: Storage,
    day: int,
    *sets: str,
    source: str = "code",
    item_type: Callable[[], pa.DataType] = pa.string,
) -> tuple[str, int] | None:
    """The date whose training serves a day of March, and the age of the weights."""
    ds = f"2024-03-{day:02d}"
    reused = newest_reusable(config_of(*sets), lake, ds, source=source, item_type=item_type)
    return None if reused is None else (reused.ds, reused.age_days)


# --- whose weights ---


def test_weights_serve_until_they_are_every_days_old(lake: Storage):
    publish(lake, 1)
    assert chosen(lake, 2) == ("2024-03-01", 1)
    assert chosen(lake, 7) == ("2024-03-01", 6)
    assert chosen(lake, 8) is None


def test_a_night_takes_nothing_from_itself_or_from_later_nights(lake: Storage):
    publish(lake, 5)
    assert chosen(lake, 5) is None and chosen(lake, 4) is None


def test_the_newest_weights_of_the_same_recipe_serve(lake: Storage):
    publish(lake, 1)
    publish(lake, 3)
    publish(lake, 4, "pretrain.epochs=9")
    assert chosen(lake, 5) == ("2024-03-03", 2)
    assert chosen(lake, 5, "pretrain.epochs=9") == ("2024-03-04", 1)


def test_weights_that_were_taken_over_age_from_their_own_training(lake: Storage):
    publish(lake, 1)
    first = {"ds": "2024-03-01", "run_id": "r", "trained_before": microseconds("2024-03-01")}
    publish(lake, 4, cited={**first, "age_days": 3})
    assert chosen(lake, 6) == ("2024-03-01", 5)
    assert chosen(lake, 8) is None  # although what they served is only four days ago
    reused = newest_reusable(config_of(), lake, "2024-03-06", source="code", item_type=pa.string)
    assert reused is not None and reused.source == "runs/ds=2024-03-04/r"


def test_weights_of_other_code_do_not_serve(lake: Storage):
    publish(lake, 1)
    assert chosen(lake, 2, source="other code") is None


@pytest.mark.parametrize(
    "key",
    [
        "seed=1",
        "model.dropout=0.5",
        "pretrain.learning_rate=0.1",
        "finetune.query_times=3",
        "train.num_workers=1",
        "train.num_negatives=7",
        "split.quantile=0.9",
        "events.path=other.parquet",
        "events.item_column=sku",
        "score.filter_seen=false",
        "score.decode=multi",
        "gate.floors={NDCG@10: 0.5}",
    ],
)
def test_what_weights_their_figures_and_their_judgement_depend_on_is_of_the_recipe(key: str):
    assert recipe(config_of(key).resolved()) != recipe(config_of().resolved())


@pytest.mark.parametrize(
    "key",
    [
        "lake=elsewhere",
        "train.every_days=3",
        "train.max_failures=9",
        "pretrain.checkpoint_every_steps=7",
        "vocab.previous_path=vocab",
        "items.path=items.csv",
        "score.deny_path=deny.csv",
        "score.rest_nights=2",
        "score.active_days=30",
        "score.num_actors=9",
        "publish.grace=0",
    ],
)
def test_the_rest_is_not_of_the_recipe(key: str):
    assert recipe(config_of(key).resolved()) == recipe(config_of().resolved())


def test_a_pruned_run_is_passed_over(lake: Storage):
    publish(lake, 1)
    publish(lake, 2)
    lake.delete(["runs/ds=2024-03-02/r/manifest.json"])
    assert chosen(lake, 3) == ("2024-03-01", 2)


def test_a_manifest_that_is_not_the_published_one_is_refused(lake: Storage):
    publish(lake, 1)
    lake.write_bytes("runs/ds=2024-03-01/r/manifest.json", b"{}")
    with pytest.raises(InfrastructureError, match="changed after publishing"):
        chosen(lake, 2)


def test_what_a_rollback_went_behind_does_not_serve(lake: Storage):
    for day in (1, 2, 3):
        publish(lake, day)
    append_rollback(lake, 1, attempt="back")
    assert chosen(lake, 4) == ("2024-03-01", 3)
    publish(lake, 4)
    assert chosen(lake, 5) == ("2024-03-04", 1)
    assert [entry.ds for entry in standing(read_chain(lake), "2024-03-05")] == [
        "2024-03-04",
        "2024-03-01",
    ]


def test_publishing_a_night_does_not_change_what_it_may_take(lake: Storage):
    for day in (1, 2, 3):
        publish(lake, day)
    append_rollback(lake, 1, attempt="back")
    before = standing(read_chain(lake), "2024-03-04")
    publish(lake, 4)
    assert standing(read_chain(lake), "2024-03-04") == before


def test_a_published_run_tells_what_it_has_chosen(lake: Storage):
    publish(lake, 1)
    cited = {"ds": "2024-03-01", "run_id": "r", "trained_before": 5, "age_days": 1}
    publish(lake, 2, cited=cited)
    assert list(published_choices(lake, "2024-03-01")) == [Choice(None, None, "identity of 1")]
    (choice,) = published_choices(lake, "2024-03-02")
    assert choice.reused is not None and choice.reused.cited() == cited
    assert choice.identity == "identity of 2"


def test_the_choice_is_part_of_a_runs_identity(lake: Storage):
    lake.write_table(
        "log.parquet", pa.table({n: ["a"] for n in ("user_id", "item_id", "timestamp")})
    )
    log = [InputFile(lake.url("log.parquet"), 1, "")]

    def opened(*sets: str) -> RunDir:
        config = config_of(f"lake={lake.root}", *sets)
        return open_run(config, date(2024, 3, 2), log, run_id=None)

    alone = opened()
    assert alone.reused is None
    publish(lake, 1, source=source_digest())
    first = opened()
    assert first.reused is not None and first.reused.ds == "2024-03-01"
    assert first.run_id != alone.run_id
    assert opened().run_id == first.run_id  # the same command is the same run
    assert opened("train.every_days=1").reused is None
    publish(lake, 1, run_id="again", source=source_digest())
    second = opened()
    assert second.reused is not None and second.reused.run_id == "again"
    assert second.run_id != first.run_id


def test_a_published_run_stays_what_it_is_when_what_it_took_is_gone_or_made_anew(lake: Storage):
    lake.write_table(
        "log.parquet", pa.table({n: ["a"] for n in ("user_id", "item_id", "timestamp")})
    )
    log = [InputFile(lake.url("log.parquet"), 1, "")]

    def opened(*sets: str) -> RunDir:
        config = config_of(f"lake={lake.root}", "score.rest_nights=1", *sets)
        return open_run(config, date(2024, 3, 2), log, run_id=None)

    publish(lake, 1, source=source_digest())
    first = opened()
    assert first.reused is not None and first.rested == ("runs/ds=2024-03-01/r",)
    chosen = {"identity": first.identity, "rested": first.rested}
    publish(lake, 2, run_id="mine", cited=first.reused.cited(), content=chosen)
    publish(lake, 1, run_id="anew", source=source_digest())
    lake.delete(["runs/ds=2024-03-01/r/manifest.json"])
    again = opened()
    assert (again.identity, again.rested) == (first.identity, first.rested)
    assert again.reused is not None and again.reused.cited() == first.reused.cited()
    other = opened("score.k=7")
    assert other.rested == ("runs/ds=2024-03-01/anew",)
    assert opened("train.every_days=1").reused is None


def test_an_age_is_in_days_rounded_up():
    assert age_days(microseconds("2024-03-01"), "2024-03-03") == 2
    assert age_days(microseconds("2024-03-01") + 1, "2024-03-03") == 2
    assert age_days(microseconds("2024-03-01") - 1, "2024-03-03") == 3
    assert microseconds("1970-01-02") == DAY


@pytest.mark.parametrize(
    ("items", "tonight", "serves"),
    [
        (pa.array([7, 8, 900], pa.int32()), pa.int64(), True),
        (pa.array([7, 8, 900], pa.int64()), pa.int16(), True),
        (pa.array([7, 8, 900], pa.int64()), pa.int8(), False),  # which has no 900
        (pa.array([7, 8, -9], pa.int64()), pa.uint64(), False),
        (pa.array(["7", "8", "-9"]), pa.int64(), True),
        (pa.array(["7", "8", "009"]), pa.int64(), False),
        (ABC, pa.int64(), False),
        (pa.array([7, 8, 9]), pa.string(), False),  # the log may spell them 007
    ],
)
def test_weights_serve_a_log_whose_ids_have_another_type_where_that_is_exact(
    lake: Storage, caplog, items: pa.Array, tonight: pa.DataType, serves: bool
):
    caplog.set_level("INFO")
    publish(lake, 1, items=items)
    assert (chosen(lake, 2, item_type=lambda: tonight) is not None) == serves
    why = f"do not serve: differs in the type of the item ids ({items.type}, tonight {tonight})"
    assert (why in caplog.text) != serves


def test_older_weights_of_tonights_type_serve_before_newer_ones_of_another(lake: Storage):
    publish(lake, 1, items=pa.array([7, 8, 9]))
    publish(lake, 2)
    assert chosen(lake, 3, item_type=pa.int64) == ("2024-03-01", 2)


# --- what a run makes of them ---


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
    assert (record.metrics, record.popular_window) == (METRICS, 0)  # six hours
    assert record.reused is not None
    assert record.counts == {} and record.reused["ds"] == "2024-03-01"
    assert not run.storage.exists("metrics.json")


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
            decoding=Decoding(k=1),
        )
        assert count_unknown_events(0, scoring, known) == expected
