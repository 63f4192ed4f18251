"""The Iceberg table follows the chain: what each published date shows becomes its partition.

The chain stays the truth. After an entry, one commit replaces the partition of its date with what
the newest entry of that date names. This single snapshot removes the old files and adds the new
ones, so every snapshot of the table is complete. Snapshots carry the run they came from. The next
publication makes up for an interrupted commit.
"""

import io
import logging
import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.config.serving import IcebergConfig
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage, sha256
from diffsasrec.lake.chain import Entry, newest_by_date, read_chain
from diffsasrec.lake.iceberg_table import (
    check_fits,
    check_table,
    explained,
    id_types,
    load_table,
    to_partition,
)
from diffsasrec.lake.manifest import read_manifest
from diffsasrec.lake.run_dir import run_path
from diffsasrec.progress import HEARTBEAT, beating

log = logging.getLogger(__name__)

RUN_ID, DS, NUMBER = "diffsasrec.run_id", "diffsasrec.ds", "diffsasrec.chain_number"
WRITERS = 4  # threads; each holds one part in memory
ATTEMPTS = 6  # at a commit, while other writers are faster
PAUSE = 0.2  # seconds, doubled from attempt to attempt


def check_entry(lake: Storage, settings: IcebergConfig, number: int) -> None:
    """Calls `check_table` for the run of chain entry `number`, if the entry and its run exist."""
    chain = read_chain(lake)
    if 1 <= number <= len(chain):
        entry = chain[number - 1]
        if _has_run(lake, entry):
            check_table(settings, *_entry_types(lake, entry), create=True)


def follow_chain(lake: Storage, settings: IcebergConfig, *, ds: str) -> list[str]:
    """Makes the table show the newest entry of `ds`, and of every date it has fallen behind on.

    Dates that the chain holds from before the table's first commit are not brought in.

    Returns:
        the dates whose partition was replaced; none when the table shows them already.

    Raises:
        ConfigError: the table was changed and no longer fits.
        InfrastructureError: the catalog or the store failed, or others were faster every time.
    """
    remedy = "run the same command again once it is well"
    with explained(InfrastructureError, settings, "publishing to it failed", remedy):
        chain = read_chain(lake)
        newest = newest_by_date(chain)
        table = load_table(settings, *_entry_types(lake, newest[ds]), create=True)
        missed = [e.ds for e in newest.values() if e.number > _last_number(table, chain)]
        # in the order of the chain: what an interruption leaves out is newer than what is done
        dates = sorted({ds, *missed}, key=lambda d: newest[d].number)
        dates = [d for d in dates if d == ds or _has_run(lake, newest[d])]
        return [d for d in beating(dates) if _follow_date(lake, settings, table, d)]


def _follow_date(lake: Storage, settings: IcebergConfig, table: Any, ds: str) -> bool:
    """Whether the partition of a date had to be replaced; afterwards it shows the newest entry."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    written: dict[tuple[str, int, int], list[Any]] = {}
    for attempt in range(ATTEMPTS):
        # first the table, then the chain: a publisher that adds an entry after the chain is read
        # here also commits after the table was read here, and then our commit fails
        table.refresh()
        entry = newest_by_date(read_chain(lake))[ds]
        manifest = read_manifest(lake, entry)
        parts = [f for f in manifest["files"] if f["path"].startswith("recommendations/")]
        old = _partition_files(settings, table, ds)
        if _shown_run(table, ds) == entry.run_id and _holds(old, parts):
            return False
        check_fits(settings, table, *_entry_types(lake, entry))
        version = (entry.run_id, table.schema().schema_id, table.spec().spec_id)
        if version not in written:
            written[version] = _write_parts(lake, table, entry, parts)
        try:
            snapshot_id = _commit(table, entry, [task.file for task in old], written[version])
        except (CommitFailedException, ValidationException):
            log.info("publish: another commit to %s was faster, trying again", settings.table)
            time.sleep(PAUSE * 2**attempt * random.uniform(0.5, 1))
            continue
        rows = sum(part["rows"] for part in parts)
        log.info("publish: %d rows of %s in %s", rows, ds, settings.table)
        log.info("publish: its snapshot is %s", snapshot_id)
        return True
    raise InfrastructureError(
        f"iceberg.table={settings.table}: {ATTEMPTS} commits of {ds} met other writers' commits; "
        "the chain holds the run, and the same command, run again, commits it to the table"
    )


def _commit(table: Any, entry: Entry, old: list[Any], new: list[Any]) -> int:
    """Replaces files of the table in one snapshot, on exactly the snapshot that was read.

    Raises:
        CommitFailedException, ValidationException: the table has moved on; nothing was committed.
    """
    # pyiceberg would try again on a newer snapshot by itself; this property is never committed
    properties = {**table.metadata.properties, "commit.retry.num-retries": "0"}
    table.metadata = table.metadata.model_copy(update={"properties": properties})
    origin = {RUN_ID: entry.run_id, DS: entry.ds, NUMBER: str(entry.number)}
    with (
        table.transaction() as transaction,
        transaction.update_snapshot(snapshot_properties=origin).overwrite() as snapshot,
    ):
        for file in beating(old):
            snapshot.delete_data_file(file)
        for file in beating(new):
            snapshot.append_data_file(file)
    return int(table.current_snapshot().snapshot_id)


def _write_parts(lake: Storage, table: Any, entry: Entry, parts: list[dict[str, Any]]) -> list[Any]:
    """The DataFiles of a run's parts: written below the table, in no snapshot yet."""
    attempt = uuid.uuid4()  # two attempts share no file
    with ThreadPoolExecutor(WRITERS) as writers:
        shared = (repeat(value) for value in (lake, table, entry, attempt))
        written = list(writers.map(_write_part, enumerate(parts), *shared))
    return [file for files in written for file in files]


def _write_part(
    numbered: tuple[int, dict[str, Any]],
    lake: Storage,
    table: Any,
    entry: Entry,
    attempt: uuid.UUID,
) -> list[Any]:
    from pyiceberg.io.pyarrow import pyarrow_to_schema, write_file
    from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
    from pyiceberg.table import WriteTask

    number, part = numbered
    rows = to_partition(_read_part(lake, entry, part), entry.ds)
    if rows.num_rows == 0:
        return []
    spec, schema = table.spec(), table.schema()
    value = PartitionFieldValue(spec.fields[0], date.fromisoformat(entry.ds))
    task = WriteTask(
        write_uuid=attempt,
        task_id=number,
        schema=pyarrow_to_schema(rows.schema, schema.name_mapping),
        record_batches=rows.to_batches(),
        partition_key=PartitionKey([value], spec, schema),
    )
    files = list(write_file(table.io, table.metadata, iter([task])))
    HEARTBEAT.beat()
    return files


def _read_part(lake: Storage, entry: Entry, part: dict[str, Any]) -> pa.Table:
    path = f"{run_path(entry.ds, entry.run_id)}/{part['path']}"
    data = lake.read_bytes(path)
    if sha256(data) != part["sha256"]:
        raise InfrastructureError(
            f"{lake.url(path)} is not what its manifest names (sha256); the run directory was "
            "changed after publishing"
        )
    return pq.ParquetFile(io.BytesIO(data)).read()


def _entry_types(lake: Storage, entry: Entry) -> tuple[pa.DataType, pa.DataType]:
    manifest = read_manifest(lake, entry)
    parts = [f for f in manifest["files"] if f["path"].startswith("recommendations/")]
    return id_types(_read_part(lake, entry, parts[0]))


def _partition_files(settings: IcebergConfig, table: Any, ds: str) -> list[Any]:
    """The scan tasks of a date's partition: data files with the delete files that apply to them."""
    from pyiceberg.expressions import EqualTo

    tasks = list(beating(table.scan(row_filter=EqualTo("ds", ds)).plan_files()))
    if any(task.file.spec_id != table.spec().spec_id for task in tasks):
        raise ConfigError(
            f"iceberg.table={settings.table} has files of an earlier partitioning that may hold "
            f"rows of {ds} and of other dates; rewrite its data files by ds, or name another table"
        )
    return tasks


def _holds(tasks: list[Any], parts: list[dict[str, Any]]) -> bool:
    rows = sum(task.file.record_count for task in tasks)
    return rows == sum(part["rows"] for part in parts) and not any(t.delete_files for t in tasks)


def _origins(table: Any) -> Iterator[Any]:
    """The summaries of our snapshots, newest first, as far as they are not expired."""
    snapshot = table.current_snapshot()
    while snapshot is not None:
        if snapshot.summary is not None and DS in snapshot.summary.additional_properties:
            yield snapshot.summary.additional_properties
        parent = snapshot.parent_snapshot_id
        snapshot = None if parent is None else table.snapshot_by_id(parent)


def _shown_run(table: Any, ds: str) -> str | None:
    """The run whose lists a date's partition got last; None if that is not known."""
    return next((origin[RUN_ID] for origin in _origins(table) if origin[DS] == ds), None)


def _last_number(table: Any, chain: list[Entry]) -> int:
    """The newest entry that the table has seen; the newest of all if it has seen none."""
    return max((int(origin[NUMBER]) for origin in _origins(table)), default=len(chain))


def _has_run(lake: Storage, entry: Entry) -> bool:
    return lake.exists(f"{run_path(entry.ds, entry.run_id)}/manifest.json")
