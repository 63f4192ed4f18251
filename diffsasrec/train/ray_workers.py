"""Ray around the training loop: workers whose death, of any of them, a training survives.

Several are a DDP group of Ray Train. One alone is a task: it needs no controller, nor the processes
that this starts beside it, which take longer to start than a small training takes.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Self

import ray
import ray.util
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from diffsasrec.config.training import TrainConfig
from diffsasrec.errors import DiffsasrecError, InfrastructureError, find_ours
from diffsasrec.progress import Board, Progress
from diffsasrec.train.phases import Job, Phase
from diffsasrec.train.ranks import Worker
from diffsasrec.train.trainer import train_phases

log = logging.getLogger(__name__)

LOOKS = 0.2  # seconds between two looks at the board


class Workers:
    """Workers that train what they are given, one after another, until they are let go.

    To start them takes many seconds. Between two trainings they keep their places in the cluster.

    Attributes:
        group: what becomes of those that have started; None: the next training starts some.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._board = start_board()
        self._number = 0
        self._work: list[Any] = []  # none: the workers end
        self.group: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.end()
        else:  # they end as soon as they can, and nobody waits for it
            self._board.call_for.remote(self._number + 1, [])

    def train(self, phases: list[Phase], *, log_interval: float) -> None:
        """Runs the phases one after another on `job.train.num_workers` workers.

        Raises:
            InfrastructureError: workers or their controller died more often than
                train.max_failures.
            DiffsasrecError: the error that a worker raised.
        """
        # the board passes a reference on: what it refers to takes a second to import
        self._number, self._work = self._number + 1, [ray.put(tuple(phases))]
        waiting = partial(waiting_for_room, phases[-1].name, self.job.train)
        report = Report(log_interval, waiting)
        try:
            outlive_failures(partial(self._work_on, report), most=self.job.train.max_failures)
        except Exception as error:
            raise _our_error(error) from error

    def end(self) -> None:
        """Lets the workers go, and returns when their places are free."""
        self._number, self._work = self._number + 1, []
        while self.group is not None and not self.group.done():
            self._said()
            wait([self.group], LOOKS)
        if self.group is not None and (error := self.group.exception()) is not None:
            log.warning("train: its workers ended badly, after their work (%s)", _reason(error))
        self.group = None

    def _work_on(self, report: "Report") -> None:
        """Returns when the work is done; starts the workers if there are none."""
        running = self.group = self.group or in_background(self._run)
        done = 0
        while done < self._number:
            if running.done():
                self.group = None
                running.result()  # raises what has ended them
            wait([running], min(LOOKS, report.interval))
            entry, done = self._said()
            report.note(entry)

    def _said(self) -> tuple[tuple[Any, ...] | None, int]:
        said: tuple[tuple[Any, ...] | None, int]
        said = ray.get(self._board.call_for.remote(self._number, self._work))
        return said

    def _run(self) -> None:
        if self.job.train.num_workers == 1:
            _run_alone(self.job, self._board)
        else:
            _run_group(self.job, self._board)


def _run_alone(job: Job, board: Any) -> None:
    """One worker, in a process of its own, until there is no work any more."""
    resources = _resources(job.train)
    room = ray.util.placement_group([resources])  # `waiting_for_room` looks for it
    alone = ray.remote(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        scheduling_strategy=PlacementGroupSchedulingStrategy(room),
        max_retries=0,  # `outlive_failures` starts another one
        max_calls=1,  # the process ends, with the memory that it keeps
    )
    try:
        ray.get(alone(_train_alone).remote(job, board))
    finally:
        ray.util.remove_placement_group(room)


def _run_group(job: Job, board: Any) -> None:
    """The workers of a DDP group, until there is no work any more."""
    import ray.train.torch  # one worker alone goes without the seconds of this
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    # our own state files resume a training, and `outlive_failures` restarts it. Ray's bookkeeping
    # stays on the node of this process (its controller runs here, and no checkpoint is reported to
    # it): it needs no store
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        ray.train.torch.TorchTrainer(
            # in the function, not in its config: the controller would import all to read it
            partial(_train_in_group, job, board),
            scaling_config=ScalingConfig(
                num_workers=job.train.num_workers,
                use_gpu=job.train.gpus_per_worker > 0,
                resources_per_worker=_resources(job.train),
            ),
            run_config=RunConfig(
                storage_path=directory,
                name=job.attempt,
                failure_config=FailureConfig(max_failures=0),
            ),
        ).fit()


def in_background(function: Callable[[], None]) -> "Future[None]":
    """What becomes of `function` in a thread, which does not keep the process from ending."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    return future


def outlive_failures(fit: Callable[[], None], *, most: int) -> None:
    """Runs `fit` again when workers of the training or its controller die, at most `most` times.

    Ray would replace the workers itself, but never the controller that watches over them. It would
    also replace them after one of our own errors, which comes back on every try.
    """
    for left in range(most, -1, -1):
        try:
            return fit()
        except (RayError, _failed_group()) as error:
            ours = find_ours(error)
            is_final = ours is not None and ours.exit_code != InfrastructureError.exit_code
            if is_final or not left:
                raise
            log.warning("train: it failed (%s); starting it again", _reason(error))


def _failed_group() -> type[Exception]:
    """What Ray Train raises for the workers of a group."""
    from ray.train import TrainingFailedError

    failed: type[Exception] = TrainingFailedError
    return failed


def start_board() -> Any:
    """A `Board` that outlives its process and its node: without it a training looks stalled."""
    lasting = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    return lasting(Board).remote()


def _train_alone(job: Job, board: Any) -> None:
    """What the process of a worker alone does."""
    _work(job, board, Worker(torch.device("cuda:0" if job.train.gpus_per_worker else "cpu"), 0, 1))


def _train_in_group(job: Job, board: Any) -> None:
    """What each process of a group does."""
    import ray.train.torch

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    _work(job, board, Worker(ray.train.torch.get_device(), rank, world_size))


def _work(job: Job, board: Any, worker: Worker) -> None:
    """The work on the board, until there is none any more."""
    number = 0
    while True:
        number, phases = worker.from_rank_0(partial(_next_work, board, number))
        if not phases:
            return
        train_phases(job, phases, worker=worker, tell=lambda *entry: board.write.remote(*entry))


def _next_work(board: Any, done: int) -> tuple[int, tuple[Phase, ...]]:
    """The next number on the board, and its phases; none: there is no more work."""
    while (found := ray.get(board.next.remote(done))) is None:
        time.sleep(0.05)  # an actor has no way to wake a worker
    number, work = found
    return number, ray.get(work[0]) if work else ()


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


class Report:
    """Says how far a training is, at most every `interval` seconds; if it stands still, why."""

    def __init__(self, interval: float, waiting: Callable[[], str | None]) -> None:
        self.interval, self._waiting = interval, waiting
        self._printers: dict[str, Progress] = {}
        self._last: tuple[Any, ...] | None = None
        self._said = time.monotonic()

    def note(self, entry: tuple[Any, ...] | None) -> None:
        """Takes what is on the board; None: nothing, as it is new or was restarted."""
        if entry not in (self._last, None):
            self._said = time.monotonic()
            phase, step, total, note = self._last = entry
            if phase not in self._printers:
                self._printers[phase] = Progress(phase, "step", interval=self.interval)
            self._printers[phase].update(step, total, note)
        elif time.monotonic() - self._said >= self.interval:
            self._said = time.monotonic()
            if (line := self._waiting()) is not None:
                log.info("%s", line)


def _our_error(error: Exception) -> DiffsasrecError:
    if ours := find_ours(error):
        return ours
    return InfrastructureError(
        f"training failed after its retries: {_reason(error)}; the same command continues from "
        "the last saved step"
    )


def _reason(error: BaseException) -> str:
    """The last line of what the first worker said, else of the error itself."""
    first = next(iter(getattr(error, "worker_failures", {}).values()), error)
    return (str(first).strip().splitlines() or [type(first).__name__])[-1]
