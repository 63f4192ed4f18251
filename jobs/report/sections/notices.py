"""What a person should look at after a night, in plain words: seen, usual, what to do."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.inputs.row_checks import AFTER_RUN_DATE
from diffsasrec.times import DAY, microseconds

from ..facts import Facts, Night, timings, usual
from ..steps import REASONS
from .parts import Notice, median_of, share
from .quality import quality_notices
from .rules import rule_notices

# Shares move a little every night; three times the median of earlier nights is much.
BAD_SHARE_FACTOR = 3.0
# Users come and go, logs only grow: a tenth fewer rows than usual is mostly a missing partition.
FEWER_ROWS = 0.1
# Fallback lists are the same for everyone: one user in five is many where nothing is known yet.
MANY_FALLBACKS, MANY_SHORT = 0.2, 0.01
SHARE_FACTOR = 2.0  # of these lists against earlier nights
POOR_LISTS = {  # by their count in the record: how large a share is many, words, remedy
    "popular": (
        MANY_FALLBACKS,
        "fallback lists",
        "See why so many users have no usable history: a vocabulary or a filter "
        "(split.min_item_count, score.allow_path) that leaves little, or new users.",
    ),
    "short_lists": (
        MANY_SHORT,
        "lists are shorter than K",
        "See whether rules leave too few candidates: score.deny_path, score.allow_path, "
        "score.exclude_path, score.max_per_category, score.rest_nights.",
    ),
}
# Machines are shared and stages short: twice the time, and a minute at least, is a change.
SLOW_FACTOR, SLOW_SECONDS = 2.0, 60.0
# A log that is delivered every night has an event of the day before the run date.
STALE_DAYS = 2.0


def notices(facts: Facts) -> list[Notice]:
    """Everything unusual, the worst first."""
    found = [
        *_end(facts.night),
        *_current(facts),
        *_bad_rows(facts),
        *_newest(facts),
        *_rows(facts),
        *quality_notices(facts),
        *_lists(facts),
        *rule_notices(facts),
        *_freshness(facts),
        *_slow(facts),
    ]
    return sorted(found, key=lambda notice: notice.level != "bad")


def _end(night: Night) -> Iterator[Notice]:
    if night.status in ("published", "done"):
        return
    what = {"refused": "was refused", "failed": "failed"}.get(night.status, "has not finished")
    remedy = {
        "refused": "What was published before stays. Look at the quality below; if the model is "
        "right and the floor is not, change gate.floors or gate.max_relative_drop.",
        "failed": "What was published before stays. Mend what the message names and run the same "
        "command again: it goes on from what is done.",
    }.get(night.status, "If it is not running any more, run the same command again.")
    yield Notice(
        "look" if night.status == "unfinished" else "bad",
        f"This night {what} in {night.stage or 'the start'}; nothing was published",
        night.error or f"The stage {night.stage} has begun and left no result or message.",
        "a night ends with a published table",
        remedy,
        "published",
    )


def _current(facts: Facts) -> Iterator[Notice]:
    if facts.not_current:
        yield Notice(
            "bad" if facts.is_stuck else "look",
            "This night is published, and another one is current",
            f"{facts.not_current}.",
            "a night is current once it is published, but for older dates",
            "Readers of current do not see these lists. Run the command if they should see others.",
            "published",
        )


def _bad_rows(facts: Facts) -> Iterator[Notice]:
    night, number = facts.night, facts.night.num_bad
    if not number or night.bad_share is None:
        return
    before = usual(past.bad_share for past in facts.earlier)
    is_many = before is not None and night.bad_share > BAD_SHARE_FACTOR * before
    counts = night.counts("prepare")
    reasons = sorted((n for n in REASONS if counts.get(n)), key=lambda n: -counts[n])
    words = ", ".join(f"{REASONS[name]}: {counts[name]:,}" for name in reasons[:4])
    where = "" if facts.bad is None else where_they_are(facts.bad.table)
    yield Notice(
        "bad" if is_many or night.stopped else "look",
        f"{number:,} bad rows, {share(night.bad_share)} of the log"
        + (", far more than usual" if is_many else ""),
        f"{words}. {where}".strip(),
        median_of(None if before is None else share(before), len(facts.earlier)),
        "Look at the rows in quarantine/ of this run and at the table of files and days; have the "
        "file repaired and run the night again. They are left out, all else is used.",
        "bad-rows",
    )


def _newest(facts: Facts) -> Iterator[Notice]:
    newest = facts.night.records.get("prepare", {}).get("newest", {})
    if not newest.get("num_bad"):
        return
    parts = [
        f"{part['bad']:,} of {part['rows']:,} rows of {part['name']}, "
        f"{share(part['bad'] / part['rows'])}"
        for part in newest["bad"]
    ]
    more = newest["num_bad"] - len(parts)
    yield Notice(
        "bad",
        f"Many of the newest rows are bad: {parts[0]}",
        f"{'; '.join(parts)}{f'; and in {more} more days or files' if more else ''}.",
        "at most events.max_bad_fraction in each of the last days and of the new files",
        "Have the day or file repaired and run the night again: what is missing is what users did "
        "last.",
        "bad-rows",
    )


def where_they_are(bad: pa.Table) -> str:
    """The days and files that most bad rows come from, in a sentence or two."""
    total = pc.sum(bad["rows"]).as_py() or 0
    sentences = []
    for column, of, what in (("day", "on", "days"), ("source_path", "in", "files")):
        known = bad.filter(bad[column].is_valid())
        summed = known.group_by(column).aggregate([("rows", "sum")])
        ranked = summed.sort_by([("rows_sum", "descending"), (column, "ascending")]).to_pylist()
        if ranked:
            first = [f"{row['rows_sum']:,} {of} {row[column]}" for row in ranked[:3]]
            more = f" and more in {len(ranked) - 3} other {what}" if len(ranked) > 3 else ""
            sentences.append(f"By {what[:-1]}: {', '.join(first)}{more}.")
    unknown = total - (pc.sum(bad.filter(bad["day"].is_valid())["rows"]).as_py() or 0)
    if unknown:
        sentences.append(f"Of {unknown:,} no day is known.")
    return " ".join(sentences)


def _rows(facts: Facts) -> Iterator[Notice]:
    rows = facts.night.counts("prepare").get("rows")
    before = usual(past.counts("prepare").get("rows") for past in facts.earlier)
    if rows is not None and before and rows < (1 - FEWER_ROWS) * before:
        yield Notice(
            "bad",
            f"Only {rows:,} rows were read",
            f"{1 - rows / before:.0%} fewer than usual.",
            median_of(f"{before:,.0f} rows", len(facts.earlier)),
            "See whether a partition or file of the log is missing, then run the night again.",
            "flow",
        )
    late = facts.night.counts("prepare").get(AFTER_RUN_DATE, 0)
    shares = [_share_of(past.counts("prepare"), AFTER_RUN_DATE, "rows") for past in facts.earlier]
    before = usual(shares)
    if rows and before is not None and late / rows > max(SHARE_FACTOR * before, 0.01):
        yield Notice(
            "look",
            f"{late:,} rows lie at or after the run date",
            f"{share(late / rows)} of the log.",
            median_of(share(before), len(facts.earlier)),
            "See whether the run date is right, and whether a clock or a time unit is wrong.",
            "flow",
        )


def _share_of(counts: object, part: str, whole: str) -> float | None:
    if not isinstance(counts, dict) or not counts.get(whole):
        return None
    return float(counts.get(part, 0) / counts[whole])


def _lists(facts: Facts) -> Iterator[Notice]:
    total = facts.night.num_lists
    if total == 0:
        yield Notice(
            "bad",
            "No list was made",
            "Scoring is done, and no user has a list.",
            "a list for every user",
            "See score.active_days and score.users_path, and whether the log has any event before "
            "the run date.",
            "flow",
        )
    if total:
        yield from _poor_lists(facts, total)
        yield from _quarantined_users(facts.night)


def _poor_lists(facts: Facts, total: int) -> Iterator[Notice]:
    """Many lists are the fallback, or shorter than they should be."""
    counts = facts.night.counts("score")
    for name, (many, words, remedy) in POOR_LISTS.items():
        value = counts.get(name, 0) / total
        before = usual(
            past.counts("score").get(name, 0) / past.num_lists
            for past in facts.earlier
            if past.num_lists
        )
        limit = many if before is None else max(SHARE_FACTOR * before, MANY_SHORT)
        if value > limit:
            yield Notice(
                "look",
                f"{counts[name]:,} {words}",
                f"{share(value)} of all.",
                median_of(None if before is None else share(before), len(facts.earlier)),
                remedy,
                "lists",
            )


def _quarantined_users(night: Night) -> Iterator[Notice]:
    if ended := night.counts("score").get("quarantined_users", 0):
        yield Notice(
            "bad",
            f"The scoring of {ended:,} users ended its process",
            "They have the fallback list.",
            "none",
            "They stand in recommendations_quarantine/ of this run; look at their histories, and "
            "at the memory of the scoring actors.",
            "lists",
        )


def _freshness(facts: Facts) -> Iterator[Notice]:
    run_date = microseconds(facts.night.ds)
    days = 0 if facts.trained_before is None else (run_date - facts.trained_before) / DAY
    every_days = facts.config.get("train", {}).get("every_days", 1)
    if days > every_days - 1:  # else they are as old as they are meant to be
        yield Notice(
            "look",
            f"The weights that serve are {days:.0f} days old",
            "They know no event of these days.",
            "weights that are trained to the run date",
            "Look at train.every_days, and at the log of the night for whose weights serve.",
            "published",
        )
    newest = newest_event(facts.night)
    if newest is not None and (run_date - newest) / DAY > STALE_DAYS:
        before = usual(
            (microseconds(past.ds) - time) / DAY
            for past in facts.earlier
            if (time := newest_event(past)) is not None
        )
        age = (run_date - newest) / DAY
        if before is None or age > before + 1:
            yield Notice(
                "look",
                f"The newest event is {age:.0f} days older than the run date",
                "The last days of the log are missing.",
                median_of(None if before is None else f"{before:.1f} days", len(facts.earlier)),
                "See whether the log of the last days has come; then run the night again.",
                "flow",
            )


def newest_event(night: Night) -> int | None:
    """The time of the newest event, to the hour, in microseconds."""
    quantiles = night.records.get("prepare", {}).get("time_quantiles")
    return quantiles[-1] if quantiles else None


def _slow(facts: Facts) -> Iterator[Notice]:
    for stage, seconds, before in timings(facts.night, facts.earlier):
        if before is None or seconds < max(SLOW_FACTOR * before, before + SLOW_SECONDS):
            continue
        yield Notice(
            "look",
            f"The stage {stage} took {seconds:,.0f} seconds",
            f"{seconds / before:.1f} times as long as usual." if before else "",
            median_of(f"{before:,.0f} seconds", len(facts.earlier)),
            "See what else the machines did, and whether the log has grown.",
            "timings",
        )
