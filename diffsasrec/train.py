"""Ray Train around the training loop: a group of DDP workers that survives the death of any."""

import logging
import threading
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray._private.state import state
from ray.train import FailureConfig, RunConfig, ScalingConfig

from diffsasrec.config import TrainConfig
from diffsasrec.errors import ConfigError, DiffsasrecError, InfrastructureError, find_ours
from diffsasrec.fit import train_phases
from diffsasrec.phases import Job, Phase
from diffsasrec.progress import Board, Progress

log = logging.getLogger(__name__)


def train(job: Job, phases: list[Phase], *, log_interval: float) -> None:
    """Runs the phases one after another on `job.train.num_workers` DDP workers.

    Raises:
        InfrastructureError: the workers died more often than train.max_failures.
    """
    name = f"{phases[-1].name}-{job.attempt}"
    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job, "phases": tuple(phases), "board": board},
        scaling_config=ScalingConfig(
            num_workers=job.train.num_workers,
            use_gpu=job.train.gpus_per_worker > 0,
            resources_per_worker=_resources(job.train),
        ),
        run_config=RunConfig(
            # our own state files resume a training; Ray keeps only its bookkeeping here
            storage_path=job.run.url("state/ray"),
            name=name,
            failure_config=FailureConfig(max_failures=job.train.max_failures),
        ),
    )
    done = threading.Event()
    printer = threading.Thread(target=_print_progress, args=(board, done, log_interval))
    printer.start()
    try:
        trainer.fit()
    except Exception as error:
        raise _our_error(error) from error
    finally:
        done.set()
        printer.join()
    job.run.delete([info.path for info in job.run.list(f"state/ray/{name}")])


def _worker(config: dict[str, Any]) -> None:
    context, board = ray.train.get_context(), config["board"]
    train_phases(
        config["job"],
        config["phases"],
        device=ray.train.torch.get_device(),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        tell=lambda *entry: board.write.remote(*entry),
    )


def _resources(train: TrainConfig) -> dict[str, float]:
    resources = {"CPU": train.cpus_per_worker}
    return resources | ({"GPU": train.gpus_per_worker} if train.gpus_per_worker else {})


def check_cluster(section: str, what: str, number: int, resources: dict[str, float]) -> None:
    """Raises ConfigError when the cluster, at its largest, can't hold `number` of `what`."""
    available = cluster_resources()
    for kind, each in resources.items():
        if each * number > available.get(kind, 0.0) + 1e-9:
            raise ConfigError(
                f"{number} {what}s with {section}.{kind.lower()}s_per_{what}={each:g} need "
                f"{each * number:g} {kind}, the cluster has {available.get(kind, 0.0):g}; lower "
                f"{section}.num_{what}s or {section}.{kind.lower()}s_per_{what}, or use a larger "
                "cluster"
            )


def cluster_resources() -> dict[str, float]:
    """What the cluster has, or can scale to where it says so."""
    limits = state.get_max_resources_from_cluster_config() or {}
    current = ray.cluster_resources()
    return {kind: max(limits.get(kind, 0), current.get(kind, 0)) for kind in {*limits, *current}}


def _print_progress(board: Any, done: threading.Event, interval: float) -> None:
    printers: dict[str, Progress] = {}
    last = None
    while not done.wait(min(interval, 1.0)):
        entry = ray.get(board.read.remote())
        if entry != last:
            phase, step, total, note = last = entry
            printer = printers.setdefault(phase, Progress(phase, "step", interval=interval))
            printer.update(step, total, note)


def _our_error(error: Exception) -> DiffsasrecError:
    if ours := find_ours(error):
        return ours
    first = next(iter(getattr(error, "worker_failures", {}).values()), error)
    text = str(first).strip().splitlines() or [type(first).__name__]
    return InfrastructureError(
        f"training failed after its retries: {text[-1]}; the same command continues from the "
        "last saved step"
    )
