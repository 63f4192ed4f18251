"""The events of the log: every row is read and checked; bad rows go to quarantine with a reason."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.storage import Storage
from diffsasrec.formats.chunks import RawChunk
from diffsasrec.inputs.log_rows import read_fragment, refuse_changed
from diffsasrec.inputs.quarantine import Example, examples_of
from diffsasrec.inputs.row_checks import MALFORMED, OTHER_TYPE, Checked, check_rows, quarantine_rows
from diffsasrec.progress import beating
from diffsasrec.read_log.log import Fragment, Log, Unread
from diffsasrec.schema import canonical_type
from diffsasrec.times import DAY


class Scanned(NamedTuple):
    """What a pass over the log found in a fragment."""

    number: int  # of the fragment
    path: str
    counts: Counter[str]
    times: tuple[int, int] | None  # the first and the last one of its kept rows
    statistics: pa.Table
    examples: dict[str, Example]  # a bad row, by its reason


def read_events(
    fragment: Fragment, *, events: EventsConfig, log_types: tuple[Any, Any], before: int
) -> Iterator[tuple[RawChunk, Checked]]:
    """The checked chunks of a fragment. `log_types`: the ids' types as written to the output.

    Raises:
        InputDataError: the file can't be read, or has changed since it was listed.
    """
    user_type, item_type = map(canonical_type, log_types)
    after = start_of(events, before)
    for chunk in unchanged(fragment, read_fragment(fragment, events, after=after)):
        checked = check_rows(
            chunk.rows,
            time_unit=events.time_unit,
            time_format=events.time_format,
            user_type=user_type,
            item_type=item_type,
            before=before,
            after=after,
        )
        yield chunk, checked


def start_of(events: EventsConfig, before: int) -> int | None:
    """The time of the earliest event that is read, microseconds; None: there is no such time."""
    return None if events.lookback_days is None else before - events.lookback_days * DAY


def unchanged(fragment: Fragment, chunks: Iterator[RawChunk]) -> Iterator[RawChunk]:
    """Yields the chunks, then raises if the file has changed since it was listed.

    A file that is replaced while it is read may look broken: the change is reported first.
    """
    try:
        yield from chunks
    except InputDataError:
        refuse_changed(fragment)
        raise
    refuse_changed(fragment)


def fragments_dataset(log: Log, *, markers: int = 0) -> ray.data.Dataset:
    """One row per fragment that is read, with itself: a task gets its own ones, not the whole log.

    `markers`: so many rows without a fragment come first. There must be a row.
    """
    rows: list[dict[str, Any]] = [{"number": -1, "fragment": None}] * markers
    rows += [{"number": n, "fragment": fragment} for n, fragment in log.numbered()]
    # a block is one task: enough of them to keep all CPUs busy to the end, and no more, because
    # each costs the driver time
    num_blocks = min(max(8 * int(ray.cluster_resources().get("CPU", 1)), 16), 1000)
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), num_blocks))


def fragments_of(batch: pa.Table) -> Iterator[tuple[int, Fragment | None]]:
    """The fragments of a batch of `fragments_dataset`, with their numbers; None for a marker."""
    yield from zip(batch["number"].to_pylist(), batch["fragment"].to_pylist(), strict=True)


SCANNED = pa.schema(
    [
        ("number", pa.int64()),
        ("path", pa.string()),
        ("counts", pa.string()),
        ("first", pa.int64()),
        ("last", pa.int64()),
        ("statistics", pa.binary()),
        ("examples", pa.string()),
    ]
)


def scan(
    log: Log,
    *,
    events: EventsConfig,
    before: int,
    statistics: Callable[[pa.Table, pa.Table | None], pa.Table],
    quarantine: Storage,
) -> Iterator[Scanned]:
    """One pass over the log: quarantines bad rows, yields what it found per fragment.

    `statistics` turns the events of a chunk and its bad rows, if any, into a small table; the
    tables of a fragment are concatenated. `quarantine` is the directory for part-NNNNN.parquet.
    Where an earlier night has read some of the log, all rows of the other fragments are counted,
    and `statistics` gets the events that it has not kept.
    """
    if log.unread is not None and not log.unread.numbers:
        return
    results = fragments_dataset(log).map_batches(
        _scan_batch,
        fn_kwargs={
            "log_types": log.id_types,
            "events": events,
            "before": before,
            "statistics": statistics,
            "quarantine": quarantine,
            "unread": log.unread,
        },
        batch_format="pyarrow",
        batch_size=1,
    )
    for row in beating(results.iter_rows()):
        table = pa.ipc.open_stream(row["statistics"]).read_all()
        counts, found = Counter(json.loads(row["counts"])), json.loads(row["examples"])
        examples = {reason: Example.from_json(each, events) for reason, each in found.items()}
        times = None if row["first"] is None else (row["first"], row["last"])
        yield Scanned(row["number"], row["path"], counts, times, table, examples)


def _scan_batch(
    batch: pa.Table,
    *,
    log_types: tuple[Any, Any],
    events: EventsConfig,
    before: int,
    statistics: Callable[[pa.Table, pa.Table | None], pa.Table],
    quarantine: Storage,
    unread: Unread | None,
) -> Iterator[pa.Table]:
    """One row per fragment: its file, its counts and its statistics, packed."""
    for number, fragment in fragments_of(batch):
        assert fragment is not None, number
        counts: Counter[str] = Counter()
        partials, bad = [], []
        examples: dict[str, Example] = {}
        ends: list[int] = []
        for chunk, checked in read_events(
            fragment, events=events, log_types=log_types, before=before
        ):
            counts += checked.counts + left_out_of(chunk)
            rows = quarantine_rows(checked, chunk, events, fragment.path)
            ends += _ends(checked.events["timestamp"])
            kept = checked.events if unread is None else unread.later(number, checked.events)
            partials.append(statistics(kept, rows))
            if rows is not None:
                bad.append(rows)
                examples = examples_of(rows, events, fragment, known=examples)
        if bad:
            quarantine.write_table(quarantine_name(number), pa.concat_tables(bad))
        found: dict[str, Any] = {"counts": json.dumps(counts), "statistics": _to_ipc(partials)}
        found |= {"first": min(ends), "last": max(ends)} if ends else {}
        shown = {reason: each.to_json() for reason, each in examples.items()}
        found |= {"number": number, "path": fragment.path, "examples": json.dumps(shown)}
        yield pa.Table.from_pylist([found], schema=SCANNED)


def _ends(times: pa.ChunkedArray) -> list[int]:
    """The first and the last of some times; [] of none."""
    return list(pc.min_max(times).as_py().values()) if len(times) else []


def quarantine_name(number: int) -> str:
    """The file of the bad rows of a fragment."""
    return f"part-{number:05d}.parquet"


def left_out_of(chunk: RawChunk) -> Counter[str]:
    """The rows of a chunk that are not checked, by the reason, and in all."""
    counts = Counter(chunk.skipped) + Counter({MALFORMED: len(chunk.malformed)})
    others = Counter({f"{OTHER_TYPE}{name}": n for name, n in chunk.other_types.items()})
    return counts + Counter(rows=counts.total()) + others


def _to_ipc(tables: list[pa.Table]) -> bytes:
    if not tables:
        tables = [pa.table({})]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()
