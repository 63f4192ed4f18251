"""Times of any form as microseconds since 1970, exact or not at all."""

from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError
from diffsasrec.formats.conditions import NUMBER
from diffsasrec.inputs.ids import MAX_INT, parse_integers
from diffsasrec.inputs.log_types import time_kind
from diffsasrec.month_names import in_english, names_month, with_full_names
from diffsasrec.times import DAY, iso

PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}  # microseconds
_SECOND = 1_000_000
Times = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]


def read_times(column: pa.Array, unit: str | None, formats: Sequence[str] = ()) -> Times:
    """Microseconds since 1970 (0 for no time), and where unparsable or out of range.

    Args:
        unit: of numbers, and of texts that are numbers; None: texts are ISO 8601.
        formats: of texts, and of numbers that are dates such as 20240131, in place of ISO 8601.
    """
    kind = time_kind(column.type)
    nowhere = np.zeros(len(column), dtype=bool)
    if kind == "nothing":
        return np.zeros(len(column), np.int64), nowhere, nowhere
    if kind == "moment":
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("s" if column.type == pa.date32() else "ms"))
        unit = column.type.unit  # with or without a zone, Arrow stores UTC; naive counts as UTC
        return _scaled(column.cast(pa.timestamp(unit)).cast(pa.int64()), unit, nowhere)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind == "text" or pa.types.is_decimal(column.type) or formats:
        column = column.cast(pa.string())
        if formats:
            return _parse_formats(column, formats)
        return _parse_iso(column) if unit is None else _parse_numbers(column, unit)
    assert unit is not None
    if pa.types.is_floating(column.type):
        return _scaled_floats(column.cast(pa.float64()), unit, nowhere)
    if pa.types.is_uint64(column.type):
        nowhere = np.asarray(pc.greater(column, pa.scalar(MAX_INT, pa.uint64())).fill_null(False))
        column = pc.if_else(pa.array(nowhere), pa.scalar(None, pa.uint64()), column)
    return _scaled(column.cast(pa.int64()), unit, nowhere)


def _scaled(column: pa.Array, unit: str, wrong: npt.NDArray[np.bool_]) -> Times:
    """Integers of a unit."""
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    if unit == "ns":
        return values // 1000, wrong, np.zeros(len(values), dtype=bool)
    limit = MAX_INT // PER_UNIT[unit]
    out_of_range = (values > limit) | (values < -limit)
    return np.where(out_of_range, 0, values) * PER_UNIT[unit], wrong, out_of_range


def _scaled_floats(column: pa.Array, unit: str, wrong: npt.NDArray[np.bool_]) -> Times:
    """Floats of a unit, to the nearest microsecond."""
    values = column.fill_null(0.0).to_numpy(zero_copy_only=False)
    wrong = wrong | ~np.isfinite(values)
    values = np.where(wrong, 0.0, values)
    scaled = values / 1000 if unit == "ns" else values * PER_UNIT[unit]
    out_of_range = np.abs(scaled) >= 2.0**63
    rounded = np.rint(np.where(out_of_range, 0.0, scaled))
    return rounded.astype(np.int64), wrong, out_of_range


def _parse_numbers(column: pa.Array, unit: str) -> Times:
    """Texts that are integers, exactly; others that are numbers, to the nearest microsecond."""
    integers, wrong = parse_integers(column)
    times, _, out_of_range = _scaled(integers, unit, wrong)
    if not wrong.any():
        return times, wrong, out_of_range
    rest = column.filter(pa.array(wrong))
    is_float = pc.match_substring_regex(rest, NUMBER)
    floats = pc.if_else(is_float, pc.utf8_trim(rest, " \t+"), None).cast(pa.float64())
    no_float = np.asarray(floats.is_null())
    times[wrong], no_time, out_of_range[wrong] = _scaled_floats(floats, unit, no_float)
    wrong[wrong] = no_time
    return times, wrong, out_of_range


def _parse_formats(column: pa.Array, formats: Sequence[str]) -> Times:
    """Texts by the first format that fits, UTC where it has no zone."""
    times = np.zeros(len(column), np.int64)
    wrong = np.array(column.is_valid())
    for layout in formats:
        if not wrong.any():
            break
        found, failed = _by_format(column.filter(pa.array(wrong)), layout)
        times[wrong] = found
        wrong[wrong] = failed
    return times, wrong, np.zeros(len(column), dtype=bool)


def _by_format(
    column: pa.Array, layout: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Microseconds by a format, 0 where it fails, and where it fails; in any language."""
    times, failed = _by_pandas(column, layout)
    if names_month(layout) and failed.any():
        english = in_english(column.filter(pa.array(failed)))
        times[failed], still_failed = _by_pandas(english, with_full_names(layout))
        failed[failed] = still_failed
    return times, failed


def _by_pandas(
    column: pa.Array, layout: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Microseconds by pandas, 0 where it fails, and where it fails."""
    import pandas as pd  # every command imports this file, and few read times that are texts

    parsed = pd.to_datetime(column.to_pandas(), format=layout, utc=True, errors="coerce")
    failed = np.array(parsed.isna())
    times = parsed.dt.as_unit("us").astype("int64").to_numpy()
    return np.where(failed, 0, times), failed


def _parse_iso(column: pa.Array) -> Times:
    # pandas reads the words now and today as the present; in a log they are not times
    is_date = pc.match_substring_regex(column, r"^\s*[0-9]{4}").fill_null(False)
    dates = pc.if_else(is_date, column, pa.scalar(None, pa.string()))
    # finer digits would make pandas read the whole column in ns, where far dates do not fit
    dates = pc.replace_substring_regex(dates, r"(\.[0-9]{6})[0-9]+", r"\1")
    times, failed = _by_pandas(dates, "ISO8601")
    wrong = failed & np.asarray(column.is_valid())
    if wrong.any():
        rest = dates.filter(pa.array(wrong))
        times[wrong], wrong[wrong] = _parse_rare_iso(rest)
    return times, wrong, np.zeros(len(column), dtype=bool)


def _parse_rare_iso(texts: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """What pandas does not know of ISO 8601: a decimal comma, leap seconds, 24:00, week dates.

    Also small letters, and the zones that BigQuery and Java write behind a time.
    """
    texts = pc.utf8_upper(pc.utf8_trim_whitespace(texts))
    texts = pc.replace_substring_regex(texts, r"(:[0-9]{2}),([0-9]{1,6})[0-9]*", r"\1.\2")
    texts = pc.replace_substring_regex(texts, r"^(.*:[0-9.]+) (UTC|GMT|Z)$", r"\1Z")
    texts = pc.replace_substring_regex(texts, r"^(.*(Z|[+-][0-9:]{2,6}))\[[^\]]+\]$", r"\1")
    is_leap = pc.match_substring_regex(texts, r":60(\D|$)").fill_null(False)
    is_next_day = pc.match_substring_regex(texts, r"[T ]24:00(:00(\.0+)?)?(Z|[+-]|$)")
    texts = pc.replace_substring_regex(texts, r":60(\.[0-9]+)?", ":59")
    midnight = pc.replace_substring_regex(texts, r"([T ])24:", r"\100:")
    texts = pc.if_else(is_next_day.fill_null(False), midnight, texts)
    times, failed = _by_pandas(texts, "ISO8601")
    times += _SECOND * np.asarray(is_leap) + DAY * np.asarray(is_next_day.fill_null(False))
    for place in np.flatnonzero(failed):
        week_date = _week_date(texts[place].as_py())
        if week_date is not None:
            times[place], failed[place] = week_date, False
    return np.where(failed, 0, times), failed


def _week_date(text: str | None) -> int | None:
    """The first moment of a date such as 2024-W01-1; None for another text."""
    if text is None or "W" not in text[4:6]:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * _SECOND


def refuse_days_as_numbers(middle: int, events: EventsConfig) -> None:
    """Refuses days such as 20240131 that are read as numbers of a unit.

    Args:
        middle: the median time, microseconds.

    Raises:
        ConfigError: the median is a day of our time when its digits are read.
    """
    if events.time_unit not in PER_UNIT:
        return
    digits = str(middle // PER_UNIT[events.time_unit])
    try:
        is_day = len(digits) == 8 and 1970 <= datetime.strptime(digits, "%Y%m%d").year < 2100
    except ValueError:
        return
    if is_day:
        raise ConfigError(
            f"events.time_unit={events.time_unit}: times lie around {iso(middle)}; numbers such as "
            f"{digits} in column {events.time_column} look like days: set events.time_format to "
            "[%Y%m%d] and remove events.time_unit"
        )


def early_events(number: int, first: int, events: EventsConfig) -> str:
    """A warning of events that lie before 1990."""
    return (
        f"{number} events lie before 1990, the first at {iso(first)}: a missing time is often "
        f"written as 0; leave them out by events.where, as in [{events.time_column} > 0]"
    )
