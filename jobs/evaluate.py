"""Lists for the holdout users as of the split -> metrics.json beside the baselines; the gate."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from .runner.command import run_stages

    run_stages(("evaluate",))

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.config.config import Config
from diffsasrec.errors import RefusedError
from diffsasrec.evaluate.baselines import Score, rank_lists
from diffsasrec.evaluate.gate import gate_failures
from diffsasrec.evaluate.metrics import Spread, user_gains
from diffsasrec.evaluate.protocol import PROTOCOL, protocol_of, served_metrics
from diffsasrec.evaluate.slices import (
    Part,
    Slice,
    places_of,
    slice_parts,
    slices_json,
)
from diffsasrec.evaluate.tallies import (
    Tally,
    holdout_targets,
    list_matrix,
    measure,
    tally,
)
from diffsasrec.evaluate.versus import Versus, spread_of_differences
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.chain import read_chain, standing
from diffsasrec.lake.run_dir import RunDir, run_path
from diffsasrec.model.checkpoint import check_not_trained_past, load_checkpoint, read_description
from diffsasrec.model.features import WINDOWS
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.score.rules import allowed_items
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import flatten, only_items
from diffsasrec.sequences.holdout import holdout_between
from diffsasrec.sequences.vocab import frequent_before_split
from diffsasrec.times import DAY

from .night.baseline_scores import (
    Choice,
    baseline_scores,
    baseline_tallies,
    holdout_scoring,
    ndcg_of,
    sum_tallies,
)
from .night.records import Evaluated, Prepared
from .night.scoring import score_buckets
from .runs.published_runs import metrics_of
from .training.weight_reuse import cite

log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]


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
    measured = measure_all(config, run, prepared, scores, (allowed, known), known_counts)
    versus, slices = beside_best(config, run, scores, choice, (allowed, known_counts), split_time)
    counter = choice.settings()[choice.best] if must_replace(config, versus) else None
    metrics: dict[str, Any] = {
        "protocol": PROTOCOL,
        "model": measured.pop("model"),
        "baselines": measured,
        "recent_popular_days": WINDOWS[choice.window] / DAY,
        "settings": choice.to_json(),
        "versus": versus.to_json(),
        "slices": slices,
        "counter": counter and counter.to_json(),
    }
    run.storage.write_bytes("metrics.json", to_json(metrics | measured_types(config)))
    check_gate(config, run, served_metrics(metrics), versus)
    return Evaluated(
        counts={"holdout_users": metrics["model"]["n"]},
        popular_window=choice.window,
        counter=metrics["counter"],
    )


def measure_all(
    config: Config,
    run: RunDir,
    prepared: Prepared,
    scores: dict[str, Score],
    masks: tuple[Mask, Mask],
    known_counts: npt.NDArray[np.int64],
) -> dict[str, dict[str, Any]]:
    """The metrics of the model and of the counters; `masks`: allowed and known items, [V]."""
    buckets = range(prepared.num_buckets)
    tallies = baseline_tallies(
        config, run, buckets, scores, *masks, cut=prepared.split_time, before=None
    )
    vocab = run.storage.read_tables("vocab", ["item_id"])
    tallies |= sum_tallies(map_tasks(model_tallies, buckets, run.storage, config, vocab))
    return {
        name: measure(
            counted,
            known_counts=known_counts,
            samples=config.evaluate.bootstrap_samples,
            seed=config.seed,
        )
        for name, counted in tallies.items()
    }


def beside_best(
    config: Config,
    run: RunDir,
    scores: Mapping[str, Score],
    choice: Choice,
    items: tuple[Mask, npt.NDArray[np.int64]],
    cut: int,
) -> tuple[Versus, list[dict[str, Any]]]:
    """The model beside the counter that was the best on the second cut: of all, and by slices.

    Args:
        items: which are allowed, and the counts of the known ones before the split, [V].
    """
    parts = map_tasks(
        gain_differences,
        range(Prepared.of(run).num_buckets),
        run.storage,
        config,
        run.storage.read_tables("vocab", ["item_id"]),
        scores[choice.best],
        *items,
        cut,
    )
    spread, slices = spread_of_differences(np.zeros(0), np.zeros(0)), dict[Slice, Part]()
    for of_bucket, parts_of_bucket in parts:
        spread += of_bucket
        slices = {
            each: slices[each] + part if slices else part for each, part in parts_of_bucket.items()
        }
    drawn: dict[str, Any] = {"samples": config.evaluate.bootstrap_samples, "seed": config.seed}
    compared = {"counter": choice.best, "metric": ndcg_of(config), **drawn}
    return Versus.of(spread, **compared), slices_json(slices, **compared)


def gain_differences(
    bucket: int,
    storage: Storage,
    config: Config,
    vocab: pa.Table,
    score: Score,
    allowed: Mask,
    known_counts: npt.NDArray[np.int64],
    cut: int,
) -> tuple[Spread, dict[Slice, Part]]:
    """The differences of a bucket's holdout users, of all and of slices."""
    name, k, known = bucket_name(bucket), max(config.evaluate.ks), known_counts > 0
    flat = flatten(storage.read_table(f"sequences/{name}"))
    held = holdout_between(only_items(flat, known).histories, cut=cut, before=None, known=known)
    lists = {
        "model": list_matrix(storage.read_table(f"evaluation/{name}"), vocab, k=k),
        "counter": rank_lists(
            score, held.past, allowed=allowed, k=k, filter_seen=config.score.filter_seen
        ),
    }
    gains = {
        which: user_gains(theirs, held.targets, k=k)[ndcg_of(config)]
        for which, theirs in lists.items()
    }
    places_V = places_of(known_counts)
    return (
        spread_of_differences(gains["model"], gains["counter"]),
        slice_parts(held, lists, cut=cut, places_V=places_V, k=k),
    )


def must_replace(config: Config, versus: Versus) -> bool:
    """Whether the counter makes tonight's lists; says so where the model is worse."""
    if not versus.is_worse or config.gate.otherwise == "refuse":
        return False
    if config.gate.otherwise == "model":
        log.warning("evaluate: %s; its lists are published (gate.otherwise)", versus.in_words())
        return False
    log.warning(
        "evaluate: %s; that counter makes the lists (gate.otherwise)",
        versus.in_words(),
    )
    return True


def model_tallies(
    bucket: int, storage: Storage, config: Config, vocab: pa.Table
) -> dict[str, Tally]:
    """The evaluation lists of a bucket against its holdout."""
    name = bucket_name(bucket)
    lists = list_matrix(storage.read_table(f"evaluation/{name}"), vocab, k=config.score.k)
    targets = holdout_targets(storage.read_table(f"holdout/{name}"), vocab)
    return {"model": tally(lists, targets, ks=config.evaluate.ks, num_items=vocab.num_rows)}


def previous_metrics(run: RunDir, targets: Sequence[str] = ()) -> dict[str, Any] | None:
    """The metrics of what was served last before this date: no rollback went behind it.

    `targets`: the types of events that are measured tonight; others can't be compared.
    """
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
    if metrics.get("target_types", []) != list(targets):
        log.warning("evaluate: %s was measured on other types of events", directory.root)
        return None
    return served_metrics(metrics)


def measured_types(config: Config) -> dict[str, list[str]]:
    """For metrics.json, of a log with types."""
    return {"target_types": targets} if (targets := target_types(config)) else {}


def target_types(config: Config) -> list[str]:
    """The types of events that are measured on; none where all events are alike."""
    return sorted(name for name, each in config.events.types.items() if each.target)


def check_gate(config: Config, run: RunDir, served: dict[str, Any], versus: Versus) -> None:
    """Raises RefusedError below a floor, too far below what was served, or below a counter.

    `served`: the figures of what would make the lists.
    """
    previous = None
    if config.gate.max_relative_drop is not None:
        previous = previous_metrics(run, target_types(config))
        if previous is None or config.gate.metric not in previous:
            log.warning("evaluate: no earlier %s to compare with", config.gate.metric)
    failures = gate_failures(
        served,
        floors=config.gate.floors,
        metric=config.gate.metric,
        max_relative_drop=config.gate.max_relative_drop,
        previous=previous,
        versus=versus if config.gate.otherwise == "refuse" else None,
    )
    if failures:
        raise RefusedError(f"the gate refuses this run: {'; '.join(failures)}")
