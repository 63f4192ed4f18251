"""How a lake is spelled, and by what a local one is told from a mount that is absent."""

import json
import os
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml
from recorded import write_night

from diffsasrec.config.config import Config
from diffsasrec.config.lake_url import located, normalised
from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import read_chain
from jobs.faults.rig.nights import DATE, ROOT, Nights, tiny_config
from jobs.runner.identity import open_run
from jobs.runner.lake_mark import IN_A_JOB, MARK, has_mark, open_lake, require_lake, require_mark


def config_of(lake: str) -> Config:
    return load_config(yaml.safe_dump({"lake": lake, "events": {"path": "log.parquet"}}))


# --- spelling ---


@pytest.mark.parametrize(
    ("lake", "told"),
    [
        ("s3:/bucket/x", "lake=s3:/bucket/x: write it as s3://bucket/x"),
        ("s3//bucket", "lake=s3//bucket: write it as s3://bucket"),
        ("s3:bucket/x/", "write it as s3://bucket/x"),
        ("s3:///x", "write it as s3://x"),
        ("S3://bucket/x", "write it as s3://bucket/x"),
        ("s3a://bucket/x", "write it as s3://bucket/x"),
        ("s3://", "lake=s3:// names no bucket; give a local directory or s3://bucket/prefix"),
        ("s3:", "names no bucket"),
        ("s3:///", "names no bucket"),
        ("s3://bucket/../x", "has a '..'"),
        ("file:///data/lake", "write a local directory as /data/lake"),
        (
            "gs://bucket/x",
            "no lake can lie in gs://; give a local directory or s3://bucket/prefix",
        ),
        ("gs:/bucket/x", "no lake can lie in gs://"),
        ("abfs:/container/x", "no lake can lie in abfs://"),
        ("abfss://c@account.dfs.core.windows.net/x", "no lake can lie in abfss://"),
        ("HDFS://node:8020/x", "no lake can lie in hdfs://"),
        ("https://host/x?sig=hushhush", "lake=https://host/x?sig=***: no lake can lie in https://"),
        ("/", "lake=/ is the root of this machine"),
        ("//", "is the root of this machine"),
        ("/data/..", "is the root of this machine"),
        ("", "give a local directory"),
        (" lake", "without spaces around it"),
    ],
)
def test_what_only_looks_like_a_store_or_a_directory_is_refused(lake: str, told: str):
    with pytest.raises(ConfigError) as caught:
        config_of(lake)
    assert told in str(caught.value)
    with pytest.raises(ConfigError, match="--lake: "):
        open_lake(lake)


@pytest.mark.parametrize(
    ("lake", "one"),
    [
        ("s3://b//x/", "s3://b/x"),
        ("s3://b/./x", "s3://b/x"),
        ("s3://b/", "s3://b"),
        ("lake/", "lake"),
        ("./lake", "lake"),
        ("a//b/../lake", "a/lake"),
        ("/data//lake/", "/data/lake"),
        ("//data/lake", "/data/lake"),
        ("s3/x", "s3/x"),
        ("gs/x", "gs/x"),
        ("http:x", "http:x"),
        ("~/lake", "~/lake"),
    ],
)
def test_a_lake_has_one_spelling(lake: str, one: str):
    assert normalised(lake) == one == config_of(lake).lake


def test_a_local_lake_is_located_from_here_and_from_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert located("~/lake") == "/home/me/lake"
    assert located("lake") == f"{os.getcwd()}/lake"
    assert located("s3://b/x") == "s3://b/x"
    assert config_of("./lake/").located() == config_of(f"{os.getcwd()}//lake").located()


def test_the_same_lake_spelled_in_many_ways_is_one_run(tmp_path: Path, monkeypatch):
    (tmp_path / "lake").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "lake")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spelled = ["lake", "./lake/", f"{tmp_path}//lake", "~/lake", "link"]
    runs = [open_run(config_of(lake), date(2024, 3, 1), [], run_id=None) for lake in spelled]
    assert len({run.identity for run in runs}) == 1
    assert {os.path.realpath(run.lake.root) for run in runs} == {str(tmp_path / "lake")}


# --- the mark ---


def test_a_directory_that_is_no_lake_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "jobs.nightly", "--set", "a=b c"])
    (tmp_path / "mount").mkdir()
    for root in (tmp_path / "mount", tmp_path / "absent"):
        lake = Storage.of(str(root))
        with pytest.raises(ConfigError) as caught:
            require_mark(lake)
        assert f"lake={root} is no lake" in str(caught.value)
        assert "what a missing mount looks like" in str(caught.value)
        assert str(caught.value).endswith("python -m jobs.nightly --set 'a=b c' --new-lake")
        assert not has_mark(lake)
    assert [path.name for path in tmp_path.rglob("*")] == ["mount"]


def test_a_new_lake_is_marked_once_and_stays_as_it_is(tmp_path: Path):
    lake = Storage.of(str(tmp_path / "lake"))
    require_mark(lake, is_new=True, is_dry=True)
    assert not (tmp_path / "lake").exists()
    require_mark(lake, is_new=True)
    lake.write_bytes(MARK, b"mine")
    require_mark(lake, is_new=True)
    require_mark(lake)
    assert lake.read_bytes(MARK) == b"mine"


def test_a_lake_of_an_earlier_version_gets_its_mark_by_its_publication(tmp_path: Path):
    run = write_night(tmp_path / "lake", DATE)
    assert not run.lake.exists(MARK) and has_mark(run.lake)
    require_mark(run.lake, is_dry=True)
    assert not run.lake.exists(MARK)
    require_mark(run.lake)
    assert json.loads(run.lake.read_bytes(MARK))["layout"] == 1
    unpublished = write_night(tmp_path / "other", DATE, until="score")
    with pytest.raises(ConfigError, match="is no lake"):
        require_mark(unpublished.lake)


def test_a_store_needs_no_mark():
    lake = Storage.of("s3://nowhere/x")  # which is not asked
    require_mark(lake)
    require_lake(lake)


def test_the_mark_is_no_data(tmp_path: Path):
    lake = write_night(tmp_path, DATE).lake
    require_mark(lake)
    assert lake.directories() == ["recommendations", "runs"]
    assert len(read_chain(lake)) == 1


# --- commands ---


def job(*words: str, **environment: str) -> tuple[int, str]:
    """The exit code of a command, and all that it says."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A config whose lake lies on a mount that is absent."""
    (tmp_path / "mnt").mkdir()
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(tiny_config("/nowhere/*.parquet", str(tmp_path / "mnt/lake"))))
    return str(path)


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [
        "jobs.nightly --config {config} --date 2024-03-01",
        "jobs.nightly --config {config} --date 2024-03-01 --dry-run",
        "jobs.prepare --config {config} --date 2024-03-01",
        "jobs.publish --config {config} --keep 3",
        "jobs.publish --config {config} --rollback-to 1",
        "jobs.backfill --config {config} --from 2024-03-01 --to 2024-03-02",
    ],
)
def test_a_command_that_writes_refuses_a_mount_that_is_absent(words, config, tmp_path: Path):
    command = words.format(config=config).split()
    code, said = job(*command)
    assert code == 2, said
    assert f"lake={tmp_path}/mnt/lake is no lake" in said
    assert shlex.join([*command, "--new-lake"]) in said
    assert list((tmp_path / "mnt").iterdir()) == []


@pytest.mark.process
def test_an_experiment_refuses_a_mount_that_is_absent_too(config, tmp_path: Path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("data: {toy: {date: 2024-03-01}}")
    code, said = job("jobs.experiment", "--config", config, "--grid", str(grid))
    assert code == 2 and "is no lake" in said and "--new-lake" in said, said


@pytest.mark.process
@pytest.mark.parametrize("option", ["--current", "--metrics", "--user=1"])
def test_showing_says_that_there_is_no_lake(option: str, tmp_path: Path):
    code, said = job("jobs.show", "--lake", f"{tmp_path}/mnt", option)
    assert code == 2 and f"lake={tmp_path}/mnt is no lake" in said, said


@pytest.mark.process
@pytest.mark.parametrize("words", [["--index"], []])
def test_a_report_is_written_into_no_absent_mount(words: list[str], tmp_path: Path):
    code, said = job("jobs.report", "--lake", f"{tmp_path}/mnt", *words)
    assert code == 2 and "is no lake" in said and "a night with --new-lake makes it" in said, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_with_new_lake_a_first_night_begins_and_the_next_needs_no_flag(config, tmp_path: Path):
    nights, lake = Nights(tmp_path, {}), tmp_path / "mnt/lake"
    values = yaml.safe_load(Path(config).read_text())
    assert nights.run(values, job="prepare")[0] == 3  # there is no log
    assert [path.name for path in lake.iterdir()] == [MARK]
    assert nights.run(values, job="prepare", new_lake=False)[0] == 3


@pytest.mark.process
def test_a_lake_that_goes_away_with_a_job_is_refused_before_it_is_marked(tmp_path: Path):
    path = tmp_path / "my.yaml"
    path.write_text("lake: passing\nevents: {path: /nowhere}")
    command = ["jobs.publish", "--config", str(path), "--keep", "3", "--new-lake"]
    code, said = job(*command, **{IN_A_JOB: "{}"})
    assert code == 2 and "lake=passing is relative" in said, said
    assert not (ROOT / "passing").exists()
