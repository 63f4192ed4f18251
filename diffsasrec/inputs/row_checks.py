"""Raw rows of the log, checked by vectorised rules: each is an event or has a reason why not."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import EventsConfig
from diffsasrec.inputs.text_rows import RAW, RawChunk
from diffsasrec.schema import canonical_type, events_schema

MALFORMED = "malformed_row"
AFTER_RUN_DATE = "after_run_date"
REASONS = (  # why a row is not an event; if several apply, the first one counts
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
    bad: pa.Table  # the raw rows that are not events, with `reason`
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
        user_type, item_type: the canonical types that the ids are converted to.
        before: the run date in microseconds; events at or after it are counted, not kept.
    """
    raw, invalid = _escape_invalid_text(raw)
    users, wrong_user = _read_ids(raw["user_id"].combine_chunks(), user_type)
    items, wrong_item = _read_ids(raw["item_id"].combine_chunks(), item_type)
    times, wrong_time, out_of_range = read_times(raw["timestamp"].combine_chunks(), time_unit)
    code = _first_reason(
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
    events = pa.table(
        {"user_id": users, "item_id": items, "timestamp": pa.array(times)},
        schema=events_schema(user_type, item_type),
    )
    is_kept = (code == len(REASONS)) & (times < before)
    return Checked(events.filter(pa.array(is_kept)), _bad(raw, code), _count(code, is_kept))


def _bad(raw: pa.Table, code: npt.NDArray[np.int32]) -> pa.Table:
    """The rows to which a reason applies, with that reason."""
    is_bad = code < len(REASONS)
    names = pa.array(REASONS, pa.string()).take(pa.array(code[is_bad]))
    return raw.filter(pa.array(is_bad)).append_column("reason", names)


def _first_reason(*masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """The index of the first of `REASONS` that applies to each row; len(REASONS) if none does."""
    code = np.full(len(masks[0]), len(REASONS), dtype=np.int32)
    for number, mask in reversed(list(enumerate(masks))):
        code[mask] = number
    return code


def _count(code: npt.NDArray[np.int32], is_kept: npt.NDArray[np.bool_]) -> Counter[str]:
    is_good = code == len(REASONS)
    numbers, counted = np.unique(code[~is_good], return_counts=True)
    counts = Counter({REASONS[n]: int(c) for n, c in zip(numbers, counted, strict=True)})
    counts += Counter({AFTER_RUN_DATE: int((is_good & ~is_kept).sum())})
    return counts + Counter(rows=len(code), kept=int(is_kept.sum()))


def _is_null(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(column.is_null())


def _is_empty(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    if canonical_type(column.type) != pa.string():
        return np.zeros(len(column), dtype=bool)
    return np.asarray(pc.equal(column.cast(pa.string()), "").fill_null(False))


def _escape_invalid_text(raw: pa.Table) -> tuple[pa.Table, dict[str, npt.NDArray[np.bool_]]]:
    """The rows with invalid UTF-8 bytes as \\xff, which can be stored, and where there were any."""
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
    """Decimal int64 numbers; null and flagged if a string is not one."""
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
    """Microseconds since 1970 (0 for no time), and where unparsable or out of range."""
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
    # pandas reads the words now and today as the present; in a log they are not times
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
    """The bad rows of a chunk under the log's column names; lines that are not rows in `text`."""
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
