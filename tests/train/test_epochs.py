"""What is in an epoch, and the number of epochs, which the figures of the validation decide."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file
from trainings import (
    ALONE,
    CUT,
    END,
    MODELS,
    NUM_BUCKETS,
    NUM_ITEMS,
    PRETRAIN,
    SELECT,
    make_job,
    result,
    train,
    trends_as_of,
    with_dropout,
    write_run,
)

from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import load_checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Flat
from diffsasrec.times import DAY
from diffsasrec.train.epochs import TrainingSet
from diffsasrec.train.phases import Buckets
from diffsasrec.train.validation import validation_gains


def of_epoch(data: TrainingSet, epoch: int, *, first: int = 0) -> list[list[tuple[int, ...]]]:
    """The times of the events of each example in each batch, by which alone each can be known."""
    return [
        [
            tuple(events.times[start:end].tolist())
            for start, end in zip(part.examples.start, part.examples.end, strict=True)
        ]
        for events, part in data.batches(epoch, first=first)
    ]


@pytest.mark.parametrize(("num_buckets", "in_memory"), [(1, 8), (2, 8), (5, 2), (5, 1)])
def test_an_epoch_has_every_example_once_and_goes_on_at_any_step(tmp_path, num_buckets, in_memory):
    run = write_run(tmp_path, num_buckets=num_buckets)
    job = make_job(tmp_path, MODELS["prefix"], num_buckets=num_buckets, buckets_in_memory=in_memory)
    data = TrainingSet(job, PRETRAIN, run.read_tables("vocab"), worker=ALONE)
    # 13 users: those of up to 21 events before the cut are one window
    windows = [tuple((26 - n + step) * DAY for step in range(n - 6)) for n in range(8, 21)]
    for epoch in (0, 1):
        batches = of_epoch(data, epoch)
        assert sorted(example for batch in batches for example in batch) == sorted(windows)
        assert len(batches) == data.num_steps(epoch)
        assert all(1 <= len(batch) <= 4 for batch in batches)
        for first in range(len(batches) + 1):
            assert of_epoch(data, epoch, first=first) == batches[first:]
    assert of_epoch(data, 0) != of_epoch(data, 1)


def validation_ndcg(root: Path) -> float:
    """Of the stored weights, over all buckets, with a loop over users."""
    run = Storage.of(str(root))
    model = load_checkpoint(run.sub("checkpoint_pretrained")).model
    gains = []
    for bucket in range(NUM_BUCKETS):
        found = validation_gains(
            model,
            Buckets(run, 1).load(bucket),
            cut=CUT,
            before=END,
            trends=trends_as_of(run, CUT),
            known=np.ones(NUM_ITEMS, bool),
            filter_seen=False,
        )
        gains += found.tolist()
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


def test_the_validation_of_four_users_by_hand():
    model = SequenceModel(MODELS["causal"], 12).eval()
    torch.nn.init.zeros_(model.items.weight)  # every list is the known items by index
    histories = [  # (item, time); the cut is at 10, the end at 20
        [(0, 1), (1, 2), (5, 10), (6, 11)],
        [(0, 1), (11, 12), (7, 13), (1, 13)],  # 11 is not known before the cut: the next basket
        [(3, 9), (4, 20)],  # its only later event is beyond the end
        [(2, 15)],  # nothing before the cut
    ]
    events = [event for history in histories for event in history]
    flat = Flat(
        user_ids=pa.array(range(4)),
        items=np.array([item for item, _ in events], np.int32),
        times=np.array([time for _, time in events]),
        offsets=np.array([0, 4, 8, 10, 11]),
        num_before=np.zeros(4, np.int32),  # of the split: the cut here is another one
        holdout=np.full(4, -1, np.int32),
    )
    known = np.arange(12) < 11
    options: dict[str, Any] = {"cut": 10, "before": 20, "trends": None, "known": known}
    unfiltered = validation_gains(model, flat, filter_seen=False, **options)
    filtered = validation_gains(model, flat, filter_seen=True, **options)
    at = [0.0, *(1 / np.log2(rank + 1) for rank in range(1, 11))]
    # items 5 and 7 behind five and seven others, item 1 behind one
    assert unfiltered.tolist() == pytest.approx([at[6], (at[8] + at[2]) / 2])
    # without the items seen before the cut
    assert filtered.tolist() == pytest.approx([at[4], (at[7] + at[1]) / 2])
