"""Lists for the holdout users as of the split -> metrics.json beside the baselines; the gate."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from .runner.command import run_stages

    run_stages(("evaluate",))

import logging
from typing import Any

import numpy as np

from diffsasrec.config.config import Config
from diffsasrec.errors import RefusedError
from diffsasrec.evaluate.gate import gate_failures
from diffsasrec.evaluate.tallies import (
    PROTOCOL,
    Tally,
    holdout_targets,
    list_matrix,
    measure,
    protocol_of,
    tally,
)
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.chain import read_chain, standing
from diffsasrec.lake.run_dir import RunDir, run_path
from diffsasrec.model.checkpoint import check_not_trained_past, load_checkpoint, read_description
from diffsasrec.model.features import WINDOWS
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.score.rules import allowed_items
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.vocab import frequent_before_split
from diffsasrec.times import DAY

from .night.baseline_scores import (
    baseline_scores,
    baseline_tallies,
    holdout_scoring,
    sum_tallies,
)
from .night.records import Evaluated, Prepared
from .night.scoring import score_buckets
from .runs.published_runs import metrics_of
from .training.weight_reuse import cite

log = logging.getLogger(__name__)


def main(config: Config, run: RunDir) -> Evaluated:
    prepared = Prepared.of(run)
    run.require("finetune")
    if run.reused is not None:
        return cite(run, run.reused)
    split_time, num_buckets = prepared.split_time, prepared.num_buckets
    directory = run.storage.sub("checkpoint_measured")
    check_not_trained_past(read_description(directory), split_time=split_time, path=directory.root)
    scoring = holdout_scoring(config, run, prepared, output="evaluation")
    score_buckets(config, scoring, num_buckets, "evaluate")
    allowed = allowed_items(load_checkpoint(directory), scoring.rules)
    log.info("evaluate: measuring the baselines")
    scores, choice = baseline_scores(config, run, prepared, allowed)
    vocab = run.storage.read_tables("vocab", ["count_before"])
    known = frequent_before_split(vocab, config.split.min_item_count)
    known_counts = np.where(known, vocab["count_before"].to_numpy(), 0)
    buckets = range(num_buckets)
    tallies = baseline_tallies(
        config, run, buckets, scores, allowed, known, cut=split_time, before=None
    )
    model = sum_tallies(map_tasks(model_tallies, buckets, run.storage, config))["model"]
    measured = {
        name: measure(
            counted,
            known_counts=known_counts,
            samples=config.evaluate.bootstrap_samples,
            seed=config.seed,
        )
        for name, counted in {"model": model, **tallies}.items()
    }
    metrics: dict[str, Any] = {
        "protocol": PROTOCOL,
        "model": measured.pop("model"),
        "baselines": measured,
        "recent_popular_days": WINDOWS[choice.window] / DAY,
        "settings": choice.to_json(),
    }
    run.storage.write_bytes("metrics.json", to_json(metrics))
    check_gate(config, run, metrics["model"])
    return Evaluated(counts={"holdout_users": metrics["model"]["n"]}, popular_window=choice.window)


def model_tallies(bucket: int, storage: Storage, config: Config) -> dict[str, Tally]:
    """The evaluation lists of a bucket against its holdout."""
    vocab, name = storage.read_tables("vocab"), bucket_name(bucket)
    lists = list_matrix(storage.read_table(f"evaluation/{name}"), vocab, k=config.score.k)
    targets = holdout_targets(storage.read_table(f"holdout/{name}"), vocab)
    return {"model": tally(lists, targets, ks=config.evaluate.ks, num_items=vocab.num_rows)}


def previous_metrics(run: RunDir) -> dict[str, Any] | None:
    """The model's metrics of what was served last before this date: no rollback went behind it."""
    served = standing(read_chain(run.lake), run.ds)
    if not served:
        return None
    directory = run.lake.sub(run_path(served[0].ds, served[0].run_id))
    try:
        metrics: dict[str, Any] = metrics_of(directory)[0]
    except FileNotFoundError:
        log.warning("evaluate: the metrics of %s are gone", directory.root)
        return None
    if protocol_of(metrics) != PROTOCOL:
        log.warning("evaluate: %s was measured by an earlier rule", directory.root)
        return None
    model: dict[str, Any] = metrics["model"]
    return model


def check_gate(config: Config, run: RunDir, model: dict[str, Any]) -> None:
    """Raises RefusedError below a floor, or too far below what is served."""
    previous = None
    if config.gate.max_relative_drop is not None:
        previous = previous_metrics(run)
        if previous is None or config.gate.metric not in previous:
            log.warning("evaluate: no earlier %s to compare with", config.gate.metric)
    failures = gate_failures(
        model,
        floors=config.gate.floors,
        metric=config.gate.metric,
        max_relative_drop=config.gate.max_relative_drop,
        previous=previous,
    )
    if failures:
        raise RefusedError(f"the gate refuses this run: {'; '.join(failures)}")
