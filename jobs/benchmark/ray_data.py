"""What Ray Data costs per block and per batch: `jobs.benchmark ray`."""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray.data

from ..process.ray_session import start_ray


class _Sleeper:
    def __call__(self, batch: pa.Table) -> pa.Table:
        start = time.time()
        time.sleep(batch["seconds"][0].as_py())  # stands for a model's work, and takes no CPU
        times = {"start": [start], "end": [time.time()], "actor": [os.getpid()]}
        return pa.table(times).append_column("block", batch["block"])


@dataclass(frozen=True)
class _Setting:
    """A stage of sleeping actors."""

    actors: int
    blocks: int  # per actor
    batches: int  # per block
    seconds: float  # of a batch


def _sleep(setting: _Setting) -> tuple[pd.DataFrame, float]:
    """When each batch slept, and the driver's CPU seconds."""
    num_blocks = setting.actors * setting.blocks
    rows = [
        {"block": block, "seconds": setting.seconds}
        for block in range(num_blocks)
        for _ in range(setting.batches)
    ]
    stage = ray.data.from_items(rows, override_num_blocks=num_blocks).map_batches(
        _Sleeper,
        batch_format="pyarrow",
        batch_size=1,
        num_cpus=0.05,
        compute=ray.data.ActorPoolStrategy(size=setting.actors),
    )
    before = time.process_time()
    slept = stage.to_pandas()
    return slept, time.process_time() - before


def _utilisation(slept: pd.DataFrame) -> float:
    """The share of time that the actors slept, from the first start to the last end."""
    span = slept["end"].max() - slept["start"].min()
    busy = (slept["end"] - slept["start"]).sum()
    return float(busy / (slept["actor"].nunique() * span))


def _steady_utilisation(slept: pd.DataFrame) -> float:
    """The same between the first start and the last end of each actor: without starting up."""
    spans = slept.groupby("actor").agg({"start": "min", "end": "max"})
    busy = (slept["end"] - slept["start"]).sum()
    return float(busy / (spans["end"] - spans["start"]).sum())


def _gaps(slept: pd.DataFrame) -> tuple[float, float]:
    """Median seconds between the blocks of an actor, and between the batches of a block."""
    ordered = slept.sort_values(["actor", "start"])
    gap = ordered["start"] - ordered.groupby("actor")["end"].shift()
    is_same_block = ordered["block"] == ordered.groupby("actor")["block"].shift()
    between, within = gap[~is_same_block].dropna(), gap[is_same_block]
    return float(between.median()), float(within.median()) if len(within) else 0.0


def ray_data(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What Ray Data costs per block and per batch, with actors that only sleep."""
    start_ray()
    fitted = [
        _Setting(actors, blocks=6, batches=batches, seconds=0.2)
        for actors in (1, 2, 4, 8)
        for batches in (1, 4)
    ]
    between, within, driver_seconds = [], [], []
    for setting in fitted:
        slept, driver = _sleep(setting)
        driver_seconds.append(driver)
        gaps = _gaps(slept)
        between.append(gaps[0])
        if setting.batches > 1:
            within.append(gaps[1])
        yield _figures("fitted", setting, slept, driver)
    per_block, per_batch = statistics.median(between), statistics.median(within)
    num_blocks = [setting.actors * setting.blocks for setting in fitted]
    per_block_of_driver, once = np.polyfit(num_blocks, driver_seconds, 1)
    costs = {"block_ms": round(1000 * per_block, 2), "batch_ms": round(1000 * per_batch, 2)}
    costs |= {"driver_ms_per_block": round(1000 * per_block_of_driver, 2)}
    costs |= {"driver_ms_once": round(1000 * once, 2)}
    yield {"variant": "cost of a block and of a batch", **costs}
    asked = _Setting(options.actors, blocks=10, batches=1, seconds=options.block_seconds)
    held_out = _Setting(16, blocks=5, batches=2, seconds=0.5)
    for name, setting in (("asked for", asked), ("held out", held_out)):
        slept, driver = _sleep(setting)
        work = setting.batches * setting.seconds
        lost = per_block + (setting.batches - 1) * per_batch
        predicted = {"predicted_steady_utilisation": round(work / (work + lost), 3)}
        yield _figures(name, setting, slept, driver) | predicted


def _figures(name: str, setting: _Setting, slept: pd.DataFrame, driver: float) -> dict[str, Any]:
    return {
        "variant": name,
        **vars(setting),
        "utilisation": round(_utilisation(slept), 3),
        "steady_utilisation": round(_steady_utilisation(slept), 3),
        "driver_ms": round(1000 * driver, 2),
    }
