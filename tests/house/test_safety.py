"""What must never happen: code from data, damaged weights, paths from ids, secrets in the open."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import s3fs
from lakes import published_lake
from sources import python_files, shown

from diffsasrec.config.load import load_config
from diffsasrec.config.secrets import without_secrets
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.prune import prune
from jobs.faults.rig.nights import DATE, ROOT, Nights, tiny_config, toy_log
from jobs.faults.rig.s3_server import BUCKET, SECRET
from jobs.runner.command import run_stages

# --- nothing that is read is ever run ---

UNPICKLING = {"read_pickle", "Unpickler", "load_pickle"}
SOURCES = python_files("diffsasrec", "jobs")


def names_of(tree: ast.AST) -> set[str]:
    """Imported modules, attributes as module.name, and names of keyword arguments."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {(node.module or "").split(".")[0]}
        if isinstance(node, ast.Attribute):
            names |= {node.attr, f"{ast.unparse(node.value)}.{node.attr}"}
        if isinstance(node, ast.keyword):
            names |= {node.arg or ""}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names |= {f"{node.func.id}()"}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_no_source_file_can_unpickle_or_evaluate_what_it_reads(path: Path):
    forbidden = {"pickle", "cloudpickle", "shelve", "marshal", "joblib", "dill", "allow_pickle"}
    forbidden |= {"torch.load", "torch.jit.load", "yaml.load", "eval()", "exec()", *UNPICKLING}
    assert names_of(ast.parse(path.read_text())) & forbidden == set()


# --- names ---


@pytest.mark.parametrize("run_id", ["../x", "..", ".", "a/b", "/etc", "", "a\n", "a\\b", "%2e"])
def test_a_run_id_that_is_no_plain_name_exits_2(run_id: str, monkeypatch, capsys):
    arguments = ["prepare", "--config", "x.yaml", "--date", DATE, f"--run-id={run_id}"]
    monkeypatch.setattr(sys, "argv", arguments)  # the command line, without a process
    with pytest.raises(SystemExit) as caught:
        run_stages(("prepare",))
    assert caught.value.code == 2
    assert "use letters, digits" in capsys.readouterr().err


@pytest.mark.parametrize("day", ["../x", "2024-03-01/..", "2024-13-01", "today"])
def test_a_date_that_is_none_exits_2(day: str, monkeypatch):
    arguments = ["prepare", "--config", "x.yaml", f"--date={day}"]
    monkeypatch.setattr(sys, "argv", arguments)  # the command line, without a process
    with pytest.raises(SystemExit) as caught:
        run_stages(("prepare",))
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "forged",
    [
        {"run_id": "../../elsewhere"},
        {"ds": "../.."},
        {"current": {"ds": DATE, "run_id": "a/b"}},
        {"current": {"ds": DATE}},
        {"current": None},
        {"extra": 1},
    ],
)
def test_a_chain_entry_can_name_nothing_outside_of_the_lake(tmp_path: Path, forged: dict):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "manifest.json").write_text("{}")
    made = published_lake(tmp_path / "made")
    entry = json.loads(made.read_bytes(ENTRY))
    made.write_bytes(ENTRY, to_json({**entry, **forged}))
    (tmp_path / "made").rename(tmp_path / "lake")  # this process has not read anything there
    lake = Storage.of(str(tmp_path / "lake"))
    for use in (lambda: prune(lake, keep=1, grace=0), lambda: settle(lake, grace=0)):
        with pytest.raises(InfrastructureError, match=r"00000001\.json is no entry of the chain"):
            use()
    assert (tmp_path / "elsewhere" / "manifest.json").exists()


ENTRY = "recommendations/_published/00000001.json"

# --- a stage whose ids are paths, with real credentials in its environment ---

PATHS = ["../../escape", "/etc/passwd", "a/b", "..", "s3://other/x", "%2e%2e%2f", "a\\b", ""]


@pytest.fixture(scope="module")
def prepared(
    cluster: dict[str, str], s3: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[s3fs.S3FileSystem, str]:
    """The bucket after a prepare of hostile ids, and all that the stage said."""
    directory = tmp_path_factory.mktemp("hostile")
    log = toy_log(num_users=len(PATHS) * 2)
    log["user_id"] = log.user_id.map(lambda n: f"{PATHS[n % len(PATHS)]}{n // len(PATHS) or ''}")
    log["item_id"] = log.item_id.where(log.index % 9 > 0, log.user_id)
    filesystem = s3fs.S3FileSystem(use_listings_cache=False)
    log.to_parquet(directory / "events.parquet")
    filesystem.put_file(str(directory / "events.parquet"), f"{BUCKET}/safety/log/events.parquet")
    config = tiny_config(f"{s3}/safety/log/", f"{s3}/safety/lake")
    config["events"]["max_bad_fraction"] = 0.9
    night = Nights(directory, cluster).start(config, "--run-id", "x", job="prepare")
    stdout, _ = night.process.communicate(timeout=240)
    said = stdout + night.log_path.read_text()
    assert night.process.returncode == 0, said
    return filesystem, said


def test_ids_that_are_paths_name_no_file(prepared):
    filesystem, _ = prepared
    run = f"{BUCKET}/safety/lake/runs/ds={DATE}/x/"
    files = [path.removeprefix(run) for path in filesystem.find(f"{BUCKET}/safety/lake")]
    part = re.compile(r"(quarantine|vocab|sequences|holdout)/part-\d{5}\.parquet")
    marker = re.compile(r"_stages/prepare(\.begun)?\.json")
    assert len(files) > 5
    assert [f for f in files if not part.fullmatch(f) and not marker.fullmatch(f)] == []
    assert filesystem.find(f"{BUCKET}/safety/log") == [f"{BUCKET}/safety/log/events.parquet"]


def test_no_secret_is_written_or_said(prepared):
    filesystem, said = prepared
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET  # what the stage had in its environment
    places = {path: filesystem.cat_file(path) for path in filesystem.find(f"{BUCKET}/safety/lake")}
    places["what it said"] = said.encode()
    assert [place for place, data in places.items() if SECRET.encode() in data] == []


@pytest.mark.parametrize(
    "key", ["lake", "events.path", "score.deny_path", "score.allow_path", "vocab.previous_path"]
)
@pytest.mark.parametrize("url", ["s3://key:hunter2@bucket/x", "https://hunter2@host/x"])
def test_credentials_in_a_url_are_refused_and_not_repeated(key: str, url: str):
    with pytest.raises(ConfigError) as caught:
        load_config("lake: lake\nevents: {path: x}", [f"{key}={url}"])
    assert f"{key} has credentials in its URL; leave them out" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_container_of_an_azure_url_is_no_password_but_one_behind_a_user_is():
    azure = "account.dfs.core.windows.net/x"
    load_config(f"lake: lake\nevents: {{path: 'abfss://container@{azure}'}}")
    with pytest.raises(ConfigError, match=r"events.path has credentials in its URL"):
        load_config(f"lake: lake\nevents: {{path: 'abfss://me:hunter2@{azure}'}}")
    assert without_secrets(f"abfss://container@{azure}") == f"abfss://container@{azure}"
    assert without_secrets(f"abfss://me:hunter2@{azure}") == f"abfss://***@{azure}"
    assert without_secrets("https://hunter2@host/x") == "https://***@host/x"


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("lake: lake\nevents: {path: x, secret_key: hunter2}", "seed=1"),
        ("lake: lake\npassword: hunter2\nevents: {path: x}", "seed=1"),
        ("lake: 'hunter2\n", "seed=1"),
        ("lake: lake\nevents: {path: x}", "aws.secret=hunter2"),
        ("lake: lake\nevents: {path: x}", "lake.secret=hunter2"),
        ("lake: lake\nevents: {path: x}", "lake='hunter2"),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(text: str, override: str):
    with pytest.raises(ConfigError) as caught:
        load_config(text, [override])
    assert "hunter2" not in str(caught.value)


# --- a Ray that a job starts ---

STARTED = """
import sys
from jobs.process.ray_session import start_ray  # before Ray, as in every job
import ray
start_ray()
ray.get([ray.remote(lambda: 1).remote() for _ in range(2)])
print("started", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
# Not by ray.init or `ray status`: of loopback they make the machine's own address (2.60), where
# nothing listens, so that no token would be asked for.
JOINING = """
import sys
from ray._raylet import GcsClient
print("joined", GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None))
"""


@pytest.fixture(scope="module")
def own_ray() -> Iterator[tuple[psutil.Process, str]]:
    """A process that has started a Ray as every job does, and its address."""
    ours = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    with subprocess.Popen(
        [sys.executable, "-c", STARTED],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = next(line for line in lines if line.startswith("started")).split()[1]
        yield psutil.Process(process.pid), address
        process.stdin.close()


def test_all_its_servers_listen_on_loopback_only(own_ray):
    process, address = own_ray
    listening = {
        (one.name(), connection.laddr.ip)
        for one in (process, *process.children(recursive=True))
        for connection in one.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {ip for _, ip in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert address.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    "token",
    [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}],
    ids=["none", "another"],
)
def test_a_client_without_its_token_is_refused(own_ray, token: dict[str, str]):
    joined = subprocess.run(
        [sys.executable, "-c", JOINING, own_ray[1]],
        env={**os.environ, **token},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert joined.returncode != 0 and "joined" not in joined.stdout
    assert "nauthenticated" in joined.stderr or "InvalidAuthToken" in joined.stderr, joined.stderr
