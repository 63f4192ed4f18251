"""The package that is installed: one name among those of others, and everything that it needs."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from sources import ROOT, python_files

from jobs.runner.identity import source_digest

pytestmark = pytest.mark.process

DATA = ("**/*.yaml", "report/templates/*", "schedules/*")
DIGEST = "from diffsasrec.jobs.runner.identity import source_digest as d; print(d())"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files of a wheel that is built from a copy of this checkout."""
    copy, wheels = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheels")
    for name in ("diffsasrec", "jobs"):
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=without)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, wheels], cwd=copy, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    directory = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def test_nothing_but_the_package_lies_among_those_of_others(installed: Path):
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {
        "diffsasrec"
    }


def test_all_sources_are_in_it_and_nothing_else(installed: Path):
    files = {path.relative_to(ROOT) for path in python_files("diffsasrec", "jobs")}
    here = {Path("diffsasrec") / path if path.parts[0] == "jobs" else path for path in files}
    assert {path.relative_to(installed) for path in installed.rglob("*.py")} == here


def test_templates_examples_schedules_and_the_mark_of_types_are_in_it(installed: Path):
    jobs = ROOT / "jobs"
    data = {path.relative_to(jobs) for pattern in DATA for path in jobs.glob(pattern)}
    data = {path for path in data if (jobs / path).is_file()}
    assert len(data) > 10
    assert [path for path in data if not (installed / "diffsasrec/jobs" / path).is_file()] == []
    assert (installed / "diffsasrec" / "py.typed").is_file()


def test_the_command_is_a_function_that_is_in_it(installed: Path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (metadata,) = installed.glob("*.dist-info")
    assert f"diffsasrec = {project['scripts']['diffsasrec']}" in (
        metadata / "entry_points.txt"
    ).read_text().replace("=", " = ").replace("  ", " ")


def call(installed: Path, code: str, *words: str) -> str:
    """What a piece of Python prints, with the installed package and none of the checkout."""
    command = [sys.executable, "-P", "-c", code, *words]
    done = subprocess.run(
        command, cwd=installed.parent, env={"PYTHONPATH": str(installed)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_an_installed_command_calls_itself_by_its_name(installed: Path):
    code = "from diffsasrec.jobs.runner.entry import main; main()"
    assert "usage: diffsasrec night [-h]" in call(installed, code, "night", "--help")
    assert "usage: diffsasrec benchmark [-h]" in call(installed, code, "benchmark", "--help")


def test_a_run_is_the_same_from_a_checkout_and_from_the_package(installed: Path):
    assert call(installed, DIGEST).strip() == source_digest()


def test_every_module_of_it_is_imported_without_a_package_named_jobs(installed: Path):
    code = (
        "import sys; from importlib import import_module\n"
        "for name in sys.argv[1:]: import_module(name)\n"
        "assert 'jobs' not in sys.modules"
    )
    modules = [
        ".".join(path.relative_to(installed).with_suffix("").parts)
        for path in (installed / "diffsasrec/jobs").rglob("*.py")
        if (path.parent / "__init__.py").is_file()
    ]
    call(installed, code, *modules)
