"""The stages of a night: what each writes below the run directory."""

TABLES = "tables"  # the run's own copies of the tables beside the log
# what each stage writes, below the run directory
OUTPUTS: dict[str, tuple[str, ...]] = {
    "prepare": (TABLES, "quarantine", "vocab", "sequences", "holdout"),
    "pretrain": (
        "state/warm",
        "state/select-pretrain",
        "state/pretrain",
        "tensorboard/pretrain",
        "checkpoint_pretrained",
    ),
    "finetune": (
        "state/select-finetune",
        "state/finetune",
        "tensorboard/finetune",
        "checkpoint_measured",
    ),
    "evaluate": ("state/evaluate", "evaluation", "evaluation_quarantine", "metrics.json"),
    "refit": ("state/refit-pretrain", "state/refit-finetune", "checkpoint"),
    "score": ("state/score", "recommendations", "recommendations_quarantine"),
    "publish": ("manifest.json",),
}
STAGES = tuple(OUTPUTS)  # in their order
# what is derived from them for people; no stage reads it, and no manifest lists it
OUTCOME, METRICS, REPORT = DERIVED = ("outcome.json", "metrics.prom", "report.html")
