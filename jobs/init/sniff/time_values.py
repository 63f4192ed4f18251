"""The values of a column as times, once it is known how they are written."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from diffsasrec.inputs.moments import read_times
from diffsasrec.month_names import in_english, names_month, with_full_names
from diffsasrec.schema import canonical_type
from diffsasrec.times import microseconds

PER_UNIT = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}  # microseconds
LEAST = microseconds("1990-01-01")  # earlier times are hardly interactions
MOST_YEARS_AHEAD = 2


def is_plausible(micros: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Where times are those of a log of interactions; microseconds."""
    most = microseconds(f"{datetime.now(UTC).year + MOST_YEARS_AHEAD}-01-01")
    return (micros >= LEAST) & (micros < most)


def parse_format(series: Any, template: str) -> Any:
    """The texts of a pandas series as times; NaT where they are none, or no plausible one.

    Months may be named in any language that a night knows.
    """
    parsed = pd.to_datetime(series, format=template, utc=True, errors="coerce")
    if names_month(template) and parsed.isna().any():
        english = pd.Series(in_english(pa.array(series, pa.string())).to_pandas(), series.index)
        template = with_full_names(template)
        parsed = parsed.fillna(pd.to_datetime(english, format=template, utc=True, errors="coerce"))
    return parsed.where(is_plausible(_micros(parsed)))


def _micros(parsed: Any) -> npt.NDArray[np.float64]:
    """Microseconds since 1970; NaN for no time."""
    whole = parsed.dt.as_unit("us").astype("int64").to_numpy().astype(np.float64)
    return np.where(np.asarray(parsed.isna()), np.nan, whole)


def parse_all(
    column: pa.ChunkedArray, unit: str | None, formats: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    """Every value as microseconds since 1970; NaN for what is no plausible time."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        times = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        micros = times.to_numpy().astype(np.float64)
    elif unit is not None:
        micros = _numbers(column) * PER_UNIT[unit]
    else:
        micros = _texts(column, formats)
    with np.errstate(invalid="ignore"):
        return np.where(is_plausible(micros), micros, np.nan)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    if canonical_type(column.type) == pa.string():
        return pd.to_numeric(column.cast(pa.string()).to_pandas(), errors="coerce").to_numpy(float)
    return column.cast(pa.float64(), safe=False).to_numpy()  # ns are integers of 19 digits


def _texts(column: pa.ChunkedArray, formats: tuple[str, ...]) -> npt.NDArray[np.float64]:
    if not formats:
        texts = column.cast(pa.string()).combine_chunks()
        times, wrong, _ = read_times(texts, None)
        return np.where(wrong | np.asarray(texts.is_null()), np.nan, times.astype(np.float64))
    series = column.cast(pa.string()).to_pandas().str.strip()
    parsed = parse_format(series, formats[0])
    for other in formats[1:]:
        parsed = parsed.fillna(parse_format(series, other))
    return _micros(parsed)
