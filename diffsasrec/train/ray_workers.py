"""Ray Train around the training loop: a group of DDP workers that survives the death of any."""

import logging
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import ray.util
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

from diffsasrec.config.training import TrainConfig
from diffsasrec.errors import DiffsasrecError, InfrastructureError, find_ours
from diffsasrec.progress import Board, Progress
from diffsasrec.train.phases import Job, Phase
from diffsasrec.train.trainer import train_phases

log = logging.getLogger(__name__)


def train(job: Job, phases: list[Phase], *, log_interval: float) -> None:
    """Runs the phases one after another on `job.train.num_workers` DDP workers.

    Raises:
        InfrastructureError: workers or their controller died more often than train.max_failures.
        DiffsasrecError: the error that a worker raised.
    """
    board, done = start_board(), threading.Event()
    waiting = partial(waiting_for_room, phases[-1].name, job.train)
    printer = threading.Thread(target=_print_progress, args=(board, done, log_interval, waiting))
    printer.start()
    try:
        outlive_failures(partial(_fit, job, phases, board), most=job.train.max_failures)
    except Exception as error:
        raise _our_error(error) from error
    finally:
        done.set()
        printer.join()


def _fit(job: Job, phases: list[Phase], board: Any) -> None:
    # our own state files resume a training, and `outlive_failures` restarts it. Ray's bookkeeping
    # stays on the node of this process (its controller runs here, and no checkpoint is reported to
    # it): it needs no store
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config={"job": job, "phases": tuple(phases), "board": board},
            scaling_config=ScalingConfig(
                num_workers=job.train.num_workers,
                use_gpu=job.train.gpus_per_worker > 0,
                resources_per_worker=_resources(job.train),
            ),
            run_config=RunConfig(
                storage_path=directory,
                name=f"{phases[-1].name}-{job.attempt}",
                failure_config=FailureConfig(max_failures=0),
            ),
        ).fit()


def outlive_failures(fit: Callable[[], None], *, most: int) -> None:
    """Runs `fit` again when workers of the training or its controller die, at most `most` times.

    Ray would replace the workers itself, but never the controller that watches over them. It would
    also replace them after one of our own errors, which comes back on every try.
    """
    for left in range(most, -1, -1):
        try:
            return fit()
        except (RayActorError, TrainingFailedError) as error:
            ours = find_ours(error)
            is_final = ours is not None and ours.exit_code != InfrastructureError.exit_code
            if is_final or not left:
                raise
            log.warning("train: it failed (%s); starting it again", _reason(error))


def start_board() -> Any:
    """A `Board` that outlives its process and its node: without it a training looks stalled."""
    lasting = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    return lasting(Board).remote()


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


def waiting_for_room(phase: str, train: TrainConfig) -> str | None:
    """A message if the cluster has no room for the workers of a training; None if it has."""
    wanted = _resources(train)
    bundles = [wanted] * train.num_workers
    groups = ray.util.placement_group_table().values()  # Ray Train places its workers in these
    waits = [group for group in groups if group["state"] in ("PENDING", "RESCHEDULING")]
    if not any(list(group["bundles"].values()) == bundles for group in waits):
        return None
    free = ray.available_resources()
    each = " and ".join(f"{number:g} {kind}" for kind, number in wanted.items())
    left = " and ".join(f"{free.get(kind, 0.0):g} {kind}" for kind in wanted)
    return (
        f"{phase}: waiting for {train.num_workers} workers of {each} each, the cluster has {left} "
        "free"
    )


def _print_progress(
    board: Any, done: threading.Event, interval: float, waiting: Callable[[], str | None]
) -> None:
    printers: dict[str, Progress] = {}
    last, said = None, time.monotonic()
    while not done.wait(min(interval, 1.0)):
        entry = ray.get(board.read.remote())
        if entry not in (last, None):  # a restarted board is empty
            said = time.monotonic()
            phase, step, total, note = last = entry
            printer = printers.setdefault(phase, Progress(phase, "step", interval=interval))
            printer.update(step, total, note)
        elif time.monotonic() - said >= interval:
            said = time.monotonic()
            if (line := waiting()) is not None:
                log.info("%s", line)


def _our_error(error: Exception) -> DiffsasrecError:
    if ours := find_ours(error):
        return ours
    return InfrastructureError(
        f"training failed after its retries: {_reason(error)}; the same command continues from "
        "the last saved step"
    )


def _reason(error: Exception) -> str:
    """The last line of what the first worker said, else of the error itself."""
    first = next(iter(getattr(error, "worker_failures", {}).values()), error)
    return (str(first).strip().splitlines() or [type(first).__name__])[-1]
