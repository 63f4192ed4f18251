"""What must never happen: code from data, damaged weights, paths from ids, secrets in the open."""

import ast
import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
import s3fs
import safetensors.torch
import torch
from sources import python_files, shown

from diffsasrec.config.data import EventsConfig
from diffsasrec.config.load import load_config
from diffsasrec.config.training import ModelConfig
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage, parquet_bytes, sha256, to_json
from diffsasrec.inputs.log_files import inspect_inputs, list_files, list_inputs
from diffsasrec.lake.chain import append_entry
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.manifest import manifest_for
from diffsasrec.lake.prune import prune
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.checkpoint import load_checkpoint, save_checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.score.online import check_description
from jobs.faults.rig.nights import DATE, ROOT, Nights, tiny_config, toy_log
from jobs.faults.rig.s3_server import BUCKET, SECRET
from jobs.runner.command import run_stages

README = (ROOT / "README.md").read_text()

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


# --- checkpoints ---

CONFIG = ModelConfig(hidden_size=8, num_blocks=1, num_heads=2, max_seq_len=4, num_slots=2)


@pytest.fixture
def saved(tmp_path: Path) -> Storage:
    storage = Storage.of(str(tmp_path / "checkpoint"))
    save_checkpoint(
        storage,
        weights=SequenceModel(CONFIG, 3).state_dict(),
        config=CONFIG,
        vocab=vocab_of(3),
        counts=np.array([5, 0, 2]),
        trained_before=1000,
    )
    return storage


def vocab_of(num: int) -> pa.Table:
    names = [f"item-{n}" for n in range(num)]
    return pa.table({"item_id": names, "index": pa.array(range(num), pa.int32())})


def forge(storage: Storage, name: str | None = None, data: bytes = b"", **keys: object) -> None:
    """Replaces a file and what config.json says, with digests that fit."""
    description = json.loads(storage.read_bytes("config.json"))
    if name is not None:
        storage.write_bytes(name, data)
        description["sha256"][name] = sha256(data)
        description["model_version"] = description["sha256"]["model.safetensors"][:12]
    description |= keys
    kept = {key: value for key, value in description.items() if value is not None}
    storage.write_bytes("config.json", to_json(kept))


def refusal(storage: Storage) -> str:
    with pytest.raises(InfrastructureError) as caught:
        load_checkpoint(storage)
    assert "restore it or train again" in str(caught.value)
    return str(caught.value)


def weights(storage: Storage) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(storage.read_bytes("model.safetensors"))


def test_weights_of_another_shape_are_refused(saved: Storage):
    tensors = weights(saved)
    tensors["items.weight"] = torch.zeros(4, 8)
    forge(saved, "model.safetensors", safetensors.torch.save(tensors))
    message = refusal(saved)
    assert f"{saved.root}/model.safetensors does not fit config.json" in message
    assert "items.weight" in message


def test_weights_of_another_model_are_refused(saved: Storage):
    other = SequenceModel(CONFIG.model_copy(update={"num_blocks": 2}), 3).state_dict()
    forge(saved, "model.safetensors", safetensors.torch.save(other))
    assert "model.safetensors does not fit config.json" in refusal(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_refused(saved: Storage, value: float):
    tensors = weights(saved)
    tensors["items.weight"][1, 2] = value
    forge(saved, "model.safetensors", safetensors.torch.save(tensors))
    # code 2: they were saved so, and a retry of the night would read them again
    with pytest.raises(ConfigError, match=r"has values in items\.weight .* learning_rate"):
        load_checkpoint(saved)


@pytest.mark.parametrize("length", [0, 4, 100, -100])
def test_cut_weights_are_refused_even_under_a_fitting_digest(saved: Storage, length: int):
    forge(saved, "model.safetensors", saved.read_bytes("model.safetensors")[:length])
    assert "model.safetensors is no safetensors file" in refusal(saved)


@pytest.mark.parametrize("num", [2, 4])
def test_a_vocabulary_of_another_size_is_refused(saved: Storage, num: int):
    vocab = vocab_of(num).append_column("count", pa.array([1] * num))
    forge(saved, "vocab.parquet", parquet_bytes(vocab))
    assert "vocab.parquet does not number 3 items" in refusal(saved)


def test_a_vocabulary_in_another_order_is_refused(saved: Storage):
    vocab = vocab_of(3).append_column("count", pa.array([1] * 3)).take([2, 0, 1])
    forge(saved, "vocab.parquet", parquet_bytes(vocab))
    assert "vocab.parquet does not number 3 items" in refusal(saved)


@pytest.mark.parametrize("data", [b"", b"PAR1", parquet_bytes(vocab_of(3))])
def test_what_is_no_vocabulary_is_refused(saved: Storage, data: bytes):
    forge(saved, "vocab.parquet", data)
    assert "vocab.parquet is no vocabulary" in refusal(saved)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_what_is_no_description_is_refused(saved: Storage, data: bytes):
    saved.write_bytes("config.json", data)
    assert f"{saved.root}/config.json " in refusal(saved)


@pytest.mark.parametrize("key", ["model", "num_items", "trained_before", "model_version", "sha256"])
def test_a_missing_key_of_the_description_is_named(saved: Storage, key: str):
    forge(saved, **{key: None})
    assert f"config.json lacks keys: {key}" in refusal(saved)


def test_unknown_keys_of_the_description_are_named(saved: Storage):
    forge(saved, code="import os")
    assert "config.json has unknown keys: code" in refusal(saved)


def test_missing_and_unknown_keys_of_the_model_are_named(saved: Storage):
    model = CONFIG.model_dump(mode="json")
    forge(saved, model={**model, "depth": 3})
    assert "has unknown keys: model.depth" in refusal(saved)
    forge(saved, model={key: value for key, value in model.items() if key != "trends"})
    assert "lacks keys: model.trends" in refusal(saved)
    forge(saved, model={**model, "hidden_size": -8})
    assert "config.json describes no model" in refusal(saved)


def test_a_version_of_other_weights_is_refused(saved: Storage):
    forge(saved, model_version="0" * 12)
    assert "config.json has a model_version of other weights" in refusal(saved)


def test_a_description_changed_after_publishing_is_refused(saved: Storage, tmp_path: Path):
    run = Storage.of(str(tmp_path))
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        check_description(run)
    digest = sha256(saved.read_bytes("config.json"))
    files = [{"path": "checkpoint/config.json", "sha256": digest}]
    run.write_bytes("manifest.json", to_json({"files": files}))
    check_description(run)
    forge(saved, model={**CONFIG.model_dump(mode="json"), "num_heads": 1})  # its weights still fit
    load_checkpoint(saved)
    with pytest.raises(InfrastructureError, match=r"config\.json is not the file that was pub"):
        check_description(run)


# --- names ---


@pytest.mark.parametrize("run_id", ["../x", "..", ".", "a/b", "/etc", "", "a\n", "a\\b", "%2e"])
def test_a_run_id_that_is_no_plain_name_exits_2(run_id: str, monkeypatch, capsys):
    arguments = ["prepare", "--config", "x.yaml", "--date", DATE, f"--run-id={run_id}"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        run_stages(("prepare",))
    assert caught.value.code == 2
    assert "use letters, digits" in capsys.readouterr().err


@pytest.mark.parametrize("day", ["../x", "2024-03-01/..", "2024-13-01", "today"])
def test_a_date_that_is_none_exits_2(day: str, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prepare", "--config", "x.yaml", f"--date={day}"])
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


def published_lake(root: Path | str, *run_ids: str) -> Storage:
    """A lake with runs of one date published one after another, three lists in two parts each."""
    lake = Storage.of(str(root))
    for run_id in run_ids or ("first",):
        run = RunDir(lake, ds=DATE, run_id=run_id, identity="i", attempt="a")
        files = []
        for number, users in enumerate(([1, 3], [2])):
            items = [[{"item_id": f"of {run_id}", "score": -1.0, "rank": 1}]] * len(users)
            table = pa.table({"user_id": users, "items": items})
            path = f"recommendations/part-{number:05d}.parquet"
            files.append(run.storage.write_table(path, table))
        _, digest = manifest_for(run, {"model_version": "v", "files": files})
        append_entry(lake, run, digest)
        settle(lake, grace=1e6)
    return lake


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


@pytest.mark.ray
def test_ids_that_are_paths_name_no_file(prepared):
    filesystem, _ = prepared
    run = f"{BUCKET}/safety/lake/runs/ds={DATE}/x/"
    files = [path.removeprefix(run) for path in filesystem.find(f"{BUCKET}/safety/lake")]
    part = re.compile(r"(quarantine|vocab|sequences|holdout)/part-\d{5}\.parquet")
    marker = re.compile(r"_stages/prepare(\.begun)?\.json")
    assert len(files) > 5
    assert [f for f in files if not part.fullmatch(f) and not marker.fullmatch(f)] == []
    assert filesystem.find(f"{BUCKET}/safety/log") == [f"{BUCKET}/safety/log/events.parquet"]


@pytest.mark.ray
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
        lines = iter(process.stdout.readline, "")
        address = next(line for line in lines if line.startswith("started")).split()[1]
        yield psutil.Process(process.pid), address
        process.stdin.close()


@pytest.mark.ray
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


@pytest.mark.ray
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


# --- what the README promises to those who run it ---


def block(title: str, language: str) -> str:
    """The first code block of a language below a heading or bold title of the README."""
    text = README[README.index(title) :]
    return text.split(f"```{language}\n", 1)[1].split("```", 1)[0]


# what each call to S3 needs of a policy, on the object or bucket that it names
RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}
Right = tuple[str, str, str | None]  # action, resource, listed prefix


def rights_of(operation: str, parameters: dict[str, str]) -> set[Right]:
    bucket = f"arn:aws:s3:::{parameters['Bucket']}"
    action = RIGHTS[operation]
    if action == "s3:ListBucket":
        return {(action, bucket, parameters.get("Prefix"))}
    source = parameters.get("CopySource")
    needed: set[Right] = {(action, f"{bucket}/{parameters['Key']}", None)}
    if source is not None:
        path = source if isinstance(source, str) else f"{source['Bucket']}/{source['Key']}"
        needed.add(("s3:GetObject", f"arn:aws:s3:::{path}", None))
    return needed


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def allows(statement: dict, right: Right) -> bool:
    action, resource, prefix = right
    prefixes = statement.get("Condition", {"StringLike": {"s3:prefix": ["*"]}})["StringLike"]
    return (
        action in listed(statement["Action"])
        and any(fnmatch.fnmatchcase(resource, r) for r in listed(statement["Resource"]))
        and (
            action != "s3:ListBucket"
            or any(fnmatch.fnmatchcase(prefix or "", p) for p in prefixes["s3:prefix"])
        )
    )


@pytest.fixture
def calls(s3: str) -> Iterator[list[tuple[str, dict]]]:
    """Every call to S3 that is made in this process, as it is made."""
    made: list[tuple[str, dict]] = []

    def note(params: dict, model: object, **_: object) -> None:
        made.append((model.name, params))

    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = Storage(s3)._fs()
    filesystem.connect()
    filesystem.s3.meta.events.register("provide-client-params.s3", note)
    yield made
    s3fs.S3FileSystem.clear_instance_cache()


def use_everything(s3: str) -> None:
    """What a night does to the log and the lake, by all the verbs that it has for that."""
    for path in ("log", "log/", "log/*.parquet", "log/events.parquet"):
        events = EventsConfig(path=f"{s3}/{path}", time_unit="s")
        inspect_inputs(list_inputs(events, run_date=date.fromisoformat(DATE)), events)
    list_files(f"{s3}/log")
    lake = published_lake(f"{s3}/recommender", "first", "second")
    lake.check_writable()
    assert lake.has_create_only()
    assert lake.list("runs") and not lake.exists("nothing") and not lake.list("nothing")
    with pytest.raises(FileNotFoundError):
        lake.read_bytes("nothing")
    lake.read_tables(f"runs/ds={DATE}/first/recommendations", ["user_id"])
    lake.write_bytes("large", bytes(110 * 2**20))  # in parts
    lake.create("large-too", bytes(110 * 2**20))
    lake.copy("large", "copied")
    lake.delete(["large", "large-too", "copied", "nothing"])
    settle(lake, grace=0)
    assert prune(lake, keep=1, grace=0)


def test_the_policy_of_the_readme_is_enough_and_not_more(s3: str, calls: list, tmp_path: Path):
    toy_log().to_parquet(tmp_path / "events.parquet")
    upload = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    upload.put_file(str(tmp_path / "events.parquet"), f"{BUCKET}/log/events.parquet")
    text = re.sub("LOG-BUCKET|LAKE-BUCKET", BUCKET, block("**Rights.**", "json"))
    policy = json.loads(text)["Statement"]
    use_everything(s3)
    needed = {right for call in calls for right in rights_of(*call)}
    assert len(needed) > 30
    assert [r for r in sorted(needed, key=str) if not any(allows(s, r) for s in policy)] == []
    granted = {(s["Sid"], action) for s in policy for action in listed(s["Action"])}
    used = {(s["Sid"], right[0]) for s in policy for right in needed if allows(s, right)}
    # asked for only where an upload in parts breaks off
    assert granted - used == {("KeepTheLake", "s3:AbortMultipartUpload")}


def test_the_readers_of_the_readme_see_the_newest_run_and_nothing_else(tmp_path: Path):
    published_lake(tmp_path / "lake", "first", "second")
    sql = block("Readers that follow the chain", "sql").replace("'lake/", f"'{tmp_path}/lake/")
    rows = duckdb.connect().execute(sql).fetchall()
    assert sorted(row[:2] for row in rows) == [(user, "of second") for user in (1, 2, 3)]
    scope: dict = {}
    code = block("Spark, pandas and whatever", "python")
    exec(code.replace("s3://bucket/recommender", f"{tmp_path}/lake"), scope)
    assert sorted(pd.read_parquet(scope["path"]).user_id) == [1, 2, 3]
    assert scope["path"].endswith(f"runs/ds={DATE}/second/recommendations")
