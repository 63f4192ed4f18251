"""The directory of a run: whose work a stage finds there, and what it may use of it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import OUTPUTS


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    lake = Storage.of(str(tmp_path))
    return RunDir(lake, ds="2024-03-01", run_id="r1", identity="ours", attempt="a1")


def fill(run: RunDir, stage: str) -> list[str]:
    """A whole stage: one file per output, two levels deep where the output is a directory."""
    run.begin(stage)
    names = [name if "." in name else f"{name}/epoch-1/file.bin" for name in OUTPUTS[stage]]
    for name in names:
        run.storage.write_bytes(name, b"work")
    run.finish(stage, {"rows": 3})
    return names


def left(run: RunDir) -> list[str]:
    return [info.path for info in run.storage.list() if not info.path.startswith("_stages/")]


def test_a_run_lies_below_its_date_and_id(run: RunDir, tmp_path: Path):
    run.storage.write_bytes("metrics.json", b"{}")
    assert run.path == "runs/ds=2024-03-01/r1"
    assert (tmp_path / "runs/ds=2024-03-01/r1/metrics.json").read_bytes() == b"{}"


def test_a_stage_has_no_record_before_it_finishes(run: RunDir):
    assert run.record("score") is None
    run.begin("score")
    assert run.record("score") is None


def test_a_finished_stage_gives_its_record_to_every_attempt(run: RunDir):
    run.begin("score")
    run.finish("score", {"rows": 3, "files": ["a"]})
    assert run.record("score") == {"rows": 3, "files": ["a"]}
    assert replace(run, attempt="a2").record("score") == {"rows": 3, "files": ["a"]}


def test_an_empty_record_is_a_record(run: RunDir):
    run.finish("score", {})
    assert run.record("score") == {}
    assert run.require("score") == {}


def test_a_record_counts_only_under_its_identity(run: RunDir):
    run.finish("score", {"rows": 3})
    assert replace(run, identity="other").record("score") is None
    assert run.record("score") == {"rows": 3}


def test_stages_are_done_one_by_one(run: RunDir):
    run.finish("prepare", {"rows": 1})
    assert run.record("pretrain") is None
    assert run.record("prepare") == {"rows": 1}


@pytest.mark.parametrize("stage", OUTPUTS)
def test_beginning_keeps_what_the_same_identity_left(run: RunDir, stage: str):
    names = fill(run, stage)
    replace(run, attempt="a2").begin(stage)
    assert left(run) == sorted(names)
    assert run.record(stage) == {"rows": 3}


@pytest.mark.parametrize("stage", OUTPUTS)
def test_beginning_removes_what_another_identity_left(run: RunDir, stage: str):
    fill(replace(run, identity="other"), stage)
    run.begin(stage)
    assert left(run) == []
    assert replace(run, identity="other").record(stage) is None


@pytest.mark.parametrize("stage", OUTPUTS)
def test_beginning_touches_no_other_stage(run: RunDir, stage: str):
    other = replace(run, identity="other")
    kept = [name for each in OUTPUTS if each != stage for name in fill(other, each)]
    fill(other, stage)
    run.begin(stage)
    assert left(run) == sorted(kept)
    assert [each for each in OUTPUTS if other.record(each)] == [s for s in OUTPUTS if s != stage]


def test_an_unfinished_stage_of_another_identity_is_removed_too(run: RunDir):
    replace(run, identity="other").begin("evaluate")
    run.storage.write_bytes("metrics.json", b"{}")
    run.begin("evaluate")
    assert left(run) == []


def test_work_after_another_identity_was_removed_is_kept(run: RunDir):
    fill(replace(run, identity="other"), "score")
    run.begin("score")
    run.storage.write_bytes("recommendations/part-00000.parquet", b"ours")
    run.begin("score")
    assert left(run) == ["recommendations/part-00000.parquet"]


def test_an_identity_that_comes_back_starts_anew(run: RunDir):
    fill(run, "score")
    replace(run, identity="other").begin("score")
    run.begin("score")
    assert run.record("score") is None


def test_requiring_a_done_stage_gives_its_record(run: RunDir):
    run.finish("refit", {"steps": 7})
    assert run.require("refit") == {"steps": 7}


def test_requiring_a_stage_that_is_not_done_names_it(run: RunDir):
    with pytest.raises(ConfigError, match=r"stage refit of run r1 for 2024-03-01 is not done.*"):
        run.require("refit")


def test_requiring_a_stage_of_another_identity_names_the_stage(run: RunDir):
    run.finish("refit", {"steps": 7})
    with pytest.raises(ConfigError, match="run stage refit with"):
        replace(run, identity="other").require("refit")


def test_json_does_not_depend_on_the_order_of_keys():
    first = to_json({"b": 1, "a": {"d": None, "c": [2, 1]}})
    assert first == to_json({"a": {"c": [2, 1], "d": None}, "b": 1})
    assert to_json({"b": 1, "a": 0.5}) == b'{\n "a": 0.5,\n "b": 1\n}\n'


def test_a_marker_has_the_same_bytes_whoever_writes_it(run: RunDir):
    run.finish("score", {"b": 1, "a": 2})
    first = run.storage.read_bytes("_stages/score.json")
    replace(run, attempt="a2").finish("score", {"a": 2, "b": 1})
    assert run.storage.read_bytes("_stages/score.json") == first


def test_sweeping_takes_old_unfinished_files_of_the_run_and_of_what_is_shown(
    run: RunDir, tmp_path: Path
):
    directories = (run.path, "recommendations/ds=2024-03-01", "runs/ds=2024-03-01/other")
    for directory in directories:
        for name in (".tmp-old", ".tmp-young", "kept"):
            run.lake.write_bytes(f"{directory}/{name}", b"x")
        os.utime(tmp_path / directory / ".tmp-old", (0, 0))
    run.sweep()
    left = {d: sorted(path.name for path in (tmp_path / d).iterdir()) for d in directories}
    assert left == {
        directories[0]: [".tmp-young", "kept"],
        directories[1]: [".tmp-young", "kept"],
        directories[2]: [".tmp-old", ".tmp-young", "kept"],
    }
