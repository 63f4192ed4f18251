"""How things are measured: warm, the median of a few rounds, memory of a process of its own."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from diffsasrec.config.training import ModelConfig
from diffsasrec.memory import give_back_freed_memory
from diffsasrec.model.features import trend_counts, trend_features
from diffsasrec.times import DAY

Variants = dict[str, Callable[[], object]]
SEED = 0
Histories = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _memory_mib(of: str) -> float:
    """VmRSS or VmHWM of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{of}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {of}")


def memory_of(run: Callable[[], object]) -> float:
    """The peak of memory while `run` works, above what was there before, MiB."""
    run()  # what is made once and kept is no memory of the lists
    give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _memory_mib("VmRSS")
    run()
    return _memory_mib("VmHWM") - before


def median_seconds(variants: Variants, rounds: int, device: str) -> Iterator[tuple[str, float]]:
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for nth in range(rounds + 1):  # the first is the warm-up
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()  # a GPU is only told what to do
            if nth:
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        yield name, statistics.median(values)


def random_histories(options: argparse.Namespace) -> Histories:
    """Random items, times and offsets: log-normal lengths, median 30, or all of the longest."""
    rng = np.random.default_rng(SEED)
    lengths = np.full(options.users, options.max_len)
    if options.lengths == "lognormal":
        lengths = rng.lognormal(np.log(30), 1.0, options.users).astype(np.int64)
        lengths = lengths.clip(2, options.max_len)
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    items = rng.integers(options.items, size=offsets[-1]).astype(np.int32)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return items, place * DAY, offsets


def random_trends(options: argparse.Namespace, histories: Histories) -> npt.NDArray[np.float32]:
    items, times, offsets = histories
    now = np.array([options.max_len * DAY])
    counts = trend_counts(items, times, offsets, query_times=now, num_items=options.items)
    return trend_features(counts)


def model_config(options: argparse.Namespace, *, num_slots: int) -> ModelConfig:
    return ModelConfig(
        hidden_size=options.hidden,
        num_blocks=options.blocks,
        num_heads=options.heads,
        max_seq_len=options.max_len,
        num_slots=num_slots,
    )


def made_once(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    made = cache(make)
    return lambda: made()()
