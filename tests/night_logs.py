"""Prepared nights on logs that grow: prepared alone, and published without lists."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.config.config import Config
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.log_files import list_log
from diffsasrec.lake.chain import append_entry
from diffsasrec.lake.manifest import manifest_for
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.times import DAY, microseconds
from jobs.night.records import Prepared
from jobs.prepare import main as prepare
from jobs.publish import describe_file
from jobs.runner.identity import source_digest

SECOND = 1_000_000


def config_of(log: Path | str, lake: Path, **changes: Any) -> Config:
    """Of events with types, rare items and small buckets; `changes`: of sections."""
    types = {"view": {"weight": 0.1, "target": False}, "buy": {}}
    sections: dict[str, Any] = {
        "lake": str(lake),
        "events": {
            "path": str(log),
            "time_unit": "s",
            "partition_column": "dt",
            "type_column": "kind",
            "types": types,
            "incremental": True,
            "max_bad_fraction": 0.2,
            "min_rows_of_newest": 10,
        },
        "split": {"users_per_bucket": 20, "min_item_count": 3, "max_user_events": 20},
    }
    for name, section in changes.items():
        sections[name] = {**sections.get(name, {}), **section}
    return Config.model_validate(sections)


def write_part(path: Path, day: str, *, seed: int, num: int = 300, late: int = 0) -> None:
    """Events around a day: some twice, some bad, some after it ends, and late ones of old days."""
    rng = np.random.default_rng(seed)
    start = microseconds(day) // SECOND
    times = start + rng.integers(0, 26 * 6, num) * 600  # up to two hours into the next day
    times[:late] -= rng.integers(1, 20, late) * (DAY // SECOND)
    users = rng.integers(0, 40 + seed, num)
    rows = {
        "user_id": pa.array(users, mask=rng.random(num) < 0.02),
        "item_id": [f"i{n}" for n in rng.zipf(1.4, num) % (50 + seed)],
        "timestamp": np.where(rng.random(num) < 0.02, -5, times),
        "kind": rng.choice(["view", "buy", "other"], num),
    }
    table = pa.table(rows)
    table = pa.concat_tables([table, table.slice(num // 2, num // 8)])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=200)


def opened(config: Config, ds: str, run_id: str) -> RunDir:
    listing = list_log(config.events, run_date=date.fromisoformat(ds))
    inputs = tuple((file.path, file.size, file.version) for file in listing.files)
    return RunDir(
        Storage.of(config.lake), ds, run_id, identity=run_id, attempt=run_id, inputs=inputs
    )


def prepared(config: Config, ds: str, run_id: str) -> tuple[RunDir, Prepared]:
    run = opened(config, ds, run_id)
    run.begin("prepare")
    record = prepare(config, run)
    run.finish("prepare", record.to_json())
    return run, record


def publish(config: Config, run: RunDir, record: Prepared) -> None:
    """Commits a prepared run as if its lists were there too."""
    paths = [f.path for f in run.storage.list() if not f.path.startswith("_stages")]
    content = {
        "identity": run.identity,
        "config": config.resolved(),
        "source_sha256": source_digest(),
        "inputs": record.inputs,
        "files": [describe_file(path, run.storage) for path in paths],
    }
    _, digest = manifest_for(run, content)
    append_entry(run.lake, run, digest)


def bytes_of(run: RunDir) -> dict[str, bytes]:
    """All that prepare has written."""
    paths = [info.path for info in run.storage.list()]
    kept = [p for p in paths if not p.startswith("_stages") and p != "manifest.json"]
    return {path: run.storage.read_bytes(path) for path in kept}
