"""Toy trainings on one worker and on two; users walk round a circle of eight items, one a day."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file, save
from trainings import (
    CUT,
    DIVERGED,
    DIVERGING,
    END,
    FINETUNE,
    MODELS,
    NUM_BUCKETS,
    NUM_ITEMS,
    PRETRAIN,
    SELECT,
    SIZES,
    make_job,
    result,
    train,
    trained_by_rows,
    weights,
    write_run,
)

from diffsasrec.config.training import FinetuneConfig, ModelConfig, TrainStageConfig
from diffsasrec.decode.decoding import Decoding
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import is_finite, load_checkpoint, parse_tensors, save_checkpoint
from diffsasrec.model.features import trend_counts, trend_features
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.schema import sequences_schema, vocab_schema
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import Flat
from diffsasrec.times import DAY
from diffsasrec.train.optimizer import count_warmup_steps
from diffsasrec.train.phases import Buckets, Job, taking_part
from diffsasrec.train.validation import validation_ranks


def with_dropout(model: ModelConfig) -> ModelConfig:
    return model.model_copy(update={"dropout": 0.3})


def trends_as_of(run: Storage, time: int) -> npt.NDArray[np.float32]:
    buckets, counts = Buckets(run, 1), 0
    for flat in map(buckets.load, range(NUM_BUCKETS)):
        events = (flat.items, flat.times, flat.offsets)
        counts += trend_counts(*events, query_times=np.array([time]), num_items=NUM_ITEMS)
    return trend_features(counts)[0]


class Death(Exception):
    pass


def die_at(step: int) -> Callable[..., None]:
    """Ends a training after `step` steps, before anything more is saved."""

    def tell(phase: str, taken: int, total: int, note: str) -> None:
        if taken == step:
            raise Death

    return tell


# --- one worker ---


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_loss_falls_and_the_next_item_of_a_circle_is_learned(tmp_path, model):
    run = write_run(tmp_path)
    settings = PRETRAIN.settings.model_copy(update={"epochs": 100})
    # what the age of a history means to a slot is learned in fine-tuning alone
    model = model.model_copy(update={"time_inputs": False})
    train(make_job(tmp_path, model), replace(PRETRAIN, settings=settings))
    losses = [epoch["loss"] for epoch in result(tmp_path, "pretrain")["history"]]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    recommender = Recommender(
        load_checkpoint(run.sub("checkpoint_pretrained")).model,
        moment=Moment(CUT, trends_as_of(run, CUT)),
        allowed=np.ones(NUM_ITEMS, bool),
        decoding=Decoding(1, filter_seen=False),
    )
    lists, _ = recommender.recommend(
        np.array([3, 4, 5, 6, 7, 0, 1, 2, 3], np.int32),
        np.r_[16:20, 15:20] * DAY,
        np.array([0, 4, 9]),
    )
    assert lists.tolist() == [[7], [4]]


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_loss_of_fine_tuning_falls(tmp_path, model, filter_seen):
    write_run(tmp_path)
    tuned = FINETUNE.settings.model_copy(update={"epochs": 12})
    job = make_job(tmp_path, model, filter_seen=filter_seen)
    train(job, PRETRAIN, replace(FINETUNE, settings=tuned))
    losses = [epoch["loss"] for epoch in result(tmp_path, "finetune")["history"]]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_the_same_training_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_run(tmp_path / name)
        job = make_job(tmp_path / name, with_dropout(MODELS["prefix"]), attempt=name)
        train(replace(job, seed=seed), PRETRAIN)
    assert weights(tmp_path / "one") == weights(tmp_path / "two") != weights(tmp_path / "three")


def test_a_result_says_what_was_trained(tmp_path):
    run = write_run(tmp_path)
    train(make_job(tmp_path, MODELS["causal"]), PRETRAIN, FINETUNE)
    pretrained, finetuned = result(tmp_path, "pretrain"), result(tmp_path, "finetune")
    assert (pretrained["examples"], pretrained["epochs"], pretrained["steps"]) == (13, 2, 8)
    assert [epoch["step"] for epoch in pretrained["history"]] == [4, 8]
    # batch times in the days 14, 16, 18; user n has its first event on day 18 - n
    assert finetuned["examples"] == 9 + 11 + 13
    checkpoint = load_checkpoint(run.sub("checkpoint"))
    assert checkpoint.trained_before == CUT and checkpoint.candidates().all()
    assert weights(tmp_path) != weights(tmp_path, "checkpoint")


RARE = NUM_ITEMS - 1


def write_rare_item(run: Storage, *, left: int) -> None:
    """Takes the last item out of the log, but for `left` events before the cut and all after it."""
    for bucket in range(NUM_BUCKETS):
        path = f"sequences/{bucket_name(bucket)}"
        rows = run.read_table(path).to_pylist()
        for row in rows:
            kept = []
            for item, time in zip(row["items"], row["times"], strict=True):
                is_rare = item == RARE and (time < CUT or not left)
                if not is_rare or left > 0:
                    kept.append((item, time))
                    left -= is_rare
            row["items"], row["times"] = map(list, zip(*kept, strict=True))
        run.write_table(path, pa.Table.from_pylist(rows, sequences_schema(pa.int64())))
    vocab = run.read_tables("vocab").to_pydict()
    vocab["count_before"][RARE] = 2
    run.write_table("vocab/part-00000.parquet", pa.table(vocab, vocab_schema(pa.string())))


@pytest.mark.parametrize("counted", [{CUT: "count_before"}, {}], ids=["known", "counted"])
def test_what_is_rare_before_the_end_of_a_phase_takes_no_part_in_it(tmp_path, counted):
    for name, left in (("rare", 2), ("without", 0)):
        write_rare_item(write_run(tmp_path / name), left=left)
    job = make_job(tmp_path / "rare", MODELS["prefix"])
    train(replace(job, min_item_count=3, counted=counted), SELECT, FINETUNE)
    train(make_job(tmp_path / "without", MODELS["prefix"]), SELECT, FINETUNE)
    for output in ("checkpoint_pretrained", "checkpoint"):
        for file in ("model.safetensors", "vocab.parquet"):
            one, other = (tmp_path / name / output / file for name in ("rare", "without"))
            assert one.read_bytes() == other.read_bytes()
    histories = [result(tmp_path / name, "pretrain")["history"] for name in ("rare", "without")]
    assert histories[0] == histories[1]  # with what was validated


def test_what_is_frequent_enough_before_the_end_of_a_phase_takes_part_in_it(tmp_path):
    run = write_run(tmp_path)
    write_rare_item(run, left=2)
    job = replace(make_job(tmp_path, MODELS["prefix"]), min_item_count=2)
    vocab = run.read_tables("vocab")
    for counted in ({CUT: "count_before"}, {}):
        known_V = taking_part(replace(job, counted=counted), PRETRAIN, vocab)
        assert known_V is not None and known_V.all()
    later = replace(PRETRAIN, trained_before=END)
    known_V = taking_part(
        replace(job, min_item_count=12, counted={CUT: "count_before"}), later, vocab
    )
    assert known_V is not None and known_V.tolist() == [True] * RARE + [False]


def test_where_no_item_is_rare_the_log_is_trained_on_as_it_is(tmp_path):
    run = write_run(tmp_path)
    job = make_job(tmp_path, MODELS["prefix"])
    assert taking_part(job, PRETRAIN, run.read_tables("vocab")) is None


def test_events_at_or_after_the_cut_are_not_trained_on(tmp_path):
    for name in ("whole", "cut"):
        write_run(tmp_path / name)
    sequences = Storage.of(str(tmp_path / "cut" / "sequences"))
    for bucket in range(NUM_BUCKETS):
        rows = sequences.read_table(bucket_name(bucket)).to_pylist()
        for row in rows:
            row |= {column: row[column][:-6] for column in ("items", "times")}
        table = pa.Table.from_pylist(rows, sequences_schema(pa.int64()))
        sequences.write_table(bucket_name(bucket), table)
    for name in ("whole", "cut"):
        train(make_job(tmp_path / name, MODELS["prefix"]), PRETRAIN, FINETUNE)
    for output in ("checkpoint_pretrained", "checkpoint"):
        for file in ("model.safetensors", "vocab.parquet"):
            whole, cut = (tmp_path / name / output / file for name in ("whole", "cut"))
            assert whole.read_bytes() == cut.read_bytes()


def test_every_step_has_masks_of_its_own(tmp_path):
    write_run(tmp_path)
    still = PRETRAIN.settings.model_copy(update={"epochs": 5, "learning_rate": 1e-12})
    job = replace(make_job(tmp_path, MODELS["prefix"]), min_user_events=14)  # of one user
    train(job, replace(PRETRAIN, settings=still))
    assert result(tmp_path, "pretrain")["examples"] == 1
    losses = [round(epoch["loss"], 4) for epoch in result(tmp_path, "pretrain")["history"]]
    assert len(set(losses)) > 1


def test_fine_tuning_for_no_epoch_gives_the_pretrained_weights(tmp_path):
    write_run(tmp_path)
    settings = FINETUNE.settings.model_copy(update={"epochs": 0})
    job = make_job(tmp_path, MODELS["causal"])
    train(job, PRETRAIN, replace(FINETUNE, settings=settings))
    assert weights(tmp_path, "checkpoint") == weights(tmp_path)
    untouched = result(tmp_path, "finetune")
    assert (untouched["epochs"], untouched["steps"], untouched["history"]) == (0, 0, [])
    # and so does a later one whose number of epochs it has selected
    again = replace(FINETUNE, name="again", output="again", epochs_from="finetune")
    train(job, again)
    assert weights(tmp_path, "again") == weights(tmp_path)


@pytest.mark.parametrize("rate", ["learning_rate", "counter_learning_rate"])
@pytest.mark.parametrize("name", ["causal", "prefix"])
def test_counters_and_pretrained_weights_have_learning_rates_of_their_own(tmp_path, name, rate):
    write_run(tmp_path)
    settings = FINETUNE.settings.model_copy(update={rate: 1e-12, "weight_decay": 0.0})
    train(make_job(tmp_path, MODELS[name]), PRETRAIN, replace(FINETUNE, settings=settings))
    before, after = (
        load_file(tmp_path / output / "model.safetensors")
        for output in ("checkpoint_pretrained", "checkpoint")
    )
    moved = {n.split(".")[0] for n in before if (before[n] - after[n]).abs().max() > 1e-6}
    counters = {"trends", "copy_score"} | ({"age"} if name == "causal" else set())
    assert moved <= counters if rate == "learning_rate" else not moved & counters
    assert {"trends", "copy_score"} <= moved or "items" in moved


def test_a_filter_leaves_the_copy_score_as_it_was(tmp_path):
    write_run(tmp_path)
    train(make_job(tmp_path, MODELS["causal"], filter_seen=True), PRETRAIN, FINETUNE)
    after = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert not after["copy_score.out.weight"].any() and not after["copy_score.out.bias"].any()
    assert after["trends.weights.weight"].any()


def test_a_done_phase_is_not_trained_again(tmp_path):
    write_run(tmp_path)
    train(make_job(tmp_path, MODELS["causal"]), PRETRAIN)
    before = weights(tmp_path)
    train(make_job(tmp_path, MODELS["causal"], attempt="two"), PRETRAIN, tell=die_at(1))
    assert weights(tmp_path) == before


def test_the_result_of_an_attempt_that_was_faster_stays(tmp_path, monkeypatch):
    def save_slowly(directory: Storage, **what: Any) -> None:
        save_checkpoint(directory, **what)
        (tmp_path / "state/pretrain/result.json").write_text('{"epochs": 7}')  # meanwhile

    write_run(tmp_path)
    monkeypatch.setattr(
        "diffsasrec.train.trainer.save_checkpoint", save_slowly
    )  # real, then a race
    train(make_job(tmp_path, MODELS["causal"]), PRETRAIN)
    assert result(tmp_path, "pretrain") == {"epochs": 7}


def test_weights_that_saw_later_events_are_no_start(tmp_path):
    write_run(tmp_path)
    later = replace(PRETRAIN, trained_before=CUT + 1)
    with pytest.raises(AssertionError):
        train(make_job(tmp_path, MODELS["causal"]), later, FINETUNE)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A training per model with dropout, validation and sampled negatives, then a second phase."""
    roots = {}
    for name, model in MODELS.items():
        roots[name] = tmp_path_factory.mktemp(name)
        write_run(roots[name])
        train(make_job(roots[name], with_dropout(model), negatives=5), SELECT, FINETUNE)
    return roots


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 8, 12])
@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_training_equals_an_unbroken_one_bit_for_bit(tmp_path, unbroken, name, step):
    write_run(tmp_path)
    job = make_job(tmp_path, with_dropout(MODELS[name]), negatives=5)
    with pytest.raises(Death):
        train(job, SELECT, FINETUNE, tell=die_at(step))
    taken: list[int] = []
    train(job, SELECT, FINETUNE, tell=lambda phase, taken_now, *_: taken.append(taken_now))
    # it dies before the save of that step: states are saved every two steps
    assert taken[0] == (step - 1) // 2 * 2 + 1
    for output in ("checkpoint_pretrained", "checkpoint"):
        assert weights(tmp_path, output) == weights(unbroken[name], output)
    for phase in ("pretrain", "finetune"):
        assert result(tmp_path, phase) == result(unbroken[name], phase)


@pytest.mark.parametrize("step", [2, 3, 5, 8, 12])
def test_a_resumed_training_by_rows_equals_an_unbroken_one_bit_for_bit(tmp_path, step):
    model = with_dropout(MODELS["prefix"])
    with trained_by_rows(True):
        for name in ("unbroken", "broken"):
            write_run(tmp_path / name)
        train(make_job(tmp_path / "unbroken", model, negatives=3), SELECT, FINETUNE)
        job = make_job(tmp_path / "broken", model, negatives=3)
        with pytest.raises(Death):
            train(job, SELECT, FINETUNE, tell=die_at(step))
        train(job, SELECT, FINETUNE)
    for output in ("checkpoint_pretrained", "checkpoint"):
        assert weights(tmp_path / "broken", output) == weights(tmp_path / "unbroken", output)


def test_a_training_that_dies_again_and_again_equals_an_unbroken_one(tmp_path, unbroken):
    write_run(tmp_path)
    model = with_dropout(MODELS["prefix"])
    for attempt, step in enumerate((3, 5, 6, 9, 12)):
        job = make_job(tmp_path, model, attempt=f"attempt-{attempt}", negatives=5)
        with pytest.raises(Death):
            train(job, SELECT, FINETUNE, tell=die_at(step))
    train(make_job(tmp_path, model, attempt="last", negatives=5), SELECT, FINETUNE)
    assert weights(tmp_path, "checkpoint") == weights(unbroken["prefix"], "checkpoint")


def test_the_newest_state_of_any_attempt_is_picked_up(tmp_path):
    write_run(tmp_path)
    # of two that ran at once, the one whose name sorts first came further
    for attempt, step in (("a-far", 8), ("b-near", 4)):
        other = tmp_path / attempt
        write_run(other)
        with pytest.raises(Death):
            train(make_job(other, MODELS["causal"], attempt=attempt), PRETRAIN, tell=die_at(step))
        shutil.copytree(other / "state", tmp_path / "state", dirs_exist_ok=True)
    taken: list[int] = []
    job = make_job(tmp_path, MODELS["causal"], attempt="c")
    train(job, PRETRAIN, tell=lambda phase, taken_now, *_: taken.append(taken_now))
    assert taken == [7, 8]


def test_a_finished_training_without_its_result_is_only_written_again(tmp_path):
    write_run(tmp_path)
    train(make_job(tmp_path, MODELS["prefix"]), SELECT)
    before, saved = weights(tmp_path), result(tmp_path, "pretrain")
    (tmp_path / "state" / "pretrain" / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoint_pretrained")
    train(make_job(tmp_path, MODELS["prefix"], attempt="two"), SELECT, tell=die_at(1))
    assert weights(tmp_path) == before and result(tmp_path, "pretrain") == saved


def test_an_attempt_keeps_its_two_newest_states(tmp_path):
    write_run(tmp_path)
    train(make_job(tmp_path, MODELS["causal"]), PRETRAIN)
    states = sorted(path.name for path in (tmp_path / "state" / "pretrain" / "one").iterdir())
    assert states == ["step-000000006.safetensors", "step-000000008.safetensors"]


def spoil(state: Path, *, data: bytes | None = None) -> None:
    """A state with one value that is no number, or with other bytes."""
    tensors, metadata = parse_tensors(state.read_bytes())
    tensors["average.items.weight"][0, 0] = float("nan")
    state.write_bytes(save(tensors, metadata) if data is None else data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "average.items.weight has values that are no finite numbers"),
        (b"", "it is damaged"),
        (b"\x08" + b"\0" * 7 + b"no json!", "it is damaged"),
    ],
)
def test_a_state_from_which_no_training_goes_on_is_passed_over_and_named(tmp_path, data, reason):
    for name in ("broken", "unbroken"):
        write_run(tmp_path / name)
    train(make_job(tmp_path / "unbroken", MODELS["prefix"]), PRETRAIN)
    job = make_job(tmp_path / "broken", MODELS["prefix"])
    with pytest.raises(Death):
        train(job, PRETRAIN, tell=die_at(7))
    path = "state/pretrain/one/step-000000006.safetensors"
    spoil(tmp_path / "broken" / path, data=data)
    taken: list[int] = []
    train(job, PRETRAIN, tell=lambda phase, taken_now, *_: taken.append(taken_now))
    assert taken[0] == 5  # after the state before
    assert weights(tmp_path / "broken") == weights(tmp_path / "unbroken")
    assert result(tmp_path / "broken", "pretrain")["ignored_states"] == [f"{path}: {reason}"]


def test_where_no_state_is_of_use_the_training_begins_anew(tmp_path):
    write_run(tmp_path)
    job = make_job(tmp_path, MODELS["prefix"])
    with pytest.raises(Death):
        train(job, PRETRAIN, tell=die_at(7))
    for path in (tmp_path / "state/pretrain/one").iterdir():
        spoil(path)
    taken: list[int] = []
    train(job, PRETRAIN, tell=lambda phase, taken_now, *_: taken.append(taken_now))
    assert taken == [*range(1, 9)]


@pytest.mark.parametrize("raised", [torch.cuda.OutOfMemoryError, MemoryError])
def test_a_training_that_runs_out_of_memory_says_what_to_make_smaller(tmp_path, raised):
    def tell(*_: Any) -> None:  # from inside the loop, as a step of it would
        raise raised("CUDA out of memory. Tried to allocate 20.00 GiB.\nand so on")

    write_run(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^pretrain: the memory of cpu .*20\.00 GiB\.\).*"
    ) as said:
        train(make_job(tmp_path, MODELS["prefix"]), PRETRAIN, tell=tell)
    for key in ("pretrain.batch_size (it is 4)", "train.num_negatives", "model.max_seq_len=20"):
        assert key in str(said.value)


# --- the warm-up ---


@pytest.mark.parametrize(
    ("num_steps", "settings", "expected"),
    [
        (46, {}, 5),  # pretraining on a small log
        (11, {}, 1),  # and fine-tuning
        (999, {}, 100),  # from here on the cap
        (1_000_000, {}, 100),
        (1_000_000, {"warmup_steps": 4000}, 4000),
        (46, {"warmup_share": 0.5}, 23),
        (46, {"warmup_share": 1.0, "warmup_steps": 3}, 3),
        (1000, {"warmup_share": 0.0}, 0),
        (0, {}, 0),
    ],
)
def test_a_warm_up_is_a_share_of_the_steps_and_at_most_so_many(num_steps, settings, expected):
    for stage in (TrainStageConfig, FinetuneConfig):
        assert count_warmup_steps(stage(**settings), num_steps=num_steps) == expected


@pytest.mark.parametrize("by_rows", [False, True])
def test_a_small_log_leaves_the_warm_up(tmp_path, by_rows):
    # 8 steps: the rate is full from the first, and not at 8 % of it in the last
    for name, steps in (("default", 100), ("none", 0)):
        write_run(tmp_path / name)
        settings = PRETRAIN.settings.model_copy(update={"warmup_steps": steps})
        job = make_job(tmp_path / name, MODELS["prefix"], negatives=3 if by_rows else 0)
        with trained_by_rows(by_rows):
            train(job, replace(PRETRAIN, settings=settings))
    assert result(tmp_path / "none", "pretrain")["steps"] == 8
    assert weights(tmp_path / "default") == weights(tmp_path / "none")


def test_where_the_cap_is_reached_a_training_is_as_it_was_without_a_share(tmp_path):
    for name, share in (("half", 0.5), ("whole", 1.0)):  # of 8 steps
        write_run(tmp_path / name)
        settings = PRETRAIN.settings.model_copy(update={"warmup_share": share, "warmup_steps": 4})
        train(make_job(tmp_path / name, MODELS["causal"]), replace(PRETRAIN, settings=settings))
    assert weights(tmp_path / "half") == weights(tmp_path / "whole")


# --- trainings that diverge ---


@pytest.mark.parametrize("by_rows", [False, True])
def test_a_loss_that_is_no_finite_number_stops_the_training_and_is_not_saved(tmp_path, by_rows):
    write_run(tmp_path)
    job = make_job(tmp_path, MODELS["prefix"], negatives=3 if by_rows else 0)
    with trained_by_rows(by_rows), pytest.raises(ConfigError, match=DIVERGED):
        train(job, DIVERGING)
    assert not (tmp_path / "checkpoint_pretrained").exists()
    (state,) = (tmp_path / "state/pretrain").rglob("*.*")  # no result.json either
    assert state.name == "step-000000001.safetensors"
    assert all(tensor.isfinite().all() for tensor in load_file(state).values())


def test_weights_that_the_last_step_has_spoilt_are_not_saved(tmp_path):
    # its loss and its gradient were finite: nobody would see it before the next training reads them
    write_run(tmp_path)
    settings = DIVERGING.settings.model_copy(
        update={"epochs": 1, "learning_rate": 3e37, "batch_size": 13, "weight_decay": 11.2}
    )
    with pytest.raises(ConfigError, match=r"values in weights of .* after step 1 are no finite"):
        train(make_job(tmp_path, MODELS["causal"]), replace(DIVERGING, settings=settings))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(("step-", "result"))]


def test_a_fine_tuning_that_diverges_names_both_of_its_learning_rates(tmp_path):
    write_run(tmp_path)
    spoilt = {"counter_learning_rate": 1e30, "warmup_steps": 0}
    settings = FINETUNE.settings.model_copy(update=spoilt)
    train(make_job(tmp_path, MODELS["causal"]), PRETRAIN)
    with pytest.raises(ConfigError, match=r"finetune\.counter_learning_rate=1e\+30 or finetune\."):
        train(make_job(tmp_path, MODELS["causal"]), replace(FINETUNE, settings=settings))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_no_finite_number_is_found(value):
    tensor = torch.zeros(3, 4)
    assert is_finite(tensor) and is_finite(tensor[:0]) and is_finite(torch.tensor([5]))
    tensor[1, 2] = value
    assert not is_finite(tensor)


# --- the number of epochs ---


def validation_ndcg(root: Path) -> float:
    """Of the stored weights, over all buckets, with a loop over users."""
    run = Storage.of(str(root))
    model = load_checkpoint(run.sub("checkpoint_pretrained")).model
    gains = []
    for bucket in range(NUM_BUCKETS):
        ranks = validation_ranks(
            model,
            Buckets(run, 1).load(bucket),
            cut=CUT,
            before=END,
            trends=trends_as_of(run, CUT),
            known=np.ones(NUM_ITEMS, bool),
            filter_seen=False,
        )
        gains += [1 / np.log2(rank + 1) if rank else 0.0 for rank in ranks.tolist()]
    return float(np.mean(gains))


def test_early_stopping_keeps_the_best_weights_and_their_epoch(tmp_path):
    write_run(tmp_path)
    settings = SELECT.settings.model_copy(update={"epochs": 40, "patience": 3})
    train(make_job(tmp_path, MODELS["prefix"]), replace(SELECT, settings=settings))
    selected = result(tmp_path, "pretrain")
    values = [epoch["NDCG@10"] for epoch in selected["history"]]
    assert selected["epochs"] == values.index(max(values)) + 1  # of equal ones the first
    assert len(values) == selected["epochs"] + 3 < 40  # three epochs without a better one
    assert values[0] < max(values) == pytest.approx(validation_ndcg(tmp_path))


def test_validation_changes_nothing_about_the_training(tmp_path):
    states = []
    for name, validate_before in (("with", END), ("without", None)):
        write_run(tmp_path / name)
        job = make_job(tmp_path / name, with_dropout(MODELS["prefix"]))
        train(job, replace(SELECT, validate_before=validate_before))
        states.append(load_file(next((tmp_path / name).rglob("step-000000012.safetensors"))))
    for name, tensor in states[1].items():
        assert torch.equal(tensor, states[0][name]), name


def test_a_later_phase_trains_for_the_selected_number_of_epochs(tmp_path):
    write_run(tmp_path)
    again = replace(PRETRAIN, name="again", output="again", epochs_from="pretrain")
    settings = SELECT.settings.model_copy(update={"epochs": 5, "patience": 1, "learning_rate": 1.0})
    train(make_job(tmp_path, MODELS["causal"]), replace(SELECT, settings=settings), again)
    epochs = result(tmp_path, "pretrain")["epochs"]
    assert epochs < 5  # a learning rate of 1 spoils the weights soon
    assert len(result(tmp_path, "again")["history"]) == epochs


def test_validation_ranks_of_four_users_by_hand():
    model = SequenceModel(MODELS["causal"], 12).eval()
    torch.nn.init.zeros_(model.items.weight)  # every list is the known items by index
    histories = [  # (item, time); the cut is at 10, the end at 20
        [(0, 1), (1, 2), (5, 10), (6, 11)],
        [(0, 1), (11, 12), (7, 13)],  # 11 is not known before the cut: the next one counts
        [(3, 9), (4, 20)],  # its only later event is beyond the end
        [(2, 15)],  # nothing before the cut
    ]
    events = [event for history in histories for event in history]
    flat = Flat(
        user_ids=pa.array(range(4)),
        items=np.array([item for item, _ in events], np.int32),
        times=np.array([time for _, time in events]),
        offsets=np.array([0, 4, 7, 9, 10]),
        num_before=np.zeros(4, np.int32),  # of the split: the cut here is another one
        holdout=np.full(4, -1, np.int32),
    )
    known = np.arange(12) < 11
    options = {"cut": 10, "before": 20, "trends": None, "known": known}
    unfiltered = validation_ranks(model, flat, filter_seen=False, **options)
    filtered = validation_ranks(model, flat, filter_seen=True, **options)
    assert unfiltered.tolist() == [6, 8]  # items 5 and 7 behind five and seven others
    assert filtered.tolist() == [4, 7]  # without the items seen before the cut


# --- two workers ---

OFF = {"time_inputs": False, "trends": False, "copy_score": False}
BY_ROWS = ("prefix by rows", "causal by rows")
CASES: dict[str, tuple[ModelConfig, dict[str, Any]]] = {
    **{name: (model, {}) for name, model in MODELS.items()},
    "negatives": (MODELS["prefix"], {"negatives": 5}),
    "filtered": (MODELS["causal"], {"filter_seen": True, "negatives": 5}),
    "no counters": (MODELS["causal"].model_copy(update=OFF), {}),
    **{name: (MODELS[name.split()[0]], {"negatives": 5}) for name in BY_ROWS},
}
DIES_AT = 7


def resume_beside_another(root: Path, rank: int, model: ModelConfig) -> list[int]:
    """The steps that two workers take where the file that rank 0 finds is gone for rank 1."""
    seen = root / f"seen-{rank}"
    shutil.copytree(root / "broken", seen)
    if rank == 1:  # as if the other attempt had deleted it meanwhile
        (seen / "state/pretrain/one/step-000000006.safetensors").unlink()
    taken: list[int] = []
    train(
        make_job(seen, model, attempt="three"),
        SELECT,
        rank=rank,
        world_size=2,
        tell=lambda phase, taken_now, *_: taken.append(taken_now),
    )
    return taken


def diverges(job: Job, rank: int) -> str:
    """What a worker of two says of a training that diverges."""
    try:
        train(job, DIVERGING, rank=rank, world_size=2)
    except ConfigError as error:
        return str(error)
    return "went on"


def two_workers(rank: int, root: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{root}/group", rank=rank, world_size=2
    )
    for name, (model, options) in CASES.items():
        job = make_job(root / name, model, **options)
        with trained_by_rows(name in BY_ROWS):
            train(job, SELECT, FINETUNE, rank=rank, world_size=2)

    def copy_at_death(phase: str, taken: int, total: int, note: str) -> None:
        # what the run directory would hold if both workers died now
        if phase == SELECT.name and taken == DIES_AT:
            shutil.copytree(root / "unbroken", root / "broken")

    model = with_dropout(MODELS["prefix"])
    job = make_job(root / "unbroken", model)
    train(job, SELECT, FINETUNE, rank=rank, world_size=2, tell=copy_at_death)
    torch.distributed.barrier()  # both copy what rank 0 has copied
    beside = resume_beside_another(root, rank, model)
    torch.distributed.barrier()
    resumed: list[int] = []
    train(
        make_job(root / "broken", model, attempt="two"),
        SELECT,
        FINETUNE,
        rank=rank,
        world_size=2,
        tell=lambda phase, taken, *_: resumed.append(taken),
    )
    if rank == 0:
        (root / "resumed.json").write_text(json.dumps(resumed))
        (root / "beside.json").write_text(json.dumps(beside))
    said = diverges(make_job(root / "diverging", MODELS["prefix"]), rank)
    (root / f"said-{rank}.txt").write_text(said)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings of two gloo workers."""
    root = tmp_path_factory.mktemp("pair")
    for name in (*CASES, "unbroken", "diverging"):
        write_run(root / name)
    torch.multiprocessing.spawn(two_workers, (root,), nprocs=2)
    return root


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trainings of one worker."""
    root = tmp_path_factory.mktemp("alone")
    for name, (model, options) in CASES.items():
        write_run(root / name)
        with trained_by_rows(name in BY_ROWS):
            train(make_job(root / name, model, **options), SELECT, FINETUNE)
    return root


@pytest.mark.parametrize("output", ["checkpoint_pretrained", "checkpoint"])
@pytest.mark.parametrize("name", CASES)
def test_two_gloo_workers_reach_the_weights_of_one(alone, pair, name, output):
    # batches of four, then of eight: in the last step of an epoch one rank has no row
    assert result(alone / name, "pretrain")["examples"] % 4 == 1
    assert result(alone / name, "finetune")["examples"] % 8 == 1
    one, two = (load_file(root / name / output / "model.safetensors") for root in (alone, pair))
    for parameter in one:
        if parameter.endswith("query_key_value.bias"):
            # the bias of the keys moves no softmax: its gradient is rounding, which Adam scales up
            one[parameter][16:32] = two[parameter][16:32]
        # where a gradient is near 0, Adam makes 1e-5 of its rounding; a step is 1e-2
        assert torch.allclose(one[parameter], two[parameter], atol=1e-4), parameter


@pytest.mark.parametrize("name", CASES)
def test_two_gloo_workers_report_the_losses_and_the_validation_of_one(alone, pair, name):
    for phase in ("pretrain", "finetune"):
        one, two = result(alone / name, phase), result(pair / name, phase)
        assert one["epochs"] == two["epochs"] and one["examples"] == two["examples"]
        for separate, together in zip(one["history"], two["history"], strict=True):
            assert together == pytest.approx(separate, rel=1e-4)


def test_two_workers_send_every_gradient_once_and_one_sends_none(alone, pair):
    name = next(iter(CASES))
    one, two = result(alone / name, "pretrain"), result(pair / name, "pretrain")
    saved = load_file(pair / name / "checkpoint_pretrained" / "model.safetensors")
    assert two["sent_bytes_per_step"] == 4 * sum(weight.numel() for weight in saved.values())
    assert two["of_embedding"] == 4 * saved["items.weight"].numel()
    assert one["sent_bytes_per_step"] == one["of_embedding"] == 0


def test_trained_by_rows_workers_send_the_rows_of_a_step_and_which_they_are(alone, pair):
    two = result(pair / "prefix by rows", "pretrain")
    one_row = 4 * SIZES["hidden_size"]
    assert NUM_ITEMS + 4 * one_row < two["of_embedding"] <= NUM_ITEMS + NUM_ITEMS * one_row
    assert result(alone / "prefix by rows", "pretrain")["of_embedding"] == 0


def test_a_state_that_is_gone_for_one_worker_is_none_for_the_other(pair):
    # each reads the file for itself: where they can't, both go on from the state before
    assert json.loads((pair / "beside.json").read_text())[0] == 5
    assert weights(pair / "seen-0") == weights(pair / "unbroken")
    assert "ignored_states" not in result(pair / "seen-0", "pretrain")


def test_two_workers_stop_together_at_a_loss_that_is_no_finite_number(pair):
    said = [(pair / f"said-{rank}.txt").read_text() for rank in (0, 1)]
    assert re.match(DIVERGED, said[0]) and said[0] == said[1]


def test_two_resumed_workers_equal_two_unbroken_ones_bit_for_bit(pair):
    assert json.loads((pair / "resumed.json").read_text())[0] == DIES_AT  # the state of step 6
    for output in ("checkpoint_pretrained", "checkpoint"):
        assert weights(pair / "broken", output) == weights(pair / "unbroken", output)
    for phase in ("pretrain", "finetune"):
        assert result(pair / "broken", phase) == result(pair / "unbroken", phase)
