"""What scoring fewer users saves: `jobs.benchmark night`.

The work of the stages score and publish on a published run, in this process: its weights and
histories, no cluster and no files written. `passes` are those over the whole log, popularity and
trends, which a night makes for however few users.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.features import trend_counts, window_counts
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.score.list_maker import ListMaker
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import flatten

from ..night.expected_lists import Yardstick, broken_rules
from ..night.scoring import night_scoring

T = TypeVar("T")
PARTS = ("users", "lists", "passes_seconds", "lists_seconds", "audit_seconds")


def night(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The cost of lists and their audit where only users of the last days get one."""
    torch.set_num_threads(1)  # as an actor
    run, config = read_run(options.run)
    num_buckets = sum(1 for info in run.storage.list("sequences"))
    for days in (*options.active_days, None):
        score = config.score.model_copy(update={"active_days": days})
        scoring = night_scoring(config.model_copy(update={"score": score}), run)
        rounds = [_round(scoring, num_buckets) for _ in range(options.rounds)]
        figures = {name: float(np.median([r[name] for r in rounds])) for name in rounds[0]}
        seconds = {name: round(value, 2) for name, value in figures.items() if "seconds" in name}
        users, lists = int(figures["users"]), int(figures["lists"])
        yield {
            "variant": "everyone" if days is None else f"active in {days:g} days",
            "users": users,
            "lists": lists,
            "share": round(lists / users, 3),
            **seconds,
        }


def read_run(path: str) -> tuple[RunDir, Config]:
    """A published run with its configuration.

    Raises:
        ConfigError: there is none.
    """
    storage = Storage.of(path.rstrip("/"))
    try:
        manifest = json.loads(storage.read_bytes("manifest.json"))
    except FileNotFoundError:
        raise ConfigError(f"--run {path} has no manifest.json; name a published run") from None
    lake = Storage.of(str(Path(storage.root).parents[2]))
    run = RunDir(lake, manifest["ds"], manifest["run_id"], manifest["identity"], attempt="")
    return run, Config.model_validate(manifest["config"])


def _round(scoring: Scoring, num_buckets: int) -> dict[str, float]:
    """CPU seconds of one night of a run, by part."""
    maker = ListMaker(scoring, "cpu")
    yardstick = Yardstick.of(scoring)
    total = dict.fromkeys(PARTS, 0.0)
    for bucket in range(num_buckets):
        sequences = maker.read_bucket(bucket_name(bucket))
        passes, _ = _cpu_seconds(_passes, sequences, scoring, maker)
        lists, table = _cpu_seconds(maker.lists, sequences)
        audit, _ = _cpu_seconds(_audit, bucket, table, scoring, yardstick)
        parts = (sequences.num_rows, table.num_rows, passes, lists, audit)
        total = {name: total[name] + part for name, part in zip(PARTS, parts, strict=True)}
    return total


def _cpu_seconds(work: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    before = time.process_time()
    result = work(*arguments)
    return time.process_time() - before, result


def _passes(sequences: pa.Table, scoring: Scoring, maker: ListMaker) -> None:
    flat, num_items = flatten(sequences), maker.vocab.num_rows
    window_counts(flat.items, flat.times, before=scoring.query_time, num_items=num_items)
    now = np.array([scoring.query_time])
    trend_counts(flat.items, flat.times, flat.offsets, query_times=now, num_items=num_items)


def _audit(bucket: int, table: pa.Table, scoring: Scoring, yardstick: Yardstick) -> None:
    broken = broken_rules(table, bucket, scoring, yardstick)
    assert not broken, broken
