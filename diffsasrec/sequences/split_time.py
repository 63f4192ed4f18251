"""The global time split: where it falls, exactly, and what it makes of each user's history.

Before is `time < split_time`, after is `time >= split_time`, here and wherever something is counted
before a time.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import EventsConfig
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.events import scan
from diffsasrec.inputs.log_files import Log
from diffsasrec.inputs.newest import SCHEMA as NEWEST_DAYS
from diffsasrec.inputs.newest import NewestRows, Part, count_days
from diffsasrec.inputs.quarantine import Example
from diffsasrec.inputs.row_checks import by_type
from diffsasrec.schema import id_hash
from diffsasrec.sequences.merging import Merging
from diffsasrec.times import EARLY, HOUR

MAX_BINS = 65_536  # of a refining pass, so that memory does not grow with the log
MOST_BINS = 1_000_000  # unmerged ones of many fragments: 32 MB
NUM_QUANTILES = 201  # of the times: simulated batch times are placed between them
SKETCH_SIZE = 4096  # smallest hashes kept to estimate the number of users: error about 1.6 %
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


def smallest_hashes(users: pa.Array) -> npt.NDArray[np.uint64]:
    """The smallest distinct hashes of users: a sketch of how many there are."""
    hashes = id_hash(users)
    # hashes are evenly spread: to sort all of them would be most of the work of a pass
    limit = 4 * SKETCH_SIZE / max(len(hashes), 1)
    while True:
        low = hashes if limit >= 1 else hashes[hashes < np.uint64(limit * 2.0**64)]
        smallest = np.unique(low)
        if len(smallest) >= SKETCH_SIZE or limit >= 1:
            return smallest[:SKETCH_SIZE]
        limit *= 8


def estimate_users(sketch: npt.NDArray[np.uint64]) -> int:
    """The number of distinct users from their smallest hashes; exact below `SKETCH_SIZE`.

    k minimum values (Bar-Yossef et al. 2002): a function of the set of users alone.
    """
    if len(sketch) < SKETCH_SIZE:
        return len(sketch)
    return int((SKETCH_SIZE - 1) / ((float(sketch[-1]) + 1) / 2.0**64))


@dataclass(frozen=True)
class Survey:
    """What the statistics passes found."""

    counts: Counter[str]  # rows, kept, and rows by reason
    split_time: int
    second_cut: int  # the same share of what lies before the split; selection measures from it
    first_time: int
    last_time: int
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
    num_users: int
    newest: list[Part]
    examples: dict[str, Example]  # a bad row, by its reason
    types: dict[str, dict[str, int]]  # kept and filtered rows by their type


def _first_pass(
    log: Log,
    *,
    events: EventsConfig,
    before: int,
    quarantine: Storage,
    new_files: frozenset[str],
    progress: Callable[[int, int], None],
) -> _FirstPass:
    def statistics(table: pa.Table, bad: pa.Table | None) -> pa.Table:
        times = table["timestamp"].to_numpy()
        hours = histogram(times, origin=0, width=HOUR)
        hashes = smallest_hashes(table["user_id"].combine_chunks())
        sketch = pa.table({"hash": pa.array(hashes)})
        days = count_days(times, bad, time_unit=events.time_unit, before=before)
        return pa.concat_tables([hours, sketch, days], promote_options="default")

    counts: Counter[str] = Counter()
    hours = Merging(merge_histograms, most_rows=MOST_BINS)
    sketch, newest = np.zeros(0, np.uint64), NewestRows(new_files)
    scanned = scan(log, events=events, before=before, statistics=statistics, quarantine=quarantine)
    examples: dict[str, Example] = {}
    for done, (path, fragment_counts, table, found) in enumerate(scanned, 1):
        progress(done, len(log.fragments))
        counts += fragment_counts
        examples = found | examples
        if table.num_columns:
            hours.add(table.filter(table["start"].is_valid()).select(HISTOGRAM))
            hashes = table["hash"].drop_null().to_numpy()
            sketch = np.union1d(sketch, hashes)[:SKETCH_SIZE]
            days = table.filter(table["day"].is_valid()).select(NEWEST_DAYS.names)
            newest.add(path, fragment_counts, days)
    parts = newest.parts(min_rows=events.min_rows_of_newest)
    counts, types = by_type(counts)
    return _FirstPass(counts, hours, estimate_users(sketch), parts, examples, types)


def survey_log(
    log: Log,
    *,
    events: EventsConfig,
    before: int,
    quantile: float,
    fixed_time: int | None,
    quarantine: Storage,
    new_files: frozenset[str] = frozenset(),
    check: Callable[[Counter[str], list[Part], dict[str, Example]], None],
    progress: Callable[[int, int], None],
) -> Survey:
    """Counts the log, quarantines its bad rows and finds the split time.

    Args:
        new_files: which of its files are judged by themselves, as the newest days are.
        check: sees the counts after the first pass, of all rows and of the newest, and a bad row
            by its reason, and may raise; no second pass is made then.
    """
    whole: dict[str, Any] = {"events": events, "before": before, "quarantine": quarantine}
    first = _first_pass(log, new_files=new_files, progress=progress, **whole)
    check(first.counts, first.newest, first.examples)
    hourly = first.hours.result()

    refine = partial(_refined, log, **whole)
    split_time = exact_quantile(hourly, quantile, refine) if fixed_time is None else fixed_time
    return Survey(
        counts=first.counts,
        split_time=split_time,
        second_cut=second_cut(hourly, split_time, quantile),
        first_time=pc.min(hourly["low"]).as_py(),
        last_time=pc.max(hourly["high"]).as_py(),
        num_users=first.num_users,
        time_quantiles=time_quantiles(hourly),
        newest=first.newest,
        types=first.types if events.types else {},
        num_early=pc.sum(hourly.filter(pc.less(hourly["high"], EARLY))["count"]).as_py() or 0,
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
) -> pa.Table:
    """Another pass over the log: the histogram of the times in [low, high), in bins of `width`."""

    def statistics(table: pa.Table, _: pa.Table | None) -> pa.Table:
        times = table["timestamp"].to_numpy()
        inside = times[(times >= low) & (times < high)]
        return histogram(inside, origin=low, width=width)

    passes = scan(log, events=events, before=before, statistics=statistics, quarantine=quarantine)
    merging = Merging(merge_histograms, most_rows=MOST_BINS)
    for each in passes:
        if each.statistics.num_columns:
            merging.add(each.statistics)
    return merging.result()
