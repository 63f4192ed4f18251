"""Toy trainings on one worker and on two; users walk round a circle of eight items, one a day."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file
from trainings import (
    ALONE,
    CUT,
    END,
    FINETUNE,
    MODELS,
    NUM_BUCKETS,
    NUM_ITEMS,
    PRETRAIN,
    SELECT,
    die_at,
    make_job,
    result,
    train,
    trends_as_of,
    weights,
    with_dropout,
    write_run,
)

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import load_checkpoint, save_checkpoint
from diffsasrec.schema import sequences_schema, vocab_schema
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.times import DAY
from diffsasrec.train.phases import taking_part

UNBROKEN = {"checkpoint_every_steps": 1000}  # nothing resumes it: its states are not saved


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_loss_falls_and_the_next_item_of_a_circle_is_learned(tmp_path, model):
    run = write_run(tmp_path)
    settings = PRETRAIN.settings.model_copy(update={"epochs": 150, **UNBROKEN})
    # what the age of a history means to a slot is learned in fine-tuning alone
    model = model.model_copy(update={"time_inputs": False, "similar_items": 0})
    train(make_job(tmp_path, model), replace(PRETRAIN, settings=settings))
    losses = [epoch["loss"] for epoch in result(tmp_path, "pretrain")["history"]]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:10])  # its masks make it noisy
    recommender = Recommender(
        load_checkpoint(run.sub("checkpoint_pretrained")).model,
        moment=Moment(CUT, trends_as_of(run, CUT)),
        allowed=np.ones(NUM_ITEMS, bool),
        decoding=DecodingConfig(k=1, filter_seen=False),
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
    tuned = FINETUNE.settings.model_copy(update={"epochs": 12, **UNBROKEN})
    job = make_job(tmp_path, model, filter_seen=filter_seen)
    train(job, PRETRAIN, replace(FINETUNE, settings=tuned))
    losses = [epoch["loss"] for epoch in result(tmp_path, "finetune")["history"]]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


@pytest.mark.parametrize("negatives", [0, 6])
def test_fine_tuning_is_focused_on_the_places_of_a_list(tmp_path, negatives):
    tuned = []
    for focus_k in (0, 1, NUM_ITEMS + 1):
        root = tmp_path / str(focus_k)
        write_run(root)
        settings = FINETUNE.settings.model_copy(update={"focus_k": focus_k})
        job = make_job(root, MODELS["prefix"], negatives=negatives)
        train(job, PRETRAIN, replace(FINETUNE, settings=settings))
        tuned.append(weights(root, "checkpoint"))
    everywhere, first, beyond_all = tuned
    assert first != everywhere
    if not negatives:  # a list that has all items leaves all targets as they were
        assert beyond_all == everywhere


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
        known_V = taking_part(replace(job, counted=counted), PRETRAIN, vocab, worker=ALONE)
        assert known_V is not None and known_V.all()
    later = replace(PRETRAIN, trained_before=END)
    known_V = taking_part(
        replace(job, min_item_count=12, counted={CUT: "count_before"}), later, vocab, worker=ALONE
    )
    assert known_V is not None and known_V.tolist() == [True] * RARE + [False]


def test_where_no_item_is_rare_the_log_is_trained_on_as_it_is(tmp_path):
    run = write_run(tmp_path)
    job = make_job(tmp_path, MODELS["prefix"])
    assert taking_part(job, PRETRAIN, run.read_tables("vocab"), worker=ALONE) is None


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
    counters = {"trends", "copy_score", "ranker"} | ({"age"} if name == "causal" else set())
    assert moved <= counters if rate == "learning_rate" else not moved & counters
    assert {"trends", "copy_score"} <= moved or "items" in moved


@pytest.mark.parametrize("similar_items", [0, 2])
def test_a_filter_leaves_the_copy_score_as_it_was_but_for_similar_items(tmp_path, similar_items):
    write_run(tmp_path)
    model = MODELS["causal"].model_copy(update={"similar_items": similar_items})
    train(make_job(tmp_path, model, filter_seen=True), PRETRAIN, FINETUNE)
    after = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert bool(after["copy_score.out.weight"].any()) == (similar_items > 0)
    tables = tmp_path / "state" / "finetune" / "similar"
    assert len(list(tables.glob("*"))) == (3 if similar_items else 0)  # as of the batch times
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
        "diffsasrec.train.training_state.save_checkpoint", save_slowly
    )  # real, then a race
    train(make_job(tmp_path, MODELS["causal"]), PRETRAIN)
    assert result(tmp_path, "pretrain") == {"epochs": 7}


def test_weights_that_saw_later_events_are_no_start(tmp_path):
    write_run(tmp_path)
    later = replace(PRETRAIN, trained_before=CUT + 1)
    with pytest.raises(AssertionError):
        train(make_job(tmp_path, MODELS["causal"]), later, FINETUNE)
