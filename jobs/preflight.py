"""`--dry-run`: looks at a sample of the log, the lake and the cluster, and says what it takes.

Nothing is kept: the run that follows reads everything itself and trusts none of this.
"""

import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import torch

from diffsasrec.config.config import Config
from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.inputs.log_files import InputFile, Log, inspect_inputs
from diffsasrec.inputs.log_rows import read_fragment
from diffsasrec.inputs.row_checks import AFTER_RUN_DATE, MALFORMED, MAX_TIME, check_rows
from diffsasrec.inputs.text_rows import RawChunk
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import OUTPUTS
from diffsasrec.ray_cluster import cluster_resources
from diffsasrec.schema import canonical_type
from diffsasrec.times import DAY, iso, microseconds
from jobs.cost import stage_resources
from jobs.doubts import doubts
from jobs.estimate import Size, estimate, plan_table
from jobs.night.rule_effects import check_sampled_rules
from jobs.ray_session import check_resources, start_ray
from jobs.reuse import working

log = logging.getLogger("jobs")

MOST_ROWS = 1_000_000  # of a sample
MOST_FRAGMENTS = 64  # that are opened for it
UNITS = ("s", "ms", "us", "ns")
LEAST_TIME = 631_152_000_000_000  # 1990: what lies before is hardly an interaction
SPAN = 400 * DAY  # nor what lies so far behind the run date


@dataclass
class Sample:
    """What some rows of the log look like."""

    raw: list[pa.Table] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # as of events.check_rows
    examples: dict[str, str] = field(default_factory=dict)  # a bad row by reason
    times: list[npt.NDArray[np.int64]] = field(default_factory=list)  # of good rows, microseconds
    users: list[pa.Array] = field(default_factory=list)
    items: list[pa.Array] = field(default_factory=list)
    is_whole: bool = True  # every row of the log is in it

    def num_bad(self) -> int:
        return self.counts["rows"] - self.counts["kept"] - self.counts[AFTER_RUN_DATE]

    def reasons(self) -> list[tuple[str, int]]:
        """How many rows are bad for which reason, the commonest first."""
        bad = {reason: n for reason, n in self.counts.items() if reason in self.examples}
        return Counter(bad).most_common()


def dry_run(config: Config, run: RunDir, inputs: list[InputFile], to_do: list[str]) -> int:
    """Checks all that can be checked in a minute, and prints what the stages will take.

    Raises:
        ConfigError, InputDataError: as the run itself would, hours later.
    """
    before = microseconds(run.ds)
    found = inspect_inputs(inputs, config.events)
    size = sum(file.size for file in inputs)
    log.info("log: %d files, %.1f MB, %d fragments", len(inputs), size / 1e6, len(found.fragments))
    log.info("ids: user %s, item %s", found.user_type, found.item_type)
    sample = take_sample(found, config.events, before=before)
    for line in sample_lines(sample):
        log.info("%s", line)
    sampled = Size.of_sample(sample.users, sample.items, inputs, config.events.format)
    check_sample(sample, found, config.events, before=before, num_rows=sampled.rows)
    distinct = [pa.chunked_array(ids).unique() for ids in (sample.users, sample.items)]
    check_sampled_rules(config, *distinct, is_whole=sample.is_whole)
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
    once = "publish" in to_do and not config.publish.single_writer
    what = ", and creates a file only once" if once else ""
    log.info("lake: %s can be written to%s", run.lake.root, what)
    available = available_resources()
    to_do = working(to_do, run.reused)
    check_resources(config, to_do, available)
    for stage in OUTPUTS:
        log.info("%s: %s", stage, "to do" if stage in to_do else "done, spared or not asked for")
    resources = stage_resources(config, available)
    known = estimate(config, run.lake, inputs, sampled, resources, available)
    for line in plan_table(known, to_do):
        print(line)
    return 0


def warn(text: str) -> None:
    """A line that stands out: what is known to be bad, although nothing refuses it."""
    log.warning("WARNING: %s", text)


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


def take_sample(
    found: Log,
    events: EventsConfig,
    *,
    before: int,
    most_rows: int = MOST_ROWS,
    most_fragments: int = MOST_FRAGMENTS,
) -> Sample:
    """As many rows of each of some fragments from all over the log; all of a small log."""
    num_fragments = len(found.fragments)
    places = np.unique(np.linspace(0, num_fragments - 1, most_fragments).round().astype(int))
    sample = Sample(is_whole=len(places) == num_fragments)
    for place in places:
        chunks = read_fragment(found.fragments[place], events)
        left = most_rows // len(places)
        for chunk in chunks:
            _add_chunk(sample, chunk, found, found.fragments[place].path, events, before)
            left -= chunk.rows.num_rows
            if left <= 0:
                sample.is_whole &= next(chunks, None) is None
                break
    return sample


def _add_chunk(
    sample: Sample, chunk: RawChunk, found: Log, path: str, events: EventsConfig, before: int
) -> None:
    checked = _check(chunk.rows, found, events.time_unit)
    sample.raw.append(chunk.rows)
    sample.counts += checked.counts
    times = checked.events["timestamp"].to_numpy()
    late = int((times >= before).sum())
    sample.counts += Counter({"kept": -late, AFTER_RUN_DATE: late})
    sample.times.append(times)
    sample.users.append(checked.events["user_id"].combine_chunks())
    sample.items.append(checked.events["item_id"].combine_chunks())
    for row in checked.bad.slice(0, 1000).to_pylist():
        reason = row.pop("reason")
        sample.examples.setdefault(reason, f"{path}: {_shown(row)}")
    if chunk.malformed:
        sample.counts += Counter({"rows": len(chunk.malformed), MALFORMED: len(chunk.malformed)})
        sample.examples.setdefault(MALFORMED, f"{path}: {chunk.malformed[0][:200]!r}")


def _check(raw: pa.Table, found: Log, time_unit: str | None) -> Any:
    """All good rows are kept, whatever their time: it is looked at here."""
    return check_rows(
        raw,
        time_unit=time_unit,
        user_type=canonical_type(found.user_type),
        item_type=canonical_type(found.item_type),
        before=MAX_TIME,
    )


def _shown(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {str(value)[:80]!r}" for name, value in row.items())


def sample_lines(sample: Sample) -> list[str]:
    rows, bad = sample.counts["rows"], sample.num_bad()
    lines = [f"sample: {rows} rows, {bad} of them bad ({100 * bad / max(rows, 1):.2f} %)"]
    for reason, number in sample.reasons():
        lines.append(f"  {reason}: {number}, as in {sample.examples[reason]}")
    times = np.concatenate(sample.times)
    if len(times):
        first, last = iso(int(times.min())), iso(int(times.max()))
        late = sample.counts[AFTER_RUN_DATE]
        lines.append(f"  times: {first} to {last}, {late} at or after the run date")
    return lines


def missing_days(
    sample: Sample, inputs: list[InputFile], events: EventsConfig, ds: str
) -> str | None:
    """That the log ends more than a day before the run date, where it can be seen."""
    newest = None
    if events.partition_column is not None:
        day = re.compile(rf"{re.escape(events.partition_column)}=(\d{{4}}-\d\d-\d\d)")
        newest = max((m[1] for file in inputs if (m := day.search(file.path))), default=None)
    elif sample.is_whole:
        times = np.concatenate(sample.times)
        times = times[times < microseconds(ds)]
        newest = iso(int(times.max()))[:10] if len(times) else None
    if newest is None or microseconds(newest) >= microseconds(ds) - DAY:
        return None
    return (
        f"the newest events are of {newest}, and the run date is {ds}: has the log of the days "
        "between come?"
    )


def check_sample(
    sample: Sample,
    found: Log,
    events: EventsConfig,
    *,
    before: int,
    num_rows: float | None = None,
) -> None:
    """Refuses a log that the run would refuse, as far as a sample can tell.

    Args:
        num_rows: of the whole log, about; None: the sample is all of it.

    Raises:
        ConfigError: the times make sense in another unit alone.
        InputDataError: too many rows are bad, or none is an event before the run date.
    """
    times = np.concatenate(sample.times)
    middle = int(np.median(times)) if len(times) else None
    if middle is None or not _is_plausible(middle, before):
        for unit in UNITS if events.time_unit else ():
            other = _middle_in(sample, found, unit)
            if other is not None and _is_plausible(other, before):
                now = "are none" if middle is None else f"lie around {iso(middle)}"
                raise ConfigError(
                    f"events.time_unit={events.time_unit}: the times of a sample {now}; in {unit} "
                    f"they lie around {iso(other)}; set it to {unit}"
                )
    rows, bad = sample.counts["rows"], sample.num_bad()
    if bad > events.max_bad_fraction * rows:
        reason, number = sample.reasons()[0]
        message = (
            f"events.path={events.path}: {bad} of {rows} rows of a sample are bad, more than "
            f"events.max_bad_fraction={events.max_bad_fraction}; most often {reason} ({number}), "
            f"as in {sample.examples[reason]}; repair the log, name other columns or raise it"
        )
        if sample.is_whole or num_rows is None or bad > events.max_bad_fraction * num_rows:
            raise InputDataError(message)
        warn(f"the run may be refused: {message}")
    if sample.counts["kept"] <= 0:
        raise InputDataError(
            f"events.path={events.path}: of {rows} rows of a sample none is an event before the "
            "run date; check --date and events.time_column"
        )
    assert middle is not None, rows
    if not _is_plausible(middle, before):
        warn(
            f"times lie around {iso(middle)}: if that is not so, correct events.time_column or "
            "time_unit"
        )


def _is_plausible(time: int, before: int) -> bool:
    return LEAST_TIME <= time < before + SPAN


def _middle_in(sample: Sample, found: Log, unit: str) -> int | None:
    """The median time of the sample, were its integers of this unit."""
    times = [_check(raw, found, unit).events["timestamp"].to_numpy() for raw in sample.raw]
    some = np.concatenate(times)
    return int(np.median(some)) if len(some) else None
