"""Progress of long work as log lines: what, how far, how fast, how much longer."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """75 -> 1:15, 3675 -> 1:01:15."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Heartbeat:
    """When work last moved on."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def beat(self) -> None:
        self._last = time.monotonic()

    def silence(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._last


HEARTBEAT = Heartbeat()  # of this process: every part of a stage that makes progress says so here


def beating(parts: Iterable[T]) -> Iterator[T]:
    """The parts of work one by one, as they come, each with a beat."""
    for part in parts:
        HEARTBEAT.beat()
        yield part


class Board:
    """What the driver of a training and its workers tell each other: an actor.

    The driver says what is to be trained, under a number that grows; the workers say how far they
    are, and up to which number all is done. A board that died with its node starts empty, so both
    sides say it again and again.

    It lives in this file because an actor imports the file of its class, and torch takes seconds.
    """

    def __init__(self) -> None:
        self._number, self._done = 0, 0
        self._work: Any = None
        self._entry: tuple[Any, ...] | None = None

    def call_for(self, number: int, work: Any) -> tuple[tuple[Any, ...] | None, int]:
        """Of the driver. The newest entry about this work, and the number up to which all is done.

        None: nothing is said yet.
        """
        if number != self._number:
            self._number, self._work, self._entry = number, work, None
        return self._entry, self._done

    def next(self, done: int) -> tuple[int, Any] | None:
        """Of a worker that has done the work of a number: the next number and its work, if any."""
        self._done = done
        return (self._number, self._work) if self._number > done else None

    def write(self, *entry: Any) -> None:
        """Of a worker: how far it is."""
        self._entry = entry


class Progress:
    """At most one line per `interval` seconds, readable in a job log."""

    def __init__(self, what: str, unit: str, *, interval: float) -> None:
        self._what, self._unit, self._interval = what, unit, interval
        self._start = self._last = time.monotonic()
        self._first: int | None = None  # resumed work starts in the middle
        self._done: int | None = None

    def update(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if done != self._done:
            HEARTBEAT.beat()
        self._done = done
        if now - self._last < self._interval:
            return
        self._last = now
        fresh = done - self._first
        left = (total - done) * (now - self._start) / fresh if fresh else None
        remaining = "" if left is None else f", about {duration(left)} left"
        share = f"{100 * done / max(total, 1):.0f} %"
        log.info(
            "%s: %s %d of %d (%s)%s%s", self._what, self._unit, done, total, share, note, remaining
        )
