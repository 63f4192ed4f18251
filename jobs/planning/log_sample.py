"""A sample of a log's rows, for a look before a night."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.formats.chunks import RawChunk
from diffsasrec.formats.listing import InputFile
from diffsasrec.formats.partitions import end_of, has_partitions, partition_of
from diffsasrec.inputs.events import left_out_of, start_of
from diffsasrec.inputs.ids import MAX_INT
from diffsasrec.inputs.log_rows import read_fragment
from diffsasrec.inputs.moments import early_events, refuse_days_as_numbers
from diffsasrec.inputs.quarantine import Example, examples_of
from diffsasrec.inputs.row_checks import (
    AFTER_RUN_DATE,
    BEFORE_LOOKBACK,
    FILTERED,
    Checked,
    by_type,
    check_rows,
    check_types,
    num_bad,
    quarantine_rows,
)
from diffsasrec.read_log.log import Fragment, Log
from diffsasrec.schema import canonical_type
from diffsasrec.times import DAY, EARLY, iso, microseconds

from .doubts import warn

log = logging.getLogger("jobs")

MOST_ROWS = 1_000_000  # of a sample
MOST_FRAGMENTS = 64  # that are opened for it
UNITS = ("s", "ms", "us", "ns")
MOST_TIME_AHEAD = 400 * DAY  # nor are times so far after the run date


@dataclass
class Sample:
    """What some rows of the log look like."""

    raw: list[pa.Table] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # as of events.check_rows
    examples: dict[str, Example] = field(default_factory=dict)  # a bad row by reason
    times: list[npt.NDArray[np.int64]] = field(default_factory=list)  # of good rows, microseconds
    users: list[pa.Array] = field(default_factory=list)
    items: list[pa.Array] = field(default_factory=list)
    is_whole: bool = True  # every row of the log is in it

    def num_bad(self) -> int:
        return num_bad(self.counts)

    def reasons(self) -> list[tuple[str, int]]:
        """How many rows are bad for which reason, the commonest first."""
        bad = {reason: n for reason, n in self.counts.items() if reason in self.examples}
        return Counter(bad).most_common()


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
        after = start_of(events, before)
        chunks = read_fragment(found.fragments[place], events, after=after)
        left = most_rows // len(places)
        for chunk in chunks:
            _add_chunk(sample, chunk, found, found.fragments[place], events, before)
            left -= chunk.rows.num_rows
            if left <= 0:
                sample.is_whole &= next(chunks, None) is None
                break
    return sample


def _add_chunk(
    sample: Sample,
    chunk: RawChunk,
    found: Log,
    fragment: Fragment,
    events: EventsConfig,
    before: int,
) -> None:
    checked = _check(chunk.rows, found, events, after=start_of(events, before))
    sample.raw.append(chunk.rows)
    sample.counts += checked.counts
    times = checked.events["timestamp"].to_numpy()
    late = int((times >= before).sum())
    sample.counts += Counter({"kept": -late, AFTER_RUN_DATE: late})
    sample.times.append(times)
    sample.users.append(checked.events["user_id"].combine_chunks())
    sample.items.append(checked.events["item_id"].combine_chunks())
    sample.counts += left_out_of(chunk)
    bad = quarantine_rows(checked, chunk, events, fragment.path)
    if bad is not None:
        sample.examples = examples_of(bad, events, fragment, known=sample.examples)


def _check(raw: pa.Table, found: Log, events: EventsConfig, *, after: int | None = None) -> Checked:
    """Keeps all good rows: their times are judged here."""
    return check_rows(
        raw,
        time_unit=events.time_unit,
        time_format=events.time_format,
        after=after,
        user_type=canonical_type(found.user_type),
        item_type=canonical_type(found.item_type),
        before=MAX_INT,
    )


def sample_lines(sample: Sample) -> list[str]:
    rows, bad = sample.counts["rows"], sample.num_bad()
    lines = [f"sample: {rows} rows, {bad} of them bad ({100 * bad / max(rows, 1):.2f} %)"]
    for name in (FILTERED, BEFORE_LOOKBACK):
        if number := sample.counts[name]:
            lines.append(f"  {name}: {number} of them, neither bad nor kept")
    for reason, number in sample.reasons():
        lines.append(f"  {reason}: {number}, as in {sample.examples[reason]}")
    for what, found in by_type(sample.counts)[1].items():
        if found:
            words = ", ".join(f"{name} {number}" for name, number in found.items())
            lines.append(f"  {what} by type: {words}")
    times = np.concatenate(sample.times)
    if len(times):
        first, last = iso(int(times.min())), iso(int(times.max()))
        late = sample.counts[AFTER_RUN_DATE]
        lines.append(f"  times: {first} to {last}, {late} at or after the run date")
    return lines


def missing_days(
    sample: Sample, inputs: list[InputFile], events: EventsConfig, ds: str
) -> str | None:
    """A warning where the log ends more than a day before the run date, as far as can be seen."""
    newest = None
    if has_partitions(events):
        days = [day for file in inputs if (day := partition_of(file.path, events)) is not None]
        newest = max(end_of(day, events) - timedelta(days=1) for day in days).isoformat()
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
        ConfigError: the times make sense only in another unit; no event is of a target type.
        InputDataError: too many rows are bad, or none is an event before the run date.
    """
    times = np.concatenate(sample.times)
    middle = int(np.median(times)) if len(times) else None
    if middle is not None:
        refuse_days_as_numbers(middle, events)
    if middle is None or not _is_plausible(middle, before):
        _refuse_other_unit(sample, found, events, middle=middle, before=before)
    _check_bad_rows(sample, events, num_rows)
    if sample.counts["kept"] <= 0:
        raise InputDataError(
            f"{events.source}: none of the {sample.counts['rows']} rows of a sample is "
            "an event before the run date; check --date and events.time_column"
        )
    assert middle is not None, sample.counts
    if num_early := int((times < EARLY).sum()):
        warn(early_events(num_early, int(times.min()), events))
    if events.types:
        _check_types(sample, events)
    if not _is_plausible(middle, before):
        warn(
            f"times lie around {iso(middle)}: if that is not so, correct events.time_column or "
            "time_unit"
        )


def _check_types(sample: Sample, events: EventsConfig) -> None:
    """Refuses a log without a target; warns of types that only the sample may lack."""
    try:
        for absent in check_types(by_type(sample.counts)[1], events):
            warn(absent)
    except ConfigError as error:
        if sample.is_whole:
            raise
        warn(f"the run may be refused: {error}")


def _refuse_other_unit(
    sample: Sample, found: Log, events: EventsConfig, *, middle: int | None, before: int
) -> None:
    """Refuses times that make sense in another unit; `middle`: their median as configured."""
    for unit in UNITS if events.time_unit else ():
        other = _middle_in(sample, found, events, unit)
        if other is not None and _is_plausible(other, before):
            now = "are none" if middle is None else f"lie around {iso(middle)}"
            raise ConfigError(
                f"events.time_unit={events.time_unit}: the times of a sample {now}; in {unit} "
                f"they lie around {iso(other)}; set it to {unit}"
            )


def _check_bad_rows(sample: Sample, events: EventsConfig, num_rows: float | None) -> None:
    """Refuses a log with too many bad rows; warns where only the sample has too many."""
    rows, bad = sample.counts["rows"], sample.num_bad()
    if bad <= events.max_bad_fraction * rows:
        return
    reason, number = sample.reasons()[0]
    message = (
        f"{events.source}: {bad} of {rows} rows of a sample are bad, more than "
        f"events.max_bad_fraction={events.max_bad_fraction}; most often {reason} ({number}), "
        f"as in {sample.examples[reason]}; repair the log, name other columns or raise it"
    )
    if sample.is_whole or num_rows is None or bad > events.max_bad_fraction * num_rows:
        raise InputDataError(message)
    warn(f"the run may be refused: {message}")


def _is_plausible(time: int, before: int) -> bool:
    return EARLY <= time < before + MOST_TIME_AHEAD


def _middle_in(sample: Sample, found: Log, events: EventsConfig, unit: str) -> int | None:
    """The median time of the sample, were its integers of this unit."""
    other = events.model_copy(update={"time_unit": unit})
    times = [_check(raw, found, other).events["timestamp"].to_numpy() for raw in sample.raw]
    some = np.concatenate(times)
    return int(np.median(some)) if len(some) else None
