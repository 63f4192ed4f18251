"""The undisturbed night that one process makes for all, and copies for those who change it."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from diffsasrec.lake.stages import DERIVED, OUTPUTS, STAGES
from jobs.faults.rig.nights import run_dir

RUN_ID = "calm"


class Published(NamedTuple):
    """A finished night. Its lake is everybody's: who changes something takes a copy."""

    config: dict[str, Any]
    lake: Path
    result: tuple[int, dict[str, Any], str]  # exit code, last line, log

    def copied(self, lake: Path, *, before: str | None = None) -> tuple[dict[str, Any], Path]:
        """The config and the lake of a copy.

        Args:
            lake: the directory of the copy, which is not there yet.
            before: a stage. It and all after it are not done in the copy; nothing is published.
        """
        shutil.copytree(self.lake, lake)
        if before is not None:
            for stage in STAGES[STAGES.index(before) :]:
                undo(run_dir(lake, RUN_ID), stage)
            for directory in ("recommendations", "reports"):
                delete(lake / directory)
        return {**self.config, "lake": str(lake)}, lake

    def unscored(self, lake: Path) -> tuple[dict[str, Any], Path]:
        """A copy as before its lists, though it is counted what single-step lists show.

        What is explored depends on that count, and it on the list of every user.
        """
        config, _ = self.copied(lake, before="score")
        counted = "state/score"
        shutil.copytree(run_dir(self.lake, RUN_ID) / counted, run_dir(lake, RUN_ID) / counted)
        return config, lake


def undo(run: Path, stage: str) -> None:
    """Deletes what a stage has written, and that it is done."""
    markers = (f"_stages/{stage}.json", f"_stages/{stage}.begun.json")
    for name in (*markers, *OUTPUTS[stage], *DERIVED):
        delete(run / name)


def add_done(published: Published, lake: Path, stages: Iterable[str]) -> None:
    """Puts what these stages of the night have made into a lake in which they are not done."""
    done, run = run_dir(published.lake, RUN_ID), run_dir(lake, RUN_ID)
    for stage in stages:
        undo(run, stage)
        for name in (f"_stages/{stage}.begun.json", *OUTPUTS[stage], f"_stages/{stage}.json"):
            if (done / name).is_dir():
                shutil.copytree(done / name, run / name)
            elif (done / name).exists():
                shutil.copy2(done / name, run / name)


def delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
