"""What a night computes, in operations, and how fast machines do them.

Rates of this machine's CPU are measured on the spot. Everything about GPUs comes from estimates and
formulas: no GPU has been measured.

Legend of the formulas: d width of the model, w width of the item vectors (d and the trends), V
items, L events of a mean history, K list length, S steps, R states per user that are multiplied
with the whole catalogue.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.config.training import FinetuneConfig, ModelConfig, TrainStageConfig
from diffsasrec.model.features import NUM_TRENDS
from diffsasrec.model.heads.trends import NUM_MIXED
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.train.epochs import suited_num_negatives

TILES = ((256, 4096), (512, 2048), (1024, 1024), (2048, 4096))
GPU_SHARE = 0.2  # of its rate that training reaches
BACKWARD = 3  # a training step is so many forward passes


@dataclass(frozen=True)
class Workload:
    """The size of a log, of a model and of its lists."""

    users: float
    items: float
    history: float  # mean events of a history
    hidden: int
    blocks: int
    heads: int
    k: int
    decode: Literal["single", "multi", "autoregressive"]
    steps: int

    @property
    def width(self) -> int:
        """Of the item vectors."""
        return self.hidden + NUM_TRENDS + NUM_MIXED

    @property
    def rows(self) -> int:
        """States per user that the exact way multiplies with the whole catalogue."""
        explored = int(self.decode == "multi" and self.steps > 1 and self.k > 1)
        return rows_scored(
            DecodingConfig(k=self.k, decode=self.decode, steps=self.steps, explore_items=explored)
        )

    @property
    def rows_of_shortlist(self) -> int:
        """The same where a shortlist suffices."""
        return 1 if self.decode == "multi" else self.rows

    @property
    def encoder(self) -> float:
        """FLOP of the transformer for one user's list."""
        steps = {"single": 0, "multi": self.steps, "autoregressive": self.k - 1}[self.decode]
        flops = encoder_flops(self, self.history, self.history / 2)
        # of the history the slots need no more than keys and values in the last block
        flops -= self.history * (14 * self.hidden**2 + 2 * self.history * self.hidden)
        flops += encoder_flops(self, 1, self.history)
        return flops + steps * encoder_flops(self, self.k, self.history + self.k)

    @property
    def products(self) -> float:
        """FLOP of one state and the whole catalogue."""
        return 2.0 * self.width * self.items


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


def encoder_flops(load: Workload, tokens: float, keys: float) -> float:
    """20 d^2 of products with weights and 4 d of attention per key, for each token and block."""
    d = load.hidden
    return float(load.blocks * tokens * (20 * d * d + 4 * keys * d))


def seconds_on_cpu(load: Workload, *, encoding: float, products: float) -> dict[str, float]:
    """Of one user's list, on a core with these FLOP/s (`cpu_rates`), by the way it is made."""
    ways = {"exact": load.rows, "shortlist": load.rows_of_shortlist}
    return {
        way: load.encoder / encoding + rows * load.products / products for way, rows in ways.items()
    }


def seconds_on_gpu(load: Workload, device: Device) -> dict[str, float]:
    """Of one user's list, by the way it is made; a formula, never measured."""
    # logits are written, read for the maxima and read for the sums
    logits = 3 * 4 * load.items / device.bytes
    sums = load.items / device.exponentials
    one = load.products / device.float32 + max(logits, sums)
    encoder = load.encoder / device.float32
    return {
        "shortlist": encoder + load.rows_of_shortlist * one,
        # every state against everything; a sum for the first alone
        "fused": encoder + load.rows * 3 * load.products / device.tf32 + sums,
    }


def training_seconds(
    load: Workload,
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

    def seconds(states: float, sequences: float, *, at_batch_times: bool) -> float:
        num = num_negatives
        if num is None:
            num = suited_num_negatives(int(load.items), at_batch_times=at_batch_times)
        loss = states * 2 * load.width * (num or load.items)
        encoder = encoder_flops(load, load.history, load.history / 2)
        return BACKWARD * sequences * (encoder / encoding + loss / products)

    sequences = load.users * finetune.epochs * finetune.query_times / 2
    return (
        seconds(load.history, load.users * pretrain.epochs, at_batch_times=False),
        seconds(num_slots, sequences, at_batch_times=True),
    )


def cpu_rates(load: Workload) -> tuple[float, float]:
    """FLOP/s of one core here: in the encoder, and in products with the catalogue."""
    torch.set_num_threads(1)
    config = ModelConfig(hidden_size=load.hidden, num_blocks=load.blocks, num_heads=load.heads)
    model = SequenceModel(config, 1000).eval()
    length, users = min(int(load.history), config.max_seq_len), 64
    items_BL = torch.randint(1000, (users, length))
    lengths_B = torch.full((users,), length)
    with torch.inference_mode():
        encoding = _best_seconds(lambda: model.encode(items_BL, lengths_B))
    encoder = users * encoder_flops(load, length, length / 2) / encoding
    num_rows, num_items = 1024, 8192
    products = min(_best_seconds(run) for run in products_alone(num_rows, num_items, load.width))
    return encoder, 2 * num_rows * num_items * load.width / products


def _best_seconds(run: Any) -> float:
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def rows_scored(decoding: DecodingConfig) -> int:
    """States per user that the exact way multiplies with the whole catalogue."""
    if decoding.decode == "single":
        return 1
    if decoding.decode == "autoregressive":
        return decoding.k
    explored = decoding.explore_items
    sure, sure_steps = decoding.k - explored, decoding.steps - bool(explored)
    rows, filled = 1, 0  # the next item's
    for step in range(sure_steps):
        rows += decoding.k - filled if filled < sure else 0
        filled += -(-(sure - filled) // (sure_steps - step))
    return rows


def products_alone(num_rows: int, num_items: int, width: int) -> Iterator[Callable[[], object]]:
    """The matrix products of scoring and nothing else, once per shape of a tile."""
    for rows, columns in TILES:
        states = torch.randn(rows, width)
        vectors = torch.randn(num_items, width)
        buffer = torch.empty(rows * columns)

        def run(
            states: Tensor = states, vectors: Tensor = vectors, buffer: Tensor = buffer
        ) -> None:
            for start in range(0, num_rows, len(states)):
                some = states[: min(len(states), num_rows - start)]
                for tile in vectors.split(len(buffer) // len(states)):
                    out = buffer[: len(some) * len(tile)].view(len(some), len(tile))
                    torch.mm(some, tile.T, out=out)

        yield run
