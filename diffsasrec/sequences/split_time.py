"""The global time split: where it falls, exactly, and what it makes of each user's history.

Before is `time < split_time`, after is `time >= split_time`, here and wherever something is counted
before a time.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import EventsConfig
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.events import Scanned, scan
from diffsasrec.inputs.newest import SCHEMA as NEWEST_DAYS
from diffsasrec.inputs.newest import NewestRows, Part, count_days, kept_days
from diffsasrec.inputs.quarantine import Example
from diffsasrec.inputs.row_checks import by_type
from diffsasrec.read_log.earlier import CountedFragment, Earlier
from diffsasrec.read_log.log import Fragment, Log
from diffsasrec.sequences.merging import Merging
from diffsasrec.sequences.taken_over import copy_bad_rows, earlier_times, earlier_users
from diffsasrec.sequences.user_sketch import SKETCH_SIZE, estimate_users, smallest_hashes
from diffsasrec.times import EARLY, HOUR

MAX_BINS = 65_536  # of a refining pass, so that memory does not grow with the log
MOST_BINS = 1_000_000  # unmerged ones of many fragments: 32 MB
NUM_QUANTILES = 201  # of the times: simulated batch times are placed between them
HISTOGRAM = ("start", "count", "low", "high")


def histogram(times: npt.NDArray[np.int64], *, origin: int, width: int) -> pa.Table:
    """The bins of `width` microseconds from `origin` that hold times: start, count, low, high."""
    bins = pa.array((times - origin) // width * width + origin)
    grouped = pa.table({"start": bins, "time": pa.array(times)}).group_by(
        "start", use_threads=False
    )
    table = grouped.aggregate([("time", "count"), ("time", "min"), ("time", "max")])
    return table.select(["start", "time_count", "time_min", "time_max"]).rename_columns(HISTOGRAM)


def merge_histograms(tables: list[pa.Table]) -> pa.Table:
    merged = pa.concat_tables(tables).group_by("start", use_threads=False)
    table = merged.aggregate([("count", "sum"), ("low", "min"), ("high", "max")])
    table = table.select(["start", "count_sum", "low_min", "high_max"])
    return table.rename_columns(HISTOGRAM).sort_by("start")


def exact_quantile(
    hours: pa.Table, quantile: float, refine: Callable[[int, int, int], pa.Table]
) -> int:
    """The time at sorted position round((n - 1) q), ties to even, as pandas' "nearest" has it.

    Args:
        hours: the merged hourly histogram of all n times.
        refine: (low, high, width) -> the merged histogram of the times in [low, high), with bins
            of `width` from low. Called until the bin of the position holds a single time: rarely
            more than once, at most twice.
    """
    table, width = hours, HOUR
    position = round((pc.sum(hours["count"]).as_py() - 1) * quantile)
    while True:
        ends = np.cumsum(table["count"].to_numpy())
        row = int(np.searchsorted(ends, position, side="right"))
        low, high = table["low"][row].as_py(), table["high"][row].as_py()
        if low == high:
            return int(low)
        position -= int(ends[row - 1]) if row else 0
        start = table["start"][row].as_py()
        finer = -(-width // MAX_BINS)
        table, width = refine(start, start + width, finer), finer


def second_cut(hours: pa.Table, split_time: int, quantile: float) -> int:
    """The time of an event near the `quantile` of those before the split, for model selection.

    The first event of the hour that holds the quantile: no further pass over the log is worth the
    minutes between the two.
    """
    before = hours.filter(pc.less(hours["low"], split_time))
    if before.num_rows == 0:
        return split_time
    ends = np.cumsum(before["count"].to_numpy())
    row = int(np.searchsorted(ends, round((ends[-1] - 1) * quantile), side="right"))
    return int(before["low"][row].as_py())


def time_quantiles(hours: pa.Table, num: int = NUM_QUANTILES) -> tuple[int, ...]:
    """The times at `num` evenly spaced quantiles of the log, 0 to 1, to the hour."""
    ends = np.cumsum(hours["count"].to_numpy())
    rows = np.searchsorted(ends, np.round(np.linspace(0, ends[-1] - 1, num)), side="right")
    return tuple(hours["low"].to_numpy()[rows].tolist())


@dataclass(frozen=True)
class Survey:
    """What the statistics passes found."""

    counts: Counter[str]  # rows, kept, and rows by reason
    split_time: int
    second_cut: int  # the same share of what lies before the split; selection measures from it
    first_time: int
    last_time: int
    hours: pa.Table  # the merged histogram of all kept times
    users: npt.NDArray[np.uint64]  # their smallest hashes
    fragments: Sequence[CountedFragment]
    num_users: int  # an estimate, see estimate_users
    time_quantiles: tuple[int, ...]
    newest: list[Part]  # the worst first
    num_early: int = 0  # events before EARLY
    # kept and filtered events by their type, of a log with types
    types: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _FirstPass:
    counts: Counter[str]
    hours: Merging  # of histograms; nothing where no row was read
    users: npt.NDArray[np.uint64]  # their smallest hashes
    newest: list[Part]
    examples: dict[str, Example]  # a bad row, by its reason
    types: dict[str, dict[str, int]]  # kept and filtered rows by their type
    fragments: list[CountedFragment]


def _first_pass(
    log: Log,
    *,
    events: EventsConfig,
    before: int,
    quarantine: Storage,
    new_files: frozenset[str],
    earlier: Earlier | None,
    progress: Callable[[int, int], None],
) -> _FirstPass:
    def statistics(table: pa.Table, bad: pa.Table | None) -> pa.Table:
        times = table["timestamp"].to_numpy()
        hours = histogram(times, origin=0, width=HOUR)
        hashes = smallest_hashes(table["user_id"].combine_chunks())
        sketch = pa.table({"hash": pa.array(hashes)})
        days = count_days(times, bad, time_unit=events.time_unit, before=before)
        return pa.concat_tables([hours, sketch, days], promote_options="default")

    hours, newest = Merging(merge_histograms, most_rows=MOST_BINS), NewestRows(new_files)
    sketch, fragments = np.zeros(0, np.uint64), dict[int, CountedFragment]()
    if earlier is not None:
        sketch = _add_earlier(earlier, hours, newest, quarantine, events=events, before=before)
        fragments |= earlier.fragments
    scanned = scan(log, events=events, before=before, statistics=statistics, quarantine=quarantine)
    total = sum(1 for _ in log.numbered())
    for done, found in enumerate(scanned, 1):
        progress(done, total)
        fragments[found.number] = _counted(log.fragments[found.number], found)
        table = found.statistics
        if table.num_columns:
            hours.add(table.filter(table["start"].is_valid()).select(HISTOGRAM))
            hashes = table["hash"].drop_null().to_numpy()
            sketch = np.union1d(sketch, hashes)[:SKETCH_SIZE]
            newest.add_days(table.filter(table["day"].is_valid()).select(NEWEST_DAYS.names))
    in_order = [fragments[number] for number in range(len(log.fragments))]
    return _summed(in_order, hours, sketch, newest, events)


def _add_earlier(
    earlier: Earlier,
    hours: Merging,
    newest: NewestRows,
    quarantine: Storage,
    *,
    events: EventsConfig,
    before: int,
) -> npt.NDArray[np.uint64]:
    """Adds what is taken over to the statistics; the smallest hashes of its users."""
    known = earlier.hours()
    hours.add(known)
    starts, counts = known["start"].to_numpy(), known["count"].to_numpy()
    newest.add_days(kept_days(starts, counts, before=before))
    for days in copy_bad_rows(earlier, quarantine, events=events, before=before):
        newest.add_days(days)
    return earlier_users(earlier)


def _counted(fragment: Fragment, found: Scanned) -> CountedFragment:
    first, last = (None, None) if found.times is None else found.times
    examples = {reason: each.to_json() for reason, each in found.examples.items()}
    return CountedFragment(fragment.path, fragment.row_group, found.counts, first, last, examples)


def _summed(
    fragments: list[CountedFragment],
    hours: Merging,
    users: npt.NDArray[np.uint64],
    newest: NewestRows,
    events: EventsConfig,
) -> _FirstPass:
    counts: Counter[str] = Counter()
    examples: dict[str, Any] = {}
    for each in fragments:
        counts += each.counts
        examples = {**each.examples, **examples}
        newest.add(each.path, each.counts)
    shown = {reason: Example.from_json(each, events) for reason, each in examples.items()}
    parts = newest.parts(min_rows=events.min_rows_of_newest)
    counts, types = by_type(counts)
    return _FirstPass(counts, hours, users, parts, shown, types, fragments)


def survey_log(
    log: Log,
    *,
    events: EventsConfig,
    before: int,
    quantile: float,
    fixed_time: int | None,
    quarantine: Storage,
    new_files: frozenset[str] = frozenset(),
    earlier: Earlier | None = None,
    check: Callable[[Counter[str], list[Part], dict[str, Example]], None],
    progress: Callable[[int, int], None],
) -> Survey:
    """Counts the log, quarantines its bad rows and finds the split time.

    Args:
        new_files: which of its files are judged by themselves, as the newest days are.
        earlier: what is taken over from an earlier night; the rest of the log is read.
        check: sees the counts after the first pass, of all rows and of the newest, and a bad row
            by its reason, and may raise; no second pass is made then.
    """
    whole: dict[str, Any] = {"events": events, "before": before, "quarantine": quarantine}
    whole["earlier"] = earlier
    first = _first_pass(log, new_files=new_files, progress=progress, **whole)
    check(first.counts, first.newest, first.examples)
    hourly = first.hours.result()

    refine = partial(_refined, log, **whole)
    split_time = exact_quantile(hourly, quantile, refine) if fixed_time is None else fixed_time
    return _survey_of(first, hourly, split_time, quantile, typed=bool(events.types))


def _survey_of(
    first: _FirstPass, hourly: pa.Table, split_time: int, quantile: float, *, typed: bool
) -> Survey:
    return Survey(
        counts=first.counts,
        split_time=split_time,
        second_cut=second_cut(hourly, split_time, quantile),
        first_time=pc.min(hourly["low"]).as_py(),
        last_time=pc.max(hourly["high"]).as_py(),
        num_users=estimate_users(first.users),
        time_quantiles=time_quantiles(hourly),
        newest=first.newest,
        types=first.types if typed else {},
        num_early=pc.sum(hourly.filter(pc.less(hourly["high"], EARLY))["count"]).as_py() or 0,
        hours=hourly,
        users=first.users,
        fragments=first.fragments,
    )


def _refined(
    log: Log,
    low: int,
    high: int,
    width: int,
    *,
    events: EventsConfig,
    before: int,
    quarantine: Storage,
    earlier: Earlier | None,
) -> pa.Table:
    """Another pass over the log: the histogram of the times in [low, high), in bins of `width`."""

    def statistics(table: pa.Table, _: pa.Table | None) -> pa.Table:
        times = table["timestamp"].to_numpy()
        inside = times[(times >= low) & (times < high)]
        return histogram(inside, origin=low, width=width)

    merging = Merging(merge_histograms, most_rows=MOST_BINS)
    for table in earlier_times(earlier, statistics) if earlier is not None else ():
        merging.add(table)
    passes = scan(log, events=events, before=before, statistics=statistics, quarantine=quarantine)
    for each in passes:
        if each.statistics.num_columns:
            merging.add(each.statistics)
    return merging.result()
