"""What the stages of a night will take: from the newest night of the lake, else from rough rates.

All of it is an estimate, and the table says from what.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.compression import compr
from fsspec.utils import infer_compression

from diffsasrec.config.config import Config
from diffsasrec.files.storage import Storage
from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.listing import InputFile
from diffsasrec.lake.chain import read_chain
from diffsasrec.lake.run_dir import run_path
from diffsasrec.lake.stages import OUTPUTS
from diffsasrec.progress import duration

from .cost import Cost, cost_of
from .memory import memory_of
from .workload import (
    GPU_SHARE,
    GPUS,
    Workload,
    cpu_rates,
    seconds_on_cpu,
    seconds_on_gpu,
    training_seconds,
)

# rough rates, for a lake without any night
START_SECONDS = 10.0  # until the processes of a stage have started
ROWS_PER_S = 100_000  # of prepare, per CPU
LISTS_PER_S = 5_000  # of publish, per CPU: the audit makes each history again
SLOWEST_GPU = "L4"  # the slowest of jobs/planning/workload.py
HEAD_BYTES = 2**20  # bytes of a text file that are looked at
FOOTERS = 8  # files whose footers are read

Resources = Mapping[str, Mapping[str, float]]  # by stage and kind


@dataclass(frozen=True)
class Size:
    """Of a log, estimated."""

    rows: float
    users: float
    items: float

    @staticmethod
    def of_whole(users: list[pa.Array], items: list[pa.Array], rows: int) -> "Size":
        """Of all chunks of a small log: exact."""
        found = (len(pa.chunked_array(ids).unique()) for ids in (users, items))
        return Size(rows, *found)

    @staticmethod
    def of_sample(
        users: list[pa.Array], items: list[pa.Array], inputs: list[InputFile], file_format: str
    ) -> "Size":
        """From the ids of some chunks, and from footers (Parquet) or the length of lines (text)."""
        rows = sum(file.size for file in inputs) / _bytes_per_row(inputs, file_format)
        return Size(rows, num_distinct(users, rows), num_distinct(items, rows))


@dataclass(frozen=True)
class Estimate:
    size: Size
    basis: str  # what it was made from
    seconds: dict[str, float]  # by stage
    cost: Cost
    memory: dict[str, float]  # by stage: bytes of its largest process


def _bytes_per_row(inputs: list[InputFile], file_format: str) -> float:
    some = [inputs[i] for i in np.unique(np.linspace(0, len(inputs) - 1, FOOTERS).astype(int))]
    num_bytes, num_rows = 0.0, 0.0
    for file in some:
        filesystem, path = open_filesystem(file.path)
        if file_format == "parquet":
            with filesystem.open(path, "rb") as opened:
                num_rows += pq.read_metadata(opened).num_rows
            num_bytes += file.size
        else:
            with filesystem.open(path, "rb") as raw:
                packed = infer_compression(path)
                opened = compr[packed](raw, mode="r") if packed else raw
                num_rows += max(opened.read(HEAD_BYTES).count(b"\n"), 1)
                num_bytes += min(raw.tell(), file.size)
    return max(num_bytes, 1.0) / max(num_rows, 1.0)


def num_distinct(chunks: list[pa.Array], num_rows: float) -> float:
    """About how many ids a log of so many rows has, from the ids of chunks of it."""
    counts = np.asarray(pc.value_counts(pa.chunked_array(chunks)).field("counts"))
    found, looked_at = len(counts), int(counts.sum())
    if not found:
        return 0.0
    most = found * max(num_rows / looked_at, 1.0)
    if len(chunks) > 1 and sum(len(chunk.unique()) for chunk in chunks) < 1.05 * found:
        return most  # the log is sorted by them: each chunk brings new ones
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return float(min(found + once**2 / (2 * max(twice, 1)), most))  # Chao 1984


def estimate(
    config: Config,
    lake: Storage,
    inputs: list[InputFile],
    sampled: Size,
    resources: Resources,
    cluster: Mapping[str, float],
) -> Estimate:
    """What each stage takes on `cluster`; `resources`: of it, `cost.stage_resources`."""
    night = newest_night(lake)
    if night is not None:
        size, seconds = as_then(config, night, inputs, resources)
        basis = f"run {night['run_id']} of {night['ds']}, scaled"
    else:
        size, seconds = sampled, by_rates(config, sampled, resources)
        basis = "rough rates and operations counted; no night of this lake is published"
    cpus = max(resources["publish"]["CPU"], 1.0)
    seconds["publish"] = size.users / LISTS_PER_S / cpus
    cost = cost_of(config, seconds, cluster)
    return Estimate(size, basis, seconds, cost, memory_of(config, **vars(size)))


def newest_night(lake: Storage) -> dict[str, Any] | None:
    """The manifest of the newest night that has trained and whose run directory is still there."""
    for entry in reversed(read_chain(lake)):
        try:
            data = lake.read_bytes(f"{run_path(entry.ds, entry.run_id)}/manifest.json")
        except FileNotFoundError:
            continue
        manifest: dict[str, Any] = json.loads(data)
        if manifest.get("reused") is None:
            return manifest
    return None


def as_then(
    config: Config, night: dict[str, Any], inputs: list[InputFile], resources: Resources
) -> tuple[Size, dict[str, float]]:
    """The size of this log and the seconds of stages, from those of an earlier night.

    Rows and users grow with the bytes of the log, items with their square root. Prepare takes time
    by rows, training by rows and epochs, lists by users and items; each less, the more works on it.
    """
    then, counts = night["config"], night["counts"]["prepare"]
    grown = sum(f.size for f in inputs) / max(sum(f["size"] for f in night["inputs"]), 1)
    size = Size(counts["rows"] * grown, counts["users"] * grown, counts["items"] * math.sqrt(grown))
    pretrain = config.pretrain.epochs / then["pretrain"]["epochs"]
    finetune = (config.finetune.epochs or 0) / max(then["finetune"]["epochs"], 1)
    lists = grown * math.sqrt(grown)
    trained = grown * num_trainings(config.resolved()) / num_trainings(then)
    work = {"prepare": grown, "pretrain": trained * pretrain, "finetune": trained * finetune}
    work |= {"refit": grown * max(pretrain, finetune), "evaluate": lists, "score": lists}
    seconds = {}
    for stage, taken in night["seconds"].items():
        seconds[stage] = taken * work[stage]
        used = night.get("cost", {}).get("stages", {}).get(stage)
        kind = "GPU" if used and used["gpu_hours"] and resources[stage]["GPU"] else "CPU"
        if used and taken and used[f"{kind.lower()}_hours"]:
            num_then = used[f"{kind.lower()}_hours"] * 3600 / taken
            seconds[stage] *= num_then / max(resources[stage][kind], 1e-9)
    return size, seconds


def num_trainings(config: Mapping[str, Any]) -> int:
    """How often a night that starts from scratch trains before its refit, by its resolved keys.

    Twice where something is chosen on the second cut. An earlier version has no weight to choose.
    """
    finetune = config["finetune"]
    searches = any(config[stage]["patience"] is not None for stage in ("pretrain", "finetune"))
    model = config["model"]
    chooses = finetune.get("state_weight", 1.0) is None and model["trends"]
    ranks = model.get("ranker") and model.get("similar_items") and model["trends"]
    chooses |= finetune.get("ranker_weight", 0.0) is None and bool(ranks)
    return 1 + bool(searches or chooses)


def by_rates(config: Config, size: Size, resources: Resources) -> dict[str, float]:
    """The seconds of stages by what each computes; rates of this machine's CPU are measured."""
    load = workload_of(config, size)
    encoding, products = cpu_rates(load)
    if resources["score"]["GPU"]:
        way = "fused" if config.score.fused else "shortlist"
        each = seconds_on_gpu(load, GPUS[SLOWEST_GPU])[way]
    else:
        each = seconds_on_cpu(load, encoding=encoding, products=products)["shortlist"]
    score = size.users * each / (resources["score"]["GPU"] or resources["score"]["CPU"])
    num_workers = resources["pretrain"]["GPU"] or resources["pretrain"]["CPU"]
    if resources["pretrain"]["GPU"]:
        encoding = products = GPUS[SLOWEST_GPU].bfloat16 * GPU_SHARE
    pretrain, finetune = (
        seconds / num_workers
        for seconds in training_seconds(
            load,
            config.pretrain,
            config.finetune,
            num_negatives=config.train.num_negatives,
            num_slots=config.model.num_slots,
            encoding=encoding,
            products=products,
        )
    )
    trainings = num_trainings(config.resolved())
    working = {
        "prepare": size.rows / ROWS_PER_S / max(resources["prepare"]["CPU"], 1.0),
        "pretrain": trainings * pretrain,
        "finetune": trainings * finetune,
        "evaluate": score,  # some of the users, and the counters
        "refit": pretrain + finetune,
        "score": score,
    }
    return {stage: START_SECONDS + seconds for stage, seconds in working.items()}


def workload_of(config: Config, size: Size) -> Workload:
    """What a log of this size gives a configured model to compute."""
    history = max(size.rows / max(size.users, 1.0), 1.0)
    return Workload(
        users=size.users,
        items=max(size.items, 1.0),
        history=min(history, config.model.max_seq_len),
        hidden=config.model.hidden_size,
        blocks=config.model.num_blocks,
        heads=config.model.num_heads,
        k=config.score.k,
        decode=config.score.decode,
        steps=config.score.steps,
    )


def plan_table(known: Estimate, to_do: list[str]) -> list[str]:
    """The estimate as people read it; stages that are done take nothing."""
    size = known.size
    lines = [
        f"estimated from {known.basis}",
        f"about {size.rows:,.0f} rows, {size.users:,.0f} users, {size.items:,.0f} items",
        f"{'stage':10}{'time':>10}{'CPU h':>10}{'GPU h':>10}{'money':>10}"
        f"{'memory of a process':>22}",
    ]
    spent = {"cpu_hours": 0.0, "gpu_hours": 0.0}
    money: float | None = 0.0
    for stage in OUTPUTS:
        if stage not in to_do:
            continue
        cost = known.cost["stages"][stage]
        lines.append(
            f"{stage:10}{_about(known.seconds[stage]):>10}{cost['cpu_hours']:>10.3f}"
            f"{cost['gpu_hours']:>10.3f}{_money(cost['money']):>10}"
            f"{f'{known.memory[stage] / 2**30:.1f} GiB':>22}"
        )
        for kind in spent:
            spent[kind] += cost[kind]
        money = None if money is None or cost["money"] is None else money + cost["money"]
    total = sum(known.seconds[stage] for stage in to_do)
    lines.append(
        f"{'all':10}{_about(total):>10}{spent['cpu_hours']:>10.3f}{spent['gpu_hours']:>10.3f}"
        f"{_money(money):>10}"
    )
    return lines


def _about(seconds: float) -> str:
    return f"~{duration(max(seconds, 1.0))}"


def _money(money: float | None) -> str:
    return "-" if money is None else f"{money:.3f}"
