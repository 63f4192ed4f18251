"""Facts -> HTML pages that need nothing but themselves."""

from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from diffsasrec.config.config import Config
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import read_chain
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import REPORT, STAGES

from .. import called
from .facts import Facts, Night
from .read_run import all_nights, read_facts
from .sections.night import sections
from .sections.notices import notices
from .sections.parts import nights as in_words
from .sections.parts import share
from .sections.quality import calm, days

INDEX = "reports/index.html"
INDEX_DATES = 90  # on the page of all nights: a quarter

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
        loader=PackageLoader(__name__.removesuffix(".pages")),
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
        report=called("report"),
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


def write_report(run: RunDir, config: Config | None) -> None:
    """Writes report.html of a run, however far it has come, and the index of nights anew.

    `config`: None where it is not known; that of the manifest is taken then.
    """
    page = night_page(read_facts(run, config))
    run.storage.write_bytes(REPORT, page.encode())
    write_index(run.lake)


def write_index(lake: Storage) -> None:
    nights, chain = list(all_nights(lake, dates=INDEX_DATES)), read_chain(lake)
    current = chain[-1].current if chain else {}
    lake.write_bytes(INDEX, index_page(nights, current, dates=INDEX_DATES).encode())
