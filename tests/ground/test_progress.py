"""Progress: lines for people, and a heartbeat for who waits."""

import logging

import pytest

from diffsasrec.progress import HEARTBEAT, Progress, beating, duration


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3675, "1:01:15")])
def test_durations_are_read_as_a_clock(seconds: float, text: str):
    assert duration(seconds) == text


def test_a_line_says_what_how_far_and_how_long_still(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])  # seconds that the test chooses
    progress = Progress("score", "bucket", interval=10)
    with caplog.at_level(logging.INFO):
        for seconds, done in ((1.0, 10), (9.0, 11), (21.0, 20), (22.0, 21)):
            clock[0] = seconds
            progress.update(done, 40)
    # ten in 21 seconds, and twenty still to do
    assert caplog.messages == ["score: bucket 20 of 40 (50 %), about 0:42 left"]


def test_only_what_moves_on_is_a_sign_of_life(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])  # seconds that the test chooses
    progress = Progress("score", "bucket", interval=10)
    silences = []
    for seconds, done in ((1.0, 1), (5.0, 1), (8.0, 2), (9.0, 2)):
        clock[0] = seconds
        progress.update(done, 4)
        silences.append(HEARTBEAT.silence())
    assert silences == [0.0, 4.0, 0.0, 1.0]


def test_each_part_of_long_work_is_a_sign_of_life(beats: list[None]):
    parts = []
    for part in beating("abc"):
        parts.append((part, len(beats)))
    assert parts == [("a", 1), ("b", 2), ("c", 3)]
