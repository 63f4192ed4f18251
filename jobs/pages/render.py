"""Facts -> HTML pages that need nothing but themselves."""

from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from jobs.pages.facts import STAGES, Facts, Night
from jobs.pages.notice import nights as in_words
from jobs.pages.notice import share
from jobs.pages.sections import sections
from jobs.pages.unusual import notices
from jobs.pages.worth import calm, days

STATUS = {
    "published": "Published",
    "done": "Done, not published",
    "refused": "Refused, nothing published",
    "failed": "Failed, nothing published",
    "unfinished": "Not finished",
}
COLUMNS = ("NDCG", "Best counter", "Coverage", "Lists", "Bad rows", "Seconds")


@cache
def _environment() -> Environment:
    # ids and titles come from the log: everything is escaped
    return Environment(
        loader=PackageLoader("jobs.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def night_page(facts: Facts) -> str:
    shown = sections(facts)
    past = in_words(len(facts.earlier)) if facts.earlier else "no earlier night"
    return _environment().get_template("night.html.j2").render(
        night=facts.night,
        status=STATUS[facts.night.status],
        sections=shown,
        ids={section.id for section in shown},
        notices=notices(facts),
        calm=calm(facts),
        past=past,
    )  # fmt: skip


def index_page(
    nights: Sequence[tuple[Night, bool]], current: Mapping[str, str], *, dates: int
) -> str:
    """One row per run; with a link where there is a report. `current`: ds and run_id, or {}."""
    rows = [
        {
            "night": night,
            "is_current": current == {"ds": night.ds, "run_id": night.run_id},
            "href": f"../runs/ds={night.ds}/{night.run_id}/report.html" if has_report else "",
            "cells": _cells(night),
        }
        for night, has_report in nights
    ]
    page = _environment().get_template("index.html.j2")
    return page.render(rows=rows, columns=COLUMNS, dates=dates)


def _cells(night: Night) -> list[str]:
    ndcg, counter, coverage = night.metric("NDCG"), night.best_counter(), night.metric("Coverage")
    age = f", {days(night.days_since_measured)} old" if night.cited else ""
    seconds = [s for stage in STAGES if (s := night.seconds(stage)) is not None]
    return [
        "-" if ndcg is None else f"{ndcg:.4f}{age}",
        "-" if counter is None else f"{counter[0]} {counter[1]:.4f}",
        "-" if coverage is None else f"{coverage:.3f}",
        "-" if night.num_lists is None else f"{night.num_lists:,}",
        "-" if night.bad_share is None else share(night.bad_share),
        f"{sum(seconds):,.0f}" if seconds else "-",
    ]
