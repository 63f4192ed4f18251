"""Pretrained weights -> the measured checkpoint (SFT: the deployed task at batch times)."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from .runner.command import run_stages

    run_stages(("finetune",))

from diffsasrec.config.config import Config
from diffsasrec.lake.run_dir import RunDir

from .night.records import Prepared, Pretrained, Trained
from .training.recipe import finetune_phases, run_phases
from .training.weight_reuse import say_spared


def main(config: Config, run: RunDir) -> Trained:
    prepared, pretrained = Prepared.of(run), Pretrained.of(run)
    if run.reused is not None:
        say_spared(run.reused, "finetune")
        return Trained(counts={}, reused=run.reused.cited())
    return run_phases(config, run, finetune_phases(config, prepared, pretrained.started_from))
