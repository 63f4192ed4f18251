"""What a night of another size costs: `jobs.benchmark plan`.

Rates of this machine's CPU are measured on the spot; the costs of Ray Data are those that
`jobs.benchmark ray` found on two cores. Everything about GPUs comes from estimates and formulas:
no GPU has been measured. Each line says which it is.

Legend of the formulas: d width of the model, w width of the item vectors (d and the trends), V
items, L events of a mean history, K list length, S steps, R states per user that are multiplied
with the whole catalogue.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from diffsasrec.config.training import FinetuneConfig, ModelConfig, TrainStageConfig
from diffsasrec.decode.decoding import Decoding
from diffsasrec.decode.exploration import Exploration
from diffsasrec.model.features import NUM_TRENDS
from diffsasrec.model.heads import NUM_MIXED
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.train.epochs import suited_num_negatives
from jobs.rivals import products_alone, rows_scored

BLOCK_SECONDS = 0.016  # between two blocks of an actor
DRIVER_SECONDS = 0.017  # of the driver's CPU per block: more than most measurements found
LEAST_SECONDS = 2.0  # of a block, so that the gaps between blocks cost less than 1 %
BLOCKS_PER_ACTOR = 20  # so that the last blocks leave few actors idle
GPU_SHARE = 0.2  # of its rate that training reaches
BACKWARD = 3  # a training step is so many forward passes


@dataclass(frozen=True)
class Device:
    """Estimates of sustained rates.

    Training multiplies in bfloat16; lists are made in float32, by the fused kernels as three
    products of TF32. Exponentials: multiprocessors x 16 per clock x clock.
    """

    bfloat16: float  # FLOP/s
    float32: float
    tf32: float
    bytes: float  # of memory, a second
    exponentials: float  # a second


GPUS = {
    "H200": Device(790e12, 55e12, 350e12, 4.3e12, 132 * 16 * 1.75e9),
    "A10G": Device(70e12, 25e12, 35e12, 0.6e12, 80 * 16 * 1.7e9),
    "L4": Device(60e12, 20e12, 30e12, 0.3e12, 58 * 16 * 2.0e9),
}


def plan(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Hours, buckets, bytes and the driver's load of a night of another size."""
    width = options.hidden + NUM_TRENDS + NUM_MIXED
    decoding = Decoding(
        options.k, options.decode, steps=options.steps, exploration=_exploration(options)
    )
    rows = rows_scored(decoding)
    steps = {"single": 0, "multi": options.steps, "autoregressive": options.k - 1}[options.decode]
    encoder = encoder_flops(options, options.history, options.history / 2)
    # of the history the slots need no more than keys and values in the last block
    encoder -= options.history * (14 * options.hidden**2 + 2 * options.history * options.hidden)
    encoder += encoder_flops(options, 1, options.history)
    encoder += steps * encoder_flops(options, options.k, options.history + options.k)
    whole = 2 * width * options.items  # FLOP of one state and the whole catalogue
    yield {
        "variant": "per user",
        "kind": "formula",
        "encoder_mflop": round(encoder / 1e6, 2),
        "catalogue_mflop": round(rows * whole / 1e6, 2),
        "states_exact": rows,
        "states_shortlist": 1 if options.decode == "multi" else rows,
    }
    seconds = {}
    flops_encoder, flops_products = cpu_rates(options, width)
    for name, states in (("exact", rows), ("shortlist", 1 if options.decode == "multi" else rows)):
        seconds[f"CPU core, {name}"] = encoder / flops_encoder + states * whole / flops_products
        yield _hours(options, f"CPU core, {name}", seconds[f"CPU core, {name}"], "extrapolated")
    for gpu, device in GPUS.items():
        # logits are written, read for the maxima and read for the sums
        logits = 3 * 4 * options.items / device.bytes
        sums = options.items / device.exponentials
        states = 1 if options.decode == "multi" else rows
        unfused = states * (whole / device.float32 + max(logits, sums))
        seconds[gpu] = encoder / device.float32 + unfused
        yield _hours(options, f"{gpu}, shortlist", seconds[gpu], "formula, never measured")
        # every state against everything; a sum for the first alone
        fused = encoder / device.float32 + rows * 3 * whole / device.tf32 + sums
        yield _hours(options, f"{gpu}, fused", fused, "formula, never measured")
    yield _training(options, "CPU core", flops_encoder, flops_products, "extrapolated")
    for gpu, device in GPUS.items():
        rate = device.bfloat16 * GPU_SHARE
        yield _training(options, gpu, rate, rate, "formula, never measured")
    for name in ("CPU core, shortlist", *GPUS):
        yield _buckets(options, name, seconds[name])
    yield _bytes(options, width)


def _exploration(options: argparse.Namespace) -> Exploration:
    return Exploration(int(options.decode == "multi" and options.steps > 1 and options.k > 1))


def encoder_flops(options: argparse.Namespace, tokens: float, keys: float) -> float:
    """20 d^2 of products with weights and 4 d of attention per key, for each token and block."""
    d = options.hidden
    return float(options.blocks * tokens * (20 * d * d + 4 * keys * d))


def training_seconds(
    options: argparse.Namespace,
    pretrain: TrainStageConfig,
    finetune: FinetuneConfig,
    *,
    num_negatives: int | None,
    num_slots: int,
    encoding: float,
    products: float,
) -> tuple[float, float]:
    """What pretraining and fine-tuning take one worker, at FLOP/s of the encoder and of products.

    Every event of a history is scored in pretraining, the slots behind it in fine-tuning, where a
    user is an example at half of the batch times: not everyone has an event behind each of them.
    """
    width = options.hidden + NUM_TRENDS + NUM_MIXED

    def seconds(states: float, sequences: float, *, at_batch_times: bool) -> float:
        num = num_negatives
        if num is None:
            num = suited_num_negatives(int(options.items), at_batch_times=at_batch_times)
        loss = states * 2 * width * (num or options.items)
        encoder = encoder_flops(options, options.history, options.history / 2)
        return BACKWARD * sequences * (encoder / encoding + loss / products)

    sequences = options.users * finetune.epochs * finetune.query_times / 2
    return (
        seconds(options.history, options.users * pretrain.epochs, at_batch_times=False),
        seconds(num_slots, sequences, at_batch_times=True),
    )


def cpu_rates(options: argparse.Namespace, width: int) -> tuple[float, float]:
    """FLOP/s of one core here: in the encoder, and in products with the catalogue."""
    torch.set_num_threads(1)
    config = ModelConfig(
        hidden_size=options.hidden, num_blocks=options.blocks, num_heads=options.heads
    )
    model = SequenceModel(config, 1000).eval()
    length, users = min(int(options.history), config.max_seq_len), 64
    items_BL = torch.randint(1000, (users, length))
    lengths_B = torch.full((users,), length)
    with torch.inference_mode():
        encoding = _best_seconds(lambda: model.encode(items_BL, lengths_B))
    encoder = users * encoder_flops(options, length, length / 2) / encoding
    num_rows, num_items = 1024, 8192
    products = min(_best_seconds(run) for run in products_alone(num_rows, num_items, width))
    return encoder, 2 * num_rows * num_items * width / products


def _best_seconds(run: Any) -> float:
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _hours(options: argparse.Namespace, name: str, seconds: float, kind: str) -> dict[str, Any]:
    return {
        "variant": name,
        "kind": kind,
        "users_per_s": round(1 / seconds, 1),
        "hours": round(options.users * seconds / 3600, 3),
    }


def _training(
    options: argparse.Namespace, name: str, encoding: float, products: float, kind: str
) -> dict[str, Any]:
    """The recipe with its defaults; what is measured and what serves are each trained by it."""
    seconds = training_seconds(
        options,
        TrainStageConfig(),
        FinetuneConfig(),
        num_negatives=None,
        num_slots=options.k,
        encoding=encoding,
        products=products,
    )
    pretrain, finetune = (each / 3600 for each in seconds)
    return {
        "variant": f"training by {options.workers} x {name}",
        "kind": kind,
        "pretrain_hours": round(pretrain, 3),
        "finetune_hours": round(finetune, 3),
        "refit_hours": round(pretrain + finetune, 3),
        "wall_h": round(2 * (pretrain + finetune) / options.workers, 3),
    }


def _buckets(options: argparse.Namespace, name: str, seconds: float) -> dict[str, Any]:
    """The bucket that keeps an actor busy long enough, and what the driver has to do then."""
    # the driver hands out so many blocks a second, for all actors together
    least = max(LEAST_SECONDS, options.actors * DRIVER_SECONDS)
    most = options.users * seconds / (options.actors * BLOCKS_PER_ACTOR)
    users = max(1, math.ceil(max(least, min(most, 60.0)) / seconds))
    users = min(users, 1_000_000)  # a bucket has to fit the memory of an actor
    num_buckets = math.ceil(options.users / users)
    return {
        "variant": f"buckets for {options.actors} x {name}",
        "kind": "extrapolated" if name.startswith("CPU") else "formula, never measured",
        "users_per_bucket": users,
        "buckets": num_buckets,
        "seconds_per_bucket": round(users * seconds, 2),
        "utilisation": round(users * seconds / (users * seconds + BLOCK_SECONDS), 4),
        "driver_cpu_s": round(num_buckets * DRIVER_SECONDS, 1),
        "wall_h": round(options.users * seconds / options.actors / 3600, 3),
    }


def _bytes(options: argparse.Namespace, width: int) -> dict[str, Any]:
    """What is read and written in a night, and what the workers send each other in training."""
    embedding = 4 * options.items * options.hidden
    share = 2 * (options.workers - 1) / options.workers  # of a ring all-reduce, per worker
    return {
        "variant": "bytes",
        "kind": "formula",
        "sequences_gb": round(options.users * options.history * 12 / 1e9, 2),
        "lists_gb": round(options.users * options.k * 14 / 1e9, 2),
        "catalogue_gb_per_actor": round(4 * options.items * width / 1e9, 3),
        "embedding_gradient_mb_per_step": round(share * embedding / 1e6, 2),
    }
