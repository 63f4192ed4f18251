"""cluster.yaml, as far as it can be checked without an account: Ray accepts it, and it does what
its comments say. Whether the image, the AMI and the instance types exist, only AWS can tell."""

import copy
import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml

# What `ray up` calls before it asks AWS anything. The public `ray.autoscaler.sdk` fills in defaults
# only, and validates only on the way to starting nodes (Ray 2.60).
from ray.autoscaler._private.util import prepare_config, validate_config
from sources import ROOT as PROJECT
from sources import pinned

CLUSTER = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
NODE_TYPES = CLUSTER["available_node_types"]


def prepare(cluster: dict[str, Any]) -> dict[str, Any]:
    """The file with Ray's defaults filled in: what `ray up` works with."""
    return prepare_config(copy.deepcopy(cluster))


def get_installed(commands: list[str]) -> set[str]:
    """The names that `pip install` gets in these commands, without options, paths and extras."""
    installs = [shlex.split(command)[2:] for command in commands if "pip install" in command]
    return {get_name(word) for words in installs for word in words if word[0] not in "-~"}


def get_name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower()


def get_market(node_type: str) -> str:
    options = NODE_TYPES[node_type]["node_config"].get("InstanceMarketOptions", {})
    return options.get("MarketType", "on-demand")


def test_ray_accepts_the_file():
    validate_config(prepare(CLUSTER))


def test_ray_would_refuse_a_misspelt_key():
    misspelt = {**CLUSTER, "idle_timeout_minuts": 10}
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        validate_config(prepare(misspelt))


def test_image_has_the_tested_ray_and_python_3_11():
    image = CLUSTER["docker"]["image"]
    assert re.fullmatch(rf"rayproject/ray:{re.escape(pinned('ray'))}-py311(-\w+)?", image)


def test_head_and_workers_install_every_dependency_of_the_project():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    dependencies = {get_name(requirement) for requirement in project["dependencies"]}
    prepared = prepare(CLUSTER)
    assert "torch" in dependencies  # the image has none
    assert dependencies <= get_installed(prepared["head_setup_commands"])
    assert dependencies <= get_installed(prepared["worker_setup_commands"])
    assert not any("worker_setup_commands" in kind for kind in NODE_TYPES.values())  # would replace


def test_every_installed_version_is_the_tested_one():
    prepared = prepare(CLUSTER)
    commands = prepared["head_setup_commands"] + prepared["worker_setup_commands"]
    installs = [command for command in commands if "pip install" in command]
    assert all("--constraint ~/diffsasrec/constraints.txt " in command for command in installs)
    assert CLUSTER["file_mounts"]["~/diffsasrec/constraints.txt"] == "constraints.txt"


def test_constraints_pin_torch_without_a_local_build():
    # "+cpu" would not be found, or would leave the GPUs unused
    assert pinned("torch") == "2.13.0"


def test_the_project_itself_is_not_installed():
    assert "diffsasrec" not in get_installed(prepare(CLUSTER)["worker_setup_commands"])


def test_head_takes_no_tasks_and_is_not_spot():
    assert CLUSTER["head_node_type"] == "head"
    assert NODE_TYPES["head"]["resources"] == {"CPU": 0}
    assert NODE_TYPES["head"]["max_workers"] == 0
    assert get_market("head") == "on-demand"


def test_gpu_workers_are_spot_start_from_zero_and_see_their_gpus():
    assert get_market("gpu") == "spot"
    assert NODE_TYPES["gpu"]["min_workers"] == 0
    assert "--gpus all" in NODE_TYPES["gpu"]["docker"]["worker_run_options"]


def test_data_workers_start_from_zero():
    assert NODE_TYPES["data"]["min_workers"] == 0


def test_shared_memory_holds_the_object_store_of_the_largest_node():
    (size,) = re.findall(r"--shm-size=(\d+)g", " ".join(CLUSTER["docker"]["run_options"]))
    assert int(size) >= 0.3 * 64  # Ray takes 30 % of the memory; m7i.4xlarge and g6.4xlarge: 64 GiB


def test_max_workers_is_the_sum_over_the_groups():
    assert CLUSTER["max_workers"] == sum(kind["max_workers"] for kind in NODE_TYPES.values()) == 12


def test_every_node_has_the_ami_an_iam_profile_and_the_tags():
    for kind in NODE_TYPES.values():
        node = kind["node_config"]
        assert node["ImageId"] == CLUSTER["metadata"]["image_id"]
        assert node["IamInstanceProfile"]["Arn"].startswith("arn:aws:iam::")
        tagged = [spec["ResourceType"] for spec in node["TagSpecifications"]]
        assert tagged == ["instance", "volume"]


def test_dashboard_listens_on_loopback_only():
    start = " ".join(CLUSTER["head_start_ray_commands"])
    assert re.findall(r"--dashboard-host=(\S+)", start) == ["127.0.0.1"]


def test_every_process_must_show_the_token_and_every_node_has_it():
    assert "-e RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
    assert CLUSTER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_every_mounted_file_exists_in_the_project():
    sources = [s for s in CLUSTER["file_mounts"].values() if not s.startswith("~/.ray/")]
    assert sources
    assert [source for source in sources if not (PROJECT / source).is_file()] == []
