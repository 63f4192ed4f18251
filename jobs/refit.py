"""The recipe that was measured, run again to the run date: the serving checkpoint."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from .runner.command import run_stages

    run_stages(("refit",))

from diffsasrec.config.config import Config
from diffsasrec.lake.run_dir import RunDir

from .night.records import Pretrained, Trained
from .training.recipe import refit_phases, run_phases
from .training.weight_reuse import take_over


def main(config: Config, run: RunDir) -> Trained:
    run.require("evaluate")  # nothing is spent on a model that the gate has refused
    if run.reused is not None:
        vocab = run.storage.read_tables("vocab", ["item_id"])
        return take_over(run, run.reused, vocab.schema.field("item_id").type)
    starts = Pretrained.of(run).started_from
    return run_phases(config, run, refit_phases(config, run, starts))
