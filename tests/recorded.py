"""A lake as nights leave it, written by hand: no night runs for it."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diffsasrec.config.config import Config
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.chain import append_entry
from diffsasrec.lake.manifest import manifest_for
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import OUTPUTS
from diffsasrec.schema import recommendations_schema, sequences_schema
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.times import DAY

ITEMS, USERS, K = 80, 60, 5
EVIL = '<script>alert("x")</script>'  # an item's title, and part of its id
BAD_DAY, BAD_FILE = "2024-02-10", "log/dt=2024-02-10/part-00003.parquet"


def settings_of(lake: Path) -> Config:
    titles = lake.parent / "titles.csv"
    if not titles.exists():
        lines = [f'{item_id(n)},"{title(n)}"' for n in range(ITEMS)]
        titles.write_text("\n".join(["item_id,title", *lines]))
    return Config.model_validate(
        {
            "lake": str(lake),
            "events": {"path": "log", "time_unit": "s"},
            "items": {"path": str(titles), "title_column": "title"},
            "score": {"k": K},
            "evaluate": {"ks": [K]},
            "gate": {"metric": f"NDCG@{K}", "floors": {f"NDCG@{K}": 0.1}},
        }
    )


def item_id(number: int) -> str:
    return "item-<b>0" if number == 0 else f"item-{number:03d}"


def title(number: int) -> str:
    return EVIL.replace('"', "") if number == 0 else f"Coffee ${number}$ & milk"


def microseconds(ds: str) -> int:
    return int((date.fromisoformat(ds) - date(1970, 1, 1)) / timedelta(days=1)) * DAY


def counts_of(*, rows: int = 20_000, bad: int = 0) -> dict[str, int]:
    left = rows - bad - 120
    return {
        "rows": rows,
        "kept": left,
        "after_run_date": 120,
        "duplicate": 300,
        "rare_item": 200,
        "events": left - 500,
        "users": USERS,
        "users_without_history": 1,
        "holdout_users": 40,
        "no_event_before_split": 8,
        "no_event_after_split": 12,
        "items": ITEMS,
        **({"null_item_id": bad - 3, "unparsable_time": 3} if bad else {}),
    }


def metrics_of(ndcg: float, *, coverage: float = 0.6) -> dict[str, Any]:
    def row(value: float, covered: float) -> dict[str, Any]:
        row: dict[str, Any] = {"n": 40, f"Coverage@{K}": covered, f"Gini@{K}": 0.5}
        for name, factor in (("HR", 1.5), ("NDCG", 1.0), ("MRR", 0.9)):
            row[f"{name}@{K}"] = value * factor
            row[f"{name}@{K}_ci"] = [value * factor * 0.95, value * factor * 1.05]
        return row

    baselines = {"popular": row(0.1, 0.05), "own most frequent": row(0.2, 0.9)}
    return {"model": row(ndcg, coverage), "baselines": baselines, "recent_popular_days": 7.0}


def records_of(ds: str, prepared: dict[str, int], *, seconds: float) -> dict[str, Any]:
    newest = microseconds(ds) - DAY // 2
    losses = {"loss": [4.2, 3.9, 3.7]}
    epochs = [
        {"epoch": n, "step": 10 * n, "loss": loss} for n, loss in enumerate(losses["loss"], 1)
    ]
    lists = {"model": USERS - 1, "popular": 1, "short_lists": 0, "quarantined_users": 0}
    return {
        "prepare": {
            "counts": prepared,
            "num_buckets": 1,
            "num_items": ITEMS,
            "split_time": microseconds(ds) - 5 * DAY,
            "second_cut": microseconds(ds) - 10 * DAY,
            "time_quantiles": [newest - 50 * DAY, newest],
        },
        "pretrain": {"counts": {}, "history": {"pretrain": epochs}},
        "finetune": {
            "counts": {},
            "history": {
                "select-finetune": [{**e, "NDCG@10": 0.2 + e["step"] / 1000} for e in epochs],
                "finetune": epochs[:2],
            },
        },
        "evaluate": {"counts": {"holdout_users": 40}, "popular_window": 3, "seconds": 12.5},
        "refit": {"counts": {}, "history": {"refit-finetune": epochs}, "seconds": seconds},
        "score": {"counts": lists},
        "publish": {"counts": {"rows": USERS, "chain_number": 1}, "published": "recommendations"},
    }  # fmt: skip


def records_that_cite(cites: str, run_id: str, ds: str, *, ndcg: float) -> dict[str, Any]:
    """Of the stages that the night of another date has done for this one."""
    age = (microseconds(ds) - microseconds(cites)) // DAY
    reused: dict[str, Any] = {"ds": cites, "run_id": run_id, "age_days": age}
    reused["trained_before"] = microseconds(cites)
    stages = ("pretrain", "finetune", "evaluate", "refit")
    records: dict[str, Any] = {
        stage: {"counts": {}, "reused": reused, "seconds": 0.0} for stage in stages
    }
    records["evaluate"] |= {"metrics": metrics_of(ndcg), "popular_window": 3}
    return records


def write_night(
    lake: Path,
    ds: str,
    *,
    run_id: str = "calm",
    ndcg: float = 0.25,
    bad: int = 0,
    seconds: float = 30.0,
    until: str = "publish",
    cites: str | None = None,
) -> RunDir:
    """A night that has done all stages up to `until`; with publish it is in the chain.

    `cites`: the run date of the night whose weights and figures (`ndcg`) serve this one as well.
    """
    storage = Storage.of(str(lake))
    run = RunDir(storage, ds=ds, run_id=run_id, identity=f"{ds}{run_id}", attempt="a")
    stages = list(OUTPUTS)
    done = stages[: stages.index(until) + 1]
    prepared = counts_of(bad=bad)
    records = records_of(ds, prepared, seconds=seconds)
    trained = ds if cites is None else cites
    if cites is not None:
        records |= records_that_cite(cites, run_id, ds, ndcg=ndcg)
    write_tables(run, ds)
    if bad:
        write_quarantine(run, bad)
    for stage in done:
        run.begin(stage)
        run.finish(stage, {"seconds": 10.0, **records[stage]})
    if "evaluate" in done and cites is None:
        run.storage.write_bytes("metrics.json", to_json(metrics_of(ndcg)))
    if "refit" in done:
        description = {"trained_before": microseconds(trained), "model_version": "0123456789ab"}
        run.storage.write_bytes("checkpoint/config.json", to_json(description))
    if "publish" in done:
        digest = manifest_for(run, {"ds": ds, "config": settings_of(lake).resolved(), "files": []})
        append_entry(storage, run, digest[1])
    return run


def write_quarantine(run: RunDir, bad: int) -> None:
    """Bad rows of one planted day and file, but three of another file without a readable time."""
    time = microseconds(BAD_DAY) // 1_000_000 + 3600
    rows = {
        "user_id": [f"u{n}" for n in range(bad)],
        "item_id": [None] * (bad - 3) + ["i"] * 3,
        "timestamp": [str(time)] * (bad - 3) + ["soon"] * 3,
        "reason": ["null_item_id"] * (bad - 3) + ["unparsable_time"] * 3,
        "source_path": [BAD_FILE] * (bad - 3) + ["log/rest.parquet"] * 3,
    }
    run.storage.write_table("quarantine/part-00000.parquet", pa.table(rows))


def history_row(user: int, ds: str, rng: np.random.Generator) -> dict[str, Any]:
    weights = 1 / np.arange(1, ITEMS + 1)
    length = 0 if user == USERS - 1 else int(rng.integers(2, 120))
    items = rng.choice(ITEMS, length, p=weights / weights.sum())
    times = np.sort(microseconds(ds) - rng.integers(1, 60 * DAY, length))
    known = {"items": items, "times": times, "num_before": 0, "holdout": None}
    return {"user_id": f"u{user}", **known}


def list_row(user: int, length: int, rng: np.random.Generator) -> dict[str, Any]:
    probable = np.sort(rng.dirichlet(np.ones(K)))[::-1] * 0.5
    chosen = [0, *rng.choice(np.arange(1, ITEMS), K - 1, replace=False)]
    return {
        "user_id": f"u{user}",
        "items": [
            {"item_id": item_id(item), "score": float(np.log(p)), "rank": rank}
            for rank, (item, p) in enumerate(zip(chosen, probable, strict=True), 1)
        ],
        "source": "model" if length else "popular",
        "history_len": length,
        "model_version": "0123456789ab",
    }


def write_tables(run: RunDir, ds: str) -> None:
    """Vocabulary, histories and lists of one bucket; the last user has the fallback."""
    rng = np.random.default_rng(0)
    histories, lists = [], []
    counts = np.zeros(ITEMS, np.int64)
    for user in range(USERS):
        histories.append(history_row(user, ds, rng))
        items = histories[-1]["items"]
        counts += np.bincount(items, minlength=ITEMS)
        lists.append(list_row(user, len(items), rng))
    name, strings = bucket_name(0), pa.string()
    ids = pa.array([item_id(n) for n in range(ITEMS)])
    for directory, table in (
        ("vocab", pa.table({"item_id": ids, "count": counts})),
        ("sequences", pa.Table.from_pylist(histories, sequences_schema(strings))),
        ("recommendations", pa.Table.from_pylist(lists, recommendations_schema(strings, strings))),
    ):
        run.storage.write_table(f"{directory}/{name}", table)
