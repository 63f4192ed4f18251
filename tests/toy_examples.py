"""Examples of a training, and batches of them in which an item says which event it is."""

import numpy as np
import numpy.typing as npt
import torch

from diffsasrec.config.training import ModelConfig, ObjectiveConfig
from diffsasrec.model.batch import Batch
from diffsasrec.times import DAY
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import (
    Events,
    Examples,
    Part,
    window_examples,
)

SIZES = {"hidden_size": 8, "num_blocks": 1, "num_heads": 1, "max_seq_len": 4, "num_slots": 3}
CAUSAL = ModelConfig(kind="sasrec", attention="causal", **SIZES)
PREFIX = ModelConfig(kind="diffusion", attention="prefix", **SIZES)
BIDIRECTIONAL = ModelConfig(kind="diffusion", attention="bidirectional", **SIZES)
CONFIGS = [CAUSAL, PREFIX, BIDIRECTIONAL]
RANDOM = ObjectiveConfig(next_item=0.0, random_mask=1.0, suffix_mask=0.0)
SUFFIX = ObjectiveConfig(next_item=0.0, random_mask=0.0, suffix_mask=1.0)


def offsets_of(lengths: list[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *lengths])


def stretches(examples: Examples) -> list[tuple[int, int, int]]:
    columns = (examples.start, examples.boundary, examples.end)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def daily_events(num: int) -> Events:
    return Events(
        items=np.arange(100, 100 + num, dtype=np.int32),
        times=np.arange(num) * DAY,
        gaps=np.arange(num) % 64,
    )


def part_of(examples: Examples, rank: int, world_size: int) -> Part:
    """The rows rank, rank + world size, ... of a global batch."""
    rows = np.arange(rank, len(examples), world_size)
    return Part.of(examples, rows, rows=rows, num_rows=len(examples))


def make(
    examples: Examples,
    *,
    model: ModelConfig = PREFIX,
    objective: ObjectiveConfig = ObjectiveConfig(),  # noqa: B008
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    filter_seen: bool = False,
) -> Batch:
    """A batch over items 100, 101, ..., one a day: an item says which event it is."""
    return make_batch(
        daily_events(int(examples.end.max())),
        part_of(examples, rank, world_size),
        query_times=QUERY_TIMES,
        model=model,
        objective=objective,
        generator=torch.Generator().manual_seed(seed),
        filter_seen=filter_seen,
    )


def windows(lengths: list[int]) -> Examples:
    return window_examples(offsets_of(lengths), np.array(lengths), max_seq_len=4, min_events=2)


QUERY_TIMES = np.array([500 * DAY, 1000 * DAY])


def queries(num: int = 6) -> Examples:
    """Users of five events with the boundary behind the second."""
    start = np.arange(num) * 5
    return Examples(
        start, start + 2, start + 5, first=start, query=np.arange(num) % 2, basket_end=start + 3
    )
