"""The raw rows of a fragment of a log file."""

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.compression import open_text
from diffsasrec.formats.listing import version_of
from diffsasrec.inputs.log_files import (
    AGAIN,
    BROKEN,
    Fragment,
    columns_of,
    unreadable,
)
from diffsasrec.inputs.text_rows import (
    RAW,
    RawChunk,
    read_csv,
    read_jsonl,
)

ROWS_PER_CHUNK = 256 * 1024


def read_fragment(fragment: Fragment, events: EventsConfig) -> Iterator[RawChunk]:
    """The raw rows of a fragment, in chunks of bounded size."""
    try:
        if events.format == "parquet":
            yield from _read_parquet(fragment, events)
        else:
            yield from _read_text(fragment, events)
    except BROKEN as error:
        raise unreadable(fragment.path, events, error) from error


def refuse_changed(fragment: Fragment) -> None:
    """Raises if the file of a fragment, just read, has changed since it was listed.

    Raises:
        InputDataError: names the file.
    """
    listed = fragment.file
    if listed is None:
        return
    filesystem, inside = open_filesystem(listed.path)
    try:
        if listed.path.startswith("s3://"):
            stat = filesystem.info(inside)
            found = int(stat["size"]), str(stat["ETag"]).strip('"')
        else:
            found = version_of(os.stat(inside))
    except FileNotFoundError:
        raise InputDataError(f"{listed.path} is gone since the run began; {AGAIN}") from None
    if found != (listed.size, listed.version):
        raise InputDataError(f"{listed.path} has changed since the run began; {AGAIN}")


def _read_parquet(fragment: Fragment, events: EventsConfig) -> Iterator[RawChunk]:
    filesystem, inside = open_filesystem(fragment.path)
    columns = columns_of(events)
    with filesystem.open(inside, "rb") as file:
        # in a page with a checksum, a flipped bit is an error and not another id
        batches = pq.ParquetFile(file, page_checksum_verification=True).iter_batches(
            batch_size=ROWS_PER_CHUNK, row_groups=[fragment.row_group], columns=columns
        )
        for batch in batches:
            rows = pa.Table.from_batches([batch]).select(columns).rename_columns(RAW)
            yield RawChunk(rows, [])


def _read_text(fragment: Fragment, events: EventsConfig) -> Iterator[RawChunk]:
    columns = columns_of(events)
    with open_text(fragment.path) as file:
        if events.format == "csv":
            yield from read_csv(file, columns)
        else:
            yield from read_jsonl(file, columns, time_is_text=events.time_unit is None)
