"""`--dry-run`: looks at a sample of the log, the lake and the cluster, and says what it takes.

Nothing is kept: the run that follows reads everything itself and trusts none of this.
"""

import logging
import os

import pyarrow as pa
import ray
import torch

from diffsasrec.config.config import Config
from diffsasrec.formats.listing import InputFile
from diffsasrec.inputs.log_files import inspect_inputs
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import STAGES
from diffsasrec.ray_cluster import cluster_resources
from diffsasrec.times import microseconds

from ..night.rule_effects import check_sampled_rules
from ..process.ray_session import start_ray
from ..takeover.taking import takeover
from ..training.weight_reuse import working
from .cost import stage_resources
from .doubts import doubts, warn
from .estimate import Size, estimate, plan_table
from .log_sample import check_sample, missing_days, sample_lines, take_sample
from .resources import check_resources

log = logging.getLogger("jobs")


def dry_run(
    config: Config, run: RunDir, inputs: list[InputFile], to_do: list[str], *, source: str
) -> int:
    """Checks all that can be checked in a minute, and prints what the stages will take.

    Args:
        source: the sha256 of our own source files.

    Raises:
        ConfigError, InputDataError: as the run itself would, hours later.
    """
    sampled = look_at_log(config, run, inputs)
    if "prepare" in to_do:
        with takeover(config, run, source=source) as taking:
            taken, found = taking.inspect(config, run)
            taken.say(found)
    once = "publish" in to_do and not config.publish.single_writer
    what = ", and creates a file only once" if once else ""
    log.info("lake: %s can be written to%s", run.lake.root, what)
    available = available_resources()
    to_do = working(to_do, run.reused)
    check_resources(config, to_do, available)
    for stage in STAGES:
        log.info("%s: %s", stage, "to do" if stage in to_do else "done, spared or not asked for")
    resources = stage_resources(config, available)
    known = estimate(config, run.lake, inputs, sampled, resources, available)
    for line in plan_table(known, to_do):
        print(line)
    return 0


def look_at_log(config: Config, run: RunDir, inputs: list[InputFile]) -> Size:
    """Says what a sample of the log holds, and checks it and the rules; about how large the log is.

    Raises:
        ConfigError, InputDataError: as the run itself would, hours later.
    """
    before = microseconds(run.ds)
    found = inspect_inputs(inputs, config.events)
    num_bytes = sum(file.size for file in inputs)
    log.info(
        "log: %d files, %.1f MB, %d fragments", len(inputs), num_bytes / 1e6, len(found.fragments)
    )
    log.info("ids: user %s, item %s", found.user_type, found.item_type)
    for note in found.notes:
        log.info("log: %s", note)
    sample = take_sample(found, config.events, before=before)
    for line in sample_lines(sample):
        log.info("%s", line)
    if sample.is_whole:
        size = Size.of_whole(sample.users, sample.items, sample.counts["rows"])
    else:
        size = Size.of_sample(sample.users, sample.items, inputs, config.events.format)
    check_sample(sample, found, config.events, before=before, num_rows=size.rows)
    distinct = [pa.chunked_array(ids).unique() for ids in (sample.users, sample.items)]
    check_sampled_rules(config, *distinct, is_whole=sample.is_whole, ds=run.ds)
    if (gap := missing_days(sample, inputs, config.events, run.ds)) is not None:
        warn(gap)
    for doubt in doubts(
        config,
        users=sample.users,
        items=sample.items,
        times=sample.times,
        is_whole=sample.is_whole,
        ds=run.ds,
    ):
        warn(doubt)
    return size


def available_resources() -> dict[str, float]:
    """What the cluster has that RAY_ADDRESS names, else this machine."""
    if "RAY_ADDRESS" in os.environ:
        start_ray()
        available = cluster_resources()
        where = f"the cluster at {ray.get_runtime_context().gcs_address}"
    else:
        available = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
        where = "this machine (RAY_ADDRESS is not set)"
    log.info(
        "cluster: %s has %g CPUs and %g GPUs",
        where,
        available.get("CPU", 0.0),
        available.get("GPU", 0.0),
    )
    return available
