"""The newest time of a log: that of its sample, or what the footers of its files say."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffsasrec.files.urls import open_filesystem
from diffsasrec.tables.data_files import DataFile
from diffsasrec.tables.rows import statistics_of
from diffsasrec.times import DAY, iso, microseconds

from .files import MOST_FILES, spread
from .guess import Log
from .sniff.plain import plain
from .sniff.time_values import parse_all


def run_date(log: Log) -> date:
    """The day after the newest event that is not in the future: a run date is exclusive.

    A row without user or item is no event.
    """
    users, items = log.user.column.values, log.item.column.values
    times = log.micros[np.asarray(pc.and_(pc.is_valid(users), pc.is_valid(items)))]
    if log.kind.what == "parquet" and not log.sample.is_whole:
        times = np.concatenate([times, largest_times(log)])
    past = times[times < microseconds(datetime.now(UTC).isoformat()) + DAY]
    newest = iso(int(past.max()))[:10] if len(past) else str(datetime.now(UTC).date())
    return date.fromisoformat(newest) + timedelta(days=1)


def largest_times(log: Log) -> np.ndarray:
    """The largest time of each row group of some files, microseconds; none without statistics."""
    column, guess = log.time.column, log.time.column.times
    assert guess is not None
    found = [
        value
        for file in spread(log.kind.files, MOST_FILES)
        for value in _maxima(file.path, log.kind.of_table.get(file.path), column.name)
    ]
    alike = [plain(pa.chunked_array([[value]])).cast(column.values.type) for value in found]
    values = pa.chunked_array([c for each in alike for c in each.chunks], column.values.type)
    return parse_all(values, guess.unit, guess.formats)


def _maxima(path: str, of_table: DataFile | None, name: str) -> Iterator[object]:
    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        parquet = pq.ParquetFile(file)
    for group in range(parquet.num_row_groups):
        known = statistics_of(of_table, parquet, group, name)
        if known is not None:
            yield known[1]
