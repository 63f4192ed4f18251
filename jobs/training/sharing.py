"""Trainings of a command that follow each other share their workers.

To start workers takes many seconds of all cores: on a small log more than the training. They hold
their places in the cluster until they are let go, which is before any other work.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Ray Train and torch take seconds to import, and most commands train nothing
    from diffsasrec.train.phases import Job
    from diffsasrec.train.ray_workers import Workers


class Shared:
    """The workers that the trainings of one run share; none before the first one."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._workers: Workers | None = None

    def workers_for(self, job: "Job") -> "Workers":
        """Those of the training before; else new ones."""
        from diffsasrec.train.ray_workers import Workers

        if self._workers is None:
            self._workers = self._stack.enter_context(Workers(job))
        assert self._workers.job == job  # of one run
        return self._workers

    def let_go(self) -> None:
        """Returns when the workers have left the cluster; the next training starts new ones."""
        self._workers = None
        self._stack.close()


_shared: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def workers_shared() -> Iterator[Shared]:
    """Inside, the workers of a training stay for the next one, until they are let go."""
    with ExitStack() as stack:
        shared = Shared(stack)
        token = _shared.set(shared)
        try:
            yield shared
        finally:
            _shared.reset(token)


@contextmanager
def workers_for(job: "Job") -> Iterator["Workers"]:
    """Workers for a training: shared ones, or its own, which end with it."""
    shared = _shared.get()
    if shared is not None:
        yield shared.workers_for(job)
    else:
        with workers_shared() as own:
            yield own.workers_for(job)
