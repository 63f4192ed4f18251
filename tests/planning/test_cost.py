"""Hours and money of a night's stages."""

import pytest

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from jobs.planning.cost import cost_of, stage_resources

CLUSTER = {"CPU": 8.0, "GPU": 2.0}


def config(*sets: str) -> Config:
    return load_config("lake: lake\nevents: {path: log.parquet}", sets)


def test_stages_keep_their_workers_busy_and_tasks_all_cpus():
    settings = config("train.num_workers=3", "train.cpus_per_worker=2", "score.num_actors=4")
    resources = stage_resources(settings, CLUSTER)
    assert resources["prepare"] == resources["publish"] == {"CPU": 8.0, "GPU": 0.0}
    assert resources["refit"] == {"CPU": 6.0, "GPU": 0.0}
    assert resources["score"] == {"CPU": 4.0, "GPU": 0.0}


def test_no_more_actors_count_than_the_cluster_holds():
    settings = config("score.num_actors=50", "score.gpus_per_actor=0.5")
    assert stage_resources(settings, CLUSTER)["score"] == {"CPU": 4.0, "GPU": 2.0}


def test_hours_are_seconds_times_workers_and_money_follows_the_prices():
    settings = config("train.gpus_per_worker=1", "cost.cpu_hour=0.1", "cost.gpu_hour=2")
    cost = cost_of(settings, {"prepare": 900.0, "refit": 1800.0}, CLUSTER)
    assert cost["stages"]["prepare"] == {"cpu_hours": 2.0, "gpu_hours": 0.0, "money": 0.2}
    assert cost["stages"]["refit"] == {"cpu_hours": 1.0, "gpu_hours": 1.0, "money": 2.1}
    assert cost["total"] == {"cpu_hours": 3.0, "gpu_hours": 1.0, "money": pytest.approx(2.3)}


@pytest.mark.parametrize(
    ("sets", "money"),
    [([], None), (["cost.cpu_hour=1"], None), (["cost.cpu_hour=1", "cost.gpu_hour=0"], 1.0)],
)
def test_there_is_no_money_where_something_that_is_used_has_no_price(sets, money):
    settings = config("train.gpus_per_worker=1", "train.num_workers=1", *sets)
    assert cost_of(settings, {"refit": 3600.0}, CLUSTER)["total"]["money"] == money
