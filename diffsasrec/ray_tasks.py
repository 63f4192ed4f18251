"""Plain Ray tasks over buckets and files."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray

from diffsasrec.progress import HEARTBEAT

IN_FLIGHT = 1000  # tasks: enough for any cluster, few enough that results don't pile up


def map_tasks(
    function: Callable[..., Any], arguments: Iterable[Any], *shared: Any
) -> Iterator[Any]:
    """function(argument, *shared) for each argument, one CPU each; results as they come.

    The caller must not depend on the order of the results.
    """
    remote = ray.remote(function)
    references = [ray.put(value) for value in shared]
    waiting = iter(arguments)
    pending = [
        remote.remote(a, *references) for a, _ in zip(waiting, range(IN_FLIGHT), strict=False)
    ]
    while pending:
        done, pending = ray.wait(pending)
        HEARTBEAT.beat()
        yield ray.get(done[0])
        pending += [remote.remote(a, *references) for a, _ in zip(waiting, done, strict=False)]
