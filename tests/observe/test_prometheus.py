"""Metrics as Prometheus reads them, and alerts that name no others."""

import re
from dataclasses import replace
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from sources import ROOT

from jobs.observe.prometheus import MetricFacts, exposition

ALERTS = yaml.safe_load((ROOT / "jobs/alerts.yaml").read_text())
ROW = {"n": 9, "NDCG@5": 0.3, "NDCG@5_ci": [0.2, 0.4], "HR@5": 0.5, "MRR@5": 0.2, "Coverage@5": 0.7}
METRICS = {
    "model": ROW,
    "baselines": {"popular": {**ROW, "NDCG@5": 0.1}, "item-kNN": {**ROW, "NDCG@5": 0.2}},
}
OUTCOME: dict[str, Any] = {
    "ds": "2024-03-01",
    "run_id": "calm",
    "stage": "publish",
    "exit_code": 0,
    "ended": "2024-03-01T03:00:00+00:00",
    "seconds": {"prepare": 12.5, "score": 3.0},
    "counts": {
        "prepare": {"rows": 100, "kept": 90, "null_item_id": 6, "malformed_row": 1, "duplicate": 3},
        "score": {"model": 57, "popular": 3, "short_lists": 2},
    },
}
NEWEST = {"num_bad": 1, "worst": {"day": 0.02, "file": 0.3}, "bad": []}
DAY = 86400
DATE = 1709251200  # 2024-03-01


def facts(**changes: Any) -> MetricFacts:
    metrics = changes.pop("metrics", METRICS)
    current = {"ds": "2024-03-01", "run_id": "calm"}
    trained_before = (DATE - 3 * DAY) * 1_000_000
    return MetricFacts(
        {**OUTCOME, **changes}, metrics, 1e9, trained_before, NEWEST, current=current
    )


def samples(told: MetricFacts) -> dict[tuple[str, ...], float]:
    """The value of each sample by its name and the values of its labels, these by their names."""
    families = text_string_to_metric_families(exposition(told).decode())
    found = [sample for family in families for sample in family.samples]
    values = {
        (
            s.name.removeprefix("diffsasrec_"),
            *(s.labels[name] for name in sorted(s.labels)),
        ): s.value
        for s in found
    }
    assert len(values) == len(found) and all(s.name.startswith("diffsasrec_") for s in found)
    return values


def test_the_newest_rows_are_told_by_themselves():
    told = samples(facts())
    assert told["newest_bad",] == 1
    assert told["newest_bad_fraction", "day"] == 0.02
    assert told["newest_bad_fraction", "file"] == 0.3
    # a night that has not come so far
    assert ("newest_bad",) not in samples(replace(facts(), newest=None))


def test_a_night_that_was_published_is_told_in_numbers():
    told = samples(facts())
    assert told["last_success_timestamp_seconds",] == 1e9
    assert told["run_date_timestamp_seconds",] == DATE
    assert told["stage_duration_seconds", "prepare"] == 12.5
    assert (told["rows_read",], told["rows_kept",]) == (100, 90)
    assert told["rows_quarantined", "null_item_id"] == 6
    assert told["rows_quarantined", "malformed_row"] == 1
    assert told["rows_quarantined", "negative_time"] == 0  # a series that is there from the start
    assert told["rows_dropped", "duplicate"] == 3
    assert (told["lists", "model"], told["lists", "popular"], told["short_lists",]) == (57, 3, 2)
    assert told["weights_age_seconds",] == 3 * DAY
    assert {value for (name, *_), value in told.items() if name in ("failed", "refused")} == {0}


def test_the_model_stands_beside_the_counter_with_the_best_ndcg():
    told = samples(facts())
    assert told["ndcg", "5", "model", "model"] == 0.3
    assert told["ndcg", "5", "item-kNN", "best_counter"] == 0.2
    assert told["coverage", "5", "item-kNN", "best_counter"] == 0.7
    assert not any("popular" in key[1:] for key in told if key[0] != "lists")


def test_parts_of_the_holdout_are_told_by_where_they_begin():
    row = {"by": "history_events", "from": 3, "to": 10, "n": 7, "NDCG@5": 0.2, "difference": -0.1}
    told = samples(facts(metrics={**METRICS, "slices": [row]}))
    where = ("history_events", "3")
    assert told["slice_holdout_users", *where] == 7
    assert (told["slice_ndcg", *where], told["slice_ndcg_difference", *where]) == (0.2, -0.1)
    assert not any(key[0].startswith("slice_") for key in samples(facts()))


def test_figures_of_another_night_carry_their_age():
    assert samples(facts())["quality_age_seconds",] == 0
    cited = replace(facts(), measured="2024-02-25")
    told = samples(cited)
    assert told["quality_age_seconds",] == 5 * DAY
    assert told["ndcg", "5", "model", "model"] == 0.3
    assert told["holdout_users",] == 9


def test_tables_of_items_are_told_where_the_night_made_them():
    assert {"item_table_rows", "similar_items"}.isdisjoint(key[0] for key in samples(facts()))
    counts = {"similar_rows": 31, "similar_items": 5, "similar_items_by_category": 2}
    counts |= {"items_without_similar": 1, "trending_rows": 8, "trending_categories": 3}
    score = {**OUTCOME["counts"]["score"], **counts}
    told = samples(facts(counts={**OUTCOME["counts"], "score": score}))
    assert [told["item_table_rows", t] for t in ("similar_items", "trending")] == [31, 8]
    kinds = ("own", "category", "none")
    assert [told["similar_items", kind] for kind in kinds] == [5, 2, 1]


def test_a_refusal_of_the_gate_is_one_and_names_its_stage():
    told = samples(facts(stage="evaluate", exit_code=4))
    assert (told["refused", "gate"], told["refused", "audit"]) == (1, 0)
    assert (told["failed", "evaluate"], told["failed", "publish"]) == (1, 0)


def test_what_a_night_has_not_come_to_is_left_out():
    told = samples(
        MetricFacts({**OUTCOME, "stage": None, "exit_code": 5, "counts": {}}, None, None, None)
    )
    assert told["failed", "start"] == 1
    names = {key[0] for key in told}
    assert names.isdisjoint({"rows_read", "lists", "ndcg", "last_success_timestamp_seconds"})


def test_every_metric_that_an_alert_names_is_one_that_is_written():
    (group,) = ALERTS["groups"]
    written = {f"diffsasrec_{name}" for name, *_ in samples(facts())}
    for rule in group["rules"]:
        named = set(re.findall(r"diffsasrec_\w+", rule["expr"]))
        assert named and named <= written, rule["alert"]
        assert set(rule) >= {"alert", "expr", "labels"}
        assert len(rule["annotations"]["summary"]) > 50
    about = " ".join(rule["expr"] for rule in group["rules"])
    assert all(word in about for word in ("26 * 3600", "refused", "coverage", "quarantined"))


def test_boosts_are_told_where_there_are_any():
    assert not any(name[0].startswith("boosted") for name in samples(facts()))
    counts = {"boosted_items": 12, "boosted_places": 250, "places": 1000}
    found = samples(facts(counts={"score": counts}))
    told = {name[0]: value for name, value in found.items() if name[0].startswith("boosted")}
    assert told == {"boosted_items": 12, "boosted_fraction": 0.25}


def test_users_who_are_asked_for_are_told_where_a_table_says_so():
    assert not any(name[0].startswith("asked") for name in samples(facts()))
    found = samples(facts(counts={"score": {"asked": 1000, "asked_unknown": 30}}))
    told = {name[0]: value for name, value in found.items() if name[0].startswith("asked")}
    assert told == {"asked_users": 1000, "asked_unknown_users": 30}
