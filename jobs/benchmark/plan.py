"""What a night of another size costs: `jobs.benchmark plan`.

Rates of this machine's CPU are measured on the spot; the costs of Ray Data are those that
`jobs.benchmark ray` found on two cores. Each line says whether it was measured.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from diffsasrec.config.training import FinetuneConfig, TrainStageConfig

from ..planning.workload import (
    GPU_SHARE,
    GPUS,
    Workload,
    cpu_rates,
    seconds_on_cpu,
    seconds_on_gpu,
    training_seconds,
)

BLOCK_SECONDS = 0.016  # between two blocks of an actor
DRIVER_SECONDS = 0.017  # of the driver's CPU per block: more than most measurements found
LEAST_SECONDS = 2.0  # of a block, so that the gaps between blocks cost less than 1 %
BLOCKS_PER_ACTOR = 20  # so that the last blocks leave few actors idle


def plan(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Hours, buckets, bytes and the driver's load of a night of another size."""
    sizes = {field.name: getattr(options, field.name) for field in fields(Workload)}
    load = Workload(**sizes)
    yield {
        "variant": "per user",
        "kind": "formula",
        "encoder_mflop": round(load.encoder / 1e6, 2),
        "catalogue_mflop": round(load.rows * load.products / 1e6, 2),
        "states_exact": load.rows,
        "states_shortlist": load.rows_of_shortlist,
    }
    encoding, products = cpu_rates(load)
    seconds = {}
    for way, each in seconds_on_cpu(load, encoding=encoding, products=products).items():
        seconds[f"CPU core, {way}"] = each
        yield _hours(load, f"CPU core, {way}", each, "extrapolated")
    for gpu, device in GPUS.items():
        ways = seconds_on_gpu(load, device)
        seconds[gpu] = ways["shortlist"]
        for way, each in ways.items():
            yield _hours(load, f"{gpu}, {way}", each, "formula, never measured")
    yield _training(load, options.workers, "CPU core", encoding, products, "extrapolated")
    for gpu, device in GPUS.items():
        rate = device.bfloat16 * GPU_SHARE
        yield _training(load, options.workers, gpu, rate, rate, "formula, never measured")
    for name in ("CPU core, shortlist", *GPUS):
        yield _buckets(load, options.actors, name, seconds[name])
    yield _bytes(load, options.workers)


def _hours(load: Workload, name: str, seconds: float, kind: str) -> dict[str, Any]:
    return {
        "variant": name,
        "kind": kind,
        "users_per_s": round(1 / seconds, 1),
        "hours": round(load.users * seconds / 3600, 3),
    }


def _training(
    load: Workload, workers: int, name: str, encoding: float, products: float, kind: str
) -> dict[str, Any]:
    """The recipe with its defaults; what is measured and what serves are each trained by it."""
    seconds = training_seconds(
        load,
        TrainStageConfig(),
        FinetuneConfig(),
        num_negatives=None,
        num_slots=load.k,
        encoding=encoding,
        products=products,
    )
    pretrain, finetune = (each / 3600 for each in seconds)
    return {
        "variant": f"training by {workers} x {name}",
        "kind": kind,
        "pretrain_hours": round(pretrain, 3),
        "finetune_hours": round(finetune, 3),
        "refit_hours": round(pretrain + finetune, 3),
        "wall_h": round(2 * (pretrain + finetune) / workers, 3),
    }


def _buckets(load: Workload, actors: int, name: str, seconds: float) -> dict[str, Any]:
    """The bucket that keeps an actor busy long enough, and what the driver has to do then."""
    # the driver hands out so many blocks a second, for all actors together
    least = max(LEAST_SECONDS, actors * DRIVER_SECONDS)
    most = load.users * seconds / (actors * BLOCKS_PER_ACTOR)
    users = max(1, math.ceil(max(least, min(most, 60.0)) / seconds))
    users = min(users, 1_000_000)  # a bucket has to fit the memory of an actor
    num_buckets = math.ceil(load.users / users)
    return {
        "variant": f"buckets for {actors} x {name}",
        "kind": "extrapolated" if name.startswith("CPU") else "formula, never measured",
        "users_per_bucket": users,
        "buckets": num_buckets,
        "seconds_per_bucket": round(users * seconds, 2),
        "utilisation": round(users * seconds / (users * seconds + BLOCK_SECONDS), 4),
        "driver_cpu_s": round(num_buckets * DRIVER_SECONDS, 1),
        "wall_h": round(load.users * seconds / actors / 3600, 3),
    }


def _bytes(load: Workload, workers: int) -> dict[str, Any]:
    """What is read and written in a night, and what the workers send each other in training."""
    embedding = 4 * load.items * load.hidden
    share = 2 * (workers - 1) / workers  # of a ring all-reduce, per worker
    return {
        "variant": "bytes",
        "kind": "formula",
        "sequences_gb": round(load.users * load.history * 12 / 1e9, 2),
        "lists_gb": round(load.users * load.k * 14 / 1e9, 2),
        "catalogue_gb_per_actor": round(4 * load.items * load.width / 1e9, 3),
        "embedding_gradient_mb_per_step": round(share * embedding / 1e6, 2),
    }
