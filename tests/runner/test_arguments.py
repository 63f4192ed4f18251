"""The command lines: what they answer, and that they answer before anything slow is imported."""

import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.lake.stages import OUTPUTS, STAGES
from jobs.benchmark import __main__ as benchmark
from jobs.benchmark.arguments import MEASURES, STEPS
from jobs.faults.rig.nights import ROOT
from jobs.runner.arguments import parse_backfill, parse_stages

WINGS = ["benchmark", "experiment", "init", "report", "show", "submit"]
COMMANDS = ["nightly", "backfill", *STAGES, *WINGS]
SLOW = {"ray", "torch", "pandas", "pyarrow", "numpy", "scipy", "s3fs", "fsspec", "matplotlib"}


def ask(job: str, *words: str) -> tuple[int, str, set[str]]:
    """A command's exit code, all that it says, and the slow packages that it has imported."""
    command = [sys.executable, "-X", "importtime", "-m", f"jobs.{job}", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    imported = set(re.findall(r"^import time:.*\| +(\w+)", done.stderr, re.M))
    return done.returncode, done.stdout + "\n".join(said), imported & SLOW


def test_every_file_of_jobs_that_is_a_command_is_known():
    files = [path for path in (ROOT / "jobs").glob("*.py") if "__main__" in path.read_text()]
    wings = [path.parent for path in (ROOT / "jobs").glob("*/__main__.py")]
    assert sorted(path.stem for path in files + wings) == sorted(COMMANDS)


@pytest.mark.parametrize("job", COMMANDS)
def test_help_is_shown_before_anything_slow_is_imported(job: str):
    code, said, slow = ask(job, "--help")
    assert (code, slow) == (0, set())
    assert f"usage: python -m jobs.{job}" in said


WRONG = {
    "submit": ["--address", "head:8265", "--", "true"],
    "init": ["--sample", "log"],
    "report": [],
    "show": ["--lake", "lake"],
    "experiment": ["--config", "x.yaml"],
    "benchmark": ["speed"],
    "backfill": ["--config", "x.yaml", "--from", "yesterday", "--to", "2026-11-23"],
}


@pytest.mark.parametrize("job", COMMANDS)
def test_a_wrong_command_line_is_refused_before_anything_slow_is_imported(job: str):
    words = WRONG.get(job, ["--config", "x.yaml", "--date", "2026-13-01"])
    code, said, slow = ask(job, *words)
    assert (code, slow) == (2, set())
    assert f"python -m jobs.{job}: error: " in said


@pytest.mark.parametrize("job", ["nightly", "prepare", "publish"])
def test_a_wrong_config_is_refused_before_anything_slow_is_imported(job: str, tmp_path: Path):
    (tmp_path / "my.yaml").write_text("lake: lake\nevents: {path: log}\nscore: {kk: 5}\n")
    code, said, slow = ask(job, "--config", str(tmp_path / "my.yaml"), "--date", "2026-11-23")
    assert (code, slow) == (2, set())
    assert '"error": "unknown config key score.kk; did you mean score.k?"' in said
    code, said, slow = ask(job, "--config", str(tmp_path / "none"), "--date", "2026-11-23")
    assert (code, slow) == (2, set())
    assert "can't be read: No such file or directory" in said


def test_the_resolved_config_is_printed_before_anything_slow_is_imported(tmp_path: Path):
    (tmp_path / "my.yaml").write_text("lake: lake\nevents: {path: log}\n")
    words = ["--config", str(tmp_path / "my.yaml"), "--date", "2026-11-23", "--print-config"]
    code, said, slow = ask("nightly", *words)
    assert (code, slow) == (0, set())
    assert "  users_per_bucket: 20000\n" in said and "\n# sha256 " in said


@pytest.mark.parametrize(
    ("modules", "slow"),
    [
        ("jobs.runner.main, jobs.backfill, jobs.show.__main__", "ray torch pandas scipy"),
        ("jobs.init.__main__", "ray torch scipy"),  # it tries times by pandas
    ],
)
def test_what_ends_before_a_stage_begins_waits_for_nothing_slow(modules: str, slow: str):
    code = f"import sys, {modules}; print({{*{slow.split()}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    "text", ["2026-13-01", "2026-02-30", "20261123", "2026-W47-1", "23.11.2026", "", "today"]
)
def test_a_date_that_is_none_is_said_in_words(text: str, capsys):
    with pytest.raises(SystemExit):
        parse_stages(STAGES, ["--config", "x.yaml", f"--date={text}"])
    assert f"--date: {text}: no date; write it as YYYY-MM-DD" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_backfill(["--config", "x.yaml", "--from", "2026-11-01", f"--to={text}"])
    assert f"--to: {text}: no date; write it as YYYY-MM-DD" in capsys.readouterr().err


def test_a_date_that_is_missing_or_means_nothing_is_said_in_words(capsys):
    with pytest.raises(SystemExit):
        parse_stages(STAGES, ["--config", "x.yaml"])
    assert (
        "--date is missing: the run date YYYY-MM-DD, exclusive: events" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        parse_stages(("publish",), ["--config", "x.yaml", "--date=2026-11-23", "--keep=3"])
    assert "--date: --keep is about the whole lake and has none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_backfill(["--config", "x.yaml", "--from", "2026-11-03", "--to", "2026-11-01"])
    assert "--from 2026-11-03 is after --to 2026-11-01" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--keep=3", "--dry-run"], ["--rollback-to=1", "--run-id=r"]])
def test_what_means_nothing_to_the_whole_lake_is_refused(words: list[str], capsys):
    with pytest.raises(SystemExit):
        parse_stages(("publish",), ["--config", "x.yaml", *words])
    assert "acts on the lake at once; leave one of them out" in capsys.readouterr().err


def test_a_good_command_line_is_what_it_says():
    words = ["--config", "x.yaml", "--date", "2026-11-23", "--stages", "publish,score"]
    arguments = parse_stages(STAGES, words)
    assert (arguments.date, arguments.stages) == (date(2026, 11, 23), ("score", "publish"))
    arguments = parse_stages(("publish",), ["--config", "x.yaml", "--rollback-to", "7"])
    assert (arguments.date, arguments.rollback_to) == (None, 7)


def test_what_stands_twice_so_that_nothing_slow_is_imported_is_the_same():
    assert tuple(OUTPUTS) == STAGES
    assert DecodingConfig().steps == STEPS
    assert {
        name: (measure.__doc__ or "").splitlines()[0]
        for name, measure in benchmark.MEASURES.items()
    } == MEASURES
