"""Pretrained weights -> the measured checkpoint (SFT: the deployed task at batch times)."""

from typing import Any

from diffsasrec.config import Config
from diffsasrec.rundir import RunDir
from jobs.cli import main as run_job
from jobs.recipe import finetune_phases, run_phases


def main(config: Config, run: RunDir) -> dict[str, Any]:
    prepared = run.require("prepare")
    run.require("pretrain")
    return run_phases(config, run, finetune_phases(config, prepared))


if __name__ == "__main__":
    run_job(("finetune",))
