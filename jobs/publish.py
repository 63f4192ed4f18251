"""Audit of every row, then manifest, chain entry, and the copy that consumers read."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from .runner.command import run_stages

    run_stages(("publish",), pages=f"{__spec__.parent}.report.pages")

import io
import logging
from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError, RefusedError
from diffsasrec.files.storage import Storage, sha256
from diffsasrec.lake.chain import append_entry
from diffsasrec.lake.claims import claimed
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.iceberg_sync import follow_chain
from diffsasrec.lake.manifest import manifest_for
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import DERIVED, STAGES
from diffsasrec.model.checkpoint import read_description
from diffsasrec.ray_cluster import cluster_resources
from diffsasrec.ray_tasks import map_tasks

from .item_tables.checking import broken_tables
from .night.expected_lists import Yardstick, audit_file
from .night.records import Evaluated, Prepared, Pretrained, Published, Record
from .night.scoring import night_scoring
from .planning.cost import cost_of
from .runner.identity import source_digest

log = logging.getLogger(__name__)

BEFORE = tuple(stage for stage in STAGES if stage != "publish")
# DERIVED is for people, and may be made anew at any time
NOT_IN_MANIFEST = ("state/", "_stages/", "tensorboard/", "manifest.json", *DERIVED)


def main(config: Config, run: RunDir) -> Published:
    done = {stage: Record.from_json(run.require(stage)) for stage in BEFORE}
    num_buckets = Prepared.of(run).num_buckets
    scoring = night_scoring(config, run)
    log.info("publish: auditing %d buckets", num_buckets)
    yardstick = Yardstick.of(scoring)
    audited = list(map_tasks(audit_file, range(num_buckets), scoring, yardstick))
    if broken := [(path, counts) for path, counts, _, _ in audited if counts]:
        raise RefusedError(f"the audit refuses the lists of {run.storage.root}: {in_words(broken)}")
    if broken := broken_tables(config, run, yardstick):
        raise RefusedError(
            f"the audit refuses the tables of items of {run.storage.root}: {in_words(broken)}"
        )
    refuse_empty(sum(found[2] for found in audited), sum(found[3] for found in audited), run)
    manifest, digest = manifest_for(run, manifest_content(config, run, done))
    with claimed(run.lake, [run.path], attempt=run.attempt, by="publish"):
        refuse_overtaken(run)
        entry, is_ours = append_entry(run.lake, run, digest)
    log.info(
        "publish: %s as number %d of the chain",
        "committed" if is_ours else "an earlier attempt has committed",
        entry.number,
    )
    settle(run.lake, grace=config.publish.grace, dates=[run.ds])
    if config.iceberg.table is not None:
        follow_chain(run.lake, config.iceberg, ds=run.ds)
    run.storage.delete(  # training states: nothing continues a published run
        [
            info.path
            for info in run.storage.list("state")
            if "/step-" in info.path or "/similar/" in info.path
        ]
    )
    published = run.lake.url(f"recommendations/ds={run.ds}")
    rows = sum(f["rows"] for f in manifest["files"] if f["path"].startswith("recommendations/"))
    log.info("publish: %d lists in %s", rows, published)
    return Published(counts={"rows": rows, "chain_number": entry.number}, published=published)


def refuse_overtaken(run: RunDir) -> None:
    """Refuses to publish a run that another command of the same run id has begun to clear."""
    if any(run.record(stage) is None for stage in BEFORE):
        raise ConfigError(
            f"another command works on run {run.run_id} of {run.ds}, from another config, code or "
            "log; leave --run-id out or choose a new one for each"
        )


def in_words(broken: list[tuple[str, Counter[str]]]) -> str:
    """How many rows break which rule, and in which file to look."""
    total: Counter[str] = sum((counts for _, counts in broken), Counter())
    first = {rule: path for path, counts in sorted(broken, reverse=True) for rule in counts}
    return "; ".join(f"{rule}: {n} rows, the first in {first[rule]}" for rule, n in total.items())


def refuse_empty(num_lists: int, num_items: int, run: RunDir) -> None:
    """Refuses lists that are all empty: they break no rule, but are not worth publishing."""
    if num_lists and not num_items:
        raise RefusedError(
            f"the audit refuses the lists of {run.storage.root}: all {num_lists} of them are "
            "empty; the rules and filters leave nothing to recommend: look at score.deny_path, "
            "score.allow_path, score.exclude_path, score.filter_seen and score.rest_nights"
        )


def manifest_content(config: Config, run: RunDir, done: dict[str, Record]) -> dict[str, Any]:
    """The manifest of a run; `done`: what the stages before this one recorded."""
    prepared, pretrained = Prepared.of(run), Pretrained.of(run)
    paths = [info.path for info in run.storage.list()]
    paths = [path for path in paths if not path.startswith(NOT_IN_MANIFEST)]
    seconds = {stage: record.seconds or 0.0 for stage, record in done.items()}
    files = sorted(map_tasks(describe_file, paths, run.storage), key=lambda file: file["path"])
    return {
        "ds": run.ds,
        "run_id": run.run_id,
        "identity": run.identity,
        "config": config.resolved(),
        "config_sha256": config.sha256(),
        "source_sha256": source_digest(),
        "inputs": prepared.inputs,
        "left_out": prepared.left_out,
        "tables": run.tables,
        "rules": prepared.rules,
        "split_time": prepared.split_time,
        "trained_before": {
            name: read_description(run.storage.sub(name))["trained_before"]
            for name in ("checkpoint_measured", "checkpoint")
            if run.reused is None or name == "checkpoint"
        },
        "started_from": pretrained.started_from,
        "reused": citation(run, Evaluated.of(run)),
        "counter": Evaluated.of(run).counter,
        "rested": list(run.rested),
        "model_version": read_description(run.storage.sub("checkpoint"))["model_version"],
        "counts": {stage: record.counts for stage, record in done.items()},
        "seconds": seconds,
        "cost": cost_of(config, seconds, cluster_resources()),
        "files": files,
        **({} if prepared.event_types is None else {"event_types": prepared.event_types}),
        **({} if prepared.taken_over is None else {"taken_over": prepared.taken_over}),
    }


def citation(run: RunDir, evaluated: Evaluated) -> dict[str, Any] | None:
    """Whose weights serve, and the figures of the night that trained them; None: tonight's."""
    return None if run.reused is None else run.reused.cited() | {"metrics": evaluated.metrics}


def describe_file(path: str, storage: Storage) -> dict[str, Any]:
    """A file's entry in the manifest; `rows` is null for what is no table."""
    data = storage.read_bytes(path)
    rows = None
    if path.endswith(".parquet"):
        rows = pq.read_metadata(io.BytesIO(data)).num_rows
    return {"path": path, "rows": rows, "sha256": sha256(data)}
