"""The cells of an experiment as a table, with intervals."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffsasrec.evaluate.metrics import bootstrap_means

from .grid import SASREC

log = logging.getLogger("jobs")

SAMPLES = 2000  # of the bootstrap over users
METRICS = ("NDCG", "HR", "MRR", "Coverage", "NextRecall", "Diversity")


@dataclass(frozen=True)
class Line:
    """A variant on one log: its users' NDCG gains, averaged over seeds, and its other figures."""

    gains_U: npt.NDArray[np.float64]
    figures: dict[str, float]


def lines_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Line]]:
    """data -> variant -> line."""
    lines: dict[str, dict[str, Line]] = {}
    for row in rows:
        same = [r for r in rows if (r["data"], r["variant"]) == (row["data"], row["variant"])]
        names = (*METRICS, "seconds", "sequences")
        lines.setdefault(row["data"], {})[row["variant"]] = Line(
            np.mean([r["gains"] for r in same], axis=0),
            {name: float(np.mean([r[name] for r in same])) for name in names},
        )
    return lines


def best_baseline(rows: list[dict[str, Any]], data: str) -> str:
    """The counter or the causal SASRec with the best NDCG on a log."""
    candidates = [
        row
        for row in rows
        if row["data"] == data and (row["kind"] == "counter" or row["variant"] == SASREC)
    ]
    return str(max(candidates, key=lambda row: row["NDCG"])["variant"])


def table(rows: list[dict[str, Any]]) -> str:
    """Per log and over all logs: NDCG with interval, its ratio to the best baseline, the rest."""
    lines = lines_of(rows)
    k = rows[0]["k"]
    text: list[str] = []
    ratios: dict[str, dict[str, tuple[float, Any]]] = {}
    for data, variants in lines.items():
        best = best_baseline(rows, data)
        names = list(variants)
        means = bootstrap_means(
            np.stack([line.gains_U for line in variants.values()]), samples=SAMPLES, seed=0
        )
        users = len(next(iter(variants.values())).gains_U)
        text.append(f"\n{data}, {users} holdout users, at {k}; ratio to {best}")
        head = "".join(f"{name:>11}" for name in (*METRICS[1:], "seconds", "sequences"))
        text.append(f"{'':28}{'NDCG':>25}{'ratio':>23}{head}")
        base = means[:, names.index(best)]
        for at in sorted(range(len(names)), key=lambda n: -variants[names[n]].figures["NDCG"]):
            line = variants[names[at]]
            with np.errstate(divide="ignore", invalid="ignore"):  # where no baseline ever hits
                ratio = np.float64(line.figures["NDCG"]) / variants[best].figures["NDCG"]
                sampled = means[:, at] / base
            ratios.setdefault(names[at], {})[data] = (ratio, sampled)
            rest = "".join(f"{line.figures[name]:>11.4f}" for name in METRICS[1:])
            rest += "".join(f"{line.figures[name]:>11.0f}" for name in ("seconds", "sequences"))
            text.append(
                f"{names[at]:28}{line.figures['NDCG']:>9.4f} {interval(means[:, at])}"
                f"{ratio:>8.3f} {interval(sampled, 3)}{rest}"
            )
    text.append("\nall logs, geometric mean of the ratios")
    for name, per_data in ratios.items():
        if len(per_data) == len(lines):
            with np.errstate(divide="ignore"):  # a variant that never hits has a mean of 0
                mean = np.exp(np.mean([np.log(ratio) for ratio, _ in per_data.values()]))
                logs = np.mean([np.log(sampled) for _, sampled in per_data.values()], axis=0)
            text.append(f"{name:28}{mean:>8.3f} {interval(np.exp(logs), 3)}")
    return "\n".join(text).lstrip("\n")


def interval(samples: npt.NDArray[np.float64], digits: int = 4) -> str:
    with np.errstate(invalid="ignore"):  # ratios to a baseline that no resampled user hits
        low, high = np.quantile(samples, [0.025, 0.975])
    return f"({low:.{digits}f}-{high:.{digits}f})"
