"""Sequences -> weights that know the log before the split (denoising objective)."""

from typing import Any

from diffsasrec.config import Config
from diffsasrec.rundir import RunDir
from jobs.cli import main as run_job
from jobs.recipe import pretrain_phases, run_phases


def main(config: Config, run: RunDir) -> dict[str, Any]:
    prepared = run.require("prepare")
    return run_phases(config, run, pretrain_phases(config, prepared))


if __name__ == "__main__":
    run_job(("pretrain",))
