"""Ray Data around a `ListMaker`: bucket files in, one file of lists per bucket out.

The rows of the dataset are bucket numbers. An actor reads a bucket, makes its lists and writes its
file under a fixed name, so that a rerun does only the buckets that are missing. Every try is noted
before it begins, and its note is removed when it ends, normally or with an exception. A bucket that
ends its process again and again leaves its notes, is recognised by them, and is worked around.
"""

import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
import torch

from diffsasrec.errors import DiffsasrecError, InfrastructureError
from diffsasrec.files.patience import Patience
from diffsasrec.files.storage import parquet_bytes
from diffsasrec.memory import keep_freed_memory
from diffsasrec.progress import beating
from diffsasrec.score.bucket_lists import Scoring, with_quarantined
from diffsasrec.score.isolation import Child, Here, Worker, check_deadly, work_around
from diffsasrec.score.list_maker import ListMaker
from diffsasrec.sequences.buckets import bucket_name

# deaths of its process after which a bucket is scored in child processes, and given up
DEATHS, MOST_DEATHS = 2, 6
# if a store is down: an error is already on its way to the caller
SHORT = Patience(attempts=2, seconds=20.0)


class Scorer:
    """An actor: turns bucket numbers into files."""

    def __init__(self, scoring: Scoring, device: str, whose: str = "") -> None:
        # one thread per actor: the order of additions, and so the last digits, depend on it
        torch.set_num_threads(1)
        keep_freed_memory()
        self._device = device
        self._whose = whose  # the call of `score` that the tries belong to
        self._maker = ListMaker(scoring, device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        (bucket,) = batch["bucket"].to_pylist()
        scoring, name = self._maker.scoring, bucket_name(bucket)
        sequences = self._maker.read_bucket(name)
        num_deaths = begin_try(scoring, name, self._whose)
        try:
            table, num_quarantined = self._make(sequences, num_deaths)
            # never overwritten: a manifest may name this file already, if another attempt made it
            scoring.run.create(f"{scoring.output}/{name}", parquet_bytes(table))
        except BaseException:
            end_raised(scoring, [_try_path(scoring, name, num_deaths)])
            raise
        end_tries(scoring, name, num_deaths)
        recommender = self._maker.recommender
        uncertain, recommender.num_uncertain = recommender.num_uncertain, 0
        return pa.table(
            {
                "bucket": batch["bucket"],
                "uncertain": [uncertain],
                "quarantined": [num_quarantined],
            }
        )

    def _make(self, sequences: pa.Table, num_deaths: int) -> tuple[pa.Table, int]:
        """The lists of the bucket; after some deaths, child processes make them."""
        if num_deaths < DEATHS:
            return self._work_around(sequences, Here(self._maker.lists))
        with Child(_list_maker, self._maker.scoring, self._device) as child:
            return self._work_around(sequences, child)

    def _work_around(self, sequences: pa.Table, worker: Worker) -> tuple[pa.Table, int]:
        """The lists, with the fallback for users too much for the worker, and their number."""
        table, deadly = work_around(
            sequences,
            worker,
            instead=partial(self._maker.lists, fallback=True),
            most=self._maker.scoring.max_quarantined_users,
        )
        if deadly:
            users = sequences["user_id"].combine_chunks().take(pa.array(deadly))
            table = with_quarantined(table, users)
        return table, len(deadly)


def _list_maker(scoring: Scoring, device: str) -> Callable[[pa.Table], pa.Table | None]:
    torch.set_num_threads(1)
    return Here(ListMaker(scoring, device).lists).work


def begin_try(scoring: Scoring, name: str, whose: str = "") -> int:
    """Notes that a bucket is begun; returns how many tries before this one ended their process.

    Raises:
        InfrastructureError: too many. It is raised once, then the notes are gone: the next try
            starts afresh.
    """
    mine = f"{whose} {uuid.uuid4()}".encode()  # the same bytes twice would look like one try
    for number in range(MOST_DEATHS):
        if scoring.run.create(_try_path(scoring, name, number), mine):
            return number
    end_tries(scoring, name, MOST_DEATHS - 1)
    raise InfrastructureError(
        f"the process that scores {scoring.run.url('sequences')}/{name} ended {MOST_DEATHS} times, "
        "and so did those that looked for the user at fault; give the actors more memory, and run "
        "the same command again"
    )


def end_tries(scoring: Scoring, name: str, number: int) -> None:
    scoring.run.delete([_try_path(scoring, name, n) for n in range(number + 1)])


def end_raised(scoring: Scoring, paths: Iterable[str]) -> None:
    """Removes the notes of tries that ended with an exception, as far as the store answers."""
    with suppress(DiffsasrecError):
        replace(scoring.run, patience=SHORT).delete(paths)


def end_open(scoring: Scoring, whose: str) -> None:
    """Removes the notes of tries that end only because their run ends, as far as possible.

    This is the newest note of a bucket: tries that ended its process before were repeated.
    """
    run = replace(scoring.run, patience=SHORT)
    with suppress(DiffsasrecError):
        newest: dict[str, str] = {}
        for info in run.list(f"{scoring.state}/tries"):  # by path: fewer than ten of a bucket
            newest[info.path.rpartition(".")[0]] = info.path
        for path in beating(newest.values()):
            with suppress(FileNotFoundError):  # its bucket was finished after all
                if run.read_bytes(path).startswith(whose.encode()):
                    run.delete([path])


def _try_path(scoring: Scoring, name: str, number: int) -> str:
    return f"{scoring.state}/tries/{name}.{number}"


@dataclass
class Scored:
    """The outcome of the buckets that were scored now."""

    num_uncertain: int = 0  # users and steps for which the shortlist was not enough
    num_quarantined: int = 0  # users whose scoring ended its process or ran out of memory


def unscored_buckets(scoring: Scoring, num_buckets: int) -> list[int]:
    """The buckets that have no file yet."""
    present = {info.path.rpartition("/")[2] for info in scoring.run.list(scoring.output)}
    return [b for b in range(num_buckets) if bucket_name(b) not in present]


def score(
    scoring: Scoring,
    buckets: list[int],
    *,
    num_actors: int,
    cpus_per_actor: float,
    gpus_per_actor: float,
    progress: Callable[[int], None],
) -> Scored:
    """Scores these buckets.

    Raises:
        InfrastructureError: too many users end the process that scores them, or its memory.
    """
    result = Scored()
    if not buckets:
        return result
    whose = uuid.uuid4().hex
    scored = _scored(scoring, buckets, whose, num_actors, cpus_per_actor, gpus_per_actor)
    try:
        for done, row in enumerate(scored.iter_rows(), 1):
            result.num_uncertain += row["uncertain"]
            result.num_quarantined += row["quarantined"]
            check_deadly(result.num_quarantined, most=scoring.max_quarantined_users)
            progress(done)
    except BaseException:
        # an exception of one bucket ends all processes: this does not count as their death
        end_open(scoring, whose)
        raise
    return result


def _scored(
    scoring: Scoring,
    buckets: list[int],
    whose: str,
    num_actors: int,
    cpus_per_actor: float,
    gpus_per_actor: float,
) -> ray.data.Dataset:
    """What the actors make of the buckets, one row each; nothing is begun yet."""
    resources: dict[str, Any] = {"num_cpus": cpus_per_actor}
    if gpus_per_actor:
        resources["num_gpus"] = gpus_per_actor
    return ray.data.from_items(
        [{"bucket": bucket} for bucket in buckets], override_num_blocks=len(buckets)
    ).map_batches(
        Scorer,
        fn_constructor_args=(scoring, "cuda" if gpus_per_actor else "cpu", whose),
        batch_format="pyarrow",
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_actors, len(buckets))),
        **resources,
    )
