"""Whether workers find places: each takes all that it needs from one node."""

import math

import pytest
import ray

from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError
from diffsasrec.ray_cluster import (
    Nodes,
    check_cluster,
    cluster_nodes,
    count_places,
    set_up_data,
)
from jobs.planning.resources import check_resources

LEAST = "lake: lake\nevents: {path: log.parquet}\n"
FOUR = {"CPU": 4.0}


@pytest.mark.parametrize(
    ("each", "nodes", "places"),
    [
        ({"CPU": 6.0}, [Nodes(FOUR, 3)], 0),
        ({"CPU": 2.0}, [Nodes(FOUR, 3)], 6),
        ({"CPU": 3.0}, [Nodes(FOUR, 3), Nodes({"CPU": 8.0})], 5),
        ({"CPU": 0.1}, [Nodes({"CPU": 0.3})], 3),
        ({"CPU": 1.0, "GPU": 1.0}, [Nodes({"CPU": 16.0, "GPU": 1.0}, 2), Nodes({"CPU": 64.0})], 2),
        ({"CPU": 1.0, "GPU": 0.0}, [Nodes(FOUR)], 4),
        ({"CPU": 1.0}, [Nodes(FOUR, math.inf)], math.inf),
        ({"CPU": 9.0}, [Nodes(FOUR, math.inf)], 0),
        ({"CPU": 1.0}, [Nodes({}), Nodes(FOUR, 0)], 0),
    ],
)
def test_places_are_counted_node_by_node(each, nodes, places):
    assert count_places(each, nodes) == places


def check(each: dict[str, float], *nodes: list[Nodes], number: int = 2, cpus: float = 12) -> None:
    available = {"CPU": cpus, "GPU": 8.0}
    check_cluster("train", "worker", number, each, available=available, nodes=nodes)


def test_two_workers_of_six_cpus_do_not_fit_three_nodes_of_four():
    with pytest.raises(ConfigError) as caught:
        check({"CPU": 6.0}, [Nodes(FOUR)] * 3)
    assert str(caught.value) == (
        "2 workers with train.cpus_per_worker=6 find 0 places on the nodes of the cluster "
        "(3 of 4 CPU): each takes all that it needs from one node; lower train.cpus_per_worker or "
        "train.num_workers, or use larger nodes"
    )


def test_what_an_autoscaler_can_start_counts_as_well():
    now, later = [Nodes({"CPU": 0.0})], [Nodes({"CPU": 8.0}, 2)]
    check({"CPU": 6.0}, now, later)
    with pytest.raises(
        ConfigError, match=r"3 workers .* find 2 places .*1 of 0 CPU; or 2 of 8 CPU"
    ):
        check({"CPU": 6.0}, now, later, number=3, cpus=18)


def test_a_demand_that_fits_exactly_passes():
    check({"CPU": 0.5}, [Nodes({"CPU": 1.0})], cpus=1)
    check({"CPU": 4.0, "GPU": 4.0}, [Nodes({"CPU": 4.0, "GPU": 4.0})] * 2)


def test_all_together_they_are_counted_first():
    with pytest.raises(ConfigError, match=r"2 workers with train\.cpus_per_worker=8 need 16 CPU"):
        check({"CPU": 8.0}, [Nodes({"CPU": 16.0})])


def test_without_a_ray_this_machine_is_the_one_node():
    if ray.is_initialized():  # of a test before, in the same process
        pytest.skip("the cluster is looked at then")
    config = load_config(LEAST, ["train.num_workers=2", "train.cpus_per_worker=2"])
    check_resources(config, ["pretrain", "score"], FOUR)
    with pytest.raises(ConfigError, match=r"train\.cpus_per_worker=2 need 4 CPU"):
        check_resources(config, ["pretrain"], {"CPU": 3.0})


def test_the_nodes_of_a_real_cluster_are_seen(cluster):
    (node,), largest = cluster_nodes()
    assert node.resources["CPU"] == 2 and largest == []
    config = load_config(LEAST, ["train.num_workers=1", "train.cpus_per_worker=3"])
    # as if other nodes had the CPUs
    with pytest.raises(ConfigError, match=r"find 0 places .*\(1 of 2 CPU\)"):
        check_resources(config, ["pretrain"], {"CPU": 8.0})
    check_resources(config, ["score"], {"CPU": 8.0})


def test_a_part_of_a_gpu_is_refused_where_several_workers_would_share_it():
    for number in (0.5, 1.5, 0.25):
        with pytest.raises(ConfigError, match=rf"train\.gpus_per_worker={number:g} .* NCCL"):
            load_config(LEAST, [f"train.gpus_per_worker={number}", "train.num_workers=2"])
    load_config(LEAST, ["train.gpus_per_worker=2", "train.num_workers=2"])
    load_config(LEAST, ["train.gpus_per_worker=0.5", "train.num_workers=1"])


@pytest.mark.parametrize("key", ["train.gpus_per_worker", "score.gpus_per_actor"])
def test_above_one_gpus_are_whole(key):
    with pytest.raises(ConfigError, match=rf"{key}=1\.5: above 1 Ray gives whole GPUs only"):
        load_config(LEAST, [f"{key}=1.5", "train.num_workers=1"])


def test_ray_data_shows_signs_of_life_before_its_first_row(cluster, beats: list[None]):
    set_up_data()
    rows = ray.data.range(8, override_num_blocks=8)
    rows.repartition(4, keys=["id"]).materialize()
    assert len(beats) > 8  # each of the blocks is read, brought to its partition and merged there
