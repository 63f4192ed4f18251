"""What a cluster that loses processes needs of the stages."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
import ray.data
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError
from sources import ROOT
from trainings import (
    DIVERGED,
    DIVERGING,
    MODELS,
    PRETRAIN,
    make_job,
    result,
    train,
    weights,
    write_run,
)

from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.progress import Board
from diffsasrec.ray_cluster import set_up_data
from diffsasrec.train.phases import Job
from diffsasrec.train.ray_workers import Workers, outlive_failures, start_board

pytestmark = pytest.mark.ray


def test_the_progress_board_of_a_training_outlives_its_process(cluster):
    board = start_board()
    ray.get(board.call_for.remote(1, ["work"]))
    ray.get(board.write.remote("pretrain", 1, 9, ""))
    process = psutil.Process(ray.get(board.__ray_call__.remote(lambda _: os.getpid())))
    process.kill()
    process.wait()
    # a new one, which knows nothing yet
    assert ray.get(board.next.remote(0), timeout=60) is None
    assert ray.get(board.call_for.remote(1, ["work"])) == (None, 0)
    assert ray.get(board.next.remote(0)) == (1, ["work"])
    ray.get(board.write.remote("pretrain", 2, 9, ""))
    assert ray.get(board.call_for.remote(1, ["work"])) == (("pretrain", 2, 9, ""), 0)


def test_what_is_said_of_one_work_is_not_said_of_the_next():
    board = Board()
    assert board.call_for(1, ["work"]) == (None, 0)
    board.write("pretrain", 9, 9, "")
    assert board.next(1) is None
    assert board.call_for(1, ["work"]) == (("pretrain", 9, 9, ""), 1)
    assert board.call_for(2, ["more"]) == (None, 1)
    assert board.next(1) == (2, ["more"])


def test_a_store_that_fails_while_an_actor_loads_does_not_end_a_stage(cluster, tmp_path: Path):
    class FailsAtFirst:
        def __init__(self, directory: Path) -> None:
            tries = len(list(directory.iterdir()))
            (directory / str(tries)).touch()
            if tries < 2:
                raise OSError("the store does not answer")

        def __call__(self, batch):
            return batch

    before = ray.data.DataContext.get_current().max_consecutive_actor_init_deaths
    set_up_data()
    try:
        rows = ray.data.range(3, override_num_blocks=1).map_batches(
            FailsAtFirst,
            fn_constructor_args=(tmp_path,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=1),
        )
        assert sorted(row["id"] for row in rows.iter_rows()) == [0, 1, 2]
    finally:
        ray.data.DataContext.get_current().max_consecutive_actor_init_deaths = before


class Worked(Exception):
    """What Ray makes of an exception of a worker: it is among the fields of another one."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__("a traceback")
        self._base_exc = raised


@pytest.mark.parametrize(
    ("raised", "tries"),
    [(ConfigError("x"), 1), (InfrastructureError("x"), 3), (RuntimeError("x"), 3)],
)
def test_what_a_retry_cannot_mend_is_not_tried_again(raised: Exception, tries: int):
    count = []

    def fit() -> None:
        count.append(1)
        raise WorkerGroupError("of rank 1", {1: Worked(raised)})

    with pytest.raises(WorkerGroupError):
        outlive_failures(fit, most=2)
    assert len(count) == tries


def job_of(num_workers: int, root: Path) -> Job:
    job = make_job(root, MODELS["causal"])
    return replace(job, train=job.train.model_copy(update={"num_workers": num_workers}))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_go_on_with_what_comes_next_and_one_that_diverges_ends_at_once_with_its_words(
    cluster, tmp_path: Path, caplog, num_workers: int
):
    write_run(tmp_path)
    before = replace(PRETRAIN, name="before", output="before")
    with Workers(job_of(num_workers, tmp_path)) as workers:
        workers.train([before], log_interval=1)
        group = workers.group
        assert result(tmp_path, "before")["epochs"] == 2
        workers.train([before], log_interval=1)  # it is done
        assert workers.group is group is not None
        with pytest.raises(ConfigError, match=DIVERGED):
            workers.train([DIVERGING], log_interval=1)
    assert "starting it again" not in caplog.text
    assert not (tmp_path / "state/pretrain/result.json").exists()


def test_another_one_follows_a_worker_alone_that_dies_with_the_weights_of_a_training_without_ray(
    cluster, tmp_path: Path, caplog
):
    write_run(tmp_path / "ray")
    write_run(tmp_path / "here")
    before = replace(PRETRAIN, name="before", output="before")
    with Workers(job_of(1, tmp_path / "ray")) as workers:
        workers.train([before], log_interval=1)
        family = psutil.Process().children(recursive=True)
        (worker,) = [p for p in family if "ray::_train_alone" in " ".join(p.cmdline())]
        worker.kill()
        workers.train([PRETRAIN], log_interval=1)
    assert caplog.text.count("starting it again") == 1
    train(job_of(1, tmp_path / "here"), PRETRAIN)
    assert weights(tmp_path / "ray") == weights(tmp_path / "here")


@pytest.mark.process
def test_a_worker_alone_imports_neither_ray_train_nor_torchs_compiler(tmp_path: Path):
    write_run(tmp_path)
    code = f"""
import sys
from pathlib import Path
from trainings import MODELS, PRETRAIN, make_job, train
import diffsasrec.train.ray_workers
train(make_job(Path({str(tmp_path)!r}), MODELS["causal"]), PRETRAIN)
assert not {{"ray.train", "ray.data", "torch._dynamo"}} & set(sys.modules)
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})


@pytest.mark.parametrize(("deaths", "ends"), [(0, True), (2, True), (3, False)])
def test_a_training_outlives_so_many_controllers(deaths: int, ends: bool):
    tries = []

    def fit() -> None:
        tries.append(1)
        if len(tries) <= deaths:
            raise ActorDiedError

    if ends:
        outlive_failures(fit, most=2)
    else:
        with pytest.raises(ActorDiedError):
            outlive_failures(fit, most=2)
    assert len(tries) == min(deaths, 2) + 1
