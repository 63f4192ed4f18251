"""One night: every stage in order, those that are done skipped.

    python -m jobs.nightly --config jobs/nightly.yaml --date 2026-11-23

Each stage is a file of this directory with a `main(config, run)` and also runs alone.
"""

# prepare    log -> events, split, vocab, sequences
# pretrain   sequences -> weights (denoising objective)
# finetune   weights -> measured checkpoint (next-item objective at simulated batch times)
# evaluate   holdout -> metrics.json, against baselines; the gate
# refit      the same recipe to the run date -> serving checkpoint
# score      every user -> recommendations
# publish    audit, chain, lake
if __name__ == "__main__":
    from diffsasrec.lake.stages import STAGES

    from .runner.command import run_stages

    run_stages(STAGES, pages=f"{__spec__.parent}.report.pages")
