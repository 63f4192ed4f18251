"""Two workers over gloo reach what one reaches."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn
from trainings import (
    DIVERGED,
    DIVERGING,
    FINETUNE,
    MODELS,
    NUM_BUCKETS,
    NUM_ITEMS,
    SELECT,
    SIZES,
    make_job,
    result,
    steps_to,
    train,
    trained_by_rows,
    weights,
    with_dropout,
    write_run,
)

from diffsasrec.config.training import ModelConfig
from diffsasrec.errors import ConfigError
from diffsasrec.model.mix import Mix
from diffsasrec.train.phases import Job

pytestmark = pytest.mark.process

OFF = {"time_inputs": False, "trends": False, "copy_score": False}
BY_ROWS = ("prefix by rows", "causal by rows")
CASES: dict[str, tuple[ModelConfig, dict[str, Any]]] = {
    **{name: (model, {}) for name, model in MODELS.items()},
    "negatives": (MODELS["prefix"], {"negatives": 5}),
    "filtered": (MODELS["causal"], {"filter_seen": True, "negatives": 5}),
    # two workers share a bucket, of all or of each group
    "one bucket": (MODELS["prefix"], {"num_buckets": 1}),
    "three buckets": (MODELS["causal"], {"num_buckets": 3}),
    "groups": (MODELS["prefix"], {"num_buckets": 5, "buckets_in_memory": 2}),
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
        tell=steps_to(taken),
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
        tell=steps_to(resumed),
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
    for name, (_, options) in CASES.items():
        write_run(root / name, num_buckets=options.get("num_buckets", NUM_BUCKETS))
    for name in ("unbroken", "diverging"):
        write_run(root / name)
    spawn(two_workers, (root,), nprocs=2)
    return root


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trainings of one worker."""
    root = tmp_path_factory.mktemp("alone")
    for name, (model, options) in CASES.items():
        write_run(root / name, num_buckets=options.get("num_buckets", NUM_BUCKETS))
        with trained_by_rows(name in BY_ROWS):
            train(make_job(root / name, model, **options), SELECT, FINETUNE)
    return root


@pytest.mark.parametrize("output", ["checkpoint_pretrained", "checkpoint"])
@pytest.mark.parametrize("name", CASES)
def test_two_gloo_workers_reach_the_weights_of_one(alone, pair, name, output):
    one, two = (load_file(root / name / output / "model.safetensors") for root in (alone, pair))
    for parameter in one:
        if parameter.endswith("query_key_value.bias"):
            # the bias of the keys moves no softmax: its gradient is rounding, which Adam scales up
            one[parameter][16:32] = two[parameter][16:32]
        # where a gradient is near 0, Adam scales up its rounding, so that a few entries move apart
        # by a part of a step, which is 1e-2; a row that is lost or counted twice moves most of them
        apart = (one[parameter] - two[parameter]).abs()
        assert apart.max() < 1e-3 and (apart > 1e-4).float().mean() < 2e-3, parameter


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
    trained = [weight for part, weight in saved.items() if part not in Mix().tensors()]
    assert two["sent_bytes_per_step"] == 4 * sum(weight.numel() for weight in trained)
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
