"""The lake of a toy night, undisturbed, and copies of it as of before each of its stages."""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffsasrec.errors import InfrastructureError
from diffsasrec.lake.stages import OUTPUTS

from ...runner.identity import source_digest
from .nights import (
    DATE,
    NightProcess,
    Nights,
    digests,
    run_dir,
    tiny_config,
    toy_log,
)

OLD, RUN = "old", "new"  # run ids: of what is published before, and of the night
NUM_USERS = 60
PATIENCE = 1200.0  # seconds for a toy night that nothing disturbs

Stages = tuple[str, ...]
PREPARE: Stages = ("prepare",)
TRAIN: Stages = ("pretrain", "finetune", "evaluate")
REFIT: Stages = ("refit",)
SCORE: Stages = ("score",)
PUBLISH: Stages = ("publish",)
ROLLBACK: Stages = ()  # to what was published before the night
STAGES = (PREPARE, TRAIN, REFIT, SCORE, PUBLISH, ROLLBACK)


@dataclass(frozen=True)
class Workshop:
    """A run knows its lake by its path, so that all copies come to life in the same place."""

    root: Path

    @classmethod
    def beside(cls, place: Path) -> "Workshop":
        """The one that all tries of this code share, built where it is not there yet."""
        workshop = cls(place.parent / f"toy-{source_digest()[:8]}")
        workshop.build()
        return workshop

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def run(self) -> Path:
        return run_dir(self.lake, RUN)

    def build(self) -> None:
        if (self.root / "built").exists():
            return
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        toy_log(num_users=NUM_USERS).to_parquet(self.root / "events.parquet")
        nights = Nights(self.root, {})
        old = nights.start(self.config(), "--run-id", OLD, "--set", "seed=1")
        ended(old.finish(PATIENCE))
        for number, stages in enumerate(STAGES):
            shutil.copytree(self.lake, self.root / f"before-{number}")
            ended(self.start(stages, self.root, {}).finish(PATIENCE))
        shutil.copytree(self.lake, self.root / f"before-{len(STAGES)}")
        (self.root / "built").touch()

    def restore(self, stages: Stages, *, done: bool = False) -> None:
        """Puts the lake back to before these stages, or to right after them."""
        shutil.rmtree(self.lake)
        shutil.copytree(self.root / f"before-{STAGES.index(stages) + done}", self.lake)

    def wanted(self, stages: Stages) -> dict[str, str]:
        """What these stages have to make."""
        self.restore(stages, done=True)
        return self.outcome(stages)

    def start(self, stages: Stages, place: Path, environment: dict[str, str]) -> NightProcess:
        nights = Nights(place, environment)
        if not stages:
            return nights.start(self.config(), "--rollback-to", "1", job="publish", date=None)
        return nights.start(self.config(), "--run-id", RUN, "--stages", ",".join(stages))

    def outcome(self, stages: Stages) -> dict[str, str]:
        """What consumers and later stages read of these stages, by digest."""
        if stages in (PUBLISH, ROLLBACK):
            root, names = self.lake, [f"recommendations/ds={DATE}/"]
        else:
            root, names = self.run, [name for stage in stages for name in OUTPUTS[stage]]
        kept = tuple(name for name in names if not name.startswith(("state/", "tensorboard/")))
        return {
            without_number(path): digest
            for path, digest in (digests(root) | success_of(root)).items()
            # a write that was cut short leaves a file that begins with a dot, which no one reads
            if path.startswith(kept) and "/." not in path
        }

    def config(self) -> dict[str, Any]:
        return tiny_config(str(self.root / "events.parquet"), str(self.lake))


def without_number(text: str) -> str:
    """Names of published parts without the number of their entry.

    A rollback that is started again adds an entry of its own, and shows the same lists by it.
    """
    return re.sub(rf"(part-(?:{OLD}|{RUN})-)\d{{8}}-", r"\1N-", text)


def success_of(lake: Path) -> dict[str, str]:
    """The digest of a date's _SUCCESS but for numbers, by path; {} where there is none."""
    path = lake / f"recommendations/ds={DATE}/_SUCCESS"
    if not path.exists():
        return {}
    text = without_number(path.read_text())
    return {str(path.relative_to(lake)): hashlib.sha256(text.encode()).hexdigest()}


def ended(result: tuple[int, dict[str, Any], str]) -> None:
    """Raises unless an undisturbed night ended right: nothing can be compared with it then."""
    code, _, text = result
    if code:
        raise InfrastructureError(f"the undisturbed night ended with {code}:\n{text}")


def different(got: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """The files that are not the same."""
    return sorted({path for path, _ in got.items() ^ wanted.items()})[:5]
