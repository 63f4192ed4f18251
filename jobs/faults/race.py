"""Publishers that all add their run to one chain at the same moment.

Each of 16 processes waits at a barrier, then appends its run to an empty chain, in a local
directory or on the real S3 server. The numbers must be 1..16 without a gap, one for each run, and
each publisher must know which one is its own.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import append_entry, read_chain
from diffsasrec.lake.run_dir import RunDir

from .rig.s3_server import BUCKET, aws_variables, run_s3

PUBLISHERS = 16
DATE = "2024-03-01"


def cells(*, short: bool) -> list[dict[str, Any]]:
    rounds, publishers = (5, 4) if short else (100, PUBLISHERS)
    return [
        {"store": store, "publishers": publishers, "rounds": rounds} for store in ("local", "s3")
    ]


def measure(cell: dict[str, Any], place: Path) -> dict[str, Any]:
    if cell["store"] == "local":
        return _measure(cell, str(place / "lake"))
    with run_s3(place) as endpoint, aws_variables(endpoint):
        return _measure(cell, f"s3://{BUCKET}/race")


def _measure(cell: dict[str, Any], lake: str) -> dict[str, Any]:
    started = time.monotonic()
    publishers = cell["publishers"]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(publishers)
    with ProcessPoolExecutor(publishers, context, _wait_at, (barrier,)) as pool:
        wrong: list[str] = []
        for number in range(cell["rounds"]):
            root = f"{lake}/round-{number}"
            claims = list(pool.map(publish, [root] * publishers, range(publishers)))
            wrong += wrong_claims(claims, Storage.of(root))
    return {
        "right": not wrong,
        "wrong": wrong[:5],
        "published": cell["rounds"] * publishers,
        "seconds": round(time.monotonic() - started, 1),
    }


_BARRIER: list[Barrier] = []  # of a publisher's process


def _wait_at(barrier: Barrier) -> None:
    _BARRIER.append(barrier)


def publish(root: str, publisher: int) -> dict[str, Any]:
    """Appends this publisher's run to the chain at `root` once all of them are there."""
    run = RunDir(
        Storage(root), DATE, f"run-{publisher}", identity="", attempt=f"attempt-{publisher}"
    )
    _BARRIER[0].wait()
    entry, won = append_entry(run.lake, run, manifest_sha256="")
    return {"run_id": run.run_id, "number": entry.number, "won": won}


def wrong_claims(claims: list[dict[str, Any]], lake: Storage) -> list[str]:
    """Where a publisher's belief and the chain differ; runs that are in no entry or in two."""
    chain = {entry.number: entry.run_id for entry in read_chain(lake)}
    wrong = [
        f"{claim} but entry {claim['number']} is {chain.get(claim['number'])}"
        for claim in claims
        if not claim["won"] or chain.get(claim["number"]) != claim["run_id"]
    ]
    if sorted(chain.values()) != sorted(claim["run_id"] for claim in claims):
        wrong.append(f"the chain has {sorted(chain.values())}")
    return wrong


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "published": sum(result["published"] for result in results),
        "lost_or_doubled": sum(len(result["wrong"]) for result in results),
        "seconds": sum(result["seconds"] for result in results),
    }
