"""What a dry run warns of."""

import numpy as np
import pyarrow as pa

from diffsasrec.config.load import load_config
from diffsasrec.times import HOUR, microseconds
from jobs.planning.doubts import doubts

DS = "2024-03-01"


def doubts_of(*sets: str, users, items, before: int = 1, is_whole: bool = True) -> list[str]:
    """Of events that end so many days before the run date, one an hour, with integer items."""
    end = microseconds(DS) - (before - 1) * 24 * HOUR
    times = end - HOUR * np.arange(1, len(users) + 1)
    return doubts(
        load_config("lake: lake\nevents: {path: log}", sets),
        users=[pa.array(users)],
        items=[pa.array(items)],
        times=[times],
        is_whole=is_whole,
        ds=DS,
    )


def test_a_log_as_logs_are_is_not_doubted():
    assert doubts_of(users=np.arange(200) % 30, items=np.arange(200) % 12) == []


def test_lists_longer_than_the_catalogue_are_named_with_both_numbers():
    (text,) = doubts_of("score.k=20", users=np.arange(200) % 30, items=np.arange(200) % 12)
    assert text.startswith("score.k=20 is above the 12 items of the log")
    rare = np.r_[np.arange(11), np.zeros(189, int)]
    (text,) = doubts_of("split.min_item_count=2", users=np.arange(200) % 30, items=rare)
    assert text.startswith("score.k=10 is above the 1 items of the log")
    assert doubts_of(users=np.arange(200), items=np.arange(200) % 3, is_whole=False) == []


def test_a_handful_of_users_is_named():
    (text,) = doubts_of(users=np.arange(200) % 2, items=np.arange(200) % 12)
    assert text.startswith("the log has 2 users: too few")


def test_a_log_that_ended_long_ago_is_named_with_its_last_day():
    (text,) = doubts_of(users=np.arange(200) % 30, items=np.arange(200) % 12, before=11)
    assert text.startswith("the newest event that was read is of 2024-02-19, 10 days before")


def test_events_that_are_there_twice_are_counted():
    once = {"users": np.arange(200) % 30, "items": np.arange(200) % 12}
    times = microseconds(DS) - HOUR * np.arange(1, 201)
    (text,) = doubts(
        load_config("lake: lake\nevents: {path: log}"),
        users=[pa.array(once["users"])] * 2,
        items=[pa.array(once["items"])] * 2,
        times=[times] * 2,
        is_whole=True,
        ds=DS,
    )
    assert text.startswith("50 % of the events are there twice or more")
