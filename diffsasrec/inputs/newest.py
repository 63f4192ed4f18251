"""The newest rows of a log, judged by themselves: a year of good days would hide one bad day."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.inputs.quarantine import days_of
from diffsasrec.inputs.row_checks import num_bad
from diffsasrec.times import DAY

DAYS = 7  # before the run date, each judged by itself
TIMES_MORE = 10  # times the share that the whole log may have: by default, this stops a run
NAMED = 3  # parts that a message names
SCHEMA = pa.schema([("day", pa.string()), ("day_rows", pa.int64()), ("day_bad", pa.int64())])


@dataclass(frozen=True)
class Part:
    """Some of the newest rows: a day, a new file, or all new files."""

    kind: str  # day, file, files
    name: str
    rows: int  # before the run date, for a day; all, for files
    bad: int

    @property
    def share(self) -> float:
        return self.bad / self.rows

    def __str__(self) -> str:
        return f"{self.bad} of {self.rows} rows of {self.name}"


def days_before(before: int) -> list[str]:
    """The newest days as YYYY-MM-DD; `before`: the run date, microseconds."""
    last = before // DAY
    return [str(np.datetime64(day, "D")) for day in range(last - DAYS, last)]


def count_days(
    times: npt.NDArray[np.int64], bad: pa.Table | None, *, time_unit: str | None, before: int
) -> pa.Table:
    """The rows of a chunk for each of the newest days that it has rows of, SCHEMA.

    Args:
        times: of its events, microseconds.
        bad: its bad rows as in quarantine; None: there are none.
    """
    names = days_before(before)
    places = times // DAY - (before // DAY - DAYS)
    kept = np.bincount(places[(places >= 0) & (places < DAYS)], minlength=DAYS)
    bad_rows = np.zeros(DAYS, np.int64)
    if bad is not None:
        found = pc.index_in(days_of(bad, time_unit=time_unit), value_set=pa.array(names))
        bad_rows += np.bincount(found.drop_null().to_numpy(), minlength=DAYS)
    table = pa.table(
        [pa.array(names), pa.array(kept + bad_rows), pa.array(bad_rows)], schema=SCHEMA
    )
    return table.filter(pc.greater(table["day_rows"], 0))


def kept_days(
    times: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], *, before: int
) -> pa.Table:
    """The kept rows for each of the newest days that has some, SCHEMA.

    Args:
        times: at or after the start of hours, microseconds.
        counts: how many rows have a time of that hour.
    """
    places = times // DAY - (before // DAY - DAYS)
    among = (places >= 0) & (places < DAYS)
    kept = np.zeros(DAYS, np.int64)
    np.add.at(kept, places[among], counts[among])
    columns = [pa.array(days_before(before)), pa.array(kept), pa.array(np.zeros(DAYS, np.int64))]
    return pa.table(columns, schema=SCHEMA).filter(pa.array(kept > 0))


@dataclass
class NewestRows:
    """Adds up the newest rows, fragment by fragment.

    `new_files`: the input files that no night has judged yet.
    """

    new_files: frozenset[str]
    _rows: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and name
    _bad: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add_days(self, days: pa.Table) -> None:
        """`days`: SCHEMA."""
        for row in days.to_pylist():
            self._add("day", row["day"], row["day_rows"], row["day_bad"])

    def add(self, path: str, counts: Counter[str]) -> None:
        """`counts`: of a fragment of a file."""
        if path in self.new_files:
            bad = num_bad(counts)
            self._add("file", path, counts["rows"], bad)
            self._add("files", f"the {len(self.new_files)} new files", counts["rows"], bad)

    def _add(self, kind: str, name: str, rows: int, bad: int) -> None:
        self._rows[kind, name] += rows
        self._bad[kind, name] += bad

    def parts(self, *, min_rows: int) -> list[Part]:
        """The parts with at least `min_rows` rows, the worst first."""
        found = [Part(*key, n, self._bad[key]) for key, n in self._rows.items() if n >= min_rows]
        if len(self.new_files) == 1:
            found = [part for part in found if part.kind != "files"]
        return sorted(found, key=lambda part: (-part.share, part.kind, part.name))


def check_newest(parts: Sequence[Part], events: EventsConfig) -> list[Part]:
    """The parts with more bad rows than a log may have.

    Args:
        parts: the worst first.

    Raises:
        InputDataError: a part has so many that the run stops.
    """
    limit = events.max_bad_fraction_of_newest
    source = f"events.max_bad_fraction_of_newest={limit}"
    if limit is None:
        limit = TIMES_MORE * events.max_bad_fraction
        source = f"{TIMES_MORE} times events.max_bad_fraction={events.max_bad_fraction}"
    too_bad = [part for part in parts if part.share > limit]
    if too_bad:
        raise InputDataError(
            f"{events.source}: {'; '.join(_named(too_bad))} are bad, more than {source}; "
            "look at quarantine/ of this run, repair the log, or set "
            "events.max_bad_fraction_of_newest higher"
        )
    return [part for part in parts if part.share > events.max_bad_fraction]


def _named(parts: list[Part]) -> Iterator[str]:
    yield from map(str, parts[:NAMED])
    if len(parts) > NAMED:
        yield f"and of {len(parts) - NAMED} more days or files as well"


def recorded(parts: Sequence[Part], over: Sequence[Part]) -> dict[str, Any]:
    """What a night records: the worst share of each kind, and the parts that are too bad."""
    worst: dict[str, float] = {}
    for part in parts:
        worst[part.kind] = max(part.share, worst.get(part.kind, 0.0))
    return {
        "worst": worst,
        "num_bad": len(over),
        "bad": [vars(part) for part in over[:NAMED]],
    }
