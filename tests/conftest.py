"""One Ray and one S3 server per process, one toy log and one published night for all of them.

Nights run as users run them: as processes.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.faults.rig.nights import QUIET

os.environ |= QUIET  # before Ray is imported anywhere
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is

import pytest
from published import Published

from diffsasrec.progress import HEARTBEAT
from jobs.faults.rig.nights import Nights, tiny_config, toy_log
from jobs.faults.rig.s3_server import BUCKET, aws_variables, run_s3

RAY = {"cluster", "head", "own_ray"}  # fixtures that start one
# files that hold a process for long, the longest first; two processes take them turn by turn
LONGEST = (
    "test_published_night",  # makes the night that others copy
    "test_night_on_s3",  # does not wait for it
    "test_signals",
    "test_recovery",
    "test_nightly",
    "test_submit",
    "test_experiment",
    "test_old_lakes",
    "test_reliability",
)


@pytest.hookimpl(tryfirst=True)  # before -m chooses by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if RAY & set(getattr(item, "fixturenames", ())):
            item.add_marker("ray")
    items.sort(key=turn_of)


def turn_of(item: pytest.Item) -> int:
    """What takes long goes first, so that all else runs beside it."""
    name = item.path.stem
    if name in LONGEST:
        return LONGEST.index(name)
    return len(LONGEST) + (item.get_closest_marker("night") is None)


def made_once(shared: Path, name: str, make: Callable[[Path], Any]) -> Any:
    """What `make` gives as JSON for a directory of that name; one process makes it for all."""
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        done = shared / f"{name}.json"
        if not done.exists():
            (shared / name).mkdir(exist_ok=True)
            done.write_text(json.dumps(make(shared / name)))
        return json.loads(done.read_text())


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of all processes of this session; what is in it is read and never changed."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bucket; the AWS variables point to its server for the whole session."""
    with run_s3(tmp_path_factory.mktemp("s3")) as endpoint, aws_variables(endpoint):
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="session")
def cluster(s3: str) -> Iterator[dict[str, str]]:
    """A local Ray with two CPUs; the environment with which other processes join it.

    It comes after the S3 server: its workers have the AWS variables of the moment it starts.
    """
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="WARNING",
        object_store_memory=512 * 2**20,
    )
    address = ray.get_runtime_context().gcs_address
    yield {"RAY_ADDRESS": address}
    ray.shutdown()


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """The heartbeats from now on."""
    counted: list[None] = []
    monkeypatch.setattr(HEARTBEAT, "beat", lambda: counted.append(None))  # to be counted
    return counted


@pytest.fixture(scope="session")
def toy(shared: Path) -> Path:
    def write(directory: Path) -> None:
        toy_log().to_parquet(directory / "events.parquet")

    made_once(shared, "log", write)
    return shared / "log" / "events.parquet"


@pytest.fixture
def nights(cluster: dict[str, str], tmp_path: Path) -> Nights:
    return Nights(tmp_path, cluster)


@pytest.fixture(scope="session")
def published(cluster: dict[str, str], toy: Path, shared: Path) -> Published:
    """An undisturbed night with a fixed run id, two workers and two actors that explores."""

    def publish(directory: Path) -> list[Any]:
        config = tiny_config(str(toy), str(directory / "lake"))
        config["model"] |= {"attention": "bidirectional"}
        config["score"] |= {"decode": "multi", "filter_seen": True}
        return [config, *Nights(directory, cluster).run(config, "--run-id", "calm")]

    config, *result = made_once(shared, "night", publish)
    return Published(config, shared / "night" / "lake", tuple(result))
