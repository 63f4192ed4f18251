"""A night as Prometheus metrics, in the text format of node_exporter's textfile collector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from diffsasrec.errors import RefusedError
from diffsasrec.evaluate.protocol import protocol_of
from diffsasrec.inputs.row_checks import MALFORMED, NOT_READ, REASONS
from diffsasrec.lake.stages import OUTPUTS, REFUSING
from diffsasrec.schema import SOURCES

QUARANTINED = (*REASONS, MALFORMED)
DROPPED = (*NOT_READ, "duplicate", "over_max_user_events", "rare_item")
TABLE_ROWS = {"similar_items": "similar_rows", "trending": "trending_rows"}
SIMILAR = {
    "own": "similar_items",
    "category": "similar_items_by_category",
    "none": "items_without_similar",
}
SLICES = (  # name, key of a slice in metrics.json; None: NDCG at the largest cut-off
    ("slice_holdout_users", "n", "users with targets in a part of the holdout"),
    ("slice_ndcg", None, "NDCG of the model on a part of the holdout"),
    ("slice_ndcg_difference", "difference", "NDCG of the model less that of the counter beside it"),
)
QUALITY = {"ndcg": "NDCG", "hit_rate": "HR", "mrr": "MRR", "coverage": "Coverage"}


@dataclass(frozen=True)
class MetricFacts:
    """What is told of a night; None: not known."""

    outcome: dict[str, Any]  # as in outcome.json
    metrics: Mapping[str, Any] | None  # as in metrics.json
    last_success: float | None  # seconds since 1970: when something was published last
    trained_before: int | None  # microseconds: of the weights that make the lists
    newest: Mapping[str, Any] | None = None  # as prepare has judged the newest rows of the log
    measured: str | None = None  # run date of the night that measured; None: this one
    current: dict[str, str] | None = None  # ds and run_id of what is served, once it is published


def exposition(facts: MetricFacts) -> bytes:
    """All metrics of a night, without those that it has not come to."""
    page = _Page()
    _add_course(page, facts)
    counts = facts.outcome["counts"]
    if facts.current is not None:
        mine = {"ds": facts.outcome["ds"], "run_id": facts.outcome["run_id"]}
        what = "1 where this night is what is served as current once it is published"
        page.add("is_current", what, facts.current == mine)
        what = "run date of what is served as current"
        page.add("current_run_date_timestamp_seconds", what, _seconds(facts.current["ds"]))
    if "prepare" in counts:
        _add_rows(page, counts["prepare"])
    if facts.newest is not None:
        _add_newest(page, facts.newest)
    if "score" in counts:
        lists = {source: counts["score"].get(source, 0) for source in SOURCES}
        page.add_each("lists", "lists by what made them", "source", lists)
        short = counts["score"].get("short_lists", 0)
        page.add("short_lists", "lists of fewer than score.k items", short)
        _add_rules(page, counts["score"])
        _add_item_tables(page, counts["score"])
    if facts.metrics is not None:
        _add_quality(page, facts.metrics)
        age = _seconds(facts.outcome["ds"]) - _seconds(facts.measured or facts.outcome["ds"])
        what = "how long before this run date lies that of the night that measured; 0: this one"
        page.add("quality_age_seconds", what, age)
    if facts.trained_before is not None:
        before = facts.trained_before / 1e6
        page.add(
            "weights_trained_before_timestamp_seconds",
            "no event at or after it was trained on: of the weights that make the lists",
            before,
        )
        age = _seconds(facts.outcome["ds"]) - before
        page.add("weights_age_seconds", "age of these weights at the run date", age)
    return page.text()


class _Page:
    """Gauges in a registry of their own: it holds none of the process itself."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

    def add(self, name: str, what: str, value: float) -> None:
        Gauge(f"diffsasrec_{name}", what, registry=self._registry).set(value)

    def add_each(self, name: str, what: str, label: str, values: Mapping[str, float]) -> None:
        gauge = Gauge(f"diffsasrec_{name}", what, [label], registry=self._registry)
        for key, value in values.items():
            gauge.labels(key).set(value)

    def add_labelled(
        self, name: str, what: str, labels: Sequence[str], values: Mapping[Any, float]
    ) -> None:
        """`values` by the values of the labels, a tuple of as many."""
        gauge = Gauge(f"diffsasrec_{name}", what, labels, registry=self._registry)
        for key, value in values.items():
            gauge.labels(*key).set(value)

    def text(self) -> bytes:
        return generate_latest(self._registry)


def _seconds(ds: str) -> float:
    return datetime.fromisoformat(ds).replace(tzinfo=UTC).timestamp()


def _add_course(page: _Page, facts: MetricFacts) -> None:
    outcome = facts.outcome
    code, stage = outcome["exit_code"], outcome["stage"]
    if facts.last_success is not None:
        what = "when a night was published last"
        page.add("last_success_timestamp_seconds", what, facts.last_success)
    ended = datetime.fromisoformat(outcome["ended"]).timestamp()
    page.add("end_timestamp_seconds", "when this night ended, well or not", ended)
    page.add("run_date_timestamp_seconds", "run date, exclusive", _seconds(outcome["ds"]))
    page.add("exit_code", "of this night, 0: done", code)
    failed = {name: float(code != 0 and stage == name) for name in OUTPUTS}
    failed["start"] = float(code != 0 and stage is None)
    page.add_each("failed", "1 for the stage in which this night failed", "stage", failed)
    refused = {
        by: float(code == RefusedError.exit_code and stage == where)
        for by, where in REFUSING.items()
    }
    page.add_each("refused", "1 where this night was refused", "by", refused)
    what = "how long a stage took, in the attempt that ended it"
    page.add_each("stage_duration_seconds", what, "stage", outcome["seconds"])


def _add_rows(page: _Page, counts: dict[str, int]) -> None:
    page.add("rows_read", "rows of the log", counts["rows"])
    page.add("rows_kept", "rows that are events before the run date", counts["kept"])
    quarantined = {reason: counts.get(reason, 0) for reason in QUARANTINED}
    page.add_each("rows_quarantined", "bad rows by reason", "reason", quarantined)
    dropped = {reason: counts.get(reason, 0) for reason in DROPPED}
    page.add_each("rows_dropped", "good rows that are not used, by reason", "reason", dropped)


def _add_rules(page: _Page, counts: Mapping[str, int]) -> None:
    """Nothing where no table has boosts, or says who gets a list."""
    if "asked" in counts:
        page.add("asked_users", "users for whom score.users_path asks a list", counts["asked"])
        what = "those of them who are not in the log and get none"
        page.add("asked_unknown_users", what, counts["asked_unknown"])
    if "boosted_items" in counts:
        page.add("boosted_items", "items that are boosted", counts["boosted_items"])
        of_all = counts.get("boosted_places", 0) / max(counts.get("places", 0), 1)
        page.add("boosted_fraction", "share of the places of all lists that they have", of_all)


def _add_item_tables(page: _Page, counts: Mapping[str, int]) -> None:
    """Nothing where the night made no such tables."""
    rows = {table: counts[key] for table, key in TABLE_ROWS.items() if key in counts}
    if rows:
        page.add_each("item_table_rows", "rows of the tables of items", "table", rows)
    if "similar_items" in counts:
        items = {kind: counts[key] for kind, key in SIMILAR.items()}
        page.add_each("similar_items", "items by what their neighbours are", "neighbours", items)


def _add_newest(page: _Page, newest: Mapping[str, Any]) -> None:
    what = "days and files among the newest with a larger share than events.max_bad_fraction"
    page.add("newest_bad", what, newest["num_bad"])
    what = "share of bad rows, in the worst of the newest days, of the new files, and of all these"
    page.add_each("newest_bad_fraction", what, "part", newest["worst"])


def _add_quality(page: _Page, metrics: Mapping[str, Any]) -> None:
    """The model, and the best counter by NDCG at the largest cut-off."""
    ks = sorted(int(name.partition("@")[2]) for name in metrics["model"] if _is_ndcg(name))
    counters = metrics["baselines"]
    best = max(counters, key=lambda name: counters[name][f"NDCG@{ks[-1]}"])
    rows = {("model", "model"): metrics["model"], ("best_counter", best): counters[best]}
    page.add("holdout_users", "users that the model was measured on", metrics["model"]["n"])
    what = "the rule of measuring; figures of different rules can't be compared"
    page.add("protocol", what, protocol_of(metrics))
    for name, metric in QUALITY.items():
        values = {(*who, str(k)): row[f"{metric}@{k}"] for who, row in rows.items() for k in ks}
        what = f"{metric} on the holdout users of the night that measured"
        page.add_labelled(name, what, ("of", "name", "k"), values)
    slices = metrics.get("slices", [])
    for name, key, what in SLICES if slices else ():
        parts = {(row["by"], str(row["from"])): row[key or f"NDCG@{ks[-1]}"] for row in slices}
        page.add_labelled(name, what, ("by", "from"), parts)


def _is_ndcg(name: str) -> bool:
    return name.startswith("NDCG@") and not name.endswith("_ci")
