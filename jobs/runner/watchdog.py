"""Ends a command that makes no progress."""

import time

from diffsasrec.errors import InfrastructureError
from diffsasrec.progress import HEARTBEAT, duration

from ..observe.outcome import OBSERVER_SECONDS
from ..process.ending import End
from .command import failed


def watch(timeout: float, end: End) -> None:
    """Ends this process once there was no progress for `timeout` seconds.

    Ray may wait without end for a node that does not come. Only the end of the process ends that,
    and the next attempt goes on from what is done.
    """
    HEARTBEAT.beat()
    while (left := timeout - HEARTBEAT.silence()) > 0:
        time.sleep(min(left, 60.0))
    error = InfrastructureError(
        f"{end.summary['stage'] or 'the start'} made no progress for {duration(timeout)} "
        f"(stall_timeout={timeout:g}): a node or a store does not answer, or the cluster has no "
        "room for the workers; run the same command again, with a larger stall_timeout if the work "
        "only takes long"
    )
    if end.claim(error.exit_code):
        failed(end.summary, error)
        end.leave(error.exit_code, OBSERVER_SECONDS)
        end.now()
