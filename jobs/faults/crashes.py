"""A night that is killed at a named point, and started again with the same command.

Each cell begins with the lake as an undisturbed night left it before the stages of its point; an
older version of the date is published in it. The job and its Ray stop at the point and are killed
as a machine is that loses its power. The same command then has to end with the same bytes, while
readers look at the lake all the time.
"""

import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffsasrec.files.storage import Storage

from .rig.nights import DATE, NightProcess, injected
from .rig.readers import Readers, users_shown
from .rig.workshop import (
    NUM_USERS,
    OLD,
    PATIENCE,
    PREPARE,
    PUBLISH,
    REFIT,
    ROLLBACK,
    RUN,
    SCORE,
    TRAIN,
    Stages,
    Workshop,
    different,
)


@dataclass(frozen=True)
class Point:
    stages: Stages
    verb: str
    path: str  # a regular expression
    when: str
    passes: int = 1  # that a seed can choose from: a file per bucket, a state every few steps


LISTS = rf"runs/.*/{RUN}/recommendations/part-"
PART = rf"recommendations/ds=.*/part-{RUN}-"
OLD_PART = rf"recommendations/ds=.*/part-{OLD}-"
ENTRY = "_published/0000"
POINTS = {
    "prepare begins": Point(PREPARE, "write_bytes", "_stages/prepare.begun", "after"),
    "vocabulary half written": Point(PREPARE, "write_bytes", "/vocab/", "halfway"),
    "before some sequences": Point(PREPARE, "write_bytes", "/sequences/", "before", 3),
    "after some holdout": Point(PREPARE, "write_bytes", "/holdout/", "after", 3),
    "before prepare is done": Point(PREPARE, "write_bytes", "_stages/prepare.json", "before"),
    "training state half written": Point(
        TRAIN, "write_bytes", "state/pretrain/.*/step-", "halfway", 3
    ),
    "after a training state": Point(TRAIN, "write_bytes", "state/finetune/.*/step-", "after", 3),
    "between weights and config": Point(TRAIN, "create", "pretrained/config.json", "before"),
    "weights half written": Point(TRAIN, "create", "measured/model.safetensors", "halfway"),
    "before a phase is done": Point(TRAIN, "create", "state/finetune/result", "before"),
    "before the metrics": Point(TRAIN, "write_bytes", "metrics.json", "before"),
    "after a refit state": Point(REFIT, "write_bytes", "state/refit-.*/step-", "after", 3),
    "served weights half written": Point(REFIT, "create", "/checkpoint/model", "halfway"),
    "before served config": Point(REFIT, "create", "/checkpoint/config", "before"),
    "before refit is done": Point(REFIT, "write_bytes", "_stages/refit.json", "before"),
    "before the trends": Point(SCORE, "write_bytes", "state/score/trends", "before"),
    "before some lists": Point(SCORE, "create", LISTS, "before", 3),
    "lists half written": Point(SCORE, "create", LISTS, "halfway", 3),
    "after some lists": Point(SCORE, "create", LISTS, "after", 3),
    "before score is done": Point(SCORE, "write_bytes", "_stages/score.json", "before"),
    "before the manifest": Point(PUBLISH, "create", "manifest.json", "before"),
    "manifest half written": Point(PUBLISH, "create", "manifest.json", "halfway"),
    "before the chain entry": Point(PUBLISH, "create", ENTRY, "before"),
    "chain entry half written": Point(PUBLISH, "create", ENTRY, "halfway"),
    "after the chain entry": Point(PUBLISH, "create", ENTRY, "after"),
    "before a copy": Point(PUBLISH, "copy", PART, "before", 3),
    "copy half written": Point(PUBLISH, "copy", PART, "halfway", 3),
    "before _SUCCESS": Point(PUBLISH, "replace", "/_SUCCESS", "before"),
    "_SUCCESS half written": Point(PUBLISH, "replace", "/_SUCCESS", "halfway"),
    "after _SUCCESS": Point(PUBLISH, "replace", "/_SUCCESS", "after"),
    "before deleting": Point(PUBLISH, "delete", OLD_PART, "before"),
    "before publish is done": Point(PUBLISH, "write_bytes", "_stages/publish.json", "before"),
    "rollback, before its entry": Point(ROLLBACK, "create", ENTRY, "before"),
    "rollback, after its entry": Point(ROLLBACK, "create", ENTRY, "after"),
    "rollback, before a copy": Point(ROLLBACK, "copy", OLD_PART, "before", 3),
    "rollback, before _SUCCESS": Point(ROLLBACK, "replace", "/_SUCCESS", "before"),
    "rollback, before deleting": Point(ROLLBACK, "delete", PART, "before"),
}


def cells(*, short: bool) -> list[dict[str, Any]]:
    """Every point once or twice, and ten times from scoring on; a seed chooses the pass."""
    if short:
        return [{"point": name, "seed": 0} for name in ("lists half written", "before _SUCCESS")]
    late = [n for n, point in POINTS.items() if point.stages in (SCORE, PUBLISH, ROLLBACK)]
    early = [name for name in POINTS if name not in late]
    # the quick ones first, as far as the time goes
    tries = [(name, seed) for seed in range(10) for name in late + early]
    return [
        {"point": name, "seed": seed} for name, seed in tries if seed < (10 if name in late else 2)
    ]


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "points": len({result["cell"]["point"] for result in results}),
        "killed": sum(result["stopped"] for result in results),
        "reads": sum(result["reads"] for result in results),
        "torn_reads": sum(len(result["torn"]) for result in results),
        "lost_or_doubled_users": sum(result["lost"] + result["doubled"] for result in results),
        "median_seconds": statistics.median(result["seconds"] for result in results),
    }


def measure(cell: dict[str, Any], place: Path) -> dict[str, Any]:
    workshop = Workshop.beside(place)
    point = POINTS[cell["point"]]
    wanted = workshop.wanted(point.stages)
    workshop.restore(point.stages)
    reached = place / "reached"
    nth = 1 + cell["seed"] % point.passes
    faults = {"stop": vars(point), "nth": nth, "reached": str(reached)}
    started = time.monotonic()
    with Readers(Storage.of(str(workshop.lake))) as readers:
        night = workshop.start(point.stages, place, injected(**faults))
        stopped = wait_for(reached, night)
        night.kill_all()
        code, _, _ = workshop.start(point.stages, place, {}).finish(PATIENCE)
    shown = users_shown(Storage.of(str(workshop.lake)), DATE)
    outcome = {
        "lost": NUM_USERS - len(set(shown)),
        "doubled": len(shown) - len(set(shown)),
        "torn": readers.torn[:5],
        "code": code,
        "different": different(workshop.outcome(point.stages), wanted),
    }
    right = stopped and not any(outcome.values())
    if not right:
        shutil.copytree(workshop.lake, place / "lake")
    seconds = round(time.monotonic() - started, 1)
    return {
        "right": right,
        "stopped": stopped,
        "reads": readers.reads,
        "seconds": seconds,
    } | outcome


def wait_for(reached: Path, night: NightProcess) -> bool:
    """Whether the night came to the point before it ended."""
    while not reached.exists():
        if night.process.poll() is not None:
            return reached.exists()
        time.sleep(0.01)
    return True
