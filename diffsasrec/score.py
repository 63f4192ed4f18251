"""Ray Data around a `ListMaker`: bucket files in, one file of lists per bucket out.

The rows of the dataset are bucket numbers. An actor reads a bucket, makes its lists and writes its
file under a fixed name, so that a rerun does only the buckets that are missing. Every try is noted
before it begins: what ends its process again and again is found out, and worked around.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
import torch

from diffsasrec.errors import InfrastructureError
from diffsasrec.lists import ListMaker, Scoring, quarantine_of
from diffsasrec.memory import keep_freed_memory
from diffsasrec.narrow import Child, Here, Worker, check_deadly, work_around
from diffsasrec.sequences import bucket_name
from diffsasrec.storage import parquet_bytes

# a bucket that ended its process so often is scored in child processes, and then given up
DEATHS, MOST_DEATHS = 2, 6


class Scorer:
    """An actor: turns bucket numbers into files."""

    def __init__(self, scoring: Scoring, device: str) -> None:
        # one thread per actor: the order of additions, and so the last digits, depend on it
        torch.set_num_threads(1)
        keep_freed_memory()
        self._device = device
        self._maker = ListMaker(scoring, device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        (bucket,) = batch["bucket"].to_pylist()
        scoring, name = self._maker.scoring, bucket_name(bucket)
        sequences = self._maker.read_bucket(name)
        num_deaths = begin_try(scoring, name)
        if num_deaths < DEATHS:
            here, why = Here(self._maker.lists), "scoring ran out of memory"
            table, num_quarantined = self._work_around(sequences, name, here, why)
        else:
            with Child(_list_maker, scoring, self._device) as child:
                why = "scoring ended the process"
                table, num_quarantined = self._work_around(sequences, name, child, why)
        # never overwritten: a manifest may name this file already, if another attempt has made it
        scoring.run.create(f"{scoring.output}/{name}", parquet_bytes(table))
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

    def _work_around(
        self, sequences: pa.Table, name: str, worker: Worker, why: str
    ) -> tuple[pa.Table, int]:
        """The bucket's lists, with the fallback for users who are too much for the worker."""
        scoring = self._maker.scoring
        table, deadly = work_around(
            sequences,
            worker,
            instead=partial(self._maker.lists, fallback=True),
            most=scoring.max_quarantined_users,
        )
        if deadly:
            users = sequences["user_id"].take(pa.array(deadly))
            reasons = pa.array([why] * len(deadly))
            quarantine = pa.table({"user_id": users, "reason": reasons})
            scoring.run.write_table(f"{quarantine_of(scoring.output)}/{name}", quarantine)
        return table, len(deadly)


def _list_maker(scoring: Scoring, device: str) -> Callable[[pa.Table], pa.Table | None]:
    torch.set_num_threads(1)
    return Here(ListMaker(scoring, device).lists).work


def begin_try(scoring: Scoring, name: str) -> int:
    """Notes that a bucket is begun; how many tries before this one did not end.

    Raises:
        InfrastructureError: too many.
    """
    mine = uuid.uuid4().bytes  # the same bytes twice would look like one try
    for number in range(MOST_DEATHS):
        if scoring.run.create(_try_path(scoring, name, number), mine):
            return number
    raise InfrastructureError(
        f"the process that scores {scoring.run.url('sequences')}/{name} ended {MOST_DEATHS} times, "
        "and so did those that looked for the user at fault; give the actors more memory, and run "
        f"the same command again after deleting {scoring.run.url(scoring.state)}/tries"
    )


def end_tries(scoring: Scoring, name: str, number: int) -> None:
    scoring.run.delete([_try_path(scoring, name, n) for n in range(number + 1)])


def _try_path(scoring: Scoring, name: str, number: int) -> str:
    return f"{scoring.state}/tries/{name}.{number}"


@dataclass
class Scored:
    """What came of the buckets that were scored now."""

    num_uncertain: int = 0  # users and steps for which a shortlist was not enough
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
    resources: dict[str, Any] = {"num_cpus": cpus_per_actor}
    if gpus_per_actor:
        resources["num_gpus"] = gpus_per_actor
    scored = ray.data.from_items(
        [{"bucket": bucket} for bucket in buckets], override_num_blocks=len(buckets)
    ).map_batches(
        Scorer,
        fn_constructor_args=(scoring, "cuda" if gpus_per_actor else "cpu"),
        batch_format="pyarrow",
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_actors, len(buckets))),
        **resources,
    )
    for done, row in enumerate(scored.iter_rows(), 1):
        result.num_uncertain += row["uncertain"]
        result.num_quarantined += row["quarantined"]
        check_deadly(result.num_quarantined, most=scoring.max_quarantined_users)
        progress(done)
    return result
