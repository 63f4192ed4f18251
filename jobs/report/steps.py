"""What went into a night and came out, step by step, from the counts of its records."""

from collections.abc import Mapping
from dataclasses import dataclass

from diffsasrec.inputs.row_checks import AFTER_RUN_DATE, BEFORE_LOOKBACK, FILTERED
from diffsasrec.schema import SOURCES

REASONS = {  # of quarantine, in words
    "null_user_id": "no user id",
    "null_item_id": "no item id",
    "null_time": "no time",
    "null_type": "no type",
    "empty_user_id": "empty user id",
    "empty_item_id": "empty item id",
    "invalid_utf8_user_id": "user id is no UTF-8",
    "invalid_utf8_item_id": "item id is no UTF-8",
    "wrong_type_user_id": "user id of another type",
    "wrong_type_item_id": "item id of another type",
    "unparsable_time": "unreadable time",
    "time_out_of_range": "time out of range",
    "negative_time": "time before 1970",
    "malformed_row": "broken line",
}
WITHOUT_LIST = (
    ("no_event_before_split", "no event before the split"),
    ("no_event_after_split", "no event after the split"),
    ("no_target_after_split", "no event of a target type after it"),
    ("only_new_items_after_split", "only new or rare items after it"),
)


@dataclass(frozen=True)
class Step:
    """One step of what went in and came out."""

    label: str
    number: int
    kind: str  # total: what is there; drop: what goes; part: of the total above
    note: str = ""


def row_steps(counts: Mapping[str, int]) -> list[Step]:
    """Rows of the log, step by step down to the events that histories are made of."""
    if "rows" not in counts:
        return []
    kept = counts.get("kept", 0)
    steps = [Step("rows read", counts["rows"], "total")]
    steps += _drops(counts, [(FILTERED, "filtered", "events.where, events.types")])
    steps += _drops(counts, [(BEFORE_LOOKBACK, "older events", "events.lookback_days")])
    steps += [
        Step(words, counts[name], "drop", f"quarantined: {name}")
        for name, words in REASONS.items()
        if counts.get(name)
    ]
    steps += _drops(counts, [(AFTER_RUN_DATE, "at or after the run date", "not of this night")])
    if "events" not in counts:
        return [*steps, Step("good rows", kept, "total")]
    steps += _drops(
        counts,
        [
            ("duplicate", "exact duplicates", "same user, item, time and type"),
            ("over_max_user_events", "old events of heavy users", "split.max_user_events"),
            ("rare_item", "of rare items", "split.min_item_count"),
        ],
    )
    dropped = sum(step.number for step in steps if step.kind == "drop")
    lost = counts["rows"] - dropped - counts["events"]
    if lost:
        steps.append(Step("unaccounted for", lost, "drop", "this must not be: a defect"))
    return [*steps, Step("events", counts["events"], "total")]


def _drops(counts: Mapping[str, int], names: list[tuple[str, str, str]]) -> list[Step]:
    return [
        Step(label, counts[name], "drop", note) for name, label, note in names if counts.get(name)
    ]


def user_steps(
    prepared: Mapping[str, int], scored: Mapping[str, int], published: Mapping[str, int]
) -> list[Step]:
    """Users with an event, down to the lists by source."""
    if "users" not in prepared:
        return []
    steps = [Step("users", prepared["users"], "total")]
    if any(source in scored for source in SOURCES):
        steps += _drops(
            scored,
            [
                ("not_asked", "not asked for", "score.users_path"),
                ("left_out_inactive", "inactive", "score.active_days"),
            ],
        )
        by_model, by_counter, fallback = (scored.get(source, 0) for source in SOURCES)
        of_counter = Step("of a counter", by_counter, "part", "the model was worse")
        steps += [
            Step("lists", by_model + by_counter + fallback, "total"),
            Step("of the model", by_model, "part"),
            *([of_counter] if by_counter else []),
            Step("fallback", fallback, "part", "no usable history, or quarantined"),
            Step("short lists", scored.get("short_lists", 0), "part", "fewer than K items"),
        ]
    if "rows" in published:
        steps.append(Step("lists published", published["rows"], "total"))
    return steps


def holdout_steps(prepared: Mapping[str, int]) -> list[Step]:
    """Users down to those that the model is measured on."""
    if "holdout_users" not in prepared:
        return []
    drops = [(name, label, "") for name, label in WITHOUT_LIST]
    return [
        Step("users", prepared["users"], "total"),
        *_drops(prepared, drops),
        Step("holdout users", prepared["holdout_users"], "total"),
    ]
