"""The phases of training, which pretrain, finetune and refit run to different times."""

import json
import logging
from typing import TypeVar

from diffsasrec.config.config import Config
from diffsasrec.config.training import TrainStageConfig
from diffsasrec.errors import InputDataError
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.times import microseconds
from diffsasrec.train.phases import Job, Phase, result_path

from ..night.records import Prepared, Starts, Trained
from .sharing import workers_for
from .warm_start import start_path

log = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=TrainStageConfig)


def pretrain_phases(
    config: Config, prepared: Prepared, starts: Starts | None = None
) -> list[Phase]:
    """To the split; before it, where epochs are to be selected, to the second cut."""
    split_time = prepared.split_time
    selected = Phase(
        name="select-pretrain",
        settings=config.pretrain,
        trained_before=prepared.second_cut,
        output="state/select-pretrain/checkpoint",
        validate_before=split_time if config.pretrain.patience is not None else None,
    )
    final = Phase(
        name="pretrain",
        settings=shortened(config.pretrain, config, starts),
        trained_before=split_time,
        output="checkpoint_pretrained",
        init_from=start_path(starts, "checkpoint_measured"),
        epochs_from="select-pretrain" if config.pretrain.patience is not None else "",
    )
    selects = config.pretrain.patience is not None or _selects(config, starts)
    return [selected, final] if selects else [final]


def _selects(config: Config, starts: Starts | None) -> bool:
    """Whether the epochs of the fine-tuning, or the weight of the state, are to be selected.

    Weights that the training starts from have the weight of the state with them.
    """
    settings = config.finetune
    has_choice = settings.state_weight is None and config.model.trends
    has_choice |= settings.ranker_weight is None and config.model.ranks
    has_choice &= settings.epochs > 0
    return settings.patience is not None or (has_choice and not starts)


def finetune_phases(
    config: Config, prepared: Prepared, starts: Starts | None = None
) -> list[Phase]:
    split_time, selects = prepared.split_time, _selects(config, starts)
    selected = Phase(
        name="select-finetune",
        settings=config.finetune,
        trained_before=prepared.second_cut,
        output="state/select-finetune/checkpoint",
        init_from="state/select-pretrain/checkpoint",
        validate_before=split_time,
    )
    final = Phase(
        name="finetune",
        settings=shortened(config.finetune, config, starts),
        trained_before=split_time,
        output="checkpoint_measured",
        init_from="checkpoint_pretrained",
        epochs_from="select-finetune" if selects else "",
    )
    return [selected, final] if selects else [final]


def shortened(settings: Settings, config: Config, starts: Starts | None) -> Settings:
    """A stage with as many epochs as are left where the training starts warm."""
    if not starts or config.train.warm_epochs is None:
        return settings
    epochs = min(settings.epochs, config.train.warm_epochs)
    return settings.model_copy(update={"epochs": epochs})


def refit_phases(config: Config, run: RunDir, starts: Starts | None = None) -> list[Phase]:
    """The same recipe to the run date, for as many epochs as the measured weights took."""
    before = microseconds(run.ds)
    return [
        Phase(
            name="refit-pretrain",
            settings=config.pretrain,
            trained_before=before,
            output="state/refit-pretrain/checkpoint",
            init_from=start_path(starts, "checkpoint"),
            epochs_from="pretrain",
        ),
        Phase(
            name="refit-finetune",
            settings=config.finetune,
            trained_before=before,
            output="checkpoint",
            init_from="state/refit-pretrain/checkpoint",
            epochs_from="finetune",
        ),
    ]


def job_of(config: Config, run: RunDir) -> Job:
    """What all trainings of a run share."""
    prepared = Prepared.of(run)
    return Job(
        run=run.storage,
        attempt=run.attempt,
        num_buckets=prepared.num_buckets,
        model=config.model,
        train=config.train,
        min_user_events=config.split.min_user_events,
        filter_seen=config.score.filter_seen,
        seed=config.seed,
        time_quantiles=tuple(prepared.time_quantiles),
        min_item_count=config.split.min_item_count,
        types=config.events.event_types,
        counted={prepared.split_time: "count_before", microseconds(run.ds): "count"},
    )


def run_phases(config: Config, run: RunDir, phases: list[Phase]) -> Trained:
    """Trains, and says what was trained in numbers.

    Raises:
        InputDataError: a phase had nothing to train on.
    """
    job = job_of(config, run)
    with workers_for(job) as workers:
        workers.train(phases, log_interval=config.log_interval)
    results = {p.name: json.loads(run.storage.read_bytes(result_path(p.name))) for p in phases}
    for name, result in results.items():
        for ignored in result.get("ignored_states", []):
            log.warning("%s: a saved state was not gone on from, %s", name, ignored)
        if result["examples"] == 0:
            raise InputDataError(
                f"{name} found nothing to train on: no user has split.min_user_events="
                f"{config.split.min_user_events} events in its part of the log (for finetune: one "
                "on each side of a batch time of the last finetune.query_share) of items with "
                f"split.min_item_count={config.split.min_item_count} events there; lower them or "
                "bring more history"
            )
    keys = ("epochs", "steps", "examples", "sent_bytes_per_step", "of_embedding")
    return Trained(
        counts={name: {key: r[key] for key in keys} for name, r in results.items()},
        history={name: r["history"] for name, r in results.items()},
    )
