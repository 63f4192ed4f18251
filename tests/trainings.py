"""Toy trainings; users walk round a circle of eight items, one a day."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from diffsasrec.config.training import FinetuneConfig, ModelConfig, TrainConfig, TrainStageConfig
from diffsasrec.files.storage import Storage
from diffsasrec.model.features import trend_counts, trend_features
from diffsasrec.schema import sequences_schema, vocab_schema
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.times import DAY
from diffsasrec.train.phases import Buckets, Job, Phase
from diffsasrec.train.ranks import Worker
from diffsasrec.train.trainer import train_phases

CUT, END = 20 * DAY, 26 * DAY  # trained on before the one, validated up to the other
NUM_ITEMS, NUM_USERS, NUM_BUCKETS = 8, 13, 2
SIZES = {"hidden_size": 16, "num_blocks": 1, "num_heads": 2, "max_seq_len": 20, "num_slots": 3}
# were all items scored alike, a bias would move no softmax, and Adam would scale up its rounding
SIZES["similar_items"] = 1
MODELS = {
    "causal": ModelConfig(kind="sasrec", attention="causal", dropout=0.0, **SIZES),
    "prefix": ModelConfig(kind="diffusion", attention="prefix", dropout=0.0, **SIZES),
    "bidirectional": ModelConfig(kind="diffusion", attention="bidirectional", dropout=0.0, **SIZES),
}
STAGE = {"learning_rate": 0.01, "warmup_steps": 3, "ema_decay": 0.9, "checkpoint_every_steps": 2}
PRETRAIN = Phase(
    "pretrain", TrainStageConfig(epochs=2, batch_size=4, **STAGE), CUT, "checkpoint_pretrained"
)
FINETUNE = Phase(
    "finetune",
    FinetuneConfig(
        epochs=1, batch_size=8, query_times=3, query_share=0.28, state_dropout=0.0, **STAGE
    ),
    CUT,
    "checkpoint",
    init_from="checkpoint_pretrained",
)
# with everything that a resumed training has to remember
SELECT = replace(
    PRETRAIN,
    settings=PRETRAIN.settings.model_copy(update={"epochs": 3, "patience": 2}),
    validate_before=END,
)
QUANTILES = tuple(day * DAY for day in range(0, 27, 2))  # batch times on the days 14, 16 and 18
ALONE = Worker(torch.device("cpu"), 0, 1)
# the first step makes the weights so large that the second has no loss
DIVERGING = replace(
    PRETRAIN,
    settings=PRETRAIN.settings.model_copy(
        update={"learning_rate": 1e30, "warmup_steps": 0, "checkpoint_every_steps": 1}
    ),
)
DIVERGED = (
    r"^pretrain: the (loss|gradient norm) of step 2 is (nan|inf): .* lower "
    r"pretrain\.learning_rate=1e\+30 or pretrain\.grad_clip=1$"
)


def write_run(root: Path, *, num_buckets: int = NUM_BUCKETS) -> Storage:
    """The files that a training reads. User n starts at item n and has its last event on day 25."""
    run = Storage.of(str(root))
    items = {
        "item_id": [f"item-{index}" for index in range(NUM_ITEMS)],
        "index": range(NUM_ITEMS),
        "count": [10] * NUM_ITEMS,
        "count_before": [9] * NUM_ITEMS,
        "first_time": [0] * NUM_ITEMS,
    }
    run.write_table("vocab/part-00000.parquet", pa.table(items, vocab_schema(pa.string())))
    for bucket in range(num_buckets):
        rows = []
        for user in range(bucket, NUM_USERS, num_buckets):
            length = 8 + user
            rows.append(
                {
                    "user_id": user,
                    "items": [(user + step) % NUM_ITEMS for step in range(length)],
                    "times": [(26 - length + step) * DAY for step in range(length)],
                    "num_before": length - 6,
                    "holdout": length - 6,
                }
            )
        table = pa.Table.from_pylist(rows, sequences_schema(pa.int64()))
        run.write_table(f"sequences/{bucket_name(bucket)}", table)
    return run


def make_job(
    root: Path,
    model: ModelConfig,
    *,
    attempt: str = "one",
    negatives: int = 0,
    filter_seen: bool = False,
    num_buckets: int = NUM_BUCKETS,
    buckets_in_memory: int = 8,
) -> Job:
    return Job(
        run=Storage.of(str(root)),
        attempt=attempt,
        num_buckets=num_buckets,
        model=model,
        train=TrainConfig(num_negatives=negatives, buckets_in_memory=buckets_in_memory),
        min_user_events=2,
        filter_seen=filter_seen,
        seed=0,
        time_quantiles=QUANTILES,
    )


@contextmanager
def trained_by_rows(by_rows: bool) -> Iterator[None]:
    """With a catalogue of eight items being large enough for that."""
    with pytest.MonkeyPatch.context() as patch:
        if by_rows:
            patch.setattr(
                "diffsasrec.train.optimizer.ROWS_ALONE", 0
            )  # a large catalogue takes minutes
        yield


def train(
    job: Job,
    *phases: Phase,
    rank: int = 0,
    world_size: int = 1,
    tell: Callable[..., None] = lambda *_: None,
) -> None:
    worker = Worker(torch.device("cpu"), rank, world_size)
    train_phases(job, phases, worker=worker, tell=tell)


def result(root: Path, phase: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((root / "state" / phase / "result.json").read_text())
    return loaded


def weights(root: Path, output: str = "checkpoint_pretrained") -> bytes:
    return (root / output / "model.safetensors").read_bytes()


def with_dropout(model: ModelConfig) -> ModelConfig:
    return model.model_copy(update={"dropout": 0.3})


def trends_as_of(run: Storage, time: int) -> npt.NDArray[np.float32]:
    buckets, tables = Buckets(run, 1), []
    for flat in map(buckets.load, range(NUM_BUCKETS)):
        events = (flat.items, flat.times, flat.offsets)
        tables.append(trend_counts(*events, query_times=np.array([time]), num_items=NUM_ITEMS))
    return trend_features(sum(tables[1:], tables[0]))[0]


def steps_to(taken: list[int]) -> Callable[..., None]:
    """Notes the steps of a training; its tables are no step."""

    def tell(phase: str, number: int, total: int, note: str) -> None:
        if "," not in phase:
            taken.append(number)

    return tell


class Death(Exception):
    pass


def die_at(step: int) -> Callable[..., None]:
    """Ends a training after `step` steps, before anything more is saved."""

    def tell(phase: str, taken: int, total: int, note: str) -> None:
        if taken == step and "," not in phase:  # no step of a training: its tables
            raise Death

    return tell
