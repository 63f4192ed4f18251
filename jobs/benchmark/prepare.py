"""Rows per second from Parquet to sequences: `jobs.benchmark prepare`."""

import argparse
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from diffsasrec.config.data import EventsConfig, SplitConfig
from diffsasrec.files.storage import Storage
from diffsasrec.formats.listing import InputFile, list_files
from diffsasrec.inputs.log_files import inspect_inputs
from diffsasrec.sequences.buckets import num_buckets
from diffsasrec.sequences.build import build_sequences
from diffsasrec.sequences.split_time import survey_log

from ..process.ray_session import start_ray
from .measure import SEED, Variants, median_seconds
from .references import (
    prepare_with_duckdb,
    prepare_with_polars,
)

ROWS_OF_A_FILE = 10_000_000  # of the log of `prepare`
BEFORE = 1_640_000_000_000_000  # microseconds: after every event of it


def prepare(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows per second from Parquet to sequences, by Ray Data, beside DuckDB and Polars."""
    start_ray()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        lake = Storage.of(directory)
        files = _write_log(lake.sub("log"), options)
        log_path = f"{directory}/log/*.parquet"
        variants: Variants = {
            "prepare": lambda: _prepare_log(lake, files),
            "duckdb": lambda: prepare_with_duckdb(log_path, directory, quantile=0.95),
            "polars": lambda: prepare_with_polars(log_path, directory, quantile=0.95),
        }
        if options.variants:
            variants = {name: variants[name] for name in options.variants.split(",")}
        for name, seconds in median_seconds(variants, options.rounds, "cpu"):
            yield {"variant": name, "rows_per_s": round(options.rows / seconds, 2)}
        store_gib = ray.cluster_resources()["object_store_memory"] / 2**30
        yield {"variant": "object store", "gib": round(store_gib, 2), "spilled_mib": _spilled_mib()}


def _prepare_log(lake: Storage, files: list[InputFile]) -> None:
    """What the stage prepare does with a log, without its checks."""
    events = EventsConfig(path=lake.url("log"), time_unit="s")
    found = inspect_inputs(files, events)
    survey = survey_log(
        found,
        events=events,
        before=BEFORE,
        quantile=0.95,
        fixed_time=None,
        quarantine=lake.sub("quarantine"),
        check=lambda counts, newest, examples: None,
        progress=lambda done, total: None,
    )
    build_sequences(
        found,
        events=events,
        before=BEFORE,
        split_time=survey.split_time,
        num=num_buckets(survey.num_users, users_per_bucket=20_000),
        split=SplitConfig(),
        previous_vocab=None,
        output=lake,
        progress=lambda done, total: None,
    )


def _write_log(directory: Storage, options: argparse.Namespace) -> list[InputFile]:
    """A random log, in files that fit the memory one at a time."""
    rng = np.random.default_rng(SEED)
    for start in range(0, options.rows, ROWS_OF_A_FILE):
        num = min(ROWS_OF_A_FILE, options.rows - start)
        log = {
            "user_id": rng.integers(options.users, size=num),
            "item_id": (options.items * rng.random(num) ** 3).astype(np.int64),
            "timestamp": rng.integers(1_600_000_000, 1_630_000_000, num),
        }
        directory.write_table(f"part-{start // ROWS_OF_A_FILE:05d}.parquet", pa.table(log))
    return list_files(directory.url("")).files


def _spilled_mib() -> int:
    """What the object store of this Ray has written to disk since it started."""
    ray_command = str(Path(sysconfig.get_path("scripts"), "ray"))
    command = [ray_command, "memory", "--stats-only"]
    address = ray.get_runtime_context().gcs_address
    report = subprocess.run(
        [*command, "--address", address], capture_output=True, text=True, check=True
    ).stdout
    spilled = re.search(r"Spilled (\d+) MiB", report)
    return int(spilled[1]) if spilled else 0
