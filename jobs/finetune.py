"""Pretrained weights -> the measured checkpoint (SFT: the deployed task at batch times)."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from jobs.runner.command import run_stages

    run_stages(("finetune",))

from typing import Any

from diffsasrec.config.config import Config
from diffsasrec.lake.run_dir import RunDir
from jobs.training.recipe import finetune_phases, run_phases
from jobs.training.weight_reuse import spared


def main(config: Config, run: RunDir) -> dict[str, Any]:
    prepared = run.require("prepare")
    starts = run.require("pretrain").get("started_from")
    if run.reused is not None:
        return spared(run.reused, "finetune")
    return run_phases(config, run, finetune_phases(config, prepared, starts))
