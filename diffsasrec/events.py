"""Raw rows of the log -> checked events; every bad row to quarantine with a reason.

`check_rows` is the pure part. `scan` runs it over all fragments on Ray Data and brings back partial
statistics, one row per fragment; `read_events` runs it where the events themselves are needed.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.storage import Storage
from diffsasrec.inputs import Fragment, InputFile, Log, read_fragment, refuse_changed
from diffsasrec.schema import canonical_type, events_schema
from diffsasrec.textlog import RAW, RawChunk

MALFORMED = "malformed_row"
AFTER_RUN_DATE = "after_run_date"
REASONS = (  # for which a row is no event; of several that apply the first one counts
    "null_user_id",
    "null_item_id",
    "null_time",
    "empty_user_id",
    "empty_item_id",
    "invalid_utf8_user_id",
    "invalid_utf8_item_id",
    "wrong_type_user_id",
    "wrong_type_item_id",
    "unparsable_time",
    "time_out_of_range",
    "negative_time",
)
MAX_TIME = 2**63 - 1
PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}  # microseconds


@dataclass(frozen=True)
class Checked:
    events: pa.Table  # events_schema, times before the run date
    bad: pa.Table  # the raw rows that are no events, and `reason`
    counts: Counter[str]  # rows, kept, and rows by every reason for not being kept


def check_rows(
    raw: pa.Table,
    *,
    time_unit: str | None,
    user_type: pa.DataType,
    item_type: pa.DataType,
    before: int,
) -> Checked:
    """Splits raw rows into events and bad rows.

    Args:
        raw: user_id, item_id, timestamp, as read.
        time_unit: of integer times; None for timestamps and ISO strings.
        user_type, item_type: the canonical types that the ids are brought to.
        before: the run date in microseconds; events at or after it are counted, not kept.
    """
    raw, invalid = _escape_invalid_text(raw)
    users, wrong_user = _read_ids(raw["user_id"].combine_chunks(), user_type)
    items, wrong_item = _read_ids(raw["item_id"].combine_chunks(), item_type)
    times, wrong_time, out_of_range = read_times(raw["timestamp"].combine_chunks(), time_unit)
    masks = (
        _is_null(raw["user_id"]),
        _is_null(raw["item_id"]),
        _is_null(raw["timestamp"]),
        _is_empty(raw["user_id"]),
        _is_empty(raw["item_id"]),
        invalid["user_id"],
        invalid["item_id"],
        wrong_user,
        wrong_item,
        wrong_time,
        out_of_range,
        times < 0,
    )
    code = np.full(raw.num_rows, len(REASONS), dtype=np.int32)
    for number, mask in reversed(list(enumerate(masks))):
        code[mask] = number
    is_good = code == len(REASONS)
    is_kept = is_good & (times < before)
    counts = Counter(
        {
            REASONS[n]: int(c)
            for n, c in zip(*np.unique(code[~is_good], return_counts=True), strict=True)
        }
    )
    counts += Counter({AFTER_RUN_DATE: int((is_good & ~is_kept).sum())})
    counts += Counter(rows=raw.num_rows, kept=int(is_kept.sum()))
    events = pa.table(
        {"user_id": users, "item_id": items, "timestamp": pa.array(times)},
        schema=events_schema(user_type, item_type),
    )
    names = pa.array(REASONS, pa.string()).take(pa.array(code[~is_good]))
    bad = raw.filter(pa.array(~is_good)).append_column("reason", names)
    return Checked(events.filter(pa.array(is_kept)), bad, counts)


def _is_null(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(column.is_null())


def _is_empty(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    if canonical_type(column.type) != pa.string():
        return np.zeros(len(column), dtype=bool)
    return np.asarray(pc.equal(column.cast(pa.string()), "").fill_null(False))


def _escape_invalid_text(raw: pa.Table) -> tuple[pa.Table, dict[str, npt.NDArray[np.bool_]]]:
    """The rows with bytes that are no UTF-8 as \\xff, which can be stored, and where some were."""
    invalid = {}
    for number, name in enumerate(RAW):
        column = raw[name].combine_chunks()
        invalid[name] = np.zeros(len(column), dtype=bool)
        if _is_valid_text(column):
            continue
        data = column.cast(pa.string()).cast(pa.binary())
        texts = [
            v if v is None else v.decode("utf-8", "backslashreplace") for v in data.to_pylist()
        ]
        escaped = pa.array(texts, pa.string())
        invalid[name] = np.asarray(pc.not_equal(data, escaped.cast(pa.binary())).fill_null(False))
        raw = raw.set_column(number, name, escaped.cast(column.type))
    return raw, invalid


def _is_valid_text(column: pa.Array) -> bool:
    if canonical_type(column.type) != pa.string():
        return True
    try:
        column.cast(pa.string()).validate(full=True)
        return True
    except pa.ArrowInvalid:
        return False


def _read_ids(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """The ids in the canonical type `target`, and where a value does not fit it."""
    source = canonical_type(column.type)
    assert source is not None, column.type
    column = column.cast(source)
    if source == pa.string() and pa.types.is_integer(target):
        return _parse_integers(column)
    if source == pa.uint64() and target == pa.int64():
        too_large = np.asarray(
            pc.greater(column, pa.scalar(MAX_TIME, pa.uint64())).fill_null(False)
        )
        fitting = pc.if_else(pa.array(too_large), pa.scalar(None, column.type), column)
        return fitting.cast(target), too_large
    return column.cast(target), np.zeros(len(column), dtype=bool)


def _parse_integers(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Decimal int64 numbers; null and flagged where a string is none."""
    short = pc.match_substring_regex(column, r"^[+-]?[0-9]{1,18}$")
    # 19 digits may or may not fit: strings of equal length compare as their numbers do
    long = pc.and_(
        pc.match_substring_regex(column, r"^[0-9]{19}$"), pc.less_equal(column, str(MAX_TIME))
    )
    lowest = pc.and_(
        pc.match_substring_regex(column, r"^-[0-9]{19}$"), pc.less_equal(column, str(-MAX_TIME - 1))
    )
    is_number = pc.or_(pc.or_(short, long), lowest).fill_null(False)
    digits = pc.replace_substring_regex(column, r"^\+", "")
    parsed = pc.if_else(is_number, digits, pa.scalar(None, pa.string())).cast(pa.int64())
    return parsed, np.asarray(pc.and_(pc.invert(is_number), column.is_valid()))


def read_times(
    column: pa.Array, unit: str | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Microseconds since 1970 (0 where there is none), and where unparsable or out of range."""
    wrong = np.zeros(len(column), dtype=bool)
    if pa.types.is_timestamp(column.type):
        unit = column.type.unit  # with or without a zone, Arrow stores UTC; naive counts as UTC
        column = column.cast(pa.timestamp(unit)).cast(pa.int64())
    elif canonical_type(column.type) == pa.string():
        column = column.cast(pa.string())
        if unit is None:
            return _parse_iso(column)
        column, wrong = _parse_integers(column)
    elif pa.types.is_uint64(column.type):
        column, wrong = _read_ids(column, pa.int64())
    assert unit is not None
    values = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if unit == "ns":
        return values // 1000, wrong, np.zeros(len(values), dtype=bool)
    limit = MAX_TIME // PER_UNIT[unit]
    out_of_range = (values > limit) | (values < -limit)
    return np.where(out_of_range, 0, values) * PER_UNIT[unit], wrong, out_of_range


def _parse_iso(
    column: pa.Array,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    # pandas reads the words now and today as the present; a log that says so means nothing by it
    is_date = pc.match_substring_regex(column, r"^\s*[0-9]{4}").fill_null(False)
    dates = pc.if_else(is_date, column, pa.scalar(None, pa.string()))
    # finer digits would make pandas read the whole column in ns, where far dates do not fit
    dates = pc.replace_substring_regex(dates, r"(\.[0-9]{6})[0-9]+", r"\1")
    parsed = pd.to_datetime(dates.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    wrong = np.asarray(parsed.isna()) & np.asarray(column.is_valid())
    times = parsed.dt.as_unit("us").astype("int64").to_numpy()
    return np.where(np.asarray(parsed.isna()), 0, times), wrong, np.zeros(len(column), dtype=bool)


def quarantine_rows(
    checked: Checked, chunk: RawChunk, events: EventsConfig, source_path: str
) -> pa.Table | None:
    """The bad rows of a chunk under the log's column names; lines that are no rows in `text`."""
    bad, lines = checked.bad, pa.array(chunk.malformed, pa.string())
    if bad.num_rows + len(lines) == 0:
        return None
    nothing = [pa.nulls(len(lines), bad.schema.field(name).type) for name in RAW]
    reason = pa.array([MALFORMED] * len(lines), pa.string())
    table = pa.concat_tables(
        [
            bad.append_column("text", pa.nulls(bad.num_rows, pa.string())),
            pa.table([*nothing, reason, lines], names=[*bad.column_names, "text"]),
        ]
    )
    names = [events.user_column, events.item_column, events.time_column, "reason", "text"]
    table = table.rename_columns(names)
    if events.format == "parquet":
        table = table.drop_columns("text")
    paths = pa.array([source_path] * table.num_rows, pa.string())
    return table.append_column("source_path", paths)


def read_events(
    fragment: Fragment, *, events: EventsConfig, log_types: tuple[Any, Any], before: int
) -> Iterator[tuple[RawChunk, Checked]]:
    """The checked chunks of a fragment. `log_types`: the ids' types as written to the output.

    Raises:
        InputDataError: the file can't be read, or is not the one that was listed.
    """
    user_type, item_type = map(canonical_type, log_types)
    for chunk in unchanged(fragment, read_fragment(fragment, events)):
        checked = check_rows(
            chunk.rows,
            time_unit=events.time_unit,
            user_type=user_type,
            item_type=item_type,
            before=before,
        )
        yield chunk, checked


def unchanged(fragment: Fragment, chunks: Iterator[RawChunk]) -> Iterator[RawChunk]:
    """The chunks, and then an error if the file is not the one that was listed.

    A file that is replaced while it is read may look broken: that it changed is said first.
    """
    try:
        yield from chunks
    except InputDataError:
        refuse_changed(fragment)
        raise
    refuse_changed(fragment)


def fragments_dataset(log: Log) -> ray.data.Dataset:
    """One row per fragment; the unit of every pass over the log."""
    rows = fragment_rows(log)
    # a block is one task: enough of them to keep all CPUs busy to the end, and no more, as each
    # costs the driver time
    num_blocks = min(max(8 * int(ray.cluster_resources().get("CPU", 1)), 16), 1000)
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), num_blocks))


def fragment_rows(log: Log) -> list[dict[str, Any]]:
    """The fragments as rows, with their files as they were listed."""
    return [
        {
            "number": number,
            "path": f.path,
            "row_group": -1 if f.row_group is None else f.row_group,
            "size": -1 if f.file is None else f.file.size,
            "version": "" if f.file is None else f.file.version,
        }
        for number, f in enumerate(log.fragments)
    ]


def fragments_of(batch: pa.Table) -> Iterator[tuple[int, Fragment]]:
    """The fragments of a batch of `fragments_dataset`, with their numbers."""
    for row in batch.to_pylist():
        path, group = row["path"], None if row["row_group"] < 0 else row["row_group"]
        listed = InputFile(path, row["size"], row["version"]) if row["version"] else None
        yield row["number"], Fragment(path, group, listed)


def scan(
    log: Log,
    *,
    events: EventsConfig,
    before: int,
    statistics: Callable[[pa.Table, pa.Table | None], pa.Table],
    quarantine: Storage,
) -> Iterator[tuple[str, Counter[str], pa.Table]]:
    """One pass over the log: quarantines bad rows, yields file, counts and statistics per fragment.

    `statistics` turns the events of a chunk and its bad rows, where there are any, into a small
    table; the tables of a fragment come concatenated. `quarantine` is the directory for
    part-NNNNN.parquet.
    """

    def scan_batch(batch: pa.Table) -> Iterator[pa.Table]:
        for number, fragment in fragments_of(batch):
            counts: Counter[str] = Counter()
            partials, bad = [], []
            for chunk, checked in read_events(
                fragment, events=events, log_types=(log.user_type, log.item_type), before=before
            ):
                counts += checked.counts
                if chunk.malformed:
                    counts += Counter(
                        {"rows": len(chunk.malformed), MALFORMED: len(chunk.malformed)}
                    )
                rows = quarantine_rows(checked, chunk, events, fragment.path)
                partials.append(statistics(checked.events, rows))
                if rows is not None:
                    bad.append(rows)
            if bad:
                quarantine.write_table(f"part-{number:05d}.parquet", pa.concat_tables(bad))
            yield pa.table(
                {
                    "path": pa.array([fragment.path], pa.string()),
                    "counts": pa.array([json.dumps(counts)], pa.string()),
                    "statistics": pa.array([_to_ipc(partials)], pa.binary()),
                }
            )

    results = fragments_dataset(log).map_batches(scan_batch, batch_format="pyarrow", batch_size=1)
    for row in results.iter_rows():
        table = pa.ipc.open_stream(row["statistics"]).read_all()
        yield row["path"], Counter(json.loads(row["counts"])), table


def _to_ipc(tables: list[pa.Table]) -> bytes:
    if not tables:
        tables = [pa.table({})]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()
