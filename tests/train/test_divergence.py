"""Trainings that diverge or run out of memory, and the warm-up that small logs leave."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file
from trainings import (
    DIVERGED,
    DIVERGING,
    FINETUNE,
    MODELS,
    PRETRAIN,
    make_job,
    result,
    train,
    trained_by_rows,
    weights,
    write_run,
)

from diffsasrec.config.training import FinetuneConfig, TrainStageConfig
from diffsasrec.errors import ConfigError
from diffsasrec.model.checkpoint import is_finite
from diffsasrec.train.phases import count_warmup_steps


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
