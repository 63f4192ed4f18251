"""Measured figures of this machine: one line per variant, warm, the median of a few rounds.

    python -m jobs.benchmark score --items 100000 --decode multi --json

The variants of a subcommand run in turn within a round, so that their ratio holds on a machine
that is shared with others.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from ..runner.command import run_command
    from .arguments import parse_benchmark

    run_command(__spec__, parse_benchmark)

import argparse
import json
import resource
from collections.abc import Callable, Iterator
from typing import Any

import ray.data
import torch

from diffsasrec.memory import keep_freed_memory

from ..faults.reliability import reliability
from .night import night
from .plan import plan
from .prepare import prepare
from .ray_data import ray_data
from .score import score
from .train import train


def main(options: argparse.Namespace) -> None:
    if "threads" in options:
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the workers that train and score
    hidden = {"json", "command", "rounds", "variants", "run"}
    hidden |= {"figures", "directory", "minutes", "active_days"}
    sizes = {name: value for name, value in vars(options).items() if name not in hidden}
    for figures in MEASURES[options.command](options):
        line = {"device": "cpu", "threads": torch.get_num_threads()} | sizes | figures
        line["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        text = ", ".join(f"{name} {value}" for name, value in line.items())
        print(json.dumps(line) if options.json else text, flush=True)
    if ray.is_initialized():
        ray.shutdown()


MEASURES: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "score": score,
    "train": train,
    "prepare": prepare,
    "ray": ray_data,
    "plan": plan,
    "reliability": reliability,
    "night": night,
}
