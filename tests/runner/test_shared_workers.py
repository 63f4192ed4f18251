"""Stages that train one after another share their workers, which are let go before other work."""

import subprocess
import sys

import pytest

from diffsasrec.lake.stages import STAGES
from jobs.runner.main import _trains_behind


@pytest.mark.parametrize(
    ("stage", "to_do", "trains"),
    [
        ("prepare", STAGES, True),
        ("pretrain", STAGES, True),
        ("finetune", STAGES, False),  # evaluate needs the places of the workers
        ("refit", STAGES, False),
        ("pretrain", ["pretrain"], False),
        ("pretrain", ["finetune"], True),  # another command has begun it anew meanwhile
        ("pretrain", ["pretrain", "refit", "score"], True),  # the stages between are done
    ],
)
def test_workers_stay_if_the_next_stage_to_do_trains(stage: str, to_do: list[str], trains: bool):
    assert _trains_behind(stage, [*to_do]) == trains


@pytest.mark.process
def test_sharing_workers_that_nothing_has_started_imports_neither_ray_nor_torch():
    code = """
import sys
from jobs.training.sharing import workers_shared
with workers_shared() as shared:
    shared.let_go()
assert not {"ray", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
