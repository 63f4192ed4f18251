"""Bad rows, counted by the reason, the input file and the day; and one of a kind in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import EventsConfig
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.log_rows import RowTexts, line_of
from diffsasrec.inputs.log_types import columns_of, time_kind, type_columns
from diffsasrec.inputs.moments import read_times
from diffsasrec.read_log.log import Fragment
from diffsasrec.schema import canonical_type

END = 253_402_300_800_000_000  # the year 10000, in microseconds since 1970
ISO_DAY = r"(?P<day>[12][0-9]{3}-[01][0-9]-[0-3][0-9])"
KEYS = ["reason", "source_path", "day"]
SCHEMA = pa.schema([*((key, pa.string()) for key in KEYS), ("rows", pa.int64())])
STOPPED = "quarantine/counts.json"  # the counts of a run that prepare stopped
MOST_ROWS = 5_000_000  # read by one report, some seconds; the first files show what is wrong
MOST_CHARACTERS = 80  # of a value
_REMEDIES = {  # by the reason; {0}: the column
    "null_user_id": "leave such events out by events.where: [{0} is not null]",
    "null_item_id": "leave such events out by events.where: [{0} is not null]",
    "null_time": "leave such events out by events.where: [{0} is not null]",
    "null_type": "leave such events out by events.where: [{0} is not null]",
    "empty_user_id": 'leave such events out by events.where: [{0} != ""]',
    "empty_item_id": 'leave such events out by events.where: [{0} != ""]',
    "invalid_utf8_user_id": "set events.encoding, as in latin-1 or cp1252",
    "invalid_utf8_item_id": "set events.encoding, as in latin-1 or cp1252",
    "wrong_type_user_id": "set events.id_type to string",
    "wrong_type_item_id": "set events.id_type to string",
    "time_out_of_range": "events.time_unit is too coarse: try ms for s",
    "negative_time": "leave defaults such as -1 or 0001-01-01 out of the log",
}


@dataclass(frozen=True)
class BadRows:
    table: pa.Table  # SCHEMA, ordered by its keys
    num_files: int  # of quarantine/ that were counted
    num_left: int  # that were not, because MOST_ROWS were reached


def count_bad(bad: pa.Table, *, time_unit: str | None) -> pa.Table:
    """Bad rows as in quarantine -> SCHEMA; `day` is null if nothing tells it."""
    day = days_of(bad, time_unit=time_unit)
    table = pa.table({"reason": bad["reason"], "source_path": bad["source_path"], "day": day})
    counted = table.group_by(KEYS, use_threads=False).aggregate([([], "count_all")])
    return counted.rename_columns([*KEYS, "rows"]).cast(SCHEMA)


def days_of(bad: pa.Table, *, time_unit: str | None) -> pa.Array:
    """The day (UTC) of each bad row as YYYY-MM-DD, [n] strings.

    From its time. If that is not usable, from a date in the text of the time, in the line, or in
    the path of its file, which may be a partition. Null if none of them has a date.
    """
    times = bad.column(2).combine_chunks()  # quarantine has the log's own column names
    day = _days_of_times(times, time_unit)
    is_text = canonical_type(times.type) == pa.string()
    texts = [times.cast(pa.string())] if is_text else []
    texts += [bad["text"].combine_chunks()] if "text" in bad.column_names else []
    texts += [bad["source_path"].combine_chunks()]
    for text in texts:
        day = pc.coalesce(day, pc.struct_field(pc.extract_regex(text, ISO_DAY), "day"))
    return day


def _days_of_times(times: pa.Array, time_unit: str | None) -> pa.Array:
    kind = time_kind(times.type)
    if kind in ("nothing", None) or (kind == "number" and time_unit is None):
        return pa.nulls(len(times), pa.string())
    values, wrong, out_of_range = read_times(times, time_unit)
    is_known = ~wrong & ~out_of_range & np.asarray(times.is_valid()) & (values > 0) & (values < END)
    days = np.where(is_known, values, 0).astype("datetime64[us]").astype("datetime64[D]")
    return pa.array(days.astype(str), pa.string(), mask=~is_known)


def read_bad_rows(run: Storage, *, time_unit: str | None, most_rows: int = MOST_ROWS) -> BadRows:
    """The bad rows in quarantine/ of a run, counted."""
    files = [i.path for i in run.list("quarantine") if i.path.endswith(".parquet")]
    table, num_rows = SCHEMA.empty_table(), 0
    for number, path in enumerate(files):
        if num_rows >= most_rows:
            return BadRows(table, number, len(files) - number)
        bad = run.read_table(path)
        num_rows += bad.num_rows
        table = pa.concat_tables([table, count_bad(bad, time_unit=time_unit)])
        summed = table.group_by(KEYS, use_threads=False).aggregate([("rows", "sum")])
        table = summed.rename_columns([*KEYS, "rows"])
        table = table.sort_by([(key, "ascending") for key in KEYS]).cast(SCHEMA)
    return BadRows(table, len(files), 0)


@dataclass(frozen=True)
class Example:
    """A bad row; as a string in words, with the number of its line, which is looked for then."""

    path: str
    place: str  # within the file, as far as it is known: ", row group 3"
    says: str  # the values under the names that the log has for them, and what to set
    integral: tuple[str, ...]  # as of its fragment
    texts: RowTexts | None  # of a row of a text file
    events: EventsConfig

    def __str__(self) -> str:
        place = self.place
        if self.texts is not None:
            line = line_of(self.path, self.texts, self.events, self.integral)
            place = "" if line is None else f", line {line}"
        return f"{self.path}{place}: {self.says}"

    def to_json(self) -> dict[str, Any]:
        """All but the section of the configuration."""
        return {name: value for name, value in vars(self).items() if name != "events"}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], events: EventsConfig) -> "Example":
        texts = found["texts"]  # a list in JSON, and lines are compared with tuples
        known = {**found, "integral": tuple(found["integral"]), "texts": texts and tuple(texts)}
        return cls(**known, events=events)


def examples_of(
    bad: pa.Table, events: EventsConfig, fragment: Fragment, *, known: Mapping[str, Example]
) -> dict[str, Example]:
    """A row for each reason of some bad rows that is not known yet.

    Args:
        bad: as in quarantine, or without its path.
    """
    found = dict(known)
    reasons = bad["reason"]
    for reason in reasons.unique().to_pylist():
        if reason not in found:
            place = reasons.index(reason).as_py()
            row = bad.slice(place, 1).to_pylist()[0]
            found[reason] = example_of(row, reason, events, fragment)
    return found


def example_of(
    row: Mapping[str, Any], reason: str, events: EventsConfig, fragment: Fragment
) -> Example:
    """A bad row, as in quarantine, of a fragment."""
    group = "" if fragment.row_group is None else f", row group {fragment.row_group}"
    text = row.get("text")
    columns = [*columns_of(events), *type_columns(events)]
    shown = [f"{name} {shown_value(row[name])}" for name in dict.fromkeys(columns)]
    values = ", ".join(shown) if text is None else shown_value(text)
    user, item, time = (row[name] for name in columns_of(events))
    # by its ids and time alone, a row without a type may be another one
    has_line = events.format != "parquet" and reason != "null_type"
    return Example(
        path=fragment.path,
        place=group,
        says=f"{values}; {remedy(reason, row, events)}",
        integral=fragment.integral,
        texts=(user, item, time, text) if has_line else None,
        events=events,
    )


def shown_value(value: Any) -> str:
    """A value for people: null, a number as it is, a text in quotes."""
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return str(value)
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}...")


def remedy(reason: str, row: Mapping[str, Any], events: EventsConfig) -> str:
    """What mends bad rows of a reason, as far as this one shows."""
    user, item, time = columns_of(events)
    if reason == "unparsable_time":
        return _remedy_of_time(row[time], events)
    if reason in _REMEDIES:
        column = user if "user" in reason else item if "item" in reason else time
        if reason == "null_type":
            (column,) = type_columns(events)
        return _REMEDIES[reason].format(column)
    return _remedy_of_line(str(row.get("text")), events)


def _remedy_of_time(value: Any, events: EventsConfig) -> str:
    text = str(value).strip()
    digits = text.lstrip("+-").replace(".", "", 1)
    if events.time_format:
        return f"add its format to events.time_format={list(events.time_format)}"
    if events.time_unit is not None:
        return (
            f"events.time_unit={events.time_unit} is for numbers: unset it for ISO times, or set "
            "events.time_format in its place"
        )
    if digits.isdigit():
        unit = {9: "s", 10: "s", 13: "ms", 16: "us", 19: "ns"}.get(len(digits.split(".")[0]))
        return f"set events.time_unit to {unit or 's, ms, us or ns'}: it is a number"
    return "set events.time_format, as in [%d/%m/%Y %H:%M]"


def _remedy_of_line(line: str, events: EventsConfig) -> str:
    if events.format == "jsonl":
        return "write one JSON object per line"
    if '\\"' in line and events.escape is None:
        return "set events.escape to \\: a backslash stands before a quote"
    return (
        "it has too few or too many fields, or a quote that never closes: see events.separator, "
        "events.quote and events.escape"
    )
