"""Published nights of March 2024 that trained, written by hand, and whose weights serve."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.files.storage import Storage, sha256, to_json
from diffsasrec.lake.chain import append_entry
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.checkpoint import save_checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.times import microseconds
from jobs.training.weight_reuse import (
    newest_reusable,
)

LEAST = "lake: lake\nevents: {path: log.parquet}\nmodel: {hidden_size: 8, num_blocks: 1}\n"
WEEKLY = "train.every_days=7"
METRICS = {"model": {"NDCG@10": 0.25, "n": 9}, "baselines": {}, "recent_popular_days": 0.25}
ABC = pa.array(["a", "b", "c"])
FILES = ("model.safetensors", "vocab.parquet", "config.json")


def config_of(*sets: str) -> Config:
    return load_config(LEAST, [WEEKLY, *sets])


def publish(
    lake: Storage,
    day: int,
    *sets: str,
    run_id: str = "r",
    cited: Any = None,
    source: str = "code",
    items: pa.Array = ABC,
    content: Mapping[str, Any] | None = None,
) -> None:
    """What a published night of March 2024 leaves: a checkpoint, metrics, manifest, chain entry.

    `cited`: the run whose weights it took over, with the time to which they were trained.
    """
    ds, config = f"2024-03-{day:02d}", config_of(*sets)
    identity, attempt = f"identity of {day}", f"{run_id}-{day}"
    run = RunDir(lake, ds=ds, run_id=run_id, identity=identity, attempt=attempt)
    trained_before = microseconds(ds) if cited is None else cited["trained_before"]
    save_checkpoint(
        run.storage.sub("checkpoint"),
        weights=SequenceModel(config.model, 3, seed=day).state_dict(),
        config=config.model,
        vocab=pa.table({"item_id": items, "index": pa.array(range(3), pa.int32())}),
        counts=np.array([3, 2, 1]),
        trained_before=trained_before,
    )
    if cited is None:
        run.storage.write_bytes("metrics.json", to_json(METRICS))
    paths = [f"checkpoint/{name}" for name in FILES]
    manifest = {
        "identity": run.identity,
        "config": config.resolved(),
        "source_sha256": source,
        "reused": cited and {**cited, "metrics": METRICS},
        "files": [{"path": p, "sha256": sha256(run.storage.read_bytes(p))} for p in paths],
        **(content or {}),
    }
    run.storage.write_bytes("manifest.json", to_json(manifest))
    append_entry(lake, run, sha256(to_json(manifest)))


def chosen(
    lake: Storage,
    day: int,
    *sets: str,
    source: str = "code",
    item_type: Callable[[], pa.DataType] = pa.string,
) -> tuple[str, int] | None:
    """The date whose training serves a day of March, and the age of the weights."""
    ds = f"2024-03-{day:02d}"
    reused = newest_reusable(config_of(*sets), lake, ds, source=source, item_type=item_type)
    return None if reused is None else (reused.ds, reused.age_days)
