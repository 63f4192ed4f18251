"""The Ray of a job: joined or started here, set up, and held against what the stages ask for."""

import logging
import os
from collections.abc import Mapping

import ray
import ray.data

from diffsasrec.config import Config
from diffsasrec.train import check_cluster


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
