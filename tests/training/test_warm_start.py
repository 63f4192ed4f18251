"""Starting a training from an earlier night: whose weights, which rows, and never past the cut."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from published import Published

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage, sha256, to_json
from diffsasrec.lake.chain import append_entry
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.checkpoint import load_checkpoint, save_checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.schema import sequences_schema, vocab_schema
from diffsasrec.times import DAY, microseconds
from diffsasrec.train.phases import Job
from diffsasrec.train.ranks import Worker
from diffsasrec.train.trainer import train_phases
from jobs.faults.rig.nights import Nights, toy_log
from jobs.night.records import Prepared
from jobs.training.carry_over import carried_over, same_shape
from jobs.training.recipe import finetune_phases, pretrain_phases, refit_phases
from jobs.training.warm_start import choose_starts, newest_start, start_path

LEAST = "lake: lake\nevents: {path: log.parquet}\nmodel: {hidden_size: 8, num_blocks: 1}\n"
WARM = "train.warm_start=true"


def config_of(*sets: str) -> Config:
    return load_config(LEAST, [WARM, "pretrain.batch_size=4", *sets])


def vocab_of(*ids: Any) -> pa.Table:
    return pa.table({"item_id": list(ids), "index": pa.array(range(len(ids)), pa.int32())})


def at(day: int, month: int = 3) -> int:
    return microseconds(f"2024-{month:02d}-{day:02d}")


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


def publish(
    lake: Storage, day: int, *sets: str, measured_before: int | None, ids: Any = ("a", "b", "c")
) -> None:
    """A night of March that trained: its weights that serve, and the measured ones of another."""
    ds, model = f"2024-03-{day:02d}", config_of(*sets).model
    run = RunDir(lake, ds=ds, run_id="r", identity="i", attempt=f"a{day}")
    times = {"checkpoint": at(day)}
    times |= {} if measured_before is None else {"checkpoint_measured": measured_before}
    for seed, (name, trained_before) in enumerate(times.items()):
        save_checkpoint(
            run.storage.sub(name),
            weights=SequenceModel(model, 3, seed=100 * day + seed).state_dict(),
            config=model,
            vocab=vocab_of(*ids),
            counts=np.array([3, 2, 1]),
            trained_before=trained_before,
        )
    manifest = {"config": config_of(*sets).resolved(), "trained_before": times}
    run.storage.write_bytes("manifest.json", to_json(manifest))
    append_entry(lake, run, sha256(to_json(manifest)))


def tonight(lake: Storage, day: int = 20, *, ids: Any = ("a", "b", "c", "d")) -> RunDir:
    """A prepared run: 9 users who walk through four items, one a day up to the run date."""
    run = RunDir(lake, ds=f"2024-03-{day:02d}", run_id="mine", identity="i", attempt="a")
    item_type = pa.array(ids).type
    items = {"item_id": ids, "index": range(4), "count": [9] * 4, "count_before": [8] * 4}
    items["first_time"] = [0] * 4
    run.storage.write_table("vocab/part-00000.parquet", pa.table(items, vocab_schema(item_type)))
    rows = [
        {
            "user_id": user,
            "items": [(user + n) % 4 for n in range(12)],
            "times": [at(day) - (12 - n) * DAY for n in range(12)],
            "num_before": 8,
            "holdout": 8,
        }
        for user in range(9)
    ]
    table = pa.Table.from_pylist(rows, sequences_schema(pa.int64()))
    run.storage.write_table("sequences/part-00000.parquet", table)
    return run


PREPARED = Prepared(counts={}, num_buckets=1, num_items=4, split_time=at(16), second_cut=at(12))


def named(start: Any) -> tuple[str, str] | None:
    return start and (start["ds"][-2:], start["checkpoint"])


# --- rows ---


def test_rows_follow_their_items_and_new_items_start_as_from_scratch(lake: Storage):
    publish(lake, 1, measured_before=None)
    start = load_checkpoint(lake.sub("runs/ds=2024-03-01/r/checkpoint"))
    weights = carried_over(start, vocab_of("new", "c", "a"), config=start.model.config, seed=5)
    theirs = start.model.item_weight.detach()  # of a, b, c
    scratch = SequenceModel(start.model.config, 3, seed=5).item_weight.detach()
    assert torch.equal(weights["items.weight"], torch.stack([scratch[0], theirs[2], theirs[0]]))
    others = start.model.state_dict().keys() - {"items.weight"}
    assert all(torch.equal(weights[n], start.model.state_dict()[n]) for n in others)
    SequenceModel(start.model.config, 3).load_state_dict(weights)


@pytest.mark.parametrize(
    ("theirs", "mine", "nearest"),
    [(0, 100, True), (100, 0, True), (100, 7, True), (100, 100, False)],
)
def test_a_copy_score_of_another_shape_starts_fresh_and_all_else_is_taken(
    lake: Storage, caplog, theirs, mine, nearest
):
    publish(lake, 1, f"model.similar_items={theirs}", measured_before=None)
    start = load_checkpoint(lake.sub("runs/ds=2024-03-01/r/checkpoint"))
    assert start.model.copy_score is not None
    torch.nn.init.ones_(start.model.copy_score.out.weight)
    keys = f"model.similar_items={mine}", f"model.nearest_users={json.dumps(nearest)}"
    config = config_of(*keys).model
    with caplog.at_level("INFO"):
        weights = carried_over(start, vocab_of("a", "b", "c"), config=config, seed=5)
    SequenceModel(config, 3).load_state_dict(weights)
    scratch, known = SequenceModel(config, 3, seed=5).state_dict(), start.model.state_dict()
    fits = theirs > 0 and mine > 0 and nearest
    for name, tensor in weights.items():
        is_fresh = name.startswith(("copy_score.", "ranker.")) and not fits
        assert torch.equal(tensor, (scratch if is_fresh else known)[name]), name
    assert ("the start has no copy score of this shape" in caplog.text) != fits


def test_weights_of_before_similar_items_may_be_a_start(lake: Storage):
    publish(lake, 19, "model.similar_items=0", measured_before=at(15))
    run = tonight(lake)
    starts = choose_starts(config_of("model.similar_items=5"), run, PREPARED)
    assert starts is not None and named(starts["checkpoint"]) == ("19", "checkpoint")
    written = load_checkpoint(run.storage.sub(start_path(starts, "checkpoint")))
    assert written.model.config.similar_items == 5


def test_only_dropout_and_the_scores_of_pairs_are_no_matter_of_shape():
    model = config_of().resolved()["model"]
    assert same_shape(model, {**model, "dropout": 0.9})
    for key in ("similar_items", "nearest_users", "ranker"):
        assert same_shape({n: v for n, v in model.items() if n != key}, model)
    for key, other in (("hidden_size", 16), ("attention", "bidirectional"), ("later key", 1)):
        assert not same_shape(model, {**model, key: other})


# --- whose weights ---


def test_the_newest_weights_up_to_the_limit_are_the_start(lake: Storage):
    publish(lake, 1, measured_before=None)
    publish(lake, 18, measured_before=at(14))
    publish(lake, 19, measured_before=at(15))
    run, model = tonight(lake), config_of().model
    assert named(newest_start(run, model, at(20))) == ("19", "checkpoint")
    assert named(newest_start(run, model, at(16))) == ("19", "checkpoint_measured")
    assert named(newest_start(run, model, at(15))) == ("19", "checkpoint_measured")
    # never weights that saw something at or after the cut
    assert named(newest_start(run, model, at(15) - 1)) == ("18", "checkpoint_measured")
    assert named(newest_start(run, model, at(14) - 1)) == ("01", "checkpoint")
    assert newest_start(run, model, at(1) - 1) is None


def test_weights_of_another_shape_or_damaged_ones_are_passed_over(lake: Storage):
    publish(lake, 17, measured_before=None)
    publish(lake, 18, measured_before=None)
    publish(lake, 19, "model.hidden_size=16", measured_before=None)
    run, model = tonight(lake), config_of().model
    assert named(newest_start(run, model, at(20))) == ("18", "checkpoint")
    lake.write_bytes("runs/ds=2024-03-18/r/checkpoint/model.safetensors", b"damaged")
    assert named(newest_start(run, model, at(20))) == ("17", "checkpoint")
    assert named(newest_start(run, config_of("model.hidden_size=16").model, at(20))) == (
        "19",
        "checkpoint",
    )


def test_yesterdays_measured_and_served_weights_start_tonights(lake: Storage):
    publish(lake, 19, measured_before=at(15))
    run = tonight(lake)
    starts = choose_starts(config_of(), run, PREPARED)
    assert starts is not None and {name: named(s) for name, s in starts.items()} == {
        "checkpoint_measured": ("19", "checkpoint_measured"),
        "checkpoint": ("19", "checkpoint"),
    }
    assert starts["checkpoint_measured"]["trained_before"] == at(15)


def test_where_the_measured_weights_have_no_start_those_that_serve_have_none(lake: Storage):
    publish(lake, 19, measured_before=None)  # it is of after the split
    run = tonight(lake)
    assert choose_starts(config_of(), run, PREPARED) is None
    *_, pretrain = pretrain_phases(config_of(), PREPARED, None)
    refit = refit_phases(config_of(), run, None)
    assert pretrain.init_from == refit[0].init_from == ""


@pytest.mark.parametrize(
    ("theirs", "mine", "known"),
    [
        ((7, 8, 9), ("7", "9", "09", "x"), [0, 2, -1, -1]),
        (("7", "08", "9"), (7, 8, 9, 10), [0, -1, 2, -1]),
        ((7, 8, 9), ("a", "b", "c", "007"), None),
        (("a", "b", "c"), (7, 8, 9, 10), None),
        (("a", "b", "c"), ("e", "f", "g", "h"), None),  # the log of another shop
    ],
)
def test_a_start_keeps_the_rows_of_ids_of_another_type_and_one_without_such_is_none(
    lake: Storage, caplog, theirs: Any, mine: Any, known: Any
):
    publish(lake, 19, measured_before=at(15), ids=theirs)
    run = tonight(lake, ids=mine)
    starts = choose_starts(config_of(), run, PREPARED)
    types = [pa.array(ids).type for ids in (theirs, mine)]
    assert f"has item ids of type {types[0]}, tonight they are {types[1]}" in caplog.text
    assert (starts is None) == (known is None)
    if starts is not None:
        rows = load_checkpoint(run.storage.sub(start_path(starts, "checkpoint"))).model.item_weight
        old = load_checkpoint(lake.sub("runs/ds=2024-03-19/r/checkpoint")).model.item_weight
        for row, index in enumerate(known):
            assert torch.equal(rows[row], old[index]) == (index >= 0)
    else:
        assert "it knows 0 of tonight's 4 items: no start from there" in caplog.text


def test_without_the_key_everything_starts_from_scratch(lake: Storage):
    publish(lake, 19, measured_before=at(15))
    run = tonight(lake)
    assert choose_starts(config_of("train.warm_start=false"), run, PREPARED) is None
    assert run.storage.list("state") == []


def test_a_retry_starts_where_the_first_attempt_did(lake: Storage):
    publish(lake, 18, measured_before=at(14))
    run = tonight(lake)
    first = choose_starts(config_of(), run, PREPARED)
    publish(lake, 19, measured_before=at(15))
    lake.delete(["runs/ds=2024-03-18/r/manifest.json"])
    assert choose_starts(config_of(), run, PREPARED) == first
    lake.delete([info.path for info in lake.list("runs/ds=2024-03-18")])
    assert choose_starts(config_of(), run, PREPARED) == first  # its copy lies in the run
    copy = run.storage.sub(start_path(first, "checkpoint"))
    copy.delete(["config.json"])
    with pytest.raises(InfrastructureError, match=r"is gone .* run the same command again"):
        choose_starts(config_of(), run, PREPARED)


@pytest.mark.night
def test_a_warm_night_over_a_log_with_other_ids_begins_from_scratch(
    published: Published, nights: Nights, tmp_path: Path
):
    config, _ = published.copied(tmp_path / "lake")
    events = toy_log()
    events["item_id"] = events.item_id.str.removeprefix("item-").astype(int)
    events.to_parquet(tmp_path / "events.parquet")
    config["train"] = {"num_workers": 1, "warm_start": True}
    config["events"] = {**config["events"], "path": str(tmp_path / "events.parquet")}
    stages = ["--run-id", "other-ids", "--stages", "prepare,pretrain"]
    night = nights.start(config, *stages, date="2024-03-02")
    night.wait_for_line("pretrain: from scratch")  # which other nights go on with
    night.kill()
    log = night.log_path.read_text()
    assert "has item ids of type string, tonight they are int64; it knows 0 of" in log


# --- how it is trained from there ---


def test_a_warm_start_takes_its_own_number_of_epochs(lake: Storage):
    publish(lake, 19, measured_before=at(15))
    run = tonight(lake)
    # else they are chosen, and the second cut trained to
    given = "finetune.state_weight=0.5", "finetune.ranker_weight=0"
    config = config_of("train.warm_epochs=2", "pretrain.epochs=3", "finetune.epochs=1", *given)
    starts = choose_starts(config, run, PREPARED)
    phases = [
        *pretrain_phases(config, PREPARED, starts),
        *finetune_phases(config, PREPARED, starts),
    ]
    assert [phase.settings.epochs for phase in phases] == [2, 1]
    scratch = [*pretrain_phases(config, PREPARED), *finetune_phases(config, PREPARED)]
    assert [phase.settings.epochs for phase in scratch] == [3, 1]
    # the refit takes as many as the measured weights did
    refit = refit_phases(config, run, starts)
    assert [phase.epochs_from for phase in refit] == ["pretrain", "finetune"]
    assert [phase.init_from for phase in refit] == [
        "state/warm/checkpoint",
        "state/refit-pretrain/checkpoint",
    ]


def trained(
    run: RunDir, config: Config, starts: Any, *, split_time: int = PREPARED.split_time
) -> torch.Tensor:
    """The item rows after pretraining to the split, a to d."""
    job = Job(
        run=run.storage,
        attempt=run.attempt,
        num_buckets=1,
        model=config.model,
        train=config.train,
        min_user_events=2,
        filter_seen=True,
        seed=0,
        time_quantiles=(at(8), at(20)),
    )
    phases = tuple(pretrain_phases(config, replace(PREPARED, split_time=split_time), starts))
    device = torch.device("cpu")
    train_phases(job, phases, worker=Worker(device, 0, 1), tell=lambda *_: None)
    return load_checkpoint(run.storage.sub("checkpoint_pretrained")).model.item_weight.detach()


def test_a_training_goes_on_from_its_start(lake: Storage):
    publish(lake, 19, measured_before=at(15))
    run = tonight(lake)
    config = config_of("train.warm_epochs=1", "pretrain.learning_rate=1e-6")
    starts = choose_starts(config, run, PREPARED)
    rows = trained(run, config, starts)
    theirs = load_checkpoint(lake.sub("runs/ds=2024-03-19/r/checkpoint_measured")).model.item_weight
    assert torch.allclose(rows[:3], theirs.detach(), atol=1e-4)  # d is new
    assert not torch.allclose(rows[:3], SequenceModel(config.model, 4).item_weight[:3], atol=1e-4)


def test_a_start_from_beyond_the_cut_ends_the_training(lake: Storage):
    # were the choice ever wrong, the training itself would hold the rule
    publish(lake, 19, measured_before=at(15))
    run = tonight(lake)
    starts = choose_starts(config_of(), run, PREPARED)
    with pytest.raises(AssertionError):
        trained(run, config_of(), starts, split_time=at(15) - 1)


# --- the keys ---


def test_a_search_for_epochs_does_not_go_with_a_warm_start():
    for stage in ("pretrain", "finetune"):
        with pytest.raises(ConfigError, match=rf"{stage}\.patience=2 .* train\.warm_epochs"):
            config_of(f"{stage}.patience=2")


def test_warm_epochs_without_a_warm_start_are_refused():
    with pytest.raises(ConfigError, match=r"train\.warm_epochs=1 decides nothing"):
        load_config(LEAST, ["train.warm_epochs=1"])
