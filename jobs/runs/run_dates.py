"""Refuses run dates in the future. Nothing else asks what day it is.

Which run a command is, and what it makes, follows from the date that it is given.
"""

from datetime import UTC, date, datetime, timedelta

from diffsasrec.errors import ConfigError


def last_allowed(now: datetime | None = None) -> date:
    """Tomorrow (UTC): the events of today are before it, and clocks and time zones differ."""
    return (now or datetime.now(UTC)).astimezone(UTC).date() + timedelta(days=1)


def is_future(ds: str, now: datetime | None = None) -> bool:
    """Whether a run date lies after tomorrow (UTC)."""
    return date.fromisoformat(ds) > last_allowed(now)


def refuse_future(
    run_date: date | None, *, option: str = "--date", is_meant: bool, now: datetime | None = None
) -> None:
    """Refuses a run date after tomorrow (UTC) unless it is meant; None: a command without one.

    Raises:
        ConfigError: it would be `current` until that day, whatever is published meanwhile.
    """
    if run_date is not None and not is_meant and is_future(run_date.isoformat(), now):
        raise ConfigError(
            f"{option} {run_date} lies after tomorrow ({last_allowed(now)}, UTC): once published, "
            "it would be served as current until that day, whatever is published meanwhile; "
            "correct the date, or give --future where it is meant"
        )
