"""The events of the log: every row is read and checked; bad rows go to quarantine with a reason."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import ray.data

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.storage import Storage
from diffsasrec.formats.chunks import RawChunk
from diffsasrec.inputs.log_files import Fragment, Log
from diffsasrec.inputs.log_rows import read_fragment, refuse_changed
from diffsasrec.inputs.quarantine import Example, examples_of
from diffsasrec.inputs.row_checks import MALFORMED, OTHER_TYPE, Checked, check_rows, quarantine_rows
from diffsasrec.progress import beating
from diffsasrec.schema import canonical_type
from diffsasrec.times import DAY


class Scanned(NamedTuple):
    """What a pass over the log found in a fragment."""

    path: str
    counts: Counter[str]
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


def fragments_dataset(log: Log) -> ray.data.Dataset:
    """One row per fragment, with itself: a task gets its own ones, and not the whole log."""
    rows = [{"number": n, "fragment": fragment} for n, fragment in enumerate(log.fragments)]
    # a block is one task: enough of them to keep all CPUs busy to the end, and no more, because
    # each costs the driver time
    num_blocks = min(max(8 * int(ray.cluster_resources().get("CPU", 1)), 16), 1000)
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), num_blocks))


def fragments_of(batch: pa.Table) -> Iterator[tuple[int, Fragment]]:
    """The fragments of a batch of `fragments_dataset`, with their numbers."""
    yield from zip(batch["number"].to_pylist(), batch["fragment"].to_pylist(), strict=True)


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
    """

    results = fragments_dataset(log).map_batches(
        _scan_batch,
        fn_kwargs={
            "log_types": log.id_types,
            "events": events,
            "before": before,
            "statistics": statistics,
            "quarantine": quarantine,
        },
        batch_format="pyarrow",
        batch_size=1,
    )
    for row in beating(results.iter_rows()):
        table = pa.ipc.open_stream(row["statistics"]).read_all()
        counts, found = Counter(json.loads(row["counts"])), json.loads(row["examples"])
        examples = {reason: Example.from_json(each, events) for reason, each in found.items()}
        yield Scanned(row["path"], counts, table, examples)


def _scan_batch(
    batch: pa.Table,
    *,
    log_types: tuple[Any, Any],
    events: EventsConfig,
    before: int,
    statistics: Callable[[pa.Table, pa.Table | None], pa.Table],
    quarantine: Storage,
) -> Iterator[pa.Table]:
    """One row per fragment: its file, its counts and its statistics, packed."""
    for number, fragment in fragments_of(batch):
        counts: Counter[str] = Counter()
        partials, bad = [], []
        examples: dict[str, Example] = {}
        for chunk, checked in read_events(
            fragment, events=events, log_types=log_types, before=before
        ):
            counts += checked.counts + left_out_of(chunk)
            rows = quarantine_rows(checked, chunk, events, fragment.path)
            partials.append(statistics(checked.events, rows))
            if rows is not None:
                bad.append(rows)
                examples = examples_of(rows, events, fragment, known=examples)
        if bad:
            quarantine.write_table(f"part-{number:05d}.parquet", pa.concat_tables(bad))
        shown = {reason: each.to_json() for reason, each in examples.items()}
        yield pa.table(
            {
                "path": pa.array([fragment.path], pa.string()),
                "counts": pa.array([json.dumps(counts)], pa.string()),
                "statistics": pa.array([_to_ipc(partials)], pa.binary()),
                "examples": pa.array([json.dumps(shown)], pa.string()),
            }
        )


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
