"""Nights that train nothing: whose weights they take, and what they say of them."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from trained_nights import ABC, chosen, config_of, publish

from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import Storage
from diffsasrec.formats.listing import InputFile
from diffsasrec.lake.chain import append_rollback, read_chain, standing
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.times import DAY, microseconds
from jobs.runner.identity import open_run, source_digest
from jobs.training.weight_reuse import (
    Choice,
    age_days,
    differences,
    newest_reusable,
    published_choices,
    recipe,
)


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


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


def test_weights_of_other_types_of_events_do_not_serve():
    types = ("events.type_column=kind", "events.types={buy: {}, view: {target: false}}")
    mine = recipe(config_of(*types).resolved())
    theirs = recipe(config_of(*types, "events.types.view.weight=0.1").resolved())
    assert differences(mine, theirs) == ["events.types.view.weight"]


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
