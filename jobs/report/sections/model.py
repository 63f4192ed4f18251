"""The sections of a report on the model: quality, training, lists, some users."""

import math

import numpy as np
import numpy.typing as npt

from diffsasrec.evaluate.exposure import binned_quantile, cumulative_shares

from ..facts import Facts, Night, curves
from . import charts
from .parts import Picture, Section, Table, nights, share
from .quality import slice_in_words, whose_figures


def quality(facts: Facts) -> Section | None:
    night = facts.night
    if night.metrics is None:
        return None
    says = whose_figures(night)
    k, rows = night.k, {"model": night.metrics["model"], **night.metrics["baselines"]}
    number = night.metrics["model"]["n"]
    if not number:
        return Section("quality", "Quality", f"No user has a holdout item. {says}".strip())
    names = ["model", *sorted(set(rows) - {"model"}, key=lambda n: -rows[n][f"NDCG@{k}"])]
    figures = [
        Picture(
            f"{metric}@{k}",
            f"The next basket after the split, {number:,} holdout users.",
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
    tables = [table, *by_slices(night)]
    tiles = [(f"NDCG@{k} of the model", f"{night.metric('NDCG'):.4f}")]
    if (counter := night.best_counter()) is not None:
        tiles.append((f"Best counter: {counter[0]}", f"{counter[1]:.4f}"))
    tiles.append(("Measured", night.measured))
    return Section("quality", "Quality", says, tiles=tiles, tables=tables, figures=figures)


def by_slices(night: Night) -> list[Table]:
    """The parts of the holdout, beside the counter that was the best on the second cut."""
    metrics = night.metrics or {}
    found = metrics.get("slices", [])
    if not found:
        return []
    counter, metric = metrics["versus"]["counter"], f"NDCG@{night.k}"
    columns = ("part", "users", metric, "low", "high", f"above {counter}", "low", "high")
    rows = [
        (
            slice_in_words(row),
            row["n"],
            row[metric],
            *row[f"{metric}_ci"],
            row["difference"],
            *row["difference_ci"],
        )
        for row in found
    ]
    return [Table.of("Parts of the holdout", columns, rows)]


def over_nights(facts: Facts) -> list[Picture]:
    """The metrics of the model over the nights that measured by one rule, the newest last."""
    shown = [*facts.measured_earlier, *([] if facts.night.cited else [facts.night])]
    if len(shown) < 2:
        return []
    says = f"This night beside {nights(len(shown) - 1)} that measured."
    if facts.night.cited is not None:
        says = f"Of {nights(len(shown))} that measured; this one did not."
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
                says,
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
    figures = [*_tail(facts), *_scores(facts), *_confidence(facts)]
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
    svg = charts.scores_chart("scores", rows, "rank in the list")
    return [Picture("How sure the model is", says, svg, table)]


def _confidence(facts: Facts) -> list[Picture]:
    if not facts.confidence:
        return []
    says = "The probability that an item had among all that was left when a step of decoding chose "
    says += "it, in some lists of the first bucket: the median, and where eight in ten lie."
    rows = [
        (c.step, c.kind, c.num_slots, share(c.low), share(c.middle), share(c.high))
        for c in facts.confidence
    ]
    columns = ("step", "chooses", "slots filled", "a tenth below", "median", "a tenth above")
    made = Table.of("Confidence by step", columns, rows)
    made = Table(made.caption, made.columns, made.rows, frozenset({0, 2, 3, 4, 5}))
    svg = charts.scores_chart(
        "confidence", [(c.step, c.low, c.middle, c.high) for c in facts.confidence], "step"
    )
    return [Picture("Confidence per step of decoding", says, svg, made)]


def users(facts: Facts) -> Section | None:
    if not facts.users:
        return None
    says = "A short, a middling and a long history of the first bucket"
    says += ", and a fallback list." if facts.users[-1].source == "popular" else "."
    if facts.no_titles:
        says += f" No titles: {facts.no_titles}."
    return Section("users", "Some users", says, users=facts.users)
