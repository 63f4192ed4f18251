"""Two workers over gloo read half of the input each, and train the same twice."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn
from trainings import FINETUNE, MODELS, SELECT, make_job, result, train, weights, write_run

from diffsasrec.files.storage import Storage
from diffsasrec.train.phases import Phase
from diffsasrec.train.ranks import Worker

pytestmark = pytest.mark.process

NUM_BUCKETS = 8
# tables of similar items are counted over a sample of the users, which every rank reads
MODEL = MODELS["prefix"].model_copy(update={"similar_items": 0, "nearest_users": False})
IN_MEMORY = {"all": 8, "some": 2}  # buckets at once


def of_one_example(phase: Phase) -> Phase:
    """With batches of one example: in every step one of two ranks has none."""
    return replace(phase, settings=phase.settings.model_copy(update={"batch_size": 1}))


PHASES = {
    **dict.fromkeys(IN_MEMORY, (SELECT, FINETUNE)),
    "one example": (of_one_example(SELECT), of_one_example(FINETUNE)),
}


@contextmanager
def files_read() -> Iterator[list[str]]:
    """The files of sequences that are read inside, in order."""
    found: list[str] = []

    def read_table(self: Storage, path: str, columns: list[str] | None = None) -> pa.Table:
        if path.startswith("sequences/"):
            found.append(path)
        return READ_TABLE(self, path, columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Storage, "read_table", read_table)
        yield found


READ_TABLE = Storage.read_table


def train_all(root: Path, *, rank: int = 0, world_size: int = 1) -> None:
    for name, phases in PHASES.items():
        job = make_job(
            root / name,
            MODEL,
            num_buckets=NUM_BUCKETS,
            buckets_in_memory=IN_MEMORY.get(name, NUM_BUCKETS),
        )
        with files_read() as found:
            train(job, *phases, rank=rank, world_size=world_size)
        (root / f"{name}-{rank}.json").write_text(json.dumps(found))


def sums(rank: int) -> list[Any]:
    """Of arrays of 0 to 4 and of 10 to 14, three numbers at once; one is too large for int32."""
    integers = np.arange(5, dtype=np.uint32) + 10 * rank
    integers[4] = 2**31 - 1 + rank
    floats = (np.arange(6.0) + 10 * rank).reshape(2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffsasrec.train.ranks.AT_ONCE", 3)
        for values in (integers, floats):
            Worker(torch.device("cpu"), rank, 2).add_up(values)
    return [integers.tolist(), str(integers.dtype), floats.tolist()]


def two_workers(rank: int, root: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{root}/group", rank=rank, world_size=2
    )
    for attempt in ("first", "again"):
        train_all(root / attempt, rank=rank, world_size=2)
    (root / f"sums-{rank}.json").write_text(json.dumps(sums(rank)))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainings of one worker, and twice of two."""
    root = tmp_path_factory.mktemp("readers")
    for attempt in ("alone", "first", "again"):
        for name in PHASES:
            write_run(root / attempt / name, num_buckets=NUM_BUCKETS)
    train_all(root / "alone")
    spawn(two_workers, (root,), nprocs=2)
    return root


def read_by(root: Path, name: str, rank: int = 0) -> list[str]:
    found: list[str] = json.loads((root / f"{name}-{rank}.json").read_text())
    return found


def test_where_all_buckets_fit_each_of_two_workers_reads_its_half_once_a_phase(root):
    alone, ranks = (
        read_by(root / "alone", "all"),
        [read_by(root / "first", "all", r) for r in (0, 1)],
    )
    assert len(alone) == 2 * NUM_BUCKETS
    assert sorted(ranks[0] + ranks[1]) == sorted(alone)
    assert len(ranks[0]) == len(ranks[1]) and set(ranks[0]).isdisjoint(ranks[1])


def test_where_some_buckets_fit_each_of_two_workers_reads_half_of_what_one_reads(root):
    alone, *ranks = (
        len(read_by(root / attempt, "some", rank))
        for attempt, rank in (("alone", 0), ("first", 0), ("first", 1))
    )
    # once to count; in each of three epochs once to train and once to measure; then again two
    assert 10 * NUM_BUCKETS > alone > 9 * NUM_BUCKETS - 9
    assert all(abs(num - alone / 2) <= 4 for num in ranks)  # one that was just read is kept


def test_every_rank_gets_the_sums_of_arrays_in_their_own_type(root):
    expected = [[10, 12, 14, 16, 2**32 - 1], "uint32", [[10, 12, 14], [16, 18, 20]]]
    assert [json.loads((root / f"sums-{rank}.json").read_text()) for rank in (0, 1)] == [
        expected,
        expected,
    ]


@pytest.mark.parametrize("output", ["checkpoint_pretrained", "checkpoint"])
@pytest.mark.parametrize("name", PHASES)
def test_two_workers_that_read_their_halves_reach_the_weights_of_one(root, name, output):
    one, two = (
        load_file(root / attempt / name / output / "model.safetensors")
        for attempt in ("alone", "first")
    )
    for parameter in one:
        if parameter.endswith("query_key_value.bias"):
            one[parameter][16:32] = two[parameter][16:32]  # the bias of the keys moves no softmax
        apart = (one[parameter] - two[parameter]).abs()
        assert apart.max() < 1e-3 and (apart > 1e-4).float().mean() < 2e-3, parameter


@pytest.mark.parametrize("name", PHASES)
def test_two_workers_train_the_same_twice_bit_for_bit(root, name):
    for output in ("checkpoint_pretrained", "checkpoint"):
        first, again = (weights(root / attempt / name, output) for attempt in ("first", "again"))
        assert first == again
    for phase in ("pretrain", "finetune"):
        assert result(root / "first" / name, phase) == result(root / "again" / name, phase)
