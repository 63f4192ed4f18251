"""Facts -> the sections of a report: tiles, tables, charts with the table of their numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ..facts import Facts, timings
from ..steps import REASONS, Step, holdout_steps, row_steps, user_steps
from . import charts
from .item_tables import item_tables
from .model import lists, quality, training, users
from .parts import Picture, Section, Table, share
from .quality import in_a_tile
from .rules import rules


def sections(facts: Facts) -> list[Section]:
    """The sections that have something to show, in the order of the page."""
    made: list[Callable[[Facts], Section | None]] = [
        published,
        flow,
        bad_rows,
        quality,
        training,
        lists,
        rules,
        item_tables,
        users,
        timing,
    ]
    return [section for make in made if (section := make(facts)) is not None]


def published(facts: Facts) -> Section:
    night = facts.night
    number = ", ".join(str(n) for n in night.numbers)
    rows = night.counts("publish").get("rows")
    split_time = night.records.get("prepare", {}).get("split_time")
    tiles = [
        ("Run date", night.ds),
        ("Run", night.run_id),
        ("Status", night.status),
        ("Number in the chain", number or "none"),
        ("Lists published", "none" if rows is None else f"{rows:,}"),
        ("Model version", facts.model_version or "none"),
        ("Weights know events before", time(facts.trained_before)),
        ("Split time", time(split_time)),
        ("Quality", in_a_tile(night)),
    ]
    return Section("published", "What was published", tiles=tiles)


def time(value: int | None) -> str:
    """Microseconds since 1970 to the minute."""
    if value is None:
        return "-"
    return str(np.datetime64(value, "us").astype("datetime64[m]")).replace("T", " ") + " UTC"


def flow(facts: Facts) -> Section | None:
    night = facts.night
    prepared = night.counts("prepare")
    steps = {
        "rows": row_steps(prepared),
        "users": user_steps(prepared, night.counts("score"), night.counts("publish")),
        "holdout": holdout_steps(prepared),
    }
    titles = {
        "rows": ("From rows to events", "Every row of the log is an event in the end, or is left "
                 "out under a name."),
        "users": ("From users to lists", "Every user with an event before the run date."),
        "holdout": ("Who the model is measured on", "All items of a user's first moment after "
                    "the split that were known, and not rare, before it."),
    }  # fmt: skip
    figures = [
        Picture(
            *titles[name],
            charts.flow_chart(f"flow-{name}", [(s.label, s.number, s.kind) for s in found]),
            step_table(found),
        )
        for name, found in steps.items()
        if found
    ]
    if facts.events_by_day and facts.bad is None:
        figures.append(days_picture(facts, {}))
    record = night.records.get("prepare", {})
    tables = left_out_tables(record.get("left_out", ()))
    tables += type_tables(record.get("event_types") or {})
    tables += taken_over_tables(record.get("taken_over"))
    if not figures and not tables:
        return None
    return Section("flow", "What went in and came out", tables=tables, figures=figures)


def left_out_tables(left_out: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The files of the log that were not read, by the reason; no table where all were."""
    rows = [(each["number"], each["reason"], each["example"]) for each in left_out]
    caption = "Files and directories of the log that were not read"
    return [Table.of(caption, ("number", "what they are", "for example"), rows)] if rows else []


def type_tables(event_types: Mapping[str, Mapping[str, int]]) -> list[Table]:
    """The rows of the log by their type, the kept ones first; no table of a log without types."""
    rows = [
        (number, name, what)
        for what, found in event_types.items()
        for name, number in sorted(found.items(), key=lambda pair: -pair[1])
    ]
    caption = "Rows by the type of the event"
    return [Table.of(caption, ("number", "type", "what becomes of them"), rows)] if rows else []


def taken_over_tables(taken_over: Mapping[str, Any] | None) -> list[Table]:
    """What of the log came from an earlier night, or why nothing did; no table of other nights."""
    if taken_over is None:
        return []
    known = dict(taken_over)
    if "why_not" in known:
        rows = [("nothing: the whole log was read", known["why_not"])]
    else:
        rows = [
            ("run", f"{known['run_id']} of {known['ds']}"),
            ("files that were not read again", known["files"]),
            ("rows in them", known["rows"]),
            ("new files", known["new_files"]),
            ("files that were read again", known["files_read_again"]),
            ("rows that were read", known["rows_read"]),
        ]
    caption = "What was taken over from an earlier night (events.incremental)"
    return [Table.of(caption, ("what", "value"), rows)]


def step_table(steps: Sequence[Step]) -> Table:
    whole = steps[0].number
    rows = [
        (
            step.label,
            ("\N{MINUS SIGN}" if step.kind == "drop" else "") + f"{step.number:,}",
            share(step.number / whole) if whole else "-",
            step.note,
        )
        for step in steps
    ]
    made = Table.of("Step by step", ("step", "number", "of the first", "note"), rows)
    return Table(made.caption, made.columns, made.rows, frozenset({1, 2}))


def days_picture(facts: Facts, bad: Mapping[str, int]) -> Picture:
    days = sorted({*facts.events_by_day, *bad})
    rows = [(day, facts.events_by_day.get(day, 0), bad.get(day, 0)) for day in reversed(days)]
    says = "Events that are left, by the day of their time (UTC)" + (
        ", and the bad rows of each day." if bad else "."
    )
    return Picture(
        "Day by day",
        says,
        charts.days_chart("days", facts.events_by_day, bad),
        Table.of("The newest day first", ("day", "events", "bad rows"), rows, ", of older days"),
    )


def bad_rows(facts: Facts) -> Section | None:
    if facts.bad is None or not facts.bad.table.num_rows:
        return None
    table = facts.bad.table
    by_day = table.group_by(["day", "reason"]).aggregate([("rows", "sum")]).to_pylist()
    by_file = table.group_by(["source_path", "reason"]).aggregate(
        [("rows", "sum"), ("day", "min"), ("day", "max")]
    )
    by_day.sort(key=lambda row: (-row["rows_sum"], row["day"] or "", row["reason"]))
    files = sorted(
        by_file.to_pylist(), key=lambda row: (-row["rows_sum"], row["source_path"], row["reason"])
    )
    per_day = table.filter(pc.is_valid(table["day"])).group_by("day").aggregate([("rows", "sum")])
    days = {row["day"]: row["rows_sum"] for row in per_day.sort_by("day").to_pylist()}
    says = "The day is that of the row's time; where that is unreadable, a date in the row or in "
    says += "the path of its file. The rows themselves lie in quarantine/ of this run."
    if facts.bad.num_left:
        says += f" {facts.bad.num_left:,} of its files were not counted here."
    tables = [
        Table.of(
            "By day, the most rows first",
            ("day", "bad rows", "reason"),
            [(r["day"] or "not known", r["rows_sum"], _reason(r["reason"])) for r in by_day],
            " in quarantine/",
        ),
        Table.of(
            "By input file, the most rows first",
            ("file", "bad rows", "days", "reason"),
            [(r["source_path"], r["rows_sum"], _span(r), _reason(r["reason"])) for r in files],
            " in quarantine/",
        ),
    ]
    figures = [days_picture(facts, days)] if days or facts.events_by_day else []
    return Section("bad-rows", "Bad rows", says, tables=tables, figures=figures)


def _reason(name: str) -> str:
    return REASONS.get(name, name)


def _span(row: Mapping[str, Any]) -> str:
    first, last = row["day_min"], row["day_max"]
    return "not known" if first is None else first if first == last else f"{first} to {last}"


def timing(facts: Facts) -> Section | None:
    rows = timings(facts.night, facts.earlier)
    if not rows:
        return None
    total = sum(seconds for _, seconds, _ in rows)
    says = "Usual: the median of the earlier nights." if facts.earlier else ""
    picture = Picture(
        "Seconds per stage",
        says,
        charts.timings_chart("timings", rows),
        Table.of("Seconds", ("stage", "seconds", "usual"), rows),
    )
    tiles = [("All stages", f"{total:,.0f} s")]
    return Section("timings", "Timings", tiles=tiles, figures=[picture])
