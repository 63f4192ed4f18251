"""Nights that are killed, that overlap, or in which one user ends every process."""

import time
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from published import Published, add_done

from jobs.faults.rig.nights import DATE, NightProcess, Nights, digests, injected, run_dir

pytestmark = [pytest.mark.ray, pytest.mark.night]

PARTS = f"recommendations/ds={DATE}/*.parquet"


def test_a_night_killed_again_and_again_publishes_the_same_bytes(
    published: Published, nights: Nights, cluster: dict[str, str], tmp_path: Path
):
    config = {**published.config, "lake": str(tmp_path / "lake")}
    run, calm = run_dir(tmp_path / "lake", "calm"), run_dir(published.lake, "calm")
    in_prepare = nights.start(config, "--run-id", "calm")
    in_prepare.wait_for_line("prepare: reading")
    time.sleep(1)
    in_prepare.kill()
    in_pretrain = nights.start(config, "--run-id", "calm")
    in_pretrain.wait_for_line("pretrain: started")
    in_pretrain.kill()
    add_done(published, tmp_path / "lake", ("pretrain", "finetune", "evaluate"))
    in_refit = nights.start(config, "--run-id", "calm")
    in_refit.wait_for_file(run, "state/refit-finetune/*/step-*")
    in_refit.kill()
    in_score = nights.start(config, "--run-id", "calm")
    kill_a_worker_in(in_score, "refit", run, "refit-finetune", cluster["RAY_ADDRESS"])
    in_score.wait_for_file(run, "recommendations/part-*")
    in_score.kill()
    assert "train: it failed (" in in_score.log_path.read_text()
    # Ray writes nothing of its own into the lake, whose faults it could not bear
    assert not (run / "state" / "ray").exists()
    weights = "checkpoint/*.safetensors"
    assert digests(run, weights) == digests(calm, weights) != {}
    code, last, log = nights.run(config, "--run-id", "calm")
    assert (code, last["status"]) == (0, "done"), log
    assert digests(tmp_path / "lake", PARTS) == digests(published.lake, PARTS) != {}


def kill_a_worker_in(night: NightProcess, stage: str, run: Path, phase: str, address: str) -> None:
    """Ends one of the processes that train on a cluster, after it has saved a step of a phase."""
    before = {*run.glob(f"state/{phase}/*/step-*")}
    night.wait_for_line(f"{stage}: started")
    workers: list[psutil.Process] = []
    while not workers or {*run.glob(f"state/{phase}/*/step-*")} <= before:
        assert night.process.poll() is None, night.log_path.read_text()
        found = psutil.process_iter(["cmdline"]) if not workers else ()
        workers += [
            p
            for p in found
            if "RayTrainWorker" in " ".join(p.info["cmdline"] or []) and is_of(p, address)
        ]
        time.sleep(0.005)
    workers[0].kill()


def is_of(worker: psutil.Process, address: str) -> bool:
    """Whether the Ray at an address has started a process; another test may have its own."""
    with suppress(psutil.NoSuchProcess):
        raylet = worker.parent()
        return raylet is not None and f"--gcs-address={address}" in raylet.cmdline()
    return False


def test_two_attempts_that_overlap_publish_the_same_bytes_once(
    published: Published, nights: Nights, tmp_path: Path
):
    config, lake = published.unscored(tmp_path / "lake")
    attempts = [nights.start(config, "--run-id", "calm") for _ in range(2)]
    results = [attempt.finish() for attempt in attempts]
    assert [code for code, _, _ in results] == [0, 0], results
    assert digests(lake, PARTS) == digests(published.lake, PARTS) != {}
    assert len(list(lake.glob("recommendations/_published/*"))) == 1


def test_a_user_who_ends_every_process_costs_one_list(published: Published, tmp_path: Path):
    config, lake = published.unscored(tmp_path / "lake")
    own_ray = Nights(tmp_path, injected(users=[7]))
    code, last, log = own_ray.run(config, "--run-id", "calm")
    assert code == 0, log
    assert last["counts"]["score"]["quarantined_users"] == 1
    rows, undisturbed = (
        {row["user_id"]: row for row in pq.read_table(root / "recommendations").to_pylist()}
        for root in (run_dir(lake, "calm"), run_dir(published.lake, "calm"))
    )
    assert [user for user, row in rows.items() if row["source"] == "popular"] == [7]
    for user in rows.keys() - {7}:
        items, expected = (
            [item["item_id"] for item in table[user]["items"]] for table in (rows, undisturbed)
        )
        assert items == expected
