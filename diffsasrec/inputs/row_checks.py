"""Raw rows of the log, checked by vectorised rules: each is an event or has a reason why not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError
from diffsasrec.formats.chunks import RAW, RawChunk
from diffsasrec.inputs.ids import read_ids
from diffsasrec.inputs.log_types import columns_of, type_columns
from diffsasrec.inputs.moments import read_times
from diffsasrec.schema import TYPE, canonical_type, events_schema

MALFORMED = "malformed_row"
AFTER_RUN_DATE = "after_run_date"
FILTERED = "filtered"  # by events.where, or of a type that events.types does not list
# before the name of a type: its events that are kept; filtered ones, of a type that is not listed
OF_TYPE, OTHER_TYPE = "of type ", "of other type "
BEFORE_LOOKBACK = "before_lookback"  # by events.lookback_days
NOT_READ = (AFTER_RUN_DATE, FILTERED, BEFORE_LOOKBACK)  # rows that are neither kept nor bad
REASONS = (  # why a row is not an event; if several apply, the first one counts
    "null_user_id",
    "null_item_id",
    "null_time",
    "null_type",
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
    after: int | None = None,
    time_format: Sequence[str] = (),
) -> Checked:
    """Splits raw rows into events and bad rows.

    Args:
        raw: user_id, item_id, timestamp, as read; of a log with types, its types behind them.
        time_unit, time_format: as in the section events.
        user_type, item_type: the canonical types that the ids are converted to.
        before: the run date in microseconds; events at or after it are counted, not kept.
        after: so are events before this time; None: there is no such time.
    """
    raw, codes = _decoded(raw)
    raw, invalid = _escape_invalid_text(raw)
    users, wrong_user = read_ids(raw["user_id"].combine_chunks(), user_type)
    items, wrong_item = read_ids(raw["item_id"].combine_chunks(), item_type)
    times, wrong_time, out_of_range = read_times(
        raw["timestamp"].combine_chunks(), time_unit, time_format
    )
    missing = [_is_null(raw[name]) for name in RAW]
    missing.append(np.zeros(len(raw), bool) if codes is None else np.asarray(codes.is_null()))
    empty = [_is_empty(raw[name]) for name in RAW[:2]]
    no_text = [invalid[name] for name in RAW[:2]]
    wrong = [wrong_user, wrong_item, wrong_time]
    code = _first_reason(*missing, *empty, *no_text, *wrong, out_of_range, times < 0)
    columns = {"user_id": users, "item_id": items, "timestamp": pa.array(times)}
    columns |= {} if codes is None else {TYPE: codes}
    schema = events_schema(user_type, item_type, typed=codes is not None)
    good = _of_good_rows(code == len(REASONS), times, before=before, after=after)
    kept = pa.array(good["kept"])
    counts = _count(code, good) + _count_types(raw, kept)
    return Checked(pa.table(columns, schema=schema).filter(kept), _bad(raw, code), counts)


def _decoded(raw: pa.Table) -> tuple[pa.Table, pa.Array | None]:
    """The rows with their types as texts, and the codes of these; None of a log without types."""
    if TYPE not in raw.column_names:
        return raw, None
    coded = raw[TYPE].combine_chunks()
    place = raw.column_names.index(TYPE)
    return raw.set_column(place, TYPE, coded.cast(pa.string())), coded.indices


def _count_types(rows: pa.Table, kept: pa.Array) -> Counter[str]:
    """How many of the kept rows are of each type."""
    typed = TYPE in rows.column_names
    pairs = rows[TYPE].filter(kept).value_counts().to_pylist() if typed else []
    return Counter({f"{OF_TYPE}{pair['values']}": pair["counts"] for pair in pairs})


def by_type(counts: Mapping[str, int]) -> tuple[Counter[str], dict[str, dict[str, int]]]:
    """The counts of rows by what became of them, and of kept and filtered rows by their type."""
    kinds = {"kept": OF_TYPE, FILTERED: OTHER_TYPE}
    plain = Counter({n: c for n, c in counts.items() if not n.startswith(tuple(kinds.values()))})
    found = {
        kind: {
            name.removeprefix(prefix): counts[name]
            for name in sorted(counts)
            if name.startswith(prefix)
        }
        for kind, prefix in kinds.items()
    }
    return plain, found


def _of_good_rows(
    is_good: npt.NDArray[np.bool_],
    times: npt.NDArray[np.int64],
    *,
    before: int,
    after: int | None,
) -> dict[str, npt.NDArray[np.bool_]]:
    """What becomes of the rows that are not bad, by its name."""
    late, early = times >= before, None if after is None else times < after
    found = {"kept": is_good & ~late, AFTER_RUN_DATE: is_good & late}
    if early is not None:
        found |= {"kept": found["kept"] & ~early, BEFORE_LOOKBACK: is_good & early}
    return found


def num_bad(counts: Mapping[str, int]) -> int:
    """The rows in quarantine, by counts of rows by what became of them."""
    not_read = sum(counts.get(name, 0) for name in NOT_READ)
    return counts.get("rows", 0) - counts.get("kept", 0) - not_read


def check_types(counts: Mapping[str, Mapping[str, int]], events: EventsConfig) -> list[str]:
    """Which of events.types no event has, in words; `counts`: `by_type`.

    Raises:
        ConfigError: no event is of a target type.
    """
    targets = [name for name, each in events.types.items() if each.target]
    absent = [name for name in events.types if not counts["kept"].get(name)]
    there = ", ".join(sorted({*counts["kept"], *counts[FILTERED]})) or "nothing"
    if not set(targets) - set(absent):
        raise ConfigError(
            f"{events.source}: no event is of a target type ({', '.join(targets)}): nothing can be "
            f"predicted; {events.type_column} has: {there}; correct events.types"
        )
    return [
        f"no event is of the type {name} of events.types; {events.type_column} has: {there}"
        for name in absent
    ]


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


def _count(code: npt.NDArray[np.int32], good: Mapping[str, npt.NDArray[np.bool_]]) -> Counter[str]:
    """`good`: what becomes of the good rows, by its name."""
    numbers, counted = np.unique(code[code < len(REASONS)], return_counts=True)
    counts = Counter({REASONS[n]: int(c) for n, c in zip(numbers, counted, strict=True)})
    counts += Counter({name: int(mask.sum()) for name, mask in good.items()})
    return counts + Counter(rows=len(code))


def _is_null(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    is_float = pa.types.is_floating(column.type)
    return np.asarray(column.is_null(nan_is_null=is_float))


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


def quarantine_rows(
    checked: Checked, chunk: RawChunk, events: EventsConfig, source_path: str
) -> pa.Table | None:
    """The bad rows of a chunk under the log's column names; lines that are not rows in `text`."""
    bad, lines = checked.bad, pa.array(chunk.malformed, pa.string())
    if bad.num_rows + len(lines) == 0:
        return None
    types = type_columns(events)
    raw_names = [*RAW, *([TYPE] if types else [])]
    nothing = [pa.nulls(len(lines), bad.schema.field(name).type) for name in raw_names]
    reason = pa.array([MALFORMED] * len(lines), pa.string())
    table = pa.concat_tables(
        [
            bad.append_column("text", pa.nulls(bad.num_rows, pa.string())),
            pa.table([*nothing, reason, lines], names=[*bad.column_names, "text"]),
        ]
    )
    table = table.rename_columns([*columns_of(events), *types, "reason", "text"])
    if events.format == "parquet":
        table = table.drop_columns("text")
    paths = pa.array([source_path] * table.num_rows, pa.string())
    return table.append_column("source_path", paths)
