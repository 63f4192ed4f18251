"""Nights that train nothing (train.every_days): which earlier weights serve them.

The choice is part of the run's identity. It follows from the chain, the manifests that it names and
the run date, and from no clock, so that the same command takes the same weights again.
"""

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.config.config import Config
from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import Storage, parquet_bytes, sha256, to_json
from diffsasrec.lake.chain import Entry, read_chain, standing
from diffsasrec.lake.claims import deleted
from diffsasrec.lake.manifest import read_manifest
from diffsasrec.lake.run_dir import Reused, RunDir, run_path
from diffsasrec.lake.stages import SPARED
from diffsasrec.model.features import WINDOWS
from diffsasrec.progress import beating
from diffsasrec.schema import canonical_type, exactly
from diffsasrec.times import DAY, microseconds

from ..night.records import Evaluated, Trained
from ..runs.published_runs import metrics_of

log = logging.getLogger(__name__)

# Keys on which neither weights nor their measured figures depend. All others belong to the recipe,
# also those that a later version adds, until they are named here: training once more does no harm.
BESIDE_THE_RECIPE = (
    "lake",
    "log_interval",
    "stall_timeout",
    "events.incremental",
    "events.max_bad_fraction",
    "events.max_bad_fraction_of_newest",
    "events.min_rows_of_newest",
    "events.table_version",  # a log grows every night
    "vocab.previous_path",  # an index is only a name: the weights bring their own vocabulary
    "items.",
    "pretrain.checkpoint_every_steps",
    "finetune.checkpoint_every_steps",
    "train.every_days",
    "train.cpus_per_worker",
    "train.max_failures",
    # rules hold tonight for any weights
    "score.deny_path",
    "score.allow_path",
    "score.exclude_path",
    "score.boost_path",
    "score.users_path",
    "score.rest_nights",
    "score.max_per_category",
    "score.active_days",
    # how the work is done: lists differ at most by candidates as good as equal
    "score.batch_size",
    "score.shortlist",
    "score.fused",
    "score.gpus_per_actor",
    "score.max_quarantined_users",
    "score.num_actors",
    "score.cpus_per_actor",
    # tables beside the lists
    "similar_items.",
    "trending.",
    "publish.",
    "iceberg.",
    "cost.",
)


def recipe(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The keys of a resolved configuration on which weights or their figures depend."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{path}{name}"
        if isinstance(value, dict) and not f"{key}.".startswith(BESIDE_THE_RECIPE):
            found |= recipe(value, f"{key}.")
        elif key not in BESIDE_THE_RECIPE and not f"{key}.".startswith(BESIDE_THE_RECIPE):
            found[key] = value
    return found


def newest_reusable(
    config: Config, lake: Storage, ds: str, *, source: str, item_type: Callable[[], pa.DataType]
) -> Reused | None:
    """The newest published weights of the same recipe and code that serve a run of `ds`.

    None: it trains, since train.every_days is 1 or no weights are young enough.

    Weights of other code are not taken: nobody can tell what the change means for them. Weights
    whose items can't be in tonight's log are not taken either.

    Args:
        source: the sha256 of our own source files.
        item_type: of the ids of tonight's log; asked for where weights might serve.
    """
    if config.train.every_days == 1:
        return None
    mine, oldest = recipe(config.resolved()), config.train.every_days - 1
    for entry in beating(standing(read_chain(lake), ds)):
        if age_days(microseconds(entry.ds), ds) > oldest:
            break  # no weights are younger than the night that they served
        try:
            manifest = read_manifest(lake, entry)
        except FileNotFoundError:
            continue  # pruned
        differing = differences(mine, recipe(manifest["config"]))
        if manifest["source_sha256"] != source:
            differing.insert(0, "the code")
        reused = weights_of(lake, entry, manifest, ds)
        if not differing and reused.age_days <= oldest:
            differing = other_ids(lake, reused, item_type())
        if not differing and reused.age_days <= oldest:
            log.info(
                "the weights of run %s of %s serve, %d of at most %d days old",
                *(reused.run_id, reused.ds, reused.age_days, oldest),
            )
            return reused
        why = f"differs in {', '.join(differing)}" if differing else f"{reused.age_days} days old"
        log.info("the weights of run %s of %s do not serve: %s", entry.run_id, entry.ds, why)
    log.info("no published weights are of this recipe and at most %d days old: it trains", oldest)
    return None


def other_ids(lake: Storage, reused: Reused, item_type: pa.DataType) -> list[str]:
    """Why the weights' items can't be those of tonight's log, in words; [] where they can."""
    from diffsasrec.model.checkpoint import VOCAB

    path = f"{reused.source}/checkpoint/{VOCAB}"
    try:
        theirs = lake.read_schema(path).field("item_id").type
    except FileNotFoundError:
        return [f"{path}, which is gone"]
    if theirs == item_type:
        return []
    # a text that spells an integer in its one way is that integer; the texts of tonight's log are
    # not read yet, so nobody knows whether they do
    is_known = canonical_type(theirs) == pa.string() or canonical_type(item_type) != pa.string()
    if is_known and exactly(lake.read_table(path, ["item_id"])["item_id"], item_type) is not None:
        return []
    return [f"the type of the item ids ({theirs}, tonight {item_type})"]


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, or that only one of them has."""
    keys = sorted({*mine, *theirs})
    return [key for key in keys if key not in mine or key not in theirs or mine[key] != theirs[key]]


def weights_of(lake: Storage, entry: Entry, manifest: Mapping[str, Any], ds: str) -> Reused:
    """The weights that a published run serves, as the run of `ds` would take them over."""
    from diffsasrec.model.checkpoint import read_description

    source = run_path(entry.ds, entry.run_id)
    trained_before = read_description(lake.sub(f"{source}/checkpoint"))["trained_before"]
    trainer = manifest.get("reused") or {"ds": entry.ds, "run_id": entry.run_id}
    age = age_days(trained_before, ds)
    return Reused(trainer["ds"], trainer["run_id"], trained_before, age, source)


@dataclass(frozen=True)
class Choice:
    """What a published run took from earlier nights, and its identity."""

    reused: Reused | None
    rested: tuple[str, ...] | None  # as in RunDir; None: its version kept nothing of it
    identity: str


def published_choices(lake: Storage, ds: str) -> Iterator[Choice]:
    """What the published runs of a date took from earlier nights."""
    for entry in beating(read_chain(lake)):
        if entry.ds == ds:
            own = run_path(entry.ds, entry.run_id)
            manifest: dict[str, Any] | None
            try:
                manifest = read_manifest(lake, entry)
            except FileNotFoundError:
                manifest = deleted(lake, own)
            if manifest is None:
                continue  # an earlier version has deleted it, and kept nothing
            reused, rested = manifest.get("reused"), manifest.get("rested")
            if reused is not None:
                names = ("ds", "run_id", "trained_before", "age_days")
                reused = Reused(**{name: reused[name] for name in names}, source=own)
            rested = None if rested is None else tuple(rested)
            yield Choice(reused, rested, manifest["identity"])


def age_days(trained_before: int, ds: str) -> int:
    """How old weights are on a run date, in days, rounded up."""
    return -((trained_before - microseconds(ds)) // DAY)


def working(stages: list[str], reused: Reused | None) -> list[str]:
    """The stages that have work to do."""
    return stages if reused is None else [stage for stage in stages if stage not in SPARED]


def say_spared(reused: Reused, stage: str) -> None:
    log.info(
        "%s: nothing to do, the weights of run %s of %s serve tonight (%d days old)",
        stage,
        reused.run_id,
        reused.ds,
        reused.age_days,
    )


def take_over(run: RunDir, reused: Reused, item_type: pa.DataType) -> Trained:
    """Copies the weights into the run. From then on it needs no other directory.

    Args:
        item_type: of tonight's ids: that of the copy's vocabulary, and so of tonight's lists.
    """
    from diffsasrec.model.checkpoint import CONFIG, VOCAB, WEIGHTS

    sums = {f["path"]: f["sha256"] for f in source_manifest(run.lake, reused)["files"]}
    made: dict[str, bytes] = {}
    for name in (WEIGHTS, VOCAB, CONFIG):  # that of the description last: with it the copy is whole
        path = f"checkpoint/{name}"
        data = run.lake.read_bytes(f"{reused.source}/{path}")
        if sha256(data) != sums[path]:
            raise InfrastructureError(
                f"{run.lake.url(reused.source)}/{path} is not the file that was published; restore "
                "it, or train with train.every_days=1"
            )
        made[name] = data
    made |= with_item_type(made, item_type)
    for name, data in made.items():
        run.storage.create(f"checkpoint/{name}", data)
    say_spared(reused, "refit")
    return Trained(counts={}, reused=reused.cited())


def with_item_type(files: Mapping[str, bytes], item_type: pa.DataType) -> dict[str, bytes]:
    """The files of a checkpoint that change where its item ids get another type."""
    from diffsasrec.model.checkpoint import CONFIG, VOCAB

    vocab = pq.read_table(io.BytesIO(files[VOCAB]))
    place, ids = vocab.column_names.index("item_id"), vocab["item_id"]
    if ids.type == item_type:
        return {}
    converted = exactly(ids, item_type)
    assert converted is not None, (ids.type, item_type)  # else it was not chosen
    log.info("refit: the weights' item ids were converted from %s to %s", ids.type, item_type)
    data = parquet_bytes(vocab.set_column(place, "item_id", converted))
    description = json.loads(files[CONFIG])
    description["sha256"][VOCAB] = sha256(data)
    return {VOCAB: data, CONFIG: to_json(description)}


def cite(run: RunDir, reused: Reused) -> Evaluated:
    """The figures of the run that trained the weights; nothing is measured on this night.

    A counter that was better than these weights makes the lists of this night too.
    """
    metrics, _ = metrics_of(run.lake.sub(reused.source))
    window = [width / DAY for width in WINDOWS].index(metrics["recent_popular_days"])
    say_spared(reused, "evaluate")
    return Evaluated(
        counts={},
        reused=reused.cited(),
        metrics=metrics,
        popular_window=window,
        counter=metrics.get("counter"),
    )


def source_manifest(lake: Storage, reused: Reused) -> dict[str, Any]:
    """The manifest of the run that the weights are copied from."""
    for entry in beating(read_chain(lake)):
        if run_path(entry.ds, entry.run_id) == reused.source:
            try:
                return read_manifest(lake, entry)
            except FileNotFoundError:
                break
    raise InfrastructureError(
        f"{lake.url(reused.source)} was pruned meanwhile, and this night takes over its weights; "
        "run the same command again"
    )
