"""One cell of an experiment: trained and measured in directories of its own."""

import hashlib
import io
import json
import logging
import time
import uuid
from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse

from diffsasrec.config.config import Config
from diffsasrec.config.data import EventsConfig
from diffsasrec.evaluate.baselines import rank_lists, user_items
from diffsasrec.evaluate.metrics import (
    coverage,
    intra_list_diversity,
    next_recall,
    user_gains,
)
from diffsasrec.evaluate.tallies import list_matrix
from diffsasrec.files.storage import Storage, parquet_bytes
from diffsasrec.inputs.log_files import list_inputs
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.progress import duration
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import Flat, UserItems, flatten, only_items
from diffsasrec.sequences.holdout import next_items, targets_of
from diffsasrec.sequences.vocab import frequent_before_split
from diffsasrec.tables.versions import pinned
from diffsasrec.times import DAY

from ..night.baseline_scores import baseline_scores, holdout_scoring
from ..night.records import Prepared
from ..night.scoring import score_buckets
from ..prepare import main as prepare
from ..runner.identity import source_digest
from ..training.recipe import finetune_phases, pretrain_phases, run_phases
from .grid import SASREC, Cell
from .table import METRICS

log = logging.getLogger("jobs")

DIVERSITY_LISTS = 2000  # lists whose diversity is measured at most


def run_cell(cell: Cell) -> list[dict[str, Any]]:
    """The rows of a cell: its own, and once per log those of the counters."""
    prepared_run = open_prepared(cell)
    rows = []
    if cell.variant == SASREC:
        rows += remembered(prepared_run, "baselines", lambda: measure_baselines(cell, prepared_run))
    run = open_training(cell, prepared_run)
    decoding = digest([cell.config.resolved()["score"], cell.config.resolved()["evaluate"]])
    rows += remembered(run, f"cell-{decoding}", lambda: measure_cell(cell, run, decoding))
    for row in rows:
        row |= {"data": cell.data}
        row |= {} if row["kind"] == "counter" else {"variant": cell.variant, "seed": cell.seed}
        k = max(cell.config.evaluate.ks)
        log.info(
            "%s, %s, seed %s: %s, %s",
            *(row[name] for name in ("data", "variant", "seed")),
            ", ".join(f"{m}@{k} {row[m]:.4f}" for m in METRICS),
            duration(row["seconds"]),
        )
    return rows


def digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def open_prepared(cell: Cell) -> RunDir:
    """The log of a cell, prepared once for all cells that read it alike."""
    events, listing = listing_of(cell.config.events.model_dump_json(), cell.date)
    config = cell.config.model_copy(update={"events": events})
    sections = {name: config.resolved()[name] for name in ("events", "split", "vocab", "score")}
    sections["score"] = {key: sections["score"][key] for key in ("k", "filter_seen")}
    identity = digest([cell.date.isoformat(), sections, source_digest(), listing])
    run = open_directory(cell, identity, listing)
    if run.record("prepare") is None:
        log.info("%s: preparing", cell.data)
        run.begin("prepare")
        run.finish("prepare", prepare(config, run).to_json())
    return run


@cache
def listing_of(events: str, day: date) -> tuple[EventsConfig, tuple[tuple[str, int, str], ...]]:
    """The files of a log, listed once: all cells read the same ones, even if the log grows.

    Args:
        events: the settings of the log, as JSON.
    """
    settings = pinned(EventsConfig.model_validate_json(events))
    found = list_inputs(settings, run_date=day)
    return settings, tuple((file.path, file.size, file.version) for file in found)


def open_directory(cell: Cell, identity: str, listing: Any = ()) -> RunDir:
    return RunDir(
        lake=Storage.of(cell.config.lake).sub("experiments"),
        ds=cell.date.isoformat(),
        run_id=identity,
        identity=identity,
        attempt=uuid.uuid4().hex[:12],
        inputs=listing,
    )


def open_training(cell: Cell, prepared: RunDir) -> RunDir:
    """The directory of a training, shared by variants that only decode differently."""
    values = cell.config.resolved()
    sections = {name: values[name] for name in ("model", "pretrain", "finetune", "train", "seed")}
    run = open_directory(cell, digest([prepared.identity, sections, cell.checkpoint_age]))
    if run.record("prepare") is None:
        for name in ("vocab", "sequences", "holdout"):
            for info in prepared.storage.list(name):
                run.storage.write_bytes(info.path, prepared.storage.read_bytes(info.path))
        run.finish("prepare", prepared.require("prepare"))
    return run


def remembered(run: RunDir, name: str, measure: Any) -> list[dict[str, Any]]:
    """The rows that `measure` gives, kept as Parquet below the run."""
    path = f"{name}.parquet"
    if not run.storage.exists(path):
        run.storage.write_bytes(path, parquet_bytes(pa.Table.from_pylist(measure())))
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(run.storage.read_bytes(path))).to_pylist()
    return rows


def measure_cell(cell: Cell, run: RunDir, decoding: str) -> list[dict[str, Any]]:
    config, prepared = cell.config, Prepared.of(run)
    if run.record("finetune") is None:
        run.finish("finetune", train_cell(cell, run, prepared))
    trained = run.require("finetune")
    scoring = holdout_scoring(config, run, prepared, output=f"evaluation-{decoding}")
    score_buckets(config, scoring, prepared.num_buckets, f"{cell.data}, {cell.variant}")
    vocab = run.storage.read_tables("vocab")
    lists = [
        list_matrix(
            run.storage.read_table(f"{scoring.output}/{bucket_name(bucket)}"),
            vocab,
            k=config.score.k,
        )
        for bucket in range(prepared.num_buckets)
    ]
    row = measure_lists(np.concatenate(lists), config, run)
    return [{"kind": "model", **row, **{name: trained[name] for name in ("seconds", "sequences")}}]


def train_cell(cell: Cell, run: RunDir, prepared: Prepared) -> dict[str, Any]:
    """Trains, and says how long it took and how many sequences it saw."""
    started = time.monotonic()
    phases = [
        *pretrain_phases(cell.config, prepared),
        *finetune_phases(cell.config, prepared),
    ]
    until = trained_to(cell, prepared)
    phases = [replace(p, trained_before=min(p.trained_before, until)) for p in phases]
    counts = run_phases(cell.config, run, phases).counts
    seen = sum(count["examples"] * count["epochs"] for count in counts.values())
    return {"seconds": time.monotonic() - started, "sequences": seen}


def trained_to(cell: Cell, prepared: Prepared) -> int:
    if cell.checkpoint_age == "second_cut":
        return prepared.second_cut
    return int(prepared.split_time - cell.checkpoint_age * DAY)


def measure_baselines(cell: Cell, run: RunDir) -> list[dict[str, Any]]:
    """A row per counter, measured as the model is."""
    config, prepared = cell.config, Prepared.of(run)
    known = known_of(config, run)
    rows = []
    for name, score in baseline_scores(config, run, prepared, known)[0].items():
        started = time.monotonic()
        lists = []
        for flat in flats_of(run, known):
            users = np.flatnonzero(flat.holdout >= 0)
            past = flat.histories.first(flat.num_before).of_users(users)
            ranked = rank_lists(
                score,
                past,
                allowed=known,
                k=config.score.k,
                filter_seen=config.score.filter_seen,
            )
            lists.append(ranked)
        row = measure_lists(np.concatenate(lists), config, run)
        seconds = time.monotonic() - started
        named = {"kind": "counter", "variant": name, "seed": 0}
        rows.append({**named, **row, "seconds": seconds, "sequences": 0})
    return rows


def known_of(config: Config, run: RunDir) -> npt.NDArray[np.bool_]:
    """What is measured with: the items with enough events before the split, [V]."""
    return frequent_before_split(run.storage.read_tables("vocab"), config.split.min_item_count)


def flats_of(run: RunDir, known: npt.NDArray[np.bool_]) -> list[Flat]:
    """The buckets, with only the events of the `known` items, [V]."""
    names = [bucket_name(bucket) for bucket in range(Prepared.of(run).num_buckets)]
    tables = [run.storage.read_table(f"sequences/{name}") for name in names]
    return [only_items(flatten(table), known) for table in tables]


def holdout_of(
    run: RunDir, known: npt.NDArray[np.bool_]
) -> tuple[UserItems, npt.NDArray[np.int64]]:
    """The holdout items of each user, and the next items after the split [n, 10]."""
    split_time = Prepared.of(run).split_time
    targets, following = [], []
    for flat in flats_of(run, known):
        users = np.flatnonzero(flat.holdout >= 0)
        targets.append(targets_of(flat.histories, flat.holdout, known))
        log_parts = (flat.items, flat.times, flat.offsets)
        found = next_items(
            *log_parts,
            split_time=split_time,
            known=known,
            num=10,
            targets=flat.histories.are_targets(),
        )
        following.append(found[users])
    sizes = np.concatenate([np.diff(part.offsets) for part in targets])
    items = np.concatenate([part.items for part in targets])
    return UserItems(items, np.r_[0, np.cumsum(sizes)]), np.concatenate(following)


def measure_lists(lists: npt.NDArray[np.int64], config: Config, run: RunDir) -> dict[str, Any]:
    """All metrics of the holdout users' lists, and each user's NDCG."""
    known = known_of(config, run)
    targets, following = holdout_of(run, known)
    k = max(config.evaluate.ks)
    lists = lists[:, :k]
    gains = user_gains(lists, targets, k=k)
    shown = np.bincount(lists[lists >= 0], minlength=len(known))
    sample = np.random.default_rng(0).permutation(len(lists))[:DIVERSITY_LISTS]
    parts = [flat.histories.first(flat.num_before) for flat in flats_of(run, known)]
    matrices = [user_items(part, len(known)) for part in parts]
    histories = scipy.sparse.vstack(matrices, format="csr")
    diversity = intra_list_diversity(lists[sample], histories)
    return {
        **{name.split("@")[0]: float(values.mean()) for name, values in gains.items()},
        "Coverage": coverage(shown, num_known=int(known.sum())),
        "NextRecall": float(next_recall(lists, following).mean()),
        "Diversity": float(np.nan_to_num(diversity).mean()),
        "k": k,
        "users": len(lists),
        "gains": gains[f"NDCG@{k}"].tolist(),
    }
