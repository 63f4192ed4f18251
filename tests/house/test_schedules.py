"""jobs/schedules, as far as it can be checked without a Kubernetes, an Airflow or a cron: what it
runs are commands of ours, what it names is what was tested, and its fields are known ones."""

import ast
import re
import shlex
from typing import Any

import pytest
import yaml
from sources import ROOT as PROJECT
from sources import pinned

from diffsasrec.lake.stages import STAGES
from jobs.runner.arguments import parse_stages
from jobs.submit import __main__ as submit
from jobs.submit.arguments import parse_submit

SCHEDULES = PROJECT / "jobs" / "schedules"
RAYJOB = yaml.safe_load((SCHEDULES / "rayjob.yaml").read_text())
CRONJOB = yaml.safe_load((SCHEDULES / "cronjob.yaml").read_text())
CLUSTER = RAYJOB["spec"]["rayClusterSpec"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
JOB = CRONJOB["spec"]["jobTemplate"]["spec"]
DATES = ["$(date -u +%F)", r"$(date -u +\%F)", "{{ data_interval_end | ds }}", "RUN-DATE"]

# the fields of ray.io/v1 and batch/v1 that we know; a misspelt one would be dropped or refused
RAYJOB_FIELDS = {"activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate"}
RAYJOB_FIELDS |= {"metadata", "clusterSelector", "submitterConfig", "managedBy", "entrypoint"}
RAYJOB_FIELDS |= {"runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources", "suspend"}
RAYJOB_FIELDS |= {"entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"}
RAYJOB_FIELDS |= {"shutdownAfterJobFinishes", "deletionStrategy"}
CLUSTER_FIELDS = {"headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling"}
CLUSTER_FIELDS |= {"autoscalerOptions", "headServiceAnnotations", "suspend", "authOptions"}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts"}
GROUP_FIELDS |= {"rayStartParams", "template", "scaleStrategy"}
POD_FIELDS = {"serviceAccountName", "restartPolicy", "containers", "volumes", "nodeSelector"}
POD_FIELDS |= {"tolerations", "terminationGracePeriodSeconds", "automountServiceAccountToken"}
CONTAINER_FIELDS = {"name", "image", "command", "workingDir", "env", "resources", "volumeMounts"}
CRON_FIELDS = {"schedule", "timeZone", "concurrencyPolicy", "startingDeadlineSeconds"}
JOB_FIELDS = {"activeDeadlineSeconds", "backoffLimit", "podFailurePolicy", "template"}
JOB_FIELDS |= {"ttlSecondsAfterFinished"}


def dag_command() -> str:
    """The bash_command of the DAG, which is not imported: Airflow is not installed."""
    tree = ast.parse((SCHEDULES / "airflow_dag.py").read_text())
    (value,) = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "bash_command"
    ]
    return ast.literal_eval(value)


def cron_command() -> str:
    lines = (SCHEDULES / "crontab").read_text().splitlines()
    (line,) = [line for line in lines if "jobs.submit" in line and not line.startswith("#")]
    return line.split(" && ")[1].split(" >> ")[0]


SUBMITTING = {
    "crontab": cron_command(),
    "cronjob.yaml": JOB["template"]["spec"]["containers"][0]["command"][-1],
    "airflow_dag.py": dag_command(),
}


def words_of(command: str) -> list[str]:
    """A command line for the run date 2026-11-23, behind the `-m` that starts a module."""
    for spelling in DATES:
        command = command.replace(spelling, "2026-11-23")
    return shlex.split(command.partition(" -m ")[2])


def parse_nightly(words: list[str]) -> Any:
    module, *options = words
    assert module == "jobs.nightly"
    arguments = parse_stages(STAGES, options)
    assert arguments.date.isoformat() == "2026-11-23"
    return arguments


@pytest.mark.parametrize("name", SUBMITTING)
def test_a_schedule_submits_a_night_with_options_that_exist_and_a_time_out(name):
    module, *options = words_of(SUBMITTING[name])
    assert module == "jobs.submit"
    arguments = parse_submit(options)
    assert arguments.timeout == 21600
    assert arguments.command[:2] == ["python", "-m"]
    night = parse_nightly(arguments.command[2:])
    assert (PROJECT / night.config).is_file()


def test_the_rayjob_runs_a_night_with_the_config_that_is_mounted():
    words = shlex.split(RAYJOB["spec"]["entrypoint"].replace("RUN-DATE", "2026-11-23"))
    assert words[:2] == ["diffsasrec", "night"]  # what the image has: nothing is uploaded
    night = parse_nightly(["jobs.nightly", *words[2:]])
    (head,) = CLUSTER["headGroupSpec"]["template"]["spec"]["containers"]
    mounted = next(
        mount["mountPath"] for mount in head["volumeMounts"] if mount["name"] == "config"
    )
    assert night.config == f"{mounted}/nightly.yaml"


def test_image_and_version_are_the_tested_ray_with_all_that_the_project_needs():
    dockerfile = (SCHEDULES / "Dockerfile").read_text()
    images = re.findall(r"^FROM (\S+)$", dockerfile, re.M)
    assert images[0] == f"rayproject/ray:{pinned('ray')}-py311"
    assert CLUSTER["rayVersion"] == pinned("ray")
    assert "--constraint constraints.txt ." in dockerfile  # the dependencies of pyproject.toml
    copied = re.findall(r"^COPY --chown=ray (.*) \S+$", dockerfile, re.M)
    files = " ".join(copied).split()
    needed = {"pyproject.toml", "setup.py", "constraints.txt", "diffsasrec", "jobs"}
    assert needed <= set(files)
    assert [name for name in files if not (PROJECT / name).exists()] == []


def test_the_image_holds_the_checkout_that_travels_but_does_not_start_in_it():
    dockerfile = (SCHEDULES / "Dockerfile").read_text()
    first, *_, last = re.findall(r"^WORKDIR (\S+)$", dockerfile, re.M)
    (container,) = JOB["template"]["spec"]["containers"]
    assert container["workingDir"] == first != last
    assert dockerfile.rstrip().endswith(f"WORKDIR {last}")


def test_every_pod_runs_the_same_image():
    pods = [group["template"]["spec"] for group in GROUPS] + [JOB["template"]["spec"]]
    images = {container["image"] for pod in pods for container in pod["containers"]}
    assert images == {"REGISTRY/diffsasrec:0.1.0"}


def test_fields_are_those_of_the_kinds():
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")
    assert RAYJOB["spec"].keys() <= RAYJOB_FIELDS
    assert CLUSTER.keys() <= CLUSTER_FIELDS
    assert all(group.keys() <= GROUP_FIELDS for group in GROUPS)
    assert (CRONJOB["apiVersion"], CRONJOB["kind"]) == ("batch/v1", "CronJob")
    assert CRONJOB["spec"].keys() <= CRON_FIELDS | {"jobTemplate"}
    assert JOB.keys() <= JOB_FIELDS
    for template in [group["template"] for group in GROUPS] + [JOB["template"]]:
        assert template["spec"].keys() <= POD_FIELDS
        assert all(one.keys() <= CONTAINER_FIELDS for one in template["spec"]["containers"])


def test_the_cluster_asks_for_a_token_and_its_head_takes_no_tasks():
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_workers_start_from_zero_and_the_gpu_group_is_spot():
    assert CLUSTER["enableInTreeAutoscaling"] is True
    data, gpu = CLUSTER["workerGroupSpecs"]
    assert data["minReplicas"] == gpu["minReplicas"] == 0
    assert gpu["template"]["spec"]["nodeSelector"] == {"eks.amazonaws.com/capacityType": "SPOT"}
    (worker,) = gpu["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("group", GROUPS, ids=["head", "data", "gpu"])
def test_every_node_has_shared_memory_within_its_own_and_the_role_for_the_lake(group):
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["serviceAccountName"] == "diffsasrec"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    (shared,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
    assert shared["medium"] == "Memory"
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert 0.2 * memory < int(shared["sizeLimit"].removesuffix("Gi")) < 0.4 * memory


def test_a_night_has_a_time_out_and_retries_and_cleans_up():
    spec = RAYJOB["spec"]
    assert spec["activeDeadlineSeconds"] == 21600
    assert spec["backoffLimit"] == 2
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] == 600
    assert JOB["activeDeadlineSeconds"] > 21600  # the job's own time-out comes first
    assert JOB["template"]["spec"]["terminationGracePeriodSeconds"] > submit.STOPPING_SECONDS
    (rule,) = JOB["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2, 3, 4, 130]  # 5 is worth another try


def test_no_secret_stands_in_a_file_and_the_submitter_has_no_role():
    text = "".join(path.read_text() for path in SCHEDULES.iterdir() if path.is_file())
    assert not re.search(r"AKIA|aws_secret|password", text, re.I)
    pod = JOB["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    env = {one["name"]: one for one in pod["containers"][0]["env"]}
    assert env["RAY_AUTH_TOKEN"]["valueFrom"] == {
        "secretKeyRef": {"name": "diffsasrec", "key": "auth_token"}
    }


def test_the_dag_compiles_and_its_task_outlives_the_jobs_own_time_out():
    text = (SCHEDULES / "airflow_dag.py").read_text()
    compile(text, "airflow_dag.py", "exec")
    assert "execution_timeout=timedelta(hours=7)" in text


def test_the_token_of_the_dag_does_not_lie_in_the_project_that_travels():
    names: dict[str, Any] = {}
    for node in ast.parse((SCHEDULES / "airflow_dag.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names[ast.unparse(node.targets[0])] = node.value.value
    assert names["TOKEN"].startswith("/") and not names["TOKEN"].startswith(names["PROJECT"])
