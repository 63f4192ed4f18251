"""What every job shares: command line, run, cluster, last line and exit code."""

import argparse
import hashlib
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
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
import ray.data
import yaml

from diffsasrec.config import Config, load_config
from diffsasrec.errors import ConfigError, DiffsasrecError, InfrastructureError, find_ours
from diffsasrec.iceberg import check_table
from diffsasrec.inputs import InputFile, inspect_inputs, list_inputs
from diffsasrec.items import read_items
from diffsasrec.partitions import check_entry, follow_chain
from diffsasrec.progress import HEARTBEAT, duration
from diffsasrec.publish import append_rollback, check_create_only, prune, read_chain, settle
from diffsasrec.rundir import OUTPUTS, Reused, RunDir
from diffsasrec.storage import Storage, resolve_package, stat_files
from diffsasrec.tables import read_item_ids
from diffsasrec.train import check_cluster, cluster_resources
from jobs.exclude import check_exclusions, lately_published
from jobs.observe import Night, observe
from jobs.reuse import SPARED, choose
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
    if arguments.rollback_to is not None or arguments.keep is not None:
        return _maintain(config, arguments, summary)
    inputs = list_inputs(config.events, run_date=arguments.date)
    run = open_run(config, arguments.date, inputs, run_id=arguments.run_id)
    summary |= {"run_id": run.run_id, "paths": {"run": run.storage.root}}
    log.info(
        "run %s of %s, %d input files, into %s", run.run_id, run.ds, len(inputs), run.storage.root
    )
    run.lake.check_writable()
    _refuse_changed(run)
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
        from jobs.preflight import dry_run  # which needs what is here, as the stages do

        summary["status"] = "checked"
        return dry_run(config, run, inputs, to_do)
    watchdog = threading.Thread(
        target=_watch, args=(config.stall_timeout, summary, night), daemon=True
    )
    watchdog.start()
    if to_do:
        start_ray()
        trained = to_do if run.reused is None else [*{*to_do} - {*SPARED}]
        check_resources(config, trained, cluster_resources())
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
    if arguments.stages == STAGES:
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
    summary["status"] = "done"
    return 0


def _load(arguments: argparse.Namespace) -> Config:
    try:
        text = Path(arguments.config).read_text()
    except OSError as error:
        raise ConfigError(f"--config {arguments.config} can't be read: {error.strerror}") from None
    return load_config(text, arguments.sets, source=arguments.config)


def _run_stage(stage: str, config: Config, run: RunDir) -> None:
    started = time.monotonic()
    HEARTBEAT.beat()
    log.info("%s: started", stage)
    run.begin(stage)
    function: Stage = import_module(f"jobs.{stage}").main
    record = dict(function(config, run))
    seconds = time.monotonic() - started
    run.finish(stage, {**record, "seconds": round(seconds, 1)})
    log.info("%s: done in %s", stage, duration(seconds))


def check_resources(config: Config, stages: list[str], available: Mapping[str, float]) -> None:
    """Before anything is read: a worker that fits nowhere would be waited for without end."""
    train, score = config.train, config.score
    if {"pretrain", "finetune", "refit"} & set(stages):
        resources = {"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker}
        check_cluster("train", "worker", train.num_workers, resources, available=available)
    if {"evaluate", "score"} & set(stages):
        resources = {"CPU": score.cpus_per_actor, "GPU": score.gpus_per_actor}
        check_cluster("score", "actor", 1, resources, available=available)


def start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names, else starts a Ray on this machine."""
    logging.getLogger("ray").setLevel(logging.WARNING)
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    set_up_data()


def set_up_data() -> None:
    """What Ray Data says, and how many failures it bears, in every stage."""
    context = ray.data.DataContext.get_current()
    # a store that does not answer once, while an actor loads, is no reason to end the night
    context.max_consecutive_actor_init_deaths = 3
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def source_digest() -> str:
    """The sha256 of our own source files."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("diffsasrec/*.py"), *root.glob("jobs/*.py")]):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def open_run(
    config: Config, run_date: date, inputs: list[InputFile], *, run_id: str | None
) -> RunDir:
    """The run directory, named by a digest of everything that the output depends on."""
    lake, score = Storage.of(config.lake), config.score
    side_inputs = [score.deny_path, score.allow_path, score.exclude_path]
    side_inputs += [config.vocab.previous_path]
    if config.items.path is not None:
        side_inputs.append(resolve_package(config.items.path, "items.path"))
    listing = [info for path in side_inputs if path is not None for info in stat_files(path)]
    ds, source = run_date.isoformat(), source_digest()
    parts = [
        ds,
        config.resolved(),
        source,
        [(file.path, file.size, file.version) for file in inputs],
        listing,
        lately_published(lake, ds, score.rest_nights),
    ]

    def identity_with(reused: Reused | None) -> str:
        whose = [] if reused is None else [[reused.ds, reused.run_id]]
        return hashlib.sha256(json.dumps(parts + whose, sort_keys=True).encode()).hexdigest()

    reused = choose(config, lake, ds, source=source, identity_with=identity_with)
    identity = identity_with(reused)
    return RunDir(
        lake=lake,
        ds=ds,
        run_id=run_id or identity[:12],
        identity=identity,
        attempt=uuid.uuid4().hex[:12],
        inputs=tuple((file.path, file.size, file.version) for file in inputs),
        reused=reused,
    )


def _refuse_changed(run: RunDir) -> None:
    """A published run directory is immutable: another config or input needs another run id."""
    published = any((e.ds, e.run_id) == (run.ds, run.run_id) for e in read_chain(run.lake))
    if published and run.record("publish") is None and run.record("score") is None:
        raise ConfigError(
            f"run {run.run_id} of {run.ds} is published, and the config, the code or the inputs "
            "are not those it was made from; leave --run-id out or choose a new one"
        )


def microseconds(time: str) -> int:
    """An ISO date or time in microseconds since 1970; one without a zone is UTC."""
    parsed = datetime.fromisoformat(time)
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
