"""Toy nights as users run them, as processes: what the reliability figures and the tests break."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml

ROOT = Path(__file__).parents[3]
JOBS = __name__.removesuffix(".faults.rig.nights")
IN_CHECKOUT = JOBS == "jobs"  # then it is found from ROOT alone
DATE = "2024-03-01"
QUIET = {  # a Ray that starts fast, says little and gives each worker one thread
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "OMP_NUM_THREADS": "1",
    # what nobody looks at: lines of workers, sent to the driver, and the load of each process
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "86400",
    "REPORTER_UPDATE_INTERVAL_MS": "600000",
}


def toy_log(num_users: int = 60, num_items: int = 60, seed: int = 0) -> pd.DataFrame:
    """Users who walk through the items in a circle, at round minutes, so that ties are common."""
    rng = np.random.default_rng(seed)
    start = int(pd.Timestamp("2024-01-01").timestamp())
    rows = []
    for user in range(num_users):
        length = int(rng.integers(3, 40))
        steps = rng.choice([1, 1, 1, 2], length).cumsum() + rng.integers(num_items)
        times = start + np.sort(rng.integers(0, 59 * 24 * 4, length)) * 900
        rows.append(
            pd.DataFrame({"user_id": user, "item_id": steps % num_items, "timestamp": times})
        )
    log = pd.concat(rows).sample(frac=1, random_state=seed).reset_index(drop=True)
    return log.assign(item_id="item-" + log.item_id.astype(str).str.zfill(3))


def tiny_config(log: str, lake: str) -> dict[str, Any]:
    stage = {"epochs": 2, "batch_size": 16, "warmup_steps": 5, "checkpoint_every_steps": 2}
    return {
        "lake": lake,
        "log_interval": 0.5,
        "events": {"path": log, "time_unit": "s"},
        "split": {"users_per_bucket": 25},
        "model": {"hidden_size": 16, "num_blocks": 1, "num_heads": 2, "max_seq_len": 12},
        "pretrain": stage,
        # given, so that nothing is trained to the second cut
        "finetune": {**stage, "query_times": 4, "state_weight": 0.5},
        "score": {"k": 5, "filter_seen": False},
        "evaluate": {"ks": [5]},
        "gate": {"metric": "NDCG@5"},
        "publish": {"grace": 0},
    }


def lean_config(log: str, lake: str) -> dict[str, Any]:
    """A toy night by one worker and one actor, without exploring: two thirds of the time."""
    config = tiny_config(log, lake)
    config["train"] = {"num_workers": 1}
    config["score"] |= {"num_actors": 1, "explore_items": 0}
    return config


@dataclass
class NightProcess:
    """A started job; `finish` waits for it."""

    process: subprocess.Popen[str]
    log_path: Path

    def finish(self, timeout: float = 480) -> tuple[int, dict[str, Any], str]:
        """Exit code, the JSON of the last line of stdout ({} without one), and the log."""
        stdout, _ = self.process.communicate(timeout=timeout)
        lines = stdout.strip().splitlines()
        last = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        return self.process.returncode, last, self.log_path.read_text()

    def wait_for_line(self, line: str) -> None:
        """Returns once the log holds `line`."""
        self._wait(lambda: line in self.log_path.read_text(), line)

    def wait_for_file(self, directory: Path, pattern: str) -> None:
        """Returns once a file of that pattern exists."""
        self._wait(lambda: any(directory.glob(pattern)), pattern)

    def _wait(self, is_there: Callable[[], bool], what: str, timeout: float = 300) -> None:
        deadline = time.monotonic() + timeout
        while not is_there():
            assert self.process.poll() is None, self.log_path.read_text()
            assert time.monotonic() < deadline, f"never seen: {what}"
            time.sleep(0.005)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def kill_all(self) -> None:
        """The driver and every process below it, a Ray of its own with its workers: the machine."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:  # it has ended
            return
        for process in (self.process, *family):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        self.process.wait()


class Nights:
    """Starts jobs, each with a config of its own, in an environment, as on a shared cluster."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory, self._environment, self._number = directory, environment, 0

    def start(
        self,
        config: dict[str, Any],
        *arguments: str,
        date: str | None = DATE,
        job: str = "nightly",
        new_lake: bool = True,
    ) -> NightProcess:
        self._number += 1
        path = self._directory / f"config-{self._number}.yaml"
        path.write_text(yaml.safe_dump(config))
        log_path = self._directory / f"log-{self._number}.txt"
        command = [sys.executable, "-m", f"{JOBS}.{job}", "--config", str(path)]
        command += [] if date is None else ["--date", date]
        command += ["--new-lake"] * new_lake  # harmless where there is one
        with log_path.open("w") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT if IN_CHECKOUT else None,
                env={**os.environ, **QUIET, **self._environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return NightProcess(process, log_path)

    def run(
        self,
        config: dict[str, Any],
        *arguments: str,
        date: str | None = DATE,
        job: str = "nightly",
        new_lake: bool = True,
    ) -> tuple[int, dict[str, Any], str]:
        return self.start(config, *arguments, date=date, job=job, new_lake=new_lake).finish()


def run_dir(lake: Path, run_id: str, date: str = DATE) -> Path:
    return lake / "runs" / f"ds={date}" / run_id


def digests(directory: Path, pattern: str = "**/*") -> dict[str, str]:
    """The sha256 of every file below a directory, by relative path."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.glob(pattern))
        if path.is_file()
    }


def injected(**faults: Any) -> dict[str, str]:
    """The environment of a job in which `jobs/faults/rig/inject` does what it is told."""
    paths = [str(Path(__file__).parent / "inject"), *[str(ROOT)] * IN_CHECKOUT]
    return {"DIFFSASREC_FAULTS": json.dumps(faults), "PYTHONPATH": os.pathsep.join(paths)}
