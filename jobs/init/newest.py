"""The newest time of a log: that of its sample, or what the footers of its files say."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffsasrec.files.urls import open_filesystem
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
        value for f in spread(log.kind.files, MOST_FILES) for value in _maxima(f.path, column.name)
    ]
    alike = [plain(pa.chunked_array([[value]])).cast(column.values.type) for value in found]
    values = pa.chunked_array([c for each in alike for c in each.chunks], column.values.type)
    return parse_all(values, guess.unit, guess.formats)


def _maxima(path: str, name: str) -> Iterator[object]:
    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        footer = pq.ParquetFile(file).metadata
    paths = [footer.schema.column(number).path for number in range(footer.num_columns)]
    if paths.count(name) != 1:
        return
    place = paths.index(name)
    for number in range(footer.num_row_groups):
        statistics = footer.row_group(number).column(place).statistics
        if statistics is not None and statistics.has_min_max:
            yield statistics.max
