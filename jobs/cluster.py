"""The Ray of a job: joined or started here, set up, and held against what the stages ask for."""

import logging
import os
from collections.abc import Mapping

import ray
import ray.data

from diffsasrec.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.train import check_cluster

IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray's job server for the command that it runs


def start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names, else starts a Ray on this machine."""
    logging.getLogger("ray").setLevel(logging.WARNING)
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    set_up_data()


def set_up_data() -> None:
    """What Ray Data says, and how many failures it bears, in every stage."""
    context = ray.data.DataContext.get_current()
    # a store that does not answer once, while an actor loads, is no reason to end the night
    context.max_consecutive_actor_init_deaths = 3
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def check_resources(config: Config, stages: list[str], available: Mapping[str, float]) -> None:
    """Before anything is read: a worker that fits nowhere would be waited for without end."""
    train, score = config.train, config.score
    if {"pretrain", "finetune", "refit"} & set(stages):
        resources = {"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker}
        check_cluster("train", "worker", train.num_workers, resources, available=available)
    if {"evaluate", "score"} & set(stages):
        resources = {"CPU": score.cpus_per_actor, "GPU": score.gpus_per_actor}
        check_cluster("score", "actor", 1, resources, available=available)


def refuse_passing_lake(lake: str) -> None:
    """A submitted job runs in a copy of its directory, which goes away with it.

    Raises:
        ConfigError: the lake would lie in there.
    """
    if IN_A_JOB in os.environ and not lake.startswith("s3://") and not os.path.isabs(lake):
        raise ConfigError(
            f"lake={lake} is relative, and a submitted job runs in a directory of its own, which "
            "goes away with it; give s3://bucket/prefix, or an absolute path that all nodes share"
        )
