"""Where a warm training starts (train.warm_start).

The measured weights start from weights that saw nothing at or after the split, the served ones from
weights that saw nothing at or after the run date; each from the newest published ones. In a lake
that trains every night these are yesterday's measured and yesterday's served weights: both ways are
equally warm, so that what is measured is what serves. Where no weights may be the start of the
measured ones, both start from scratch.
"""

import json
import logging
from collections.abc import Iterator, Mapping

import numpy as np

from diffsasrec.config.config import Config
from diffsasrec.config.training import ModelConfig
from diffsasrec.errors import DiffsasrecError, InfrastructureError
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.chain import Entry, read_chain, standing
from diffsasrec.lake.manifest import read_manifest
from diffsasrec.lake.run_dir import RunDir, run_path
from diffsasrec.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from diffsasrec.model.mix import Mix
from diffsasrec.progress import beating
from diffsasrec.sequences.vocab import reindexing
from diffsasrec.times import microseconds
from diffsasrec.train.epochs import stream_seed

from ..night.records import Prepared, Start, Starts
from .carry_over import carried_over, same_shape

log = logging.getLogger(__name__)

STARTS = "state/warm"


def start_path(starts: Starts | None, name: str) -> str:
    """The directory, below the run, from which a checkpoint starts; "": from scratch."""
    return f"{STARTS}/{name}" if starts else ""


def choose_starts(config: Config, run: RunDir, prepared: Prepared) -> Starts | None:
    """Decides once per run where its trainings start, and writes these weights into the run.

    Returns:
        None: everything starts from scratch.
    """
    if not config.train.warm_start:
        return None
    decision = f"{STARTS}/starts.json"
    if not run.storage.exists(decision):
        limits = {"checkpoint_measured": prepared.split_time, "checkpoint": microseconds(run.ds)}
        # the first attempt's decision counts, however the chain has changed since
        run.storage.create(decision, to_json(newest_starts(run, config.model, limits)))
    starts: Starts = json.loads(run.storage.read_bytes(decision))
    if not starts:
        log.info(
            "pretrain: from scratch, as no published weights of this model and of these items end "
            "at the split or before it"
        )
        return None
    for name, start in starts.items():
        log.info(
            "pretrain: %s starts from %s of run %s of %s",
            *(name, start["checkpoint"], start["run_id"], start["ds"]),
        )
        write_start(config, run, run.storage.sub(start_path(starts, name)), start)
    return starts


def newest_starts(run: RunDir, model: ModelConfig, limits: Mapping[str, int]) -> Starts:
    """The newest published weights trained to each limit at most; {} unless there are all."""
    found = {name: newest_start(run, model, limit) for name, limit in limits.items()}
    return {name: start for name, start in found.items() if start} if all(found.values()) else {}


def newest_start(run: RunDir, model: ModelConfig, limit: int) -> Start | None:
    """The newest weights of the same shape in the chain before this run, trained before `limit`."""
    best: Start | None = None
    for entry in beating(standing(read_chain(run.lake), run.ds)):
        if best is not None and microseconds(entry.ds) <= best["trained_before"]:
            break  # no weights know more than the run date of their night
        for start in starts_of(run.lake, entry, model):
            known = start["trained_before"]
            if known <= limit and (best is None or known > best["trained_before"]):
                best = start if fits(run, start) else best
    return best


def starts_of(lake: Storage, entry: Entry, model: ModelConfig) -> Iterator[Start]:
    """The checkpoints of a published run whose model has the shape of `model`."""
    try:
        manifest = read_manifest(lake, entry)
    except FileNotFoundError:
        return  # pruned
    if same_shape(manifest["config"]["model"], model.model_dump(mode="json")):
        for name, trained_before in sorted(manifest["trained_before"].items()):
            yield Start(
                ds=entry.ds, run_id=entry.run_id, checkpoint=name, trained_before=trained_before
            )


def fits(run: RunDir, start: Start) -> bool:
    """Whether the weights can be read and know some of tonight's items.

    Weights of an earlier version of the code may not fit. A log whose ids have changed their type
    may have other items.
    """
    try:
        checkpoint = load_start(run.lake, start)
    except (DiffsasrecError, FileNotFoundError) as error:
        log.warning("pretrain: no start from there: %s", error)
        return False
    vocab = run.storage.read_tables("vocab", ["item_id"])
    num_known = int((reindexing(vocab, checkpoint.vocab) >= 0).sum())
    mine, theirs = (table["item_id"].type for table in (vocab, checkpoint.vocab))
    if not num_known or mine != theirs:
        log.warning(
            "pretrain: %s of run %s of %s has item ids of type %s, tonight they are %s; it knows "
            "%d of tonight's %d items%s",
            *(start["checkpoint"], start["run_id"], start["ds"], theirs, mine),
            *(num_known, vocab.num_rows, "" if num_known else ": no start from there"),
        )
    return num_known > 0 and checkpoint.trained_before == start["trained_before"]


def load_start(lake: Storage, start: Start) -> Checkpoint:
    directory = lake.sub(f"{run_path(start['ds'], start['run_id'])}/{start['checkpoint']}")
    return load_checkpoint(directory, as_start=True)


def write_start(config: Config, run: RunDir, output: Storage, start: Start) -> None:
    """The weights with a row per item of tonight's vocabulary; their date stays their own."""
    if output.exists("config.json"):
        return
    try:
        checkpoint = load_start(run.lake, start)
    except (DiffsasrecError, FileNotFoundError) as error:
        raise InfrastructureError(
            f"the start that this run has chosen is gone ({error}); delete "
            f"{run.storage.url(STARTS)} and run the same command again"
        ) from None
    vocab = run.storage.read_tables("vocab")
    row_V = reindexing(vocab, checkpoint.vocab)
    counts_V = np.where(row_V >= 0, checkpoint.vocab["count"].to_numpy()[row_V], 0)
    save_checkpoint(
        output,
        weights=carried_over(
            checkpoint,
            vocab,
            config=config.model,
            seed=stream_seed(config.seed, "init"),
            types=config.events.event_types,
        ),
        config=config.model,
        vocab=vocab,
        counts=counts_V,
        trained_before=checkpoint.trained_before,
        mix=Mix.of(checkpoint.model),
        types=config.events.event_types,
    )
