"""Batches of a toy log whose tables of similar items differ between batch times."""

import numpy as np
import torch
from similar_logs import random_similar
from toy_examples import part_of
from toy_models import NUM_ITEMS, SIZES, lively_model

from diffsasrec.config.training import ModelConfig, ObjectiveConfig
from diffsasrec.counters.popular import Popular
from diffsasrec.counters.similar import Similar
from diffsasrec.model.batch import Batch
from diffsasrec.model.features import NUM_TRENDS
from diffsasrec.model.objective import Objective
from diffsasrec.times import DAY
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import Events, Examples

NUM_USERS, LENGTH = 12, 7
QUERY_TIMES = np.array([400 * DAY, 500 * DAY, 600 * DAY])
TABLES = [random_similar(NUM_ITEMS, seed, num_users=20) for seed in range(3)]
CAUSAL, PREFIX = (
    ModelConfig(**SIZES, similar_items=3, **kind)
    for kind in (
        {"kind": "sasrec", "attention": "causal"},
        {"kind": "diffusion", "attention": "prefix"},
    )
)


def events() -> Events:
    items = np.random.default_rng(1).integers(NUM_ITEMS, size=NUM_USERS * LENGTH).astype(np.int32)
    times = np.tile(np.arange(LENGTH) // 2 * DAY, NUM_USERS)
    return Events(items, times, np.zeros(len(items), np.int64))


def examples() -> Examples:
    """Users with five events before their boundary, at one of three batch times."""
    first = np.arange(NUM_USERS) * LENGTH
    return Examples(
        first,
        first + 5,
        first + LENGTH,
        first=first,
        query=np.arange(NUM_USERS) % 3,
        basket_end=first + 6,
    )


def batch_of(
    chosen: Examples,
    model: ModelConfig,
    *,
    filter_seen: bool,
    rank: int = 0,
    world_size: int = 1,
    tables: list[Similar] = TABLES,
    popular: Popular | None = None,
) -> Batch:
    return make_batch(
        events(),
        part_of(chosen, rank, world_size),
        query_times=QUERY_TIMES,
        model=model,
        objective=ObjectiveConfig(),
        generator=torch.Generator().manual_seed(0),
        filter_seen=filter_seen,
        similar=tables.__getitem__,
        popular=None if popular is None else (lambda _: popular),
    )


def objective_of(model: ModelConfig, filter_seen: bool) -> Objective:
    trends_QVF = torch.randn((3, NUM_ITEMS, NUM_TRENDS), generator=torch.Generator().manual_seed(0))
    candidates_V = torch.ones(NUM_ITEMS, dtype=torch.bool)
    return Objective(lively_model(model), candidates_V, trends_QVF, filter_seen=filter_seen)
