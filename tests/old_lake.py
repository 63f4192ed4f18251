"""A lake of version 0.1.0.

tests/nights/lake-0.1.tar.xz holds what commit 8cace82 made of a log of 16 users in
/srv/recommender, with the configuration below: nights of 2024-02-28, 02-29 and 03-01 with the run
ids night-28, night-29 and night-01, a second run of the last date (again, with seed=1), and a
rollback to entry 3.
"""

import tarfile
from pathlib import Path
from typing import Any

from sources import ROOT

from diffsasrec.files.storage import Storage
from jobs.faults.rig.readers import read_chain_end, read_dates

LAST, NEXT = "2024-03-01", "2024-03-02"  # of its nights, and the date after it
ITEMS = [f"item-{number:02}" for number in range(14)]
CONFIG: dict[str, Any] = {
    "log_interval": 1,
    "events": {"path": "/srv/recommender/events.parquet", "time_unit": "s"},
    "split": {"users_per_bucket": 10},
    "model": {
        "hidden_size": 8,
        "num_blocks": 1,
        "num_heads": 2,
        "max_seq_len": 8,
        "num_slots": 4,
    },
    "pretrain": {"epochs": 1, "batch_size": 16},
    "finetune": {"epochs": 1, "batch_size": 16, "query_times": 3},
    "train": {"num_workers": 1},
    "score": {"k": 3, "filter_seen": False, "num_actors": 1},
    "evaluate": {"ks": [3]},
    "gate": {"metric": "NDCG@3"},
    "publish": {"grace": 0},
}


def unpack(directory: Path) -> None:
    with tarfile.open(ROOT / "tests/nights/lake-0.1.tar.xz") as archive:
        archive.extractall(directory, filter="data")


def is_whole(lake: Storage) -> bool:
    return not read_chain_end(lake) and not read_dates(lake)
