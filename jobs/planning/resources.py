"""Whether the workers and actors of a night find their place in the cluster."""

from collections.abc import Mapping
from typing import Any

import ray
import ray.data

from diffsasrec.config.config import Config
from diffsasrec.lake.stages import WORKERS
from diffsasrec.ray_cluster import Nodes, check_cluster, cluster_nodes


def check_resources(config: Config, stages: list[str], available: Mapping[str, float]) -> None:
    """Before anything is read: a worker that fits nowhere would be waited for without end."""
    train, score = config.train, config.score
    room: dict[str, Any] = {
        "available": available,
        "nodes": cluster_nodes() if ray.is_initialized() else [[Nodes(available)]],  # this machine
    }
    kinds = {WORKERS[stage] for stage in stages}
    if "train" in kinds:
        resources = {"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker}
        check_cluster("train", "worker", train.num_workers, resources, **room)
    if "score" in kinds:
        resources = {"CPU": score.cpus_per_actor, "GPU": score.gpus_per_actor}
        check_cluster("score", "actor", 1, resources, **room)
