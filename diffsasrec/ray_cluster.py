"""What a Ray cluster has, and whether the workers and actors of a night fit its nodes."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

# Only this tells what a cluster can scale to: public functions know only running nodes (Ray 2.60).
from ray._private.state import state

# Only this class is told of the steps of an execution (Ray 2.60).
from ray.data._internal.execution.execution_callback import ExecutionCallback

from diffsasrec.errors import ConfigError
from diffsasrec.progress import HEARTBEAT


def cluster_resources() -> dict[str, float]:
    """What the cluster has, or can scale to if it knows that."""
    limits = state.get_max_resources_from_cluster_config() or {}
    current = ray.cluster_resources()
    return {kind: max(limits.get(kind, 0), current.get(kind, 0)) for kind in {*limits, *current}}


class Beats(ExecutionCallback):  # type: ignore[misc]
    """A beat whenever Ray Data gets on: with a shuffle, its first row comes after all the work."""

    def __init__(self) -> None:
        self._done: list[tuple[int, int]] | None = None

    def on_execution_step(self, executor: Any) -> None:
        done = [_done_by(operator) for operator in executor._topology]
        if done != self._done:
            HEARTBEAT.beat()
        self._done = done


def _done_by(operator: Any) -> tuple[int, int]:
    """Finished tasks and blocks of an operator; a shuffle counts its two halves by themselves."""
    halves = [getattr(operator, f"_{half}_metrics", None) for half in ("shuffle", "reduce")]
    counted = [half for half in halves if half is not None] or [operator.metrics]
    return (
        sum(half.num_tasks_finished for half in counted),
        sum(half.num_task_outputs_generated for half in counted),
    )


def set_up_data() -> None:
    """Makes Ray Data quiet but for beats, and makes it tolerate some failures, in every stage."""
    context = ray.data.DataContext.get_current()
    # a store that fails once while an actor loads must not end the night
    context.max_consecutive_actor_init_deaths = 3
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if Beats not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(Beats)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind that a cluster has or can start."""

    resources: Mapping[str, float]  # of each
    number: float = 1  # inf: as many as are asked for


def count_places(each: Mapping[str, float], nodes: Iterable[Nodes]) -> float:
    """How many processes fit on the nodes, if each takes these resources of one node."""
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
        nodes: the cluster as it is, and as it can become; the processes must fit one of them.

    Raises:
        ConfigError: the cluster has too little of a resource, or no node with enough.
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
    """The nodes that the cluster has, and those that it can scale to if it knows that."""
    current = [Nodes(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    config = state.get_cluster_config()
    groups = config.node_group_configs if config is not None else []
    largest = [
        Nodes(dict(group.resources), math.inf if group.max_count < 0 else group.max_count)
        for group in groups
    ]
    return [current, largest]
