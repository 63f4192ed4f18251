"""Times are integers, in microseconds since 1970 (UTC)."""

from datetime import UTC, datetime, timedelta

import numpy as np

HOUR = 3_600_000_000
DAY = 24 * HOUR
EARLY = 631_152_000_000_000  # 1990: earlier times are hardly interactions


def microseconds(time: str) -> int:
    """An ISO date or time in microseconds since 1970; one without a zone is UTC."""
    parsed = datetime.fromisoformat(time)
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def iso(time: int) -> str:
    """Microseconds since 1970 as people read them."""
    return str(np.datetime64(time, "us")) + "Z"
