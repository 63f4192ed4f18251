"""What the report says of a night: facts from records, and what is unusual among them."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from recorded import counts_of, metrics_of, microseconds, records_of

from diffsasrec.inputs.quarantine import SCHEMA, BadRows
from jobs.report.facts import Facts, Night, curves, timings, usual
from jobs.report.sections.charts import flow_chart, intervals_chart, scores_chart
from jobs.report.sections.model import over_nights
from jobs.report.sections.notices import notices, where_they_are
from jobs.report.sections.parts import Table, share, text
from jobs.report.sections.quality import calm, compared, in_a_tile, measured_before
from jobs.report.sections.svg import VARIABLES
from jobs.report.steps import holdout_steps, row_steps, user_steps

DS = "2024-03-01"
CALM = Night(
    DS,
    "calm",
    "published",
    numbers=(7,),
    records={
        stage: {"seconds": 10.0, **record}
        for stage, record in records_of(DS, counts_of(), seconds=30.0).items()
    },
    metrics=metrics_of(0.25),
)
BEFORE = tuple(replace(CALM, ds=f"2024-02-2{n}") for n in range(5, 9))


def facts_of(night: Night = CALM, **more) -> Facts:
    return Facts(**{"night": night, "earlier": BEFORE, "trained_before": microseconds(DS), **more})


def with_counts(stage: str, **counts: int) -> Night:
    record = CALM.records[stage]
    changed = {**record, "counts": {**record["counts"], **counts}}
    return replace(CALM, records={**CALM.records, stage: changed})


def with_newest(num_bad: int) -> Night:
    part = {"kind": "day", "name": "2024-02-29", "rows": 2000, "bad": 100}
    newest = {"num_bad": num_bad, "worst": {"day": 0.05}, "bad": [part] * min(num_bad, 3)}
    record = {**CALM.records["prepare"], "newest": newest}
    return replace(CALM, records={**CALM.records, "prepare": record})


def titles(facts: Facts) -> list[tuple[str, str]]:
    return [(notice.level, notice.title) for notice in notices(facts)]


def test_every_row_is_an_event_or_left_out_under_a_name():
    steps = row_steps({"rows": 100, "kept": 80, "null_time": 5, "after_run_date": 15,
                       "duplicate": 7, "rare_item": 3, "events": 70})  # fmt: skip
    assert [(s.label, s.number, s.kind) for s in steps] == [
        ("rows read", 100, "total"),
        ("no time", 5, "drop"),
        ("at or after the run date", 15, "drop"),
        ("exact duplicates", 7, "drop"),
        ("of rare items", 3, "drop"),
        ("events", 70, "total"),
    ]


def test_rows_that_nothing_accounts_for_are_shown_as_such():
    steps = row_steps({"rows": 100, "kept": 100, "events": 98})
    assert [(s.label, s.number) for s in steps][1:2] == [("unaccounted for", 2)]


def test_a_prepare_that_stopped_shows_how_far_it_came():
    steps = row_steps({"rows": 100, "kept": 60, "malformed_row": 40})
    assert [(s.label, s.number) for s in steps] == [
        ("rows read", 100),
        ("broken line", 40),
        ("good rows", 60),
    ]


def test_users_end_in_lists_by_source():
    steps = user_steps(
        {"users": 10}, {"model": 6, "popular": 1, "left_out_inactive": 3}, {"rows": 7}
    )
    assert [(s.label, s.number) for s in steps] == [
        ("users", 10),
        ("inactive", 3),
        ("lists", 7),
        ("of the model", 6),
        ("fallback", 1),
        ("short lists", 0),
        ("lists published", 7),
    ]


def test_users_without_a_holdout_item_are_counted_by_reason():
    steps = holdout_steps({"users": 60, "no_event_after_split": 20, "holdout_users": 40})
    assert [(s.label, s.number) for s in steps] == [
        ("users", 60),
        ("no event after the split", 20),
        ("holdout users", 40),
    ]


def test_what_is_usual_is_the_median_of_the_nights_that_know_it():
    assert usual([3.0, None, 1.0, 100.0]) == 3.0
    assert usual([None]) is None


def test_stages_stand_beside_their_usual_seconds():
    earlier = [replace(CALM, records={"refit": {"seconds": 20.0}})]
    found = timings(CALM, earlier)
    assert found[0] == ("prepare", 10.0, None)
    assert ("refit", 30.0, 20.0) in found


def test_the_curves_of_the_training_are_in_the_order_of_their_time():
    epoch = [{"epoch": 1, "loss": 2.0}]
    records = {
        "refit": {"history": {"refit-finetune": epoch, "refit-pretrain": epoch}},
        "pretrain": {"history": {"pretrain": epoch, "select-pretrain": []}},
        "finetune": {"history": {"finetune": epoch}},
    }
    assert list(curves(records)) == ["pretrain", "finetune", "refit-pretrain", "refit-finetune"]


def test_a_narrow_range_of_probabilities_has_no_powers_on_its_axis():
    svg = scores_chart("s", [(1, 0.02, 0.04, 0.06), (2, 0.02, 0.03, 0.05)], "rank")
    assert "mathdefault" not in svg and "2 %" in svg
    assert "mathdefault" not in scores_chart("s", [(1, 0.0001, 0.04, 0.6)], "rank")


def test_a_night_like_the_others_has_nothing_unusual():
    assert notices(facts_of()) == []


def test_newest_rows_that_are_bad_are_unusual_by_themselves():
    assert notices(facts_of(with_newest(0))) == []
    (notice,) = notices(facts_of(with_newest(1)))
    assert notice.level == "bad"
    assert notice.title == (
        "Many of the newest rows are bad: 100 of 2,000 rows of 2024-02-29, 5.00 %"
    )
    (notice,) = notices(facts_of(with_newest(5)))
    assert notice.seen.endswith("; and in 2 more days or files.")


def test_a_night_without_earlier_ones_has_nothing_unusual_either():
    assert notices(facts_of(earlier=())) == []


def test_a_planted_day_of_bad_rows_is_named_with_its_file():
    night = replace(CALM, records={"prepare": {"counts": counts_of(bad=900)}})
    bad = pa.table(
        {
            "reason": ["null_item_id", "unparsable_time"],
            "source_path": ["log/dt=2024-02-10/part-3.parquet", "log/rest.parquet"],
            "day": ["2024-02-10", None],
            "rows": [897, 3],
        },
        SCHEMA,
    )
    (notice,) = notices(facts_of(night, bad=BadRows(bad, 1, 0)))
    assert (notice.level, notice.title) == (
        "bad",
        "900 bad rows, 4.50 % of the log, far more than usual",
    )
    assert notice.seen == (
        "no item id: 897, unreadable time: 3. By day: 897 on 2024-02-10. By file: 897 in "
        "log/dt=2024-02-10/part-3.parquet, 3 in log/rest.parquet. Of 3 no day is known."
    )
    assert notice.usual == "0 % (median of the last 4 nights)"


def test_of_many_days_and_files_the_worst_three_are_named():
    rows = [("r", f"{n}.parquet", f"2024-02-1{n}", n) for n in range(1, 6)]
    table = pa.Table.from_pylist(
        [dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA
    )
    assert where_they_are(table) == (
        "By day: 5 on 2024-02-15, 4 on 2024-02-14, 3 on 2024-02-13 and more in 2 other days. "
        "By file: 5 in 5.parquet, 4 in 4.parquet, 3 in 3.parquet and more in 2 other files."
    )


@pytest.mark.parametrize(
    ("night", "level", "title"),
    [
        (
            replace(CALM, status="refused", stage="evaluate", error="the gate refuses"),
            "bad",
            "This night was refused in evaluate; nothing was published",
        ),
        (
            replace(CALM, status="unfinished", stage="score"),
            "look",
            "This night has not finished in score; nothing was published",
        ),
        (replace(CALM, metrics=metrics_of(0.25, coverage=0.5)), "bad",
         "Coverage@5 is far below the last nights"),
        (with_counts("prepare", rows=17_000, kept=16_880, events=16_380), "bad",
         "Only 17,000 rows were read"),
        (with_counts("prepare", kept=18_880, after_run_date=1_120, events=18_380), "look",
         "1,120 rows lie at or after the run date"),
        (with_counts("score", model=40, popular=20), "look", "20 fallback lists"),
        (with_counts("score", short_lists=6), "look", "6 lists are shorter than K"),
        (with_counts("score", quarantined_users=2), "bad",
         "The scoring of 2 users ended its process"),
        (replace(CALM, records={**CALM.records, "refit": {"seconds": 95.0}}), "look",
         "The stage refit took 95 seconds"),
    ],
)  # fmt: skip
def test_what_differs_from_the_last_nights_is_said(night: Night, level: str, title: str):
    assert titles(facts_of(night)) == [(level, title)]


def test_a_model_that_no_counter_needs_to_fear_is_said_with_what_is_usual():
    first, second = notices(facts_of(replace(CALM, metrics=metrics_of(0.18))))
    assert first.title == "The model is no better than own most frequent"
    assert first.seen == "NDCG@5 is 0.1800; own most frequent has 0.2000."
    assert first.usual == "1.25 times the best counter (median of the last 4 nights)"
    assert second.title == "NDCG@5 is far below the last nights"


def test_figures_of_an_earlier_rule_are_neither_compared_nor_drawn():
    far_below = replace(CALM, metrics=metrics_of(0.21) | {"protocol": 2})
    facts = facts_of(far_below)
    assert titles(facts) == [] and over_nights(facts) == []
    assert not compared(facts)["quality"]
    assert "Not compared, for want of figures: quality." in calm(facts)
    same = tuple(replace(past, metrics=far_below.metrics) for past in BEFORE[2:])
    facts = facts_of(far_below, earlier=(*BEFORE[:2], *same))
    assert measured_before(facts) == list(same) and compared(facts)["quality"]
    assert len(over_nights(facts)) == 2


CITED = {"ds": "2024-02-25", "run_id": "weekly", "age_days": 5}


def reusing(ndcg: float, **changes) -> Night:
    """A calm night that serves the weights of five days ago, with their figures."""
    spared: dict[str, Any] = {
        stage: {"counts": {}} for stage in ("pretrain", "finetune", "evaluate", "refit")
    }
    records = {**CALM.records, **spared}
    return replace(CALM, records=records, metrics=metrics_of(ndcg), cited=CITED, **changes)


def test_weights_of_another_night_that_lose_to_a_counter_are_said_with_their_age():
    first, _ = notices(facts_of(reusing(0.18)))
    assert (first.level, first.title) == ("bad", "The model is no better than own most frequent")
    assert first.seen == (
        "NDCG@5 is 0.1800; own most frequent has 0.2000. Measured on the night of 2024-02-25 "
        "(run weekly), whose weights serve: 5 days old. Nothing was measured on this night."
    )
    assert "report of 2024-02-25" in first.remedy


def test_the_figures_of_a_run_are_not_compared_with_themselves():
    measured = Night("2024-02-25", "weekly", "published", metrics=metrics_of(0.25))
    citing = replace(reusing(0.25), ds="2024-02-28")
    facts = facts_of(reusing(0.25), earlier=(measured, citing))
    assert measured_before(facts) == []
    assert not compared(facts)["quality"]
    other = replace(measured, run_id="other")
    assert measured_before(facts_of(reusing(0.25), earlier=(other, citing))) == [other]


def test_only_what_was_compared_is_as_usual():
    assert calm(facts_of()) == (
        "Rows, quality, lists, weights and timings are as usual, beside the last 4 nights."
    )
    citing = tuple(replace(reusing(0.25), ds=past.ds) for past in BEFORE)
    assert calm(facts_of(reusing(0.25), earlier=citing, trained_before=None)) == (
        "Rows, lists and timings are as usual, beside the last 4 nights. Not compared, for want of "
        "figures: quality and weights. Measured on the night of 2024-02-25 (run weekly), whose "
        "weights serve: 5 days old. Nothing was measured on this night."
    )
    assert calm(facts_of(reusing(0.25), earlier=())).startswith("There is no earlier night")
    nothing = Night("2024-02-28", "x", "published")
    assert calm(facts_of(earlier=(nothing,), trained_before=None)) == (
        "Not compared, for want of figures: rows, quality, lists, weights and timings."
    )


def test_figures_that_are_gone_are_no_good_figures():
    assert titles(facts_of(replace(CALM, metrics=None))) == [
        ("look", "The quality of the weights is not known")
    ]
    assert in_a_tile(replace(CALM, metrics=None)) == "not known"
    assert in_a_tile(CALM) == "NDCG@5 0.2500; own most frequent 0.2000"


def test_a_night_without_a_single_list_is_not_calm():
    assert titles(facts_of(with_counts("score", model=0, popular=0))) == [
        ("bad", "No list was made")
    ]


def test_a_night_without_holdout_users_has_no_quality_to_compare():
    nothing = metrics_of(float("nan"))
    nothing["model"]["n"] = 0
    night = replace(CALM, metrics=nothing)
    assert titles(facts_of(night)) == [("bad", "Nothing was measured")]
    assert notices(facts_of(earlier=(night, *BEFORE))) == []


def test_weights_and_logs_that_are_old_are_said():
    weights = facts_of(trained_before=microseconds("2024-02-25"))
    assert titles(weights) == [("look", "The weights that serve are 5 days old")]
    prepare = {**CALM.records["prepare"], "time_quantiles": [0, microseconds("2024-02-24")]}
    log = replace(CALM, records={**CALM.records, "prepare": prepare})
    earlier = (replace(BEFORE[0], ds=DS),)
    assert titles(facts_of(log, earlier=earlier)) == [
        ("look", "The newest event is 6 days older than the run date")
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 %"),
        (1e-6, "less than 0.001 %"),
        (0.00012, "0.012 %"),
        (0.0123, "1.23 %"),
        (1, "100.0 %"),
    ],
)
def test_shares_are_shown_with_the_digits_that_they_need(value: float, shown: str):
    assert share(value) == shown


def test_a_long_table_says_how_much_it_leaves_out():
    table = Table.of("all", ("n",), [(n,) for n in range(1_103)], " in the log")
    assert len(table.rows) == 100 and table.left_out == "1,003 more rows in the log."
    assert table.numbers == {0}
    assert [text(v) for v in (None, "a", 1234, 0.12345, 1234.5)] == [
        "-", "a", "1,234", "0.1235", "1,234.5"
    ]  # fmt: skip


def test_a_chart_has_its_colours_from_the_page_and_its_text_as_text():
    svg = intervals_chart("q", [("model", (0.2, 0.1, 0.3)), ("<b>$x$", (0.1, 0.0, 0.2))], "NDCG@5")
    assert "var(--main)" in svg and "var(--ink)" in svg
    assert not any(colour in svg for colour in VARIABLES)
    assert "&lt;b&gt;$x$</text>" in svg and "<b>" not in svg
    assert "http" not in svg.replace("http://www.w3.org/", "")


def test_a_chart_is_the_same_bytes_each_time_and_no_ids_are_shared():
    steps = [("rows read", 100, "total"), ("no time", 5, "drop"), ("events", 95, "total")]
    assert flow_chart("a", steps) == flow_chart("a", steps)
    assert "\N{MINUS SIGN}5" in flow_chart("a", steps)
