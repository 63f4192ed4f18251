"""Sequences -> weights that know the log before the split (denoising objective)."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from .runner.command import run_stages

    run_stages(("pretrain",))

from diffsasrec.config.config import Config
from diffsasrec.lake.run_dir import RunDir

from .night.records import Prepared, Pretrained
from .training.recipe import pretrain_phases, run_phases
from .training.warm_start import choose_starts
from .training.weight_reuse import say_spared


def main(config: Config, run: RunDir) -> Pretrained:
    prepared = Prepared.of(run)
    if run.reused is not None:
        say_spared(run.reused, "pretrain")
        return Pretrained(counts={}, reused=run.reused.cited())
    starts = choose_starts(config, run, prepared)
    trained = run_phases(config, run, pretrain_phases(config, prepared, starts))
    return Pretrained(counts=trained.counts, history=trained.history, started_from=starts)
