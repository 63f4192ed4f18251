"""The stages of a night in one table: what each writes, which workers it has, who may refuse it."""

from dataclasses import dataclass
from typing import Literal

TABLES = "tables"  # the run's own copies of the tables beside the log
READ_LOG = "read_log"  # what a later night need not read again, if events.incremental asks for it
# what a run publishes beside the lists, if its configuration asks for it
SIMILAR_ITEMS, TRENDING = ITEM_TABLES = ("similar_items", "trending")

# tasks: on all CPUs of the cluster; train: training workers; score: scoring actors
Workers = Literal["tasks", "train", "score"]


@dataclass(frozen=True)
class Stage:
    name: str
    outputs: tuple[str, ...]  # files and directories below the run directory
    workers: Workers
    refused_by: str = ""  # the check that may refuse the run in this stage
    is_spared: bool = False  # whether it has no work if reused weights serve


TABLE = (  # in their order
    Stage("prepare", (TABLES, "quarantine", READ_LOG, "vocab", "sequences", "holdout"), "tasks"),
    Stage(
        "pretrain",
        (
            "state/warm",
            "state/select-pretrain",
            "state/pretrain",
            "tensorboard/pretrain",
            "checkpoint_pretrained",
        ),
        "train",
        is_spared=True,
    ),
    Stage(
        "finetune",
        (
            "state/select-finetune",
            "state/finetune",
            "tensorboard/finetune",
            "checkpoint_measured",
        ),
        "train",
        is_spared=True,
    ),
    Stage(
        "evaluate",
        ("state/evaluate", "evaluation", "evaluation_quarantine", "metrics.json"),
        "score",
        refused_by="gate",
        is_spared=True,
    ),
    Stage(
        "refit",
        ("state/refit-pretrain", "state/refit-finetune", "checkpoint"),
        "train",
        is_spared=True,
    ),
    Stage(
        "score",
        ("state/score", "recommendations", "recommendations_quarantine", *ITEM_TABLES),
        "score",
    ),
    Stage("publish", ("manifest.json",), "tasks", refused_by="audit"),
)
STAGES = tuple(stage.name for stage in TABLE)
OUTPUTS = {stage.name: stage.outputs for stage in TABLE}
WORKERS = {stage.name: stage.workers for stage in TABLE}
SPARED = tuple(stage.name for stage in TABLE if stage.is_spared)
REFUSING = {stage.refused_by: stage.name for stage in TABLE if stage.refused_by}

# what is derived from them for people; no stage reads it, and no manifest lists it
OUTCOME, METRICS, REPORT = DERIVED = ("outcome.json", "metrics.prom", "report.html")
