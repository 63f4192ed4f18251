"""Plain Ray tasks over buckets and files, of which few results exist at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import ray

from diffsasrec.progress import HEARTBEAT
from diffsasrec.ray_cluster import cluster_resources

SPARE = 4  # tasks that wait for a CPU, so that none is idle
LEAST_SUMMED, MOST_SUMMED = 8, 64  # arguments of one task of `sum_tasks`
ROUNDS = 4  # tasks of `sum_tasks` for each CPU, if that is possible


def map_tasks(
    function: Callable[..., Any], arguments: Iterable[Any], *shared: Any
) -> Iterator[Any]:
    """function(argument, *shared) for each argument, one CPU each; results as they come.

    No more results exist at once than the cluster has CPUs, and a few: a task begins once the
    caller has taken a result. The caller must not depend on the order of the results.
    """
    remote = ray.remote(function)
    references = [ray.put(value) for value in shared]
    waiting = iter(arguments)
    pending = [remote.remote(a, *references) for a in islice(waiting, num_cpus() + SPARE)]
    while pending:
        (done,), pending = ray.wait(pending)
        HEARTBEAT.beat()
        result = ray.get(done)
        del done  # the store needs not keep what the caller has
        yield result
        del result
        pending += [remote.remote(a, *references) for a in islice(waiting, 1)]


def num_cpus() -> int:
    """CPUs of the cluster, or of what it can become."""
    return int(cluster_resources().get("CPU", 1))


def sum_tasks(function: Callable[..., Any], arguments: Sequence[Any], *shared: Any) -> Any:
    """The sum of function(argument, *shared) over all arguments, of which there is one or more.

    For large arrays, one of each item: each task sums those of some arguments, and only these sums
    come to the driver. `function` gives what can be added, or a tuple of it; the order in which
    things are added must not matter.
    """

    def summed(some: Sequence[Any], *shared: Any) -> Any:
        return _sum(function(argument, *shared) for argument in some)

    size = group_size(len(arguments), num_cpus())
    groups = (arguments[start : start + size] for start in range(0, len(arguments), size))
    return _sum(map_tasks(summed, groups, *shared))


def group_size(num_arguments: int, cpus: int) -> int:
    """How many arguments a task sums: few enough that it shows a sign of life now and then."""
    return min(max(num_arguments // (ROUNDS * cpus), LEAST_SUMMED), MOST_SUMMED)


def _sum(parts: Iterable[Any]) -> Any:
    total = None
    for part in parts:
        if total is None:
            total = part
        elif isinstance(part, tuple):
            total = tuple(a + b for a, b in zip(total, part, strict=True))
        else:
            total = total + part
    assert total is not None, "there is nothing to sum"
    return total
