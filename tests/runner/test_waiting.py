"""A training that waits for the cluster says so."""

import logging
import time

import pytest

from diffsasrec.config.training import TrainConfig
from diffsasrec.train.ray_workers import Report, waiting_for_room

pytestmark = pytest.mark.ray


def test_a_training_that_has_no_room_says_what_it_waits_for_at_every_interval(cluster, caplog):
    import ray
    from ray.util import placement_group, remove_placement_group

    caplog.set_level(logging.INFO)
    train = TrainConfig(num_workers=2)
    assert waiting_for_room("pretrain", train) is None
    all_cpus = placement_group([{"CPU": 2.0}])
    ray.get(all_cpus.ready(), timeout=60)
    workers = placement_group([{"CPU": 1.0}] * 2)
    report = Report(0.2, lambda: waiting_for_room("pretrain", train))
    try:
        line = "pretrain: waiting for 2 workers of 1 CPU each, the cluster has 0 CPU free"
        for _ in range(600):
            report.note(None)
            if caplog.messages.count(line) >= 2:
                break
            time.sleep(0.1)
        assert caplog.messages.count(line) >= 2, caplog.messages
    finally:
        remove_placement_group(all_cpus)
        ray.get(workers.ready(), timeout=60)
    assert waiting_for_room("pretrain", train) is None
    remove_placement_group(workers)
