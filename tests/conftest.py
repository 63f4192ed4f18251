"""One Ray, one S3 server, one toy log per process; nights run as users run them: as processes."""

import os
from collections.abc import Iterator
from pathlib import Path

from jobs.faults.rig.nights import QUIET

os.environ |= QUIET  # before Ray is imported anywhere
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is

import pytest

from jobs.faults.rig.nights import Nights, tiny_config, toy_log
from jobs.faults.rig.s3_server import BUCKET, aws_variables, run_s3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # whole nights first: on two processes all else runs beside them
    items.sort(key=lambda item: item.get_closest_marker("night") is None)


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


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "events.parquet"
    toy_log().to_parquet(path)
    return path


@pytest.fixture
def nights(cluster: dict[str, str], tmp_path: Path) -> Nights:
    return Nights(tmp_path, cluster)


@pytest.fixture(scope="session")
def published(cluster, toy: Path, tmp_path_factory: pytest.TempPathFactory):
    """An undisturbed night with a fixed run id: its config, lake and result."""
    directory = tmp_path_factory.mktemp("night")
    config = tiny_config(str(toy), str(directory / "lake"))
    config["score"] |= {"decode": "multi", "filter_seen": True}
    result = Nights(directory, cluster).run(config, "--run-id", "calm")
    return config, directory / "lake", result
