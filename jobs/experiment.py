"""Variants of the recipe, measured on the same split: which ingredient earns its place?

    python -m jobs.experiment --config jobs/experiment.yaml --grid jobs/grid.yaml

The grid names logs, variants and seeds:

    data:
      shop: {date: 2011-12-31, set: {events.path: shop.parquet, score.filter_seen: false}}
    seeds: [0]
    variants:
      default: {}
      no trends: {model.trends: false}
      month-old weights: {checkpoint_age: 30}

A variant is a set of config keys. `checkpoint_age` is no config key: weights trained only up to so
many days before the split, or to the `second_cut`. The counters are in every table, and a causal
SASRec of the same backbone, which is pretrained for as many epochs as the recipe has in all, with
the first seed. What is finished is not done again.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from jobs.runner.command import run_command

    run_command("experiment")

import argparse
import hashlib
import io
import json
import logging
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import scipy.sparse
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffsasrec.config.config import Config
from diffsasrec.config.data import EventsConfig
from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError, DiffsasrecError
from diffsasrec.evaluate.baselines import rank_lists, user_items
from diffsasrec.evaluate.metrics import (
    bootstrap_means,
    coverage,
    gains,
    intra_list_diversity,
    next_recall,
    ranks_of,
)
from diffsasrec.evaluate.tallies import list_matrix
from diffsasrec.files.storage import Storage, parquet_bytes
from diffsasrec.inputs.log_files import list_inputs
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.progress import duration
from diffsasrec.ray_cluster import cluster_resources
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import Flat, events_of, flatten, only_items, restrict
from diffsasrec.sequences.holdout import next_items
from diffsasrec.sequences.vocab import frequent_before_split
from diffsasrec.times import DAY
from jobs.night.baseline_scores import baseline_scores, holdout_scoring
from jobs.night.scoring import score_buckets
from jobs.planning.resources import check_resources
from jobs.prepare import main as prepare
from jobs.runner.command import set_up_log
from jobs.runner.identity import source_digest
from jobs.runner.lake_mark import refuse_passing_lake, require_mark
from jobs.runner.ray_session import start_ray
from jobs.training.recipe import finetune_phases, pretrain_phases, run_phases

log = logging.getLogger("jobs")

SASREC = "causal SASRec"
SASREC_KEYS = {
    "model.kind": "sasrec",
    "model.attention": "causal",
    "model.time_inputs": False,
    "model.trends": False,
    "model.copy_score": False,
    "finetune.epochs": 0,
    "score.decode": "single",
}
SAMPLES = 2000  # of the bootstrap over users
DIVERSITY_LISTS = 2000  # lists whose diversity is measured at most
METRICS = ("NDCG", "HR", "MRR", "Coverage", "NextRecall", "Diversity")


class DataEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    date: date
    set: dict[str, Any] = {}


class Grid(BaseModel):
    model_config = ConfigDict(extra="forbid")
    data: dict[str, DataEntry] = Field(min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    variants: dict[str, dict[str, Any]] = {"default": {}}


@dataclass(frozen=True)
class Cell:
    data: str
    variant: str
    seed: int
    config: Config
    date: date
    checkpoint_age: float | Literal["second_cut"]


def main(arguments: argparse.Namespace) -> None:
    set_up_log()
    try:
        cells = read_cells(arguments.config, arguments.grid)
        for lake in sorted({cell.config.lake for cell in cells}):
            refuse_passing_lake(lake)
            require_mark(Storage.of(lake), is_new=arguments.new_lake)
        start_ray()
        for cell in cells:
            check_resources(cell.config, ["pretrain", "evaluate"], cluster_resources())
        rows: list[dict[str, Any]] = []
        for done, cell in enumerate(cells, 1):
            rows += run_cell(cell)
            log.info("%d of %d cells done", done, len(cells))
        print(table(rows))
        output = Storage.of(cells[0].config.lake).sub("experiments")
        name = f"results-{Path(arguments.grid).stem}.parquet"
        output.write_table(name, pa.Table.from_pylist(rows))
        print(f"\nresults  {output.url(name)}")
    except DiffsasrecError as error:
        log.error("%s: %s", type(error).__name__, error)
        sys.exit(error.exit_code)
    finally:
        if ray.is_initialized():
            ray.shutdown()


def read_cells(config_path: str, grid_path: str) -> list[Cell]:
    """Every cell with its whole config, checked, so that a typo costs nothing.

    Raises:
        ConfigError: names the file, the key and the remedy.
    """
    texts = {}
    for option, path in (("--config", config_path), ("--grid", grid_path)):
        try:
            texts[option] = Path(path).read_text()
        except OSError as error:
            raise ConfigError(f"{option} {path} can't be read: {error.strerror}") from None
    try:
        grid = Grid.model_validate(yaml.safe_load(texts["--grid"]))
    except (ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"--grid {grid_path}: {error}") from None
    if SASREC in grid.variants:
        raise ConfigError(f"--grid {grid_path}: {SASREC} is in every table; name yours otherwise")
    variants = {SASREC: SASREC_KEYS, **grid.variants}
    cells = []
    for data, entry in grid.data.items():
        plain = load_config(texts["--config"], sets_of(entry.set), source=config_path)
        # what fine-tuning takes is its budget too, as epochs of pretraining
        epochs = plain.pretrain.epochs + plain.finetune.epochs
        variants[SASREC] = {**SASREC_KEYS, "pretrain.epochs": epochs}
        for variant, keys in variants.items():
            age = keys.get("checkpoint_age", 0.0)
            if age != "second_cut" and not (isinstance(age, int | float) and age >= 0):
                raise ConfigError(
                    f"--grid {grid_path}: {variant}: checkpoint_age={age!r}; give days or "
                    "second_cut"
                )
            own = {key: value for key, value in keys.items() if key != "checkpoint_age"}
            for seed in grid.seeds[:1] if variant == SASREC else grid.seeds:
                sets = sets_of({**entry.set, **own, "seed": seed})
                config = load_config(texts["--config"], sets, source=config_path)
                if config.train.warm_start:
                    raise ConfigError(f"train.warm_start: {variant} has no nights to start from")
                cells.append(Cell(data, variant, seed, config, entry.date, age))
    return cells


def sets_of(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


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
    config = cell.config
    listing = listing_of(config.events, cell.date)
    sections = {name: config.resolved()[name] for name in ("events", "split", "vocab", "score")}
    sections["score"] = {key: sections["score"][key] for key in ("k", "filter_seen")}
    identity = digest([cell.date.isoformat(), sections, source_digest(), listing])
    run = open_directory(cell, identity, listing)
    if run.record("prepare") is None:
        log.info("%s: preparing", cell.data)
        run.begin("prepare")
        run.finish("prepare", dict(prepare(config, run)))
    return run


@cache
def listing_of(events: EventsConfig, day: date) -> tuple[tuple[str, int, str], ...]:
    """The files of a log, listed once: all cells read the same ones, however it grows meanwhile."""
    found = list_inputs(events, run_date=day)
    return tuple((file.path, file.size, file.version) for file in found)


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
    config, prepared = cell.config, run.require("prepare")
    if run.record("finetune") is None:
        run.finish("finetune", train_cell(cell, run, prepared))
    trained = run.require("finetune")
    scoring = holdout_scoring(config, run, prepared, output=f"evaluation-{decoding}")
    score_buckets(config, scoring, prepared["num_buckets"], f"{cell.data}, {cell.variant}")
    vocab = run.storage.read_tables("vocab")
    lists = [
        list_matrix(
            run.storage.read_table(f"{scoring.output}/{bucket_name(bucket)}"),
            vocab,
            k=config.score.k,
        )
        for bucket in range(prepared["num_buckets"])
    ]
    row = measure_lists(np.concatenate(lists), config, run)
    return [{"kind": "model", **row, **{name: trained[name] for name in ("seconds", "sequences")}}]


def train_cell(cell: Cell, run: RunDir, prepared: dict[str, Any]) -> dict[str, Any]:
    """Trains, and says how long it took and how many sequences it saw."""
    started = time.monotonic()
    phases = [
        *pretrain_phases(cell.config, prepared),
        *finetune_phases(cell.config, prepared),
    ]
    until = trained_to(cell, prepared)
    phases = [replace(p, trained_before=min(p.trained_before, until)) for p in phases]
    counts = run_phases(cell.config, run, phases)["counts"]
    seen = sum(count["examples"] * count["epochs"] for count in counts.values())
    return {"seconds": time.monotonic() - started, "sequences": seen}


def trained_to(cell: Cell, prepared: Mapping[str, Any]) -> int:
    if cell.checkpoint_age == "second_cut":
        return int(prepared["second_cut"])
    return int(prepared["split_time"] - cell.checkpoint_age * DAY)


def measure_baselines(cell: Cell, run: RunDir) -> list[dict[str, Any]]:
    """A row per counter, measured as the model is."""
    config, prepared = cell.config, run.require("prepare")
    known = known_of(config, run)
    rows = []
    for name, score in baseline_scores(config, run, prepared, known)[0].items():
        started = time.monotonic()
        lists = []
        for flat in flats_of(run, known):
            items, _, offsets = restrict(flat, flat.num_before)
            source, bounds = events_of(offsets, np.flatnonzero(flat.holdout >= 0))
            ranked = rank_lists(
                score,
                items[source],
                bounds,
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
    """The buckets, with the events of the `known` items alone, [V]."""
    names = [bucket_name(bucket) for bucket in range(run.require("prepare")["num_buckets"])]
    tables = [run.storage.read_table(f"sequences/{name}") for name in names]
    return [only_items(flatten(table), known) for table in tables]


def holdout_of(
    run: RunDir, known: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The holdout items [n], and the next items after the split [n, 10]."""
    split_time = run.require("prepare")["split_time"]
    targets, following = [], []
    for flat in flats_of(run, known):
        users = np.flatnonzero(flat.holdout >= 0)
        targets.append(flat.items[flat.offsets[users] + flat.holdout[users]].astype(np.int64))
        log_parts = (flat.items, flat.times, flat.offsets)
        following.append(next_items(*log_parts, split_time=split_time, known=known, num=10)[users])
    return np.concatenate(targets), np.concatenate(following)


def measure_lists(lists: npt.NDArray[np.int64], config: Config, run: RunDir) -> dict[str, Any]:
    """All metrics of the holdout users' lists, and each user's rank."""
    known = known_of(config, run)
    targets, following = holdout_of(run, known)
    k = max(config.evaluate.ks)
    lists = lists[:, :k]
    ranks = ranks_of(lists, targets)
    shown = np.bincount(lists[lists >= 0], minlength=len(known))
    sample = np.random.default_rng(0).permutation(len(lists))[:DIVERSITY_LISTS]
    parts = [restrict(flat, flat.num_before) for flat in flats_of(run, known)]
    matrices = [user_items(items, offsets, len(known)) for items, _, offsets in parts]
    histories = scipy.sparse.vstack(matrices, format="csr")
    diversity = intra_list_diversity(lists[sample], histories)
    return {
        **{name.split("@")[0]: float(gain[ranks].mean()) for name, gain in gains(k).items()},
        "Coverage": coverage(shown, num_known=int(known.sum())),
        "NextRecall": float(next_recall(lists, following).mean()),
        "Diversity": float(np.nan_to_num(diversity).mean()),
        "k": k,
        "users": len(ranks),
        "ranks": ranks.astype(np.int16).tolist(),
    }


@dataclass(frozen=True)
class Line:
    """A variant on one log: its users' NDCG gains, averaged over seeds, and its other figures."""

    gains_U: npt.NDArray[np.float64]
    figures: dict[str, float]


def lines_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Line]]:
    """data -> variant -> line."""
    lines: dict[str, dict[str, Line]] = {}
    for row in rows:
        same = [r for r in rows if (r["data"], r["variant"]) == (row["data"], row["variant"])]
        gain = gains(row["k"])[f"NDCG@{row['k']}"]
        names = (*METRICS, "seconds", "sequences")
        lines.setdefault(row["data"], {})[row["variant"]] = Line(
            np.mean([gain[np.array(r["ranks"])] for r in same], axis=0),
            {name: float(np.mean([r[name] for r in same])) for name in names},
        )
    return lines


def best_baseline(rows: list[dict[str, Any]], data: str) -> str:
    """The counter or the causal SASRec with the best NDCG on a log."""
    candidates = [
        row
        for row in rows
        if row["data"] == data and (row["kind"] == "counter" or row["variant"] == SASREC)
    ]
    return str(max(candidates, key=lambda row: row["NDCG"])["variant"])


def table(rows: list[dict[str, Any]]) -> str:
    """Per log and over all logs: NDCG with interval, its ratio to the best baseline, the rest."""
    lines = lines_of(rows)
    k = rows[0]["k"]
    text: list[str] = []
    ratios: dict[str, dict[str, tuple[float, Any]]] = {}
    for data, variants in lines.items():
        best = best_baseline(rows, data)
        names = list(variants)
        means = bootstrap_means(
            np.stack([line.gains_U for line in variants.values()]), samples=SAMPLES, seed=0
        )
        users = len(next(iter(variants.values())).gains_U)
        text.append(f"\n{data}, {users} holdout users, at {k}; ratio to {best}")
        head = "".join(f"{name:>11}" for name in (*METRICS[1:], "seconds", "sequences"))
        text.append(f"{'':28}{'NDCG':>25}{'ratio':>23}{head}")
        base = means[:, names.index(best)]
        for at in sorted(range(len(names)), key=lambda n: -variants[names[n]].figures["NDCG"]):
            line = variants[names[at]]
            with np.errstate(divide="ignore", invalid="ignore"):  # where no baseline ever hits
                ratio = np.float64(line.figures["NDCG"]) / variants[best].figures["NDCG"]
                sampled = means[:, at] / base
            ratios.setdefault(names[at], {})[data] = (ratio, sampled)
            rest = "".join(f"{line.figures[name]:>11.4f}" for name in METRICS[1:])
            rest += "".join(f"{line.figures[name]:>11.0f}" for name in ("seconds", "sequences"))
            text.append(
                f"{names[at]:28}{line.figures['NDCG']:>9.4f} {interval(means[:, at])}"
                f"{ratio:>8.3f} {interval(sampled, 3)}{rest}"
            )
    text.append("\nall logs, geometric mean of the ratios")
    for name, per_data in ratios.items():
        if len(per_data) == len(lines):
            with np.errstate(divide="ignore"):  # a variant that never hits has a mean of 0
                mean = np.exp(np.mean([np.log(ratio) for ratio, _ in per_data.values()]))
                logs = np.mean([np.log(sampled) for _, sampled in per_data.values()], axis=0)
            text.append(f"{name:28}{mean:>8.3f} {interval(np.exp(logs), 3)}")
    return "\n".join(text).lstrip("\n")


def interval(samples: npt.NDArray[np.float64], digits: int = 4) -> str:
    with np.errstate(invalid="ignore"):  # ratios to a baseline that no resampled user hits
        low, high = np.quantile(samples, [0.025, 0.975])
    return f"({low:.{digits}f}-{high:.{digits}f})"
