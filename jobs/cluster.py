"""The Ray of a job: joined or started here, set up, and held against what the stages ask for."""

import logging
import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray._private.state import state
from ray.exceptions import AuthenticationError

from diffsasrec.config import Config
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.progress import duration
from jobs.ending import handlers_kept, kill_family

log = logging.getLogger("jobs")

WAITS = (5.0, 30.0)  # seconds before each further attempt to start a Ray
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray's job server for the command that it runs


def start_ray(waits: tuple[float, ...] = WAITS) -> None:
    """Joins the cluster that RAY_ADDRESS names, else starts a Ray on this machine.

    Args:
        waits: seconds before each further attempt to start a Ray here.

    Raises:
        ConfigError: RAY_ADDRESS is no address, or its cluster asks for another token.
        InfrastructureError: no attempt went well.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    if "RAY_ADDRESS" in os.environ:
        waits = ()  # Ray itself tries for minutes to join a cluster
    for wait in (*waits, None):
        try:
            with handlers_kept():
                _init_ray()
            break
        except (ValueError, AuthenticationError) as error:
            where = os.environ.get("RAY_ADDRESS", "not set")
            raise ConfigError(
                f"Ray can't be started with RAY_ADDRESS={where}: {_first_line(error)}; correct "
                "RAY_ADDRESS, RAY_AUTH_MODE or RAY_AUTH_TOKEN_PATH"
            ) from None
        except Exception as error:  # Ray has no type for it
            _clear_away()
            what = f"{_whose_ray()}: {type(error).__name__}: {_first_line(error)}"
            if wait is None:
                raise InfrastructureError(
                    f"{what}; attempts: {len(waits) + 1}. Is this machine short of memory, of "
                    "space in /tmp or of processes, or the cluster not up? Run the same command "
                    "again"
                ) from None
        log.warning("%s; trying again in %s", what, duration(wait))
        time.sleep(wait)
    set_up_data()


def _init_ray() -> None:
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )


def _clear_away() -> None:
    """Ends what an attempt has left."""
    with suppress(Exception), handlers_kept():
        ray.shutdown()
    if "RAY_ADDRESS" not in os.environ:
        kill_family()


def _whose_ray() -> str:
    address = os.environ.get("RAY_ADDRESS")
    return "no Ray starts on this machine" if address is None else f"no Ray answers at {address}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


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
    room: dict[str, Any] = {
        "available": available,
        "nodes": cluster_nodes() if ray.is_initialized() else [[Nodes(available)]],  # this machine
    }
    if {"pretrain", "finetune", "refit"} & set(stages):
        resources = {"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker}
        check_cluster("train", "worker", train.num_workers, resources, **room)
    if {"evaluate", "score"} & set(stages):
        resources = {"CPU": score.cpus_per_actor, "GPU": score.gpus_per_actor}
        check_cluster("score", "actor", 1, resources, **room)


@dataclass(frozen=True)
class Nodes:
    """Nodes that are alike, as a cluster has them or can start them."""

    resources: Mapping[str, float]  # of each
    number: float = 1  # inf: as many as are asked for


def count_places(each: Mapping[str, float], nodes: Iterable[Nodes]) -> float:
    """How many processes that each take these resources of one node there is room for."""
    total = 0.0
    for group in nodes:
        rooms = [
            (group.resources.get(kind, 0.0) + 1e-9) // wanted
            for kind, wanted in each.items()
            if wanted
        ]
        if rooms and min(rooms) > 0:
            total += min(rooms) * group.number
    return total


def check_cluster(
    section: str,
    what: str,
    number: int,
    resources: dict[str, float],
    *,
    available: Mapping[str, float],
    nodes: Iterable[list[Nodes]],
) -> None:
    """Checks that `number` of `what` can run at once.

    Args:
        available: all resources of the cluster.
        nodes: the cluster as it is, and as it can become: one of these has to do.

    Raises:
        ConfigError: they can't, all of them together or each on one node.
    """
    for kind, each in resources.items():
        if each * number > available.get(kind, 0.0) + 1e-9:
            raise ConfigError(
                f"{number} {what}s with {section}.{kind.lower()}s_per_{what}={each:g} need "
                f"{each * number:g} {kind}, the cluster has {available.get(kind, 0.0):g}; lower "
                f"{section}.num_{what}s or {section}.{kind.lower()}s_per_{what}, or use a larger "
                "cluster"
            )
    views = [view for view in nodes if view]
    places = max((count_places(resources, view) for view in views), default=math.inf)
    if places < number:
        keys = [f"{section}.{kind.lower()}s_per_{what}={n:g}" for kind, n in resources.items() if n]
        raise ConfigError(
            f"{number} {what}s with {' and '.join(keys)} find {places:g} places on the nodes of "
            f"the cluster ({'; or '.join(map(_shapes, views))}): each takes all that it needs from "
            f"one node; lower {' or '.join(key.partition('=')[0] for key in keys)} or "
            f"{section}.num_{what}s, or use larger nodes"
        )


def _shapes(nodes: list[Nodes]) -> str:
    """The nodes in words: 3 of 4 CPU and 1 GPU, 1 of 2 CPU."""
    counts: dict[str, float] = {}
    for group in nodes:
        kinds = [
            f"{group.resources.get(k, 0.0):g} {k}" for k in ("CPU", "GPU") if k in group.resources
        ]
        shape = " and ".join(kinds) or "no CPU"
        counts[shape] = counts.get(shape, 0) + group.number
    return ", ".join(f"{number:g} of {shape}" for shape, number in counts.items())


def cluster_nodes() -> list[list[Nodes]]:
    """The nodes that the cluster has, and those that it can scale to where it says so."""
    current = [Nodes(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    config = state.get_cluster_config()
    groups = config.node_group_configs if config is not None else []
    largest = [
        Nodes(dict(group.resources), math.inf if group.max_count < 0 else group.max_count)
        for group in groups
    ]
    return [current, largest]


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
