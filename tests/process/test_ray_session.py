"""A Ray that does not start, and one that a wrong variable keeps from starting."""

import os
import subprocess
import sys

import pytest

from jobs.faults.rig.nights import QUIET, ROOT

START = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from diffsasrec.errors import DiffsasrecError
from jobs.process.ray_session import start_ray
try:
    start_ray(waits=(0.1, 1.0))
except DiffsasrecError as error:
    print(type(error).__name__, error)
"""


def start(**variables: str) -> list[str]:
    """What a process says that starts Ray with these variables."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", START],
        cwd=ROOT,
        env={**env, **QUIET, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.process
def test_a_ray_that_does_not_start_is_tried_again_and_then_explained():
    first, second, last = start(RAY_TMPDIR="/proc/nowhere")
    assert first.startswith("no Ray starts on this machine: FileNotFoundError: [Errno 2]")
    assert first.endswith("trying again in 0:00") and second.endswith("trying again in 0:01")
    assert last.startswith("InfrastructureError no Ray starts on this machine: FileNotFoundError")
    assert "attempts: 3. Is this machine short of memory" in last


def test_an_address_that_is_none_is_the_fault_of_who_set_it():
    (said,) = start(RAY_ADDRESS="nonsense")
    assert said.startswith("ConfigError Ray can't be started with RAY_ADDRESS=nonsense: Invalid")
