"""Kills nodes and processes of a cluster during a night: its lists must be the same.

The cluster is a Ray of several nodes on this machine: a head without CPUs, on which the night's
driver runs, and two nodes with two CPUs each. Whatever dies is killed with SIGKILL while it works.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from .rig.nights import (
    DATE,
    QUIET,
    NightProcess,
    Nights,
    digests,
    run_dir,
    tiny_config,
    toy_log,
)

RUN_ID = "kept"  # of all nights: the names of the published files are compared too
STORE = 100 * 2**20  # bytes of each node's object store
STATE = "state/{}/*/step-*"

# the moments of the kill, and the titles that Ray gives to the processes that work then
PROCESS_TITLES = {
    "shuffle": ("Map", "Reduce", "Shuffle", "Repartition"),
    "pretrain": ("RayTrainWorker",),
    "refit": ("RayTrainWorker",),
    "score": ("MapWorker",),
}
ACTORS = {"progress board": ("Board",), "controller": ("TrainController",)}  # without CPUs


def cells(short: bool) -> list[dict[str, str]]:
    if short:
        return [{"dies": "node", "when": "pretrain"}, {"dies": "node", "when": "score"}]
    tries = [{"dies": dies, "when": when} for dies in ("node", "worker") for when in PROCESS_TITLES]
    return [*tries, *({"dies": dies, "when": "pretrain"} for dies in ACTORS)]


def measure(cell: dict[str, str], place: Path) -> dict[str, Any]:
    calm = undisturbed(place.parent)
    with start_cluster() as cluster:
        started = time.monotonic()
        night = start_night(place, cluster)
        wait_until(cell["when"], night, run_dir(place / "lake", RUN_ID))
        killed = kill(cell["dies"], cluster, PROCESS_TITLES[cell["when"]])
        code, last, _ = night.finish(timeout=1800)
    parts = published(place)
    return {
        "right": code == 0 and parts == calm,
        "code": code,
        "seconds": round(time.monotonic() - started, 1),
        "killed": killed,
        "error": last.get("error"),
    }


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [result["seconds"] for result in results]
    return {"exit_0": sum(r["code"] == 0 for r in results), "longest_seconds": max(seconds)}


@contextmanager
def start_cluster() -> Iterator[Cluster]:
    os.environ |= QUIET  # the nodes inherit it, as the night does
    node = {"object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, **node)
        yield cluster
    finally:
        cluster.shutdown()


@cache
def undisturbed(directory: Path) -> dict[str, str]:
    """What an undisturbed night publishes; it runs once for all tries."""
    place = directory / "nodes-undisturbed"
    if (place / "lake" / "recommendations" / f"ds={DATE}" / "_SUCCESS").exists():
        return published(place)
    place.mkdir(exist_ok=True)
    with start_cluster() as cluster:
        code, _, text = start_night(place, cluster).finish(timeout=1800)
    assert code == 0, text
    return published(place)


def start_night(place: Path, cluster: Cluster) -> NightProcess:
    toy_log().to_parquet(place / "events.parquet")
    config = tiny_config(str(place / "events.parquet"), str(place / "lake"))
    config["split"] = {"users_per_bucket": 3}  # files enough to be in the middle of them
    config["stall_timeout"] = 300
    return Nights(place, {"RAY_ADDRESS": cluster.address}).start(config, "--run-id", RUN_ID)


def published(place: Path) -> dict[str, str]:
    return digests(place / "lake", f"recommendations/ds={DATE}/*.parquet")


def wait_until(when: str, night: NightProcess, run: Path) -> None:
    if when == "shuffle":
        night.wait_for_line("grouping by user")
    elif when == "score":
        night.wait_for_file(run, "recommendations/part-*")
    else:
        night.wait_for_file(run, STATE.format({"refit": "refit-pretrain"}.get(when, when)))


def kill(what: str, cluster: Cluster, titles: tuple[str, ...]) -> str:
    """Kills a working process, or the node it runs on; returns the title of the process."""
    worker = find_worker(cluster, ACTORS.get(what, titles))
    title = " ".join(worker.cmdline()[:1])
    if what != "node":
        worker.kill()
        return title
    node = next(n for n in cluster.worker_nodes if raylet(n).pid == worker.ppid())
    family = raylet(node).children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    for process in family:  # a machine takes all of them along
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return title


def find_worker(cluster: Cluster, titles: tuple[str, ...]) -> psutil.Process:
    """A process below one of the nodes whose title has one of `titles`, once there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for node in (cluster.head_node, *cluster.worker_nodes):
            for process in raylet(node).children():
                with suppress(psutil.NoSuchProcess):
                    if any(title in " ".join(process.cmdline()[:1]) for title in titles):
                        return process
        time.sleep(0.005)
    raise AssertionError(f"no process named {' or '.join(titles)} on any node")


def raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)
