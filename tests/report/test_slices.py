"""What the report says of parts of the holdout."""

from dataclasses import replace
from typing import Any

import pytest

from jobs.report.facts import Facts, Night
from jobs.report.sections.model import by_slices
from jobs.report.sections.quality import quality_notices, slice_in_words

ROW = {"n": 90, "NDCG@5": 0.3, "NDCG@5_ci": [0.2, 0.4]}
RECORDS: dict[str, Any] = {"evaluate": {"counts": {}}}


def row(by: str, start: int, stop: int | None, **changes: Any) -> dict[str, Any]:
    figures = {"n": 40, "NDCG@5": 0.25, "NDCG@5_ci": [0.2, 0.3], "difference": 0.01}
    return {
        "by": by,
        "from": start,
        "to": stop,
        **figures,
        "difference_ci": [-0.01, 0.03],
        **changes,
    }


WORSE = {"difference": -0.04, "difference_ci": [-0.06, -0.02]}


def night(*slices: dict[str, Any]) -> Night:
    metrics = {
        "protocol": 3,
        "model": ROW,
        "baselines": {"popular": {**ROW, "NDCG@5": 0.2}},
        "versus": {"counter": "popular"},
        "slices": list(slices),
    }
    return Night("2024-03-01", "x", "published", records=RECORDS, metrics=metrics)


@pytest.mark.parametrize(
    ("by", "start", "stop", "words"),
    [
        ("history_events", 1, 2, "users with 1 events before the split"),
        ("history_events", 3, 10, "users with 3 to 9 events before the split"),
        ("history_events", 50, None, "users with 50 or more events before the split"),
        ("days_since_last_event", 1, 7, "users whose last event lies 1 to 7 days before the split"),
        ("target_place_percent", 10, 50, "targets in place 10 to 50 % by popularity"),
        ("target_place_percent", 50, None, "targets in place 50 to 100 % by popularity"),
    ],
)
def test_a_part_is_told_in_words(by: str, start: int, stop: int | None, words: str):
    assert slice_in_words(row(by, start, stop)) == words


def test_parts_stand_beside_the_counter():
    (table,) = by_slices(night(row("history_events", 3, 10)))
    (first,) = table.rows
    assert first[:2] == ["users with 3 to 9 events before the split", "40"]
    assert first[2:] == ["0.2500", "0.2000", "0.3000", "0.0100", "-0.0100", "0.0300"]
    assert table.columns[5] == "above popular"
    assert by_slices(replace(night(), metrics={"model": ROW, "baselines": {}})) == []  # an old run


def test_where_the_counter_is_better_for_some_the_report_says_for_whom():
    few = row("history_events", 1, 3, n=29, **WORSE)
    worse = row("days_since_last_event", 90, None, **WORSE)
    (notice,) = quality_notices(Facts(night(few, row("history_events", 3, 10), worse)))
    assert (notice.level, notice.title) == ("look", "For some, the model is worse than popular")
    assert notice.seen == (
        "Users whose last event lies 90 or more days before the split: 0.0400 below, of 40 users."
    )
    assert not list(quality_notices(Facts(night(few))))
