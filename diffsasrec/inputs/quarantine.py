"""Bad rows, counted by the reason, the input file and the day."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.files.storage import Storage
from diffsasrec.inputs.log_types import time_kind
from diffsasrec.inputs.moments import read_times
from diffsasrec.schema import canonical_type

END = 253_402_300_800_000_000  # the year 10000, in microseconds since 1970
ISO_DAY = r"(?P<day>[12][0-9]{3}-[01][0-9]-[0-3][0-9])"
KEYS = ["reason", "source_path", "day"]
SCHEMA = pa.schema([*((key, pa.string()) for key in KEYS), ("rows", pa.int64())])
STOPPED = "quarantine/counts.json"  # the counts of a run that prepare stopped
MOST_ROWS = 5_000_000  # read by one report, some seconds; the first files show what is wrong


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
