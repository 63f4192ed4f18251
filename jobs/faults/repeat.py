"""The same buckets scored again: by other numbers of actors and in another order.

The lists of a toy night are deleted and made anew, all else as it was; every part file must have
the bytes that it had before.
"""

import time
from pathlib import Path
from typing import Any

import ray

from diffsasrec.config.config import Config
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.score.actors import score

from ..night.scoring import night_scoring
from ..process.ray_session import start_ray
from .rig.nights import DATE
from .rig.workshop import RUN, SCORE, Workshop, different

RERUNS = 10


def cells(*, short: bool) -> list[dict[str, Any]]:
    if short:
        return [{"actors": 2, "order": "backwards", "rerun": 0}]
    reruns = [{"actors": 2, "order": "forwards", "rerun": n} for n in range(RERUNS)]
    others = [
        {"actors": actors, "order": order, "rerun": 0}
        for actors in (1, 2, 4)
        for order in ("forwards", "backwards")
    ]
    return reruns + [cell for cell in others if cell not in reruns]


def measure(cell: dict[str, Any], place: Path) -> dict[str, Any]:
    workshop = Workshop.beside(place)
    wanted = workshop.wanted(SCORE)
    for path in wanted:
        (workshop.run / path).unlink()
    if not ray.is_initialized():
        start_ray()
    started = time.monotonic()
    run = RunDir(Storage.of(str(workshop.lake)), DATE, RUN, identity="", attempt="")
    buckets = sorted(int(Path(path).stem.rpartition("-")[2]) for path in wanted)
    # by two calls, since a pool of actors takes buckets in any order that it likes
    halves = [buckets[len(buckets) // 2 :], buckets[: len(buckets) // 2]]
    for part in [buckets] if cell["order"] == "forwards" else halves:
        score(
            night_scoring(Config(**workshop.config()), run),
            part,
            num_actors=cell["actors"],
            cpus_per_actor=0.25,
            gpus_per_actor=0,
            progress=lambda done: None,
        )
    wrong = different(workshop.outcome(SCORE), wanted)
    return {
        "right": not wrong,
        "different": wrong,
        "files": len(wanted),
        "seconds": round(time.monotonic() - started, 1),
    }


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "files": sum(result["files"] for result in results),
        "files_that_differ": sum(len(result["different"]) for result in results),
        "seconds": round(sum(result["seconds"] for result in results), 1),
    }
