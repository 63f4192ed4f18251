"""Sequences -> weights that know the log before the split (denoising objective)."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from jobs.runner.command import run_stages

    run_stages(("pretrain",))

from typing import Any

from diffsasrec.config.config import Config
from diffsasrec.lake.run_dir import RunDir
from jobs.training.recipe import pretrain_phases, run_phases
from jobs.training.warm_start import choose_starts
from jobs.training.weight_reuse import spared


def main(config: Config, run: RunDir) -> dict[str, Any]:
    prepared = run.require("prepare")
    if run.reused is not None:
        return spared(run.reused, "pretrain")
    starts = choose_starts(config, run, prepared)
    trained = run_phases(config, run, pretrain_phases(config, prepared, starts))
    return {**trained, "started_from": starts}
