"""What the stages of a night take of machines, and what that costs."""

from collections.abc import Mapping
from typing import Any

from diffsasrec.config.config import Config
from diffsasrec.lake.stages import WORKERS, Workers

Cost = dict[str, Any]


def stage_resources(config: Config, cluster: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The CPUs and GPUs that each stage keeps busy: of its workers, or all CPUs of the cluster.

    `cluster`: CPU and GPU that there are.
    """
    train, score = config.train, config.score
    num_actors = float(score.num_actors)  # at most, and no more than the cluster holds
    for kind, each in (("CPU", score.cpus_per_actor), ("GPU", score.gpus_per_actor)):
        if each:
            num_actors = min(num_actors, max(cluster.get(kind, 0.0) // each, 1.0))
    kinds: dict[Workers, dict[str, float]] = {
        "tasks": {"CPU": cluster.get("CPU", 0.0), "GPU": 0.0},
        "train": {
            "CPU": train.num_workers * train.cpus_per_worker,
            "GPU": train.num_workers * train.gpus_per_worker,
        },
        "score": {
            "CPU": num_actors * score.cpus_per_actor,
            "GPU": num_actors * score.gpus_per_actor,
        },
    }
    return {stage: kinds[workers] for stage, workers in WORKERS.items()}


def cost_of(config: Config, seconds: Mapping[str, float], cluster: Mapping[str, float]) -> Cost:
    """Hours and money of stages that take so many seconds, and of all of them together.

    Money is null where a resource that is used has no price (cost.cpu_hour, cost.gpu_hour).
    """
    resources = stage_resources(config, cluster)
    stages = {
        stage: _priced(config, *(taken / 3600 * resources[stage][kind] for kind in ("CPU", "GPU")))
        for stage, taken in seconds.items()
    }
    total = (sum(cost[kind] for cost in stages.values()) for kind in ("cpu_hours", "gpu_hours"))
    return {"stages": stages, "total": _priced(config, *total)}


def _priced(config: Config, cpu_hours: float, gpu_hours: float) -> Cost:
    used = [(cpu_hours, config.cost.cpu_hour), (gpu_hours, config.cost.gpu_hour)]
    known = all(price is not None for hours, price in used if hours)
    priced = known and any(price is not None for _, price in used)
    money = sum(hours * (price or 0.0) for hours, price in used) if priced else None
    return {
        "cpu_hours": round(cpu_hours, 6),
        "gpu_hours": round(gpu_hours, 6),
        "money": None if money is None else round(money, 6),
    }
