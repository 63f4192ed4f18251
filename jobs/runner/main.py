"""Runs stages: the run, the cluster, the stages one by one, the last line and the exit code.

Ray and torch take seconds to import: a command that has nothing to run ends before.
"""

import argparse
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from diffsasrec.config.config import Config
from diffsasrec.errors import InfrastructureError, at_the_start, find_ours
from diffsasrec.files.storage import Storage
from diffsasrec.formats.listing import InputFile, Listing
from diffsasrec.inputs.log_files import inspect_inputs, list_log
from diffsasrec.lake.chain import check_create_only
from diffsasrec.lake.iceberg_table import check_table
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import STAGES, WORKERS
from diffsasrec.memory import give_back_freed_memory
from diffsasrec.progress import HEARTBEAT, duration
from diffsasrec.tables.versions import pinned

from ..night.exclusions import rested_lists
from ..night.records import Published, Record, counts_of
from ..observe.outcome import ObservedNight, observe
from ..observe.summary import print_summary
from ..process.ending import End, handlers_kept
from ..runs.run_dates import refuse_future
from ..runs.standing import standing_of
from ..training.sharing import Shared, workers_shared
from ..training.weight_reuse import working
from .command import failed
from .identity import (
    open_run,
    published_and_deleted,
    refuse_changed,
    refuse_taken,
    source_digest,
)
from .lake_mark import refuse_passing_lake, require_mark
from .maintenance import maintain
from .watchdog import watch

log = logging.getLogger("jobs")

StageFunction = Callable[[Config, RunDir], Record]


def main(arguments: argparse.Namespace, end: End) -> NoReturn:
    """Runs stages as a command line says, and exits."""
    night = ObservedNight(arguments.pages)
    end.leave = lambda code, seconds: observe(night, end.summary, code, seconds=seconds)
    try:
        code = end.settle(_run(arguments, end, night))
    except Exception as error:
        ours = find_ours(error)
        end.yield_to_signal(0.2)  # what a signal breaks off fails here
        if ours is None:
            log.error("%s", traceback.format_exc())
        ours = ours or InfrastructureError(_one_line(error))
        if end.summary["stage"] is None:
            ours = at_the_start(ours)
        code = end.settle(ours.exit_code)
        failed(end.summary, ours)
    except BaseException:
        end.yield_to_signal(2.0)  # handlers of Ray's own end with these
        raise
    observe(night, end.summary, code)
    if (ray := sys.modules.get("ray")) is not None and ray.is_initialized():
        with handlers_kept():
            ray.shutdown()
    end.print()
    sys.exit(code)


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}; see the traceback above"


def _run(arguments: argparse.Namespace, end: End, night: ObservedNight) -> int:
    """Does what the command line asks for; the exit code."""
    summary = end.summary
    config = _usable_config(arguments)
    if arguments.rollback_to is not None or arguments.keep is not None:
        return maintain(config, arguments, summary)
    config, listing = _look_at_log(config, arguments.date)
    inputs, left_out = listing.files, listing.left_out
    run = open_run(config, arguments.date, inputs, run_id=arguments.run_id, left_out=left_out)
    summary |= {"run_id": run.run_id, "paths": {"run": run.storage.root}}
    log.info(
        "run %s of %s, %d input files, into %s", run.run_id, run.ds, len(inputs), run.storage.root
    )
    run.lake.check_writable()
    refuse_changed(run)
    if (ended := published_and_deleted(run)) is not None:
        log.info("%s", ended["note"])
        summary |= ended
        return 0
    to_do = [stage for stage in arguments.stages if run.record(stage) is None]
    if "score" in to_do:
        rested_lists(run)
    if to_do and not arguments.dry_run:
        run.sweep()
        if arguments.is_night:
            night.follow(config, run)
    if "publish" in arguments.stages:
        _check_publication(config, run, inputs, is_dry=arguments.dry_run)
    if arguments.dry_run:
        summary["status"] = "checked"
        from ..planning.preflight import dry_run

        return dry_run(config, run, inputs, to_do, source=source_digest())
    threading.Thread(target=watch, args=(config.stall_timeout, end), daemon=True).start()
    if to_do:
        _start_ray(config, working(to_do, run.reused))
    _run_stages(arguments.stages, config, run, end, night)
    _conclude(arguments, config, run, summary)
    return 0


def _usable_config(arguments: argparse.Namespace) -> Config:
    """The config, after its run date and its lake were checked."""
    config: Config = arguments.loaded
    refuse_future(arguments.date, is_meant=arguments.future)
    refuse_passing_lake(config.lake)
    config = config.located()
    require_mark(Storage.of(config.lake), is_new=arguments.new_lake, is_dry=arguments.dry_run)
    return config


def _look_at_log(config: Config, run_date: date) -> tuple[Config, Listing]:
    """The config with the version of the log pinned, where it is a table, and the log's files."""
    config = config.model_copy(update={"events": pinned(config.events)})
    if config.events.table is not None:
        log.info("log: %s at version %s", config.events.source, config.events.table_version)
    listing = list_log(config.events, run_date=run_date)
    for each in listing.left_out:
        log.info("left out of the log: %s", each)
    return config, listing


def _check_publication(
    config: Config, run: RunDir, inputs: list[InputFile], *, is_dry: bool
) -> None:
    """Checks before hours of work that their result can be published."""
    if config.iceberg.table is not None:
        ids = inspect_inputs(inputs, config.events)
        check_table(config.iceberg, ids.user_type, ids.item_type, create=not is_dry)
    check_create_only(run.lake, single_writer=config.publish.single_writer)


def _start_ray(config: Config, stages: list[str]) -> None:
    from diffsasrec.ray_cluster import cluster_resources

    from ..planning.resources import check_resources
    from ..process.ray_session import start_ray

    start_ray()
    check_resources(config, stages, cluster_resources())


def _run_stages(
    stages: Sequence[str], config: Config, run: RunDir, end: End, night: ObservedNight
) -> None:
    to_do = [stage for stage in stages if run.record(stage) is None]
    with workers_shared() as shared:
        for stage in stages:
            end.yield_to_signal(0.0)
            end.summary["stage"], night.stage_started = stage, time.monotonic()
            if WORKERS[stage] != "train":
                shared.let_go()  # a parallel attempt may have done what they stayed for
            if run.record(stage) is None:
                _run_stage(stage, config, run, None if _trains_behind(stage, to_do) else shared)
            else:
                log.info("%s: already done, skipped", stage)
            end.summary["counts"] |= {stage: counts_of(run, stage)}


def _trains_behind(stage: str, to_do: list[str]) -> bool:
    """Whether the next stage that is to be done trains."""
    behind = [each for each in to_do if STAGES.index(each) > STAGES.index(stage)]
    return bool(behind) and WORKERS[behind[0]] == "train"


def _run_stage(stage: str, config: Config, run: RunDir, shared: Shared | None) -> None:
    """`shared`: the workers that no further training needs at once."""
    started = time.monotonic()
    HEARTBEAT.beat()
    log.info("%s: started", stage)
    run.begin(stage, check=partial(refuse_taken, run))
    function: StageFunction = import_module(f"..{stage}", __spec__.parent).main
    record = function(config, run)
    if shared is not None:
        shared.let_go()
    give_back_freed_memory()  # the next stage's workers may be on this machine
    seconds = time.monotonic() - started
    run.finish(stage, replace(record, seconds=round(seconds, 1)).to_json())
    log.info("%s: done in %s", stage, duration(seconds))


def _conclude(
    arguments: argparse.Namespace, config: Config, run: RunDir, summary: dict[str, Any]
) -> None:
    """Says how the run ended, and whether it is what is served."""
    summary["status"] = "done"
    if (published := Published.if_done(run)) is not None:
        summary["paths"] |= {"published": published.published}
        summary |= standing_of(run, published, arguments.config)
    if "note" in summary:
        log.warning("WARNING: %s", summary["note"])
    if summary["status"] == "done" and arguments.stages == STAGES:
        sets = [word for each in arguments.sets for word in ("--set", each)]
        print_summary(config, run, ["--config", arguments.config, *sets])
