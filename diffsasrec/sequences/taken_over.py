"""What a night takes over from an earlier one, bucket by bucket and fragment by fragment."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import EventsConfig
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.events import quarantine_name
from diffsasrec.inputs.newest import count_days
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.read_log.earlier import UNUSED, USERS, Earlier
from diffsasrec.schema import canonical, list_offsets, list_values
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.unused import since, unfinish
from diffsasrec.sequences.user_sketch import SKETCH_SIZE, smallest_hashes

BATCH = 64  # small files of one task


def folded_of(earlier: Earlier, bucket: int) -> tuple[pa.Table, pa.Table]:
    """The folded rows of a bucket, and the events that are in none of them."""
    name = bucket_name(bucket)
    vocab = earlier.run.read(f"vocab/{bucket_name(0)}")
    unused = earlier.run.read(f"{UNUSED}/{name}")
    folded, dropped = unfinish(earlier.run.read(f"sequences/{name}"), vocab, unused)
    return (folded, dropped) if earlier.after is None else since(folded, dropped, earlier.after)


def earlier_times(
    earlier: Earlier, statistics: Callable[[pa.Table, None], pa.Table]
) -> Iterator[pa.Table]:
    """What `statistics` makes of a table with the times of all rows of a bucket, for each."""
    return map_tasks(_statistics_of_times, range(earlier.run.num_buckets), earlier, statistics)


def _statistics_of_times(
    bucket: int, earlier: Earlier, statistics: Callable[[pa.Table, None], pa.Table]
) -> pa.Table:
    name = bucket_name(bucket)
    sequences = earlier.run.read(f"sequences/{name}", ["times"])
    unused = earlier.run.read(f"{UNUSED}/{name}", ["timestamp"])
    times = [list_values(sequences["times"]), unused["timestamp"].combine_chunks()]
    table = pa.table({"timestamp": pa.concat_arrays(times)})
    if earlier.after is not None:
        table = table.filter(pc.greater_equal(table["timestamp"], earlier.after))
    return statistics(table, None)


def earlier_users(earlier: Earlier) -> npt.NDArray[np.uint64]:
    """The smallest hashes of the users with an event that is taken over."""
    if earlier.after is None:
        return np.asarray(earlier.run.read(USERS)["hash"].to_numpy(), np.uint64)
    smallest = np.zeros(0, np.uint64)
    for found in map_tasks(_hashes_of_users, range(earlier.run.num_buckets), earlier):
        smallest = np.union1d(smallest, found)[:SKETCH_SIZE]
    return smallest


def _hashes_of_users(bucket: int, earlier: Earlier) -> npt.NDArray[np.uint64]:
    name, after = bucket_name(bucket), earlier.after
    sequences = earlier.run.read(f"sequences/{name}", ["user_id", "times"])
    unused = earlier.run.read(f"{UNUSED}/{name}", ["user_id", "timestamp"])
    lists = sequences["times"].combine_chunks()
    offsets, times = list_offsets(lists), list_values(lists).to_numpy()
    (has_events,) = np.nonzero(np.diff(offsets))
    active = has_events[times[offsets[has_events + 1] - 1] >= after]
    users = canonical(sequences["user_id"]).combine_chunks().take(pa.array(active))
    others = unused.filter(pc.greater_equal(unused["timestamp"], after))["user_id"]
    return smallest_hashes(pa.concat_arrays([users, others.combine_chunks()]))


def copy_bad_rows(
    earlier: Earlier, quarantine: Storage, *, events: EventsConfig, before: int
) -> Iterator[pa.Table]:
    """Copies the bad rows of what is taken over; yields their numbers by the newest days.

    Their files are named by tonight's numbers of the fragments.
    """
    there = earlier.run.sha256
    pairs = [
        (quarantine_name(old), quarantine_name(new))
        for new, old in earlier.numbers.items()
        if f"quarantine/{quarantine_name(old)}" in there
    ]
    batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    return map_tasks(_copy_bad_rows, batches, earlier, quarantine, events, before)


def _copy_bad_rows(
    pairs: list[tuple[str, str]],
    earlier: Earlier,
    quarantine: Storage,
    events: EventsConfig,
    before: int,
) -> pa.Table:
    days = []
    for old, new in pairs:
        data = earlier.run.read_bytes(f"quarantine/{old}")
        quarantine.write_bytes(new, data)
        bad = earlier.run.read(f"quarantine/{old}")
        none = np.zeros(0, np.int64)
        days.append(count_days(none, bad, time_unit=events.time_unit, before=before))
    return pa.concat_tables(days)
