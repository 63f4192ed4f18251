"""What every job shares: command line, run, cluster, last line and exit code."""

import argparse
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
import ray.data
import yaml

from diffsasrec.config import Config, load_config
from diffsasrec.errors import ConfigError, DiffsasrecError, InfrastructureError, find_ours
from diffsasrec.iceberg import check_table
from diffsasrec.inputs import inspect_inputs, list_inputs
from diffsasrec.items import read_items
from diffsasrec.memory import give_back_freed_memory
from diffsasrec.partitions import check_entry, follow_chain
from diffsasrec.progress import HEARTBEAT, duration
from diffsasrec.publish import append_rollback, check_create_only, prune, settle
from diffsasrec.rundir import OUTPUTS, RunDir
from diffsasrec.storage import Storage
from diffsasrec.tables import read_item_ids
from diffsasrec.train import cluster_resources
from jobs.cluster import check_resources, refuse_passing_lake, start_ray
from jobs.current import standing_of
from jobs.dates import refuse_future
from jobs.exclude import check_exclusions
from jobs.identity import open_run, refuse_changed
from jobs.lake_mark import require_mark
from jobs.observe import Night, observe
from jobs.preflight import dry_run
from jobs.reuse import working
from jobs.summary import print_summary

log = logging.getLogger("jobs")

STAGES = tuple(OUTPUTS)
Stage = Callable[[Config, RunDir], Mapping[str, Any]]


def main(stages: tuple[str, ...]) -> None:
    """Runs `stages` (or those of --stages) as the command line says, and exits."""
    arguments = _parse(stages)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    summary: dict[str, Any] = {"run_id": None, "status": "failed", "stage": None}
    summary |= {"counts": {}, "paths": {}}
    night = Night()
    try:
        code = _run(arguments, summary, night)
    except DiffsasrecError as error:
        code = _failed(summary, find_ours(error) or error)
    except Exception as error:
        log.error("%s", traceback.format_exc())
        code = _failed(summary, find_ours(error) or InfrastructureError(_one_line(error)))
    observe(night, summary, code or 0)
    if ray.is_initialized():
        ray.shutdown()
    if code is not None:
        sys.stderr.flush()
        print(json.dumps(summary, sort_keys=True), flush=True)
    sys.exit(code or 0)


def _failed(summary: dict[str, Any], error: DiffsasrecError) -> int:
    log.error("%s: %s", type(error).__name__, error)
    summary |= {"status": "refused" if error.exit_code == 4 else "failed", "error": str(error)}
    return error.exit_code


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}; see the traceback above"


def _parse(stages: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Runs {', '.join(stages)} for one date.")
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("--date", type=date.fromisoformat, help="run date YYYY-MM-DD, exclusive")
    parser.add_argument(
        "--run-id", type=_run_id, help="default: a digest of the date, config, code and inputs"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", dest="sets")
    parser.add_argument("--print-config", action="store_true", help="print it resolved, and exit")
    parser.add_argument(
        "--dry-run", action="store_true", help="check log, lake and cluster, estimate, and exit"
    )
    parser.add_argument("--new-lake", action="store_true", help="make a local lake that is new")
    parser.add_argument("--future", action="store_true", help="a run date after tomorrow is meant")
    parser.set_defaults(stages=stages, is_night=stages == STAGES, rollback_to=None, keep=None)
    if stages == STAGES:
        parser.add_argument("--stages", type=_stage_names, help="only these, as in: score,publish")
    if stages == ("publish",):
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument(
            "--rollback-to", type=int, metavar="N", help="serve again what entry N did, no more"
        )
        instead.add_argument(
            "--keep", type=_positive, metavar="N", help="delete all but the newest N runs, no more"
        )
    arguments = parser.parse_args()
    of_no_run = arguments.rollback_to is not None or arguments.keep is not None
    if (arguments.date is None) != of_no_run:
        parser.error("--date is required, but with --rollback-to and --keep, which have none")
    return arguments


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return int(text)


def _run_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", text):  # it names a directory and files
        raise argparse.ArgumentTypeError(f"{text}: use letters, digits, '.', '_' and '-' only")
    return text


def _stage_names(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := set(names) - set(STAGES):
        raise argparse.ArgumentTypeError(
            f"unknown stages {sorted(unknown)}; known: {','.join(STAGES)}"
        )
    return tuple(stage for stage in STAGES if stage in names)


def _run(arguments: argparse.Namespace, summary: dict[str, Any], night: Night) -> int | None:
    config = _load(arguments)
    if arguments.print_config:
        print(yaml.safe_dump(config.resolved(), sort_keys=False) + f"# sha256 {config.sha256()}")
        return None
    refuse_future(arguments.date, is_meant=arguments.future)
    require_mark(Storage.of(config.lake), is_new=arguments.new_lake, is_dry=arguments.dry_run)
    if arguments.rollback_to is not None or arguments.keep is not None:
        return _maintain(config, arguments, summary)
    inputs = list_inputs(config.events, run_date=arguments.date)
    run = open_run(config, arguments.date, inputs, run_id=arguments.run_id)
    summary |= {"run_id": run.run_id, "paths": {"run": run.storage.root}}
    log.info(
        "run %s of %s, %d input files, into %s", run.run_id, run.ds, len(inputs), run.storage.root
    )
    run.lake.check_writable()
    refuse_changed(run)
    to_do = [stage for stage in arguments.stages if run.record(stage) is None]
    if to_do and arguments.is_night and not arguments.dry_run:
        night.follow(config, run)
    for key in ("deny_path", "allow_path"):
        if (path := getattr(config.score, key)) is not None:
            read_item_ids(path, f"score.{key}")
    check_exclusions(config.score.exclude_path)
    read_items(config.items)
    if config.iceberg.table is not None and "publish" in arguments.stages:
        ids = inspect_inputs(inputs, config.events)
        check_table(config.iceberg, ids.user_type, ids.item_type, create=not arguments.dry_run)
    if "publish" in arguments.stages:
        check_create_only(run.lake, single_writer=config.publish.single_writer)
    if arguments.dry_run:
        summary["status"] = "checked"
        return dry_run(config, run, inputs, to_do)
    watchdog = threading.Thread(
        target=_watch, args=(config.stall_timeout, summary, night), daemon=True
    )
    watchdog.start()
    if to_do:
        start_ray()
        check_resources(config, working(to_do, run.reused), cluster_resources())
    for stage in arguments.stages:
        summary["stage"], night.stage_started = stage, time.monotonic()
        if run.record(stage) is None:
            _run_stage(stage, config, run)
        else:
            log.info("%s: already done, skipped", stage)
        summary["counts"] |= {stage: run.require(stage)["counts"]}
    if published := run.record("publish"):
        summary["paths"] |= {"published": published["published"]}
    summary["status"] = "done"
    if published:
        summary |= standing_of(run, published, arguments.config)
    if "note" in summary:
        log.warning("WARNING: %s", summary["note"])
    if summary["status"] == "done" and arguments.stages == STAGES:
        print_summary(config, run)
    return 0


def _watch(timeout: float, summary: dict[str, Any], night: Night) -> None:
    """Ends this process, and with it the run, once nothing has moved for `timeout` seconds.

    The run may be in any call of Ray, which waits without end for a node that does not come: only
    the end of the process ends that, and the next attempt goes on from what is done.
    """
    HEARTBEAT.beat()
    while (left := timeout - HEARTBEAT.silence()) > 0:
        time.sleep(min(left, 60.0))
    error = InfrastructureError(
        f"{summary['stage'] or 'the start'} made no progress for {duration(timeout)} "
        f"(stall_timeout={timeout:g}): a node or a store does not answer, or the cluster has no "
        "room for the workers; run the same command again, with a larger stall_timeout if the work "
        "only takes long"
    )
    code = _failed(summary, error)
    observe(night, summary, code)
    print(json.dumps(summary, sort_keys=True), flush=True)
    os._exit(code)


def _maintain(config: Config, arguments: argparse.Namespace, summary: dict[str, Any]) -> int:
    """What is done to the published runs of a lake, and to no run."""
    lake = Storage.of(config.lake)
    lake.check_writable()
    summary["stage"] = "publish"
    if arguments.keep is not None:
        pruned = prune(lake, keep=arguments.keep, grace=config.publish.grace)
        log.info(
            "publish: deleted %d run directories%s",
            len(pruned),
            "".join(f"\n  {p}" for p in pruned),
        )
        summary["counts"] = {"pruned": len(pruned)}
    else:
        check_create_only(lake, single_writer=config.publish.single_writer)
        if config.iceberg.table is not None:
            check_entry(lake, config.iceberg, arguments.rollback_to)
        entry = append_rollback(lake, arguments.rollback_to, attempt=uuid.uuid4().hex[:12])
        settle(lake, grace=config.publish.grace)
        if config.iceberg.table is not None:
            follow_chain(lake, config.iceberg, ds=entry.ds)
        log.info(
            "publish: entry %d serves again what entry %d did", entry.number, arguments.rollback_to
        )
        summary |= {"run_id": entry.run_id, "counts": {"chain_number": entry.number}}
        summary |= {"current": entry.current}
    summary["status"] = "done"
    return 0


def _load(arguments: argparse.Namespace) -> Config:
    try:
        text = Path(arguments.config).read_text()
    except OSError as error:
        raise ConfigError(f"--config {arguments.config} can't be read: {error.strerror}") from None
    config = load_config(text, arguments.sets, source=arguments.config)
    refuse_passing_lake(config.lake)
    return config.located()


def _run_stage(stage: str, config: Config, run: RunDir) -> None:
    started = time.monotonic()
    HEARTBEAT.beat()
    log.info("%s: started", stage)
    run.begin(stage)
    function: Stage = import_module(f"jobs.{stage}").main
    record = dict(function(config, run))
    give_back_freed_memory()  # the next stage's workers may be on this machine
    seconds = time.monotonic() - started
    run.finish(stage, {**record, "seconds": round(seconds, 1)})
    log.info("%s: done in %s", stage, duration(seconds))
