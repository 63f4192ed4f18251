"""Prints the end of a night for people: the metrics, some lists, and where everything is."""

from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.lake.chain import newest_by_date, read_chain
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.sequences.buckets import bucket_name

from ..runs.published_runs import metrics_of

NUM_USERS = 3
EVENTS_SHOWN = 5  # events of a history that are shown


def print_summary(config: Config, run: RunDir) -> None:
    metrics, cited = metrics_of(run.storage)
    print()
    if cited is not None:
        print(f"nothing measured tonight: weights and figures of run {cited['run_id']} of", end=" ")
        print(f"{cited['ds']}, {cited['age_days']} days old")
    print(metrics_table(metrics, k=max(config.evaluate.ks)))
    if (line := warning(metrics, k=max(config.evaluate.ks))) is not None:
        print(line)
    print()
    for line in user_lines(run):
        print(line)
    published = run.lake.url(f"recommendations/ds={run.ds}")
    print(f"\nlists    {published}")
    print(f"run      {run.storage.root}")
    number = newest_by_date(read_chain(run.lake))[run.ds].number
    query = f"from read_parquet('{published}/part-{run.run_id}-{number:08d}-*.parquet') limit 5"
    print(f'read     python -c "import duckdb; duckdb.sql(\\"{query}\\").show()"')


def warning(metrics: dict[str, Any], *, k: int) -> str | None:
    """A warning where the model is not worth its training."""
    baselines = {name: row[f"NDCG@{k}"] for name, row in metrics["baselines"].items()}
    if not baselines:
        return None
    best = max(baselines, key=lambda name: baselines[name])
    if metrics["model"][f"NDCG@{k}"] > baselines[best]:
        return None
    return (
        f"WARNING: the model is no better than {best}; on a small log give it more epochs. "
        "gate.floors keeps such a night from being published."
    )


def metrics_table(metrics: dict[str, Any], *, k: int) -> str:
    """The model and its baselines with 95 % intervals, best NDCG first."""
    rows = {"model": metrics["model"], **metrics["baselines"]}
    names = sorted(rows, key=lambda name: -rows[name][f"NDCG@{k}"])
    number = metrics["model"]["n"]
    lines = [f"next basket after the split, {number} holdout users, 95 % intervals"]
    lines.append(
        f"{'':20}"
        + "".join(f"{f'{m}@{k}':>24}" for m in ("NDCG", "HR", "MRR"))
        + f"{'Coverage':>11}"
    )
    for name in names:
        cells = ""
        for metric in ("NDCG", "HR", "MRR"):
            low, high = rows[name][f"{metric}@{k}_ci"]
            cells += f"{rows[name][f'{metric}@{k}']:>9.4f} ({low:.4f}-{high:.4f})".rjust(24)
        lines.append(f"{name:20}{cells}{rows[name][f'Coverage@{k}']:>11.3f}")
    return "\n".join(lines)


def user_lines(run: RunDir) -> list[str]:
    """The lists of a few users beside the tail of their histories."""
    name = bucket_name(0)
    lists = run.storage.read_table(f"recommendations/{name}")
    lists = lists.filter(pc.equal(lists["source"], "model")).slice(0, NUM_USERS)
    sequences = run.storage.read_table(f"sequences/{name}")
    items = run.storage.read_tables("vocab")["item_id"]
    lines = []
    for user, row in zip(lists["user_id"], lists.to_pylist(), strict=True):
        history = sequences.filter(pc.equal(sequences["user_id"], user)).to_pylist()[0]
        events = list(zip(history["items"], history["times"], strict=True))
        tail = [
            f"{items[index].as_py()} ({datetime.fromtimestamp(time / 1e6, UTC):%d %b})"
            for index, time in events[-EVENTS_SHOWN:]
        ]
        shown = ", ".join(str(item["item_id"]) for item in row["items"])
        lines.append(f"user {row['user_id']}: {row['history_len']} events, last {', '.join(tail)}")
        lines.append(f"{'':>7}next: {shown}")
    return lines
