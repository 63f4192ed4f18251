"""Facts -> the sections of a report: tiles, tables, charts with the table of their numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from markupsafe import Markup

from diffsasrec.exposure import binned_quantile, cumulative_shares
from jobs.pages import charts
from jobs.pages.facts import (
    REASONS,
    Facts,
    Night,
    Step,
    User,
    curves,
    holdout_steps,
    row_steps,
    timings,
    user_steps,
)
from jobs.pages.unusual import nights, share

MOST_ROWS = 100  # of a table: the rest is in the run's files


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()  # the columns that are numbers
    left_out: str = ""

    @classmethod
    def of(
        cls, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], rest: str = ""
    ) -> "Table":
        """Numbers as people read them; at most MOST_ROWS rows."""
        shown = [[text(cell) for cell in row] for row in rows[:MOST_ROWS]]
        kinds = (int, float, np.integer, np.floating)
        numbers = {n for row in rows for n, cell in enumerate(row) if isinstance(cell, kinds)}
        left = len(rows) - len(shown)
        left_out = f"{left:,} more rows{rest}." if left else ""
        return cls(caption, columns, shown, frozenset(numbers), left_out)


@dataclass(frozen=True)
class Picture:
    title: str
    says: str
    svg: Markup
    table: Table


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    says: str = ""
    tiles: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Picture] = ()
    users: Sequence[User] = ()


def text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"


def sections(facts: Facts) -> list[Section]:
    """Those that there is anything to show of, in the order of the page."""
    made: list[Callable[[Facts], Section | None]] = [
        published,
        flow,
        bad_rows,
        quality,
        training,
        lists,
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
        "holdout": ("Who the model is measured on", "A user's first event after the split whose "
                    "item was known before it."),
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
    if not figures:
        return None
    return Section("flow", "What went in and came out", figures=figures)


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
            ("file", "bad rows", "reason", "days"),
            [(r["source_path"], r["rows_sum"], _reason(r["reason"]), _span(r)) for r in files],
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


def quality(facts: Facts) -> Section | None:
    night = facts.night
    if night.metrics is None:
        return None
    k, rows = night.k, {"model": night.metrics["model"], **night.metrics["baselines"]}
    number = night.metrics["model"]["n"]
    if not number:
        return Section("quality", "Quality", "Nothing was measured: no user has a holdout item.")
    names = ["model", *sorted(set(rows) - {"model"}, key=lambda n: -rows[n][f"NDCG@{k}"])]
    figures = [
        Picture(
            f"{metric}@{k}",
            f"The next item after the split, {number:,} holdout users.",
            charts.intervals_chart(
                f"quality-{metric}",
                [(n, (rows[n][f"{metric}@{k}"], *rows[n][f"{metric}@{k}_ci"])) for n in names],
                f"{metric}@{k}",
            ),
            Table.of(
                f"{metric}@{k}",
                ("list", "value", "low", "high"),
                [(n, rows[n][f"{metric}@{k}"], *rows[n][f"{metric}@{k}_ci"]) for n in names],
            ),
        )
        for metric in ("NDCG", "HR")
    ]
    figures += over_nights(facts)
    metrics = [m for m in night.metrics["model"] if m.endswith(f"@{k}")]
    table = Table.of(
        f"All metrics, {number:,} holdout users",
        ("list", *metrics),
        [(name, *(rows[name].get(metric) for metric in metrics)) for name in names],
    )
    return Section("quality", "Quality", tables=[table], figures=figures)


def over_nights(facts: Facts) -> list[Picture]:
    """The metrics of the model over the nights, this one last."""
    shown = [*(past for past in facts.earlier if past.metrics), facts.night]
    if len(shown) < 2:
        return []
    days, k = [night.ds for night in shown], facts.night.k
    same = [night if night.k == k else Night(night.ds, night.run_id, "") for night in shown]
    counters = [best[1] if (best := night.best_counter()) else None for night in same]
    figures = []
    for metric in ("NDCG", "Coverage"):
        lines = {"model": [night.metric(metric) for night in same]}
        columns = ["night", "model"]
        if metric == "NDCG":
            lines["best counter"] = counters
            columns.append("best counter")
        figures.append(
            Picture(
                f"{metric}@{k} over the nights",
                f"This night beside {nights(len(shown) - 1)}.",
                charts.nights_chart(
                    f"nights-{metric}", days, lines, [night.interval(metric) for night in same]
                ),
                Table.of(
                    "The newest first",
                    columns,
                    list(reversed(list(zip(days, *lines.values(), strict=True)))),
                ),
            )
        )
    return figures


def training(facts: Facts) -> Section | None:
    found = curves(facts.night.records)
    figures = []
    for key, title, says in (
        ("loss", "Training loss", "The mean over each epoch."),
        ("NDCG@10", "Validation", "NDCG@10 on the second cut, which selects the epochs."),
    ):
        values = {p: [e[key] for e in epochs if key in e] for p, epochs in found.items()}
        values = {phase: series for phase, series in values.items() if series}
        if values:
            rows = [
                (phase, n, value)
                for phase, series in values.items()
                for n, value in enumerate(series, 1)
            ]
            svg = charts.loss_chart(f"training-{key.partition('@')[0]}", values, key)
            figures.append(
                Picture(title, says, svg, Table.of(title, ("phase", "epoch", key), rows))
            )
    if not figures:
        return None
    says = "pretrain and finetune see what lies before the split and are measured; the refit is "
    says += "the same recipe to the run date."
    return Section("training", "Training", says, figures=figures)


def lists(facts: Facts) -> Section | None:
    if facts.lists is None:
        return None
    found, exposure = facts.lists, facts.lists.exposure
    total = sum(exposure.sources.values())
    says = "" if found.num_read == found.num_buckets else (
        f"From the first {found.num_read} of {found.num_buckets:,} bucket files; a bucket is a "
        "random sample of the users."
    )  # fmt: skip
    shown = int((exposure.shown > 0).sum())
    tiles = [
        ("Lists looked at", f"{total:,}"),
        ("Different items in them", f"{shown:,}"),
        ("Of all items", share(shown / max(len(exposure.shown), 1))),
    ]
    tables = [
        Table.of(
            "Where the lists come from",
            ("source", "lists", "share"),
            [(s, n, share(n / total)) for s, n in sorted(exposure.sources.items())],
        ),
        Table.of(
            "How long they are",
            ("items", "lists", "share"),
            [(n, c, share(c / total)) for n, c in sorted(exposure.lengths.items(), reverse=True)],
        ),
    ]
    figures = [*_tail(facts), *_scores(facts)]
    return Section("lists", "The lists", says, tiles=tiles, tables=tables, figures=figures)


def _tail(facts: Facts) -> list[Picture]:
    assert facts.lists is not None
    shares = cumulative_shares(facts.lists.exposure.shown, by=facts.lists.log_counts)
    if not shares:
        return []
    says = "How much falls on the most popular items. Where the lists lie above the log, they "
    says += "favour what is popular already; below, they reach further into the long tail."
    rows = [(n, share(log), share(shown)) for n, log, shown in shares]
    made = Table.of("Cumulative shares", ("items", "of the log", "of the lists"), rows)
    made = Table(made.caption, made.columns, made.rows, frozenset({0, 1, 2}))
    return [Picture("Popularity", says, charts.tail_chart("tail", shares), made)]


def _scores(facts: Facts) -> list[Picture]:
    assert facts.lists is not None
    low, middle, high = 0.1, 0.5, 0.9

    def chance(counts: npt.NDArray[np.int64], quantile: float) -> float:
        return math.exp(binned_quantile(counts, quantile))

    rows = [
        (rank, chance(counts, low), chance(counts, middle), chance(counts, high))
        for rank, counts in sorted(facts.lists.exposure.scores.items())
        if counts.sum()
    ]
    if not rows:
        return []
    says = "The probability that the item is the next one, by its rank: the median of the lists of "
    says += "the model, and between which values eight in ten lie."
    table = Table.of("Probability by rank", ("rank", "a tenth below", "median", "a tenth above"),
                     [(r, *(share(v) for v in values)) for r, *values in rows])  # fmt: skip
    table = Table(table.caption, table.columns, table.rows, frozenset(range(4)))
    return [Picture("How sure the model is", says, charts.scores_chart("scores", rows), table)]


def users(facts: Facts) -> Section | None:
    if not facts.users:
        return None
    says = "A short, a middling and a long history of the first bucket"
    says += ", and a fallback list." if facts.users[-1].source != "model" else "."
    if facts.no_titles:
        says += f" No titles: {facts.no_titles}."
    return Section("users", "Some users", says, users=facts.users)


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
