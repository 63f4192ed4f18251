"""The command `diffsasrec`: its words are the jobs; it answers before anything slow is imported."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sources import ROOT

import jobs
from diffsasrec.config.load import leaf_keys
from diffsasrec.lake.stages import STAGES
from jobs.runner import entry

SLOW = {"ray", "torch", "pandas", "pyarrow", "numpy", "scipy", "s3fs", "fsspec", "matplotlib"}
CALL = "import sys; sys.argv[0] = 'bin/diffsasrec'; from jobs.runner.entry import main; main()"
pytestmark = pytest.mark.process

JOBS = [word for word in entry.COMMANDS if word != "schema"]


def ask(*words: str, directory: Path = ROOT) -> tuple[int, str, str, set[str]]:
    """Exit code, what it prints, what it says besides, and the slow packages it has imported."""
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-c", CALL, *words],
        cwd=directory,
        env={**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    imported = set(re.findall(r"^import time:.*\| +(\w+)", done.stderr, re.M))
    return done.returncode, done.stdout, "\n".join(said), imported & SLOW


def test_every_job_has_a_word():
    files = [path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem != "__init__"]
    wings = [path.parent.name for path in (ROOT / "jobs").glob("*/__main__.py")]
    assert sorted(JOBS) == sorted(["night", *{*files, *wings} - {"nightly"}])
    assert set(STAGES) <= set(JOBS)


def test_help_tells_each_word_in_one_line_of_a_narrow_terminal():
    code, printed, _, slow = ask("--help")
    assert (code, slow) == (0, set())
    for word, text in entry.COMMANDS.items():
        (line,) = re.findall(rf"^  {word} .*$", printed, re.M)
        assert line.split(maxsplit=1) == [word, text] and len(line) < 80


def test_the_version_is_that_of_the_package():
    code, printed, _, slow = ask("--version")
    assert (code, slow) == (0, set())
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None and printed == f"diffsasrec {version[1]}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a command; --help lists them"),
        (["nite", "--config", "x.yaml"], "invalid choice: 'nite' (choose from "),
        (["--nite"], "unrecognized arguments: --nite"),
        (["schema", "x"], "diffsasrec schema: error: unrecognized arguments: x"),
    ],
)
def test_wrong_words_are_refused_before_anything_slow_is_imported(words: list[str], said: str):
    code, printed, error, slow = ask(*words)
    assert (code, printed, slow) == (2, "", set())
    assert said in error


@pytest.mark.parametrize("word", JOBS)
def test_a_word_leaves_the_rest_to_its_job(word: str):
    code, printed, _, slow = ask(word, "--help")
    assert (code, slow) == (0, set())
    job = "nightly" if word == "night" else word
    assert f"usage: python -m jobs.{job}" in printed  # as from a checkout, in which this runs


def test_what_a_job_tells_to_call_again_begins_with_the_command(tmp_path: Path):
    (tmp_path / "my.yaml").write_text(f"lake: {tmp_path}/lake\nevents: {{path: log}}\n")
    words = ["publish", "--config", f"{tmp_path}/my.yaml", "--keep", "3"]
    code, printed, _, _ = ask(*words)
    last = json.loads(printed)
    assert (code, last["status"]) == (2, "failed")
    assert last["error"].endswith(shlex.join(["diffsasrec", *words, "--new-lake"]))


def test_another_copy_of_the_package_here_is_refused(tmp_path: Path):
    (tmp_path / "diffsasrec").mkdir()
    assert ask("night", "--help", directory=tmp_path)[0] == 0
    (tmp_path / "diffsasrec" / "__init__.py").write_text("")
    code, printed, error, slow = ask("night", "--help", directory=tmp_path)
    assert (code, printed, slow) == (2, "", set())
    assert f"diffsasrec: error: {tmp_path}/diffsasrec is another copy of this package" in error


def test_the_schema_has_every_key_of_the_configuration():
    code, printed, _, slow = ask("schema")
    assert (code, slow) == (0, set())
    schema = json.loads(printed)
    for key, field in leaf_keys():
        node = schema
        for name in key.split("."):
            reference = node.get("$ref") or next(
                (one["$ref"] for one in node.get("anyOf", ()) if "$ref" in one), None
            )
            if reference is not None:
                node = schema["$defs"][reference.rpartition("/")[2]]
            node = node["properties"][name]
        assert node["description"] == field.description, key


def test_a_job_is_called_as_a_module_in_a_checkout_and_by_the_command_elsewhere(monkeypatch):
    assert jobs.called("publish") == "python -m jobs.publish"
    monkeypatch.setattr(jobs, "__name__", "diffsasrec.jobs")
    assert jobs.called("publish") == "diffsasrec publish"
    assert jobs.called("nightly") == "diffsasrec night"
