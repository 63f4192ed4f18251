"""Measured figures of this machine: one line per variant, warm, the median of a few rounds.

    python -m jobs.benchmark score --items 100000 --decode multi --json

The variants of a subcommand run in turn within a round, so that their ratio holds on a machine
that is shared with others.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from jobs.runner.command import run_command

    run_command("benchmark")

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import ray.data
import torch

from diffsasrec.config.data import EventsConfig
from diffsasrec.config.training import ModelConfig, TrainStageConfig
from diffsasrec.decode.decoding import Decoding
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.log_files import InputFile, inspect_inputs
from diffsasrec.memory import give_back_freed_memory, keep_freed_memory
from diffsasrec.model.checkpoint import load_checkpoint, parse_tensors
from diffsasrec.model.features import event_gaps, trend_counts, trend_features
from diffsasrec.model.objective import Batch, Objective
from diffsasrec.model.softmax import Negatives, draw_negatives
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.buckets import bucket_name, num_buckets
from diffsasrec.sequences.build import build_sequences
from diffsasrec.sequences.histories import flatten
from diffsasrec.sequences.split_time import survey_log
from diffsasrec.times import DAY
from diffsasrec.train.batches import make_batch
from diffsasrec.train.epochs import suited_num_negatives
from diffsasrec.train.examples import Events, window_examples
from diffsasrec.train.optimizer import ROWS_ALONE, Updater
from jobs.activity import night
from jobs.benchmark_plan import plan
from jobs.planning.workload import products_alone, rows_scored
from jobs.reliability import reliability
from jobs.rivals import Reencoding, plain_loss, prepare_with_duckdb, prepare_with_polars
from jobs.runner.ray_session import start_ray

Variants = dict[str, Callable[[], object]]
SEED = 0
ROWS_OF_A_FILE = 10_000_000  # of the log of `prepare`


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


def _memory_mib(of: str) -> float:
    """VmRSS or VmHWM of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{of}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {of}")


def _memory_of(run: Callable[[], object]) -> float:
    """The peak of memory while `run` works, above what was there before, MiB."""
    run()  # what is made once and kept is no memory of the lists
    give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _memory_mib("VmRSS")
    run()
    return _memory_mib("VmHWM") - before


def _median_seconds(variants: Variants, rounds: int, device: str) -> Iterator[tuple[str, float]]:
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


Histories = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _histories(options: argparse.Namespace) -> Histories:
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


def _trends(options: argparse.Namespace, histories: Histories) -> npt.NDArray[np.float32]:
    items, times, offsets = histories
    now = np.array([options.max_len * DAY])
    counts = trend_counts(items, times, offsets, query_times=now, num_items=options.items)
    return trend_features(counts)


def _model_config(options: argparse.Namespace, *, num_slots: int) -> ModelConfig:
    return ModelConfig(
        hidden_size=options.hidden,
        num_blocks=options.blocks,
        num_heads=options.heads,
        max_seq_len=options.max_len,
        num_slots=num_slots,
    )


def _score(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Lists per second, beside the products alone, one step, and encoding at every step."""
    night = _random_night(options) if options.run is None else _night_of(options)
    model = night.model.to(options.device, getattr(torch, options.dtype)).eval()
    recommenders = {}

    def lists(name: str, model: SequenceModel, **settings: Any) -> Callable[[], object]:
        decoding = Decoding(options.k, filter_seen=not options.keep_seen, **settings)
        recommenders[name] = recommender = Recommender(
            model, moment=night.moment, allowed=night.allowed, decoding=decoding
        )
        return lambda: recommender.recommend(*night.histories)

    settings = {"decode": options.decode, "steps": options.steps, "shortlist": 0}
    variants = {"exact": lists("exact", model, **settings)}
    if options.decode == "multi":
        variants["shortlist"] = lists(
            "shortlist", model, **(settings | {"shortlist": Decoding.shortlist})
        )
    if options.device == "cuda":
        variants["fused"] = lists("fused", model, **(settings | {"fused": True}))
    if options.decode != "single":
        variants["single step"] = lists("single step", model, decode="single")
    if options.decode == "multi" and model.config.attention == "prefix":
        anew = Reencoding(model.config, model.num_items).to(model.item_weight).eval()
        anew.load_state_dict(model.state_dict())
        variants["encoding anew"] = lists("encoding anew", anew, **settings)
    num_users = len(night.histories[2]) - 1
    exact = recommenders["exact"]
    if options.device == "cpu" and options.dtype == "float32":
        num_rows = num_users * rows_scored(exact.decoding)
        products = products_alone(num_rows, *exact.catalogue.vectors_CW.shape)
        variants |= {f"products alone {n}": run for n, run in enumerate(products)}
    if options.variants:
        variants = {name: variants[name] for name in options.variants.split(",")}
    memory = {name: round(_memory_of(run)) for name, run in variants.items()}
    alone = 0.0
    for name, seconds in _median_seconds(variants, options.rounds, options.device):
        figures = {"variant": name, "users": num_users, "items": model.num_items}
        figures |= {"users_per_s": round(num_users / seconds, 2), "lists_mib": memory[name]}
        if name.startswith("products alone"):
            alone = max(alone, num_users / seconds)
            continue
        if name == "shortlist":
            uncertain = recommenders[name].num_uncertain / (options.rounds + 3)
            figures["uncertain_steps_per_user"] = round(uncertain / num_users, 4)
        yield figures
    if alone:
        yield {"variant": "products alone", "users": num_users, "users_per_s": round(alone, 2)}


@dataclass(frozen=True)
class _Night:
    """What lists are made from."""

    model: SequenceModel
    moment: Moment
    allowed: npt.NDArray[np.bool_]
    histories: Histories


def _random_night(options: argparse.Namespace) -> _Night:
    histories = _histories(options)
    return _Night(
        SequenceModel(_model_config(options, num_slots=options.k), options.items, seed=SEED),
        Moment(options.max_len * DAY, _trends(options, histories)[0]),
        np.ones(options.items, dtype=bool),
        histories,
    )


def _night_of(options: argparse.Namespace) -> _Night:
    """Trained weights and real histories: those of a run directory, runs/ds=.../..."""
    run = Storage.of(options.run)
    checkpoint = load_checkpoint(run.sub("checkpoint"))
    (trends,) = parse_tensors(run.read_bytes("state/score/trends.safetensors"))[0].values()
    flat = flatten(run.read_table(f"sequences/{bucket_name(0)}"))
    offsets = flat.offsets[: options.users + 1]
    # the trends and the lists are as of the run date, the end of what the weights know
    return _Night(
        checkpoint.model,
        Moment(checkpoint.trained_before, trends.numpy()),
        checkpoint.candidates(),
        (flat.items[: offsets[-1]], flat.times[: offsets[-1]], offsets),
    )


def _train(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Sequences per second of pretraining, beside its encoder alone and a plain way."""
    task = _Pretraining(options)
    num_negatives = suited_num_negatives(options.items, at_batch_times=False)
    by_rows = num_negatives > 0 and options.items > ROWS_ALONE
    # the first is what the job does; each makes its model when it is first called
    makers = {"step": lambda: task.step(num_negatives, by_rows=by_rows)}
    if by_rows:
        makers["step over all rows"] = lambda: task.step(num_negatives, by_rows=False)
    makers |= {
        "encoder alone": lambda: task.updated_by(task.encoder),
        "plain": lambda: task.updated_by(task.plain),
    }
    if num_negatives:
        makers["step over all items"] = lambda: task.step(0, by_rows=False)
    if options.variants:
        makers = {name: makers[name] for name in options.variants.split(",")}
    variants = {name: _made_once(make) for name, make in makers.items()}
    for name, seconds in _median_seconds(variants, options.rounds, options.device):
        yield {"variant": name, "sequences_per_s": round(len(task.examples) / seconds, 2)}


def _made_once(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    made = cache(make)
    return lambda: made()()


class _Pretraining:
    """A batch of pretraining again and again, with masks of its own each time."""

    def __init__(self, options: argparse.Namespace) -> None:
        items, times, offsets = histories = _histories(options)
        self.events = Events(items, times, event_gaps(times, offsets))
        self.device, self.num_items = torch.device(options.device), options.items
        self.config, self.settings = _model_config(options, num_slots=10), TrainStageConfig()
        longest = options.max_len
        examples = window_examples(offsets, np.diff(offsets), max_seq_len=longest, min_events=2)
        self.examples = examples.take(np.arange(min(options.batch_size, len(examples))))
        self.counts_V = torch.from_numpy(np.bincount(items, minlength=options.items) + 1)
        self.popularity_VF = torch.from_numpy(_trends(options, histories)[0, :, :1])
        self.generator = torch.Generator().manual_seed(SEED)

    def objective(self) -> Objective:
        model = SequenceModel(self.config, self.num_items, seed=SEED)
        candidates_V = torch.ones(self.num_items, dtype=torch.bool)
        objective = Objective(model, candidates_V, self.popularity_VF[None], filter_seen=True)
        return objective.to(self.device)

    def batch(self) -> Batch:
        return make_batch(
            self.events,
            self.examples,
            query_times=np.zeros(0, np.int64),
            model=self.config,
            objective=self.settings.objective,
            generator=self.generator,
            rank=0,
            world_size=1,
        ).to(self.device)

    def negatives(self, num: int) -> Negatives | None:
        if not num:
            return None
        drawn = draw_negatives(self.counts_V, num, self.generator)
        return Negatives(*(tensor.to(self.device) for tensor in vars(drawn).values()))

    def step(self, num_negatives: int, *, by_rows: bool) -> Callable[[], object]:
        """What the job does."""
        updater = Updater(
            self.objective(),
            self.settings,
            phase="benchmark",
            warmup_steps=0,
            world_size=1,
            by_rows=by_rows,
        )
        return lambda: updater.step(self.batch(), self.negatives(num_negatives), number=1000)

    def encoder(self, objective: Objective) -> Iterator[torch.Tensor]:
        yield objective.states(self.batch()).square().mean()

    def plain(self, objective: Objective) -> Iterator[torch.Tensor]:
        yield from plain_loss(
            objective.model, self.batch(), objective.trends_QVF[0], self.settings.objective
        )

    def updated_by(
        self, losses: Callable[[Objective], Iterator[torch.Tensor]]
    ) -> Callable[[], object]:
        """Gradients of the losses, and a step of AdamW."""
        objective, settings = self.objective(), self.settings
        optimizer = torch.optim.AdamW(objective.parameters(), lr=settings.learning_rate)

        def run() -> None:
            optimizer.zero_grad()
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
            ):
                for loss in losses(objective):
                    loss.backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), settings.grad_clip)
            optimizer.step()

        return run


def _prepare(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows per second from Parquet to sequences, by Ray Data, beside DuckDB and Polars."""
    start_ray()
    directory = tempfile.TemporaryDirectory(prefix="benchmark-")  # lives as long as `prepare`
    lake = Storage.of(directory.name)
    files = _write_log(lake.sub("log"), options)
    events = EventsConfig(path=lake.url("log"), time_unit="s")
    before = 1_640_000_000_000_000

    def prepare(_: object = directory) -> None:
        found = inspect_inputs(files, events)
        survey = survey_log(
            found,
            events=events,
            before=before,
            quantile=0.95,
            fixed_time=None,
            quarantine=lake.sub("quarantine"),
            check=lambda counts, newest: None,
            progress=lambda done, total: None,
        )
        build_sequences(
            found,
            events=events,
            before=before,
            split_time=survey.split_time,
            num=num_buckets(survey.num_users, users_per_bucket=20_000),
            max_user_events=100_000,
            min_item_count=1,
            min_user_events=2,
            previous_vocab=None,
            output=lake,
            progress=lambda done, total: None,
        )

    log_path = f"{directory.name}/log/*.parquet"
    variants: Variants = {
        "prepare": prepare,
        "duckdb": lambda: prepare_with_duckdb(log_path, directory.name, quantile=0.95),
        "polars": lambda: prepare_with_polars(log_path, directory.name, quantile=0.95),
    }
    if options.variants:
        variants = {name: variants[name] for name in options.variants.split(",")}
    for name, seconds in _median_seconds(variants, options.rounds, "cpu"):
        yield {"variant": name, "rows_per_s": round(options.rows / seconds, 2)}
    store_gib = ray.cluster_resources()["object_store_memory"] / 2**30
    yield {"variant": "object store", "gib": round(store_gib, 2), "spilled_mib": _spilled_mib()}


def _write_log(directory: Storage, options: argparse.Namespace) -> list[InputFile]:
    """A random log, in files that fit the memory one at a time."""
    rng = np.random.default_rng(SEED)
    files: list[InputFile] = []
    for start in range(0, options.rows, ROWS_OF_A_FILE):
        num = min(ROWS_OF_A_FILE, options.rows - start)
        log = {
            "user_id": rng.integers(options.users, size=num),
            "item_id": (options.items * rng.random(num) ** 3).astype(np.int64),
            "timestamp": rng.integers(1_600_000_000, 1_630_000_000, num),
        }
        name = f"part-{len(files):05d}.parquet"
        directory.write_table(name, pa.table(log))
        files.append(InputFile(directory.url(name), 0, ""))
    return files


def _spilled_mib() -> int:
    """What the object store of this Ray has written to disk since it started."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "memory", "--stats-only"]
    address = ray.get_runtime_context().gcs_address
    report = subprocess.run(
        [*command, "--address", address], capture_output=True, text=True, check=True
    ).stdout
    spilled = re.search(r"Spilled (\d+) MiB", report)
    return int(spilled[1]) if spilled else 0


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


def _ray(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
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


MEASURES: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "score": _score,
    "train": _train,
    "prepare": _prepare,
    "ray": _ray,
    "plan": plan,
    "reliability": reliability,
    "night": night,
}
